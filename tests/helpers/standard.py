"""What the tests of chapter 11 share: the runtime that they drive, and machines on which others drive it."""

import os

import pytest
from machines import PATH, ours

from tests.helpers import GUEST, need

# MINIDOCKER_RUNTIME=/usr/sbin/runc pytest tests/11_the_standard: the same questions to another one
OTHER = os.environ.get("MINIDOCKER_RUNTIME", "")


def runtime(host):
    """The runtime of this clone as an executable file of the machine, or the other one that is asked for."""
    return OTHER or ours(host)


def needs(*programs):
    """Skip where one of these is not installed."""
    missing = [name for name in programs if not any(os.access(f"{place}/{name}", os.X_OK) for place in PATH.split(":"))]
    need(not missing, f"needs {' and '.join(missing)}: run vagrant/provision.sh")
    need(os.geteuid() == 0, "needs root")


class Client:
    """The commands of an engine on a machine: `ask` expects exit code 0, `code` returns it with what was printed."""

    def __init__(self, host, words):
        self.host, self.words = host, words

    def ask(self, *words, **options):
        """What the command prints."""
        return self.host.do(*self.words, *words, **options)

    def code(self, *words, **options):
        """Its exit code, and what it prints on both streams."""
        done = self.host.command(*self.words, *words, **options)
        return done.exit_code, done.stdout, done.stderr

    def removed(self, *names):
        """Remove containers, whatever they do."""
        self.host.command(*self.words, "rm", "-f", *names)


needs_room = pytest.mark.xfail(bool(GUEST), reason="an emulated machine has no time for Docker", run=False)
