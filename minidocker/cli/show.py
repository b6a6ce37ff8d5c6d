"""Verbs that show containers: ps, top, stats, port, events; and what inspect says of one. Names are Docker's."""

import contextlib
import datetime
import functools
import glob
import ipaddress
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from minidocker.cgroups.hierarchy import read
from minidocker.cgroups.limits import size as bytes_of
from minidocker.cli import Options
from minidocker.cli.inside import asked
from minidocker.cli.lists import Predicates, duration, filtered, human, labelled, parsed, render, show
from minidocker.engine import log, watch
from minidocker.engine.records import ALIVE, SHORT, Record, find, records
from minidocker.images.container import ready
from minidocker.network.ports import parse_port
from minidocker.outcome import ContainerError
from minidocker.state import directory, home
from minidocker.volumes import Named, Tmpfs, Volume
from minidocker.volumes.spelling import from_mount, from_v

NEVER = "0001-01-01T00:00:00Z"  # the zero of Go's times
PUBLISHED = re.compile(r"published\d \{ (\S+) \. (\w+) \. (\d+) : \S+ \. (\d+) \}")  # what `Network` told the firewall
HOST = {"AutoRemove": "rm", "CapAdd": "cap-add", "CapDrop": "cap-drop", "ContainerIDFile": "cidfile", "Dns": "dns"}
HOST |= {"ExtraHosts": "add-host", "Init": "init", "Privileged": "privileged", "PublishAllPorts": "publish-all"}
HOST |= {"ReadonlyRootfs": "read-only", "SecurityOpt": "security-opt", "UsernsMode": "userns"}
CONFIG = {"User": "user", "WorkingDir": "workdir", "StopSignal": "stop-signal"}  # which the image may have, too
INTERVAL = 1.0  # s: `stats` shows what was used in the last one


class Seen:
    """A container as it was found: what was asked for, what became of it, its image's config, its volumes."""

    def __init__(self, record: Record) -> None:
        self.record, self.config, self.state = record, record.config, record.state()
        options: dict[str, Any] = self.config["options"]
        self.status, self.alive = self.state["status"], self.state["status"] in ALIVE
        self.image = image = _image(self.config["image_id"])["config"]
        own, command = "entrypoint" in self.config["given"], self.config["command"]
        self.entrypoint = [*filter(None, [options["entrypoint"]])] if own else [*(image.get("Entrypoint") or [])]
        self.command = [*(command or (not own and image.get("Cmd")) or [])]
        self.argv = [*self.entrypoint, *self.command]
        self.labels: dict[str, str] = {**(image.get("Labels") or {})}
        self.labels |= dict(text.partition("=")[::2] for text in options["label"])
        self.volumes: list[Volume] = [from_v(text, "/") for text in options["volume"]]
        self.volumes += [from_mount(text, "/") for text in options["mount"]]
        self.network = options["network"] or "bridge"
        lease = _leases().get(str(self.state["pid"]))  # of its address: see chapter 7; without root, of its command: 9
        self.lease = (lease or directory(record.short)) if self.alive else ""

    def ports(self) -> dict[str, list[dict[str, str]]]:
        """Each port that is published or exposed -> which ports of the host lead to it, while it runs."""
        found: dict[str, list[dict[str, str]]] = {port: [] for port in self.image.get("ExposedPorts") or {}}
        for address, kind, number, own in PUBLISHED.findall(read(f"{self.lease}/elements")):
            place = {"HostIp": address.removesuffix("/0"), "HostPort": number}
            found.setdefault(f"{own}/{kind}", []).append(place)
        return found if self.alive else {}

    def published(self) -> list[str]:
        """The same, as `ps` has them."""
        found = sorted(self.ports().items(), key=lambda pair: int(pair[0].partition("/")[0]))
        pairs = [(port, place) for port, places in found for place in places or [{}]]
        return [f"{place['HostIp']}:{place['HostPort']}->{port}" if place else port for port, place in pairs]

    def words(self) -> str:
        """Its status, as `ps` has it."""
        if self.status in ("running", "paused"):
            return f"Up {duration(self.state['started'])}{' (Paused)' * (self.status == 'paused')}"
        if self.status == "created":
            return "Created"
        return f"{self.status.capitalize()} ({self.state['exit_code']}) {duration(self.state['finished'])} ago"

    def row(self, full: bool, sized: bool) -> dict[str, str]:
        """What `ps` shows of it."""
        command, made = " ".join(f"'{word}'" if " " in word else word for word in self.argv), self.config["created"]
        command = command if full or len(command) <= 20 else f"{command[:19]}…"
        mounts = [getattr(one, "name", "") or one.source for one in self.volumes]
        image, known = self.config["image"], self.config["image_id"].removeprefix("sha256:")[:SHORT]
        image = image if full else known if known in image else image.partition("@")[0]
        row = {"Command": json.dumps(command, ensure_ascii=False), "CreatedAt": f"{made[:10]} {made[11:19]} +0000 UTC"}
        row |= {"ID": self.record.id if full else self.record.short, "Image": image}
        row |= {"Labels": ",".join(f"{key}={value}" for key, value in sorted(self.labels.items()))}
        row |= {"LocalVolumes": str(sum(isinstance(one, Named) for one in self.volumes))}
        row |= {"Mounts": ",".join(one if full or len(one) <= 15 else f"{one[:14]}…" for one in mounts)}
        row |= {"Names": self.record.name, "Networks": self.network, "Ports": ", ".join(self.published())}
        row |= {"RunningFor": f"{duration(made)} ago", "State": self.status, "Status": self.words()}
        return row | {"Size": "{} (virtual {})".format(*map(human, self.sizes())) if sized else "0B"}

    def sizes(self) -> tuple[int, int]:
        """Bytes in the files that it has changed, and in these and its image's together."""
        own = _bytes(f"{self.record.path}/upper")
        return own, own + sum(map(_bytes, _image(self.config["image_id"])["layers"]))

    def document(self, sized: bool = False) -> dict[str, Any]:
        """What `inspect` says of it: Docker's keys, as far as they mean something here."""
        known, config = self.state, self.config
        state = {word: self.status == word.lower() for word in ("Paused", "Restarting", "Dead")}
        state |= {"Status": self.status, "Running": self.alive, "OOMKilled": known.get("oom_killed", False)}
        state |= {"Pid": known["pid"], "ExitCode": known["exit_code"], "Error": known["error"]}
        state |= {"StartedAt": known["started"] or NEVER}
        state |= {"FinishedAt": (known["started"] and known["finished"]) or NEVER}
        found = {"Id": self.record.id, "Created": config["created"], "Path": "".join(self.argv[:1])}
        found |= {"Args": self.argv[1:], "State": state, "Image": config["image_id"], "Name": f"/{self.record.name}"}
        found |= {"LogPath": f"{self.record.path}/log", "RestartCount": known["restarts"], "Driver": "overlay"}
        found |= {"Platform": "linux", "Mounts": [*map(_mount, self.volumes)]} | self._asked() | self._networked()
        return found | (dict(zip(("SizeRw", "SizeRootFs"), self.sizes(), strict=True)) if sized else {})

    def _asked(self) -> dict[str, Any]:
        """HostConfig and Config."""
        options, image, ports = asked(self.record), self.image, dict[str, list[dict[str, str]]]()
        policy, _, times = options.restart.partition(":")
        own, anonymous = {text.partition("=")[0] for text in options.env}, self.config.get("anonymous", ())
        for port in [port for text in options.publish for port in parse_port(text)]:
            number = "-".join(str(one) for one in sorted({port.choices[0], port.choices[-1]}) if one)
            place = {"HostIp": port.address, "HostPort": number}
            ports.setdefault(f"{port.container}/{port.protocol}", []).append(place)
        host = {name: options[option] for name, option in HOST.items()}
        for name in ("CapAdd", "CapDrop"):
            host[name] = [f"CAP_{one.upper().removeprefix('CAP_')}".replace("CAP_ALL", "ALL") for one in host[name]]
        host |= {name: host[name] or None for name in ("CapAdd", "CapDrop", "ExtraHosts", "SecurityOpt")}
        host |= {"Binds": [text for text in options.volume if text.partition(":")[0] not in anonymous]}
        host |= {"NetworkMode": self.network, "PortBindings": ports}
        host |= {"LogConfig": {"Type": "json-file", "Config": {}}}
        host |= {"RestartPolicy": {"Name": policy or "no", "MaximumRetryCount": int(times or 0)}}
        host |= {"Tmpfs": dict(text.partition(":")[::2] for text in options.tmpfs)}
        host |= {"Memory": bytes_of(options.memory) if options.memory else 0}
        host |= {"NanoCpus": round(options.number("cpus", float) * 1e9)}
        host |= {"PidsLimit": int(options.number("pids-limit", int)) or None}
        config = {name: options[option] or image.get(name) or "" for name, option in CONFIG.items()}
        config |= {"Hostname": options.hostname or self.record.short, "Image": self.config["image"]}
        config |= {"Tty": options.tty, "OpenStdin": options.interactive, "Labels": self.labels}
        config |= {"ExposedPorts": dict.fromkeys([*(image.get("ExposedPorts") or {}), *ports], {})}
        inherited = [text for text in image.get("Env") or [] if text.partition("=")[0] not in own]
        config |= {"Env": [*options.env, *inherited], "Volumes": image.get("Volumes")}
        config |= {"Cmd": self.command or None, "Entrypoint": self.entrypoint or None}
        return {"HostConfig": host, "Config": config}

    def _networked(self) -> dict[str, Any]:
        """NetworkSettings. What belongs to the default network stands at the top as well, as with Docker."""
        first = read(f"{self.lease}/../subnet").partition("/")[0] if self.lease else ""
        addresses = [*(line.split()[0] for line in read(f"{self.lease}/names").splitlines()), "", ""]
        end: dict[str, Any] = {"IPAddress": addresses[0], "GlobalIPv6Address": addresses[1]}
        end |= {"Gateway": str(ipaddress.ip_address(first) + 1) if first else ""}
        ports = {port: places or None for port, places in self.ports().items()}
        top = end if self.network == "bridge" else dict.fromkeys(end, "")
        return {"NetworkSettings": top | {"Ports": ports, "Networks": {self.network: end}}}


def _mount(one: Volume) -> dict[str, Any]:
    kind = "volume" if isinstance(one, Named) else "tmpfs" if isinstance(one, Tmpfs) else "bind"
    found: dict[str, Any] = {"Type": kind, "Source": one.source}
    found |= {"Destination": one.target, "Mode": "ro" if one.readonly else ""}
    found |= {"RW": not one.readonly, "Propagation": "rprivate" if kind == "bind" else ""}
    if isinstance(one, Named):
        found |= {"Name": one.name, "Source": f"{one.directory}/_data", "Driver": "local"}
    return found


@functools.cache
def _image(name: str) -> dict[str, Any]:
    """What `ready` says of an image; a container is shown without it as well."""
    try:
        return ready(name)
    except (ContainerError, OSError):
        return {"id": "", "config": {}, "layers": []}


@functools.cache
def _bytes(path: str) -> int:
    found = subprocess.run(["find", path, "-type", "f", "-printf", "%s\n"], capture_output=True)
    return sum(map(int, found.stdout.split()))


@functools.cache
def _leases() -> dict[str, str]:
    """Each process that has an address -> the directory of this."""
    return {read(path): os.path.dirname(path) for path in glob.glob(f"{glob.escape(home())}/network/*/*/*/pid")}


def ps(options: Options) -> None:
    """ps [OPTIONS]: list the containers that run

    -a, --all                  and all others
    -q, --quiet                only their IDs
    -l, --latest               the one that was made last, in whatever state
    -n, --last NUMBER          so many of these
    -s, --size                 and what each has changed, in bytes of the disk
        --no-trunc             IDs and commands in full
    -f, --filter KEY=VALUE...  id, name, label, status, exited (a code), ancestor, before, since, volume, network
        --format TEMPLATE      what is shown of each, e.g. '{{.Names}} {{.Status}}'
    """
    known: Predicates = {
        "id": lambda one, text: re.search(text, one.record.id),
        "name": lambda one, text: re.search(text.removeprefix("/"), one.record.name),
        "label": lambda one, text: labelled(one.labels, text),
        "status": lambda one, text: text == one.status,
        "exited": lambda one, text: one.status == "exited" and text == str(one.state["exit_code"]),
        "ancestor": lambda one, text: _image(text)["id"] == one.config["image_id"],
        "before": lambda one, text: one.config["created"] < find(text).config["created"],
        "since": lambda one, text: one.config["created"] > find(text).config["created"],
        "volume": lambda one, text: any(text in (getattr(it, "name", ""), it.source, it.target) for it in one.volumes),
        "network": lambda one, text: text == one.network,
    }
    last = 1 if options.latest else int(options.number("last", int))
    everything = options.all or last > 0 or any(text.startswith("status=") for text in options.filter)
    found = filtered([one for one in _all() if everything or one.alive], options.filter, known)
    rows = [one.row(options.no_trunc, options.size) for one in (found[:last] if last > 0 else found)]
    columns = f"ID Image Command RunningFor Status Ports Names{' Size' * options.size}"
    show(options, rows, columns, "CreatedAt Labels LocalVolumes Mounts Networks Size State", ID="CONTAINER ID")


def _all() -> Iterator[Seen]:
    """Whatever is there, but for one that is removed meanwhile."""
    for record in records():
        with contextlib.suppress(ContainerError):
            yield Seen(record)


def _running(word: str) -> Seen:
    if not (seen := Seen(find(word))).alive:
        raise ContainerError(f"{word}: this container is not running: minidocker start")
    return seen


def top(_: Options, word: str, *arguments: str) -> None:
    """top CONTAINER [COMMAND-OPTIONS...]: its processes, as ps(1) of the host shows them with these options, or -ef"""
    seen = _running(word)
    group = watch.groups(seen.record).get("freezer")
    own = {*read(f"{group.path}/cgroup.procs").split()} if group else {str(seen.state["pid"])}
    done = subprocess.run(["ps", *(arguments or ["-ef"])], capture_output=True, text=True)
    titles, *lines = [line.split() for line in done.stdout.splitlines()] or [[]]
    if done.returncode or "PID" not in titles:
        problem = (done.stderr or "there is no column PID").splitlines()[0]
        raise ContainerError(f"ps {' '.join(arguments)}: {problem}")
    last = len(titles) - 1
    rows = [[*line[:last], " ".join(line[last:])] for line in lines if line[titles.index("PID")] in own]
    for row in [titles, *rows]:
        print("".join(f"{cell:<20}" for cell in row).rstrip())


def port(_: Options, word: str, number: str = "") -> None:
    """port CONTAINER [PORT]: which ports of the host lead into a running container, or to this PORT[/udp] of it"""
    ports, wanted = _running(word).ports(), f"{number}/tcp" if number.isdecimal() else number
    if wanted and not ports.get(wanted):
        raise ContainerError(f"{word}: no port of the host leads to {wanted}: see minidocker port {word}")
    for name, places in ports.items():
        for place in places if wanted in ("", name) else ():
            print(f"{name} -> " * (not wanted) + f"{place['HostIp']}:{place['HostPort']}")


def _use(seen: Seen, use: watch.Use, before: watch.Use, full: bool) -> dict[str, str]:
    """What `stats` shows of it."""
    record, share = seen.record, (use.cpu - before.cpu) / max(use.time - before.time, 1e-9)
    row = {"BlockIO": " / ".join(map(human, use.disk)), "CPUPerc": f"{100 * share:.2f}%"}
    row |= {"Container": record.short, "ID": record.id if full else record.short, "Name": record.name}
    row |= {"MemUsage": f"{human(use.memory, 1024)} / {human(use.limit, 1024)}"}
    row |= {"MemPerc": f"{100 * use.memory / max(use.limit, 1):.2f}%"}
    return row | {"NetIO": " / ".join(map(human, use.net)), "PIDs": str(use.pids)}


def stats(options: Options, *words: str) -> None:
    """stats [OPTIONS] [CONTAINER...]: what running containers use, again each second, until Ctrl-C

    -a, --all              those as well that do not run
        --no-stream        once
        --no-trunc         IDs in full
        --format TEMPLATE  what is shown of each, e.g. '{{.Name}} {{.MemUsage}}'
    """
    before = dict[str, watch.Use]()
    while True:
        found = [one for one in (map(Seen, map(find, words)) if words else _all()) if one.alive or options.all or words]
        after = {one.record.id: watch.Use(one.record, one.state, one.network != "host") for one in found}
        if before or not after:
            uses = [(one, after[one.record.id]) for one in found]
            rows = [_use(one, use, before.get(one.record.id, use), options.no_trunc) for one, use in uses]
            print(end="\x1b[H\x1b[J" * (not options.no_stream))
            show(options, rows, "ID Name CPUPerc MemUsage MemPerc NetIO BlockIO PIDs", "Container", ID="CONTAINER ID")
            print(end="", flush=True)
            if options.no_stream:
                return
        before = after
        time.sleep(INTERVAL)


def events(options: Options) -> None:
    """events [OPTIONS]: what happens to containers, from now on

        --since TIME           from this time on: RFC 3339, seconds since 1970, or 10m for ten minutes ago
        --until TIME           until this time
    -f, --filter KEY=VALUE...  container, event, image, label, type
        --format TEMPLATE      what is shown of each, e.g. '{{.Action}} {{.Actor.Attributes.name}}'
    """
    kinds: Predicates = {
        "container": lambda one, text: one["id"].startswith(text) or text == one["Actor"]["Attributes"].get("name"),
        "event": lambda one, text: text == one["Action"],
        "image": lambda one, text: text == one["from"],
        "label": lambda one, text: labelled(one["Actor"]["Attributes"], text),
        "type": lambda one, text: text == one["Type"],
    }
    since, until = log.moment(options.since or "0s"), log.moment(options.until)
    form = parsed(options.format)
    for one in watch.told(until):
        when, about = one["time"], one["attributes"]
        stamp = round(datetime.datetime.fromisoformat(when).timestamp() * 1e6)
        known = {"status": one["action"], "id": one["id"], "from": about.get("image", ""), "Type": one["type"]}
        known |= {"Action": one["action"], "Actor": {"ID": one["id"], "Attributes": about}, "scope": "local"}
        known |= {"time": stamp // 10**6, "timeNano": stamp * 1000}
        if when >= since and filtered([known], options.filter, kinds):
            pairs = ", ".join(f"{key}={value}" for key, value in sorted(about.items()))
            plain = f"{when} {one['type']} {one['action']} {one['id']} ({pairs})"
            print(render(form, {".": known, "$": known}) if options.format else plain, flush=True)
