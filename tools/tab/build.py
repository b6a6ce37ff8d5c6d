"""Build the machine for the browser tab: `make tab`, into build/tab.

    python -m tools.tab.build [--pin]

Debian's packages for i386 (packages.txt: versions and hashes), v86 and xterm.js (package-lock.json), the folder root/,
and from this repository what chapters 0 to 4 need become an initial RAM disk. v86 boots it once, in Node, and its state
is stored: a browser goes on from there. Nothing is installed. Needs the network of apt and npm, node, npm and zstd; no
root. What is there already and would come out the same is not built again.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import py_compile
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from tools import REPO

HERE, PLACE, OUT = REPO / "tools/tab", REPO / "build/tab-parts", REPO / "build/tab"
PACKAGES, UNUSED = HERE / "packages.txt", HERE / "unused.txt"
STATE = "state.bin.zst"
CHECKOUT = ["minidocker", "chapters/exercise.py", "notebooks/lab.py", "tools/__init__.py", "tools/learner/nobody.py"]
CHAPTERS = sorted(REPO.glob("chapters/0[0-4]_*"))
CHECKOUT += [f"chapters/{chapter.name}" for chapter in CHAPTERS]
FURTHER = [REPO / "chapters/06_volumes"]  # its stage runs here, too
CHECKOUT += [f"chapters/{chapter.name}/stage.py" for chapter in FURTHER]
TEXTS = {".md", ".svg", ".png", ".pyc", ".txt"}  # of the chapters: the book has them, and the machine does not
MODULES = ["fs/overlayfs/overlay", "fs/fuse/fuse", "net/llc/llc", "net/802/stp", "net/bridge/bridge"]
MODULES += ["drivers/net/veth"]  # of the kernel, in this order
LIBRARIES = ["cloudpickle", "mfusepy"]  # from set-up's environment, where requirements.lock has put them
EMPTY = ["proc", "sys", "dev", "tmp", "run", "root/work", "etc", "mnt", "usr/share", "var/tmp", "var/log", "home"]
PAGE = {  # what npm brings -> its name beside the page
    "v86/build/libv86.js": "libv86.js",
    "v86/build/v86.wasm": "v86.wasm",
    "@xterm/xterm/lib/xterm.js": "xterm.js",
    "@xterm/xterm/css/xterm.css": "xterm.css",
    "@xterm/addon-fit/lib/addon-fit.js": "addon-fit.js",
    "v86/LICENSE": "LICENSE.v86.txt",
    "@xterm/xterm/LICENSE": "LICENSE.xterm.txt",
}
APT = """#clear APT::Architectures;
APT::Architecture "i386";
APT::Architectures {{ "i386"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "{place}/state";
Dir::State::status "/dev/null";
Dir::Cache "{place}/cache";
"""


def packages():
    """(name, version, hash, files to take or none for all) of each."""
    lines = (line.split() for line in PACKAGES.read_text().splitlines() if not line.startswith("#"))
    return [(name, version, digest, files) for name, version, digest, *files in lines]


def digest_of(*paths):
    """One hash of files, and of what lies in folders but texts."""
    inside = (file for path in paths for file in path.rglob("*") if file.is_file() and file.suffix not in TEXTS)
    found = hashlib.sha256()
    for file in sorted([*inside, *(path for path in paths if path.is_file())]):
        found.update(f"{file.relative_to(REPO)} {file.stat().st_mode & 0o111} ".encode() + file.read_bytes())
    return found.hexdigest()


def run(*command, **options):
    """A command that must succeed; its output is shown if it does not."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"tab: {' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


class Apt:
    """This machine's sources of packages, asked for another architecture; the machine's own lists stay as they are."""

    def __init__(self):
        place = PLACE / "apt"
        for part in ("state/lists/partial", "cache/archives/partial"):
            (place / part).mkdir(parents=True, exist_ok=True)
        (place / "apt.conf").write_text(APT.format(place=place))
        self.env = {**os.environ, "APT_CONFIG": str(place / "apt.conf"), "LC_ALL": "C"}
        self.updated = False

    def update(self):
        """Fetch the lists, once. A source without this architecture is no failure; a missing package will be."""
        if not self.updated:
            subprocess.run(["apt-get", "update", "-qq"], env=self.env, capture_output=True)
        self.updated = True

    def newest(self, name):
        """The version and the hash of a package today."""
        records = run("apt-cache", "show", name, env=self.env).split("\n\n")
        fields = dict(line.split(": ", 1) for line in records[0].splitlines() if ": " in line)
        return fields["Version"], fields["SHA256"]

    def fetch(self, name, version, digest):
        """The file of a package, with this hash."""
        debs = PLACE / "debs"
        debs.mkdir(exist_ok=True)
        path = debs / f"{name}.deb"
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            path.unlink(missing_ok=True)
            for old in debs.glob(f"{name}_*"):
                old.unlink()
            self.update()
            command = ["apt-get", "download", "-q", f"{name}={version}"]
            done = subprocess.run(command, cwd=debs, env=self.env, capture_output=True)
            found = [*debs.glob(f"{name}_*")]
            if done.returncode or not found:
                sys.exit(
                    f"tab: apt has no {name} {version} for i386: use Debian 12, or write today's version with --pin"
                )
            found[0].rename(path)
            if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                sys.exit(f"tab: {path} is not the file that packages.txt names: its hash differs")
        return path


def pin(apt):
    """Write today's versions and hashes."""
    apt.update()
    head = [line for line in PACKAGES.read_text().splitlines() if line.startswith("#")]
    rows = [" ".join([name, *apt.newest(name), *files]) for name, _, _, files in packages()]
    PACKAGES.write_text("\n".join([*head, *rows]) + "\n")


def install():
    """What npm brings, if it is not there."""
    lock = HERE / "package-lock.json"
    if not (PLACE / "node_modules").exists() or (PLACE / lock.name).read_text() != lock.read_text():
        for file in (HERE / "package.json", lock):
            shutil.copy(file, PLACE / file.name)
        run("npm", "ci", "--loglevel=error", "--no-audit", "--no-fund", cwd=PLACE)


def unpack(apt):
    """All packages: the kernel and the firmware beside the root, the others in it."""
    root = PLACE / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name, version, digest, files in packages():
        deb, aside = apt.fetch(name, version, digest), PLACE / "unpacked"
        shutil.rmtree(aside, ignore_errors=True)
        run("dpkg", "-x", deb, aside)
        if name.startswith("linux-image"):
            (kernel,) = aside.glob("boot/vmlinuz-*")
            shutil.copy(kernel, PLACE / "vmlinuz")
            (root / "lib/modules").mkdir(parents=True, exist_ok=True)
            for number, module in enumerate(MODULES):
                (file,) = aside.glob(f"lib/modules/*/kernel/{module}.ko")
                shutil.copy(file, root / f"lib/modules/{number}-{file.name}")
        elif name == "seabios":
            for bios in ("bios.bin", "vgabios-stdvga.bin"):
                shutil.copy(aside / "usr/share/seabios" / bios, PLACE / bios)
        else:
            for file in files or ["."]:
                target = root / file
                target.parent.mkdir(parents=True, exist_ok=True)
                if file == ".":
                    shutil.copytree(aside, root, symlinks=True, dirs_exist_ok=True)
                else:
                    shutil.copy(aside / file, target)
    return root


def shrink(root):
    """Without what nobody imports, and Python's libraries compiled: to read their sources takes the machine seconds."""
    unused = [line for line in UNUSED.read_text().splitlines() if not line.startswith("#")]
    for path in [path for pattern in unused for path in root.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    library = root / "usr/lib/python3.11"
    if sys.version_info[:2] == (3, 11):
        for source in [*library.rglob("*.py"), *(root / "usr/lib/python3").rglob("*.py")]:
            if source.exists():  # not a link to what is not there
                compiled(source, root, source.with_suffix(".pyc"))
            source.unlink()
    (root / "usr/bin/python3").symlink_to("python3.11")


def compiled(source, root, target=None):
    """Byte code of a file for where it will be, valid whatever the file's time."""
    there, mode = f"/{source.relative_to(root)}", py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), cfile=target and str(target), dfile=there, doraise=True, invalidation_mode=mode)


def fill(root):
    """What is not Debian's: this repository, and the folder root/."""
    ignore = shutil.ignore_patterns("__pycache__", *(f"*{kind}" for kind in TEXTS))
    shutil.copytree(
        HERE / "root", root, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )
    checkout = root / "srv/minidocker"
    for name in CHECKOUT:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, checkout / name, ignore=ignore)
        else:
            shutil.copy(REPO / name, checkout / name)
    (checkout / "tools/learner/__init__.py").touch()
    for name in LIBRARIES:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            sys.exit(f"tab: {name} is not installed here: make provision")
        source, target = Path(found.origin), root / "usr/lib/python3/dist-packages"
        if source.name == "__init__.py":
            shutil.copytree(source.parent, target / name, ignore=ignore)
        else:
            shutil.copy(source, target / source.name)
    if sys.version_info[:2] == (3, 11):
        for source in [*(root / "srv").rglob("*.py"), *(root / "usr/lib/python3").rglob("*.py")]:
            compiled(source, root)
    for place in EMPTY:
        (root / place).mkdir(parents=True, exist_ok=True)
    (root / "bin/sh").symlink_to("dash")  # as in Debian; BusyBox's would take its own programs in place of others
    etc = root / "etc"
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (etc / "shadow").write_text("root:*:19000:0:99999:7:::\n")
    (etc / "shadow").chmod(0o600)
    (etc / "hosts").write_text("127.0.0.1 localhost machine\n")
    (etc / "hostname").write_text("machine\n")
    (etc / "os-release").symlink_to("../usr/lib/os-release")


def archive(root, target):
    """The initial RAM disk: cpio's format "newc" as the kernel reads it, all of it root's, without times."""

    def entry(name, mode, data, number):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name + b"\0"
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    with gzip.GzipFile(target, "wb", 6, mtime=0) as file:
        for number, path in enumerate(sorted(root.rglob("*")), 1):
            status, name = path.lstat(), str(path.relative_to(root)).encode()
            if stat.S_ISLNK(status.st_mode):
                data = os.readlink(path).encode()
            else:
                data = path.read_bytes() if path.is_file() else b""
            file.write(entry(name, status.st_mode, data, number))
        file.write(entry(b"TRAILER!!!", 0, b"", 0))


def publish(state):
    """The folder for the web server, whole: the page, what npm has brought, the state, and the sums of the parts."""
    fresh = OUT.with_name("tab-fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(HERE / "page", fresh)
    for source, name in PAGE.items():
        shutil.copy(PLACE / "node_modules" / source, fresh / name)
    shutil.copy(state, fresh / STATE)
    parts = {name: part(fresh / name) for name in ("libv86.js", "v86.wasm", STATE)}
    (fresh / "parts.json").write_text(json.dumps(parts) + "\n")
    shutil.rmtree(OUT, ignore_errors=True)
    fresh.rename(OUT)
    return sum(path.stat().st_size for path in OUT.iterdir())


def part(path):
    """By what the page knows that a download is whole."""
    return {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def main(arguments):
    """Build what is not there."""
    missing = [tool for tool in ("apt-get", "dpkg", "node", "npm", "zstd") if not shutil.which(tool)]
    if missing:
        sys.exit(f"tab: this needs {', '.join(missing)}: apt install nodejs npm zstd, on Debian 12")
    PLACE.mkdir(parents=True, exist_ok=True)
    apt = Apt()
    if "--pin" in arguments:
        return pin(apt)
    inputs = [PACKAGES, UNUSED, HERE / "build.py", HERE / "boot.mjs", HERE / "package-lock.json", HERE / "root"]
    made_of, stamp = digest_of(*inputs, *(REPO / name for name in CHECKOUT)), PLACE / "made-of"
    install()
    if not stamp.exists() or stamp.read_text() != made_of:
        stamp.unlink(missing_ok=True)
        shutil.rmtree(OUT, ignore_errors=True)  # if this fails, the book has no machine, and not an old one
        root = unpack(apt)
        shrink(root)
        fill(root)
        archive(root, PLACE / "initrd.gz")
        shutil.copy(HERE / "boot.mjs", PLACE / "boot.mjs")
        print("tab: the machine boots once; this takes a minute or two", flush=True)
        run("node", "boot.mjs", cwd=PLACE)
        run("zstd", "-q", "-f", "--ultra", "-22", "--long=27", "--rm", "state.bin", "-o", STATE, cwd=PLACE)
        stamp.write_text(made_of)
    size = publish(PLACE / STATE)
    print(f"the machine is in {OUT.relative_to(REPO)}: {size / 1e6:.1f} MB")
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
