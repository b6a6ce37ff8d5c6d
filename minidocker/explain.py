"""Chapter 10: a command says what it does, while it does it: `minidocker run --explain …`, and so with each verb.

What is a system call, or runs a program, is replaced by a function that calls it, takes the time, and then writes what
a reader could type for it: so nothing is told that was not done. What comes again is counted. The values of variables
and the content of files are not told.
"""

import contextlib
import os
import re
import shlex
import sys
import time

from minidocker import child, namespaces, syscalls
from minidocker.cgroups import hierarchy
from minidocker.images.registry import Registry
from minidocker.isolator import Isolator
from minidocker.network import links
from minidocker.security.capabilities import NAMES
from minidocker.syscalls import AT_RECURSIVE, MS_BIND, MS_PRIVATE, MS_REC, Any

MOMENTS = {"__enter__": "before", "attach": "while the process waits", "inside": "inside", "__exit__": "at the end"}
TYPED = {
    "mkdir": "mkdir {0}", "rmdir": "rmdir {0}", "unlink": "rm {0}", "rename": "mv {0} {1}", "symlink": "ln -s {0} {1}",
    "setresgid": "setpriv --regid {0}", "setresuid": "setpriv --reuid {0}", "sethostname": "hostname {0}",
    "pivot_root": "pivot_root {0} {1}", "umount2": "umount -l {0}", "open_tree": "mount --rbind {1} NEW",
}  # fmt: skip
FLAGS = {1: "ro", 2: "nosuid", 4: "nodev", 8: "noexec", 0x100000: "idmap"}  # of mount(2) and of mount_setattr(2)


class _Story(Isolator):
    """What this process tells. The first in each list of isolators: so the new process tells its part."""

    out, ledger = (min(os.sysconf("SC_OPEN_MAX"), 1000) - end for end in (1, 2))  # standard error; each step's time
    owner, began, head = os.getpid(), time.perf_counter(), ""
    told: dict[str, int] = {}  # below the headline, and how often it came again

    def __enter__(self) -> Isolator:
        self.descriptors = _ours(_Story.out), _ours(_Story.ledger)
        return self

    def attach(self, pid: int) -> None:
        for number in self.descriptors:  # the new process has copies; a monitor is not to hold what is its command's
            os.close(number)

    def inside(self) -> None:
        (_Story.out, _Story.ledger), _Story.head, _Story.told = self.descriptors, "", {}


def told(work: Any) -> int:
    """Do the work of a verb, and tell of it; at the end, which chapter took how long."""
    os.dup2(2, _Story.out, inheritable=False)
    os.dup2(os.memfd_create("explain"), _Story.ledger, inheritable=False)
    _wrap(child.Order, "__init__", lambda _, __, order, *___: setattr(order, "isolators", [_Story(), *order.isolators]))
    for place, name in ((os, "fork"), (os, "_exit"), (syscalls, "send")):
        _wrap(place, name, first=_finish)
    _wrap(child, "_execute", first=lambda order: _tell(0, "exec", f"exec {shlex.join(order.command)}", "execve(2)"))
    _wrap(Registry, "_send", _asked)
    _wrap(links, "tool", _ran)
    _wrap(syscalls, "call", _called)
    _wrap(hierarchy, "write", lambda took, _, *words: _called(took, 0, "write", *words))
    for name in TYPED.keys() & vars(os).keys():
        _wrap(os, name, lambda took, result, *words, name=name, **_: _called(took, result, name, *words))
    try:
        return int(work() or 0)
    finally:
        _finish()
        steps = [step.rpartition(" ") for step in os.pread(_Story.ledger, 1 << 24, 0).decode().splitlines()]
        names = sorted({name for name, _, _ in steps}, key=lambda name: (len(name), name))  # chapter 10 behind 9
        parts = ", ".join(f"{sum(float(took) for of, _, took in steps if of == name):.1f} in {name}" for name in names)
        whole = (time.perf_counter() - _Story.began) * 1000
        _write(_Story.out, f"{whole:9.2f} ms with Python and the command itself; in the steps {parts or 'none'}\n")


def _wrap(place: Any, name: str, then: Any = lambda *_, **__: None, first: Any = lambda *_: None) -> None:
    old = getattr(place, name)

    def new(*words: Any, **named: Any) -> Any:
        first(*words)
        began = time.perf_counter()
        result = old(*words, **named)
        then((time.perf_counter() - began) * 1000, result, *words, **named)
        return result

    modules = [module for key, module in sys.modules.items() if key.partition(".")[0] == "minidocker"]
    for module in [place, *modules]:  # it may have been imported by name
        for key in [key for key, value in vars(module).items() if value is old]:
            setattr(module, key, new)


def _ours(number: int) -> int:
    """A copy of the command's descriptor. A monitor has closed its own, but the command waits for it to begin."""
    try:
        return os.dup(number)
    except OSError:
        if os.getppid() != _Story.owner:
            raise
        with os.fdopen(os.pidfd_open(_Story.owner), "rb", 0) as command:
            return syscalls.call("pidfd_getfd", command.fileno(), number, 0)


def _write(number: int, text: str) -> None:
    with contextlib.suppress(OSError), os.fdopen(_ours(number), "wb", 0) as file:  # perhaps nobody reads it
        file.write(text.encode(errors="backslashreplace"))


def _finish(*_: object) -> None:
    if again := ", ".join(f"{times} more {kind}" for kind, times in _Story.told.items() if times):
        _write(_Story.out, f"{'':12}  … {again}\n")
    _Story.head, _Story.told = "", {}


def _tell(took: float, kind: str, text: str, call: str) -> None:
    chapter, head = _whose()
    if head != _Story.head:
        _finish()
        _write(_Story.out, f"{chapter}, {head}\n")
        _Story.head = head
    _Story.told[kind] = _Story.told.get(kind, -1) + 1
    if not _Story.told[kind]:
        _write(_Story.out, f"{f'{took:9.2f} ms' if took else '':12}  {text:<58}  # {call}\n")
    _write(_Story.ledger, f"{chapter} {took}\n")


def _whose() -> tuple[str, str]:
    """Its chapter and its headline, from Python's stack: an isolator's moment, or else our innermost function."""
    frame: Any = sys._getframe(2)
    place, title, about = "minidocker.cli", "", None
    while frame is not None:
        module, name, owner = frame.f_globals.get("__name__", ""), frame.f_code.co_name, frame.f_locals.get("self")
        if isinstance(owner, Isolator) and name in MOMENTS:
            place, title, about = type(owner).__module__, f"{type(owner).__name__}, {MOMENTS[name]}", type(owner)
            break
        if module.startswith("minidocker.") and module not in (__name__, syscalls.__name__) and not title:
            place, title, about = module, f"{module[11:]}.{name}", getattr(type(owner), name, frame.f_globals.get(name))
        frame = frame.f_back
    chapter = re.match(r"Chapter \d+", sys.modules[place].__doc__ or "")
    sentence = re.split(r"(?<!e\.g)[.:;](?=\s|$)", (getattr(about, "__doc__", "") or "").replace("`", ""))[0]
    return chapter[0].lower() if chapter else "the command line", f"{title}: {' '.join(sentence.split())}"


def _called(took: float, result: int, name: str, *words: Any, **_: object) -> None:
    if name == "clone3" and result == 0:
        _Story.out = -1  # the new process: until the moment of `_Story`
    quoted = [shlex.quote(word) if isinstance(word, str) and word else word for word in words]
    if _Story.out >= 0 and (typed := _typed(name, *quoted)):
        text = re.sub(r"/proc/self/fd/\d+", _led, typed)
        kind = os.path.basename(text) if name == "write" else TYPED.get(name, re.split("[/=]", text)[0])
        _tell(took, kind.partition(" {")[0].strip(), text, f"{name}(2)")


def _led(found: re.Match[str]) -> str:
    """What a descriptor's name leads to: a path, but for a mount that is nowhere yet."""
    path = os.readlink(found[0]) if os.path.lexists(found[0]) else found[0]
    return path if path != "/" else "NEW"


def _typed(name: str, *words: Any) -> str:  # nothing where that would teach nothing
    match name, *words:
        case "mount", _, target, _, flags, _ if flags & MS_PRIVATE:
            return f"mount --make-rprivate {target}"
        case "mount", source, target, _, flags, _ if flags & MS_BIND:
            return f"mount --{'r' * bool(flags & MS_REC)}bind {source} {target}"
        case "mount", source, target, fstype, flags, data:
            options = [*(FLAGS[bit] for bit in FLAGS if flags & bit), *([data] if data else [])]
            return f"mount -t {fstype} -o {','.join(options) or 'rw'} {source} {target}"
        case "mount_setattr", directory, path, flags, attributes, _:
            on, off = (int.from_bytes(attributes[start : start + 8], sys.byteorder) for start in (0, 8))
            options = [FLAGS[bit] if on & bit else FLAGS[bit].removeprefix("no") for bit in FLAGS if (on | off) & bit]
            place = path if directory < 0 else f"/proc/self/fd/{directory}/{path}".rstrip("/")
            return f"mount -o remount,bind,{','.join(options)}{'=recursive' * bool(flags & AT_RECURSIVE)} {place}"
        case "move_mount", _, _, place, *_:
            return f"mount --move NEW /proc/self/fd/{place}"
        case "clone3" | "unshare" | "setns", *_, flags:
            flags = int.from_bytes(words[0][:8], sys.byteorder) if name == "clone3" else flags
            program = {"clone3": "unshare --fork", "setns": "nsenter"}.get(name, name)
            return " ".join([program, *(f"--{kind}" for kind, flag in namespaces.KINDS.items() if flags & flag)])
        case "prctl", 24, number, *_:  # PR_CAPBSET_DROP of <linux/prctl.h>
            return f"capsh --drop=cap_{NAMES[number].lower()}"
        case "prctl", 22, _, program, *_:  # PR_SET_SECCOMP
            return f"prctl: a filter of {int.from_bytes(program[:8], sys.byteorder)} instructions"
        case "write", place, text, *_:
            return f"echo {os.fsdecode(text).strip()} > {f'/proc/self/fd/{place}' if isinstance(place, int) else place}"
    texts = (os.fsdecode(word) if isinstance(word, bytes) else word for word in words)
    return TYPED[name].format(*texts) if name in TYPED else ""


def _ran(took: float, _: object, name: str, *words: str, text: str = "", pid: int = 0) -> None:
    """A program, by `links.tool`; for each line of what it reads, what could be typed instead of that."""
    typed = f"nsenter --net=/proc/{pid}/ns/net {name}" if pid else name
    for number, line in enumerate(re.findall(r"^[^\s}].*(?:\n[ \t}].*)*", text, re.M) or [shlex.join(words)]):
        first, rest, _ = line.partition("\n")
        first = shlex.quote(f"{first} … }}" if rest else first) if text and name == "nft" else first
        kind = " ".join([name, *first.split()[:5]])
        _tell(0 if number else took, kind, f"{typed} {first}", "execve(2)")


def _asked(took: float, answer: Any, _: object, method: str, url: str, *__: object, **___: object) -> None:
    _tell(took, url, f"curl -X {method} {url.partition('?')[0]}", f"answered {answer.status}")
