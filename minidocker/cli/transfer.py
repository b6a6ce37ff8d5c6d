"""Images from elsewhere, and to there: Dockerfiles (build), registries (pull, push), archives (save, load and all)."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from minidocker.cli import Options, end_in_order, module, variables
from minidocker.engine import records
from minidocker.images.image import find
from minidocker.images.manifest import parse as parse_name
from minidocker.images.store import Store
from minidocker.outcome import ContainerError
from minidocker.syscalls import Any, signal

ARCHIVE, TRANSFER = "images.archive", "images.transfer"  # with what a build out of the cache does not need


def build(options: Options, directory: str) -> None:
    """build [OPTIONS] DIRECTORY|-: make an image out of a Dockerfile

    -t, --tag NAME...            a name for the image; may be given several times
    -f, --file FILE              the Dockerfile, by default DIRECTORY/Dockerfile; - is the standard input
        --build-arg NAME[=VALUE]...  a value for an ARG; without one, what the variable is here
        --label NAME=VALUE...    a label for the image
        --target STAGE           stop at this stage
        --pull                   ask registries for images that are here, too
        --no-cache               make all anew
        --network NAME           for RUN: bridge (the default), none, host, or one that network create made
        --progress STYLE         plain; auto and tty are the same
        --secret id=NAME,src=FILE...  for RUN --mount=type=secret; or id=NAME,env=VARIABLE
    -q, --quiet                  say nothing but the image's ID
    """
    from minidocker import volumes
    from minidocker.images.build.dockerfile import parse as read
    from minidocker.images.build.executor import build as make
    from minidocker.images.build.mounts import Mounts
    from minidocker.images.build.sources import received, secrets

    given = variables("--build-arg", options.build_arg)
    network, wired, wires = _wiring(options)
    end_in_order(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, undisturbed=("start", "run"))
    store = Store(show=not options.quiet)
    with received(store, directory, options.file) as (context, text, ignore):
        image = make(
            store,
            read(text),
            context,
            ignore=ignore,
            tags=options.tag,
            target=options.target,
            arguments=dict(word.split("=", 1) for word in given if "=" in word),
            network=network,
            wired=wired,
            mounts=partial(Mounts, volumes=volumes, secrets=secrets(options.secret)),
            pull=options.pull,
            labels=dict(word.partition("=")[::2] for word in options.label),
            cached=not options.no_cache,
            output=os.open(os.devnull, os.O_WRONLY) if options.quiet else sys.stderr.fileno(),
        )
    for warning in (text for wire in wires for text in wire.warnings):
        module("cli.asked").once(f"warning: {warning}")
    if options.quiet:
        print(image.id)
        return
    print(f"Successfully built {image.id.removeprefix('sha256:')[:12]}", file=sys.stderr)
    for tag in options.tag:
        print(f"Successfully tagged {tag}", file=sys.stderr)


def _wiring(options: Options) -> tuple[str, Any, list[Any]]:
    """The network of RUN, what makes it anew for each, and a list that will have all that it made."""
    name, made = options.network.removeprefix("default") or "bridge", list[Any]()
    if name in ("none", "host"):
        return name, None, made
    like = Options(module("cli.run").run.__doc__ or "")
    like["network"], like["hostname"], like.given = name, "build", options.given & {"network"}
    maker = module("cli.asked").network(like)

    def wired(root: str) -> Any:
        made.append(maker(root))
        return made[-1]

    return ("none", None, made) if maker == "none" else (name, wired, made)


def pull(options: Options, name: str) -> None:
    """pull [OPTIONS] NAME[:TAG|@DIGEST]: bring an image from a registry

    -q, --quiet               print its name only
        --platform PLATFORM   e.g. linux/arm64: by default, what this machine can execute
    """
    full, show = parse_name(name), not options.quiet
    if show:
        print(f"{full.tag or full.digest}: Pulling from {full.repository}", file=sys.stderr)
    image = module(TRANSFER).pull(Store(show=show), name, options.platform, show)
    if show:
        print(f"Digest: {image.descriptor['digest']}")
    print(full)


def push(options: Options, name: str) -> None:
    """push [OPTIONS] NAME[:TAG]: bring an image to the registry that its name begins with

    -q, --quiet   print its name only
    """
    full, show = parse_name(name), not options.quiet
    if show:
        print(f"The push refers to repository [{full.registry}/{full.repository}]", file=sys.stderr)
    descriptor = module(TRANSFER).push(Store(), name, show)
    print(f"{full.tag}: digest: {descriptor['digest']} size: {descriptor['size']}" if show else full)


def save(options: Options, *names: str) -> None:
    """save [OPTIONS] IMAGE...: write images to an archive, for minidocker load, Docker, Podman or skopeo

    -o, --output FILE   write to a file, and not to standard output
    """
    with _output(options.output) as stream:
        module(ARCHIVE).save(Store(show=True), list(names), stream)


def load(options: Options) -> None:
    """load [OPTIONS]: bring images from an archive that minidocker save, Docker, Podman or skopeo wrote

    -i, --input FILE   read a file, and not standard input
    -q, --quiet        do not say what was loaded
    """
    with _source(options.input or "-") as stream:
        found = module(ARCHIVE).load(Store(show=not options.quiet), stream.fileno(), options.input or "standard input")
    for name in found if not options.quiet else []:
        print(f"Loaded image{' ID' if name.startswith('sha256:') else ''}: {name}")


def import_(options: Options, path: str, name: str = "") -> None:
    """import [OPTIONS] FILE|- [NAME[:TAG]]: make an image of the files in a tar

    -c, --change INSTRUCTION...   set a part of its config, as a Dockerfile does: 'CMD ["sh"]'
    -m, --message TEXT            what its history says
    """
    with _source(path) as stream:
        comment = options.message or f"Imported from {path}"
        print(module(ARCHIVE).import_(Store(show=True), stream.fileno(), name, options.change, comment).id)


def export(options: Options, name: str) -> None:
    """export [OPTIONS] NAME: write the files of a container, or of an image, to a tar: without volumes

    -o, --output FILE   write to a file, and not to standard output
    """
    upper = ""
    with contextlib.suppress(records.NoSuchContainer):
        record = records.find(name)
        name, upper = record.config["image_id"], f"{record.path}/upper"
    image = find(Store(), name)
    with _output(options.output) as stream:
        module(ARCHIVE).export(image, stream.fileno(), upper)


@contextlib.contextmanager
def _output(path: str) -> Iterator[BinaryIO]:
    """The file at this path, there only if it is complete; or standard output, unless that is a terminal."""
    if not path and sys.stdout.isatty():
        raise ContainerError("an archive does not belong on a terminal: use -o FILE, or a pipe")
    whole = path and (os.path.isfile(path) or not os.path.exists(path))  # else a device, a pipe: written to as it is
    temporary = f"{path}.{os.urandom(4).hex()}" if whole else path
    try:
        with open(temporary or 1, "wb", closefd=bool(path)) as stream:
            yield stream
        if whole:
            os.replace(temporary, path)
    finally:
        if whole:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _source(path: str) -> BinaryIO:
    """The file, or for "-" standard input."""
    if path == "-" and sys.stdin.isatty():
        raise ContainerError("it would read an archive from the terminal: name a file, or use a pipe")
    return open(0 if path == "-" else path, "rb", closefd=path != "-")
