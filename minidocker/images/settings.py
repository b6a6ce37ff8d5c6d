"""Chapter 5: the instructions of a Dockerfile that only change the image's config: ENV, CMD, EXPOSE and their like.

    text = change(instruction, config, {"PATH": "/bin"})       # 'ENV A=1', for the history

The config is what `docker inspect` shows as Config. Most of it is for those who start a container. A build itself acts
on ENV, SHELL, USER and WORKDIR, and on the ONBUILD of its base. Sources: the OCI image specification, config.md;
Docker's image specification v1.2.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal

from minidocker.images.instruction import Instruction, refuse
from minidocker.images.words import expand

SHELL = ["/bin/sh", "-c"]
UNITS = {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(h|ms|m|s|us|µs|ns)")
PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.I)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Config = dict[str, Any]


def change(instruction: Instruction, config: Config, variables: Mapping[str, str]) -> str:
    """Change the inner `config` of an image as the instruction says; return what its history is to say."""
    return _CHANGES[instruction.keyword](instruction, config, variables)


def expanded(instruction: Instruction, text: str, variables: Mapping[str, str]) -> str:
    """A word of the instruction with its variables replaced; what is wrong with it is an error with the line."""
    try:
        return expand(text, variables, instruction.escape)
    except ValueError as wrong:
        refuse(instruction.line, str(wrong))


def command(instruction: Instruction, config: Config) -> list[str]:
    """The words to execute: the exec form as it is, the shell form behind the shell."""
    if instruction.json is not None:
        return instruction.json
    shell = config.get("Shell")
    return [*(shell if isinstance(shell, list) and shell else SHELL), instruction.script()]


def _mapping(config: Config, key: str) -> dict[str, Any]:
    """A copy of what the base says; a base that says something else there says nothing."""
    value = config.get(key)
    return dict(value) if isinstance(value, dict) else {}


def _pairs(instruction: Instruction, variables: Mapping[str, str]) -> dict[str, str]:
    """All values of one line are made with the variables from before it."""
    return {
        expanded(instruction, name, variables): expanded(instruction, value, variables)
        for name, value in instruction.pairs()
    }


def _env(instruction: Instruction, config: Config, variables: Mapping[str, str]) -> str:
    environment = dict(setting.partition("=")[::2] for setting in config.get("Env") or [])
    pairs = _pairs(instruction, variables)
    config["Env"] = [f"{name}={value}" for name, value in {**environment, **pairs}.items()]
    return "ENV " + " ".join(f"{name}={value}" for name, value in pairs.items())


def _label(instruction: Instruction, config: Config, variables: Mapping[str, str]) -> str:
    pairs = _pairs(instruction, variables)
    config["Labels"] = {**_mapping(config, "Labels"), **pairs}
    return "LABEL " + " ".join(f"{name}={value}" for name, value in pairs.items())


def _command(instruction: Instruction, config: Config, _: object) -> str:
    """CMD, or ENTRYPOINT. That a new entrypoint does not take over the CMD of the base is the business of the build."""
    key = "Cmd" if instruction.keyword == "CMD" else "Entrypoint"
    config[key] = command(instruction, config)
    return f"{instruction.keyword} {json.dumps(config[key], ensure_ascii=False)}"


def _shell(instruction: Instruction, config: Config, _: object) -> str:
    config["Shell"] = instruction.json
    return f"SHELL {json.dumps(instruction.json, ensure_ascii=False)}"


def _expose(instruction: Instruction, config: Config, variables: Mapping[str, str]) -> str:
    """Only a note: chapter 7 publishes ports. "80", "53/udp", "8000-8003"."""
    ports = _mapping(config, "ExposedPorts")
    text = expanded(instruction, instruction.text, variables)
    for word in text.split():
        found = PORT.fullmatch(word)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not found or not 0 < first <= last < 65536:
            refuse(instruction.line, f"EXPOSE: {word!r} is no port, such as 80, 53/udp or 8000-8003")
        ports.update({f"{port}/{(found[3] or 'tcp').lower()}": {} for port in range(first, last + 1)})
    config["ExposedPorts"] = ports
    return f"EXPOSE {text}"


def _volume(instruction: Instruction, config: Config, variables: Mapping[str, str]) -> str:
    paths = [expanded(instruction, word, variables) for word in instruction.words()]
    if not paths or not all(paths):
        refuse(instruction.line, "VOLUME: a path is missing, or empty")
    config["Volumes"] = {**_mapping(config, "Volumes"), **{path: {} for path in paths}}
    return f"VOLUME {json.dumps(paths, ensure_ascii=False)}"


def _user(instruction: Instruction, config: Config, variables: Mapping[str, str]) -> str:
    """A name is looked up when a container starts, in the image as it is then."""
    config["User"] = expanded(instruction, instruction.text, variables)
    return f"USER {config['User']}"


def _workdir(instruction: Instruction, config: Config, variables: Mapping[str, str]) -> str:
    """Relative to the one before. The build makes the directory."""
    path = expanded(instruction, instruction.text, variables)
    if not path:
        refuse(instruction.line, "WORKDIR: the path is empty")
    config["WorkingDir"] = posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "/", path))
    return f"WORKDIR {config['WorkingDir']}"


def _stopsignal(instruction: Instruction, config: Config, variables: Mapping[str, str]) -> str:
    text = expanded(instruction, instruction.text, variables)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    known = re.fullmatch(r"SIGRTM(IN|AX)([+-]\d+)?", name) or name in signal.Signals.__members__
    if not known and text not in map(str, range(1, signal.NSIG)):
        refuse(instruction.line, f"STOPSIGNAL: there is no signal {text}")
    config["StopSignal"] = text
    return f"STOPSIGNAL {text}"


def _healthcheck(instruction: Instruction, config: Config, _: object) -> str:
    """NONE, or CMD in either form; durations become nanoseconds."""
    word, _, rest = instruction.text.partition(" ")
    check: Config = {}
    if word.upper() == "NONE" and not rest and not instruction.flags:
        check["Test"] = ["NONE"]
    elif word.upper() == "CMD" and rest.strip():
        inner = Instruction(instruction.line, instruction.text, instruction.escape)
        check["Test"] = ["CMD-SHELL", inner.text] if inner.json is None else ["CMD", *inner.json]
    else:
        refuse(instruction.line, "HEALTHCHECK takes NONE, or flags and CMD with a command")
    for flag, key in HEALTH_TIMES.items():
        if flag in instruction.flags:
            check[key] = _nanoseconds(instruction, instruction.flags[flag])
    if "retries" in instruction.flags:
        if not re.fullmatch("[0-9]{1,9}", instruction.flags["retries"]):
            refuse(instruction.line, f"HEALTHCHECK: --retries={instruction.flags['retries']} is no number")
        check["Retries"] = int(instruction.flags["retries"])
    config["Healthcheck"] = check
    return instruction.source


HEALTH_TIMES = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}


def _nanoseconds(instruction: Instruction, text: str) -> int:
    """A duration as Go writes them: 1m30s, 1.5s, 500ms."""
    parts = DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        refuse(instruction.line, f"HEALTHCHECK: {text!r} is no duration, such as 30s or 1m30s")
    return round(sum(float(number) * UNITS[unit] for number, unit in parts) * 1e9)


def _onbuild(instruction: Instruction, config: Config, _: object) -> str:
    """Kept as it is written, for a build that begins with this image."""
    if instruction.trigger and instruction.trigger.documents:
        refuse(instruction.line, "ONBUILD with a here-document is not supported: the config holds one line for it")
    before = config.get("OnBuild")
    config["OnBuild"] = [*(before if isinstance(before, list) else []), instruction.text]
    return instruction.source


_CHANGES: dict[str, Callable[[Instruction, Config, Mapping[str, str]], str]] = {
    "CMD": _command,
    "ENTRYPOINT": _command,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
