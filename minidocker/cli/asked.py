"""What `minidocker run` imports only if it is asked for: volumes, devices, a network, an image that is not here."""

import binascii
import os
import sys

from minidocker import state
from minidocker.cgroups.hierarchy import read
from minidocker.cli import Options
from minidocker.outcome import ContainerError, warn
from minidocker.security.options import Nodes
from minidocker.security.options import privileges as privileges
from minidocker.syscalls import Any

NETWORKED = {"network", "publish", "publish-all", "network-alias", "dns", "add-host", "egress", "ingress"}


def volumes(options: Options, paths: dict[str, Any], root: str) -> list[Any]:
    """Devices of the host; those of -v, --mount and --tmpfs; without a name, one on each other path of the image's."""
    from minidocker.volumes import Named, ordered
    from minidocker.volumes.spelling import from_mount, from_tmpfs, from_v

    nodes = Nodes(root, [*options.device, *(["/dev"] if options.privileged else [])])
    asked = [from_v(text, root) for text in options.volume]
    asked += [from_mount(text, root) for text in options.mount] + [from_tmpfs(text, root) for text in options.tmpfs]
    taken = {volume.target for volume in asked}
    named = [Named("", f"/{path}", root) for path in paths]  # some images write `data` and mean /data
    return [nodes, *ordered([*asked, *(volume for volume in named if volume.target not in taken)])]


def network(options: Options) -> Any:
    """What makes the container's network, as soon as its root is known: where none is named, that is the bridge; for a
    user, whose the bridge is not, slirp4netns(1). If nobody asks, and this host has neither, the container has "none".
    """
    from minidocker.network import Network as kind

    rootless = "minidocker.security.rootless" in sys.modules  # a user, who has made himself root
    if rootless:
        from minidocker.network.slirp import Slirp as kind
    name, _, other = (options.network or "bridge").partition(":")
    if name == "container":
        from minidocker.engine.records import NoSuchContainer, find

        try:
            other = find(other).state()["pid"] or other
        except NoSuchContainer:
            pass  # chapter 7 knows others, by their names
        name = f"container:{other}"
    elif name != "host" and (problem := _impossible(rootless)):
        if options.given & NETWORKED:
            raise problem
        once(f"warning: containers have no network: {str(problem).removeprefix('Network: ')}")
        return "none"
    wanted = {"ports": options.publish, "aliases": options.network_alias, "hosts": options.add_host, "dns": options.dns}
    wanted |= {"names": [*filter(None, [options.name, options.hostname])]}
    wanted |= {"egress": options.egress or None, "ingress": options.ingress or None}
    return lambda root: kind(name, root=root, **wanted)


def _impossible(rootless: bool) -> Exception | None:
    """What keeps this host from making a network."""
    from minidocker.network.firewall import generation
    from minidocker.network.links import program

    try:
        for tool in ("slirp4netns",) if rootless else ("ip", "nft"):
            program(tool)
        os.stat("/dev/net/tun") if rootless else generation()
    except (ContainerError, OSError) as problem:
        return problem
    return None


def once(text: str) -> None:
    """Warn, unless somebody has been warned in this home since the boot: what is always so is no news."""
    place = f"{state.home()}/ready/said={binascii.crc32(text.encode()):x}"
    state.remembered(place, read("/proc/sys/kernel/random/boot_id"), lambda: warn(text))


def fetch(name: str, platform: str) -> None:
    """Pull what is not here. Nothing of it on standard output, which is the container's."""
    from minidocker.images.manifest import parse
    from minidocker.images.store import Store
    from minidocker.images.transfer import pull

    print(f"{name}: Pulling from {parse(name).registry}", file=sys.stderr)
    pull(Store(show=True), name, platform, show=True)


def more(options: Options) -> None:
    """Options of which little is needed at each start: what they stand for, and what may not be."""
    host = options.hostname
    if len(host) > 64 or not host.isascii() or not all(one.isalnum() or one in "-._" for one in host):
        raise ContainerError(f"-h {host}: at most 64 letters, digits, -, . and _ are expected")
    if options.workdir and not options.workdir.startswith("/"):
        raise ContainerError(f"-w {options.workdir}: a path that begins with / is expected")
    options["env"] = [*in_files(options.env_file), *options.env]
    if options.cidfile and os.path.exists(options.cidfile):
        raise ContainerError(f"--cidfile {options.cidfile}: it is there already: another container may be meant by it")
    if options.platform:
        from minidocker.images.manifest import fits, platform

        if not fits({"platform": platform()}, options.platform):
            raise ContainerError(f"--platform {options.platform}: this machine is {'/'.join(platform().values())}")
    if options.shm_size:
        options["tmpfs"] = [*options.tmpfs, f"/dev/shm:size={options.shm_size}"]
    if options.volumes_from:
        _inherit(options)
    restart_policy(options)


def in_files(paths: list[str]) -> list[str]:
    """The lines of --env-file, but for comments."""
    found = list[str]()
    for path in paths:
        with open(path, encoding="utf-8") as file:
            found += [line.lstrip().rstrip("\r\n") for line in file]
    return [line for line in found if line and line[0] != "#"]


def hosts(options: Options) -> str:
    """What --add-host adds where there is no network; there is no gateway to name."""
    from minidocker.network import extra_host

    if bad := [text for text in options.add_host if text.endswith(":host-gateway")]:
        raise ContainerError(f"--add-host {bad[0]}: with --network none there is no gateway")
    return "".join(map(extra_host, options.add_host))


def restart_policy(options: Options) -> None:
    """What may not be."""
    policy, _, times = options.restart.partition(":")
    if policy not in ("", "no", "on-failure", "always", "unless-stopped") or (times and not times.isdecimal()):
        raise ContainerError(f"--restart {options.restart}: it is no, on-failure[:TIMES], always or unless-stopped")
    if options.rm and policy not in ("", "no"):
        raise ContainerError(f"--rm and --restart {policy} exclude each other")


def _inherit(options: Options) -> None:
    """--volumes-from: what is mounted from the host in another container, but where this one has something else."""
    from minidocker.engine.records import find
    from minidocker.volumes.spelling import from_mount, from_v

    readers = {"volume": from_v, "mount": from_mount}
    taken = {read(text, "/").target for kind, read in readers.items() for text in options[kind]}
    for word in options.volumes_from:
        name, _, mode = word.partition(":")
        if mode not in ("", "ro", "rw"):
            raise ContainerError(f"--volumes-from {word}: behind the name comes nothing, ro or rw")
        theirs = find(name).config["options"]
        for kind, text in [(one, text) for one in readers for text in theirs[one]]:
            volume = readers[kind](text, "/")
            if mode == "ro":
                source = getattr(volume, "name", "") or volume.source
                text = f"{source}:{volume.target}:ro" if kind == "volume" else f"{text},readonly"
            if volume.target not in taken:
                options[kind] = [*options[kind], text]
                taken.add(volume.target)
