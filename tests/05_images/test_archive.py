"""Chapter 5: save, load, import and export: images in files, also in files that somebody has tampered with."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from backports import zstd

from minidocker.images import manifest as media
from minidocker.images import tar
from minidocker.images.archive import export, import_, load, save
from minidocker.images.build.dockerfile import parse
from minidocker.images.build.executor import build
from minidocker.images.image import find
from minidocker.images.layer import unpack
from minidocker.images.store import Store
from tests.helpers import REPO
from tests.helpers.images import minidocker, refused
from tests.helpers.layers import archive, entry, snapshot
from tests.helpers.registries import contents, image, tree

pytestmark = [
    pytest.mark.chapter(5),
    pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners: unpacking them needs root"),
    pytest.mark.usefixtures("own_home"),
]


@pytest.fixture
def app(app):
    """It has a name."""
    app.store.tag("app:1", app.descriptor)
    return app


def saved(store, *names):
    stream = io.BytesIO()
    save(store, names, stream)
    return stream.getvalue()


def stored(data):
    """The archive in a file that has no name, as `load` and `import_` take it: the descriptor."""
    descriptor = os.memfd_create("archive")
    file = open(descriptor, "wb", closefd=False)
    file.write(data)
    file.flush()
    os.lseek(descriptor, 0, os.SEEK_SET)
    FILES.append(os.fdopen(descriptor))
    return descriptor


FILES = []


@pytest.fixture(autouse=True)
def closed():
    yield
    while FILES:
        FILES.pop().close()


def files_of(data):
    """{name: content} of an archive."""
    stream, files = io.BytesIO(data), {}
    for item in tar.read(stream.read):
        files[item.name.decode()] = stream.read(tar.padded(item.size))[: item.size]
    return files


def archived(files):
    """The other way round."""
    return archive(*((entry(name.encode()), data) for name, data in files.items()))


def document(value):
    return json.dumps(value).encode()


def docker_archive(app, pack=lambda data: data, **changes):
    """What Docker wrote before version 25: layers that are not compressed, in directories; a repeated one is a link."""
    layers = [gzip.decompress(Path(app.store.blob(layer["digest"])).read_bytes()) for layer in app.manifest["layers"]]
    config = Path(app.store.blob(app.id)).read_bytes()
    item = {"Config": f"{app.id[7:]}.json", "RepoTags": ["app:1"], "Layers": ["0/layer.tar", "1/layer.tar"], **changes}
    return {
        **{f"{number}/layer.tar": pack(data) for number, data in enumerate(layers)},
        "0/VERSION": b"1.0",
        f"{app.id[7:]}.json": config,
        "manifest.json": document([item]),
        "repositories": document({"app": {"1": "1"}}),
    }


# --- there and back --------------------------------------------------------------------------------------------------


def test_what_is_saved_is_loaded(here, there, app):
    assert load(there, stored(saved(here, "app:1"))) == ["docker.io/library/app:1"]
    loaded = find(there, "app:1")
    assert loaded.descriptor["digest"] == app.descriptor["digest"]
    assert {path.name: path.read_bytes() for path in Path(there.layout, "blobs/sha256").iterdir()} == {
        path.name: path.read_bytes() for path in Path(here.layout, "blobs/sha256").iterdir()
    }
    assert Path(loaded.layers()[0], "bin/hello").is_file() and not os.listdir(there.tmp)


def test_the_same_images_give_the_same_archive(here, app):
    assert saved(here, "app:1") == saved(here, "app:1")


def test_several_images_and_names(here, there, app, tmp_path):
    here.tag("localhost:5000/team/app:x", app.descriptor)
    other = image(here, "other", [tmp_path / "base", tree(tmp_path / "other", "other")])
    data = saved(here, "app:1", "localhost:5000/team/app:x", "other", app.id[7:19])
    assert len([name for name in files_of(data) if name.startswith("blobs/")]) == 3 + 2 + 2  # the base is there once
    assert set(load(there, stored(data))) >= {"docker.io/library/app:1", "localhost:5000/team/app:x"}
    assert find(there, "other").id == other.id and find(there, "localhost:5000/team/app:x").id == app.id


def test_an_image_without_a_name(here, there, app):
    data = saved(here, app.id)
    assert load(there, stored(data)) == [app.id]
    assert not there.tags()


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_an_archive_may_be_compressed(here, there, app, pack):
    load(there, stored(pack(saved(here, "app:1"))))
    assert find(there, "app:1").id == app.id


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, zstd.compress])
def test_an_archive_of_docker(here, there, app, pack):
    """The ID stays, and the layers get the digests that they have when we pack them."""
    load(there, stored(archived(docker_archive(app, pack))))
    loaded = find(there, "app:1")
    assert loaded.id == app.id
    if pack not in (gzip.compress, zstd.compress):
        assert loaded.manifest["layers"] == app.manifest["layers"]
    assert snapshot(loaded.layers()[0]) == snapshot(app.layers()[0])


def test_links_in_an_archive_of_docker(here, there, app):
    """A repeated layer is a symlink to the first one; manifest.json comes last, or first."""
    files = docker_archive(app, Layers=["a/layer.tar", "link/layer.tar"])
    first, second = files.pop("0/layer.tar"), files.pop("1/layer.tar")
    members = [(entry(b"./a/layer.tar"), first), (entry(b"b/"), None), (entry(b"b/layer.tar"), second)]
    members[1] = (entry(b"b/", tar.DIRECTORY, 0o755), b"")
    members.append((entry(b"link/layer.tar", tar.SYMLINK, link=b"../hard/layer.tar"), b""))
    members.append((entry(b"hard/layer.tar", tar.HARDLINK, link=b"b/layer.tar"), b""))
    rest = [(entry(name.encode()), data) for name, data in files.items()]
    for order in (members + rest, rest + members):
        load(there, stored(archive(*order)))
        assert find(there, "app:1").id == app.id
        there.untag("app:1")


def test_two_images_of_docker_share_layers(here, there, app, tmp_path):
    files = docker_archive(app)
    (item,) = json.loads(files["manifest.json"])
    files["manifest.json"] = document([item, {**item, "RepoTags": None}])
    assert load(there, stored(archived(files))) == ["docker.io/library/app:1", app.id]


# --- tampered with ---------------------------------------------------------------------------------------------------


def without(files, name):
    return {key: value for key, value in files.items() if key != name}


def item_of(app, **changes):
    return archived(docker_archive(app, **changes))


def other_index(files, change):
    """The archive with another entry in its index."""
    index = json.loads(files["index.json"])
    index["manifests"] = [{**index["manifests"][0], **change}]
    return archived({**files, "index.json": document(index)})


def blob_of(app, number=-1):
    return f"blobs/sha256/{app.manifest['layers'][number]['digest'][7:]}"


TAMPERED = {
    "nothing": (lambda f, a: b"", "minidocker import"),
    "text": (lambda f, a: b"x" * 5000, "not an archive that can be read"),
    "half of it": (lambda f, a: archived(f)[:2000], "ends in the middle"),
    "half of it, compressed": (lambda f, a: gzip.compress(archived(f))[:-100], "not an archive that can be read"),
    "compressed badly": (lambda f, a: b"\x1f\x8b" + b"x" * 100, "not an archive that can be read"),
    "compressed badly with zstd": (lambda f, a: b"\x28\xb5\x2f\xfd" + b"x" * 100, "not an archive that can be read"),
    "a changed bit": (lambda f, a: gzip.compress(archived(f))[:-6] + b"123456", "not an archive that can be read"),
    "files of another kind": (lambda f, a: archived({"etc/passwd": b"root"}), "minidocker import"),
    "the same name twice": (lambda f, a: archive((entry(b"x"), b"1"), (entry(b"./x"), b"2")), "twice"),
    "names in thousands": (
        lambda f, a: archive(*((entry(b"%d" % n), b"") for n in range(201))),
        "more entries than there is room",
    ),
    "an index that is no JSON": (lambda f, a: archived({**f, "index.json": b"{"}), "no JSON"),
    "an index that is huge": (lambda f, a: archived({**f, "index.json": b" " * (5 << 20)}), "more than 4194304"),
    "an index of another type": (lambda f, a: other_index(f, {"mediaType": "text/html"}), "cannot use the media type"),
    "an index that climbs": (lambda f, a: other_index(f, {"digest": "sha256:../../etc/passwd"}), "is no digest"),
    "an index with another size": (lambda f, a: other_index(f, {"size": 7}), "digest or size"),
    "a manifest that is missing": (lambda f, a: other_index(f, {"digest": f"sha256:{'0' * 64}"}), "has no such file"),
    "a bad name": (lambda f, a: other_index(f, {"annotations": {"io.containerd.image.name": "a b"}}), "is no name"),
    "a layer that is missing": (lambda f, a: archived(without(f, blob_of(a))), "has no such file"),
    "a changed layer": (
        lambda f, a: archived({**f, blob_of(a): bytes(len(f[blob_of(a)]))}),
        "the archive has",
    ),
    "a longer layer": (lambda f, a: archived({**f, blob_of(a): f[blob_of(a)] + b"x"}), "the archive has"),
    "a loop of links": (
        lambda f, a: archive(
            (entry(b"manifest.json", tar.SYMLINK, link=b"x"), b""),
            (entry(b"x", tar.SYMLINK, link=b"manifest.json"), b""),
        ),
        "has no such file",
    ),
    "a link that points out": (
        lambda f, a: archive((entry(b"manifest.json", tar.SYMLINK, link=b"../../../etc/passwd"), b"")),
        "has no such file",
    ),
    "an absolute link": (
        lambda f, a: archive((entry(b"manifest.json", tar.SYMLINK, link=b"/etc/hostname"), b"")),
        "has no such file",
    ),
    "docker: a list of numbers": (lambda f, a: archived({"manifest.json": b"[7]"}), "no list of images"),
    "docker: an object": (lambda f, a: archived({"manifest.json": b"{}"}), "no list of images"),
    "docker: a config that is a number": (lambda f, a: item_of(a, Config=7), "no list of images"),
    "docker: a config outside": (lambda f, a: item_of(a, Config="/etc/passwd"), "has no such file"),
    "docker: a layer outside": (lambda f, a: item_of(a, Layers=["0/layer.tar", "../../x"]), "has no such file"),
    "docker: one layer too few": (lambda f, a: item_of(a, Layers=["0/layer.tar"]), "one diff ID for each"),
    "docker: layers exchanged": (lambda f, a: item_of(a, Layers=["1/layer.tar", "0/layer.tar"]), "the config says"),
    "docker: names that are none": (lambda f, a: item_of(a, RepoTags=["A B"]), "is no name"),
    "docker: a name that steers": (lambda f, a: item_of(a, RepoTags=["\x1b[2J"]), "is no name"),
    "docker: another layer, packed": (
        lambda f, a: archived({**docker_archive(a), "1/layer.tar": gzip.compress(archive())}),
        "digest",
    ),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_an_archive_that_was_tampered_with(here, there, app, how, monkeypatch):
    monkeypatch.setattr(unpack, "MAX_ENTRIES", 200)
    change, problem = TAMPERED[how]
    data = change(files_of(saved(here, "app:1")), app)
    assert problem in refused(load, there, stored(data))
    assert not contents(there)


def test_a_bomb(there):
    """A gigabyte of zeros in a megabyte: it stops where the disk would be full, here at a wall of 2 MB."""
    script = "mount -t tmpfs -o size=2m small $MINIDOCKER_HOME && exec $0 -m minidocker load"
    bomb = gzip.compress(archive((entry(b"manifest.json"), bytes(64 << 20))))
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable],
        env={**os.environ, "PYTHONPATH": str(REPO), "MINIDOCKER_HOME": there.home},
        input=bomb,
        capture_output=True,
    )
    assert ran.returncode == 1 and b"larger content than there is room" in ran.stderr, ran.stderr


def test_what_is_not_there_is_not_saved(here, app):
    os.unlink(here.blob(app.manifest["layers"][0]["digest"]))
    assert "is not in the store" in refused(saved, here, "app:1")
    assert "no such image" in refused(saved, here, "none")


# --- import and export -----------------------------------------------------------------------------------------------


def test_export_and_import(here, app, tmp_path):
    """The merged view goes out; it comes in as one layer with the same files."""
    with open(tmp_path / "files.tar", "wb") as file:
        export(app, file.fileno())
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "files.tar", "-C", tmp_path / "unpacked"], check=True)
    assert Path(tmp_path / "unpacked/bin/hello").read_text() == "#!/bin/sh\necho hello app\n"
    changes = ["ENV A=1", "ENV B=${A}2", 'CMD ["/bin/hello"]', "USER 7"]
    with open(tmp_path / "files.tar", "rb") as file:
        flat = import_(here, file.fileno(), "flat:1", changes, "by hand")
    (layer,) = find(here, "flat:1").layers()
    files = lambda top: {path: node for path, node in snapshot(top).items() if path not in (b"", b".")}  # noqa: E731
    assert files(layer) == files(tmp_path / "unpacked")
    assert flat.config["config"] == {"Env": ["A=1", "B=12"], "Cmd": ["/bin/hello"], "User": "7"}
    assert flat.config["history"][0]["comment"] == "by hand"


def test_an_export_that_is_killed_is_no_export(here, app, tmp_path):
    """Its writer ends by a signal in the middle, as when memory is short: nothing of that name is there afterwards."""
    code = """
import os, signal, sys
from minidocker.images import archive
archive.write_layer = lambda root, stream, **_: stream.write(b"some") and os.kill(os.getpid(), signal.SIGKILL)
from minidocker.cli import main
sys.exit(main(sys.argv[1:]))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, "export", "-o", str(tmp_path / "files.tar"), "app:1"],
        env={**os.environ, "PYTHONPATH": str(REPO), "MINIDOCKER_HOME": here.home},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1 and "before all files were written" in ran.stderr, ran.stderr
    assert not [path.name for path in tmp_path.iterdir() if "files.tar" in path.name]


def test_whiteouts_do_not_come_out(here, tmp_path):
    """What an upper layer hides is not in the merged view, and neither is its whiteout."""
    base, upper = tree(tmp_path / "base", "base"), tmp_path / "upper"
    upper.mkdir()
    os.mknod(upper / "noise", 0o020000, 0)
    from minidocker.images.image import make

    with here.writing():
        pairs = [here.add_layer(str(base)), here.add_layer(str(upper))]
        rootfs = {"type": "layers", "diff_ids": [diff_id for _, diff_id in pairs]}
        made = make(here, {**media.platform(), "config": {}, "rootfs": rootfs}, [layer for layer, _ in pairs])
        with open(tmp_path / "files.tar", "wb") as file:
            export(made, file.fileno())
    names = set(files_of((tmp_path / "files.tar").read_bytes()))
    assert "bin/hello" in names and not any("noise" in name for name in names)


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, zstd.compress])
def test_import_of_what_gnu_tar_wrote(here, tmp_path, pack):
    root = tree(tmp_path / "root", "root")
    (root / ("n" * 200)).symlink_to("x" * 200)
    made = subprocess.run(["tar", "-C", root, "--format=gnu", "-cf-", "."], capture_output=True, check=True).stdout
    flat = import_(here, stored(pack(made)))
    assert flat.diff_ids == [f"sha256:{hashlib.sha256(made).hexdigest()}"]
    assert Path(flat.layers()[0], "n" * 200).is_symlink()


@pytest.mark.parametrize(
    "data, changes, name, problem",
    [
        (archive((entry(b"../x"), b"")), [], "x", "climbs"),
        (archive((entry(b"x"), b"1"), (entry(b"x"), b"2")), [], "x", "twice"),
        (b"x" * 10_000, [], "x", "layer"),
        (gzip.compress(b"x" * 10_000)[:-9], [], "x", ""),
        (archive(), ["RUN true"], "x", "only what sets a part of the config"),
        (archive(), ["NONSENSE"], "x", "unknown instruction"),
        (archive(), [], "A B", "is no name"),
    ],
)
def test_import_of_nonsense(here, data, changes, name, problem):
    assert problem in refused(import_, here, stored(data), name, changes)
    assert not contents(here)


# --- the command -----------------------------------------------------------------------------------------------------


def test_pipes(here, app, tmp_path):
    """save | gzip | load, and export | import, as people type them."""
    shell = f"{sys.executable} -m minidocker"
    there = {"MINIDOCKER_HOME": str(tmp_path / "there"), "PYTHONPATH": str(REPO)}
    script = f"MINIDOCKER_HOME={here.home} {shell} save app:1 | gzip | {shell} load"
    ran = subprocess.run(["sh", "-c", script], env={**os.environ, **there}, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("Loaded image: docker.io/library/app:1\n", "")
    script = f"{shell} export app:1 | {shell} import -c 'CMD /bin/hello' - flat"
    ran = subprocess.run(["sh", "-c", script], env={**os.environ, **there}, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.startswith("sha256:"), ran.stderr
    assert find(Store(str(tmp_path / "there")), "flat").config["config"]["Cmd"] == ["/bin/sh", "-c", "/bin/hello"]


def test_files(here, app, tmp_path):
    path = tmp_path / "app.tar"
    assert minidocker(here.home, "save", "-o", path, "app:1").returncode == 0
    assert path.read_bytes() == saved(here, "app:1")
    quiet = minidocker(tmp_path / "there", "load", "-q", "-i", path)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    failed = minidocker(here.home, "save", "-o", path, "none")
    assert failed.returncode == 1 and "no such image" in failed.stderr
    assert path.read_bytes() == saved(here, "app:1")  # it is replaced by a whole one, or not at all
    assert {name.name for name in tmp_path.iterdir() if "app.tar" in name.name} == {"app.tar"}
    for words in (["load", "-i", tmp_path / "none"], ["save", "-o", tmp_path / "no/where", "app:1"], ["load", "x"]):
        failed = minidocker(here.home, *words)
        assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1, failed.stderr
    assert minidocker(here.home, "save", "-o", "/dev/null", "app:1").returncode == 0


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_load_that_is_killed_leaves_a_whole_store(here, there, app, tmp_path):
    (tmp_path / "app.tar").write_bytes(saved(here, "app:1"))
    moments = random.Random(5)
    code = "import sys; from minidocker.cli import main; print('ready', flush=True); main(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(REPO), "MINIDOCKER_HOME": there.home}
    for _ in range(10):
        words = [sys.executable, "-c", code, "load", "-i", str(tmp_path / "app.tar")]
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(moments.uniform(0, 0.3))
            process.kill()
        for blob in os.listdir(f"{there.layout}/blobs/sha256"):
            assert hashlib.sha256(Path(there.layout, "blobs/sha256", blob).read_bytes()).hexdigest() == blob
        if there.tags():
            assert find(there, "app:1").id == app.id
            there.untag("app:1")
        there.collect()
        assert not contents(there)
    load(there, stored((tmp_path / "app.tar").read_bytes()))
    assert find(there, "app:1").id == app.id


# --- what other tools are lenient about ------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [lzma.compress, bz2.compress])
def test_an_archive_may_be_compressed_as_people_do_it(here, there, app, pack):
    load(there, stored(pack(saved(here, "app:1"))))
    assert find(there, "app:1").id == app.id
    made = pack(archive((entry(b"f"), b"content")))
    assert Path(import_(here, stored(made), "flat").layers()[0], "f").read_text() == "content"
    packed_layers = archived(docker_archive(app, pack))
    there.untag("app:1")
    load(there, stored(packed_layers))
    assert find(there, "app:1").id == app.id


@pytest.mark.parametrize("cut", [512, 1024])
def test_no_archive_needs_an_end_mark(here, there, app, cut):
    load(there, stored(saved(here, "app:1")[:-cut]))
    assert find(there, "app:1").id == app.id
    import_(there, stored(archive((entry(b"f"), b"content"))[:-cut]), "flat")


@pytest.mark.parametrize("rootfs", [{"type": "layers"}, {"type": "layers", "diff_ids": []}, {"diff_ids": None}, None])
def test_an_image_without_layers(here, there, rootfs):
    config = document({**media.platform(), "config": {"Cmd": ["/x"]}, "rootfs": rootfs})
    files = {"c.json": config, "manifest.json": document([{"Config": "c.json", "RepoTags": ["none"], "Layers": []}])}
    assert load(there, stored(archived(files))) == ["docker.io/library/none:latest"]
    again = saved(there, "none")
    assert load(here, stored(again)) == ["docker.io/library/none:latest"]
    ran = minidocker(there.home, "run", "none")
    assert (ran.returncode, "command not found" in ran.stderr) == (127, True), ran.stderr
    assert minidocker(there.home, "export", "-o", "/dev/null", "none").returncode == 0


def test_an_image_without_layers_under_a_narrow_umask(there):
    """Its root is for every user of the container, whoever made it."""
    config = document({**media.platform(), "config": {}, "rootfs": None})
    files = {"c.json": config, "manifest.json": document([{"Config": "c.json", "RepoTags": ["none"], "Layers": []}])}
    load(there, stored(archived(files)))
    before = os.umask(0o077)
    try:
        [layer] = find(there, "none").layers()
    finally:
        os.umask(before)
    assert os.stat(layer).st_mode & 0o777 == 0o755


def layout(config, layer, kind, more=(), **fields):
    """An archive with an image of one layer; `fields` of its entry in the index, and entries beside it."""
    documents = {"config": document(config), "layer": layer}
    digests = {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in documents.items()}
    manifest = document(
        {
            "schemaVersion": 2,
            "config": {"mediaType": media.CONFIG, "digest": digests["config"], "size": len(documents["config"])},
            "layers": [{"mediaType": kind, "digest": digests["layer"], "size": len(layer)}],
        }
    )
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    notes = {"org.opencontainers.image.ref.name": "image"}
    first = {"mediaType": media.MANIFEST, "digest": digest, "size": len(manifest), "annotations": notes, **fields}
    blobs = {f"blobs/sha256/{digests[name][7:]}": data for name, data in documents.items()}
    index = document({"schemaVersion": 2, "manifests": [first, *more]})
    return {**blobs, f"blobs/sha256/{digest[7:]}": manifest, "oci-layout": b"{}", "index.json": index}


LAYER = archive((entry(b"f"), b"content"))


def config_of(layer=LAYER, **fields):
    said = {**media.platform(), "config": {}, "rootfs": {"diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}}
    return {key: value for key, value in {**said, **fields}.items() if value is not None}


@pytest.mark.parametrize("kind", media.LAYERS)
def test_layers_in_each_packing_under_either_makers_name(there, kind):
    pack = {"gzip": gzip.compress, "zstd": zstd.compress}.get(kind[-4:], bytes)
    load(there, stored(archived(layout(config_of(), pack(LAYER), kind))))
    assert Path(find(there, "image").layers()[0], "f").read_text() == "content"


@pytest.mark.parametrize(("docker", "oci"), media.DOCKER_LAYERS.items())
def test_what_is_built_on_dockers_layers_names_them_as_oci_does(there, docker, oci):
    """An OCI manifest with a layer of Docker's type is refused by other tools."""
    pack = {"gzip": gzip.compress, "zstd": zstd.compress}.get(docker[-4:], bytes)
    load(there, stored(archived(layout(config_of(), pack(LAYER), docker))))
    with open(os.devnull, "wb") as nowhere:
        built = build(there, parse("FROM image\nLABEL a=b\n"), there.home, output=nowhere.fileno())
    assert [layer["mediaType"] for layer in built.manifest["layers"]] == [oci]


@pytest.mark.parametrize("fields", [{"architecture": None}, {"os": ""}, {"os": None, "architecture": ""}])
def test_what_a_config_does_not_say_about_the_machine_fits(there, fields):
    load(there, stored(archived(layout(config_of(**fields), LAYER, media.LAYER))))
    assert minidocker(there.home, "run", "image", "/f").returncode == 126  # it is tried
    load(there, stored(archived(layout(config_of(architecture="s390x"), LAYER, media.LAYER))))
    assert "s390x" in minidocker(there.home, "run", "image", "/f").stderr


def test_an_attestation_beside_an_image(there):
    statement = document({"schemaVersion": 2, "config": {}, "layers": [{"mediaType": "application/vnd.in-toto+json"}]})
    attested = {
        "mediaType": media.MANIFEST,
        "digest": f"sha256:{hashlib.sha256(statement).hexdigest()}",
        "size": len(statement),
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
        "platform": {"os": "unknown", "architecture": "unknown"},
    }
    other = {**attested, "platform": {"os": "linux", "architecture": "s390x"}}
    for beside in ([attested], [attested, other]):
        files = layout(config_of(), LAYER, media.LAYER, beside, platform=media.platform())
        files[f"blobs/sha256/{attested['digest'][7:]}"] = statement
        assert load(there, stored(archived(files))) == ["docker.io/library/image:latest"]


@pytest.mark.parametrize("name", ["Cmd", "Entrypoint"])
def test_a_command_that_is_a_text(there, name):
    load(there, stored(archived(layout(config_of(config={name: "/f"}), LAYER, media.LAYER))))
    assert find(there, "image").config["config"][name] == ["/f"]


def test_a_variable_without_a_name_and_a_volume_without_a_slash(there):
    inner = {"Env": ["PATH=/bin", "=x"], "Volumes": {"data": {}}, "Cmd": ["/f"]}
    load(there, stored(archived(layout(config_of(config=inner), LAYER, media.LAYER))))
    assert find(there, "image").config["config"]["Volumes"] == {"/data": {}}
    assert minidocker(there.home, "run", "image").returncode == 126


@pytest.mark.parametrize("kind", [tar.FIFO, tar.CHARACTER, tar.DIRECTORY])
def test_a_document_of_an_archive_that_is_no_file(there, kind):
    odd = entry(b"manifest.json", kind, 0o666, major=1, minor=5)
    assert "has no such file" in refused(load, there, stored(archive((odd, b""))))
