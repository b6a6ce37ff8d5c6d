"""Chapter 10: where many bytes move, a bar says on a terminal how far that is; a pipe, and -q, see nothing of it."""

import fcntl
import io
import os
import subprocess
import sys
import tarfile
import termios
import time

import pytest

from tests.helpers.engine import environment

pytestmark = pytest.mark.chapter(10)
WINDOW = b"".join(number.to_bytes(2, sys.byteorder) for number in (24, 90, 0, 0))


@pytest.fixture(scope="module")
def many_files():
    """A tar that takes its time: bars of what is done at once are not shown."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(40_000):
            tar.addfile(tarfile.TarInfo(f"{number}"))
    return buffer.getvalue()


@pytest.fixture(params=["terminal", "pipe"])
def told(request, home):
    """What a command says on standard error, which is one of the two; the second half of its input comes later."""

    def told(*words, data):
        reader, writer = os.openpty() if request.param == "terminal" else os.pipe()
        if request.param == "terminal":
            fcntl.ioctl(reader, termios.TIOCSWINSZ, WINDOW)
        argv, streams = [sys.executable, "-m", "minidocker", *words], {"stdin": subprocess.PIPE, "stderr": writer}
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=environment(home), **streams) as command:
            os.close(writer)
            for part in (data[: len(data) // 2], data[len(data) // 2 :]):
                command.stdin.write(part)
                command.stdin.flush()
                time.sleep(0.5)
            command.stdin.close()
            with open(reader, "rb", buffering=0) as file:
                said = b""
                try:
                    while more := file.read(65536):
                        said += more
                except OSError:
                    pass  # how a terminal ends
        assert command.returncode == 0, said
        return said.decode(), request.param == "terminal"

    return told


def test_what_a_build_is_sent(told):
    words = "build", "--network=none", "--no-cache"
    said, shown = told(*words, "-", data=b"FROM busybox\n" + b"#\n" * 1000)
    assert ("build context: 2.01kB" in said) == shown
    assert "Successfully built" in said
    assert told(*words, "-q", "-", data=b"FROM busybox\n")[0] == ""


def test_what_is_unpacked(told, many_files):
    said, shown = told("import", "-", "many", data=many_files)
    assert ("unpacking: " in said and "%|" in said) == shown
    assert shown or said == ""
