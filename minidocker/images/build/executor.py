"""Chapter 5: an image out of a Dockerfile. Each instruction makes an image out of the one before it: run and commit.

    image = build(Store(), parse(text), "/path/to/context", tags=["app:1"], output=2)

RUN starts a container and keeps what it changes, as a layer; COPY does so with our own code in the container's place;
the others change the config. What has been made from the same image by the same instruction, with the same files and
arguments, is not made again: the build cache knows it by a digest of all these. So what changes often comes last in a
Dockerfile. A build that is killed leaves no container and no half layer, and the steps it finished are in the cache.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import time

from minidocker.child import DEFAULT_PATH
from minidocker.images import manifest
from minidocker.images.build.config import LEFT_OUT, change, command, environment, platform
from minidocker.images.build.copy import DIRECTORY, NOTHING, Copy, planned
from minidocker.images.build.dockerfile import DockerfileError
from minidocker.images.build.run import execute, jail_of, standing, upper_of
from minidocker.images.image import Image, NoSuchImage, find, make
from minidocker.outcome import ContainerError

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")  # they need no ARG, in capitals or not
OCI_LAYERS = {manifest.DOCKER_LAYER: manifest.LAYER_GZIP, manifest.DOCKER_LAYER_TAR: manifest.LAYER}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from minidocker.images.build.dockerfile import Dockerfile, Instruction, Stage
    from minidocker.images.build.patterns import Ignore
    from minidocker.images.store import Store

    Config = dict[str, Any]
    Work = Callable[[list[str], str], object]  # (directories below, the one for the changes)


def build(
    store: Store, dockerfile: Dockerfile, context: str, *, tags: Sequence[str] = (), target: str = "", **options: Any
) -> Image:
    """Build the last stage, or `target`, and those that it needs; return the image, which has the names `tags`.

    `options` are those of `Build`. Needs root. Raises `DockerfileError`, which has the line.
    """
    last = len(dockerfile.stages)
    index = dockerfile.stage(target, last) if target else last - 1
    if index < 0:
        raise ContainerError(f"there is no stage {target!r} in the Dockerfile", exit_code=1)
    root = os.open(context, DIRECTORY)
    try:
        with store.writing():
            image = Build(store, dockerfile, root, **options).up_to(index)
            for tag in tags or [""]:
                store.tag(tag, image.descriptor)
    finally:
        os.close(root)
    return image


class Build:
    """One build, and where it is: `image` is the one so far, None for scratch; `arguments` the ARGs of the stage.

    `context`: an open directory. `given`: values for ARG. `network`: "none" or "host", for RUN. `cached`: whether the
    cache is asked. `output`: a descriptor to write to, each step, and what RUN writes. `done`: image and ARGs of
    stages, by number.
    """

    def __init__(
        self,
        store: Store,
        dockerfile: Dockerfile,
        context: int,
        *,
        ignore: Ignore = NOTHING,
        arguments: Mapping[str, str] | None = None,
        network: str = "none",
        cached: bool = True,
        output: int = 2,
    ) -> None:
        self.store, self.dockerfile, self.context, self.ignore = store, dockerfile, context, ignore
        self.given, self.network, self.output = arguments or {}, network, output
        self.steps = store.steps() if cached else {}
        self.done: dict[int, tuple[Image | None, dict[str, str]]] = {}
        self.current = self.count = self.total = 0
        self.image: Image | None = None
        self.known: dict[str, str] = {}
        self.arguments = platform()
        for instruction in dockerfile.arguments:
            self.argument(instruction)
        self.known = self.arguments  # to an ARG without a value

    def up_to(self, last: int) -> Image:
        """The image of a stage, and before it those of the stages that it needs, in the order of the file."""
        stages = {index: self.dockerfile.stages[index] for index in self.needed(last)}
        self.total = sum(1 + len(stage.instructions) for stage in stages.values())
        for self.current, stage in stages.items():
            self.stage(stage)
            self.done[self.current] = self.image, self.arguments
        assert self.image
        return self.image

    def needed(self, last: int) -> list[int]:
        """The stages that this one begins with or copies from, and those that they need, and itself."""
        found = {last}
        for index in range(last, -1, -1):
            stage = self.dockerfile.stages[index]
            if index in found:
                names = [self.base(stage), *(item.flags.get("from", "") for item in stage.instructions)]
                found |= {self.dockerfile.stage(name, index) for name in names} - {-1}
        return sorted(found)

    def base(self, stage: Stage) -> str:
        """What stands behind FROM, with the arguments from before the first one."""
        wanted = stage.start.expand(stage.start.flags.get("platform", ""), self.known)
        if wanted not in ("", here := platform()["TARGETPLATFORM"]):
            raise stage.start.error(f"FROM --platform={wanted}: this machine is {here}")
        if not (name := stage.start.expand(stage.base, self.known)):
            raise stage.start.error(f"FROM {stage.base}: that is empty")
        return name

    def stage(self, stage: Stage) -> None:
        """All instructions of one stage. One that begins with another stage has the arguments of that."""
        self.announce(stage.start)
        name = self.base(stage)
        self.arguments = dict(self.done.get(self.dockerfile.stage(name, self.current), (None, {}))[1])
        self.image, self.command_set = self.find(name, stage.start.line), False
        onbuild = self.image.config["config"].pop("OnBuild", None) if self.image else None
        for trigger in onbuild if isinstance(onbuild, list) else []:
            self.say(f" ---> left out: ONBUILD {trigger}: of the base")
        for instruction in stage.instructions:
            self.announce(instruction)
            self.perform(instruction)
        if self.image is None:
            raise stage.start.error("FROM scratch alone is no image: nothing is put into it")

    def announce(self, instruction: Instruction) -> None:
        """Step 2/5 : RUN make"""
        self.count += 1
        self.say(f"Step {self.count}/{self.total} : {instruction.source}")

    def say(self, text: str) -> None:
        """A line of the output."""
        os.write(self.output, f"{text}\n".encode(errors="backslashreplace"))

    def find(self, name: str, line: int) -> Image | None:
        """A stage before this one, nothing, or an image of the store; fetched, if it is not there."""
        index = self.dockerfile.stage(name, self.current)
        if index in self.done or name == "scratch":
            return self.done[index][0] if index in self.done else None
        with contextlib.suppress(NoSuchImage):
            return find(self.store, name)
        try:
            from minidocker.images.transfer import pull

            return pull(self.store, name)
        except ContainerError as failure:
            raise DockerfileError(line, f"{name} is not in the store, and cannot be pulled: {failure}") from None

    # --- what an instruction starts from -------------------------------------------------------------------------

    def config(self) -> Config:
        """The image's config, to change."""
        if self.image is None:
            inner = {"Env": [f"PATH={DEFAULT_PATH}"], "WorkingDir": "/"}
            return {**manifest.platform(), "config": inner, "rootfs": {"type": "layers", "diff_ids": []}, "history": []}
        config = copy.deepcopy(self.image.config)
        config["config"]["Env"] = [f"{name}={value}" for name, value in self.environment().items()]
        for key in ("container", "container_config", "docker_version"):  # Docker's notes on how the base was made
            config.pop(key, None)
        return config

    def environment(self) -> dict[str, str]:
        """The image's Env; with a PATH, which many a base does not set."""
        found = environment(self.image.config["config"]) if self.image else {}
        return found if "PATH" in found else {"PATH": DEFAULT_PATH, **found}

    def variables(self) -> dict[str, str]:
        """What a word of the next instruction may name; of an ENV and an ARG of the same name, ENV wins."""
        return {**self.arguments, **self.environment()}

    def argument(self, instruction: Instruction) -> None:
        """ARG NAME[=DEFAULT]...: what was given on the command line wins, then the default, then an ARG before FROM."""
        for word in instruction.quoted_words():
            name, equals, default = word.partition("=")
            if not name:
                raise instruction.error(f"ARG: {word!r} is not of the form NAME or NAME=VALUE")
            if name in self.given:
                self.arguments[name] = self.given[name]
            elif equals or name in self.known:
                self.arguments[name] = instruction.expand(default, self.variables()) if equals else self.known[name]

    # --- instructions --------------------------------------------------------------------------------------------

    def perform(self, instruction: Instruction) -> None:
        """One instruction; what goes wrong is an error with its line."""
        keyword = instruction.keyword
        try:
            if keyword in LEFT_OUT:
                self.say(f" ---> left out: {LEFT_OUT[keyword]}")
            else:
                getattr(self, f"do_{keyword.lower()}", self.do_other)(instruction)
        except DockerfileError:
            raise
        except ContainerError as failure:
            raise instruction.error(f"{keyword}: {failure}") from failure
        except (OSError, ValueError) as wrong:  # a full disk, a file that is not there
            path, why = getattr(wrong, "filename", None), getattr(wrong, "strerror", wrong)
            raise instruction.error(f"{keyword}: {path or self.store.home}: {why}") from wrong

    def do_arg(self, instruction: Instruction) -> None:
        """The history names the default and not the value: who uses the value depends on it, and nobody else."""
        self.argument(instruction)
        self.advance(self.config(), f"ARG {instruction.text}")

    def do_other(self, instruction: Instruction) -> None:
        """The config, and no file. A new ENTRYPOINT does not want the arguments that the base has for its own."""
        config = self.config()
        text = change(instruction, config["config"], self.variables())
        self.command_set |= instruction.keyword == "CMD"
        if instruction.keyword == "ENTRYPOINT" and not self.command_set:
            config["config"].pop("Cmd", None)
        self.advance(config, text, key=config["config"])  # a="b c=d" and a=b c=d are the same text

    def do_workdir(self, instruction: Instruction) -> None:
        """The directory is made if it is missing, and belongs to USER."""
        config = self.config()
        text = change(instruction, config["config"], self.variables())
        made = Copy(f"{config['config']['WorkingDir']}/", config["config"].get("User") or "")
        key = made.target, made.owner
        self.advance(config, text, lambda lowers, upper: made.into(*jail_of(lowers, upper)), key)

    def do_run(self, instruction: Instruction) -> None:
        """The key of the cache has the arguments, which the command finds in its environment; and not the proxies."""
        config, hidden = self.config(), self.environment()
        arguments = sorted(f"{name}={value}" for name, value in self.arguments.items() if name not in hidden)
        proxies = [f"{name}={value}" for name, value in self.given.items() if name.upper() in PROXIES]
        network = instruction.flags.get("network", self.network).replace("default", self.network)
        if network not in ("none", "host"):
            raise instruction.error(f"RUN --network={network}: it is none, host or default")
        argv = command(instruction, config["config"])
        script = argv[-1] if instruction.documents and argv[-1].startswith("#!") else ""

        def work(lowers: list[str], upper: str) -> None:
            manifest.check_platform(config)
            options = {"env": [*proxies, *arguments], "network": network, "upper": upper}
            image = {"id": "", "layers": lowers, "config": config["config"]}
            if code := execute(self.store, image, argv, script, self.output, options):
                raise instruction.error(f"RUN {argv}: exit code {code}")

        spelled = " ".join([f"|{len(arguments)}", *arguments, ""]) if arguments else ""
        self.advance(config, f"RUN {spelled}{' '.join(argv)}", work, (argv, arguments, network))

    def do_copy(self, instruction: Instruction) -> None:
        """The key has the digest of the files, so it does not matter where or how old they are."""
        config = self.config()
        copying, patterns, text = planned(instruction, self.variables(), config["config"].get("WorkingDir") or "/")
        with contextlib.ExitStack() as stack:
            root, ignore, owners = self.context, self.ignore, False
            if name := instruction.flags.get("from"):
                if (image := self.find(name, instruction.line)) is None:
                    raise instruction.error("--from=scratch: there is nothing in it")
                root, ignore, owners = stack.enter_context(standing(image.layers())), NOTHING, True
            for pattern in patterns:
                copying.take(root, pattern, ignore, owners)
            digest = copying.digest()

            def work(lowers: list[str], upper: str) -> None:
                taken = copying.sources
                if instruction.keyword == "ADD":
                    from minidocker.images.build.add import unpacked  # decompressors are dear to import

                    copying.sources = [unpacked(self.store, source, stack) for source in taken]
                copying.into(*jail_of(lowers, upper))
                copying.sources = taken
                if copying.digest() != digest:
                    raise ContainerError("the files changed while they were read: build again")

            self.advance(config, text, work, (digest, copying.target, copying.owner, copying.mode))

    do_add = do_copy

    # --- from one image to the next ------------------------------------------------------------------------------

    def advance(self, config: Config, text: str, work: Work | None = None, key: object = None) -> None:
        """The stage's next image: out of the cache, or made now and noted there."""
        before = self.image.id if self.image else "scratch"
        name = hashlib.sha256(json.dumps([before, text, key]).encode()).hexdigest()
        if image := _whole(self.store, self.steps.get(name)):
            self.say(" ---> CACHED")
        else:
            image = self.made(config, text, work)
            self.store.remember(name, image.descriptor)
        self.image = image

    def made(self, config: Config, text: str, work: Work | None) -> Image:
        """Do the work, pack what it changed, write config and manifest. Only WORKDIR may come out without a layer."""
        before = self.image.manifest["layers"] if self.image else []
        layers = [{**layer, "mediaType": OCI_LAYERS.get(layer["mediaType"], layer["mediaType"])} for layer in before]
        config["created"] = _now()
        event = {"created": config["created"], "created_by": text, "comment": "minidocker", "empty_layer": True}
        told = config.get("history") or [{"comment": "unknown"}] * len(before)  # others count those that have a layer
        config["history"] = [*told, event]
        if work:
            with upper_of(self.store, self.image.layers() if self.image else []) as (lowers, upper):
                work(lowers, upper)
                if os.listdir(upper) or not text.startswith("WORKDIR"):
                    layer, diff_id = self.store.add_layer(upper)
                    layers.append(layer)
                    config["rootfs"]["diff_ids"].append(diff_id)
                    del event["empty_layer"]
        return make(self.store, config, layers)


def _whole(store: Store, descriptor: manifest.Descriptor | None) -> Image | None:
    """The image, unless parts of it are gone."""
    with contextlib.suppress(ContainerError):
        if descriptor and all(map(store.has, (image := Image(store, descriptor)).digests())):
            return image
    return None


def _now() -> str:
    """RFC 3339. Who wants the same digests again sets SOURCE_DATE_EPOCH, reproducible-builds.org."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(given) if given.isdecimal() and len(given) < 12 else None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
