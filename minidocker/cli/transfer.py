"""`minidocker pull` and `push`: images from and to a registry."""

from __future__ import annotations

from minidocker.cli.options import parse
from minidocker.images.progress import Progress
from minidocker.images.reference import parse as parse_name
from minidocker.images.store import Store


def pull(arguments: list[str]) -> int:
    """pull [OPTIONS] NAME[:TAG|@DIGEST]: bring an image from a registry

    -q, --quiet               print its name only
        --platform PLATFORM   e.g. linux/arm64: by default, what this machine can execute
    """
    from minidocker.images.transfer import pull as fetch_

    options, (name,) = parse(pull.__doc__, arguments, 1, 1)
    full = parse_name(name)
    with Progress(options.quiet) as progress:
        progress.line(f"{full.tag or full.digest}: Pulling from {full.repository}")
        image = fetch_(Store(), name, options.platform, progress)
    if not options.quiet:
        print(f"Digest: {image.descriptor['digest']}")
    print(full)
    return 0


def fetch(name: str) -> None:
    """Pull what `run` does not find. Nothing of it on standard output, which is the container's."""
    from minidocker.images.transfer import pull as fetch_

    with Progress() as progress:
        progress.line(f"{name}: Pulling from {parse_name(name).registry}")
        fetch_(Store(), name, "", progress)


def push(arguments: list[str]) -> int:
    """push [OPTIONS] NAME[:TAG]: bring an image to the registry that its name begins with

    -q, --quiet   print its name only
    """
    from minidocker.images.transfer import push as send

    options, (name,) = parse(push.__doc__, arguments, 1, 1)
    full = parse_name(name)
    with Progress(options.quiet) as progress:
        progress.line(f"The push refers to repository [{full.registry}/{full.repository}]")
        descriptor = send(Store(), name, progress)
    if options.quiet:
        print(full)
    else:
        print(f"{full.tag}: digest: {descriptor['digest']} size: {descriptor['size']}")
    return 0
