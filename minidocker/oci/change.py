"""Chapter 11: what is done to a container that is there: start, kill, delete, pause, resume. These begin fast."""

from __future__ import annotations

import os

from minidocker import oci, state, trees
from minidocker.cgroups.hierarchy import freeze
from minidocker.oci import known
from minidocker.outcome import ContainerError
from minidocker.syscalls import Any, signal


def start_(options: Any, name: str) -> None:
    """start NAME: execute the command of a created container"""
    oci.begin(known(options.root, name, "created"))


def kill_(options: Any, name: str, number: str = "TERM") -> None:
    """kill [OPTIONS] NAME [SIGNAL]: send a signal to its first process (SIGTERM)

    -a, --all   to all of its processes
    """
    container, word = known(options.root, name), f"SIG{number.upper().removeprefix('SIG')}"
    sent = int(number) if number.isdecimal() else getattr(signal, word, 0)
    if not 0 < sent < signal.NSIG:
        raise ContainerError(f"kill: {number} is no signal: see kill -l")
    if container["status"] == "stopped" and not options.all:
        raise ContainerError(f"container {name} is stopped: container not running")
    oci.kill(container, oci.pids(container) if options.all else [container["pid"]], sent)


def delete_(options: Any, name: str) -> None:
    """delete [OPTIONS] NAME: remove what is left of a stopped container

    -f, --force   kill it first; one that does not exist is no error
    """
    place = state.directory(name, options.root)
    if os.path.exists(f"{place}/state") or not options.force:
        oci.end(known(options.root, name, *[] if options.force else ["stopped"]))
    elif os.path.isdir(place):
        trees.remove(place)


def pause_(options: Any, name: str) -> None:
    """pause NAME: stop all of its processes where they are"""
    if not freeze(oci.freezer(known(options.root, name, "running", "created")), True):
        raise ContainerError(f"pause: container {name}: a process of it has not stopped")


def resume_(options: Any, name: str) -> None:
    """resume NAME: let them go on"""
    freeze(oci.freezer(known(options.root, name, "paused")), False)
