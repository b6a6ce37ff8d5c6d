"""Who we are for registries: login and logout change the file of Docker's that `registry.credentials` reads."""

from __future__ import annotations

import base64
import getpass
import json
import os
import sys
from typing import Any

from minidocker import state
from minidocker.cli import Options
from minidocker.images.manifest import DEFAULT_REGISTRY, parsed
from minidocker.images.registry import Registry
from minidocker.outcome import ContainerError

HUB = ("", DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io")


def login(options: Options, server: str = "") -> None:
    """login [OPTIONS] [SERVER]: keep a name and a password for a registry (Docker Hub), once they are tried

    -u, --username NAME      who you are there
    -p, --password PASSWORD  which others can see then, in /proc
        --password-stdin     read it from standard input
    """
    known = options.username and (options.password or options.password_stdin)
    if not known and not sys.stdin.isatty():
        raise ContainerError("there is no terminal to ask you on: use -u NAME and --password-stdin")
    name, server = options.username or input("Username: "), _registry(server)
    password = sys.stdin.read().rstrip("\r\n") if options.password_stdin else options.password or getpass.getpass()
    os.environ["MINIDOCKER_AUTH"] = f"{server}={name}:{password}"  # which a client takes before all that is stored
    with Registry(server, "") as registry:
        registry.rest(registry.request("GET", "/v2/"))
    _write(server, {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()})
    print("Login Succeeded")


def logout(_: Options, server: str = "") -> None:
    """logout [SERVER]: forget the name and the password for a registry"""
    server = _registry(server)
    print("Removing login credentials for" if _write(server) else "Not logged in to", server)


def _registry(server: str) -> str:
    host = server.removeprefix("https://").partition("/")[0]
    return DEFAULT_REGISTRY if host in HUB else host


def _write(server: str, entry: dict[str, str] | None = None) -> bool:
    """Set or remove one entry, and keep all else; whether there was one. Only its owner can read the file."""
    os.umask(0o077)
    directory = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    os.makedirs(directory, exist_ok=True)
    state.hold(directory, wait=True)  # until this process ends
    path, config = os.path.realpath(f"{directory}/config.json"), dict[str, Any]()
    if os.path.exists(path):
        with open(path, "rb") as file:
            config = parsed(file.read(), what=path)
    key = "https://index.docker.io/v1/" if server == DEFAULT_REGISTRY else server
    was = config.setdefault("auths", {}).pop(key, None)
    config["auths"] |= {key: entry} if entry else {}
    state.replace(path, json.dumps(config, indent="\t").encode())
    return was is not None
