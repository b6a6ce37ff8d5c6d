"""Chapter 5: one instruction of a Dockerfile, performed; or not, if the build cache knows what comes of it.

    Performer(store, context, ...).perform(instruction, state)

The key of the cache is a digest of the image before, the instruction with its variables replaced, and what else the
result depends on: for RUN the arguments in its environment and the network, for COPY the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import time

from minidocker.images import manifest
from minidocker.images.context import read
from minidocker.images.copying import plan_of
from minidocker.images.image import Image, make
from minidocker.images.instruction import Instruction, refuse
from minidocker.images.settings import change, command
from minidocker.images.stage import State, proxies
from minidocker.images.steps import BuildFailed, copy, execute, jail_of, upper_of
from minidocker.outcome import ContainerError
from minidocker.process import Isolator
from minidocker.rootfs import PivotRoot

OCI_LAYERS = {manifest.DOCKER_LAYER: manifest.LAYER_GZIP, manifest.DOCKER_LAYER_TAR: manifest.LAYER}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from minidocker.images.patterns import Ignore
    from minidocker.images.store import Store

    Config = dict[str, Any]
    Work = Callable[[list[str], str], object]  # (directories below, the one for the changes)


class Performer:
    """What all instructions of a build share; the arguments are those of `build`. `image` finds what --from names."""

    def __init__(
        self,
        store: Store,
        context: str,
        ignore: Ignore | None,
        given: Mapping[str, str],
        network: str,
        cached: bool,
        show: Callable[[str], object],
        image: Callable[[str, int], Image | None],
    ) -> None:
        self.store, self.context, self.ignore, self.given = store, context, ignore, given
        self.network, self.cached, self.show, self.image = network, cached, show, image

    def perform(self, instruction: Instruction, state: State) -> None:
        """One instruction; what goes wrong is an error with its line."""
        try:
            getattr(self, f"do_{instruction.keyword.lower()}", self.do_other)(instruction, state)
        except ContainerError as failure:
            if str(failure).startswith("Dockerfile line"):
                raise
            refuse(instruction.line, f"{instruction.keyword}: {failure}")
        except OSError as refused:  # a full disk, above all
            path = refused.filename or self.store.home
            refuse(instruction.line, f"{instruction.keyword}: {path}: {refused.strerror}")

    def do_arg(self, instruction: Instruction, state: State) -> None:
        """The history names the default and not the value: who uses the value depends on it, and nobody else."""
        state.argument(instruction, self.given)
        self.advance(state, state.config(), f"ARG {instruction.text}")

    def do_maintainer(self, instruction: Instruction, state: State) -> None:
        """Of old days; LABEL says it better."""
        config = {**state.config(), "author": instruction.text}
        self.advance(state, config, f"MAINTAINER {instruction.text}")

    def do_run(self, instruction: Instruction, state: State) -> None:
        """The key of the cache has the arguments, which the command finds in its environment; and not the proxies."""
        config, arguments = state.config(), state.for_run()
        network = instruction.flags.get("network", self.network).replace("default", self.network)
        if network not in ("none", "host"):
            refuse(instruction.line, f"RUN --network={network}: it is none, host or default")
        argv = command(instruction, config["config"])
        spelled = " ".join([f"|{len(arguments)}", *arguments, ""]) if arguments else ""

        def work(lowers: list[str], upper: str) -> None:
            manifest.check_platform(config)
            variables = [*proxies(self.given), *arguments]
            script = argv[-1] if instruction.documents and argv[-1].startswith("#!") else ""
            code, output = execute(
                self.store, lowers, upper, argv, config["config"], variables, network, self.show, script
            )
            if code:
                raise BuildFailed(f"Dockerfile line {instruction.line}: RUN {argv}: exit code {code}", output)

        self.advance(state, config, f"RUN {spelled}{' '.join(argv)}", work, key=(argv, arguments, network))

    def do_copy(self, instruction: Instruction, state: State) -> None:
        """The key has the digest of the files, so it does not matter where or how old they are."""
        config = state.config()
        plan = plan_of(instruction, state.variables(), config["config"].get("WorkingDir") or "/", self.ignore)
        digest = read(self.source(plan.source, instruction.line), plan.selection)

        def work(lowers: list[str], upper: str) -> None:
            with self.store.incoming() as spool:
                if read(self.source(plan.source, instruction.line), plan.selection, spool) != digest:
                    raise ContainerError("the files changed while they were read: build again")
                copy(lowers, upper, spool.name, plan.target, plan.owner, plan.mode)

        self.advance(state, config, plan.text, work, key=(digest, plan.target, plan.owner, plan.mode))

    do_add = do_copy

    def source(self, name: str, line: int) -> list[Isolator]:
        """A jail with what COPY reads from: the context, or --from another stage or image."""
        if not name:
            return [PivotRoot(self.context, proc=False)]
        image = self.image(name, line)
        if image is None:
            refuse(line, "--from=scratch: there is nothing in it")
        return jail_of(image.layers())

    def do_workdir(self, instruction: Instruction, state: State) -> None:
        """The directory is made if it is missing, and belongs to root, whatever USER says."""
        config = state.config()
        text = change(instruction, config["config"], state.variables())
        path = config["config"]["WorkingDir"]
        self.advance(state, config, text, lambda lowers, upper: copy(lowers, upper, "", f"{path}/"), key=path)

    def do_other(self, instruction: Instruction, state: State) -> None:
        """The config, and no file. A new ENTRYPOINT does not want the arguments that the base has for its own."""
        config = state.config()
        text = change(instruction, config["config"], state.variables())
        state.command_set |= instruction.keyword == "CMD"
        if instruction.keyword == "ENTRYPOINT" and not state.command_set:
            config["config"].pop("Cmd", None)
        self.advance(state, config, text, key=config["config"])  # a="b c=d" and a=b c=d are the same text

    def advance(self, state: State, config: Config, text: str, work: Work | None = None, key: object = None) -> None:
        """The stage's next image: out of the cache, or made now and noted there."""
        name = hashlib.sha256(json.dumps([state.id, text, key]).encode()).hexdigest()
        known = self.store.recall(name) if self.cached else None
        image = _whole(self.store, known) if known else None
        if image:
            self.show(" ---> CACHED\n")
        else:
            image = self.made(state, config, text, work)
            self.store.remember(name, image.descriptor)
        state.image = image

    def made(self, state: State, config: Config, text: str, work: Work | None) -> Image:
        """Do the work, pack what it changed, write config and manifest. Only WORKDIR may come out without a layer."""
        before = state.image.manifest["layers"] if state.image else []
        layers = [{**layer, "mediaType": OCI_LAYERS.get(layer["mediaType"], layer["mediaType"])} for layer in before]
        config["created"] = _now()
        event = {"created": config["created"], "created_by": text, "comment": "minidocker", "empty_layer": True}
        config["history"] = [*_history(config, len(before)), event]
        if work:
            with upper_of(self.store, state.image.layers() if state.image else []) as (lowers, upper):
                work(lowers, upper)
                if os.listdir(upper) or not text.startswith("WORKDIR"):
                    layer, diff_id = self.store.add_layer(upper)
                    layers.append(layer)
                    config["rootfs"]["diff_ids"].append(diff_id)
                    del event["empty_layer"]
        return make(self.store, config, layers)


def _whole(store: Store, descriptor: manifest.Descriptor) -> Image | None:
    """The image, unless parts of it are gone."""
    try:
        image = Image(store, descriptor)
    except ContainerError:
        return None
    return image if all(store.has(digest) for digest in image.digests()) else None


def _history(config: Config, layers: int) -> list[Config]:
    """What the base tells of its layers; if it tells nothing, as many events as it has layers, which others count."""
    return list(config.get("history") or [{"comment": "unknown"}] * layers)


def _now() -> str:
    """RFC 3339. Who wants the same digests again sets SOURCE_DATE_EPOCH, reproducible-builds.org."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(given) if given.isdecimal() and len(given) < 12 else None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
