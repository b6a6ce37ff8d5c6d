"""Chapter 5, `build`: what each instruction makes of an image, the build cache, the build context, ends and attacks."""

import bz2
import contextlib
import gzip
import hashlib
import io
import itertools
import json
import lzma
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minidocker import cgroups, state
from minidocker.cli import variables
from minidocker.images import image
from minidocker.images.build.copy import Ignore, clean, component, real
from minidocker.images.build.dockerfile import DockerfileError, parse
from minidocker.images.build.executor import build
from minidocker.images.container import container
from minidocker.images.registry import Registry as Client
from minidocker.images.store import Store
from minidocker.outcome import ContainerError
from minidocker.process import run
from minidocker.union import Union
from tests.helpers import need
from tests.helpers.images import HOME, REPO, add_image, minidocker
from tests.helpers.registries import Registry

pytestmark = pytest.mark.chapter(5)


@pytest.fixture
def store(home, monkeypatch):
    """A store with busybox, and the state directory beside it. What a test leaves in tmp or containers is a leak."""
    monkeypatch.setenv("MINIDOCKER_HOME", str(home))
    monkeypatch.setattr(Client, "backoff", 0.01)
    yield Store(str(home))
    assert os.listdir(home / "tmp") == []
    assert not (home / "containers").exists() or os.listdir(home / "containers") == []


@pytest.fixture
def context(tmp_path):
    """Some files to copy."""
    files = {"a.txt": "A", "b.txt": "B", "dir/x": "X", "dir/sub/y": "Y", "dir/.hidden": "H", ".dot": "D", "sp ace": "S"}
    for name, content in files.items():
        path = tmp_path / "context" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (tmp_path / "context/dir/run.sh").write_text("#!/bin/sh\necho run\n")
    (tmp_path / "context/dir/run.sh").chmod(0o4755)
    (tmp_path / "context/dir/link").symlink_to("/etc/hostname")
    (tmp_path / "context/to-dir").symlink_to("dir")
    os.chown(tmp_path / "context/a.txt", 1234, 1234)
    return tmp_path / "context"


count = itertools.count()


def made(store, text, context="", **options):
    """Build; return the image and what was shown. Each text differs, so that no test depends on another's cache."""
    dockerfile = parse(text if "FROM busybox\n" not in text else text.replace("FROM busybox\n", _unique(), 1))
    with tempfile.TemporaryFile() as shown:
        made_image = build(store, dockerfile, str(context or store.unpacked), output=shown.fileno(), **options)
        shown.seek(0)
        return made_image, re.sub(r" ---> \d+\.\d s\n", "", shown.read().decode(errors="backslashreplace"))


def _unique():
    return f"FROM busybox\nLABEL test={next(count)}\n"


def inner(store, text, *arguments, **options):
    """The inner config of the result."""
    config = made(store, text, *arguments, **options)[0].config["config"]
    config.get("Labels", {}).pop("test", None)
    return config


def inside(built, script, **options):
    """What a shell prints in a container of the image."""
    argv, isolators, settings = container(built.ready(), ["sh", "-c", script], entrypoint=[], **options)
    result = run(argv, *isolators, **settings)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def directory_of(store, built):
    """Where the files of its last layer are."""
    return f"{store.unpacked}/{built.diff_ids[-1].replace(':', '/')}"


def listing(built, *paths):
    """{path: (type and mode, owner, what is in it or where it points)} of files of the image."""
    script = 'for f; do stat -c "%n|%A|%u:%g" "$f"; done'
    argv, isolators, settings = container(built.ready(), ["sh", "-c", script, "-", *paths], entrypoint=[])
    result = run(argv, *isolators, **settings)
    assert result.exit_code == 0, result.stderr
    return {line.split("|")[0]: " ".join(line.split("|")[1:]) for line in result.stdout.splitlines()}


def tree(built, top):
    """All paths below."""
    return inside(built, f"cd {top} && find . -mindepth 1 | sort").split("\n")[:-1]


def refused(store, text, context="", **options):
    with pytest.raises(ContainerError) as raised:
        made(store, text, context, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# The config


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ('CMD ["a", "b c"]', "Cmd", ["a", "b c"]),
        ("CMD a $b 'c'", "Cmd", ["/bin/sh", "-c", "a $b 'c'"]),
        ("CMD []", "Cmd", []),
        ('SHELL ["/bin/ash", "-ec"]\nCMD a', "Cmd", ["/bin/ash", "-ec", "a"]),
        ('SHELL ["/bin/ash", "-ec"]', "Shell", ["/bin/ash", "-ec"]),
        ("ENTRYPOINT a", "Entrypoint", ["/bin/sh", "-c", "a"]),
        ('ENTRYPOINT ["a"]\nCMD ["b"]', "Cmd", ["b"]),
        ('CMD ["b"]\nENTRYPOINT ["a"]', "Cmd", ["b"]),
        ('ENTRYPOINT ["a"]', "Cmd", None),  # the base's CMD was meant for the base's entrypoint
        (
            "EXPOSE 80 53/udp 90-92/TCP",
            "ExposedPorts",
            dict.fromkeys(["80/tcp", "53/udp", "90/tcp", "91/tcp", "92/tcp"], {}),
        ),
        ("ENV p='1 2'\nEXPOSE $p", "ExposedPorts", {"1/tcp": {}, "2/tcp": {}}),
        ("VOLUME /a /b", "Volumes", {"/a": {}, "/b": {}}),
        ('VOLUME ["/a b"]\nVOLUME /c', "Volumes", {"/a b": {}, "/c": {}}),
        (
            "EXPOSE 8080:80 127.0.0.1:1-2:3-4/udp [::1]::5",
            "ExposedPorts",
            dict.fromkeys(["80/tcp", "3/udp", "4/udp", "5/tcp"], {}),
        ),
        ("VOLUME data a/b", "Volumes", {"/data": {}, "/a/b": {}}),
        ("USER web:1", "User", "web:1"),
        ("USER :5", "User", ":5"),
        ("WORKDIR /a\nWORKDIR b/../c", "WorkingDir", "/a/c"),
        ("WORKDIR a", "WorkingDir", "/a"),
        ("STOPSIGNAL SIGQUIT", "StopSignal", "SIGQUIT"),
        ("STOPSIGNAL 9", "StopSignal", "9"),
        ("STOPSIGNAL SIGRTMIN+3", "StopSignal", "SIGRTMIN+3"),
        ("LABEL a=b \"c d\"='e $f'\nLABEL a=$PATH.", "Labels", {"a": "PATH.", "c d": "e $f"}),
    ],
)
def test_what_an_instruction_says_in_the_config(store, text, key, value):
    config = inner(store, f"FROM busybox\n{text}\n")
    if key == "Labels":
        value = {name: word.replace("PATH", environment(config)["PATH"]) for name, word in value.items()}
    assert config.get(key) == value


def environment(config):
    return dict(setting.partition("=")[::2] for setting in config["Env"])


def test_env(store):
    config = inner(
        store, "FROM busybox\nENV a=1 b=$a\nENV a=2 c=${a}x d='$a' e=\"$b|$a\" f=\\$a\nENV g  h  i\nENV a=3\n"
    )
    env = environment(config)
    assert {name: env[name] for name in "abcdefg"} == {
        "a": "3", "b": "", "c": "1x", "d": "$a", "e": "|1", "f": "$a", "g": "h  i",
    }  # fmt: skip
    assert [setting.partition("=")[0] for setting in config["Env"]].count("a") == 1
    assert "PATH" in env


@pytest.mark.parametrize(
    "line",
    [
        "HEALTHCHECK NONE",
        "HEALTHCHECK CMD\ttrue",
        "HEALTHCHECK --interval=1m30s --retries=3 \\\n  CMD true || false",
        "MAINTAINER Me <me@example.org>",
        "ONBUILD RUN exit 1",
        "ONBUILD RUN <<EOF\nexit 1\nEOF",
    ],
)
def test_what_an_oci_image_has_no_place_for_is_left_out_and_said(store, line):
    built, shown = made(store, f"FROM busybox\n{line}\nCMD x\n")
    assert shown.count(" ---> left out: ") == 1
    assert not {"author", "Healthcheck", "OnBuild"} & {*built.config, *built.config["config"]}
    assert built.config["history"][-2]["created_by"].startswith("LABEL")


def test_history_has_a_line_for_each_instruction(store):
    built, _ = made(store, "FROM busybox\nENV a=$PATH\nRUN echo a > /f\nCMD x\nWORKDIR /\n")
    *_, env, run_, cmd, workdir = built.config["history"]
    assert env["created_by"].startswith("ENV a=/") and env["empty_layer"] is True
    assert run_["created_by"] == "RUN /bin/sh -c echo a > /f" and "empty_layer" not in run_
    assert cmd["created_by"] == 'CMD ["/bin/sh", "-c", "x"]' and cmd["empty_layer"] is True
    assert workdir["created_by"] == "WORKDIR /" and workdir["empty_layer"] is True  # it is there already
    assert len([event for event in built.config["history"] if not event.get("empty_layer")]) == len(built.diff_ids)
    assert built.config["created"] == workdir["created"] and re.fullmatch(
        r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", env["created"]
    )


def test_the_time_can_be_given(store, monkeypatch, context):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    text = "FROM scratch\nCMD a\nENV b=c\n"
    first, second = made(store, text)[0], made(store, text, cached=False)[0]
    assert first.config["created"] == "1970-01-01T00:00:00Z" and first.id == second.id


# RUN


def test_run_executes_in_the_image(store):
    text = """FROM busybox
ENV e="of the image"
WORKDIR /work
USER 1000:2000
RUN pwd && id -u && id -g && echo "$e" && echo $HOME && hostname
RUN touch /tmp/mine
USER root
RUN ["sh", "-c", "echo $0 $1", "exec", "$e"]
"""
    built, shown = made(store, text)
    assert "/work\n1000\n2000\nof the image\n/\nbuild\n" in shown
    assert "exec $e\n" in shown  # no shell has expanded it
    assert listing(built, "/tmp/mine") == {"/tmp/mine": "-rw-r--r-- 1000:2000"}


def test_both_outputs_of_run_are_shown_in_order(store):
    _, shown = made(store, "FROM busybox\nRUN echo one; echo two >&2; echo three; printf ü\n")
    assert "one\ntwo\nthree\nü" in shown


def test_what_run_removes_is_gone(store):
    built, _ = made(
        store, "FROM busybox\nRUN mkdir /d && touch /d/a /d/b\nRUN rm /d/a\nRUN rm -r /d && mkdir /d && touch /d/c\n"
    )
    assert tree(built, "/d") == ["./c"]


def test_run_leaves_nothing_of_ours_in_its_layer(store):
    """No mount points, no resolv.conf: of an image without them, only what the step made is in the layer."""
    text = 'FROM busybox AS b\nFROM scratch\nCOPY --from=b /bin /bin\nRUN ["/bin/busybox", "touch", "/made"]\n'
    for network in ("none", "host"):
        built, _ = made(store, text, network=network)
        layer = directory_of(store, built)
        assert len(built.layers()) == 2
        assert sorted(os.listdir(layer)) == ["made"]


def test_run_is_alone(store):
    """Its own processes, its own network, and the first process is an init that reaps."""
    _, shown = made(store, "FROM busybox\nRUN ps | grep -c . ; ip link | grep -c ' eth' || true; cat /proc/1/comm\n")
    assert "\n0\n" in shown and shown.rstrip().endswith("init")


def test_network(store):
    """With the host's network the step has the host's resolver, which stays out of the layer."""
    text = "FROM busybox\nRUN --network={} readlink /proc/self/ns/net; grep -c . /etc/resolv.conf || true\n"
    host = os.readlink("/proc/self/ns/net")
    _, alone = made(store, text.format("none"))
    assert host not in alone
    built, shared = made(store, text.format("host"))
    assert host in shared
    with open("/etc/resolv.conf") as file:
        assert f"\n{sum(bool(line.strip()) for line in file)}\n" in shared
    assert not os.path.lexists(f"{built.layers()[0]}/etc/resolv.conf")
    assert host in made(store, text.format("default"), network="host")[1]
    assert host not in made(store, text.format("none"), network="host")[1]


def test_a_step_with_the_host_s_network_reaches_it(store):
    server = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: server.accept()[0].close())
    thread.start()
    try:
        port = server.getsockname()[1]
        made(store, f"FROM busybox\nRUN nc -w 5 127.0.0.1 {port} < /dev/null\n", network="host")
    finally:
        thread.join(10)
        server.close()
    with pytest.raises(DockerfileError):
        made(store, f"FROM busybox\nRUN nc -w 5 127.0.0.1 {port} < /dev/null\n")


def test_a_resolver_that_is_a_link_to_nothing_is_left_alone(store):
    text = "FROM busybox\nRUN --network=none ln -sf ../run/nothing /etc/resolv.conf && echo kept > /etc/hosts\n"
    text += "RUN cat /etc/hosts\n"
    built, shown = made(store, text, network="host")
    assert "kept" not in shown.rpartition("Step")[2]
    assert inside(built, "cat /etc/hosts; readlink /etc/resolv.conf") == "kept\n../run/nothing\n"


def test_a_resolver_that_the_image_has_deleted_is_there_for_the_step_and_stays_deleted(store):
    text = "FROM busybox\nRUN touch /etc/hosts /etc/resolv.conf\n"
    text += "RUN rm /etc/hosts /etc/resolv.conf\nRUN --network=host cat /etc/hosts; touch /etc/made\n"
    built, shown = made(store, text)
    assert "localhost" in shown
    assert os.listdir(f"{built.layers()[0]}/etc") == ["made"]


def test_a_step_that_puts_a_link_in_place_of_etc_removes_no_file_of_the_host(store, tmp_path):
    (tmp_path / "hosts").touch()
    text = f"FROM busybox\nRUN rm -r /etc\nRUN --network=host mv /etc /old && ln -s {tmp_path} /etc\n"
    built, _ = made(store, text)
    assert os.readlink(f"{built.layers()[0]}/etc") == str(tmp_path)
    assert (tmp_path / "hosts").exists()


@pytest.mark.parametrize("command", ["echo before; exit 3", "echo before; sh -c 'kill -9 $$'"])
def test_a_run_that_fails(store, command):
    with pytest.raises(DockerfileError) as raised:
        made(store, f"FROM busybox AS x\nRUN true\n\nRUN {command}\n", tags=["failed"])
    assert str(raised.value).startswith("Dockerfile line 4: RUN ") and raised.value.exit_code == 1
    assert raised.value.line == 4
    assert "failed" not in str(store.tags())


def test_a_run_that_cannot_be_executed(store):
    message = refused(store, 'FROM busybox AS x\nRUN ["/nosuch"]\n')
    assert message == "Dockerfile line 2: RUN: /nosuch: command not found in this root"
    message = refused(store, "FROM busybox AS x\nUSER nobody9\nRUN x\n")
    assert (
        message.startswith("Dockerfile line 3: RUN: ") and "neither a number nor in the image's /etc/passwd" in message
    )


def test_here_documents_of_run(store):
    text = """FROM busybox
ENV v=value
RUN <<EOF
set -e
echo one "$v"
echo two
EOF
RUN cat <<A > /a && cat <<'B' > /b
$v
A
$v
B
"""
    built, shown = made(store, text)
    assert "one value\ntwo\n" in shown
    assert inside(built, "cat /a /b") == "value\n$v\n"


def test_a_here_document_that_names_its_interpreter(store):
    text = "FROM busybox\nUSER 5\nRUN <<EOF\n#!/bin/awk -f\nBEGIN { print 6 * 7 }\nEOF\nUSER 0\nRUN ls /dev\n"
    built, shown = made(store, text)
    assert "\n42\n" in shown and "script" not in shown.rpartition("Step")[2]
    assert not any(os.path.exists(f"{layer}/dev/script") for layer in built.layers())


@pytest.mark.parametrize(
    ("run", "script"),
    [
        ("<<EOT sh -e", "echo in $0 | tail -c 3\nEOT"),  # another program reads the document
        ("<<EOF cat > /f", "$v\nEOF"),  # and what stands behind it counts
        ("cat <<'EOF' > /f; echo and $v", "$v\nEOF"),
        ("<<A cat > /f && <<B cat >> /f", "1 $v\nA\n2\nB"),
        ('cat <<"EOF" <<-X >/f', "never read\nEOF\n\t$v\n\tX"),
        ("cat <<EOF | tr a-z A-Z > /f", "$v\nEOF"),
    ],
)
def test_the_shell_gets_the_whole_line_and_the_documents(store, tmp_path, run, script):
    """So it is what a shell makes of the same text."""
    own = subprocess.run(
        ["sh", "-c", f"{run}\n{script}".replace("/f", f"{tmp_path}/f")], env={**os.environ, "v": "value"},
        capture_output=True, text=True,
    )  # fmt: skip
    built, shown = made(store, f"FROM busybox\nENV v=value\nRUN touch /f\nRUN {run}\n{script}\n")
    last = shown.rpartition(" : RUN ")[2].partition("\n")[2]
    assert last == own.stdout and own.returncode == 0
    assert inside(built, "cat /f") == ((tmp_path / "f").read_text() if (tmp_path / "f").exists() else "")


# ARG


def test_arguments(store):
    text = """ARG BASE=nosuch
ARG V=outer
FROM ${BASE} AS one
ARG V
ARG W=w$V
ARG X
ENV V2=$V
RUN echo "[$V][$W][${X-unset}][$BASE]"
FROM one
RUN echo "second [$V][$W][$V2]"
"""
    _, shown = made(store, text, arguments={"BASE": "busybox"})
    assert "[outer][wouter][unset][]" in shown and "second [outer][wouter][outer]" in shown
    _, shown = made(store, text, arguments={"BASE": "busybox", "V": "given", "X": ""})
    assert "[given][wgiven][][]" in shown and "second [given][wgiven][given]" in shown


def test_any_name_is_an_argument_s(store):
    _, shown = made(store, 'FROM busybox\nARG my-arg=1 2=3 a.b\nRUN ["env"]\n', arguments={"a.b": "4"})
    assert {"my-arg=1", "2=3", "a.b=4"} <= {*shown.splitlines()}


def test_arguments_of_stages_below_are_there_and_those_of_others_are_not(store):
    text = """FROM busybox AS one
ARG a=1 b=1
FROM one AS two
ARG b=2
RUN echo "[$a$b]"
FROM busybox AS other
RUN echo "[$a$b]"
FROM two
ARG a
ENV b=env
RUN echo "[$a$b]"
"""
    assert "[12]" in made(store, text, target="two")[1] and "[]" in made(store, text, target="other")[1]
    assert "[1env]" in made(store, text)[1]
    assert "[given2]" in made(store, text, target="two", arguments={"a": "given"})[1]


def test_env_wins_over_arg_and_proxies_need_none(store):
    text = "FROM busybox\nARG a=arg\nENV a=env\nRUN echo $a $HTTP_PROXY $http_proxy\n"
    built, shown = made(store, text, arguments={"HTTP_PROXY": "p", "http_proxy": "q"})
    assert "env p q\n" in shown
    assert "HTTP_PROXY=" not in json.dumps(built.config)


def test_the_machine_is_known(store):
    _, shown = made(store, "FROM --platform=$BUILDPLATFORM busybox\nARG TARGETARCH\nRUN echo $TARGETARCH.$TARGETOS.\n")
    here = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    assert f"{here}..\n" in shown


def test_build_arg_words(monkeypatch):
    monkeypatch.setenv("here", "1")
    assert variables("--build-arg", ["a=b=c", "d=", "here", "nothere"]) == ["a=b=c", "d=", "here=1", "nothere"]
    with pytest.raises(ContainerError):
        variables("--build-arg", ["=x"])


# COPY and ADD


def test_copy_a_file(store, context):
    text = """FROM busybox
WORKDIR /work
COPY a.txt .
COPY a.txt new
COPY a.txt sub/
COPY a.txt b.txt /two/
COPY ["sp ace", "/sp ace"]
COPY *.txt /glob/
COPY [^b].txt .d?t /deep/er/
"""
    built, _ = made(store, text, context)
    assert tree(built, "/work") == ["./a.txt", "./new", "./sub", "./sub/a.txt"]
    assert tree(built, "/two") == tree(built, "/glob") == ["./a.txt", "./b.txt"]
    assert tree(built, "/deep") == ["./er", "./er/.dot", "./er/a.txt"]
    assert inside(built, "cat /work/new '/sp ace'") == "AS"
    assert listing(built, "/work/a.txt", "/two") == {"/work/a.txt": "-rw-r--r-- 0:0", "/two": "drwxr-xr-x 0:0"}


def test_copy_a_directory_copies_what_is_in_it(store, context):
    text = "FROM busybox\nRUN mkdir -m 700 /there\nCOPY dir /new\nCOPY dir/ /there\nCOPY dir b.txt /both/\n"
    text += "COPY to-dir /followed\n"
    built, _ = made(store, text, context)
    files = ["./.hidden", "./link", "./run.sh", "./sub", "./sub/y", "./x"]
    assert tree(built, "/new") == tree(built, "/there") == tree(built, "/followed") == files
    assert tree(built, "/both") == sorted([*files, "./b.txt"])
    assert listing(built, "/there", "/new/run.sh")["/there"] == "drwx------ 0:0"
    assert listing(built, "/new/run.sh")["/new/run.sh"] == "-rwsr-xr-x 0:0"
    assert inside(built, "readlink /new/link") == "/etc/hostname\n"


@pytest.mark.parametrize("line", ["COPY empty /new", "ADD empty /new", "COPY --from=0 /empty /new", "COPY all /new"])
def test_a_directory_with_nothing_to_copy_becomes_one(store, context, line):
    """Empty, or left empty by .dockerignore; with or without a slash behind the target."""
    (context / "empty").mkdir(mode=0o700)
    (context / "all/out").mkdir(parents=True)
    text = f"FROM busybox\nRUN mkdir /empty\nFROM busybox\n{line}\n{line}/\n{line}/a/b\n"
    built, _ = made(store, text.replace("COPY ", "COPY --chown=5:6 "), context, ignore=Ignore("all/*"))
    assert tree(built, "/new") == ["./a", "./a/b"]
    owner = "0:0" if "ADD" in line else "5:6"
    assert listing(built, "/new", "/new/a/b") == dict.fromkeys(["/new", "/new/a/b"], f"drwxr-xr-x {owner}")


@pytest.mark.parametrize(
    ("user", "owner"),
    [("web", "77:88"), ("web:5", "77:5"), ("9", "9:9"), ("9:web", "9:99"), (":5", "0:5"), ("root", "0:0")],
)
def test_workdir_belongs_to_the_user(store, user, owner):
    text = "FROM busybox\nRUN echo 'web:x:77:88::/:' >> /etc/passwd; echo web:x:99: >> /etc/group; mkdir /there\n"
    built, _ = made(store, text + f"USER {user}\nWORKDIR /there/is/some\nWORKDIR more\n")
    new = ["/there/is", "/there/is/some", "/there/is/some/more"]
    found = {"/there": "drwxr-xr-x 0:0", **dict.fromkeys(new, f"drwxr-xr-x {owner}")}
    assert listing(built, *found) == found
    if owner != "0:5":
        assert inside(built, "echo >mine; stat -c %u mine", cwd="/there/is/some/more") == owner.partition(":")[0] + "\n"


def test_copy_everything(store, context):
    built, _ = made(store, "FROM busybox\nWORKDIR /all\nCOPY . .\n", context)
    expected = {os.path.join(top, name) for top, dirs, files in os.walk(context) for name in [*dirs, *files]}
    assert set(tree(built, "/all")) == {f"./{os.path.relpath(path, context)}" for path in expected}
    assert inside(built, "readlink /all/to-dir") == "dir\n"


def test_owners_and_modes(store, context):
    text = """FROM busybox
RUN echo 'web:x:77:88::/:/bin/sh' >> /etc/passwd; echo 'staff:x:99:' >> /etc/group
COPY --chown=web a.txt /named
COPY --chown=web:staff dir /group/
COPY --chown=5 a.txt /number/a
COPY --chown=5:0 --chmod=0710 dir /both
ARG o=7:8
COPY --chown=$o a.txt /variable
"""
    built, _ = made(store, text, context)
    assert listing(
        built, "/named", "/group/sub/y", "/group", "/number", "/number/a", "/both/x", "/both/sub", "/variable"
    ) == {
        "/named": "-rw-r--r-- 77:88",
        "/group": "drwxr-xr-x 77:99",
        "/group/sub/y": "-rw-r--r-- 77:99",
        "/number": "drwxr-xr-x 5:5",
        "/number/a": "-rw-r--r-- 5:5",
        "/both/x": "-rwx--x--- 5:0",
        "/both/sub": "drwx--x--- 5:0",
        "/variable": "-rw-r--r-- 7:8",
    }
    assert "nobodyknows is neither a number nor in the image's /etc/passwd" in refused(
        store, "FROM busybox\nCOPY --chown=nobodyknows a.txt /\n", context
    )


def test_what_is_in_the_way(store, context):
    text = "FROM busybox\nRUN mkdir -p /d/x /e && touch /f && ln -s e /l && ln -s f /lf\n"
    built, _ = made(
        store, text + "COPY a.txt /f\nCOPY a.txt /l/\nCOPY b.txt /l\nCOPY dir /l\nCOPY b.txt /lf\n", context
    )
    assert inside(built, "cat /f /e/a.txt /e/b.txt /e/x /lf; readlink /l") == "AABXBe\n"
    assert "COPY: /d/x: a directory is there, and a file does not replace it" in refused(
        store, text + "COPY dir /d\n", context
    )
    assert "COPY: /f: it is in the way: not a directory" in refused(store, text + "COPY dir /f\n", context)
    assert "COPY: /f: it is in the way: not a directory" in refused(store, text + "COPY a.txt /f/\n", context)


def test_here_documents_of_copy(store):
    text = """FROM busybox
ENV v=value
COPY --chmod=755 <<one <<'two' /d/
it's "$v" \\$v
one
it's "$v"
two
COPY <<-EOF /file
	no tabs
	EOF
"""
    built, _ = made(store, text)
    assert inside(built, "cat /d/one /d/two /file") == 'it\'s "value" $v\nit\'s "$v"\nno tabs\n'
    assert listing(built, "/d/one", "/file") == {"/d/one": "-rwxr-xr-x 0:0", "/file": "-rw-r--r-- 0:0"}


def test_hard_links_within_a_directory_stay(store, context):
    os.link(context / "dir/x", context / "dir/x2")
    built, _ = made(store, "FROM busybox\nCOPY dir /d\n", context)
    assert inside(built, "stat -c %h /d/x; cat /d/x2") == "2\nX"


def test_names_times_and_attributes_survive(store, context):
    name = os.fsencode(str(context)) + b"/dir/\xff\xfe"
    with open(name, "wb"):
        pass
    os.setxattr(name, "user.note", b"kept")
    os.utime(context / "dir/x", ns=(0, 1_000_000_007))
    os.mkfifo(context / "dir/fifo")
    built, _ = made(store, "FROM busybox\nCOPY dir /d\n", context)
    layer = os.fsencode(built.layers()[0])
    assert os.getxattr(layer + b"/d/\xff\xfe", "user.note") == b"kept"
    assert os.stat(layer + b"/d/x").st_mtime_ns == 1_000_000_007
    assert listing(built, "/d/fifo")["/d/fifo"].startswith("p")


def test_a_socket_is_left_out(store, context):
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(context / "dir")
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        built, _ = made(store, "FROM busybox\nCOPY dir /d\n", context)
    assert "./socket" not in tree(built, "/d")


def archive(entries):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.uid, info.gid, info.mode = kind, 3, 4, 0o750
            info.linkname = content if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(content.encode()))
    return file.getvalue()


PACKERS = {
    "tar": lambda data: data,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": lambda data: zstd.compress(data),
}


@pytest.mark.parametrize("kind", PACKERS)
def test_add_unpacks_archives_and_copy_does_not(store, context, kind):
    entries = [
        ("./", tarfile.DIRTYPE, ""),
        ("./top/", tarfile.DIRTYPE, ""),
        ("./top/file", tarfile.REGTYPE, "content"),
        ("./top/again", tarfile.LNKTYPE, "./top/file"),
        ("./abs", tarfile.SYMTYPE, "/etc/hostname"),
    ]
    data = PACKERS[kind](archive(entries))
    (context / "archive").write_bytes(data)  # the content counts, and not the name
    built, _ = made(
        store, "FROM busybox\nADD archive /a\nADD archive /b/\nCOPY archive /c\nADD --chown=9:9 archive /d\n", context
    )
    assert tree(built, "/a") == tree(built, "/b") == ["./abs", "./top", "./top/again", "./top/file"]
    assert inside(built, "cat /a/top/again; stat -c %h /a/top/file; readlink /a/abs; wc -c < /c") == (
        f"content2\n/etc/hostname\n{len(data)}\n"
    )
    assert listing(built, "/a/top/file", "/d/top/file") == {
        "/a/top/file": "-rwxr-x--- 3:4",
        "/d/top/file": "-rwxr-x--- 9:9",
    }


def test_add_leaves_out_what_the_file_system_cannot_hold(store, context):
    """What a Mac packs: attributes of its own, and a file of resources beside each file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("d/._a", "d/a"):
            info = tarfile.TarInfo(name)
            info.pax_headers = {
                "SCHILY.xattr.com.apple.provenance": "x",
                "LIBARCHIVE.xattr.com.apple.quarantine": "MDA4MQ==",
                "LIBARCHIVE.creationtime": "1700000000.5",
                "SCHILY.xattr.user.kept": "1",
                "mtime": "1000000007.25",
            }
            tar.addfile(info)
    (context / "mac.tar").write_bytes(file.getvalue())
    built, _ = made(store, "FROM busybox\nADD mac.tar /x\n", context)
    assert tree(built, "/x") == ["./d", "./d/._a", "./d/a"]
    path = f"{built.layers()[0]}/x/d/a"
    assert os.listxattr(path) == ["user.kept"] and os.stat(path).st_mtime == 1000000007.25


@pytest.mark.parametrize("end", [0, 512, 1024])
def test_add_of_an_archive_without_its_end_mark(store, context, end):
    data = archive([("d/", tarfile.DIRTYPE, ""), ("d/f", tarfile.REGTYPE, "content")])
    (context / "cut.tar").write_bytes(data[: 3 * 512 + end])
    (context / "cut.tgz").write_bytes(gzip.compress(data[: 3 * 512 + end]))
    built, _ = made(store, "FROM busybox\nADD cut.tar /x\nADD cut.tgz /y/\n", context)
    assert inside(built, "cat /x/d/f /y/d/f") == "contentcontent"


DAMAGED = bz2.compress(archive([("random", tarfile.REGTYPE, random.Random(5).randbytes(1 << 20).hex())]))
DAMAGED = DAMAGED[: len(DAMAGED) // 2] + b"damaged" + DAMAGED[len(DAMAGED) // 2 + 7 :]


def test_add_copies_what_is_no_archive(store, context):
    (context / "text.tar").write_text("no archive")
    (context / "broken.gz").write_bytes(gzip.compress(os.urandom(1000))[:30])
    (context / "zeros").write_bytes(bytes(4096))
    (context / "empty").write_bytes(b"")
    built, _ = made(store, "FROM busybox\nADD text.tar broken.gz zeros empty dir /a/\n", context)
    assert inside(built, "cd /a; wc -c < text.tar; wc -c < broken.gz; wc -c < zeros; cat empty x") == "10\n30\n4096\nX"


def test_a_hostile_archive_stays_inside(store, context, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("host")
    for number, entries in enumerate(
        [
            [("../../escape", tarfile.REGTYPE, "x")],
            [("a", tarfile.LNKTYPE, "../../../etc/passwd")],
            [("cut", tarfile.REGTYPE, "x" * 2000)],
        ]
    ):
        data = archive(entries)
        (context / "evil.tar").write_bytes(data if "cut" not in entries[0][0] else data[:1500])
        assert "Dockerfile line 3: ADD: " in refused(store, "FROM busybox\nADD evil.tar /x/\n", context), number
    links = [("out", tarfile.SYMTYPE, str(tmp_path)), ("out/secret", tarfile.REGTYPE, "changed")]
    (context / "evil.tar").write_bytes(archive(links))
    assert "ADD: evil.tar: out/secret: " in refused(store, "FROM busybox\nADD evil.tar /x/\n", context)
    assert secret.read_text() == "host"
    text = f"FROM busybox\nRUN mkdir -p /x {tmp_path}; ln -s {tmp_path} /x/out\nADD good.tar /x/\n"
    (context / "good.tar").write_bytes(archive(links[1:]))
    assert inside(made(store, text, context)[0], f"cat {secret}") == "changed"  # in the image's own root
    assert secret.read_text() == "host"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("COPY socket /x", "/socket: a socket"),
        ("ADD damaged /x", "damaged: the blob cannot be decompressed: Invalid data stream"),
        ("COPY nosuch /", "nosuch: there is no such file, or .dockerignore leaves it out"),
        ("COPY a.txt nosuch* /x/", "nosuch*: there is no such file"),
        ("COPY a.txt b.txt /x", "for more than one source, the target must end with a slash"),
        ("COPY *.txt /x", "*.txt is 2 files: the target must end with a slash"),
        ("COPY [a /x", "a class [...] is not closed"),
        ("COPY $nothing /x", "a path is empty"),
        ("COPY a.txt $nothing", "a path is empty"),
        ("COPY --chmod=u+y a.txt /x", "--chmod=u+y: three or four octal digits"),
        ("COPY --chmod=9 a.txt /x", "--chmod=9: three or four octal digits"),
        ("COPY --from=nosuch.invalid:1/x a.txt /x", "nosuch.invalid:1/x is not in the store, and cannot be pulled"),
        ("COPY --from=scratch a.txt /x", "--from=scratch: there is nothing in it"),
        ("COPY ${x a.txt /x", "cannot substitute ${x"),
        ("COPY https://example.org/x /x", "lets RUN download"),
        ("ADD https://example.org/x.git#main /x", "lets RUN download"),
        ("ADD git@example.org:x.git /x", "lets RUN download"),
        ("EXPOSE 0", "'0' is no port"),
        ("EXPOSE 1-65536", "'1-65536' is no port"),
        ("EXPOSE x", "'x' is no port"),
        ("EXPOSE " + "9" * 5000, "is no port"),
        ("STOPSIGNAL SIGNOSUCH", "there is no signal SIGNOSUCH"),
        ("STOPSIGNAL 99", "there is no signal 99"),
        ("STOPSIGNAL " + "9" * 5000, "there is no signal 99"),
        ("VOLUME []", "VOLUME: a path is missing"),
        ("WORKDIR $nothing", "the path is empty"),
        ("WORKDIR /etc/passwd/x", "it is in the way: not a directory"),
        ("ARG =2", "ARG: '=2' is not of the form NAME or NAME=VALUE"),
        ("ENV a=${b:?say-it}", "b: say-it"),
        ("ENV a=" + "${b:-" * 20000, "in each other"),
        ("COPY <<a /x\n" + "${b:-" * 20000 + "\na", "in each other"),
        ("RUN --network=bridge x", "RUN --network=bridge: it is none, host or default"),
    ],
)
def test_an_error_names_its_line(store, context, line, message):
    (context / "damaged").write_bytes(DAMAGED)
    with socket.socket(socket.AF_UNIX) as file:
        file.bind(str(context / "socket"))
    before = sorted(os.listdir(f"{store.layout}/blobs/sha256"))
    text = refused(store, f"FROM busybox AS x\n\n{line}\n", context)
    assert text.startswith("Dockerfile line 3: ") and message in text
    assert sorted(os.listdir(f"{store.layout}/blobs/sha256")) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM $x\n", "Dockerfile line 1: FROM $x: that is empty"),
        ("FROM scratch\n", "Dockerfile line 1: FROM scratch alone is no image"),
        ("FROM --platform=linux/mips busybox\n", "FROM --platform=linux/mips: this machine is linux/"),
        ("FROM UPPER\n", "is no name of an image"),
    ],
)
def test_an_error_of_from(store, text, message):
    assert message in refused(store, text)


# The context


def test_a_path_that_climbs_stays_in_the_context(store, context):
    """Docker's reference: what leads above the context is cut off."""
    built, _ = made(store, "FROM busybox\nCOPY ../../a.txt /../x/../y\n", context)
    assert inside(built, "cat /y") == "A"


def test_links_of_the_context_lead_to_the_context(store, context):
    (context / "etc").symlink_to("/etc")
    (context / "passwd").symlink_to("../../../../../../etc/passwd")
    (context / "absolute").symlink_to("/dir/x")
    (context / "loop").symlink_to("loop")
    built, _ = made(store, "FROM busybox\nCOPY absolute /x\n", context)
    assert inside(built, "cat /x") == "X"
    for name in ("etc", "passwd", "etc/passwd", "loop"):
        assert "there is no such file" in refused(store, f"FROM busybox\nCOPY {name} /y\n", context)


def test_a_lookup_holds_while_others_rename(tmp_path):
    """Then the kernel cannot be sure of a `..`, and says EAGAIN: that is no missing file."""
    (tmp_path / "d").mkdir()
    (tmp_path / "x").touch()
    (tmp_path / "link").symlink_to("d/../d/../d/../x")
    mover = "import os, sys\nos.chdir(sys.argv[1])\nos.mkdir('a')\nwhile True: os.rename('a', 'b'); os.rename('b', 'a')"
    root = os.open(tmp_path, os.O_RDONLY)
    with subprocess.Popen([sys.executable, "-c", mover, tmp_path]) as process:
        try:
            while not {"a", "b"} & {*os.listdir(tmp_path)}:
                time.sleep(0.01)
            assert {real(root, "link", Ignore()) for _ in range(1000)} == {"x"}
        finally:
            process.kill()
            os.close(root)


def test_dockerignore(store, context):
    ignore = Ignore("# comment\n*.txt\n!b.txt\n  dir/*  \n!/dir/sub\n.d?t\n**/y\nto-dir/\n")
    built, _ = made(store, "FROM busybox\nCOPY . /all/\n", context, ignore=ignore)
    assert tree(built, "/all") == ["./b.txt", "./dir", "./dir/sub", "./sp ace"]
    assert "leaves it out" in refused(store, "FROM busybox\nCOPY a.txt /\n", context, ignore=ignore)
    assert "leaves it out" in refused(store, "FROM busybox\nCOPY to-dir /\n", context, ignore=ignore)
    built, _ = made(store, "FROM busybox\nCOPY * /all/\n", context, ignore=Ignore("*\n!dir/sub/y"))
    assert tree(built, "/all") == ["./sub", "./sub/y"]


@pytest.mark.parametrize(
    ("text", "out", "left"),
    [
        ("a", ["a", "a/b", "a/b/c"], ["b/a", "ab"]),
        ("*/a", ["b/a", "b/a/c"], ["a", "c/b/a"]),
        ("**/a", ["a", "b/a", "c/b/a", "b/a/x"], ["ab", "b/ab"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "b"]),
        ("a/**/c", ["a/c", "a/b/c", "a/b/b/c"], ["a/b", "ac"]),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("./a/../b/", ["b", "b/c"], ["a"]),
        ("a\n!a/b", ["a", "a/c"], ["a/b", "a/b/c"]),
        ("a\n!a/b\na/b/c", ["a/b/c"], ["a/b", "a/b/d"]),
        ("!a\na", ["a"], []),
        ("\\!a", ["!a"], ["a"]),
        ("#a\n\n \n!", [], ["#a", "a"]),
        ("**", ["a", "a/b", ".c"], []),
        ("**\n!**/*.go", ["a", "a/b"], ["x.go", "a/x.go"]),
        ("*.md\n!README*.md\nREADME-s.md", ["a.md", "README-s.md"], ["README.md"]),
    ],
)
def test_rules_of_dockerignore(text, out, left):
    ignore = Ignore(text)
    assert [path for path in out if not ignore.ignores(path)] == []
    assert [path for path in left if ignore.ignores(path)] == []


@given(st.text(st.sampled_from("ab[]^-*?\\/.!"), max_size=8), st.text(st.sampled_from("ab-/^.]"), max_size=6))
def test_a_pattern_is_read_or_refused(pattern, name):
    try:
        matches = bool(re.fullmatch(component(pattern), name))
    except ValueError:
        return
    if not set(pattern) & set("[]*?\\"):
        assert matches == (pattern == name)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("**/" * 8 + "x", "d/" * 45 + "y"),
        ("**/*a*/" * 8 + "x", "aa/" * 45 + "y"),
        ("*a" * 20 + "x", "a" * 200),
        ("**/" + "*a" * 20, ("a" * 200 + "b/") * 3),
        ("**a" * 20 + "x", "a/" * 200),
        ("*[a-b]?" * 20 + "x", "ab" * 200),
        ("*/**/" * 20 + "x", "a/" * 200 + "y"),
    ],
)
def test_no_pattern_takes_long(pattern, path):
    start = time.monotonic()
    assert not Ignore(pattern).ignores(path)
    assert time.monotonic() - start < 1


GLOBS = st.lists(st.sampled_from(["**", "*", "a", "*a", "a*b", "?", "[ab]", "a*b*", "*b*a"]), min_size=1, max_size=5)
PATHS = st.lists(st.text(st.sampled_from("ab"), min_size=1, max_size=4), min_size=1, max_size=6)


@settings(deadline=None)
@given(GLOBS.map("/".join), PATHS.map("/".join))
def test_patterns_match_what_a_slow_expression_matches(pattern, path):
    """Each star as an expression that is tried at all places."""
    words = {"**/": "(.*/)?", "/**": "/.*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    slow = re.sub(r"(?<![^/])\*\*/|(?<=/)\*\*$|\*\*|\*|\?", lambda star: words[star[0]], pattern.replace("/**", "/**"))
    above = [path] + [path[: place.start()] for place in re.finditer("/", path)]
    assert Ignore(pattern).ignores(path) == any(re.fullmatch(slow, name) for name in above)


def test_a_path_never_leaves_the_root():
    assert [clean(path) for path in ("/a", "a//b/.", "../../a", "a/../..", "//x")] == ["a", "a/b", "a", "", "x"]


# Stages


def test_stages_build_what_is_needed(store, context):
    text = """FROM busybox
RUN exit 1
FROM busybox AS tools
COPY --chown=5:6 a.txt /out/
RUN chmod 600 /out/a.txt
FROM scratch AS empty
COPY --from=tools /out/ /
FROM tools AS Last
COPY --from=empty / /from-name
COPY --from=1 /out/a.txt /from-number
COPY --from=busybox /bin/busybox /from/
"""
    built, shown = made(store, text, context)
    assert "exit 1" not in shown and "Step 1/9 : FROM busybox AS tools" in shown
    assert listing(built, "/from-name/a.txt", "/from-number") == {
        "/from-name/a.txt": "-rw------- 5:6",
        "/from-number": "-rw------- 5:6",
    }
    assert inside(built, "/from/busybox echo works") == "works\n"
    only, _ = made(store, text, context, target="EMPTY")
    assert sorted(os.listdir(only.layers()[0])) == ["a.txt"] and len(only.layers()) == 1
    assert "there is no stage 'nosuch'" in refused(store, text, context, target="nosuch")


def test_a_link_in_another_stage_stays_in_it(store, tmp_path):
    """Of a hostile stage: its links are looked up in its own root."""
    (tmp_path / "secret").write_text("host")
    text = f"FROM busybox AS evil\nRUN ln -s {tmp_path} /out && mkdir -p {tmp_path} && echo own > {tmp_path}/secret\n"
    built, _ = made(store, text + "FROM busybox\nCOPY --from=evil /out/secret /x\nCOPY --from=evil /out /y\n")
    assert inside(built, "cat /x /y/secret") == "own\nown\n"


def test_a_hostile_base_cannot_send_a_copy_to_the_host(store, context, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    text = f"""FROM busybox
RUN ln -s {victim} /srv && rm /etc/passwd && ln -s {victim}/passwd /etc/passwd && ln -s / /root2
COPY a.txt /srv/q/
COPY --chown=1 a.txt /root2{victim}/y
ADD dir /srv
"""
    (victim / "passwd").write_text("web:x:42:42:::\n")
    built, _ = made(store, text, context)
    assert os.listdir(victim) == ["passwd"]
    assert inside(built, f"cat {victim}/q/a.txt {victim}/y {victim}/x") == "AAX"
    assert "neither a number nor in the image's" in refused(store, text + "COPY --chown=web a.txt /z\n", context)


def test_what_a_base_wants_at_the_next_build_is_left_out_and_said(store):
    base = image.find(store, "busybox")
    with store.writing():
        config = {
            **base.config,
            "config": {**base.config["config"], "OnBuild": ["RUN exit 1", "COPY --from=src /f /f"]},
        }
        store.tag("onbuild", image.make(store, config, base.manifest["layers"]).descriptor)
    built, shown = made(store, "FROM busybox AS src\nRUN echo >/f\nFROM onbuild\nRUN ! test -e /f\n")
    assert " ---> left out: ONBUILD RUN exit 1" in shown and " ---> left out: ONBUILD COPY --from=src /f /f" in shown
    assert "OnBuild" not in built.config["config"]


# The cache


def steps_cached(shown):
    """One letter for each step: C if the cache had it, else N; FROM is not counted."""
    parts = re.split(r"^Step \d+/\d+ : ", shown, flags=re.M)[1:]
    return "".join("C" if " ---> CACHED" in part else "N" for part in parts if not part.startswith("FROM"))


TEXT = "FROM busybox AS {}\nENV a=1\nCOPY a.txt dir /d/\nARG v=1\nCOPY b.txt /\nRUN echo $v\nCMD x\n"


def test_what_was_made_before_is_not_made_again(store, context):
    text = TEXT.format("c1")
    first, shown = made(store, text, context, tags=["c1"])
    assert len(steps_cached(shown)) == 6
    second, shown = made(store, text, context)
    assert steps_cached(shown) == "CCCCCC" and second.id == first.id
    third, shown = made(store, text, context, cached=False)
    assert steps_cached(shown) == "NNNNNN"
    assert third.diff_ids[:1] == first.diff_ids[:1]


def change_content(context):
    (context / "dir/x").write_text("other")


def change_mode(context):
    (context / "dir/x").chmod(0o600)


def change_name(context):
    (context / "dir/x").rename(context / "dir/z")


def add_file(context):
    (context / "dir/new").touch()


def change_time(context):
    os.utime(context / "dir/x", (0, 0))


def change_owner(context):
    os.chown(context / "dir/x", 5, 5)


def change_another(context):
    (context / ".dot").write_text("other")


def replace_it_with_the_same(context):
    (context / "dir/x").unlink()
    (context / "dir/x").write_text("X")


@pytest.mark.parametrize("change", [change_content, change_mode, change_name, add_file])
def test_a_copy_depends_on_its_files(store, context, change):
    text = TEXT.format("c2").replace("ENV a=1", f"ENV a={next(count)}")
    made(store, text, context)
    change(context)
    assert steps_cached(made(store, text, context)[1]) == "CNNNNN"


@pytest.mark.parametrize("change", [change_time, change_owner, change_another, replace_it_with_the_same])
def test_a_copy_depends_on_nothing_else(store, context, change):
    """All files of a context belong to root in the image, and times differ in each checkout."""
    text = TEXT.format("c3").replace("ENV a=1", f"ENV a={next(count)}")
    made(store, text, context)
    change(context)
    assert steps_cached(made(store, text, context)[1]) == "CCCCCC"


def test_a_run_depends_on_arguments_and_a_copy_does_not(store, context):
    text = TEXT.format("c4").replace("ENV a=1", f"ENV a={next(count)}")
    made(store, text, context)
    assert steps_cached(made(store, text, context, arguments={"v": "2"})[1]) == "CCCCNN"
    assert steps_cached(made(store, text, context, arguments={"v": "2"})[1]) == "CCCCCC"
    assert steps_cached(made(store, text, context, arguments={"unused": "2"})[1]) == "CCCCCC"
    assert steps_cached(made(store, text, context, arguments={"HTTP_PROXY": "2"})[1]) == "CCCCCC"
    assert steps_cached(made(store, text, context, network="host")[1]) == "CCCCNN"


def test_a_changed_instruction_changes_all_behind_it(store, context):
    text = TEXT.format("c5").replace("ENV a=1", f"ENV a={next(count)}")
    made(store, text, context)
    assert steps_cached(made(store, text.replace("COPY b.txt /", "COPY b.txt /b2"), context)[1]) == "CCCNNN"
    assert steps_cached(made(store, text.replace("CMD x", "CMD y"), context)[1]) == "CCCCCN"
    assert steps_cached(made(store, text.replace("COPY b", "COPY --chmod=600 b"), context)[1]) == "CCCNNN"


@pytest.mark.parametrize(
    "pair", [("ENV a=b c=d", 'ENV a="b c=d"'), ("LABEL a=b c=d", "LABEL a='b c=d'"), ("VOLUME a b", 'VOLUME ["a b"]')]
)
def test_what_looks_alike_is_not_taken_for_the_same(store, pair):
    first, second = (made(store, f"FROM busybox AS c9\n{line}\n")[0] for line in pair)
    assert first.config["config"] != second.config["config"]


def test_words_with_blanks_are_not_taken_for_several(store, context):
    """Both histories are COPY a.txt /b /c/, and an empty directory adds nothing to the digest."""
    (context / "b").mkdir()
    texts = ('["a.txt", "/b /c/"]', "a.txt /b /c/")
    first, second = (made(store, f"FROM busybox AS c10\nCOPY {words}\n", context)[0] for words in texts)
    assert inside(first, "cat '/b /c/a.txt'") == inside(second, "cat /c/a.txt") == "A"


def test_another_stage_that_comes_to_the_same_files_is_cached(store, context):
    """The key has the digest of what is copied, and not how it was made."""
    text = "FROM busybox AS one\nRUN echo made > /out # {}\n"
    text += "FROM busybox AS two\nLABEL c6=\nCOPY --from=one /out /\nCMD x\n"
    made(store, text.format("first"), context)
    assert steps_cached(made(store, text.format("second"), context)[1]) == "NCCC"


def test_the_cache_outlives_a_name_and_prune_and_goes_with_its_image(store, context):
    text = TEXT.format("c7").replace("ENV a=1", f"ENV a={next(count)}")
    built, _ = made(store, text, context, tags=["c7"])
    store.untag("c7")
    store.collect()
    again, shown = made(store, text, context, tags=["c7"])
    assert steps_cached(shown) == "CCCCCC" and again.id == built.id
    image.remove(store, "c7")
    assert steps_cached(made(store, text, context)[1]) == "CNNNNN"


def test_what_the_cache_has_lost_is_made_again(store, context):
    text = TEXT.format("c8").replace("ENV a=1", f"ENV a={next(count)}")
    built, _ = made(store, text, context)
    os.unlink(store.blob(built.manifest["layers"][-1]["digest"]))
    shutil.rmtree(directory_of(store, built), ignore_errors=True)
    again, shown = made(store, text, context)
    assert steps_cached(shown) == "CCCCNN"
    assert inside(again, "cat /d/x") == "X"
    store.forget_steps()
    assert steps_cached(made(store, text, context)[1]) == "NNNNNN"


# The command, other roots, other makers


def write(context, text, name="Dockerfile"):
    (context / name).write_text(text)
    return context


def test_the_command(home, store, context):
    write(context, "FROM busybox\nARG v=1\nARG here\nENV out=$v-$here\nRUN echo run\nCMD echo $out\n")
    words = ["-t", "cli:1", "-t", "cli:2", "--build-arg", "v=2", "--build-arg=here", context]
    first = minidocker(home, "build", *words)
    assert (first.returncode, first.stdout) == (0, "")
    lines = first.stderr.splitlines()
    assert lines[:2] == ["Step 1/6 : FROM busybox", "Step 2/6 : ARG v=1"] and "run" in lines
    assert lines[-3].startswith("Successfully built ") and lines[-2:] == [
        "Successfully tagged cli:1",
        "Successfully tagged cli:2",
    ]
    again = minidocker(home, "build", *words)
    assert again.stderr.count(" ---> CACHED\n") == 5 and "\nrun\n" not in again.stderr
    assert minidocker(home, "run", "cli:2").stdout == "2-\n"
    quiet = minidocker(home, "build", "-q", *words)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", quiet.stdout) and quiet.stderr == ""
    assert minidocker(home, "build", "--no-cache", *words).stderr.count("CACHED") == 0


def test_the_command_with_an_image_that_has_no_name(home, store, context):
    write(context, f"FROM busybox\nCMD echo nameless {next(count)}\n")
    built = minidocker(home, "build", "-q", context).stdout.strip()
    assert minidocker(home, "run", built.removeprefix("sha256:")[:12]).stdout.startswith("nameless")


def test_where_the_command_finds_its_files(home, store, context, tmp_path):
    write(context, "FROM busybox\nCOPY . /c/\n", "Other")
    (context / ".dockerignore").write_text("*\n!a.txt\n")
    (tmp_path / "Third").write_text("FROM busybox\nCOPY . /c/\nRUN ls -A /c\n")
    (tmp_path / "Third.dockerignore").write_text("*\n!b.txt\n")
    assert minidocker(home, "build", "-t", "files", "-f", context / "Other", context).returncode == 0
    assert minidocker(home, "run", "files", "ls", "-A", "/c").stdout == "a.txt\n"
    assert "\nb.txt\n ---> " in minidocker(home, "build", "-f", tmp_path / "Third", context).stderr
    with open(tmp_path / "Third") as file:
        assert "\na.txt\n ---> " in minidocker(home, "build", "-f", "-", context, stdin=file).stderr


@pytest.mark.parametrize(
    ("words", "text", "code"),
    [
        ((), "usage: minidocker build", 125),
        (("/nosuch",), "/nosuch is not a directory", 1),
        (("-f", "/nosuch", "."), "/nosuch: No such file or directory", 1),
        (("-f", "bytes", "."), "bytes: it is not text in UTF-8", 1),
        (("-t", "UPPER", "."), "is no name of an image", 125),
        (("--build-arg", "=", "."), "--build-arg =: NAME=VALUE is expected", 125),
        (("--target", "x", "."), "there is no stage 'x'", 1),
        (("--network", "x", "."), "no network is called 'x'", 1),
        (("-f", "ignored", "."), "ignored.dockerignore: '[': a class [...] is not closed", 1),
        (("-f", "failing", "."), "Dockerfile line 2: RUN ['/bin/sh', '-c', 'exit 7']: exit code 7", 1),
    ],
)
def test_a_mistake_is_one_line(home, store, context, words, text, code):
    write(context, "FROM busybox\nRUN true\n")
    (context / "bytes").write_bytes(b"FROM \xff\n")
    write(context, "FROM busybox\n", "ignored")
    write(context, "[", "ignored.dockerignore")
    write(context, "FROM busybox\nRUN exit 7\n", "failing")
    result = minidocker(home, "build", *words, cwd=context)
    assert result.returncode == code and text in result.stderr.splitlines()[-1]
    assert result.stdout == "" and "Traceback" not in result.stderr


def test_debian(home, store, context):
    """A base with a dynamic loader, users, and a package manager of its own."""
    root = HOME / "roots/debian"
    need(root.is_dir(), "needs the Debian root: make run")
    add_image(store, "debian", root, Env=["PATH=/usr/sbin:/usr/bin:/bin"], Cmd=["bash"])
    text = """FROM debian
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN useradd --create-home web && dpkg-query -W bash | cat
COPY --chown=web a.txt /bin/inside-usr/
USER web
RUN [[ $HOME == /home/web ]] && id -un && echo mine > ~/file
CMD cat ~/file
"""
    built, shown = made(store, text, context)
    assert "bash\t" in shown and "\nweb\n" in shown
    assert inside(built, "cat ~/file; stat -c %U /usr/bin/inside-usr/a.txt; dpkg --audit") == "mine\nweb\n"


PODMAN = """ARG V=1
FROM busybox AS one
ARG V
ENV A=1 B="two words"
ENV C old style
WORKDIR /w
COPY a.txt .
COPY dir/ d/
COPY dir /e
COPY a.txt dir/x /f/
COPY --chown=1000:0 a.txt /g/h/
COPY --chmod=711 a.txt /i
COPY [ab]*.txt /j/
RUN echo $V > v; mkdir -p q/r; rm /etc/passwd
ADD archive.tgz /t/
ADD archive.tgz /t2
COPY --chown=55 dir /own
COPY to-dir /followed
FROM one
COPY --from=one /w/v /vv
COPY --from=0 /g /gg
LABEL x=$A "y z"='w' A=b
EXPOSE 80 53/udp
VOLUME /data
VOLUME ["/d1", "/d2"]
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --retries=3 CMD true || false
USER 1000:1000
CMD ["cat", "/script"]
ENTRYPOINT echo hi $A
"""
CONF = '[containers]\ndefault_ulimits=["nofile=1024:1024","nproc=1024:1024"]\n[engine]\ncgroup_manager="cgroupfs"\n'
LAB = 'umount /sys/fs/cgroup/unified; ip link set lo up; exec "$@"'


@pytest.fixture
def podman():
    """Run a shell script with podman, in namespaces of its own and with a store of its own; it wants short names.

    Podman cleans up after a container in a process that outlives the command: it ends with the PID namespace.
    """
    top = tempfile.mkdtemp(prefix="podman-")
    Path(top, "containers.conf").write_text(CONF)
    environment = {**os.environ, "CONTAINERS_CONF": f"{top}/containers.conf"}
    function = (
        f'podman() {{ command podman --root {top}/root --runroot {top}/run --storage-driver vfs "$@"; }}; set -e\n'
    )

    def call(script, *words):
        alone = ["unshare", "-m", "-n", "-p", "-f", "--mount-proc", "--propagation", "private"]
        argv = [*alone, "sh", "-c", LAB, "lab", "sh", "-c", function + script, "podman", *map(str, words)]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300)

    yield call
    shutil.rmtree(top)


def test_podman_makes_the_same_of_the_same_file(store, context, tmp_path, podman):
    """The config, and the type, mode, owner and link of each file. (Podman takes setuid bits away, Docker does not.)"""
    (context / "dir/run.sh").chmod(0o755)
    need(shutil.which("podman"), "needs podman: make run")
    (context / "archive.tgz").write_bytes(
        gzip.compress(archive([("./p/q", tarfile.REGTYPE, "x"), ("l", tarfile.SYMTYPE, "p")]))
    )
    write(context, PODMAN)
    with tarfile.open(tmp_path / "base.tar", "w") as tar:
        tar.add(HOME / "roots/busybox", ".")
    script = """
        podman import "$1" busybox >&2
        podman build --runtime /usr/sbin/runc --network none --layers --format docker -t app "$2" >&2
        podman inspect --format '{{json .Config}}' app
        cd "$(podman image mount app)" && find . -mindepth 1 -printf '%P %M %U %G %l\\n'
    """
    theirs = podman(script, tmp_path / "base.tar", context)
    assert theirs.returncode == 0, theirs.stderr
    config, *files = theirs.stdout.splitlines()
    built, _ = made(store, PODMAN, context)
    union = Union(built.layers())
    ours = run(["find", ".", "-mindepth", "1", "-printf", r"%P %M %U %G %l\n"], union, cwd=union.root)
    assert sorted(ours.stdout.splitlines()) == sorted(files)
    theirs_config, ours_config = json.loads(config), built.config["config"]
    ours_config["Labels"]["io.buildah.version"] = theirs_config["Labels"]["io.buildah.version"]
    assert {"Env", "Cmd", "Entrypoint", "ExposedPorts", "Labels", "User", "Volumes", "WorkingDir"} <= {
        *theirs_config
    } | {"Cmd"}
    for key in theirs_config:
        assert ours_config.get(key) == theirs_config[key] or key in ("Hostname",), key


def test_podman_runs_what_we_built(store, context, tmp_path, podman):
    """Through skopeo, which reads the store in place; the config is understood, not only kept."""
    need(shutil.which("podman") and shutil.which("skopeo"), "needs podman and skopeo: make run")
    text = "FROM busybox\nENV A=of-env\nWORKDIR /w\nCOPY --chown=7 dir .\nRUN rm x\nUSER 7:8\n"
    made(store, text + 'ENTRYPOINT ["sh", "-c"]\nCMD ["pwd; id -u; id -g; echo $A; ls -A"]\n', context, tags=["ours:1"])
    script = """
        skopeo copy -q "oci:$1:ours:1" "docker-archive:$2:ours:1" >&2
        podman load -q -i "$2" >&2
        podman run --rm --runtime /usr/sbin/runc --network none ours:1
    """
    theirs = podman(script, store.layout, tmp_path / "ours.tar")
    assert theirs.returncode == 0, theirs.stderr
    assert theirs.stdout == "/w\n7\n8\nof-env\n.hidden\nlink\nrun.sh\nsub\n"


# Ends


def test_two_builds_at_once(home, store, context):
    write(context, f"FROM busybox\nLABEL a={next(count)}x\nCOPY . /all/\nRUN sleep 0.2; echo done\nRUN rm -r /all\n")
    words = [sys.executable, "-m", "minidocker", "build", "-t", "same", str(context)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    builds = [subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    prunes = [
        subprocess.Popen([*words[:3], "image", "prune"], env=environment, stdout=subprocess.DEVNULL) for _ in range(2)
    ]
    for process in builds:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "Successfully tagged same" in errors
    assert [process.wait(60) for process in prunes] == [0, 0]
    assert minidocker(home, "run", "same", "ls", "/").returncode == 0
    whole(store)


def whole(store):
    """Each blob has the content that its name says, each name leads to an image that is all there."""
    for name in os.listdir(f"{store.layout}/blobs/sha256"):
        with open(f"{store.layout}/blobs/sha256/{name}", "rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == name
    for found in image.images(store):
        assert all(store.has(digest) for digest in found.digests())


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.25, 0.4, 0.6, 0.8])
def test_a_killed_build_leaves_nothing(home, store, context, moment):
    """At a step of its own each time: the store is whole, prune removes the rest, and the next build goes on."""
    (context / "big").write_bytes(os.urandom(3_000_000))
    text = "FROM busybox\nRUN sleep 0.1; echo 1 > /1\nCOPY . /all/\nRUN sleep 0.1; cp -r /all /2\n"
    write(context, text + "COPY big /3\nRUN rm -r /2\n")
    words = [sys.executable, "-m", "minidocker", "build", "--network=none", "--no-cache", "-t", "killed", str(context)]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(REPO)}, stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline().startswith("Step 1/6")
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for _ in range(100):  # what the kernel still has to end holds the lock of its directory
        if not [*state.prune(), *cgroups.prune(), *(home / "containers").glob("*")]:  # there may have been none yet
            break
        time.sleep(0.02)
    store.collect()
    whole(store)
    assert os.listdir(store.tmp) == [] and [*(home / "containers").glob("*")] == []
    assert minidocker(home, "build", "-t", "killed", context).returncode == 0
    whole(store)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("moment", [0.0, 0.15, 0.4, 0.7])
def test_a_signal_ends_a_build_in_order(home, store, context, number, moment):
    """Nothing is left, and nothing has to be pruned: the fixtures look."""
    (context / "big").write_bytes(os.urandom(3_000_000))
    write(context, "FROM busybox\nRUN echo begun; sleep 0.3\nCOPY . /all/\nRUN trap : TERM INT HUP; sleep 60\n")
    words = [sys.executable, "-m", "minidocker", "build", "--network=none", "--no-cache", "-t", "ended", str(context)]
    process = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": str(REPO)}, stderr=subprocess.PIPE, text=True)
    while not process.stderr.readline().startswith("begun"):
        pass
    time.sleep(moment)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number and "Traceback" not in errors
    assert os.listdir(home / "tmp") == [] and os.listdir(home / "containers") == []
    assert cgroups.prune() == [] and "ended" not in str(store.tags())
    whole(store)


def test_a_signal_waits_for_who_lets_go_or_imports():
    """It ended a removal half-way; and what is raised below an import may get lost in a callback of Python's own."""
    script = """
        import os, signal, sys, time
        from minidocker.cli import end_in_order
        class Held:
            def __enter__(self):
                return self
            def __exit__(self, *_):
                self.let_go()
            def let_go(self):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
                os.kill(os.getpid(), signal.SIGHUP)
                print("all of it", flush=True)
        def _find_and_load():
            os.kill(os.getpid(), signal.SIGTERM)
            print("all of it", flush=True)
        end_in_order(signal.SIGTERM, signal.SIGHUP)
        if sys.argv[1] == "exit":
            with Held():
                pass
        else:
            _find_and_load()
        time.sleep(60)
    """
    for what in ("exit", "import"):
        words = [sys.executable, "-c", textwrap.dedent(script), what]
        result = subprocess.run(
            words, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True, timeout=30
        )
        assert (result.returncode, result.stdout, result.stderr) == (128 + signal.SIGTERM, "all of it\n", ""), what


def test_a_full_disk(home, store, context, tmp_path):
    """On a file system of 8 MB: one line, and room again afterwards."""
    need(os.geteuid() == 0, "needs root to mount a small file system")
    (context / "big").write_bytes(os.urandom(6_000_000))
    write(context, "FROM scratch\nCOPY big /1\nCOPY big /2\n")
    script = """
        mount -t tmpfs -o size=12m small "$1" && export MINIDOCKER_HOME="$1"
        "$2" -m minidocker build "$3"; echo "exit code $?" >&2; "$2" -m minidocker system prune >&2
        find "$1/tmp" "$1/containers" "$1/layers" "$1/images/blobs" -mindepth 1 -type f
    """
    small = tmp_path / "small"
    small.mkdir()
    words = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "-", small, sys.executable, context]
    result = subprocess.run(
        words, env={**os.environ, "PYTHONPATH": str(REPO)}, capture_output=True, text=True, timeout=60
    )
    assert re.search(
        r"minidocker: Dockerfile line \d: COPY: .*[Nn]o space left on device.*\nexit code 1\n", result.stderr
    ), result.stderr
    assert result.stdout == ""


def test_a_base_that_is_not_here_is_pulled(home, store, context, monkeypatch):
    """From a registry in a thread of this process: so all containers are started by the launcher, as in a notebook."""
    monkeypatch.setenv("DOCKER_CONFIG", str(context))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with Registry() as server:
        server.serve(image.find(store, "busybox"))
        base = f"{server.name}/some/base:1"
        built, shown = made(
            store,
            f"FROM {base}\nCOPY dir /d\nADD a.txt /\nRUN cat /a.txt /d/x\nCOPY --from={base} /bin/sh /x\n",
            context,
        )
        assert "\nAXStep 5/5" in shown and inside(built, "ls -l /x").startswith("-rwx")
    assert base in store.tags()
    message = refused(store, "FROM 127.0.0.1:1/nosuch\n")
    assert message.startswith("Dockerfile line 1: FROM: 127.0.0.1:1/nosuch is not in the store, and cannot be pulled: ")


NAMES = st.sampled_from(["a", "b", "c.txt", "dir", "é", "x y"])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary(max_size=20), max_size=8),
    st.sets(NAMES, max_size=2),
)
def test_any_tree_arrives_as_it_is(store, tmp_path, files, ignored):
    """Random trees, random names left out: what arrives is what Python says that it should be."""
    top = Path(tempfile.mkdtemp(dir=tmp_path))
    expected = {}
    for name, content in files.items():
        with contextlib.suppress(OSError):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_bytes(content)
    for path in top.rglob("*"):
        if path.is_file() and not ignored & {path.relative_to(top).parts[0]}:
            expected[str(path.relative_to(top))] = path.read_bytes()
    built, _ = made(store, "FROM scratch\nCOPY . /t/\n", top, ignore=Ignore("\n".join(ignored)))
    layer = Path(built.layers()[0], "t")
    assert {str(path.relative_to(layer)): path.read_bytes() for path in layer.rglob("*") if path.is_file()} == expected
