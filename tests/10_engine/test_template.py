"""Chapter 10, the Go templates of --format: alone, against Python, and against those of Docker and podman."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidocker.cli.lists import parsed, render
from minidocker.outcome import ContainerError
from tests.helpers import BARE, python

pytestmark = pytest.mark.chapter(10)
THING = {
    "Name": "web",
    "Id": "4f",
    "List": ["a", "b"],
    "Map": {"b": 1, "a": 2},
    "None": None,
    "Running": True,
    "Labels": "x=1,y=2",
    "Ports": {"80/tcp": [{"HostPort": "8080"}]},
    "Pid": 3,
}


def made(form, value=THING):
    return render(parsed(form), {".": value, "$": value})


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("{{.Name}}", "web"),
        ("{{ .Name }}", "web"),
        ("{{.ID}} {{.Id}}", "4f 4f"),
        ("{{.List}} {{.Map}} {{.Running}} {{.None}} {{.Pid}}", "[a b] map[a:2 b:1] true <no value> 3"),
        ("{{json .List}} {{json .Map}} {{json .None}}", '["a","b"] {"b":1,"a":2} null'),
        ("{{.List | json | upper}}", '["A","B"]'),
        ('{{index .Map "b"}}{{index .List 0}}{{index .Map "c"}}', "1a"),
        ('{{(index (index .Ports "80/tcp") 0).HostPort}}', "8080"),
        ('{{join .List ", "}} {{index (split .Name "e") 1}}', "a, b b"),
        ("{{range .List}}<{{.}}>{{end}}", "<a><b>"),
        ("{{range $i, $v := .List}}{{if $i}},{{end}}{{$v}}{{end}}", "a,b"),
        ("{{range $k, $v := .Map}}{{$k}}={{$v}} {{end}}", "a=2 b=1 "),
        ("{{range $p, $c := .Ports}}{{$p}} -> {{(index $c 0).HostPort}}{{end}}", "80/tcp -> 8080"),
        ("{{range $v := .List}}{{$v}}{{end}}{{range .None}}{{else}}none{{end}}", "abnone"),
        ("{{if .None}}y{{else}}n{{end}}{{if .Running}}y{{end}}{{if not .Running}}n{{end}}", "ny"),
        ("{{if .None}}1{{else if .Pid}}2{{else}}3{{end}}!", "2!"),
        ('{{if eq .Name "db" "web"}}y{{end}}{{if ne .Pid 3}}n{{end}}', "y"),
        ("{{with .Map}}{{.a}}{{$.Name}}{{else}}none{{end}}", "2web"),
        ("{{$x := .Pid}}{{$x}}{{with .List}}{{$x}}{{end}}", "33"),
        ('{{printf "%s-%v-%05d" .Name .Pid .Pid}}', "web-3-00003"),
        ("{{println .Name .Pid}}", "web 3\n"),
        ("{{len .List}}{{len .Name}}{{or .None .Name}}{{and .Running .Pid}}", "23web3"),
        ("{{title .Name}} {{.List | len | lt 0}} {{ge .Pid 3}} {{gt .Pid 3}}", "Web true true false"),
        (r"a\t{{.Name}}\n", "a\tweb\n"),
        (r'{{join .List "\n"}}', "a\nb"),
        ("a {{- .Name -}} b", "awebb"),
        ('{{"}}"}}{{"a\\"b"}}{{true}}{{-3}}{{1.5}}', '}}a"btrue-31.5'),
        ('{{.Label "y"}}{{.Label "z"}}', "2"),
        ("no action", "no action"),
        ("", ""),
    ],
)
def test_what_a_template_makes(form, text):
    assert made(form) == text


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ("{{.Nme}}", "no field Nme (did you mean Name?)"),
        ("{{.Name.X}}", "no field X, but "),
        ("{{.zzz}}", "no field zzz, but Name, Id, List"),
        ("{{uper .Name}}", "no function uper (did you mean upper?)"),
        ("{{foo .Name}}", "no function foo, but json, index"),
        ("{{if .Name}}", "if has no end"),
        ("{{if .Name}}{{else foo}}{{end}}", "no function else"),
        ("{{end}}", "no function end"),
        ("{{.Name", "a {{ has no }}"),
        ("{{}}", "{{}} cannot be read"),
        ("{{.Name .Id}}", "{{.Name .Id}} cannot be read"),
        ("{{(.Name}}", "cannot be read"),
        ("{{.Name)}}", "cannot be read"),
        ("{{$q}}", "{{$q}} cannot be read"),
        ('{{join .Pid ","}}', "not be done with its value"),
        ("{{range .Pid}}{{end}}", "not be done with its value"),
        ("{{index .List 5}}", "not be done with its value"),
        ("{{'x'}}", "cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_nearest_name(form, says):
    with pytest.raises(ContainerError) as refused:
        made(form)
    assert str(refused.value).startswith("--format: ") and says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_titles_are_not_changed_by_functions():
    titles = {"ID": "IMAGE ID", "Labels": "LABELS"}
    scope = {".": titles, "$": titles, "titles": True}
    assert render(parsed('{{json .ID}} {{.ID | lower}} {{.Label "x"}}'), scope) == "IMAGE ID IMAGE ID LABELS"


NAMES = st.text(string.ascii_letters, min_size=1, max_size=5).filter(lambda name: name not in ("nil", "Label"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def paths(value, path=""):
    """(path, value) of all that a template can name below a value."""
    yield path or ".", value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from paths(inner, f"{path}.{name}")


@given(VALUES)
def test_every_field_is_found_and_its_json_is_the_same(value):
    for path, inner in paths(value):
        assert json.loads(made(f"{{{{json {path}}}}}", value)) == inner
        assert made(f"{{{{if {path}}}}}y{{{{else}}}}n{{{{end}}}}", value) == ("y" if inner else "n")


@given(st.lists(st.text()), st.dictionaries(NAMES, st.integers()), st.text('ab{}%s \t\n.$"\\', max_size=8))
def test_lists_and_maps_as_python_has_them(words, numbers, between):
    thing = {"Words": words, "Map": numbers}
    quoted = json.dumps(between)
    assert made(f"{{{{join .Words {quoted}}}}}", thing) == between.join(words)
    assert made("{{range .Words}}{{json .}}\v{{end}}", thing) == "".join(
        json.dumps(word, ensure_ascii=False) + "\v" for word in words
    )
    assert made("{{range $k, $v := .Map}}{{$k}}:{{$v}};{{end}}", thing) == "".join(
        f"{key}:{number};" for key, number in sorted(numbers.items())
    )
    assert made("{{len .Words}} {{len .Map}}", thing) == f"{len(words)} {len(numbers)}"
    for key, number in numbers.items():
        assert made(f'{{{{index .Map "{key}"}}}}', thing) == str(number)


@given(st.text("{}.-|()$:=\"' abN,\\", max_size=20))
def test_no_text_leads_to_anything_but_text_or_an_error_for_people(form):
    try:
        assert isinstance(made(form), str)
    except ContainerError as refused:
        assert str(refused).startswith("--format: ")


# Those of the others, on the description that they themselves print

FORMS = [
    "{{.Id}}",
    "{{.ID}}",
    "{{json .RepoTags}}",
    "{{.RepoTags}}",
    "{{index .RepoTags 0}}",
    "{{.Config.Env}}",
    "{{json .Config.Env}}",
    '{{range .Config.Env}}{{.}}{{"\\n"}}{{end}}',
    '{{join .Config.Env ";"}}',
    "{{json .Config.Labels}}",
    "{{.Config.Labels}}",
    '{{index .Config.Labels "b"}}|{{index .Config.Labels "nosuch"}}',
    "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}",
    "{{len .Config.Env}} {{.Config.WorkingDir}} {{.Config.Cmd}} {{.Architecture}}",
    '{{if eq .Os "linux"}}penguin{{else}}other{{end}}',
    "{{with .Config}}{{.User}}{{$.Os}}{{end}}",
    '{{printf "%s/%s" .Os .Architecture}}',
    "{{.Os | upper}} {{lower .Os}}",
    "{{- .Os -}}   x",
    "{{json .Config.ExposedPorts}}{{range $p, $_ := .Config.ExposedPorts}}{{$p}} {{end}}",
    "{{.Size}} {{json .RootFS.Type}}",
    '{{println .Os "x"}}',
    "{{$os := .Os}}{{if and .Os (not .Parent)}}{{$os}}{{end}}",
]
SETTINGS = ["ENV A=1 B=2", "LABEL b=2 a=1", "WORKDIR /srv", 'CMD ["sh", "-c", "true"]', "EXPOSE 80", "USER nobody"]


PEER = """
import json, subprocess, sys
from contextlib import nullcontext
from tools.bench.engines import docker_client, on_disk, podman_client
from tools.bench.sandbox import checked, lab

engine, settings, forms = sys.argv[1], *map(json.loads, sys.argv[2:])
clients = {"docker": docker_client, "podman": lambda *places: nullcontext(podman_client(*places))}
with lab() as scratch, on_disk() as data, clients[engine](scratch, data) as client:
    (scratch / "empty.tar").write_bytes(bytes(10240))
    changes = [word for setting in settings for word in ("--change", setting)]
    checked([*client, "import", *changes, str(scratch / "empty.tar"), "localhost/app:1"])
    inspect = [*client, "image", "inspect", "localhost/app:1"]
    made = [subprocess.run([*inspect, *form], capture_output=True, text=True) for form in forms]
    print(json.dumps([(one.returncode, one.stdout, one.stderr) for one in made]))
"""


@pytest.mark.xfail(bool(BARE), reason="the guest has no Docker, and no room for Podman", run=False)
@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_the_same_text_as_docker_and_podman_on_their_own_images(engine):
    forms = [form for form in FORMS if engine == "docker" or "$." not in form]  # podman's $ is the list of all
    asked = [[], *(["--format", form] for form in forms)]
    answers = json.loads(python(PEER, engine, json.dumps(SETTINGS), json.dumps(asked)).stdout)
    thing = json.loads(answers.pop(0)[1])[0]
    for form, (status, stdout, stderr) in zip(forms, answers, strict=True):
        assert status == 0, stderr
        assert made(form, thing).rstrip("\n") == stdout.rstrip("\n"), form  # podman ends no line twice
