"""Chapter 10, `build`: what the Dockerfile reference has beside the instructions of chapter 5, in real builds."""

import gzip
import hashlib
import http.server
import itertools
import json
import os
import re
import stat
import subprocess
import tarfile
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidocker.images.build.copy import MODE, chmod
from minidocker.images.registry import may_ask
from minidocker.images.store import Store
from tests.helpers.images import minidocker
from tests.helpers.registries import debian_registry

pytestmark = pytest.mark.chapter(10)
count = itertools.count()


@pytest.fixture
def context(tmp_path):
    """Some files to copy."""
    directory = tmp_path / "context"
    for name in ("a.txt", "b.md", "app/one/package.json", "app/two/package.json", "app/two/lib/x.md", "package.json"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    (directory / "app/two").chmod(0o750)
    return directory


@pytest.fixture
def build(home, context):
    """Build a Dockerfile that begins with busybox, and is like no other; fail if that fails, or does not with `fails`.

    Returns what is said; the image is called `made`.
    """

    def build(text, *options, fails=False, where=None, **more):
        (context / "Dockerfile").write_text(f"FROM busybox\nLABEL test={next(count)}\n{text}\n")
        done = minidocker(home, "build", "-t", "made", *options, where or context, **more)
        assert (done.returncode != 0) == fails, done.stderr
        assert os.listdir(home / "tmp") == []
        return done.stderr

    return build


@pytest.fixture
def shell(home):
    """What a script prints in the image."""

    def shell(script):
        done = minidocker(home, "run", "--rm", "made", "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return shell


def config(home):
    """What `inspect` says of the image."""
    return json.loads(minidocker(home, "inspect", "made").stdout)[0]


def cached(home, context, *options):
    """Build the Dockerfile that is there once more, and tell how many steps the cache had."""
    done = minidocker(home, "build", "-t", "made", *options, context)
    assert done.returncode == 0, done.stderr
    return done.stderr.count("---> CACHED")


# What the command takes, and says


def test_steps_have_times_unless_they_were_cached(build, home, context):
    said = build("RUN sleep 0.3\nCMD x")
    assert re.search(r"^Step 3/4 : RUN sleep 0.3\n ---> (?!0\.[012])\d+\.\d s$", said, re.M), said
    assert len(re.findall(r"^ ---> \d+\.\d s$", said, re.M)) == 3
    done = minidocker(home, "build", context)
    assert done.stderr.count(" ---> CACHED\n") == 3 and not re.search(r" s$", done.stderr, re.M)


def test_labels_of_the_command_win_and_are_cached(build, home, context):
    build("LABEL a=file b=file", "--label", "a=b c=$d", "--label", "empty", "--progress", "plain")
    labels = config(home)["Config"]["Labels"]
    assert (labels["a"], labels["b"], labels["empty"]) == ("b c=$d", "file", "")
    assert cached(home, context, "--label", "a=b c=$d", "--label", "empty") == 3
    assert cached(home, context, "--label", "a=other") == 2
    assert config(home)["Config"]["Labels"]["a"] == "other"


def test_pull_asks_the_registry_for_what_is_here(build, home, context, tmp_path):
    with debian_registry(tmp_path / "registry") as name:
        for text in ("new", "old"):
            build(f"RUN echo {text} > /said")
            assert minidocker(home, "tag", "made", f"{name}/base").returncode == 0
            if text == "new":
                assert minidocker(home, "push", f"{name}/base").returncode == 0
        (context / "Dockerfile").write_text(f"FROM {name}/base\nCMD cat /said\n")
        for options, expected in (((), "old\n"), (("--pull",), "new\n")):
            assert minidocker(home, "build", "-t", "made", *options, context).returncode == 0
            assert minidocker(home, "run", "--rm", "made").stdout == expected
    done = minidocker(home, "build", "--pull", context)
    assert done.returncode == 1 and f"{name}/base is wanted anew, and cannot be pulled" in done.stderr


# COPY and ADD


def test_link_changes_nothing(build, shell):
    build("COPY --link a.txt /d/\nCOPY --link=false a.txt /e/\nADD --link=true a.txt /f/")
    assert shell("cat /d/a.txt /e/a.txt /f/a.txt") == "a.txt\n" * 3
    assert "--link wants one value" in build("COPY --link=x a.txt /", fails=True)


def test_exclude_is_below_the_source(build, shell):
    build(
        "COPY --exclude=*.md --exclude=app/two . /all/\nCOPY --exclude=*.md a.txt b.md /few/\n"
        "COPY --exclude=two/lib --exclude=**/package.json --exclude=!one/package.json app /app\n"
        "ADD --exclude=#x --exclude=a* . /add/\n"
    )
    assert shell("cd /all; find . -type f | sort").split() == [
        "./Dockerfile",
        *_txt("a.txt app/one/package.json package.json"),
    ]
    assert shell("ls /few") == "a.txt\n"
    assert shell("cd /app; find . | sort").split() == [".", "./one", "./one/package.json", "./two"]
    assert "a.txt" not in shell("ls /add") and "app" not in shell("ls /add")


def _txt(names):
    return [f"./{name}" for name in names.split()]


def test_what_is_excluded_is_not_in_the_key(build, home, context):
    build("COPY --exclude=*.md . /all/")
    (context / "b.md").write_text("other")
    assert cached(home, context) == 2
    (context / "a.txt").write_text("other")
    assert cached(home, context) == 1


def test_parents_keep_the_way(build, shell, home, context):
    build(
        "COPY --parents app/one/package.json app/two /x\nCOPY --parents app/./*/package.json /y/\n"
        "COPY --parents **/package.json /z/\nCOPY --parents --exclude=app/two/lib ./app/two/ /w/\n"
    )
    listed = shell("for d in x y z w; do cd /$d; find . -type f | sort; done").split()
    assert listed == [
        *_txt("app/one/package.json app/two/lib/x.md app/two/package.json"),
        *_txt("one/package.json two/package.json"),
        *_txt("app/one/package.json app/two/package.json package.json"),
        *_txt("app/two/package.json"),
    ]
    assert shell("stat -c %a /x/app/two /x/app /y/two") == "750\n755\n755\n"
    assert cached(home, context) == 5
    (context / "app/two").chmod(0o700)
    assert cached(home, context) == 1


def test_deep_patterns_do_not_leave_the_context(build, context, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/package.json").write_text("secret")
    (context / "link").symlink_to(tmp_path / "outside")
    (context / "app/up").symlink_to("../../outside")
    said = build("COPY --parents **/package.json /z/\nRUN find /z -name package.json | wc -l; ! grep -r secret /z")
    assert "\n3\n" in said


def test_without_parents_stars_are_one(build, shell):
    build("COPY **/one/package.json /z/")
    assert shell("ls /z") == "package.json\n"


def test_chmod_in_letters(build, shell, home, context):
    (context / "a.txt").chmod(0o640)
    build("COPY --chmod=u+x,go=rX a.txt app /d/\nCOPY --chmod=a-r,+X a.txt /e\nADD --chmod=g=u,o+t,u+s a.txt /f")
    assert shell("stat -c %a /d/a.txt /d/two /d/one/package.json /e /f") == "755\n755\n755\n200\n5660\n"
    for wrong in ("u+y", "x", "u", "u+x,", "99", "u+x;", "0x1"):
        assert f"--chmod={wrong}: three or four octal digits, or letters" in build(
            f"COPY --chmod={wrong} a.txt /", fails=True
        )


@given(st.from_regex(MODE, fullmatch=True).filter(lambda text: text.isascii()), st.integers(0, 0o7777))
def test_chmod_is_that_of_the_command(tmp_path_factory, change, before):
    """chmod(1) of coreutils is the yardstick."""
    path = tmp_path_factory.mktemp("mode") / "x"
    path.write_text("")
    path.chmod(before)
    subprocess.run(["chmod", "--", change, path], check=True, env={**os.environ, "LC_ALL": "C"}, umask=0)
    assert oct(chmod(change, before | stat.S_IFREG)) == oct(path.stat().st_mode & 0o7777)


# The standard input, and what is on the web


def test_a_dockerfile_alone_has_an_empty_context(home):
    done = minidocker(home, "build", "-t", "made", "-", input="FROM busybox\nCOPY . /x\nRUN ls -A /x | wc -l\n")
    assert done.returncode == 0 and "\n0\n" in done.stderr, done.stderr
    done = minidocker(home, "build", "-", input="FROM busybox\nCOPY stdin /x\n")
    assert done.returncode == 1 and "there is no such file" in done.stderr
    assert os.listdir(home / "tmp") == []


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_is_a_context(home, context, tmp_path, mode):
    (context / ".dockerignore").write_text("*.md\n")
    (context / "Other").write_text("FROM busybox\nCOPY . /x\nRUN cd /x; ls b.md a.txt\n")
    with tarfile.open(tmp_path / "context.tar", mode) as archive:
        archive.add(context, ".")
    with open(tmp_path / "context.tar", "rb") as archive:
        done = minidocker(home, "build", "-f", "Other", "-", stdin=archive)
    assert "\na.txt\n" in done.stderr and "b.md: No such file" in done.stderr
    assert os.listdir(home / "tmp") == []


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../../../../../../etc/hostname", "fifo"])
def test_a_tar_with_a_dockerfile_from_elsewhere(home, context, tmp_path, target):
    (context / "Dockerfile").symlink_to(target)
    os.mkfifo(context / "fifo")
    with tarfile.open(tmp_path / "context.tar", "w") as archive:
        archive.add(context, ".")
    with open(tmp_path / "context.tar", "rb") as archive:
        done = minidocker(home, "build", "-", stdin=archive)
    assert done.returncode == 1 and os.uname().nodename not in done.stderr
    assert "No such file" in done.stderr or "there is no FROM" in done.stderr


@pytest.fixture
def web():
    """A server on this machine: `pages` has (status, headers, content) of paths, `asked` the paths."""

    class Handler(http.server.BaseHTTPRequestHandler):
        pages, asked = {}, []

        def do_GET(self):
            self.asked.append(self.path)
            status, headers, content = self.pages.get(self.path, (404, {}, b""))
            self.send_response(status)
            for header in {"Content-Length": len(content), **headers}.items():
                self.send_header(*map(str, header))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Handler.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Handler
        server.shutdown()


def test_add_of_a_url(build, shell, web, home, context):
    content = gzip.compress(b"hello")
    web.pages["/d/a%20b.gz?v=1"] = 200, {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, content
    web.pages["/moved"] = 302, {"Location": "/d/a%20b.gz?v=1"}, b""
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    build(
        f"ARG sum={digest}\nADD {web.url}/d/a%20b.gz?v=1 a.txt /x/\nADD --chmod=u+x --chown=7 {web.url}/moved /y\n"
        f"ADD --checksum=$sum {web.url}/moved /z"
    )
    assert shell("cd /x; ls; stat -c '%a %u %Y' 'a b.gz' /y; gunzip <'a b.gz'; cmp 'a b.gz' /z") == (
        "a b.gz\na.txt\n600 0 1445412480\n700 7 1445412480\nhello"
    )
    assert cached(home, context) == 5
    web.pages["/d/a%20b.gz?v=1"] = 200, {}, content + b"\0"
    done = minidocker(home, "build", context)
    assert done.stderr.count("CACHED") == 2 and "its checksum is sha256:" in done.stderr and done.returncode == 1


def test_a_url_that_is_refused(build, web):
    web.pages["/insecure"] = 302, {"Location": "http://example.org/x"}, b""
    web.pages["/file"] = 302, {"Location": "file:///etc/hostname"}, b""
    web.pages["/short"] = 200, {"Content-Length": "9"}, b"1"
    web.pages["/huge"] = 200, {"Content-Length": str(1 << 60)}, b"1"
    for text, said in {
        "/none /x": "HTTP 404",
        "/insecure /x": "http://example.org/x is plain HTTP",
        "/file /x": "file:///etc/hostname",
        "/short /x": "no answer",
        "/huge /x": "",
        "/ /x/": "a URL names no file",
        "/%2e%2e /x/": "a URL names no file",
    }.items():
        assert said in build(f"ADD {web.url}{text}", fails=True)
    assert "--checksum is for one URL" in build("ADD --checksum=sha256:1 a.txt /x", fails=True)


def test_no_other_server_leads_to_this_machine():
    """A real one of another machine is not here: the rule itself, which the redirect above has passed."""
    for place, ok in {
        "http://127.0.0.1/x": 0,
        "https://localhost/x": 0,
        "https://b.example/x": 1,
        "http://b.example/": 0,
    }.items():
        assert may_ask(place, "https://a.example/x") == bool(ok), place


# RUN --mount


def test_a_cache_is_found_again_and_is_in_no_layer(build, shell, home, context):
    mount = "RUN --mount=type=cache,target=/root/.cache/x,mode=1770,uid=5"
    step = mount + " cd /root/.cache/x; stat -c '%a %u' .; ls; touch {}"
    assert "\n1770 5\n" in build(step.format("a"))
    assert shell("ls -A /root") == ""
    assert "\na\n" in build(step.format("b"))
    assert cached(home, context) == 2
    assert "\na\nb\n" in build(
        step.format("c").replace("RUN", "WORKDIR /root\nRUN").replace("=/root/.cache", "=.cache")
    )
    other = step.format("d").replace(",mode", ",id=other,mode")
    assert "\na\n" not in build(other)
    assert "Read-only file system" in build(f"{mount},ro ! touch /root/.cache/x/e 2>&1")
    Store(str(home)).forget_steps()
    assert "\na\n" not in build(step.format("f")) and os.listdir(home / "layers/caches")


def test_a_locked_cache_is_one_step_s(home, context):
    script = "mkdir /c/in && sleep 1 && rmdir /c/in"
    commands = []
    for number in range(2):
        text = (
            f"FROM busybox\nLABEL a={next(count)}\nRUN --mount=type=cache,target=/c,id=lock,sharing=locked {script}\n"
        )
        (context / f"{number}").write_text(text)
        commands.append(
            threading.Thread(
                target=lambda file=context / f"{number}": done.append(minidocker(home, "build", "-f", file, context))
            )
        )
    done = []
    for command in commands:
        command.start()
    for command in commands:
        command.join()
    assert [one.returncode for one in done] == [0, 0], done


def test_a_secret_is_nowhere_else(build, shell, home, context, tmp_path, monkeypatch):
    (tmp_path / "token").write_bytes(b"hunter2-\xff")
    monkeypatch.setenv("PASSWORD", "hunter2-env")
    given = "--secret", f"id=token,src={tmp_path}/token", "--secret", "id=word,env=PASSWORD"
    said = build(
        "RUN --mount=type=secret,id=token --mount=type=secret,id=word,target=/etc/word,mode=0440,gid=7"
        " stat -c '%a %u %g %s' /run/secrets/token /etc/word; ! echo x 2>&1 >/etc/word\n"
        "RUN --mount=type=secret,id=word,env=WORD test ${#WORD} = 11; ! test -e /run/secrets/word\n"
        "USER 7\nRUN --mount=type=secret,id=token ! cat /run/secrets/token\n"
        "RUN --mount=type=secret,id=none test ! -e /run/secrets/none",
        *given,
    )
    assert "\n400 0 0 9\n440 0 7 11\n" in said and "Read-only file system" in said
    assert shell("ls -A /run /etc | grep -e secrets -e word | wc -l") == "0\n"
    assert not subprocess.run(["grep", "-rl", "hunter2", home], capture_output=True).stdout
    for layer in (home / "images/blobs/sha256").iterdir():
        data = layer.read_bytes()
        assert b"hunter2" not in (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    assert "hunter2" not in said + minidocker(home, "history", "--no-trunc", "made").stdout
    (tmp_path / "token").write_text("other")
    assert cached(home, context, *given) == 6, "a secret is no part of the key"


def test_secrets_that_are_refused(build, home, tmp_path):
    assert "no secret token: build --secret id=token" in build(
        "RUN --mount=type=secret,id=token,required true", fails=True
    )
    (tmp_path / "large").write_bytes(bytes(512001))
    for words, said in {
        f"id=a,src={tmp_path}/none": "No such file",
        f"id=a,src={tmp_path}/large": "more than 512000 bytes",
        f"src={tmp_path}/large": "--secret is id=NAME",
        "id=a,env=NOT_SET_AT_ALL": "--secret is id=NAME",
        "id=a,src=/x,kind=y": "--secret is id=NAME",
    }.items():
        assert said in build("RUN true", "--secret", words, fails=True)


def test_a_bind_is_read_only_or_thrown_away(build, shell, home, context):
    (context / ".dockerignore").write_text("*.md\n")
    said = build(
        "COPY a.txt /kept/\nRUN --mount=target=/in ls /in; cat /in/app/one/package.json; ! touch /in/x 2>&1\n"
        "RUN --mount=type=bind,source=a.txt,target=/kept/b.txt,rw cat /kept/b.txt; echo more >>/kept/b.txt\n"
        "RUN --mount=from=busybox,src=/bin,dst=/other/bin ls /other/bin/busybox"
    )
    assert "\na.txt\n" in said and "b.md" not in said and "Read-only" in said and "/other/bin/busybox" in said
    assert shell("ls -A /kept /in /other 2>/dev/null || true") == "/kept:\na.txt\n"
    assert (context / "a.txt").read_text() == "a.txt\n"
    (context / "b.md").write_text("ignored")
    assert cached(home, context) == 5
    (context / "app/two/package.json").write_text("changed")
    assert cached(home, context) == 2


def test_a_bind_is_built_before(build, home, context):
    text = (
        "FROM busybox AS first\nRUN echo 5 >/five\nFROM busybox\nRUN --mount=from=first,source=/five,target=/f cat /f"
    )
    (context / "Dockerfile").write_text(text)
    assert "\n5\n" in minidocker(home, "build", context).stderr


@pytest.mark.parametrize("source", ["out", "../../outside/secret", "app/out/secret", "/proc/self/environ"])
def test_no_bind_leaves_the_context(build, context, tmp_path, source):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("hidden")
    (context / "out").symlink_to(tmp_path / "outside/secret")
    (context / "app/out").symlink_to("../../outside")
    said = build(f"RUN --mount=source={source},target=/in cat /in /in/* ", fails=True)
    assert "there is no such file" in said and "hidden" not in said


def test_a_hostile_image_leads_no_mount_elsewhere(build, home, tmp_path):
    """Links on the way are followed in the image; what is on the host is as it was."""
    (tmp_path / "host").mkdir()
    build(
        f"RUN ln -s {tmp_path}/host /run2; ln -s /proc /p; mkdir -p {tmp_path}/host\n"
        "RUN --mount=type=cache,target=/run2/deep/in touch /run2/deep/in/x"
    )
    assert os.listdir(tmp_path / "host") == []
    for target in ("/p/x", "/proc/self", "/", "/p"):
        said = build(f"RUN ln -s /proc /p\nRUN --mount=type=tmpfs,target={target} true", fails=True)
        assert "nothing can be mounted on the root, nor on or below /proc" in said or "Tmpfs: x: No such" in said


def test_memory_is_empty_and_has_a_size(build):
    said = build(
        "COPY app /t\nRUN --mount=type=tmpfs,target=/t,size=1m ls -A /t | wc -l; df -k /t; cp /bin/busybox /t || true"
    )
    assert "\n0\n" in said and re.search(r"tmpfs +1024 ", said)
    said = build("RUN --mount=type=tmpfs,target=/t cp /bin/busybox /t/; /t/busybox echo executed")
    assert "\nexecuted\n" in said


@pytest.mark.parametrize(
    "mount, said",
    {
        "type=ssh": "type=ssh",
        "type=cache": "type=cache wants a target=PATH",
        "type=secret": "type=secret wants a target=PATH",
        "type=tmpfs,target=/x,from=y": "from",
        "type=cache,target=/x,mode=9": "mode=9: [0-7]{1,4} is expected",
        "type=cache,target=/x,uid=99999999999": "uid=99999999999",
        "type=cache,target=/x,sharing=some": "sharing=some: shared|private|locked is expected",
        "type=bind,target=/x,ro=maybe": "readonly=maybe: true|false",
        "type=tmpfs,target=/x,size=lots": "size",
        "target=/x,source=none": "none: there is no such file",
        "target=/x,from=scratch": "--from=scratch",
    }.items(),
)
def test_mounts_that_are_refused(build, mount, said):
    text = build(f"RUN --mount={mount} true", fails=True)
    assert said in text and text.splitlines()[-1].startswith("minidocker: Dockerfile line 3: ")
