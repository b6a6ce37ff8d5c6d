"""Chapter 5, the words of the command: options, help, typos, rights, and what nobody foresaw. One line, no Python."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minidocker import cli
from minidocker.cli import HelpWanted, parse
from minidocker.outcome import ContainerError
from tests.helpers import REPO
from tests.helpers.images import add_image, minidocker, new_store

pytestmark = pytest.mark.chapter(5)
USAGE = """try [OPTIONS] IMAGE[:TAG] [NAME]: a verb

    -i, --interactive     a switch
    -t, --tty             another
    -e, --env NAME...     several
        --net, --network NAME   one
"""


# Options


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-it x", {"interactive": True, "tty": True}),
        ("-it=false x", {"interactive": True, "tty": False}),
        ("-t=1 x", {"tty": True}),
        ("--tty=0 x", {"tty": False}),
        ("-ite A x", {"interactive": True, "tty": True, "env": ["A"]}),
        ("-iteA x", {"env": ["A"]}),
        ("-e=A -eB --env=C --env D x", {"env": ["A", "B", "C", "D"]}),
        ("--net a x", {"network": "a"}),
        ("x --network=b", {"network": "b"}),
        ("x", {"interactive": False, "env": [], "network": ""}),
    ],
)
def test_options_are_spelled_as_for_docker(words, expected):
    options, others = parse(USAGE, words.split())
    assert others == ["x"] and {name: options[name] for name in expected} == expected


@pytest.mark.parametrize("words", ["", "a b c", "--nosuch x", "-x y", "-t=maybe x", "x --env"])
def test_options_that_are_refused(words):
    with pytest.raises(ContainerError):
        parse(USAGE, words.split())


def test_the_usage_says_how_many_words_there_may_be():
    assert parse("tag IMAGE NAME[:TAG]: give", ["a", "b"])[1] == ["a", "b"]
    with pytest.raises(ContainerError, match=r"usage: minidocker tag IMAGE NAME\[:TAG\]$"):
        parse("tag IMAGE NAME[:TAG]: give", ["a"])
    assert parse("rm [OPTIONS] NAME...: remove", [*"abc"])[1] == [*"abc"]
    assert parse("run [OPTIONS] IMAGE [COMMAND...]: run\n\n  -i, --in  x", ["a", "-i", "--help"])[1] == [
        "a",
        "-i",
        "--help",
    ]
    with pytest.raises(HelpWanted):
        parse(USAGE, ["x", "--help"])


def test_an_option_that_is_misspelled_is_named(home):
    assert "--volum (did you mean --volume?)" in minidocker(home, "run", "--volum", "x", "busybox").stderr


# Help


@pytest.mark.parametrize("words", ["run --help", "run --rm --help", "help run", "run -it --help busybox"])
def test_help_is_there_wherever_it_is_asked_for(home, words):
    done = minidocker(home, *words.split())
    assert done.returncode == 0 and done.stdout.startswith("usage: minidocker run [OPTIONS] IMAGE [COMMAND...]: run")


def test_a_usage_is_not_cut_at_the_colon_of_a_tag(home):
    assert minidocker(home, "pull").stderr == "minidocker: usage: minidocker pull [OPTIONS] NAME[:TAG|@DIGEST]\n"


def test_a_noun_alone_lists_its_verbs(home):
    for words in (["volume"], ["volume", "--help"], ["help", "volume"]):
        done = minidocker(home, *words)
        assert (
            done.returncode == 0 and "  volume create   make a volume\n" in done.stdout and "network" not in done.stdout
        )


@pytest.mark.parametrize(
    ("typed", "meant"), [("runn", "run"), ("imagess", "images"), ("volume crate", "volume create")]
)
def test_a_typo_gets_the_nearest_name(home, typed, meant):
    done = minidocker(home, *typed.split())
    assert done.returncode == 1 and f"'{typed}' is not a minidocker command (did you mean {meant}?)" in done.stderr


def test_h_is_the_hostname_of_run_and_help_elsewhere(home):
    assert minidocker(home, "run", "-h", "web", "busybox", "hostname").stdout == "web\n"
    assert minidocker(home, "images", "-h").stdout.startswith("usage: minidocker images")
    for name in ("a\nb", "a b", "é", "x" * 65):
        assert minidocker(home, "run", "-h", name, "busybox", "true").returncode == 125


# Rights


@pytest.mark.parametrize("verb", ["images", "run busybox", "volume ls", "build .", "prune"])
def test_who_is_not_root_and_has_no_range_of_users_hears_it_at_once_with_the_remedy(verb, tmp_path):
    here = {"cwd": REPO, "env": {"PYTHONPATH": str(REPO), "MINIDOCKER_HOME": str(tmp_path / "none")}}
    words = ["/usr/bin/python3", "-m", "minidocker", *verb.split()]
    done = subprocess.run(words, **here, user=65534, group=65534, extra_groups=[], capture_output=True, text=True)
    name = " ".join(verb.split()[: 2 if "volume" in verb else 1])
    remedy = "use sudo, or usermod -v 100000-165535 -w 100000-165535 nobody"
    says = f"minidocker: /etc/subuid has no numbers for nobody, and images have many users: {remedy}\n"
    assert (done.stderr, done.stdout) == (says, "")
    assert done.returncode == (125 if name in ("run", "build") else 1)
    assert not (tmp_path / "none").exists()


# What goes wrong


@pytest.mark.parametrize(
    "words",
    [
        ["-u", "nosuch"],
        ["-u", "root:nosuch"],
        ["-e", "=x"],
        ["-e", ""],
        ["-w", "relative"],
        ["-w", "/etc/passwd"],
        ["-m", "²m"],
        ["-m", "4k"],
        ["--cpus", "nan"],
        ["--cpus", "inf"],
        ["--cpus", "1e9"],
        ["--pids-limit", "²"],
        ["--cpu-weight", "x"],
        ["--name", "a/b"],
        ["--network", "nosuch"],
        ["--ingress", "x", "-p", "80"],
        ["-v", "relative/path:/x"],
        ["--mount", "type=\udcff"],
        ["--pull", "sometimes"],
    ],
    ids=" ".join,
)
def test_what_run_is_told_wrongly_is_one_line_for_people(home, words):
    done = minidocker(home, "run", *words, "busybox", "true")
    assert done.returncode == 125
    assert re.fullmatch(r"minidocker: [^\n]+\n", done.stderr)
    assert not re.search(r"__|\b(Error|Cgroup|Network|User|Union|Volume|None|line \d+ of)\b", done.stderr), done.stderr


@pytest.mark.parametrize(
    "words", [["--pids-limit", "-1"], ["--cpus", "1e2"], ["-t=false"], ["--rm=true"]], ids=" ".join
)
def test_what_docker_takes_is_taken(home, words):
    assert minidocker(home, "run", *words, "busybox", "true").returncode == 0


def test_a_cgroup_that_is_mounted_read_only_is_one_line_with_the_remedy(home):
    script = """
        for where in $(awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/mounts); do
            mount --bind "$where" "$where"; mount -o remount,ro,bind "$where" "$where"
        done
        exec "$@"
    """
    words = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "-", sys.executable]
    env = {**os.environ, "MINIDOCKER_HOME": str(home), "PYTHONPATH": str(REPO)}
    command = [*words, "-m", "minidocker", "run", "busybox", "true"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 125 and "__" not in done.stderr and "Cgroup" not in done.stderr
    assert re.fullmatch(r"minidocker: /sys/fs/cgroup\S+: Read-only file system \(.*remount,rw\)\n", done.stderr)


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (ValueError("bad\nluck"), "images: bad luck: nobody foresaw that, so please report it"),
        (
            UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates"),
            "images: a word, or a name in what is read, is not UTF-8",
        ),
        (RecursionError("maximum depth"), "images: maximum depth: nobody foresaw that, so please report it"),
        (MemoryError(), "images: : nobody foresaw that, so please report it"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_nobody_foresaw_is_one_line_and_125(monkeypatch, capsys, failure, text):
    def fails(*_):
        raise failure

    fails.__doc__ = "images: fails"
    monkeypatch.setattr(cli, "function", lambda _: fails)
    assert cli.main(["images"]) == 125
    assert capsys.readouterr().err == f"minidocker: {text}\n"


def test_a_label_that_is_no_text_is_shown_or_refused_in_one_line(home, tmp_path):
    store = new_store(home)
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    add_image(store, "labelled", root, Labels={"a": "é"})
    assert minidocker(home, "inspect", "labelled").returncode == 0
    context = tmp_path / "context"
    context.mkdir()
    Path(context, "Dockerfile").write_bytes(b"FROM busybox\nLABEL a=\xff\n")
    done = minidocker(home, "build", context)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "UTF-8" in done.stderr
    assert minidocker(home, "import", "-c", "LABEL a=\udcff", "-", "strange", input="").returncode in (0, 1)
    for verb in (["inspect", "strange"], ["images"], ["inspect", "busybox"]):
        done = minidocker(home, *verb)
        assert done.stderr.count("\n") == (done.returncode != 0) and "Traceback" not in done.stderr
