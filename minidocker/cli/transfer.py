"""`minidocker pull` and `push`: images from and to a registry."""

from __future__ import annotations

from minidocker.cli.options import parse
from minidocker.images.reference import parse as parse_name
from minidocker.images.store import Store


def pull(arguments: list[str]) -> int:
    """pull [OPTIONS] NAME[:TAG|@DIGEST]: bring an image from a registry

    -q, --quiet               print its name only
        --platform PLATFORM   e.g. linux/arm64: by default, what this machine can execute
    """
    from minidocker.images.registry import transfer

    options, (name,) = parse(pull.__doc__, arguments, 1, 1)
    full, show = parse_name(name), None if options.quiet else transfer.on_stderr
    if show:
        show(f"{full.tag or full.digest}: Pulling from {full.repository}")
    image = transfer.pull(Store(), name, options.platform, show)
    if show:
        print(f"Digest: {image.descriptor['digest']}")
    print(full)
    return 0


def fetch(name: str) -> None:
    """Pull what `run` does not find. Nothing of it on standard output, which is the container's."""
    from minidocker.images.registry import transfer

    transfer.on_stderr(f"{name}: Pulling from {parse_name(name).registry}")
    transfer.pull(Store(), name, "", transfer.on_stderr)


def push(arguments: list[str]) -> int:
    """push [OPTIONS] NAME[:TAG]: bring an image to the registry that its name begins with

    -q, --quiet   print its name only
    """
    from minidocker.images.registry import transfer

    options, (name,) = parse(push.__doc__, arguments, 1, 1)
    full, show = parse_name(name), None if options.quiet else transfer.on_stderr
    if show:
        show(f"The push refers to repository [{full.registry}/{full.repository}]")
    descriptor = transfer.push(Store(), name, show)
    print(f"{full.tag}: digest: {descriptor['digest']} size: {descriptor['size']}" if show else full)
    return 0
