r"""What verbs print: lists, descriptions, sizes and ages; and the Go templates of --format, after text/template of Go.

    render(parsed('{{.Name}}: {{join .Ports ", "}}'), {".": {"Name": "web", "Ports": [80, 443]}})    # web: 80, 443

    {{.A.B}} {{.}} {{$.A}} {{$v.A}} {{"text"}} {{7}} {{(index .L 0).A}}   a value; in Go's own spelling if it is no text
    {{json .A}} {{.A | json | upper}}          functions: FUNCTIONS has all. `.Label "key"`: of what a list shows
    {{if .A}}…{{else if .B}}…{{else}}…{{end}} {{with .A}}…{{end}} {{$v := .A}}
    {{range .L}}…{{.}}…{{else}}…{{end}} {{range $k, $v := .M}}…{{end}}       the keys of a map in their order
    {{- .A -}} \t \n                           without the blanks around it; what text may have in it

An unknown field is an error, of a map as well; `index .M "key"` asks for what may not be there.
"""

import datetime
import functools
import itertools
import json
import operator
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from minidocker.cli import Options
from minidocker.cli.words import nearest
from minidocker.outcome import ContainerError

# Unit -> its seconds, and up to how many seconds it is used
UNITS = {"second": (1, 60), "minute": (60, 3600), "hour": (3600, 172800), "day": (86400, 1209600)}
UNITS |= {"week": (604800, 5184000), "month": (2592000, 63072000), "year": (31536000, 1 << 40)}
ONE = {"second": "1 second", "minute": "About a minute", "hour": "About an hour"}
TITLES = {"RunningFor": "CREATED", "CreatedSince": "CREATED", "TotalCount": "TOTAL", "CPUPerc": "CPU %"}
TITLES |= {"MemPerc": "MEM %", "MemUsage": "MEM USAGE / LIMIT", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O"}
Thing = TypeVar("Thing")
Row = Mapping[str, str]  # field -> what stands there
Predicates = Mapping[str, Callable[[Any, str], object]]  # KEY of --filter -> whether a thing fits this VALUE


def show(options: Options, rows: Sequence[Row], columns: str, others: str = "", key: str = "ID", **titles: str) -> None:
    """A list: the `columns`; the `key` with -q; or what --format says, which may be about the `others` as well.
    The title of a column is its name in words, unless `titles` or TITLES has a better one."""
    form, quiet = options.format, options.get("quiet")
    if form in ("", "table"):
        form = "\t".join(f"{{{{.{name}}}}}" for name in ([key] if quiet else columns.split()))
        form = form if quiet else f"table {form}"
    parts = parsed(form.removeprefix("table "))
    lines = [render(parts, {".": row, "$": row}) for row in rows]
    if form.startswith("table "):
        heads = {name: re.sub("(?<=[a-z])(?=[A-Z])", " ", name).upper() for name in f"{columns} {others}".split()}
        heads |= TITLES | titles
        lines.insert(0, render(parts, {".": heads, "$": heads, "titles": True}))
        cells = [line.split("\t") for line in lines]
        widths = [max(7, *map(len, column)) for column in itertools.zip_longest(*cells, fillvalue="")]
        lines = ["   ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    print(end="".join(f"{line}\n" for line in lines))


def filtered(things: Iterable[Thing], words: Sequence[str], predicates: Predicates) -> list[Thing]:
    """Those for which each KEY=VALUE of --filter holds; of one key several times, one of them, but all labels."""
    wanted = dict[str, list[str]]()
    for word in words:
        key, equals, value = word.partition("=")
        if key not in predicates or not equals:
            hint = nearest(key, {*predicates} - {key}) or f": it takes {', '.join(predicates)}, each with =VALUE"
            raise ContainerError(f"--filter {word}{hint}")
        wanted.setdefault(key, []).append(value)
    found = [*things]
    for key, values in wanted.items():
        holds, joined = predicates[key], all if key == "label" else any
        found = [thing for thing in found if joined(holds(thing, value) for value in values)]
    return found


def labelled(labels: Mapping[str, str] | None, text: str) -> bool:
    """Whether there is this KEY, or KEY=VALUE."""
    key, equals, value = text.partition("=")
    return key in (labels or {}) and (not equals or (labels or {})[key] == value)


def human(size: float, base: int = 1000) -> str:
    """Bytes in three digits and a decimal unit, as Docker prints them; memory in four, and in units of 1024."""
    power = next((power for power in range(4) if size < base ** (power + 1)), 4)
    digits, units = (3, "B kB MB GB TB") if base == 1000 else (4, "B KiB MiB GiB TiB")
    return f"{size / base**power:.{digits}g}{units.split()[power]}"


def ago(created: str | None) -> str:
    """How long ago a time of RFC 3339 is. Images that are made reproducibly have none."""
    return f"{duration(created)} ago" if created else "N/A"


def duration(since: str) -> str:
    """The same in Docker's words. From an hour on it is rounded."""
    seconds = time.time() - datetime.datetime.fromisoformat(since).timestamp()
    if seconds < 1:
        return "Less than a second"
    seconds += 1800 * (seconds >= 3600)
    unit, length = next((unit, length) for unit, (length, end) in UNITS.items() if seconds < end)
    number = int(seconds / length)
    return ONE[unit] if number == 1 else f"{number} {unit}s"


def tell(options: Options, known: Mapping[str, object]) -> None:
    """One description: as --format says, or a line for each part of it."""
    if options.format:
        print(render(parsed(options.format), {".": known, "$": known}))
    for key, value in [] if options.format else known.items():
        inner = value.items() if isinstance(value, dict) else []
        print(f"{key}:{'' if inner else f' {spelled(value)}'}", *(f"\n {name}: {one}" for name, one in inner), sep="")


STRING = r'"(?:\\.|[^"\\])*"'
ACTION = re.compile(rf'(?:\s*{{{{-\s|{{{{)((?:{STRING}|[^"])*?)(?:\s-}}}}\s*|}}}})')
WORD = re.compile(rf"{STRING}|\)(?:\.\w+)*|-?\d+(?:\.\d+)?|\$?\w*(?:\.\w+)+|\$?\w+|:=|\S")
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    "index": lambda of, *keys: functools.reduce(
        lambda it, key: (it or {}).get(key, "") if isinstance(key, str) else it[key], keys, of
    ),
    "join": lambda values, between: between.join(map(spelled, values or [])),
    "split": lambda text, between: text.split(between),
    **{name: getattr(str, name) for name in ("upper", "lower", "title")},
    "len": lambda value: len(value or []),
    "println": lambda *values: " ".join(map(spelled, values)) + "\n",
    "printf": lambda form, *values: form.replace("%v", "%s") % values,
    "eq": lambda value, *others: value in others,
    **{name: getattr(operator, name) for name in ("ne", "lt", "le", "gt", "ge")},
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "label": lambda text, key: dict(pair.partition("=")[::2] for pair in text.split(",")).get(key, ""),
}


def parsed(form: str) -> list[Any]:
    """The parts of a template: texts, and of an action (its words, what is done if that is something, and if not)."""
    form = "{{json .}}" if form == "json" else form
    parts = list[Any](ACTION.split(form.replace(r"\t", "\t").replace(r"\n", "\n")))  # every other one is an action
    if any("{{" in text for text in parts[::2]):
        raise ContainerError("--format: a {{ has no }}")
    parts[1::2] = [WORD.findall(text.replace(".Label ", "label .Labels ")) for text in parts[1::2]]
    return until_end(parts)[0]


def until_end(rest: list[Any], opened: str = "") -> list[list[Any]]:
    """The parts up to the end of what was opened: before its else, and after it. Takes them from the rest."""
    branches = [list[Any]()]
    while rest:
        words = rest.pop(0)
        if isinstance(words, str):
            branches[-1].append(words)
        elif opened and words == ["end"]:
            return [*branches, []]
        elif opened and words[:2] == ["else", "if"]:  # its end is ours
            return [*branches, [(words[1:], *until_end(rest, "if"))]]
        elif opened and words == ["else"]:
            branches.append([])
        else:
            inner = until_end(rest, words[0]) if words[:1] in (["if"], ["with"], ["range"]) else []
            branches[-1].append((words, *inner))
    if opened:
        raise ContainerError(f"--format: {opened} has no end")
    return branches


def render(parts: list[Any], scope: dict[str, Any]) -> str:
    """The text of these parts, where `scope` says what ".", "$" and variables are."""
    texts = list[str]()
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        words, *branches = part
        head = words[0] if branches else ""
        place = words.index(":=") + 1 if ":=" in words else len(branches[:1])
        names, rest = [word for word in words[:place] if word[0] == "$"], words[place:]
        try:
            value = pipeline(rest, scope)
            each = (value or []) if head == "range" else [value] if value else []
            turns: list[Any] = sorted(each.items()) if isinstance(each, dict) else [*enumerate(each)]
            if rest:
                raise ValueError
        except (TypeError, ValueError, LookupError, AttributeError):
            what = " ".join(words)
            raise ContainerError(f"--format: {{{{{what}}}}} cannot be read, or not be done with its value") from None
        if not head:
            scope |= dict.fromkeys(names, value)
            texts += [] if names else [spelled(value)]
            continue
        for turn in turns:
            inner = scope | {".": scope["."] if head == "if" else turn[1]}
            texts.append(render(branches[0], inner | dict(zip(names, turn[-len(names) :], strict=False))))
        texts += [] if turns else [render(branches[1], {**scope})]
    return "".join(texts)


def pipeline(words: list[str], scope: dict[str, Any], *before: Any) -> Any:
    """Commands with | between them, each with the value of the one before as its last argument. Takes the words."""
    function = FUNCTIONS[words.pop(0)] if words[0] in FUNCTIONS else None
    values = list[Any]()
    while words and words[0][0] not in "|)":
        values.append(term(words, scope))
    values += before
    if function:  # titles stay as they are
        values = values[:1] if "titles" in scope else [function(*values)]
    (value,) = values
    if words[:1] != ["|"]:
        return value
    del words[0]
    return pipeline(words, scope, value)


def term(words: list[str], scope: dict[str, Any]) -> Any:
    """One value: what is in brackets, a field, or as it stands there."""
    word = words.pop(0)
    if word == "(":
        return field(pipeline(words, scope), words.pop(0)[1:])
    if word[0] in ".$":
        name, _, path = word.partition(".")
        return field(scope[name or "."], path)
    if word.isidentifier() and word not in ("true", "false"):
        hint = nearest(word, FUNCTIONS) or f", but {', '.join(FUNCTIONS)}"
        raise ContainerError(f"--format: no function {word}{hint}")
    return json.loads(word, strict=False)


def field(value: Any, path: str) -> Any:
    """What lies at .A.B below a value. Go says ID where JSON says Id."""
    for name in filter(None, path.split(".")):
        known = value if isinstance(value, dict) else {}
        alike = [key for key in known if key[0] == name[0] and key.lower() == name.lower()]
        if not alike:
            raise ContainerError(f"--format: no field {name}{nearest(name, known) or ', but ' + ', '.join(known)}")
        value = known[name if name in known else alike[0]]
    return value


def spelled(value: Any) -> str:
    """A value as Go prints it."""
    if isinstance(value, dict):
        inner = {key: "{}" if one == {} else spelled(one) for key, one in sorted(value.items())}  # a set, of ports
        return f"map[{' '.join(f'{key}:{text}' for key, text in inner.items())}]"
    if isinstance(value, list):
        return f"[{' '.join(map(spelled, value))}]"
    return "<no value>" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
