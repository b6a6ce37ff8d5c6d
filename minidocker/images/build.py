"""Chapter 5: an image out of a Dockerfile. Each instruction makes an image out of the one before it.

    image = build(Store(), parse(text), "/path/to/context", tags=["app:1"], show=print)

What has been made from the same image by the same instruction, with the same files and arguments, is not made again:
the build cache knows it by a digest of all these. So the order of a Dockerfile is a matter of time: what changes often
comes last. A build that is killed leaves no container and no half layer, and the steps it finished are in the cache.
"""

from __future__ import annotations

from minidocker.images.image import Image, find
from minidocker.images.instruction import Instruction, refuse
from minidocker.images.perform import Performer
from minidocker.images.settings import expanded
from minidocker.images.stage import State, platform
from minidocker.outcome import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from minidocker.images.dockerfile import Dockerfile, Stage
    from minidocker.images.patterns import Ignore
    from minidocker.images.store import Store


def build(
    store: Store,
    dockerfile: Dockerfile,
    context: str,
    *,
    ignore: Ignore | None = None,
    tags: Sequence[str] = (),
    target: str = "",
    arguments: Mapping[str, str] | None = None,
    network: str = "none",
    cached: bool = True,
    show: Callable[[str], object] = lambda text: None,
) -> Image:
    """Build the last stage, or `target`, and those that it needs; return the image, which has the names `tags`.

    `arguments`: values for ARG. `network`: "none" or "host", for RUN. `cached`: whether the cache is asked. `show` is
    told of each step, and of what it writes. Needs root. Raises `ContainerError` with the line of the Dockerfile.
    """
    last = len(dockerfile.stages)
    index = dockerfile.stage(target, last) if target else last - 1
    if index < 0:
        raise ContainerError(f"there is no stage {target!r} in the Dockerfile", exit_code=1)
    with store.writing():
        given = arguments or {}
        stages = Build(store, dockerfile, given, show)
        image = stages.up_to(index, Performer(store, context, ignore, given, network, cached, show, stages.image))
        for tag in tags or [""]:
            store.tag(tag, image.descriptor)
    return image


class Build:
    """One build, and how far it is. `done`: the images of its stages; `known`: the arguments before the first FROM."""

    def __init__(
        self, store: Store, dockerfile: Dockerfile, given: Mapping[str, str], show: Callable[[str], object]
    ) -> None:
        self.store, self.dockerfile, self.show = store, dockerfile, show
        self.done: dict[int, Image] = {}
        self.current = self.count = self.total = 0
        known = State(None, {})
        known.arguments.update(platform())
        for instruction in dockerfile.arguments:
            known.argument(instruction, given)
        self.known = known.arguments

    def up_to(self, last: int, performer: Performer) -> Image:
        """The image of a stage, and before it those of the stages that it needs, in the order of the file."""
        needed = self.needed(last)
        self.total = sum(1 + len(self.dockerfile.stages[index].instructions) for index in needed)
        for self.current in needed:
            self.stage(self.dockerfile.stages[self.current], performer)
        return self.done[last]

    def needed(self, last: int) -> list[int]:
        """The stages that this one begins with or copies from, and those that they need, and itself."""
        found, waiting = set[int](), [last]
        while waiting:
            index = waiting.pop()
            if index >= 0 and index not in found:
                found.add(index)
                stage = self.dockerfile.stages[index]
                names = [self.base(stage), *(item.flags.get("from", "") for item in stage.instructions)]
                waiting += [self.dockerfile.stage(name, index) for name in names]
        return sorted(found)

    def base(self, stage: Stage) -> str:
        """What stands behind FROM, with the arguments from before the first one."""
        line = Instruction(stage.line, stage.source, self.dockerfile.escape)
        wanted = expanded(line, stage.platform, self.known)
        if wanted not in ("", platform()["TARGETPLATFORM"]):
            refuse(stage.line, f"FROM --platform={wanted}: this machine is {platform()['TARGETPLATFORM']}")
        return expanded(line, stage.base, self.known) or refuse(stage.line, f"FROM {stage.base}: that is empty")

    def stage(self, stage: Stage, performer: Performer) -> None:
        """All instructions of one stage, after those that its base has left for it."""
        self.announce(stage.source)
        state = State(self.image(self.base(stage), stage.line), self.known)
        for trigger in state.onbuild:
            self.show(f" ---> ONBUILD {trigger}\n")
            waiting = Instruction(stage.line, f"ONBUILD {trigger}")  # checked as if it stood in this file
            performer.perform(waiting.trigger or waiting, state)
        for instruction in stage.instructions:
            self.announce(instruction.source)
            performer.perform(instruction, state)
        if state.image is None:
            refuse(stage.line, "FROM scratch alone is no image: nothing is put into it")
        self.done[self.current] = state.image

    def announce(self, source: str) -> None:
        """Step 2/5 : RUN make"""
        self.count += 1
        self.show(f"Step {self.count}/{self.total} : {source}\n")

    def image(self, name: str, line: int) -> Image | None:
        """A stage before this one, nothing, or an image of the store; fetched, if it is not there."""
        index = self.dockerfile.stage(name, self.current)
        if index in self.done:
            return self.done[index]
        if index >= 0:
            refuse(line, f"the stage {name} was not built: only an ONBUILD of the base names it")
        if name == "scratch":
            return None
        try:
            return find(self.store, name)
        except ContainerError as absent:
            if "no such image" not in str(absent):
                raise
        try:
            from minidocker.images.registry.transfer import pull

            return pull(self.store, name)
        except ContainerError as failure:
            refuse(line, f"{name} is not in the store, and cannot be pulled: {failure}")
