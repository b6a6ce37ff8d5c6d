"""Chapter 5: an image out of a Dockerfile. Each instruction makes an image out of the one before it: run and commit.

    image = build(Store(), parse(text), "/path/to/context", tags=["app:1"], output=2)

RUN starts a container and keeps what it changes, as a layer; COPY does so with our own code in the container's place;
the others change the config. What has been made from the same image by the same instruction, with the same files and
arguments, is not made again: the build cache knows it by a digest of all these. A build that is killed leaves no
container and no half layer, and the steps it finished are in the cache.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from minidocker.child import DEFAULT_PATH
from minidocker.images import manifest
from minidocker.images.build.copy import NOTHING, Copy, Ignore, Source, opened, standing
from minidocker.images.build.dockerfile import LEFT_OUT, Dockerfile, Instruction, change, environment, expand
from minidocker.images.build.mounts import Mounts
from minidocker.images.build.sources import PAGE, download, planned, unpacked
from minidocker.images.container import container
from minidocker.images.image import Image, NoSuchImage, find, make
from minidocker.images.store import Store
from minidocker.outcome import ContainerError
from minidocker.process import Isolator, start

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")  # they need no ARG, in capitals or not
RESOLVER = ("/etc/resolv.conf", "/etc/hosts")  # what a program needs to reach others by name
SCRIPT = "/dev/script"

Work = Callable[[list[str], str], object]  # (directories below, the one for the changes)


def build(
    store: Store, dockerfile: Dockerfile, context: str, *, tags: Sequence[str] = (), target: str = "", **options: Any
) -> Image:
    """The image of the last stage, or of `target`; it gets the names `tags`. `options`: of `Build`. Needs root."""
    with opened(None, context) as root, store.writing():
        image = Build(store, dockerfile, root, **options).up_to(target)
        for tag in tags or [""]:
            store.tag(tag, image.descriptor)
    return image


class Build:
    """One build, and where it is: `image` is the one so far, `document` its config, to change, `config` the inner one.

    `context`: an open directory. `values`: the ARGs of the stage. `done`: image and ARGs of stages.
    """

    def __init__(
        self,
        store: Store,
        dockerfile: Dockerfile,
        context: int,
        *,
        ignore: Ignore = NOTHING,  # what of the context is left out
        arguments: Mapping[str, str] | None = None,  # values for ARG
        network: str = "none",  # for RUN; or "host", or what `wired` is called
        wired: Callable[[str], Isolator] | None = None,  # see `container`
        mounts: Callable[..., Mounts] = Mounts,  # for RUN, with volumes and secrets
        cached: bool = True,  # whether the cache is asked
        pull: bool = False,  # whether a registry is asked for images that are here
        labels: Mapping[str, str] | None = None,  # for the result
        output: int = 2,  # a descriptor to write to: each step, and what RUN writes
    ) -> None:
        self.store, self.context, self.ignore = store, context, ignore
        self.arguments, self.network, self.wired, self.output = arguments or {}, network, wired, output
        self.mounts, self.pull, self.labels = mounts, pull, dict(labels or {})
        self.steps = store.steps() if cached else {}
        self.done: dict[str, tuple[Image, dict[str, str]]] = {}
        self.config, self.known = dict[str, Any](), dict[str, str]()
        here = manifest.platform()
        parts = {"PLATFORM": "/".join(here.values()), "OS": here["os"], "ARCH": here["architecture"], "VARIANT": ""}
        self.values = {side + name: value for side in ("TARGET", "BUILD") for name, value in parts.items()}
        before, self.stages = dockerfile
        for instruction in before:
            with instruction.errors():
                self.argument(instruction)
        self.known = self.values  # to an ARG without a value

    def up_to(self, target: str) -> Image:
        """The image of a stage, and before it those of the stages that it needs, in the order of the file."""
        names = dict[str, int]()  # of a stage -> its place in the file
        needs = list[set[int]]()  # of each stage: itself, those that it begins with or copies from, and what they need
        for index, (start, *others) in enumerate(self.stages):
            with start.errors():
                froms = [one.get("from", "") for item in others for one in (item.flags, *item.mounts)]
                wanted = [expand(start.base, self.known), *froms]
            others_need = [needs[names[name.lower()]] for name in wanted if name.lower() in names]
            needs.append({index}.union(*others_need))
            names |= {str(index): index, start.name or str(index): index}
        names[""] = len(self.stages) - 1
        if target.lower() not in names:
            raise ContainerError(f"there is no stage {target!r} in the Dockerfile", exit_code=1)
        needed = sorted(needs[names[target.lower()]])
        steps = [(index, instruction) for index in needed for instruction in self.stages[index]]
        for count, (index, instruction) in enumerate(steps, 1):
            self.say(f"Step {count}/{len(steps)} : {instruction.source}")
            self.begun = time.monotonic()
            with instruction.errors(self.store.home):
                if instruction.keyword in LEFT_OUT:
                    self.say(f" ---> left out: {LEFT_OUT[instruction.keyword]}")
                else:
                    getattr(self, f"do_{instruction.keyword.lower()}", self.do_other)(instruction)
            if instruction is self.stages[index][-1]:
                self.done |= dict.fromkeys([str(index), self.stages[index][0].name], (self.image, self.values))
        if self.labels:
            self.config["Labels"] = (self.config.get("Labels") or {}) | self.labels
            self.advance(f"LABEL {' '.join(map('='.join, self.labels.items()))}", None, self.config)
        if not self.document["history"]:
            raise self.stages[index][0].error("FROM scratch alone is no image: nothing is put into it")
        return self.image

    def find(self, name: str) -> Image:
        """A stage before this one, an image of the store, fetched if it is not there, or scratch: one without layers."""
        if name.lower() in self.done:
            return self.done[name.lower()][0]
        if name == "scratch":
            empty = {"rootfs": {"type": "layers", "diff_ids": []}, "config": {"WorkingDir": "/"}, "history": []}
            return make(self.store, {**manifest.platform(), **empty}, [])
        with contextlib.suppress(NoSuchImage):
            if not self.pull:
                return find(self.store, name)
        try:
            from minidocker.images.transfer import pull

            return pull(self.store, name)
        except ContainerError as failure:
            why = "wanted anew" if self.pull else "not in the store"
            raise ContainerError(f"{name} is {why}, and cannot be pulled: {failure}") from None

    def say(self, text: str) -> None:
        """A line of the output."""
        os.write(self.output, f"{text}\n".encode(errors="backslashreplace"))

    def variables(self) -> dict[str, str]:
        """What a word of the next instruction may name; of an ENV and an ARG of the same name, ENV wins."""
        return self.values | environment(self.config)

    def argument(self, instruction: Instruction) -> None:
        """ARG NAME[=DEFAULT]...: what was given on the command line wins, then the default, then an ARG before FROM."""
        for word in instruction.words:
            name, equals, default = word.partition("=")
            if not name:
                raise ValueError(f"{word!r} is not of the form NAME or NAME=VALUE")
            if name in self.arguments:
                self.values[name] = self.arguments[name]
            elif equals or name in self.known:
                self.values[name] = expand(default, self.variables()) if equals else self.known[name]

    def do_from(self, instruction: Instruction) -> None:
        """One that begins with another stage has the arguments of that. What a base wants to be done is left out."""
        wanted = expand(instruction.flags.get("platform", ""), self.known)
        here = "/".join(manifest.platform().values())
        if wanted not in ("", here):
            raise instruction.error(f"FROM --platform={wanted}: this machine is {here}")
        if not (name := expand(instruction.base, self.known)):
            raise instruction.error(f"FROM {instruction.base}: that is empty")
        self.values = dict(self.done[name.lower()][1]) if name.lower() in self.done else {}
        self.command_set = False
        self.go_on(self.find(name))
        onbuild = self.config.pop("OnBuild", None)
        for trigger in onbuild if isinstance(onbuild, list) else []:
            self.say(f" ---> left out: ONBUILD {trigger}: of the base")

    def do_arg(self, instruction: Instruction) -> None:
        """The history names the default and not the value: who uses the value depends on it, and nobody else."""
        self.argument(instruction)
        self.advance(f"ARG {instruction.text}")

    def do_other(self, instruction: Instruction) -> None:
        """The config. WORKDIR makes its directory, for USER; a new ENTRYPOINT does not want the base's arguments."""
        text = change(instruction, self.config, self.variables())
        work = None
        if instruction.keyword == "WORKDIR":
            work = Copy(f"{self.config['WorkingDir']}/", self.config.get("User") or "").into
        self.command_set |= instruction.keyword == "CMD"
        if instruction.keyword == "ENTRYPOINT" and not self.command_set:
            self.config.pop("Cmd", None)
        self.advance(text, work, self.config)  # a="b c=d" and a=b c=d are the same text

    def do_run(self, instruction: Instruction) -> None:
        """The key of the cache has the arguments, which the command finds in its environment; and not the proxies."""
        arguments = sorted(f"{name}={self.values[name]}" for name in self.values.keys() - environment(self.config))
        proxies = [f"{name}={value}" for name, value in self.arguments.items() if name.upper() in PROXIES]
        network = instruction.flags.get("network", "default").replace("default", self.network)
        if network not in ("none", "host", self.network):
            raise instruction.error(f"RUN --network={network}: it is none, host or default")
        argv = instruction.argv(self.config)
        script = argv[-1] if instruction.documents and argv[-1].startswith("#!") else ""

        def work(lowers: list[str], upper: str) -> None:
            manifest.check_platform(self.document)
            wired = self.wired if network == self.network and self.wired else network
            below, volumes, secret = mounts.made(self.store, stack)
            options = {"env": [*proxies, *arguments, *secret], "network": wired, "upper": upper, "mounts": volumes}
            if code := self.execute([*lowers, *below], argv, script, options):
                raise instruction.error(f"RUN {argv}: exit code {code}")

        spelled = " ".join([f"|{len(arguments)}", *arguments, ""]) if arguments else ""  # as in Docker's history
        with contextlib.ExitStack() as stack:
            tree = functools.partial(self.tree, stack)
            mounts = self.mounts(instruction.mounts, self.variables(), self.config.get("WorkingDir") or "/", tree)
            self.advance(f"RUN {spelled}{' '.join(argv)}", work, (argv, arguments, network, *mounts.wanted))

    def tree(self, stack: contextlib.ExitStack, name: str) -> tuple[int, Ignore, bool]:
        """The context, or the root of a stage or an image; what of it is left out, and whether owners count."""
        if name == "scratch":
            raise ValueError("--from=scratch: there is nothing in it")
        return (standing(self.find(name).layers(), stack), NOTHING, True) if name else (self.context, self.ignore, False)

    def execute(self, lowers: list[str], argv: list[str], script: str, options: dict[str, Any]) -> int:
        """Run a container; return its exit code. A `script`, which begins with #!, is executed in place of `argv`.

        What it writes comes through one pipe, so its lines stay in order. Mount points that the image lacks are in a
        directory below all layers, and so never in the step's own. `options` are those of `container`.
        """
        files = {SCRIPT: script} if script else {}
        for path in filter(os.path.isfile, RESOLVER if options["network"] == "host" else ()):
            with open(path, errors="replace") as file:
                files[path] = file.read(16 << 10)
        with self.store.place() as skeleton:
            for name in ("proc", "dev", "sys", "etc"):
                os.mkdir(f"{skeleton}/{name}", 0o755)
            for path in RESOLVER:
                os.close(os.open(skeleton + path, os.O_CREAT | os.O_WRONLY, 0o644))
            image = {"id": "", "layers": [*lowers, skeleton], "config": self.config}
            options = {"entrypoint": [], "hostname": "build", "init": True, "files": files, **options}
            words, walls, settings = container(image, [SCRIPT] if script else argv, **options)
            ours, theirs = os.pipe()
            with (
                open(ours, "rb", 0) as reader,
                open(theirs, "wb", 0) as writer,
                open(self.output, "wb", closefd=False) as output,
                start(words, *walls, stdout=theirs, stderr=theirs, **settings) as process,
            ):
                writer.close()
                while data := reader.read(65536):
                    output.write(data)
                    output.flush()
                code = process.wait().exit_code
            for path in {*files, *RESOLVER}:  # made to mount on where the image has deleted its own; no link is followed
                made = os.path.realpath(options["upper"]) + path
                if os.path.realpath(made) == made and os.path.isfile(made) and not os.path.getsize(made):
                    os.unlink(made)
            return code

    def do_copy(self, instruction: Instruction) -> None:
        """The key has the digest of the files, so it does not matter where or how old they are."""
        copying, patterns, text = planned(instruction, self.variables(), self.config.get("WorkingDir") or "/")
        with contextlib.ExitStack() as stack:
            root, ignore, owners = self.tree(stack, instruction.flags.get("from", ""))
            place = stack.enter_context(self.store.place())
            directory = stack.enter_context(opened(None, place))
            for number, (name, content, expands) in enumerate(instruction.documents):
                with open(f"{place}/{number}", "w") as file:
                    file.write(expand(content, self.variables(), True) if expands else content)
                    os.fchmod(file.fileno(), 0o644)
                os.utime(file.name, (0, 0))
                copying.sources.append(Source(directory, str(number), name, owners=False))
            for pattern in patterns:
                if PAGE.match(pattern):
                    checksum = expand(instruction.flags.get("checksum", ""), self.variables())
                    copying.sources.append(download(pattern, checksum, directory))
                else:
                    copying.take(root, pattern, ignore, owners)
            digest = copying.digest()

            def work(lowers: list[str], upper: str) -> None:
                taken = copying.sources
                if instruction.keyword == "ADD":
                    copying.sources = [unpacked(self.store, one, stack) if one.root == root else one for one in taken]
                copying.into(lowers, upper)
                copying.sources = taken
                if copying.digest() != digest:
                    raise ContainerError("the files changed while they were read: build again")

            self.advance(text, work, (digest, copying.target, copying.owner, copying.mode))

    do_add = do_copy

    def advance(self, text: str, work: Work | None = None, key: object = None) -> None:
        """The stage's next image: out of the cache, or made now and noted there."""
        name = hashlib.sha256(json.dumps([self.image.id, text, key]).encode()).hexdigest()
        image = None
        with contextlib.suppress(ContainerError, KeyError):
            image = Image(self.store, self.steps[name])
        if image and all(map(self.store.has, image.digests())):
            self.say(" ---> CACHED")
        else:
            image = self.made(text, work)
            self.say(f" ---> {time.monotonic() - self.begun:.1f} s")
            self.store.remember(name, image.descriptor)
        self.go_on(image)

    def made(self, text: str, work: Work | None) -> Image:
        """Do the work, pack what it changed, write config and manifest. Only WORKDIR may come out without a layer."""
        before, types = self.image.manifest["layers"], manifest.DOCKER_LAYERS
        layers = [{**layer, "mediaType": types.get(layer["mediaType"], layer["mediaType"])} for layer in before]
        self.document["created"] = _now()
        event = {"created": _now(), "created_by": text, "comment": "minidocker", "empty_layer": True}
        self.document["history"] = [*self.document["history"], event]
        if work:
            lowers = self.image.layers()
            with upper_of(self.store, lowers[0]) as upper:
                work(lowers, upper)
                if os.listdir(upper) or not text.startswith("WORKDIR"):
                    layer, diff_id = self.store.add_layer(upper)
                    layers.append(layer)
                    self.document["rootfs"]["diff_ids"].append(diff_id)
                    del event["empty_layer"]
        return make(self.store, self.document, layers)

    def go_on(self, image: Image) -> None:
        """With this image; with a PATH, which many a base does not set, and without Docker's notes on its making."""
        self.image, self.document = image, copy.deepcopy(image.config)
        for key in ("container", "container_config", "docker_version"):
            self.document.pop(key, None)
        self.document["history"] = image.config.get("history") or [{"comment": "unknown"}] * len(image.diff_ids)
        self.config = self.document["config"]
        if "PATH" not in environment(self.config):
            self.config["Env"] = [f"PATH={DEFAULT_PATH}", *(self.config.get("Env") or [])]


@contextlib.contextmanager
def upper_of(store: Store, below: str) -> Iterator[str]:
    """A directory for what changes. It covers the root of what is below, so it looks like that. Gone afterwards."""
    with store.place() as place:
        os.chmod(place, 0o700)  # nobody of this machine may look in: there may be setuid files
        root = os.stat(below)
        os.mkdir(f"{place}/upper")
        os.chown(f"{place}/upper", root.st_uid, root.st_gid)
        os.chmod(f"{place}/upper", root.st_mode & 0o7777)
        yield f"{place}/upper"


def _now() -> str:
    """RFC 3339. Who wants the same digests again sets SOURCE_DATE_EPOCH, reproducible-builds.org."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(given) if given.isdecimal() and len(given) < 12 else None
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
