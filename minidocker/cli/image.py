"""The verbs about images that are here: images, history, inspect, tag, rmi, image prune."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence

from minidocker.cli.nouns import each, human, table
from minidocker.cli.options import Options
from minidocker.images import image
from minidocker.images.image import Image, find
from minidocker.images.reference import parse as parse_reference
from minidocker.images.store import Store

HOUR, DAY = 3600, 86400
UNITS = {"year": 365 * DAY, "month": 30 * DAY, "week": 7 * DAY, "day": DAY, "hour": HOUR, "minute": 60, "second": 1}
SHORT = len("sha256:") + 12  # so many characters of an ID, of which the first seven are cut off


def images(options: Options, *words: str) -> None:
    """images [OPTIONS] [NAME]: list the images

    -q, --quiet    only their IDs
        --digests  and the digest of the manifest, which `pull NAME@DIGEST` takes
        --no-trunc  IDs in full
    """
    rows = [["REPOSITORY", "TAG", *(["DIGEST"] if options.digests else []), "IMAGE ID", "CREATED", "SIZE"]]
    for name, tag, found in _named(Store(), words):
        identity = found.id if options.no_trunc else found.id[7:SHORT]
        digest = [found.descriptor["digest"]] if options.digests else []
        rows.append([name, tag, *digest, identity, age(found.config.get("created")), human(found.size)])
    if options.quiet:
        print(*dict.fromkeys(row[-3] for row in rows[1:]), sep="\n", end="\n" if rows[1:] else "")
    else:
        table(rows)


def _named(store: Store, words: Sequence[str]) -> list[tuple[str, str, Image]]:
    """(repository, tag, image), the youngest first; an image without a name has <none> for both."""
    found, tags = [], store.tags().items()
    for one in image.images(store):
        names = [parse_reference(full) for full, entry in tags if entry["digest"] == one.descriptor["digest"]]
        found += [(name.name, name.tag, one) for name in names] or [("<none>", "<none>", one)]
    if words:
        wanted = parse_reference(words[0])
        found = [row for row in found if row[0] == wanted.name and (":" not in words[0] or row[1] == wanted.tag)]
    return sorted(found, key=lambda row: row[2].config.get("created") or "", reverse=True)


def history(options: Options, name: str) -> None:
    """history [OPTIONS] IMAGE: show the steps that made an image, the last one first

    --no-trunc  commands in full
    """
    found = find(Store(), name)
    sizes = iter(layer["size"] for layer in found.manifest["layers"])
    rows = []
    for step in found.config.get("history") or []:
        size = 0 if step.get("empty_layer") else next(sizes, 0)
        command = " ".join((step.get("created_by") or "").split())
        command = command if len(command) < 46 or options.no_trunc else f"{command[:44]}…"
        rows.append(["<missing>", age(step.get("created")), command, human(size), step.get("comment") or ""])
    rows = rows[::-1]
    if rows:
        rows[0][0] = found.id[7:SHORT]
    table([["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"], *rows])


def inspect(_: Options, *words: str) -> None:
    """inspect IMAGE...: print all that is known of images, as JSON"""
    store = Store()
    print(json.dumps([_description(store, find(store, word)) for word in words], indent=4))


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


def tag(_: Options, old: str, new: str) -> None:
    """tag IMAGE NAME[:TAG]: give an image another name"""
    store = Store()
    store.tag(new, find(store, old).descriptor)


def rmi(options: Options, *words: str) -> int:
    """rmi [OPTIONS] IMAGE...: remove names of images, and with its last name the image

    -f, --force  remove an image by its ID with all its names
    """
    store = Store()
    return each(words, lambda word: "\n".join(image.remove(store, word, options.force)))


def image_prune(options: Options) -> None:
    """image prune [OPTIONS]: remove images without a name, and what nothing needs

    -a, --all  all images that no container uses
    -f, --force  do not ask (it never does)
    """
    store = Store()
    print("Total reclaimed space:", human(image.prune(store, options.all)))


def age(created: str | None) -> str:
    """How long ago a time of RFC 3339 is. Images that are made reproducibly have none."""
    try:
        then = datetime.datetime.fromisoformat(created or "")
        seconds = (datetime.datetime.now(datetime.UTC) - then).total_seconds()
    except (ValueError, TypeError):
        return "N/A"
    for unit, length in UNITS.items():
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}s ago"
    return "Just now"
