"""Chapter 5: the instructions of a Dockerfile that only change the image's config: ENV, CMD, EXPOSE and their like.

    text = change(instruction, config, {"PATH": "/bin"})       # 'ENV A=1', for the history

The config is what `docker inspect` shows as Config. Most of it is for those who start a container; a build itself acts
on ENV, SHELL, USER and WORKDIR. Source: the OCI image specification, config.md.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import signal

from minidocker.images import manifest
from minidocker.images.build.dockerfile import Instruction
from minidocker.outcome import ContainerError

LEFT_OUT = {  # what is known, and does nothing
    **dict.fromkeys(("HEALTHCHECK", "ONBUILD"), "an image of the OCI's format has no place for it"),
    "MAINTAINER": "LABEL org.opencontainers.image.authors says it",
}
SHELL = ["/bin/sh", "-c"]
PORT = re.compile(r"(?:[\w.:\[\]-]*:)?(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.I | re.A)
SIGNAL = re.compile(r"SIG([1-9]|[1-5]\d|6[0-4]|RTM(IN|AX)([+-]\d{1,2})?)", re.A)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    Config = dict[str, Any]


def change(instruction: Instruction, config: Config, variables: Mapping[str, str]) -> str:
    """Change the inner `config` of an image as the instruction says; return what its history is to say."""
    said: str | list[str] | dict[str, str]
    match instruction.keyword:
        case "CMD" | "ENTRYPOINT" | "SHELL":
            said = config[instruction.keyword.capitalize()] = command(instruction, config)
        case "ENV":
            said = _pairs(instruction, variables)
            config["Env"] = [f"{name}={value}" for name, value in {**environment(config), **said}.items()]
        case "LABEL":
            said = _pairs(instruction, variables)
            config["Labels"] = {**_mapping(config, "Labels"), **said}
        case "EXPOSE":
            said = instruction.expand(instruction.text, variables)
            config["ExposedPorts"] = {
                **_mapping(config, "ExposedPorts"),
                **dict.fromkeys(_ports(instruction, said), {}),
            }
        case "VOLUME":
            said = [posixpath.join("/", instruction.expand(word, variables)) for word in instruction.words()]
            if not said or "/" in said:
                raise instruction.error("VOLUME: a path is missing, or empty")
            config["Volumes"] = {**_mapping(config, "Volumes"), **dict.fromkeys(said, {})}
        case "USER":
            said = config["User"] = instruction.expand(instruction.text, variables)
        case "STOPSIGNAL":
            said = config["StopSignal"] = instruction.expand(instruction.text, variables)
            name = f"SIG{said.upper().removeprefix('SIG')}"
            if name not in signal.Signals.__members__ and not SIGNAL.fullmatch(name):
                raise instruction.error(f"STOPSIGNAL: there is no signal {said}")
        case "WORKDIR":
            path = instruction.expand(instruction.text, variables)
            if not path:
                raise instruction.error("WORKDIR: the path is empty")
            said = posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "/", path))
            config["WorkingDir"] = said
        case keyword:
            raise instruction.error(f"{keyword}: only what sets a part of the config can be here")
    spelled = " ".join(f"{name}={value}" for name, value in said.items()) if isinstance(said, dict) else said
    return f"{instruction.keyword} {spelled if isinstance(spelled, str) else json.dumps(spelled, ensure_ascii=False)}"


def configured(changes: Sequence[str]) -> Config:
    """The config that instructions make out of nothing: `import --change`."""
    config: Config = {}
    for number, text in enumerate(changes, 1):
        change(Instruction(number, text), config, environment(config))
    return config


def command(instruction: Instruction, config: Config) -> list[str]:
    """The words to execute: the exec form as it is, the shell form behind the shell."""
    if instruction.json is not None:
        return instruction.json
    shell = config.get("Shell")
    return [*(shell if isinstance(shell, list) and shell else SHELL), instruction.script()]


def environment(config: Config) -> dict[str, str]:
    """The Env of a config."""
    return dict(setting.partition("=")[::2] for setting in config.get("Env") or [])


def _mapping(config: Config, key: str) -> dict[str, Any]:
    """What the base says; a base that says something else there says nothing."""
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _pairs(instruction: Instruction, variables: Mapping[str, str]) -> dict[str, str]:
    """All values of one line are made with the variables from before it."""
    pairs = [[instruction.expand(word, variables) for word in pair] for pair in instruction.pairs()]
    return {name: value for name, value in pairs}


def _ports(instruction: Instruction, text: str) -> Iterator[str]:
    """ "80", "53/udp", "8000-8003"; of "8080:80" only what is inside counts. A note: chapter 7 publishes ports."""
    for word in text.split():
        found = PORT.fullmatch(word)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not found or not 0 < first <= last < 65536:
            raise instruction.error(f"EXPOSE: {word!r} is no port, such as 80, 53/udp or 8000-8003")
        yield from (f"{port}/{(found[3] or 'tcp').lower()}" for port in range(first, last + 1))


def platform() -> dict[str, str]:
    """The arguments that Docker gives to each build; we build for the machine that we are on."""
    here = manifest.platform()
    parts = {"PLATFORM": "/".join(here.values()), "OS": here["os"], "ARCH": here["architecture"], "VARIANT": ""}
    return {side + name: value for side in ("TARGET", "BUILD") for name, value in parts.items()}


def from_words(settings: list[str]) -> dict[str, str]:
    """--build-arg NAME=value, or NAME for the value that the variable has here, if it has one."""
    arguments = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name:
            raise ContainerError(f"--build-arg {setting}: NAME=VALUE is expected", exit_code=125)
        if equals or name in os.environ:
            arguments[name] = value if equals else os.environ[name]
    return arguments
