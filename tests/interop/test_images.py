"""Chapter 5: the same images in other people's tools, both ways: skopeo, umoci, podman, and the OCI's own schemas."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jsonschema
import pytest
import referencing.jsonschema

from minidocker.images.archive import import_, load, save
from minidocker.images.image import find
from minidocker.images.store import Store
from minidocker.images.transfer import pull, push
from minidocker.process import start
from minidocker.union import Union
from tests.helpers import REPO, need
from tests.helpers.images import add_image, minidocker
from tests.helpers.layers import differences, snapshot
from tests.helpers.registries import debian_registry, image, tree

pytestmark = [
    pytest.mark.chapter(5),
    pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners: unpacking them needs root"),
    pytest.mark.usefixtures("own_home"),
]

SCHEMAS = Path("/usr/share/gocode/src/github.com/opencontainers/image-spec/schema")
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}
CONTAINERS = """[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""
# podman in mount and network namespaces of its own, where it changes nothing of the host; without cgroup2, which crun
# and runc do not take beside v1
LAB = """
mount -t tmpfs none /run && mkdir -p /run/lock
mount -t tmpfs none /dev/shm
umount /sys/fs/cgroup/unified 2>/dev/null
ip link set lo up
exec "$@"
"""


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


@pytest.fixture
def app(store, tmp_path):
    """Two layers of odd files, above busybox so that it runs."""
    top = tree(tmp_path / "app", "app")
    (top / "etc").mkdir()
    (top / "etc/setuid").write_text("x")
    (top / "etc/setuid").chmod(0o4711)
    (top / "etc/absolute").symlink_to("/bin/hello")
    os.link(top / "noise", top / "hard")
    os.mkfifo(top / "fifo")
    os.mknod(top / "null", 0o020666, os.makedev(1, 3))
    (top / "é\udcff").write_text("a name that is not UTF-8")
    os.chown(top / "noise", 1000, 100000)
    os.setxattr(top / "noise", "user.x", b"\0\1")
    os.utime(top / "noise", ns=(0, 1_234_567_890_123_456_789))
    os.mknod(top / "bin/vi", 0o020000, 0)  # a whiteout: the base has it
    root = Path(os.environ.get("MINIDOCKER_ROOTS", "/var/lib/minidocker/roots"), "busybox")
    need(root.is_dir(), "needs the root file system of set-up: run vagrant/provision.sh")
    from minidocker.images import manifest as media
    from minidocker.images.image import make

    with store.writing():
        pairs = [store.add_layer(str(root)), store.add_layer(str(top))]
        rootfs = {"type": "layers", "diff_ids": [diff_id for _, diff_id in pairs]}
        config = {"Cmd": ["sh", "/bin/hello"], "Env": ["PATH=/bin", "COLOUR=blue"], "WorkingDir": "/etc"}
        made = make(store, {**media.platform(), "config": config, "rootfs": rootfs}, [layer for layer, _ in pairs])
        store.tag("app:1", made.descriptor)
    return made


def tool(*words, **options):
    """Run another program; its output. It must be there."""
    need(shutil.which(words[0]), f"needs {words[0]}: run vagrant/provision.sh")
    ran = subprocess.run([*map(str, words)], capture_output=True, text=True, **options)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture
def skopeo(tmp_path):
    (tmp_path / "policy.json").write_text(json.dumps(POLICY))
    return lambda *words: tool("skopeo", "--policy", tmp_path / "policy.json", "--tmpdir", tmp_path, *words)


def merged(made):
    """What a container of the image sees, entry by entry; without the time of its root, which is the container's."""
    union = Union(made.layers())
    with start(["sleep", "1000"], union) as process:
        files = snapshot(f"/proc/{process.pid}/root{union.root}")
    del files[b""]["time"]
    return files


def ids(directory):
    """The config's digest of an image that skopeo has written as dir:."""
    return json.loads((directory / "manifest.json").read_text())["config"]["digest"]


# --- the format ------------------------------------------------------------------------------------------------------


def validator(name):
    """The OCI's own schema of a document."""
    need(SCHEMAS.is_dir(), "needs golang-github-opencontainers-image-spec-dev: run vagrant/provision.sh")
    read = lambda uri: json.loads((SCHEMAS / uri.rpartition("/")[2]).read_text())  # noqa: E731  # they name each other
    draft = referencing.jsonschema.DRAFT4
    registry = referencing.Registry(retrieve=lambda uri: referencing.Resource(read(uri), draft))
    return jsonschema.Draft4Validator(read(name), registry=registry)


def test_our_documents_are_what_the_schemas_say(store, tmp_path):
    image(store, "localhost:5000/team/other:2", [tree(tmp_path / "other")])
    layout = Path(store.layout)
    validator("image-layout-schema.json").validate(json.loads((layout / "oci-layout").read_text()))
    validator("image-index-schema.json").validate(json.loads((layout / "index.json").read_text()))
    for entry in store.entries().values():
        manifest = store.get_json(entry)
        validator("image-manifest-schema.json").validate(manifest)
        validator("config-schema.json").validate(store.get_json(manifest["config"]))


def test_the_schemas_would_notice():
    with pytest.raises(jsonschema.ValidationError):
        validator("image-manifest-schema.json").validate({"schemaVersion": 2, "config": {"digest": "x"}, "layers": []})


# --- skopeo ----------------------------------------------------------------------------------------------------------


def test_skopeo_reads_the_store_in_place(store, app, skopeo, tmp_path):
    shown = json.loads(skopeo("inspect", f"oci:{store.layout}:app:1"))
    assert shown["Digest"] == app.descriptor["digest"] and shown["Env"] == ["PATH=/bin", "COLOUR=blue"]
    skopeo("copy", f"oci:{store.layout}:app:1", f"dir:{tmp_path}/dir")
    assert ids(tmp_path / "dir") == app.id


def test_skopeo_writes_into_the_store(store, app, skopeo, tmp_path):
    """Beside what is there; and what it brought runs."""
    other = Store(str(tmp_path / "other"))
    add_image(other, "mine", tree(tmp_path / "mine", "mine"))
    skopeo("copy", f"oci:{store.layout}:app:1", f"oci:{other.layout}:app:1")
    assert find(other, "app:1").descriptor["digest"] == app.descriptor["digest"]
    assert find(other, "mine").layers()
    ran = minidocker(other.home, "run", "--rm", "app:1")
    assert (ran.returncode, ran.stdout) == (0, "hello app\n"), ran.stderr


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_skopeo_reads_what_we_save(store, app, skopeo, tmp_path, kind):
    with open(tmp_path / "app.tar", "wb") as file:
        save(store, ["app:1"], file)
    skopeo("copy", f"{kind}:{tmp_path}/app.tar:app:1", f"dir:{tmp_path}/dir")
    assert ids(tmp_path / "dir") == app.id


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_we_load_what_skopeo_writes(store, app, skopeo, tmp_path, kind):
    skopeo("copy", f"oci:{store.layout}:app:1", f"{kind}:{tmp_path}/app.tar:app:1")
    other = Store(str(tmp_path / "other"))
    with open(tmp_path / "app.tar", "rb") as file:
        assert load(other, file.fileno()) == ["docker.io/library/app:1"]
    loaded = find(other, "app:1")
    assert loaded.diff_ids == app.diff_ids and loaded.config["config"]["Env"] == app.config["config"]["Env"]
    assert not differences(merged(loaded), merged(app))


def test_skopeo_and_we_share_a_registry(store, app, skopeo, tmp_path):
    """What we push it copies, with zstd layers too, and what it pushes we pull."""
    need(shutil.which("docker-registry"), "needs docker-registry: run vagrant/provision.sh")
    with debian_registry(tmp_path / "registry") as name:
        store.tag(f"{name}/ours", app.descriptor)
        push(store, f"{name}/ours")
        skopeo("copy", "--src-tls-verify=false", f"docker://{name}/ours", f"dir:{tmp_path}/dir")
        assert ids(tmp_path / "dir") == app.id
        other = Store(str(tmp_path / "other"))
        for number, options in enumerate([("--format", "v2s2"), ("--dest-compress-format", "zstd", "--format", "oci")]):
            target = f"{name}/theirs:{number}"
            skopeo("copy", "--dest-tls-verify=false", *options, f"dir:{tmp_path}/dir", f"docker://{target}")
            pulled = pull(other, target)
            assert pulled.diff_ids == app.diff_ids
            assert not differences(merged(pulled), merged(app))


# --- umoci -----------------------------------------------------------------------------------------------------------


def test_umoci_unpacks_the_same_files(store, app, tmp_path):
    """Type, mode, owner, size, times, link, attributes, content, of every entry."""
    tool("umoci", "raw", "unpack", "--image", f"{store.layout}:app:1", tmp_path / "theirs")
    theirs = snapshot(tmp_path / "theirs")
    del theirs[b""]["time"]
    assert not differences(theirs, merged(app))


def test_umoci_unpacks_a_bundle(store, app, tmp_path):
    tool("umoci", "unpack", "--image", f"{store.layout}:app:1", tmp_path / "bundle")
    assert "bin/vi" not in {str(path) for path in (tmp_path / "bundle/rootfs").glob("bin/*")}
    assert json.loads((tmp_path / "bundle/config.json").read_text())["process"]["args"] == ["sh", "/bin/hello"]


def test_what_umoci_repacks_runs(store, app, tmp_path):
    """A layer that umoci made of changes, above ours, in our store."""
    bundle = tmp_path / "bundle"
    tool("umoci", "unpack", "--image", f"{store.layout}:app:1", bundle)
    (bundle / "rootfs/bin/hello").write_text("echo changed\n")
    shutil.rmtree(bundle / "rootfs/root", ignore_errors=True)
    tool("umoci", "repack", "--image", f"{store.layout}:app:2", bundle)
    ran = minidocker(store.home, "run", "--rm", "app:2")
    assert (ran.returncode, ran.stdout) == (0, "changed\n"), ran.stderr


# --- podman ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def podman(tmp_path):
    """podman with all that it keeps below a temporary directory; a function that returns its output."""
    need(shutil.which("podman"), "needs podman: run vagrant/provision.sh")
    (tmp_path / "containers.conf").write_text(CONTAINERS)
    (tmp_path / "policy.json").write_text(json.dumps(POLICY))
    home = Path(tempfile.mkdtemp(prefix="pod-", dir="/tmp"))  # it takes no longer paths than 50 characters
    flags = ["--root", home / "root", "--runroot", home / "run", "--tmpdir", home / "tmp", "--storage-driver", "vfs"]
    environment = {**os.environ, "CONTAINERS_CONF": str(tmp_path / "containers.conf"), "TMPDIR": str(tmp_path)}

    def run(*words, check=True):
        alone = ["unshare", "-m", "-n", "-p", "-f", "--mount-proc", "--propagation", "private"]
        words = [*alone, "sh", "-c", LAB, "lab", "podman", *map(str, flags), *map(str, words)]
        ran = subprocess.run(words, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert not check or ran.returncode == 0, ran.stderr
        return ran.stdout

    yield run
    shutil.rmtree(home)  # what podman leaves running, to clean up after its container, ended with the PID namespace


def test_podman_runs_what_we_made(store, app, podman, tmp_path):
    with open(tmp_path / "app.tar", "wb") as file:
        save(store, ["app:1"], file)
    assert "app:1" in podman("load", "-q", "-i", tmp_path / "app.tar")
    assert podman("run", "--rm", "--network=none", "app:1") == "hello app\n"
    shown = podman(
        "run", "--rm", "--network=none", "app:1", "sh", "-c", "pwd; echo $COLOUR; ls -l /etc/setuid; ls /bin/vi || true"
    )
    assert shown.startswith("/etc\nblue\n-rws--x--x ")


def test_we_run_what_podman_built(podman, tmp_path, store):
    """Built from our own base, so that no registry is asked."""
    base = minidocker_base(store)
    with open(tmp_path / "base.tar", "wb") as file:
        save(store, ["base:1"], file)
    podman("load", "-q", "-i", tmp_path / "base.tar")
    (tmp_path / "Dockerfile").write_text(
        "FROM docker.io/library/base:1\nENV A=podman\nRUN echo built > /made && rm /bin/vi\nWORKDIR /srv\n"
        'CMD ["sh", "-c", "echo $A $(cat /made) $PWD; ls /bin/vi"]\n'
    )
    podman("build", "-q", "--isolation=chroot", "-t", "localhost/built:1", tmp_path)
    for kind in ("docker-archive", "oci-archive"):
        archive = tmp_path / f"{kind}.tar"
        podman("save", "-q", "--format", kind, "-o", archive, "localhost/built:1")
        home = tmp_path / kind
        loaded = minidocker(home, "load", "-i", archive)
        assert loaded.stdout == "Loaded image: localhost/built:1\n", loaded.stderr
        ran = minidocker(home, "run", "--rm", "localhost/built:1")
        assert ran.stdout == "podman built /srv\n" and "/bin/vi" in ran.stderr and ran.returncode == 1
        assert find(Store(str(home)), "localhost/built:1").diff_ids[0] == base.diff_ids[0]


def minidocker_base(store):
    """An imported root. (podman builds on no image whose history does not speak of each of its layers.)"""
    root = Path(os.environ.get("MINIDOCKER_ROOTS", "/var/lib/minidocker/roots"), "busybox")
    need(root.is_dir(), "needs the root file system of set-up: run vagrant/provision.sh")
    with tempfile.TemporaryFile() as files:
        subprocess.run(["tar", "-C", root, "-c", "."], stdout=files, check=True)
        files.seek(0)
        return import_(store, files.fileno(), "base:1", ['CMD ["sh"]', "ENV PATH=/bin"])


def test_the_command_is_the_same_program(store, app):
    """The tests above use functions; this is what a learner types."""
    ran = subprocess.run(
        [sys.executable, "-m", "minidocker", "run", "--rm", "app:1", "sh", "-c", "exit 7"],
        env={**os.environ, "PYTHONPATH": str(REPO), "MINIDOCKER_HOME": store.home},
    )
    assert ran.returncode == 7
