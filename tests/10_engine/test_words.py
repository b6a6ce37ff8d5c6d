"""Chapter 10, the words of the command line: long forms, --format and --filter, -q, help and its examples."""

import json
import shlex

import pytest

from minidocker import cli
from minidocker.cli import words
from minidocker.cli.lists import filtered, labelled
from minidocker.images.store import Store
from minidocker.outcome import ContainerError
from tests.helpers import HOME
from tests.helpers.images import add_image, minidocker

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
        f"TAG   IMAGE ID\n2     {short}\n"
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
    assert (done.returncode, done.stdout) == (1, "linux\n") and "no such image: nosuch" in done.stderr
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
    for typed, meant in (("image lss", "image ls"), ("container strat", "container start"), ("systm df", "system df")):
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
