"""The verbs about images that are here: images, history, inspect, tag, rmi, image prune."""

from __future__ import annotations

import json

from minidocker.cli.options import parse
from minidocker.images import garbage, image
from minidocker.images.image import Image, find
from minidocker.images.reference import parse as parse_reference
from minidocker.images.store import Store
from minidocker.outcome import ContainerError

UNITS_OF_TIME = {
    "year": 31536000,
    "month": 2592000,
    "week": 604800,
    "day": 86400,
    "hour": 3600,
    "minute": 60,
    "second": 1,
}
SHORT = len("sha256:") + 12  # so many characters of an ID, of which the first seven are cut off


def images(arguments: list[str]) -> int:
    """images [OPTIONS] [NAME]: list the images

    -q, --quiet    only their IDs
        --digests  and the digest of the manifest, which `pull NAME@DIGEST` takes
        --no-trunc  IDs in full
    """
    options, words = parse(images.__doc__, arguments, 0, 1)
    rows = [["REPOSITORY", "TAG", *(["DIGEST"] if options.digests else []), "IMAGE ID", "CREATED", "SIZE"]]
    for name, tag, found in _named(Store(), words):
        identity = found.id if options.no_trunc else found.id[7:SHORT]
        digest = [found.descriptor["digest"]] if options.digests else []
        rows.append([name, tag, *digest, identity, age(found.config.get("created")), human(found.size)])
    if options.quiet:
        print(*dict.fromkeys(row[-3] for row in rows[1:]), sep="\n", end="\n" if rows[1:] else "")
    else:
        table(rows)
    return 0


def _named(store: Store, words: list[str]) -> list[tuple[str, str, Image]]:
    """(repository, tag, image), the youngest first; an image without a name has <none> for both."""
    names: dict[str, list[str]] = {}
    for full, entry in store.tags().items():
        names.setdefault(entry["digest"], []).append(full)
    found = []
    for one in image.images(store):
        for full in names.get(one.descriptor["digest"], [""]):
            reference = parse_reference(full) if full else None
            found.append((reference.name if reference else "<none>", reference.tag if reference else "<none>", one))
    wanted = parse_reference(words[0]) if words else None
    if wanted:
        found = [row for row in found if row[0] == wanted.name and (":" not in words[0] or row[1] == wanted.tag)]
    return sorted(found, key=lambda row: row[2].config.get("created") or "", reverse=True)


def history(arguments: list[str]) -> int:
    """history [OPTIONS] IMAGE: show the steps that made an image, the last one first

    --no-trunc  commands in full
    """
    options, (name,) = parse(history.__doc__, arguments, 1, 1)
    found = find(Store(), name)
    sizes = iter(layer["size"] for layer in found.manifest["layers"])
    rows = []
    for step in found.config.get("history") or []:
        size = 0 if step.get("empty_layer") else next(sizes, 0)
        command = " ".join((step.get("created_by") or "").split())
        if len(command) > 45 and not options.no_trunc:
            command = f"{command[:44]}…"
        rows.append(["<missing>", age(step.get("created")), command, human(size), step.get("comment") or ""])
    rows = rows[::-1]
    if rows:
        rows[0][0] = found.id[7:SHORT]
    table([["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"], *rows])
    return 0


def inspect(arguments: list[str]) -> int:
    """inspect IMAGE...: print all that is known of images, as JSON"""
    _, words = parse(inspect.__doc__, arguments, 1)
    store = Store()
    found = [find(store, word) for word in words]
    print(json.dumps([_description(store, one) for one in found], indent=4))
    return 0


def _description(store: Store, found: Image) -> dict[str, object]:
    """The keys that Docker's has, as far as they mean something here."""
    digest = found.descriptor["digest"]
    names = [parse_reference(full) for full, entry in store.tags().items() if entry["digest"] == digest]
    return {
        "Id": found.id,
        "RepoTags": [name.familiar for name in names],
        "RepoDigests": [f"{name.name}@{digest}" for name in names],
        "Created": found.config.get("created"),
        "Author": found.config.get("author", ""),
        "Config": found.config["config"],
        "Architecture": found.config.get("architecture"),
        "Os": found.config.get("os"),
        "Size": found.size,
        "RootFS": {"Type": "layers", "Layers": found.diff_ids},
    }


def tag(arguments: list[str]) -> int:
    """tag IMAGE NAME[:TAG]: give an image another name"""
    _, (old, new) = parse(tag.__doc__, arguments, 2, 2)
    store = Store()
    store.tag(new, find(store, old).descriptor)
    return 0


def rmi(arguments: list[str]) -> int:
    """rmi [OPTIONS] IMAGE...: remove names of images, and with its last name the image

    -f, --force  remove an image by its ID with all its names
    """
    options, words = parse(rmi.__doc__, arguments, 1)
    store, status = Store(), 0
    for word in words:
        try:
            print(*image.remove(store, word, options.force), sep="\n")
        except ContainerError as failure:
            from minidocker.cli import complain

            status = complain(str(failure), 1)
    return status


def image_prune(arguments: list[str]) -> int:
    """image prune [OPTIONS]: remove images without a name, and what nothing needs

    -a, --all  all images that no container uses
    -f, --force  do not ask (it never does)
    """
    options, _ = parse(image_prune.__doc__, arguments, 0, 0)
    store = Store()
    named = set() if options.all else {entry["digest"] for entry in store.tags().values()}
    for entry in store.entries():
        if entry["digest"] not in named:
            store.forget(entry["digest"])
    print("Total reclaimed space:", human(garbage.collect(store)))
    return 0


def table(rows: list[list[str]]) -> None:
    """Columns as wide as their widest cell, with three blanks between them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def human(size: float) -> str:
    """Bytes in three digits and a decimal unit, as Docker prints them."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 1000 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:.3g}{unit}"


def age(created: str | None) -> str:
    """How long ago a time of RFC 3339 is. Images that are made reproducibly have none."""
    import datetime

    try:
        then = datetime.datetime.fromisoformat(created or "")
        now = datetime.datetime.now(datetime.UTC)
        seconds = (now - then).total_seconds()
    except (ValueError, TypeError):
        return "N/A"
    for unit, length in UNITS_OF_TIME.items():
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}s ago"
    return "Just now"
