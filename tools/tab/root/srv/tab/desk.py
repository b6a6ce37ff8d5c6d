"""The desk: what the page asks of the machine goes over its second serial port, one line of JSON for each message.

    {"do": "run", "number": 7, "code": "print(1)"}         a cell of a lab, in the lab's Python process
    {"do": "interrupt"}, {"do": "restart"}                 as in Jupyter
    {"do": "write", "path": ..., "text": ...}              a learner's file, below WORK
    {"do": "size", "port": 0, "rows": 24, "columns": 80}   the terminal on a serial port has this size now
    {"do": "look", "number": 8}                            the containers that run: their numbers, and a drawing

Answers carry the number of what they answer: {"text": ...} is output, {"data": ...} a display as Jupyter has them,
{"end": ..., "ok": true} the last. This process imports what labs need, once; a lab's Python process is forked from it,
so a new one costs nothing.
"""

import ast
import ctypes  # noqa: F401  what labs import is here before a lab is
import fcntl
import json
import os
import pprint
import queue
import select
import signal
import socket
import statistics  # noqa: F401
import struct
import subprocess  # noqa: F401
import sys
import tempfile  # noqa: F401
import termios
import threading
import time
import traceback
import tty
import types

PLACE = "/srv/minidocker"
WORK = "/root/work"
sys.path[:0] = ["/srv/tab/stand_in", f"{PLACE}/notebooks", PLACE, f"{PLACE}/chapters/04_union_mounts"]

import lab  # noqa: E402
import psutil  # noqa: E402, F401

import aufs  # noqa: E402, F401
import minidocker.cgroups  # noqa: E402
import minidocker.look  # noqa: E402
import minidocker.namespaces  # noqa: E402
import minidocker.rootfs  # noqa: E402
import minidocker.terminal  # noqa: E402
import minidocker.union  # noqa: E402


class Lab:
    """A lab's Python process: cells run in it, one after the other, and find what the earlier ones have left."""

    def __init__(self):
        here, there = socket.socketpair()
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            here.close()
            os.close(read)
            work(there, write)
        there.close()
        os.close(write)
        self.channel, self.printed, self.rest = here, read, b""

    def ask(self, message):
        """Hand a message over."""
        self.channel.sendall(json.dumps(message).encode() + b"\n")

    def answers(self):
        """What has come from it; an empty list once it has ended."""
        arrived = self.channel.recv(1 << 16)
        *lines, self.rest = (self.rest + arrived).split(b"\n")
        return [json.loads(line) for line in lines] if arrived else []

    def close(self):
        """End it, and all that it has started."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.channel.close()
        os.close(self.printed)


class Cells:
    """In the lab's process: executes cells, and answers."""

    def __init__(self, channel):
        self.channel, self.number = channel, None
        sys.modules["__main__"] = types.ModuleType("__main__")  # the cells' own: not this program
        self.names = sys.modules["__main__"].__dict__

    def say(self, **answer):
        """One line to the desk."""
        self.channel.sendall(json.dumps({"number": self.number, **answer}).encode() + b"\n")

    def write(self, text):
        """Of `sys.stdout` in a cell."""
        if text:
            self.say(text=text)
        return len(text)

    def run(self, code):
        """A cell, as Jupyter runs one: the value of a last expression is shown."""
        file = f"<cell {self.number}>"
        try:
            body = ast.parse(code, file).body
            shown = body and isinstance(body[-1], ast.Expr) and not code.rstrip().endswith(";")
            last = ast.Expression(body.pop().value) if shown else None
            exec(compile(ast.Module(body, []), file, "exec"), self.names)
            value = eval(compile(last, file, "eval"), self.names) if last else None
            if value is not None:
                self.say(text=pprint.pformat(value, width=79, compact=True, sort_dicts=False) + "\n")
            return True
        except KeyboardInterrupt:
            self.say(text="interrupted\n")
        except BaseException as mistake:  # also SystemExit: the process is for more than one cell
            while mistake.__traceback__ and mistake.__traceback__.tb_frame.f_code.co_filename == __file__:
                mistake.__traceback__ = mistake.__traceback__.tb_next
            self.say(text="".join(traceback.format_exception(mistake)))
        return False


def work(channel, printed):
    """The life of a lab's process. One thread listens, as in Jupyter, so the labs' processes come from the launcher."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.closerange(3, channel.fileno())
    os.closerange(channel.fileno() + 1, 64)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cells, todo = Cells(channel), queue.SimpleQueue()
    sys.stdout = sys.stderr = Stream(cells)
    sys.modules["IPython.display"].publish = lambda data: cells.say(data=data)
    os.makedirs(WORK, exist_ok=True)
    os.chdir(WORK)
    lab.HERE = lab.Path(WORK)

    def listen():
        for line in channel.makefile("r"):
            todo.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            message = todo.get()
            cells.number, began = message["number"], time.monotonic()
            ok = cells.run(message["code"])
            cells.say(end=round(time.monotonic() - began, 3), ok=ok)
        except KeyboardInterrupt:
            pass


class Stream:
    """`sys.stdout` of a lab: what is printed goes to the page at once."""

    encoding = "utf-8"

    def __init__(self, cells):
        self.write = cells.write

    def flush(self):
        """Nothing waits here."""

    def fileno(self):
        """For a child's output."""
        return 1

    def isatty(self):
        """It is none."""
        return False


def containers():
    """The first processes of the containers that run, the oldest first: their walls are not ours, but their parent's
    are. Who has entered a container is behind the same walls, and younger."""

    def walls(pid):
        return [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "uts")]

    found, ours = {}, walls("self")
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            os.readlink(f"/proc/{name}/exe")  # the kernel's own have none
            fields = open(f"/proc/{name}/stat").read().rpartition(")")[2].split()  # proc(5): parent, and when it began
            if walls(name) != ours == walls(fields[1]):
                older = found.setdefault(walls(name)[0], (int(fields[19]), int(name)))
                found[walls(name)[0]] = min(older, (int(fields[19]), int(name)))
        except OSError:  # or it has ended
            continue
    return [pid for _, pid in sorted(found.values())]


def look():
    """Numbers and drawing of the two youngest containers."""
    running = containers()[-2:]
    seen = [minidocker.look.look(pid) for pid in running]
    return {"containers": running, "svg": seen[0].svg(*seen[1:]) if seen else ""}


def resize(port, rows, columns):
    """Tell the terminal's programs, by the kernel (SIGWINCH)."""
    terminal = os.open(f"/dev/ttyS{port}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    os.close(terminal)


class Desk:
    """Between the serial port and the lab."""

    def __init__(self):
        self.lab, self.rest, self.running = Lab(), b"", None

    def say(self, **answer):
        """One line to the page, in ASCII; a serial port takes as much as it can."""
        line = json.dumps(answer).encode() + b"\n"
        while line:
            line = line[os.write(1, line) :]

    def obey(self, message):
        """One message from the page."""
        what, number = message.pop("do"), message.get("number")
        if what == "run":
            self.running = number
            self.lab.ask(message)
        elif what == "interrupt":
            os.kill(self.lab.pid, signal.SIGINT)
        elif what == "restart":
            self.again("")
        elif what == "write":
            path = os.path.join(WORK, message["path"])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w") as file:
                file.write(message["text"])
        elif what == "size":
            resize(message["port"], message["rows"], message["columns"])
        elif what == "look":
            self.say(number=number, end=0, ok=True, **look())

    def again(self, why):
        """Another lab process in place of this one; a cell that was running has failed."""
        self.lab.close()
        self.lab, number, self.running = Lab(), self.running, None
        if number is not None:
            self.say(number=number, end=0, ok=False, text=why)

    def serve(self):
        """Until the machine is switched off."""
        self.say(ready=True)
        while True:
            ready, _, _ = select.select([0, self.lab.channel, self.lab.printed], [], [])
            if self.lab.printed in ready:
                printed = os.read(self.lab.printed, 1 << 16)
                if printed:
                    self.say(number=self.running, text=printed.decode(errors="replace"))
            if self.lab.channel in ready:
                answers = self.lab.answers()
                for answer in answers:
                    self.running = None if "end" in answer else self.running
                    self.say(**answer)
                if not answers and not self.lab.rest:
                    self.again("the lab's Python process has ended\n")
            elif 0 in ready:
                *lines, self.rest = (self.rest + os.read(0, 1 << 16)).split(b"\n")
                for line in lines:
                    try:
                        self.obey(json.loads(line))
                    except (OSError, ValueError, KeyError) as mistake:
                        self.say(mistake=f"{type(mistake).__name__}: {mistake}")


if __name__ == "__main__":
    tty.setraw(0)
    Desk().serve()
