"""`minidocker build`: an image out of a Dockerfile and the files beside it, with Docker's flags."""

from __future__ import annotations

import os
import sys

from minidocker.cli.options import parse
from minidocker.outcome import ContainerError
from minidocker.syscalls import signal

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidocker.images.build.patterns import Ignore


def build(arguments: list[str]) -> int:
    """build [OPTIONS] DIRECTORY: make an image out of a Dockerfile

    -t, --tag NAME...            a name for the image; may be given several times
    -f, --file FILE              the Dockerfile, by default DIRECTORY/Dockerfile; - is the standard input
        --build-arg NAME[=VALUE]...  a value for an ARG; without one, what the variable is here
        --target STAGE           stop at this stage
        --no-cache               make all anew
        --network NAME           for RUN: none (the default), or host
    -q, --quiet                  say nothing but the image's ID
    """
    options, (directory,) = parse(build.__doc__, arguments, 1, 1)
    from minidocker.images.build.config import from_words
    from minidocker.images.build.dockerfile import parse as read
    from minidocker.images.build.executor import build as make
    from minidocker.images.store import Store

    if not os.path.isdir(directory):
        raise ContainerError(f"{directory} is not a directory: a build takes its files from one", exit_code=1)
    text, ignore = _files(directory, options.file)
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup(1)
            signal.signal(number, _end)
    image = make(
        Store(),
        read(text),
        directory,
        ignore=ignore,
        tags=options.tag,
        target=options.target,
        arguments=from_words(options.build_arg),
        network=options.network or "none",
        cached=not options.no_cache,
        show=_nothing if options.quiet else _show,
    )
    if options.quiet:
        print(image.id)
        return 0
    _show(f"Successfully built {image.id.removeprefix('sha256:')[:12]}\n")
    for tag in options.tag:
        _show(f"Successfully tagged {tag}\n")
    return 0


def _end(number: int, _: object) -> None:
    """A build ends as by an error: all that holds something lets go of it, and no further signal disturbs that."""
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _files(directory: str, name: str) -> tuple[str, Ignore]:
    """The text of the Dockerfile, and the rules of FILE.dockerignore, or else of DIRECTORY/.dockerignore."""
    from minidocker.images.build.patterns import Ignore

    path = name or os.path.join(directory, "Dockerfile")
    try:
        if path == "-":
            text = sys.stdin.buffer.read().decode()
        else:
            with open(path, encoding="utf-8", newline="") as file:
                text = file.read()
        for candidate in (f"{path}.dockerignore", os.path.join(directory, ".dockerignore")):
            if os.path.isfile(candidate):
                with open(candidate, encoding="utf-8", newline="") as file:
                    return text, Ignore(file.read())
    except UnicodeDecodeError as wrong:
        raise ContainerError(f"{path}: it is not text in UTF-8: {wrong.reason}", exit_code=1) from None
    except OSError as refused:
        raise ContainerError(f"{refused.filename}: {refused.strerror}", exit_code=1) from None
    except ValueError as wrong:
        raise ContainerError(f"{candidate}: {wrong}", exit_code=1) from None
    return text, Ignore()


def _show(text: str) -> None:
    """What happens goes to standard error, as it comes."""
    sys.stderr.write(text)
    sys.stderr.flush()


def _nothing(text: str) -> None:
    pass
