"""Exercise 3: a page that is made by a container that was made for it."""

import os

from minidocker.namespaces import Namespaces
from minidocker.process import run
from minidocker.rootfs import PivotRoot
from minidocker.state import home
from minidocker.union import Union

PAGE = r"""
while read line && [ "$line" != "$(printf '\r')" ]; do :; done
echo visit >/tmp/visit-$$
printf 'HTTP/1.0 200 OK\r\n\r\n'
hostname; ls /tmp | wc -l; echo $$
"""


def serve(connection):
    """The connection is the container's standard input and output; its changes go to an upper directory of its own."""
    union = Union([os.path.join(home(), "roots", "busybox")])
    walls = [Namespaces("pid mount uts ipc net", hostname="demand"), union, PivotRoot(union.root)]
    run(["sh", "-c", PAGE], *walls, stdin=connection.fileno(), stdout=connection.fileno())
