"""Chapter 5: where a stage of a build is: the image so far, and the variables that its next instruction may name.

    state = State(base, known)
    state.argument(instruction, given)        # ARG
    state.variables()                         # ENV and ARG together; ENV wins

ENV stays in the image, ARG is gone after the build. Source: Docker's Dockerfile reference, "Using ARG variables".
"""

from __future__ import annotations

import copy
import os

from minidocker.child import DEFAULT_PATH
from minidocker.images import manifest
from minidocker.images.instruction import Instruction, refuse
from minidocker.images.settings import change, expanded
from minidocker.images.words import split
from minidocker.outcome import ContainerError

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")  # they need no ARG, in capitals or not

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from minidocker.images.image import Image


class State:
    """`base`: the image behind FROM; `image`: the image so far. None is scratch, nothing.

    `known`: what ARG without a value finds, from before FROM. `arguments`: the ARGs of the stage. `command_set`:
    whether it had a CMD. `onbuild`: what the base left for us to do.
    """

    def __init__(self, image: Image | None, known: Mapping[str, str]) -> None:
        self.base, self.known, self.arguments, self.command_set = image, known, dict[str, str](), False
        self.image = image
        onbuild = image.config["config"].get("OnBuild") if image else None
        self.onbuild = [text for text in onbuild if isinstance(text, str)] if isinstance(onbuild, list) else []

    @property
    def id(self) -> str:
        """The image's ID, a part of the key of the next step."""
        return self.image.id if self.image else "scratch"

    def config(self) -> dict[str, Any]:
        """The image's config, to change. ONBUILD of the base is for this build, and not for one that begins with it."""
        if self.image is None:
            inner = {"Env": [f"PATH={DEFAULT_PATH}"], "WorkingDir": "/"}
            return {**manifest.platform(), "config": inner, "rootfs": {"type": "layers", "diff_ids": []}, "history": []}
        config = copy.deepcopy(self.image.config)
        config["config"]["Env"] = [f"{name}={value}" for name, value in self.environment().items()]
        if self.image is self.base:
            config["config"].pop("OnBuild", None)
        for key in ("container", "container_config", "docker_version"):  # Docker's notes on how the base was made
            config.pop(key, None)
        return config

    def environment(self) -> dict[str, str]:
        """The image's Env; with a PATH, which many a base does not set."""
        settings = (self.image.config["config"].get("Env") or []) if self.image else []
        found = {name: value for name, _, value in (setting.partition("=") for setting in settings)}
        return found if "PATH" in found else {"PATH": DEFAULT_PATH, **found}

    def variables(self) -> dict[str, str]:
        """What a word of the next instruction may name."""
        return {**self.arguments, **self.environment()}

    def argument(self, instruction: Instruction, given: Mapping[str, str]) -> None:
        """ARG NAME[=DEFAULT]...: what was given on the command line wins, then the default, then an ARG before FROM."""
        for word in split(instruction.text, instruction.escape):
            name, equals, default = word.partition("=")
            if not name.isidentifier():
                refuse(instruction.line, f"ARG: {name!r} is no name of a variable")
            if name in given:
                self.arguments[name] = given[name]
            elif equals:
                self.arguments[name] = expanded(instruction, default, self.variables())
            elif name in self.known:
                self.arguments[name] = self.known[name]

    def for_run(self) -> list[str]:
        """The arguments as RUN sees them, NAME=value: in its environment, and in the key of the cache."""
        hidden = self.environment()
        return sorted(f"{name}={value}" for name, value in self.arguments.items() if name not in hidden)


def proxies(given: Mapping[str, str]) -> list[str]:
    """What RUN sees of the proxies that were given: they say where to fetch something, and not what."""
    return [f"{name}={value}" for name, value in given.items() if name.upper() in PROXIES]


def platform() -> dict[str, str]:
    """The arguments that Docker gives to each build; we build for the machine that we are on."""
    here = manifest.platform()
    whole = "/".join(here.values())
    parts = {"PLATFORM": whole, "OS": here["os"], "ARCH": here["architecture"], "VARIANT": here.get("variant", "")}
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


def configured(changes: Sequence[str]) -> dict[str, Any]:
    """The config that instructions of a Dockerfile make out of nothing: those that only set something."""
    config: dict[str, Any] = {}
    for number, text in enumerate(changes, 1):
        instruction = Instruction(number, text)
        variables = dict(setting.partition("=")[::2] for setting in config.get("Env", []))
        try:
            change(instruction, config, variables)
        except KeyError:
            raise ContainerError(f"--change {instruction.keyword}: only what sets a part of the config") from None
    return config
