"""Chapter 10, the words of the command line: long forms, --format and --filter, -q, help and its examples."""

import json
import os
import shlex
import subprocess
import sys

import pytest

from minidocker import cli
from minidocker.cli import words
from minidocker.cli.lists import filtered, labelled
from minidocker.images.store import Store
from minidocker.outcome import ContainerError
from tests.helpers import HOME, REPO
from tests.helpers.images import add_image, minidocker
from tests.helpers.registries import HTPASSWD, Registry, basic, debian_registry

pytestmark = pytest.mark.chapter(10)


@pytest.fixture
def images(home):
    """busybox, and an image with labels that is a little younger."""
    config = {"Labels": {"tier": "web", "x": ""}, "Env": ["A=1", "B=2"]}
    return home, add_image(Store(str(home)), "shop/web:2", HOME / "roots/busybox", **config)


def out(home, *words):
    done = minidocker(home, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Lists


def test_a_list_of_images_as_a_template_says(images):
    home, web = images
    short = web.id.removeprefix("sha256:")[:12]
    assert out(home, "images", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}", "shop/web") == f"{short} shop/web:2\n"
    assert out(home, "images", "--format", r"table {{.Tag}}\t{{.ID}}", "shop/web") == (
        f"TAG       IMAGE ID\n2         {short}\n"
    )
    rows = [json.loads(line) for line in out(home, "images", "--format", "json").splitlines()]
    assert {row["Repository"] for row in rows} == {"busybox", "shop/web"}
    assert json.loads(out(home, "images", "--format", "{{json .}}", "shop/web"))["ID"] == short


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["reference=shop/*"], ["shop/web"]),
        (["reference=*box"], ["busybox"]),
        (["reference=shop/web:2", "reference=busybox:latest"], ["busybox", "shop/web"]),
        (["label=tier"], ["shop/web"]),
        (["label=tier=web", "label=x"], ["shop/web"]),
        (["label=tier", "label=y"], []),
        (["label=tier=db"], []),
        (["dangling=true"], []),
        (["dangling=false", "label=tier"], ["shop/web"]),
    ],
)
def test_images_are_filtered_as_dockers(images, filters, names):
    options = [word for text in filters for word in ("-f", text)]
    assert sorted(out(images[0], "images", *options, "--format", "{{.Repository}}").split()) == names


def test_of_one_key_one_value_is_enough_of_labels_all_and_what_is_unknown_is_named():
    known = {"name": lambda thing, text: text in thing, "label": lambda thing, text: labelled({"a": thing}, text)}
    assert filtered(["ab", "cd", "ef"], ["name=a", "name=c"], known) == ["ab", "cd"]
    assert filtered(["ab", "cd"], ["label=a", "label=a=cd"], known) == ["cd"]
    for word, says in (("nam=x", "did you mean name?"), ("zzz=x", "it takes name, label"), ("name", "with =VALUE")):
        with pytest.raises(ContainerError, match=f"--filter {word}.*{says}"):
            filtered([], [word], known)


def test_volumes_and_networks_are_listed_by_the_same_words(home):
    for name in ("pages", "logs"):
        out(home, "volume", "create", name)
    assert out(home, "volume", "ls", "-q", "-f", "name=pag") == "pages\n"
    assert out(home, "volume", "ls", "-f", "name=pag", "--format", "{{.Driver}} {{.Name}}") == "local pages\n"
    assert out(home, "volume", "ls", "-q", "--filter", "dangling=false") == ""
    assert out(home, "volume", "inspect", "-f", "{{.Name}} {{.Scope}}", "pages", "logs") == "pages local\nlogs local\n"
    assert out(home, "volume", "ls", "--format", r"table {{.Name}}", "-f", "driver=nosuch") == "VOLUME NAME\n"
    assert out(home, "network", "ls", "--format", "{{.Name}}") == ""


def test_history_and_disk_usage_as_a_template_says(images):
    home, web = images
    assert out(home, "system", "df", "--format", "{{.Type}}").splitlines()[0] == "Images"
    assert out(home, "history", "-q", "shop/web:2") == out(home, "history", "--format", "{{.ID}}", "shop/web:2")


# What is known of one


def test_inspect_finds_images_and_volumes_by_name_or_says_what_it_did_not_find(images):
    home, web = images
    out(home, "volume", "create", "pages")
    form = '{{.Id}} {{index .Config.Labels "tier"}} {{join .Config.Env ","}}'
    assert out(home, "inspect", "-f", form, "shop/web:2") == f"{web.id} web A=1,B=2\n"
    assert out(home, "inspect", "--format", "{{.Name}}", "pages") == "pages\n"
    assert out(home, "image", "inspect", "--format", "{{.Config.Entrypoint}}", "shop/web:2") == "<no value>\n"
    done = minidocker(home, "inspect", "nosuch", "shop/web:2", "-f", "{{.Os}}")
    assert (done.returncode, done.stdout) == (1, "linux\n") and "no such object: nosuch" in done.stderr
    assert minidocker(home, "image", "inspect", "pages").returncode == 1
    assert "volume nosuch: no such volume" in minidocker(home, "volume", "inspect", "nosuch").stderr
    assert "did you mean image?" in minidocker(home, "inspect", "--type", "imag", "x").stderr
    for form, says in (("{{.Idd}}", "no field Idd (did you mean Id?)"), ("{{.Id", "a {{ has no }}")):
        done = minidocker(home, "inspect", "-f", form, "busybox")
        assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1


# Long forms


def test_each_noun_has_its_verbs_in_the_long_form(images):
    home, _ = images
    assert out(home, "image", "ls", "-q") == out(home, "images", "-q")
    out(home, "image", "tag", "busybox", "other")
    assert "Untagged: other:latest" in out(home, "image", "rm", "other")
    assert "  image ls        list the images\n" in out(home, "image")
    assert "usage: minidocker images" in out(home, "image", "ls", "--help")
    assert "Total reclaimed space" in out(home, "builder", "prune", "-af")
    for typed, meant in (("image lss", "image ls"), ("container renam", "container rename"), ("systm df", "system df")):
        assert f"did you mean {meant}?" in minidocker(home, *typed.split()).stderr
    for typed, meant in (("contaner ls", "container ls"), ("conatiner", "container"), ("volum nosuch", "volume")):
        assert f"did you mean {meant}?" in minidocker(home, *typed.split()).stderr


def test_every_long_form_leads_to_a_verb_or_to_one_that_is_to_come():
    verbs = {long.split()[0] for long in words.ALIASES.values()}
    assert verbs - {*cli.VERBS} <= {"ps", "cp", "stats", "top", "port", "diff", "commit", "update", "info", "events"}
    assert not {*words.ALIASES} & {*cli.VERBS}


# Help, typos, completion


@pytest.mark.parametrize("verb", sorted(verb for verb in cli.VERBS if verb[0] != "_"))
def test_each_verb_has_an_example_that_parses_and_help_shows_it(verb, capsys):
    hostname = verb in ("run", "create")  # is what -h means there
    for asked in (["--help"], ["--help", "and more"], ["-h"])[: 2 if hostname else 3]:
        assert cli.main([*verb.split(), *asked]) == 0
        *_, last = capsys.readouterr().out.splitlines()
        assert f"{last} ".startswith(f"e.g. minidocker {verb} ")
    options, others = cli.parse(cli.function(verb).__doc__, shlex.split(last.partition(f" {verb}")[2]))
    assert all("-" not in word[:1] for word in others)


def test_help_is_there_wherever_it_is_asked_for(home):
    for typed in ("image --help", "help image", "image"):
        assert "  image ls " in out(home, *typed.split())
    for typed in ("help image ls", "image ls --help", "images --help -q"):
        assert out(home, *typed.split()).startswith("usage: minidocker images")
    assert "__" not in out(home, "help")
    done = minidocker(home, "images", "--formt", "x")
    assert (done.returncode, done.stderr) == (
        1,
        "minidocker: unknown option --formt (did you mean --format?): see --help\n",
    )


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["imag"], {"image", "images"}),
        (["image", "l"], {"load", "ls"}),
        (["image", "ls", "--no"], {"--no-trunc"}),
        (["volume", ""], {"create", "inspect", "ls", "prune", "rm"}),
        (["volume", "rm", "pag"], {"pages"}),
        (["run", "shop/"], {"shop/web:2"}),
        (["image", "rm", "b"], {"busybox:latest"}),
        (["rmi", "nosuch"], set()),
        (["nosuch", ""], set()),
    ],
    ids=" ".join,
)
def test_a_shell_is_told_what_a_word_may_become(images, typed, found):
    home, _ = images
    for name in ("pages", "pears"):
        out(home, "volume", "create", name)
    assert {*out(home, "__complete", "--", *typed).split()} == found


def test_bash_completes_by_it(images, tmp_path):
    home, _ = images
    script = out(home, "completion", "bash")
    (tmp_path / "minidocker").write_text(f'#!/bin/sh\nexec {sys.executable} -m minidocker "$@"\n')
    (tmp_path / "minidocker").chmod(0o755)
    script += 'COMP_WORDS=(minidocker image rm shop/we) COMP_CWORD=3; _minidocker; echo "${COMPREPLY[@]}"\n'
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "MINIDOCKER_HOME": str(home)}
    done = subprocess.run(["bash", "-c", script], env=env | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True)
    assert done.stdout == "shop/web:2\n", done.stderr
    for shell in ("bash", "zsh"):
        text = out(home, "completion", shell)
        assert len(text.splitlines()) <= 30 and "minidocker __complete" in text
    assert "it is bash or zsh" in minidocker(home, "completion", "fish").stderr


# Who we are, and what there is


def test_a_login_is_tried_before_it_is_kept_and_a_client_uses_it(images, tmp_path, monkeypatch):
    home, _ = images
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    config = tmp_path / "docker/config.json"
    with debian_registry(tmp_path / "registry", HTPASSWD) as name:
        words = ["login", "-u", "ann", "--password-stdin", name]
        assert minidocker(home, *words, input="wrong\n").returncode == 1 and not config.exists()
        config.parent.mkdir(exist_ok=True)
        config.write_text('{"auths": {"other:1": {"auth": "eDp5"}}, "detachKeys": "ctrl-x"}')
        done = minidocker(home, *words, input="secret\n")
        assert (done.returncode, done.stdout) == (0, "Login Succeeded\n"), done.stderr
        known = json.loads(config.read_text())
        assert known["detachKeys"] == "ctrl-x" and {*known["auths"]} == {"other:1", name}
        assert config.stat().st_mode & 0o777 == 0o600 and os.listdir(config.parent) == ["config.json"]
        out(home, "tag", "busybox", f"{name}/box:1")
        out(home, "push", "-q", f"{name}/box:1")
        assert out(home, "logout", name) == f"Removing login credentials for {name}\n"
        assert out(home, "logout", name) == f"Not logged in to {name}\n"
        assert {*json.loads(config.read_text())["auths"]} == {"other:1"}
        assert "it wants a password" in minidocker(home, "push", f"{name}/box:1").stderr
        done = minidocker(home, "login", name, input="")
        assert done.returncode == 1 and "use -u NAME and --password-stdin" in done.stderr


def test_a_registry_with_tokens_is_asked_for_one(home, tmp_path, monkeypatch):
    """The name and the password go to the server of tokens, and the token to the registry."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with Registry() as server:

        def tokens(handler):
            if handler.headers.get("Authorization") != basic("ann", "secret"):
                return handler.answer(401)
            return handler.answer(200, b'{"token": "t0ken"}')

        def base(handler):
            if handler.headers.get("Authorization") == "Bearer t0ken":
                return handler.answer(200, b"{}")
            challenge = f'Bearer realm="http://{server.name}/token",service="s"'
            return handler.answer(401, headers={"WWW-Authenticate": challenge})

        server.rules = {"/token": tokens, "/v2/": base}
        words = ["login", "-u", "ann", "--password-stdin", server.name]
        assert minidocker(home, *words, input="wrong").returncode == 1
        assert minidocker(home, *words, input="secret").stdout == "Login Succeeded\n"
    assert [*json.loads((tmp_path / "docker/config.json").read_text())["auths"]] == [server.name]


def test_version_and_info_say_what_scripts_ask(images):
    home, _ = images
    assert out(home, "version", "--format", "{{.Client.Version}}") == out(home, "version", "-f", "{{.Server.Version}}")
    assert out(home, "version").startswith("Client:\n Version: ")
    known = json.loads(out(home, "info", "--format", "{{json .}}"))
    assert known["Images"] == 2 and known["Driver"] == "overlay2" and known["DockerRootDir"] == str(home)
    assert out(home, "system", "info", "-f", "{{.NCPU}} {{.CgroupVersion}}").split()[0] == str(os.cpu_count())
    assert f"KernelVersion: {os.uname().release}\n" in out(home, "info")
