"""Chapter 5: pull and push, with Debian's registry, and with one that lies, stalls, forgets and sends us elsewhere."""

import base64
import contextlib
import hashlib
import itertools
import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from minidocker.images import manifest as media
from minidocker.images import registry, transfer
from minidocker.images.image import find, make
from minidocker.images.registry import Unreachable, credentials, may_ask, url_of
from minidocker.images.store import Store
from minidocker.images.transfer import pull, push
from minidocker.outcome import ContainerError
from tests.helpers import REPO, need
from tests.helpers.images import minidocker, refused
from tests.helpers.registries import (
    CONFIG,
    HTPASSWD,
    Registry,
    basic,
    certificate,
    contents,
    debian_registry,
    image,
    tls,
    tree,
)

pytestmark = [
    pytest.mark.chapter(5),
    pytest.mark.skipif(os.geteuid() != 0, reason="layers have owners: unpacking them needs root"),
    pytest.mark.usefixtures("own_home"),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """No waiting, no login and no proxy of whoever runs the tests."""
    monkeypatch.setattr(registry.Registry, "timeout", 5.0)
    monkeypatch.setattr(registry.Registry, "backoff", 0.01)
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("MINIDOCKER_M") or name == "MINIDOCKER_AUTH":
            monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def debian(tmp_path):
    """Debian's registry."""
    need(shutil.which("docker-registry"), "needs docker-registry: run vagrant/provision.sh")
    with debian_registry(tmp_path / "registry") as name:
        yield name


@pytest.fixture
def server(app):
    """A registry of our own that has it as app:1."""
    with Registry() as server:
        server.serve(app)
        yield server


# --- there and back --------------------------------------------------------------------------------------------------


def test_what_is_pushed_is_pulled(debian, here, there, app):
    here.tag(f"{debian}/team/app:1", app.descriptor)
    assert push(here, f"{debian}/team/app:1")["digest"] == app.descriptor["digest"]
    pulled = pull(there, f"{debian}/team/app:1")
    assert pulled.descriptor["digest"] == app.descriptor["digest"] and pulled.id == app.id
    for digest in app.digests():
        assert Path(there.blob(digest)).read_bytes() == Path(here.blob(digest)).read_bytes()
    assert Path(pulled.layers()[0], "bin/hello").read_text() == "#!/bin/sh\necho hello app\n"
    assert find(there, f"{debian}/team/app:1").id == app.id
    assert not os.listdir(there.tmp)


def test_by_digest(debian, here, there, app):
    here.tag(f"{debian}/app", app.descriptor)
    push(here, f"{debian}/app")
    name = f"{debian}/app@{app.descriptor['digest']}"
    assert pull(there, name).id == app.id == find(there, name).id
    assert "HTTP 404" in refused(pull, there, f"{debian}/app@sha256:{'0' * 64}")
    assert "push a tag" in refused(push, there, name)


def test_only_what_is_missing_travels(server, there, here, app, tmp_path):
    first = pull(there, f"{server.name}/app:1")
    del server.requests[:]
    assert pull(there, f"{server.name}/app:1").id == first.id
    assert [path for _, path, _ in server.requests] == ["/v2/app/manifests/1"]
    other = image(here, "", [tmp_path / "base", tree(tmp_path / "new", "new")])
    server.serve(other, "2")
    del server.requests[:]
    pull(there, f"{server.name}/app:2")
    fetched = {path.rpartition("/")[2] for _, path, _ in server.requests if "/blobs/" in path}
    assert fetched == {other.id, other.manifest["layers"][1]["digest"]}


def test_a_connection_is_used_again(server, here, there, app):
    """A new one costs round trips, three with TLS; each thread has one."""
    server.blobs.clear()
    here.tag(f"{server.name}/app", app.descriptor)
    push(here, f"{server.name}/app")
    assert len(server.requests) == 3 * 3 + 1 and server.connections <= transfer.PARALLEL
    server.connections = 0
    pull(there, f"{server.name}/app")
    assert server.connections <= transfer.PARALLEL


def test_push_says_what_it_did(debian, here, app, capsys):
    here.tag(f"{debian}/one/app", app.descriptor)
    said = []
    for name in ("one/app", "one/app"):
        push(here, f"{debian}/{name}", True)
        said.append({line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()})
    assert said == [{"Pushed"}, {"Layer already exists"}]


def test_what_was_pulled_runs(debian, here, tmp_path):
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    need(shutil.which("busybox"), "needs busybox-static: run vagrant/provision.sh")
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    made = image(here, f"{debian}/busy", [root], {"Cmd": ["sh", "-c", "echo it runs; exit 3"]})
    push(here, f"{debian}/busy")
    fresh = tmp_path / "fresh"
    ran = minidocker(fresh, "run", "--rm", f"{debian}/busy")
    assert (ran.returncode, ran.stdout) == (3, "it runs\n"), ran.stderr
    again = minidocker(fresh, "pull", "-q", f"{debian}/busy")
    assert (again.stdout, again.stderr) == (f"{debian}/busy:latest\n", "")
    assert find(Store(str(fresh)), f"{debian}/busy").id == made.id


# --- platforms -------------------------------------------------------------------------------------------------------


def for_arm(here, tmp_path):
    """An image for another architecture."""
    layer, diff_id = here.add_layer(str(tree(tmp_path / "arm", "arm")))
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    with here.writing():
        return make(here, {"os": "linux", "architecture": "s390x", "config": {}, "rootfs": rootfs}, [layer])


@pytest.mark.parametrize("kind", media.INDEXES)
def test_an_index_has_one_for_each_platform(server, here, there, app, tmp_path, kind):
    arm = for_arm(here, tmp_path)
    server.serve(arm, "arm")
    entries = [
        {**arm.descriptor, "platform": {"os": "linux", "architecture": "s390x", "variant": "v9"}},
        {**app.descriptor, "platform": {"os": "unknown", "architecture": "unknown"}},  # an attestation, as buildx adds
        {**app.descriptor, "platform": media.platform()},
    ]
    server.document({"schemaVersion": 2, "mediaType": kind, "manifests": entries}, "all")
    assert pull(there, f"{server.name}/app:all").id == app.id
    assert pull(there, f"{server.name}/app:all", "linux/s390x").id == arm.id
    assert pull(there, f"{server.name}/app:all", "linux/s390x/v9").id == arm.id
    text = refused(pull, there, f"{server.name}/app:all", "linux/mips")
    assert "no image for linux/mips; there are linux/s390x/v9 unknown/unknown linux/" in text


def test_an_index_in_an_index(server, there, app):
    inner = {**app.descriptor}
    for _ in range(2):
        inner = server.document({"schemaVersion": 2, "mediaType": media.INDEX, "manifests": [inner]}, "deep")
    assert pull(there, f"{server.name}/app:deep").id == app.id
    for _ in range(2):
        inner = server.document({"schemaVersion": 2, "mediaType": media.INDEX, "manifests": [inner]}, "deeper")
    assert "an index of indexes" in refused(pull, there, f"{server.name}/app:deeper")


@pytest.mark.parametrize("kind", ["", "text/plain; charset=utf-8", "application/json", "application/octet-stream"])
def test_a_server_that_knows_no_media_types(server, there, app, kind):
    """Then the document's own word counts; one that has none is refused."""
    server.document(app.manifest, "plain", kind="x/y")
    server.manifests["plain"] = kind, server.manifests["plain"][1]
    assert pull(there, f"{server.name}/app:plain").id == app.id
    server.manifests["none"] = kind, json.dumps({**app.manifest, "mediaType": None}).encode()
    assert "cannot use the media type" in refused(pull, there, f"{server.name}/app:none")


# --- who we are ------------------------------------------------------------------------------------------------------


def docker_login(registry, pair, tmp_path):
    """What docker login writes."""
    (tmp_path / "docker").mkdir(exist_ok=True)
    auth = base64.b64encode(pair.encode()).decode()
    (tmp_path / "docker/config.json").write_text(json.dumps({"auths": {registry: {"auth": auth}}}))


def test_a_password(tmp_path, here, there, app, monkeypatch):
    need(shutil.which("docker-registry"), "needs docker-registry: run vagrant/provision.sh")
    with debian_registry(tmp_path / "registry", HTPASSWD) as name:
        here.tag(f"{name}/app", app.descriptor)
        assert "wants a password: docker login" in refused(push, here, f"{name}/app")
        monkeypatch.setenv("MINIDOCKER_AUTH", f"{name}=ann:wrong")
        assert "HTTP 401" in refused(push, here, f"{name}/app")
        monkeypatch.setenv("MINIDOCKER_AUTH", f"{name}=ann:secret")
        push(here, f"{name}/app")
        monkeypatch.delenv("MINIDOCKER_AUTH")
        docker_login(name, "ann:secret", tmp_path)
        assert pull(there, f"{name}/app").id == app.id
        monkeypatch.setenv("MINIDOCKER_AUTH", "other.example=ann:secret")
        (tmp_path / "docker/config.json").unlink()
        assert "wants a password" in refused(pull, there, f"{name}/app")


@pytest.mark.parametrize(
    "config, problem",
    [
        ("{", "no JSON"),
        ("[]", "a JSON object is expected"),
        ('{"auths": {"localhost:1": {"auth": "%%"}}}', "base64"),
        ('{"auths": {"localhost:1": {"auth": 7}}}', "cannot read the login"),
        ('{"auths": {"localhost:1": {"auth": "YW5u"}}}', "USER:PASSWORD"),
        ('{"auths": [1]}', "cannot read the login"),
        ('{"auths": {"localhost:1": {}}}', None),
        ('{"auths": {"localhost:1": []}}', None),
        ("{}", None),
    ],
)
def test_a_login_file_that_is_broken(tmp_path, config, problem):
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker/config.json").write_text(config)
    if problem:
        assert problem in refused(credentials, "localhost:1")
    else:
        assert not credentials("localhost:1")


def test_docker_hub_has_an_old_name_in_the_login_file(tmp_path):
    docker_login("https://index.docker.io/v1/", "ann:a:b", tmp_path)
    assert credentials("docker.io") == {"Authorization": basic("ann", "a:b")} and not credentials("quay.io")


def with_tokens(server, wanted="t-1"):
    """Let the server demand a token, and give one at /token."""

    def demand(handler):
        if handler.headers.get("Authorization") == f"Bearer {wanted}":
            return False
        scope = "repository:app:pull" + (",push" if handler.command in ("POST", "PUT", "PATCH") else "")
        challenge = f'Bearer realm="http://{server.name}/token",service="tests",scope="{scope}"'
        return handler.answer(401, b"{}", {"WWW-Authenticate": challenge})

    def give(handler):
        return handler.answer(200, json.dumps({"token": wanted, "expires_in": 60}).encode())

    server.rules |= {"/v2/": demand, "/token": give}


def test_a_token_for_anybody(server, there, app):
    with_tokens(server)
    assert pull(there, f"{server.name}/app:1").id == app.id
    assert ["Authorization" in headers for headers in server.asked("/token")] == [False]
    path = next(path for _, path, _ in server.requests if path.startswith("/token"))
    assert path == "/token?service=tests&scope=repository%3Aapp%3Apull"


def test_a_token_for_a_password(server, here, app, tmp_path):
    """The password goes to the server for tokens only. Scopes add up: the token to push is one to pull as well."""
    with_tokens(server)
    demand, more = server.rules["/v2/"], []

    def forget(handler):
        """At the first upload, the token that was enough for HEAD no longer is."""
        if handler.command == "POST" and not more:
            more.append(True)
            del handler.headers["Authorization"]
        return demand(handler)

    server.rules["/v2/"] = forget
    docker_login(server.name, "ann:secret", tmp_path)
    here.tag(f"{server.name}/app", app.descriptor)
    server.blobs.clear()
    push(here, f"{server.name}/app")
    asked = server.asked("/token")
    assert asked and all(headers["Authorization"] == basic("ann", "secret") for headers in asked)
    last = [path for _, path, _ in server.requests if path.startswith("/token")][-1]
    assert "scope=repository%3Aapp%3Apull&" in last and last.endswith("scope=repository%3Aapp%3Apull%2Cpush")
    assert all("secret" not in str(headers) for _, path, headers in server.requests if "/v2/" in path)


def test_a_token_that_has_expired(server, there, app):
    """The registry wants another one for the layers, in the middle of the pull."""
    with_tokens(server)
    demand, first = server.rules["/v2/"], server.manifests["1"][1]

    def expire(handler):
        with_tokens(server, "t-2")
        return handler.answer(200, first, {"Content-Type": media.MANIFEST})

    server.rules = {"/manifests/1": lambda handler: demand(handler) or expire(handler), **server.rules}
    assert pull(there, f"{server.name}/app:1").id == app.id
    assert len(server.asked("/token")) >= 2


@pytest.mark.parametrize(
    "challenge, answer, problem",
    [
        ('Bearer realm="http://HERE/token"', (200, b'{"token": 7}'), "no token"),
        ('Bearer realm="http://HERE/token"', (200, b"{}"), "no token"),
        ('Bearer realm="http://HERE/token"', (200, b'{"token": "a\\r\\nHost: x"}'), "no token"),
        ('Bearer realm="http://HERE/token"', (200, b"[" * 60000), "JSON"),
        ('Bearer realm="http://HERE/token"', (403, b"{}"), "HTTP 403"),
        ('Bearer realm="http://HERE/token"', (200, b'{"token": "wrong"}'), "HTTP 401"),
        ('Bearer realm="http://192.0.2.1/token"', None, "plain HTTP"),
        ('Bearer realm="file:///etc/passwd"', None, "plain HTTP"),
        ('Bearer realm="http://[::1"', None, "an address that is none"),
        ("Bearer", None, "a kind that is not known here"),
        ("Negotiate", None, "a kind that is not known here"),
        ("Digest realm=x\x1b[2J", None, "a kind that is not known here"),
    ],
)
def test_a_login_that_goes_wrong(server, there, tmp_path, challenge, answer, problem):
    docker_login(server.name, "ann:secret", tmp_path)
    challenge = challenge.replace("HERE", server.name)
    server.rules["/v2/"] = lambda handler: handler.answer(401, b"{}", {"WWW-Authenticate": challenge})
    server.rules["/token"] = lambda handler: handler.answer(*answer)
    assert problem in refused(pull, there, f"{server.name}/app:1")
    assert not contents(there)


BEARER = 'Bearer realm="http://HERE/token",service="tests",scope="repository:app:pull"'


@pytest.mark.parametrize(
    "challenges",
    [
        [BEARER, 'Basic realm="reg"'],
        ['Basic realm="reg"', BEARER],
        ["Negotiate", BEARER],
        ["Negotiate YIIabc=, NTLM", 'Digest realm="a, Bearer realm=b", qop="auth,auth-int"', BEARER],
        [f'{BEARER}, Basic realm="reg"'],
        [f'Basic realm="reg", {BEARER}'],
        [BEARER.replace("Bearer", "bEARER").replace("realm", "Realm").replace("service", "SERVICE")],
        [BEARER.replace('",', '" ,\t').replace("=", " = ", 1)],
        ['Bearer realm="/token",service=tests,scope="repository:app:pull"'],
        [BEARER.replace('"tests"', '"a \\"quoted\\" one"')],
    ],
)
def test_several_challenges_in_one_401(server, there, app, tmp_path, challenges):
    """RFC 9110 allows several, in one header or in many. We take Bearer; the password is not sent to the registry."""
    docker_login(server.name, "ann:secret", tmp_path)

    def demand(handler):
        if handler.headers.get("Authorization") == "Bearer t-1":
            return False
        handler.send_response(401)
        for challenge in challenges:
            handler.send_header("WWW-Authenticate", challenge.replace("HERE", server.name))
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    with_tokens(server)
    server.rules["/v2/"] = demand
    assert pull(there, f"{server.name}/app:1").id == app.id
    assert {headers.get("Authorization") for headers in server.asked("/v2/")} == {None, "Bearer t-1"}
    (path,) = {path for _, path, _ in server.requests if path.startswith("/token")}
    assert "scope=repository%3Aapp%3Apull" in path and ("service=tests" in path or "%22quoted%22" in path)


def test_basic_beside_what_is_not_known_here(server, there, app, tmp_path):
    docker_login(server.name, "ann:secret", tmp_path)
    server.rules["/v2/"] = lambda handler: (
        handler.headers.get("Authorization") != basic("ann", "secret")
        and handler.answer(401, b"", {"WWW-Authenticate": 'Negotiate, Basic realm="a, b", NTLM'})
    )
    assert pull(there, f"{server.name}/app:1").id == app.id


# --- a registry that lies --------------------------------------------------------------------------------------------


def manifest_of(app, **changes):
    """The manifest of the image, changed."""
    return {**json.loads(json.dumps(app.manifest)), **changes}


def with_layer(app, **changes):
    """The manifest of the image, its last layer's descriptor changed."""
    *others, last = json.loads(json.dumps(app.manifest["layers"]))
    return manifest_of(app, layers=[*others, {**last, **changes}])


def last_layer(app):
    return app.manifest["layers"][-1]["digest"]


def other_config(server, app, **changes):
    """A manifest with a config of its own."""
    data = json.dumps({**app.config, **changes}).encode()
    return manifest_of(app, config=server.blob(data, media.CONFIG))


LIES = {
    "a manifest that is no JSON": (lambda s, a: s.document(b"{", "1"), "no JSON"),
    "a manifest that is a list": (lambda s, a: s.document(b"[]", "1"), "a JSON object is expected"),
    "a manifest that is deep": (lambda s, a: s.document(b'{"a":' * 100_000, "1"), "JSON"),
    "a manifest that is huge": (lambda s, a: s.document(b" " * (5 << 20), "1"), "more than 4194304 bytes"),
    "a web page": (lambda s, a: s.document(b"{}", "1", kind="text/html"), "a web page: this is not a registry"),
    "another type inside": (
        lambda s, a: s.document(manifest_of(a, mediaType=media.INDEX), "1", kind=media.MANIFEST),
        "and is none",
    ),
    "schema 1": (
        lambda s, a: s.document(
            {"schemaVersion": 1, "fsLayers": []}, "1", kind="application/vnd.docker.distribution.manifest.v1+prettyjws"
        ),
        "cannot use the media type",
    ),
    "schema 3": (lambda s, a: s.document(manifest_of(a, schemaVersion=3), "1"), "no image manifest of schema 2"),
    "no layers": (lambda s, a: s.document(manifest_of(a, layers=None), "1"), "no image manifest"),
    "a layer too many": (
        lambda s, a: s.document(manifest_of(a, layers=a.manifest["layers"] * 2), "1"),
        "does not name one diff ID for each of its 4 layers",
    ),
    "501 layers": (lambda s, a: s.document(manifest_of(a, layers=a.manifest["layers"][:1] * 501), "1"), "501 layers"),
    "a digest that climbs": (lambda s, a: s.document(with_layer(a, digest="sha256:../../../x"), "1"), "is no digest"),
    "a digest of another kind": (lambda s, a: s.document(with_layer(a, digest="md5:" + "0" * 32), "1"), "is no digest"),
    "a digest that is a number": (lambda s, a: s.document(with_layer(a, digest=7), "1"), "no descriptor"),
    "a negative size": (lambda s, a: s.document(with_layer(a, size=-1), "1"), "a size of -1 bytes"),
    "a size that is text": (lambda s, a: s.document(with_layer(a, size="7"), "1"), "no descriptor"),
    "a size that is too small": (lambda s, a: s.document(with_layer(a, size=10), "1"), "not the 10 bytes"),
    "a size that is too large": (lambda s, a: s.document(with_layer(a, size=10**6), "1"), "not the 1000000 bytes"),
    "a size that fits no disk": (lambda s, a: s.document(with_layer(a, size=10**18), "1"), "10000000"),
    "a foreign layer": (
        lambda s, a: s.document(
            with_layer(a, mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "1"
        ),
        "cannot use the media type",
    ),
    "a layer that is not to be distributed": (
        lambda s, a: s.document(
            with_layer(a, mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"), "1"
        ),
        "cannot use the media type",
    ),
    "another layer": (lambda s, a: s.blobs.update({last_layer(a): s.blobs[a.id]}), "bytes"),
    "a changed layer": (
        lambda s, a: s.blobs.update({last_layer(a): bytes(len(s.blobs[last_layer(a)]))}),
        "the digest",
    ),
    "a longer layer": (lambda s, a: s.blobs.update({last_layer(a): s.blobs[last_layer(a)] + b"x"}), "bytes, not the"),
    "no such layer": (lambda s, a: s.blobs.pop(last_layer(a)), "HTTP 404"),
    "a config that is huge": (
        lambda s, a: s.document(manifest_of(a, config={**a.manifest["config"], "size": 5 << 20}), "1"),
        "a config of 5242880 bytes",
    ),
    "a config that is none": (
        lambda s, a: s.document(manifest_of(a, config=s.blob(b"[]", media.CONFIG)), "1"),
        "a JSON object is expected",
    ),
    "a config of another type": (
        lambda s, a: s.document(manifest_of(a, config={**a.manifest["config"], "mediaType": "x/y"}), "1"),
        "cannot use the media type 'x/y'",
    ),
    "a config whose Cmd is a number": (
        lambda s, a: s.document(other_config(s, a, config={"Cmd": 7}), "1"),
        "a Cmd that cannot be",
    ),
    "another diff ID": (
        lambda s, a: s.document(
            other_config(s, a, rootfs={"type": "layers", "diff_ids": [a.diff_ids[0], f"sha256:{'0' * 64}"]}), "1"
        ),
        "has the digest",
    ),
    "a diff ID that climbs": (
        lambda s, a: s.document(
            other_config(s, a, rootfs={"type": "layers", "diff_ids": [a.diff_ids[0], "sha256:../../x"]}), "1"
        ),
        "is no digest",
    ),
    "a header that names another digest": (
        lambda s, a: s.rules.update(
            {
                "/manifests/": lambda handler: handler.answer(
                    200,
                    s.manifests["1"][1],
                    {"Content-Type": media.MANIFEST, "Docker-Content-Digest": f"sha256:{'1' * 64}"},
                )
            }
        ),
        "it sent a manifest with the digest",
    ),
    "an index whose entry is another": (
        lambda s, a: s.manifests.update(
            {
                "1": s.manifests[
                    s.document(
                        {
                            "schemaVersion": 2,
                            "mediaType": media.INDEX,
                            "manifests": [{**a.descriptor, "digest": f"sha256:{'2' * 64}"}],
                        },
                        "x",
                    )["digest"]
                ],
                f"sha256:{'2' * 64}": s.manifests["1"],
            }
        ),
        "it sent a manifest with the digest",
    ),
    "two images in one": (
        lambda s, a: s.document(manifest_of(a, manifests=[]), "1"),
        "a manifest that is an index as well",
    ),
    "two images in one, the other way": (
        lambda s, a: s.document(manifest_of(a, manifests=[a.descriptor], mediaType=media.INDEX), "1"),
        "an index that is a manifest as well",
    ),
    "an index with no entries": (
        lambda s, a: s.document({"schemaVersion": 2, "mediaType": media.INDEX, "manifests": 7}, "1"),
        "no image for",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_registry_that_lies(server, there, app, lie):
    tell, problem = LIES[lie]
    tell(server, app)
    assert problem in refused(pull, there, f"{server.name}/app:1")
    assert not contents(there)


def test_a_layer_without_end(server, there, app):
    """It does not say how long it is, and is read no further than the descriptor says."""
    sent = []

    def endless():
        yield server.blobs[last_layer(app)]
        while True:
            sent.append(1)
            yield b"x" * 65536

    server.rules[last_layer(app)] = lambda handler: handler.chunks(endless())
    assert "it sends more than" in refused(pull, there, f"{server.name}/app:1")
    assert len(sent) < 200 and not contents(there)  # as much as sockets hold


def test_a_layer_of_unknown_length(server, there, app):
    """The same, honestly."""
    data = server.blobs[last_layer(app)]
    server.rules[last_layer(app)] = lambda handler: handler.chunks([data[:100], data[100:]])
    assert pull(there, f"{server.name}/app:1").id == app.id


def test_a_lie_about_a_layer_that_is_here(server, there, app):
    pull(there, f"{server.name}/app:1")
    before = contents(there)
    server.document(with_layer(app, size=7), "2")
    assert "bytes, and not 7" in refused(pull, there, f"{server.name}/app:2")
    assert contents(there) == before


def test_a_layer_that_is_there_twice(server, here, there, tmp_path):
    base = tree(tmp_path / "twice", "twice")
    server.serve(image(here, "", [base, base]), "2")
    assert len(set(pull(there, f"{server.name}/app:2").layers())) == 1
    assert len(server.asked("/blobs/")) == 2


# --- a registry that has a bad day -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, meaning",
    [
        (400, "an answer that does not fit"),
        (401, "it does not let us in"),
        (403, "it does not allow that"),
        (404, "check the name and the tag"),
        (418, "an answer that does not fit"),
        (429, "set MINIDOCKER_MIRROR"),
        (500, "try later"),
        (503, "try later"),
    ],
)
@pytest.mark.parametrize("what", ["/manifests/", "/blobs/"])
def test_an_answer_that_is_a_refusal(server, there, status, meaning, what):
    body = json.dumps({"errors": [{"code": "X", "message": "red \x1b[31m alert\n"}]}).encode()
    server.rules[what] = lambda handler: handler.answer(status, body)
    text = refused(pull, there, f"{server.name}/app:1")
    assert f"HTTP {status}: " in text and meaning in text and text.endswith("red ?[31m alert?")
    assert not contents(there)


@pytest.mark.parametrize("body", [b"", b"x", b"[]", b'{"errors": []}', b'{"errors": [7]}', b"[" * 65536, b"x" * 70000])
def test_a_refusal_without_a_reason(server, there, body):
    server.rules["/v2/"] = lambda handler: handler.answer(403, body)
    assert refused(pull, there, f"{server.name}/app:1").endswith("logged in?")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes_is_waited_for(server, there, app, status):
    answers = [status, status]
    server.rules["/v2/"] = lambda handler: bool(answers) and handler.answer(answers.pop(), b"{}", {"Retry-After": "0"})
    assert pull(there, f"{server.name}/app:1").id == app.id


def test_the_registry_says_how_long(server, there, app, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    waits = ["7", "nonsense", "9" * 5000]  # of more than 4300 digits int() makes an error
    server.rules["/manifests/"] = lambda handler: (
        bool(waits) and handler.answer(429, b"{}", {"Retry-After": waits.pop(0)})
    )
    assert pull(there, f"{server.name}/app:1").id == app.id
    assert slept[0] == 7 and all(0 < pause < 1 for pause in slept[1:]), slept


def test_how_long_as_a_date(server, there, app, monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    waits = [formatdate(time.time() + 10, usegmt=True), formatdate(time.time() - 3600, usegmt=True), "Wed, 99 Foo"]
    server.rules["/manifests/"] = lambda handler: (
        bool(waits) and handler.answer(429, b"{}", {"Retry-After": waits.pop(0)})
    )
    assert pull(there, f"{server.name}/app:1").id == app.id
    assert 7 < slept[0] <= 10 and all(0 < pause < 1 for pause in slept[1:]), slept
    server.rules["/v2/"] = lambda handler: handler.answer(503, b"", {"Retry-After": formatdate(time.time() + 7200)})
    assert re.search(r"\(it says: in 7[12]\d\d seconds\)", refused(pull, there, f"{server.name}/app:1"))


def test_nobody_waits_for_hours(server, there):
    """Docker Hub's limit is counted over six hours."""
    server.rules["/v2/"] = lambda handler: handler.answer(429, b"{}", {"Retry-After": "21600"})
    assert "(it says: in 21600 seconds)" in refused(pull, there, f"{server.name}/app:1")
    assert len(server.requests) == 1


@pytest.mark.parametrize("what", ["/manifests/", "/blobs/"])
def test_a_registry_that_stalls(server, there, monkeypatch, what):
    """It takes the request and says nothing more; or begins an answer and does not end it."""
    monkeypatch.setattr(registry.Registry, "timeout", 0.2)
    monkeypatch.setattr(registry.Registry, "retries", 1)
    over = threading.Event()

    def stall(handler):
        if what == "/blobs/":
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(server.blobs[handler.path.rpartition("/")[2]])))
            handler.end_headers()
            handler.wfile.write(b"{" * 10)
        over.wait(30)
        handler.close_connection = True
        return True

    server.rules[what] = stall
    try:
        assert "no answer: Read timed out" in refused(pull, there, f"{server.name}/app:1", kind=Unreachable)
    finally:
        over.set()
    assert not contents(there)


def test_a_connection_that_is_cut_goes_on_where_it_stopped(server, there, app):
    layer = last_layer(app)
    cuts = [100, 200]

    def partial(handler):
        """Hang up after 200 bytes, then after 100 more; then send the rest."""
        span = handler.headers.get("Range")
        if not span or not cuts:
            return bool(cuts) and handler.cut(server.blobs[layer], cuts.pop())
        begin, data = int(re.sub(r"\D", "", span)), server.blobs[layer]
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - begin))
        handler.end_headers()
        handler.wfile.write(data[begin : begin + cuts.pop()])
        handler.close_connection = True
        return True

    server.rules[layer] = partial
    assert pull(there, f"{server.name}/app:1").id == app.id
    assert [headers.get("Range") for headers in server.asked(layer)] == [None, "bytes=200-", "bytes=300-"]


def test_a_connection_that_is_cut_at_the_end(server, there):
    """All is here, but for the line that says so. To ask for what follows the last byte would be an error, 416."""
    data = bytes(1 << 16)  # one piece: less, and what came before the cut is lost with it
    descriptor = server.blob(data, media.LAYER)

    def almost(handler):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        handler.close_connection = True
        return True

    server.rules[descriptor["digest"]] = almost
    with registry.Registry(server.name, "app") as client:
        transfer.fetch(there, client, descriptor, lambda count: None)
    assert Path(there.blob(descriptor["digest"])).read_bytes() == data
    assert len(server.asked(descriptor["digest"])) == 1


def test_a_registry_that_knows_no_ranges(server, there, app):
    """It sends all of it again."""
    layer, cuts = last_layer(app), [500]
    server.rules[layer] = lambda handler: (
        handler.cut(server.blobs[layer], cuts.pop()) if cuts else handler.answer(200, server.blobs[layer])
    )
    assert pull(there, f"{server.name}/app:1").id == app.id


def test_a_registry_that_sends_another_part(server, there, app):
    layer, cuts = last_layer(app), [500]
    data = server.blobs[layer]
    server.rules[layer] = lambda handler: (
        handler.cut(data, cuts.pop())
        if cuts
        else handler.answer(206, data[400:], {"Content-Range": f"bytes 400-{len(data) - 1}/{len(data)}"})
    )
    assert re.search("bytes 400-.*, not the .* bytes from 500", refused(pull, there, f"{server.name}/app:1"))
    assert not contents(there)


def test_a_connection_that_is_cut_each_time(server, there, app, monkeypatch):
    """The network's fault: whole layers stay for the next try, and are gone when that is given up."""
    monkeypatch.setattr(registry.Registry, "retries", 2)
    layer = last_layer(app)
    server.rules[layer] = lambda handler: handler.cut(server.blobs[layer], 0)
    refused(pull, there, f"{server.name}/app:1", kind=Unreachable)
    assert not there.tags() and not os.listdir(there.tmp) and not there.has(layer)
    del server.rules[layer]
    del server.requests[:]
    assert pull(there, f"{server.name}/app:1").id == app.id
    assert len(server.asked("/blobs/")) <= 2
    there.untag(f"{server.name}/app:1")
    there.collect()
    assert not contents(there)


def test_nobody_there(there):
    from tests.helpers.registries import free_port

    text = refused(pull, there, f"localhost:{free_port()}/app", kind=Unreachable)
    assert text.endswith("no answer: Connection refused")
    text = refused(pull, there, "nowhere.invalid/app", kind=Unreachable)
    assert "no answer" in text and "nowhere.invalid" in text and "Errno" not in text
    assert not contents(there)


def test_not_http(there):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def babble():
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as peer:
                        peer.recv(4096)
                        peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\x1b[31m\r\n" * 10)

        thread = threading.Thread(target=babble)
        thread.start()
        refused(pull, there, f"127.0.0.1:{listener.getsockname()[1]}/app", kind=Unreachable)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


# --- elsewhere -------------------------------------------------------------------------------------------------------


def test_a_redirect_gets_no_password(server, there, app, tmp_path):
    """As Docker Hub does with its blobs. The other host is the same machine under another name."""
    docker_login(server.name, "ann:secret", tmp_path)

    def demand(handler):
        if not handler.headers.get("Authorization"):
            return handler.answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
        if "/blobs/" in handler.path:
            return handler.answer(307, b"", {"Location": f"http://{cdn.name}/cdn{handler.path}?signature=1"})
        return False

    with Registry("127.0.0.2") as cdn:
        cdn.blobs = server.blobs
        cdn.rules["/cdn/"] = lambda handler: handler.ranged(
            cdn.blobs[handler.path.rpartition("/")[2].partition("?")[0]]
        )
        server.rules["/v2/"] = demand
        assert pull(there, f"{server.name}/app:1").id == app.id
        assert len(cdn.requests) == 3 and not any("Authorization" in headers for _, _, headers in cdn.requests)
    assert all(headers["Authorization"] == basic("ann", "secret") for headers in server.asked("/blobs/"))


def test_a_redirect_that_asks_for_a_password_gets_none(server, there, tmp_path):
    docker_login(server.name, "ann:secret", tmp_path)
    with Registry("127.0.0.2") as other:
        docker_login(server.name, "ann:secret", tmp_path)
        other.rules["/"] = lambda handler: handler.answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
        server.rules["/v2/"] = lambda handler: handler.answer(302, b"", {"Location": f"http://{other.name}/"})
        assert "HTTP 401" in refused(pull, there, f"{server.name}/app:1")
        assert not any("Authorization" in headers for _, _, headers in other.requests)


@pytest.mark.parametrize(
    "place, problem",
    [
        ("/v2/app/manifests/1", "HTTP 302"),
        ("http://192.0.2.1/secret", "plain HTTP"),
        ("file:///etc/passwd", "plain HTTP"),
        ("http://localhost:99999999/", "an address that is none"),
        ("http://[", "an address that is none"),
    ],
)
def test_a_redirect_to_nowhere(server, there, place, problem):
    server.rules["/v2/"] = lambda handler: handler.answer(302, b"", {"Location": place})
    assert problem in refused(pull, there, f"{server.name}/app:1")
    assert len(server.requests) <= 6 and not contents(there)


def test_where_plain_http_is_spoken(monkeypatch):
    monkeypatch.setenv("MINIDOCKER_INSECURE", "room.example:5000,10.1.2.3")
    for name in (
        "localhost",
        "localhost:5000",
        "127.0.0.1",
        "127.9.9.9:80",
        "[::1]:5000",
        "room.example:5000",
        "10.1.2.3",
    ):
        assert url_of(name) == f"http://{name}"
    for name in ("room.example", "127.evil.example", "10.1.2.4", "localhost.example:5000", "ghcr.io"):
        assert url_of(name) == f"https://{name}"
    assert url_of("docker.io") == "https://registry-1.docker.io"
    assert not may_ask("http://localhost:8080/admin", "https://ghcr.io")
    assert not may_ask("https://localhost:8443/admin", "https://ghcr.io")
    assert may_ask("http://localhost:8080/token", "http://localhost:5000")
    assert may_ask("http://room.example:5000/x", "https://ghcr.io")
    assert not may_ask("http://cdn.example/x", "http://room.example:5000")


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "0x7f.1",
        "0177.1",
        "2130706433",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1%25lo]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "LOCALHOST",
        "localhost.",
        "localhost%2e",
    ],
)
def test_this_machine_has_many_names(host):
    """All of them reach servers here, and a registry elsewhere must not lead us to them."""
    for scheme in ("http", "https"):
        assert not may_ask(f"{scheme}://{host}:8080/admin", "https://ghcr.io")
        assert not may_ask(f"{scheme}://ghcr.io@{host}/admin", "https://ghcr.io")
        assert not may_ask(f"{scheme}://{host}:8080\\@ghcr.io/admin", "https://ghcr.io")
        assert not may_ask(f"{scheme}://{host}:8080#@ghcr.io/admin", "https://ghcr.io")


@pytest.mark.parametrize("host", ["0.pool.example", "127.example", "localhost.example", "[fe80::1]", "1.127.0.0"])
def test_other_machines_look_alike(host):
    assert may_ask(f"https://{host}/blob", "https://ghcr.io")


@pytest.mark.parametrize("url", ["https://evil.example\\@ghcr.io/", "https://evil.example#@ghcr.io", "http://ghcr.io"])
def test_what_only_looks_like_the_registry_gets_no_password(url):
    """urllib3, which connects, and urllib.parse do not agree on where the host ends."""
    assert registry.origin(url) != registry.origin("https://ghcr.io")
    assert registry.origin("https://GHCR.io:443/x") == registry.origin("https://ghcr.io")


def test_tls(there, app, tmp_path, monkeypatch):
    """A certificate that nobody vouches for is refused, until somebody does."""
    need(shutil.which("openssl"), "needs openssl: apt-get install openssl")
    path = certificate(tmp_path / "certificate")
    server = Registry()
    tls(server, path)
    with server:
        server.serve(app)
        monkeypatch.setattr(registry, "HUB_URL", f"https://localhost:{server.server_address[1]}")
        text = refused(pull, there, "app:1", kind=Unreachable)
        assert "SSL_CERT_FILE can name" in text and "self-signed certificate" in text.replace(
            "self signed", "self-signed"
        )
        monkeypatch.setenv("SSL_CERT_FILE", f"{path}.crt")
        with pytest.raises(ContainerError, match="HTTP 404"):  # it has no library/app: but now we do talk
            pull(there, "app:2")


def test_a_mirror_is_asked_first(server, there, app, monkeypatch, capsys):
    with Registry() as hub:
        hub.serve(app, "hub")
        monkeypatch.setattr(registry, "HUB_URL", f"http://{hub.name}")
        for mirror in (server.name, f"http://{server.name}"):
            monkeypatch.setenv("MINIDOCKER_MIRROR", mirror)
            assert pull(there, "app:1").id == app.id == find(there, "app:1").id
        assert not hub.requests and server.asked("/v2/library/app/manifests/1")
        assert pull(there, "app:hub", show=True).id == app.id
        assert "asking docker.io itself" in capsys.readouterr().err
        before = len(server.requests)
        assert "HTTP 404" in refused(pull, there, f"{hub.name}/app:none")
        assert len(server.requests) == before  # it mirrors docker.io only


def test_a_mirror_that_lies_is_passed_over(server, there, app, monkeypatch, capsys):
    """Also in the middle of its layers. A password in its address is not shown."""
    with Registry() as hub:
        hub.serve(app)
        monkeypatch.setattr(registry, "HUB_URL", f"http://{hub.name}")
        monkeypatch.setenv("MINIDOCKER_MIRROR", f"http://ann:secret@{server.name}")
        server.blobs[last_layer(app)] = bytes(len(server.blobs[last_layer(app)]))
        assert pull(there, "app:1", show=True).id == app.id
        said = capsys.readouterr().err
        assert "asking docker.io itself" in said and "secret" not in said and hub.asked(last_layer(app))


def test_a_proxy(server, there, app, monkeypatch):
    """The proxy of the environment is asked for a host that is not this machine."""
    monkeypatch.setenv("http_proxy", f"http://{server.name}")
    monkeypatch.setenv("MINIDOCKER_INSECURE", "registry.invalid")
    assert pull(there, "registry.invalid/app:1").id == app.id
    assert server.requests[0][1] == "http://registry.invalid/v2/app/manifests/1"


# --- pushing to a registry that has a bad day ------------------------------------------------------------------------


@pytest.fixture
def large(here, tmp_path, server):
    """An image to be pushed to a server that has nothing."""
    made = image(here, f"{server.name}/app:1", [tree(tmp_path / "large", "large", 30_000)])
    server.blobs.clear()
    server.manifests.clear()
    return made


def test_a_real_registry_goes_on_where_it_stopped(debian, here, there, tmp_path):
    """Something between us and Debian's registry cuts connections after some bytes: on the way there the first three,
    in the middle of an upload, which then begins anew; on the way back all.
    """
    made = image(here, "", [tree(tmp_path / "big", "big", 700_000)])
    target = int(debian.rpartition(":")[2])
    with cutting(target, itertools.chain([250_000] * 3, itertools.repeat(1 << 30))) as port:
        here.tag(f"localhost:{port}/app", made.descriptor)
        push(here, f"localhost:{port}/app")
    with cutting(target, itertools.repeat(250_000)) as port:
        assert pull(there, f"localhost:{port}/app").id == made.id


@contextlib.contextmanager
def cutting(target, limits):
    """A port that leads to another, and cuts each connection after so many bytes in either direction."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def carry(source, sink, left):
        with contextlib.suppress(OSError):
            while left > 0 and (data := source.recv(min(left, 65536))):
                sink.sendall(data)
                left -= len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", target))
                limit = next(limits)
                pair = [threading.Thread(target=carry, args=(a, b, limit)) for a, b in ((near, far), (far, near))]
                threads.append((pair, near, far))
                for thread in pair:
                    thread.start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for pair, near, far in threads:
            for end in (near, far):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            for thread in pair:
                thread.join()
            near.close()
            far.close()


def rule(method, answer):
    """A rule for one method."""
    return lambda handler: handler.command == method and answer(handler)


@pytest.mark.parametrize(
    "part, method, answer, problem",
    [
        ("/uploads/", "POST", (403, b"{}"), "HTTP 403"),
        ("/uploads/", "POST", (401, b"{}"), "HTTP 401"),
        ("/uploads/", "POST", (202, b""), "did not say where"),
        ("/uploads/", "POST", (202, b"", {"Location": "http://192.0.2.1/x"}), "plain HTTP"),
        ("/uploads/", "PUT", (400, b'{"errors":[{"code":"DIGEST_INVALID"}]}'), "DIGEST_INVALID"),
        ("/uploads/", "PUT", (429, b"{}"), "HTTP 429"),
        ("/manifests/", "PUT", (400, b"{}"), "HTTP 400"),
        ("/manifests/", "PUT", (201, b"", {"Docker-Content-Digest": "sha256:x"}), "has the digest sha256:x"),
    ],
)
def test_a_push_that_fails(server, here, large, part, method, answer, problem):
    before = contents(here)
    server.rules[part] = rule(method, lambda handler: handler.answer(*answer))
    assert problem in refused(push, here, f"{server.name}/app:1")
    assert contents(here) == before
    assert "1" not in server.manifests


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_success_is_one(server, here, large, status):
    """quay.io answers 202 to a manifest. What counts is that the registry took it."""

    def other_status(handler):
        answer = handler.answer
        handler.answer = lambda code, data=b"", headers=None: answer(status if code == 201 else code, data, headers)
        return False

    server.rules["/v2/"] = rule("PUT", other_status)
    push(here, f"{server.name}/app:1")
    assert "1" in server.manifests and large.manifest["layers"][0]["digest"] in server.blobs


@pytest.mark.parametrize("status", [401, 403, 404, 405, 501])
def test_a_registry_that_does_not_say_what_it_has(server, here, large, status):
    """HEAD is only to spare an upload. A web page that a proxy answers with instead is no layer that is there."""
    server.rules["/blobs/sha256:"] = rule("HEAD", lambda handler: handler.answer(status))
    push(here, f"{server.name}/app:1")
    assert large.manifest["layers"][0]["digest"] in server.blobs
    server.blobs.clear()
    server.rules["/blobs/sha256:"] = rule(
        "HEAD", lambda handler: handler.answer(200, b"<html>", {"Content-Type": "text/html"})
    )
    push(here, f"{server.name}/app:1")
    assert large.manifest["layers"][0]["digest"] in server.blobs


def test_nothing_is_mounted_from_elsewhere(server, here, large):
    """A registry that refuses to lend a blob of another repository once ended a push."""
    here.tag(f"{server.name}/other:1", large.descriptor)
    push(here, f"{server.name}/app:1")
    assert not any("mount=" in path for _, path, _ in server.requests)


@pytest.mark.parametrize("what", ["/manifests/", "/blobs/", "/uploads/"])
def test_a_web_page_is_no_registry(server, here, there, large, what):
    """The login of a hotel's network, or another server on that port."""
    server.serve(large)
    server.rules[what] = lambda handler: handler.answer(200, b"<html>login", {"Content-Type": "text/html; charset=x"})
    if what != "/uploads/":
        text = refused(pull, there, f"{server.name}/app:1")
        assert server.name in text and ("not a registry" in text or "it sends 11 bytes" in text)
    server.blobs.clear()
    if what != "/manifests/":
        assert "is it a registry?" in refused(push, here, f"{server.name}/app:1")
    assert not there.tags()


def test_what_is_not_here_cannot_be_pushed(server, here, large):
    os.unlink(here.blob(large.manifest["layers"][0]["digest"]))
    assert "is not in the store" in refused(push, here, f"{server.name}/app:1")
    assert "no such image" in refused(push, here, f"{server.name}/none")


# --- faults ----------------------------------------------------------------------------------------------------------

PULL = """
import sys
from minidocker.images.store import Store
from minidocker.images.transfer import pull
print("ready", flush=True)
pull(Store(sys.argv[1]), sys.argv[2])
"""


@contextlib.contextmanager
def pulling(store, name):
    """A process that pulls, once it has said that it is ready."""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    with subprocess.Popen(
        [sys.executable, "-c", PULL, store.home, name], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def test_two_pulls_at_once(server, there, app):
    name = f"{server.name}/app:1"
    with pulling(there, name) as one, pulling(there, name) as other:
        assert (one.wait(), other.wait()) == (0, 0), one.stderr.read() + other.stderr.read()
    assert find(there, name).id == app.id and not os.listdir(there.tmp)
    assert len(os.listdir(f"{there.layout}/blobs/sha256")) == 4


def test_a_pull_that_is_killed_leaves_a_whole_store(server, there, app):
    """At any moment. What is there is what it says it is; pruning removes the rest; the next pull succeeds."""
    name, seed = f"{server.name}/app:1", random.randrange(2**32)
    moments = random.Random(seed)
    for _ in range(12):
        with pulling(there, name) as process:
            time.sleep(moments.uniform(0, 0.25))
            process.send_signal(signal.SIGKILL)
        for blob in os.listdir(f"{there.layout}/blobs/sha256"):
            assert hashlib.sha256(Path(there.layout, "blobs/sha256", blob).read_bytes()).hexdigest() == blob, seed
        if name in there.tags():
            assert find(there, name).id == app.id, seed
            there.untag(name)
        if moments.random() < 0.5:
            there.collect()
            assert not contents(there), seed
    assert pull(there, name).id == app.id
    there.collect()
    assert not os.listdir(there.tmp)


@pytest.mark.parametrize("moment", ["manifest", "config", "first layer", "last layer"])
def test_a_pull_that_is_killed_at_each_step(server, there, app, moment):
    """The registry itself says when: it has the request, and does not answer."""
    part = {
        "manifest": "/manifests/",
        "config": app.id,
        "first layer": app.manifest["layers"][0]["digest"],
        "last layer": last_layer(app),
    }[moment]
    reached, over = threading.Event(), threading.Event()

    def hold(handler):
        reached.set()
        over.wait(30)
        handler.close_connection = True
        return True

    server.rules[part] = hold
    try:
        with pulling(there, f"{server.name}/app:1") as process:
            assert reached.wait(30)
            process.send_signal(signal.SIGKILL)
    finally:
        over.set()
    assert not there.tags()
    there.collect()
    assert not contents(there)


def test_a_full_disk(server, here, tmp_path):
    """A state directory with room for the compressed layer and not for its files; and one too small for either."""
    root = tree(tmp_path / "zeros", "zeros")
    (root / "zeros").write_bytes(b"x" * (8 << 20))
    server.serve(image(here, "", [root]), "zeros")
    server.serve(image(here, "", [tree(tmp_path / "large", "large", 3 << 20)]), "large")
    mount = tmp_path / "small"
    mount.mkdir()
    for tag, problem in (("zeros", "room"), ("large", "bytes to store, and")):
        words = f"{sys.executable} -m minidocker pull {server.name}/app:{tag}"
        script = f"mount -t tmpfs -o size=2m small {mount} && exec {words}"
        ran = subprocess.run(
            ["unshare", "-m", "sh", "-c", script],
            env={**os.environ, "PYTHONPATH": str(REPO), "MINIDOCKER_HOME": str(mount)},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 1 and problem in ran.stderr.splitlines()[-1], ran.stderr


def test_a_layer_is_never_in_memory(server, here, there, tmp_path):
    """The largest resident size of a pull does not depend on the size of the layer.

    VmHWM and not getrusage(2), which also counts what the process was before it executed Python: a copy of this one.
    """
    sizes = {}
    code = PULL + "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    for tag, size in (("small", 1000), ("big", 96 << 20)):
        server.serve(image(here, "", [tree(tmp_path / tag, tag, size)]), tag)
        ran = subprocess.run(
            [sys.executable, "-c", code, there.home, f"{server.name}/app:{tag}"],
            env={**os.environ, "PYTHONPATH": str(REPO)},
            capture_output=True,
            text=True,
            check=True,
        )
        sizes[tag] = int(ran.stdout.splitlines()[-1])
    assert sizes["big"] - sizes["small"] < 16 << 10, sizes  # kilobytes


# --- what is shown ---------------------------------------------------------------------------------------------------


def test_lines_where_there_is_no_terminal(server, tmp_path, app):
    fresh = tmp_path / "fresh"
    ran = minidocker(fresh, "pull", f"{server.name}/app:1")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [f"Digest: {app.descriptor['digest']}", f"{server.name}/app:1"]
    layers = {layer["digest"][7:19] for layer in app.manifest["layers"]}
    assert set(ran.stderr.splitlines()) == {"1: Pulling from app", *(f"{layer}: Pull complete" for layer in layers)}
    again = minidocker(fresh, "pull", f"{server.name}/app:1")
    assert all("Already exists" in line for line in again.stderr.splitlines()[1:])
    pushed = minidocker(fresh, "push", f"{server.name}/app:1")
    assert pushed.stdout.splitlines()[-1].startswith(f"1: digest: {app.descriptor['digest']} size: ")
    failed = minidocker(fresh, "pull", f"{server.name}/none")
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr.splitlines()[-1].startswith(f"minidocker: {server.name}: HTTP 404")


def test_bars_on_a_terminal(server, tmp_path, app):
    near, far = pty.openpty()
    termios.tcsetwinsize(far, (24, 80))
    try:
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPO),
            "MINIDOCKER_HOME": str(tmp_path / "fresh"),
            "TERM": "xterm",
        }
        words = [sys.executable, "-m", "minidocker", "pull", f"{server.name}/app:1"]
        with subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=far) as process:
            assert process.wait() == 0
        shown = os.read(near, 65536).decode()
    finally:
        os.close(near)
        os.close(far)
    assert last_layer(app)[7:19] in shown and "Pull complete" in shown and "\r" in shown and "%|" in shown


def test_config_is_what_the_image_was_made_with(server, there):
    assert pull(there, f"{server.name}/app:1").config["config"] == CONFIG
    assert transfer.PARALLEL > 1
