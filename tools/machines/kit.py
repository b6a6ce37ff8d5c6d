"""Gather all that set-up needs into a folder, for machines without a network: `make kit`.

    python -m tools.machines.kit [FOLDER]   FOLDER/bookworm-amd64, from this machine's release and architecture

    debs/       the Debian packages with all that they depend on, and an index that apt reads
    wheels/     the Python packages of requirements.lock, for Python 3.11, 3.12 and 3.13
    *.tar.gz    the root file systems, and the machines of chapter 8
    images.tar  the images
    complete    written last

`KIT=FOLDER sh vagrant/provision.sh` installs from it. A folder may hold the kits of several releases and architectures,
each made on such a machine. A Vagrant box in build/box (make box) is put beside them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.machines import disk
from tools.machines.disk import ARCHITECTURE, HOME, REPO, run

PYTHONS = ("3.11", "3.12", "3.13")
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}[ARCHITECTURE]
PLATFORMS = [f"manylinux{tag}_{MACHINE}" for tag in ("_2_34", "_2_28", "_2_17", "2014", "_2_12", "_2_5", "1")]
FIELDS = ("Package", "Version", "Architecture", "Multi-Arch", "Essential", "Priority", "Section", "Provides", "Depends")
FIELDS += ("Pre-Depends", "Recommends", "Suggests", "Conflicts", "Breaks", "Replaces", "Source", "Description")


def sources() -> str:
    """The release's own sources on this machine, with its updates: what somebody else added is left out."""
    form = "$(ORIGIN)|$(CODENAME)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)|$(SIGNED_BY)"
    release = disk.release(disk.source())
    lines = []
    for line in run("apt-get", "indextargets", "--format", form, "Created-By: Packages").splitlines():
        origin, codename, suite, component, uri, keyring = line.split("|")
        if origin in ("Debian", "Ubuntu") and codename.partition("-")[0] == release:
            signed = f"[signed-by={keyring}] " if keyring.startswith("/") else ""
            lines.append(f"deb {signed}{uri} {suite if suite.startswith(codename) else codename} {component}")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def packages(place: Path) -> None:
    """Every package that set-up wants, with all of its dependencies, whatever is installed here; and their index."""
    with tempfile.TemporaryDirectory() as directory:
        state = Path(directory)
        (state / "lists/partial").mkdir(parents=True)
        (state / "archives/partial").mkdir(parents=True)
        (state / "status").touch()  # of a machine with nothing on it
        (state / "sources").write_text(sources())
        options = {
            "Dir::State::status": state / "status",
            "Dir::State::Lists": state / "lists",
            "Dir::Cache": state,
            "Dir::Etc::SourceList": state / "sources",
            "Dir::Etc::SourceParts": "/dev/null",
            "APT::Sandbox::User": "root",
            "Debug::NoLocking": "true",
            "Dir::Etc::Parts": "/dev/null",
        }
        apt = ["apt-get", "-q", "-y", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
        run(*apt, "update")
        always, extra = disk.packages()
        names = [*always, *(name for name in extra if known(name, apt))]
        run(*apt, "install", "--download-only", "--no-install-recommends", *names)
        place.mkdir()
        for package in Path(state, "archives").glob("*.deb"):
            shutil.move(package, place / package.name.replace("%3a", "_"))
    (place / "Packages").write_text("\n".join(map(stanza, sorted(place.glob("*.deb")))))


def known(name: str, apt: list[str]) -> bool:
    """Whether apt has this package."""
    simulated = subprocess.run([*apt, "install", "--simulate", name], capture_output=True)
    return simulated.returncode == 0


def stanza(package: Path) -> str:
    """What an index says of a package: its control fields, where it is, and its sum."""
    fields = run("dpkg-deb", "-f", package, *FIELDS)
    digest = run("sha256sum", package).split()[0]
    return f"{fields}Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n"


def wheels(place: Path) -> None:
    """The wheels of the lock for each version of Python. (pip judges markers by the Python that runs it: drop them.)"""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as lock:
        lock.write(re.sub(r" ; python_full_version [^\\\n]*", " ", (REPO / "requirements.lock").read_text()))
        lock.flush()
        for version in PYTHONS:
            target = ["--python-version", version, *(word for name in PLATFORMS for word in ("--platform", name))]
            pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
            run(*pip, "--only-binary", ":all:", "--require-hashes", *target, "-d", place, "-r", lock.name)


def main(arguments: list[str]) -> int:
    """Make it beside its place, and move it there."""
    begin = time.monotonic()
    folder = Path(arguments[0] if arguments else REPO / "kit").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    kit = folder / f"{disk.release(disk.source())}-{ARCHITECTURE}"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as directory:
        fresh = Path(directory, kit.name)
        fresh.mkdir()
        packages(fresh / "debs")
        wheels(fresh / "wheels")
        for root in ("busybox", "debian"):
            run("tar", "-C", HOME / "roots" / root, "--numeric-owner", "-czf", fresh / f"{root}.tar.gz", ".")
        if Path(HOME, "guest/kernel").exists():
            run("tar", "-C", HOME / "guest", "--sparse", "-czf", fresh / "guest.tar.gz", *disk.MACHINES)
        words = ["save", "--output", fresh / "images.tar", "busybox", "debian", "web", "mail"]
        run(sys.executable, "-m", "minidocker", *words, cwd=REPO)
        (fresh / "complete").touch()
        shutil.rmtree(kit, ignore_errors=True)
        fresh.rename(kit)
    for box in Path(REPO, "build/box").glob("*.box"):
        shutil.copy(box, folder)
    size = sum(path.stat().st_size for path in kit.rglob("*"))
    print(f"{kit}: {size >> 20} MB, {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
