"""Check an exercise of chapter 9: python3 chapters/09_security/exercises/check.py NUMBER [FILE]."""

import contextlib
import ctypes
import errno
import os
import random
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "../.."))

import exercise

from minidocker import syscalls
from minidocker.images.container import container, ready
from minidocker.process import run, start
from minidocker.security.capabilities import DEFAULT, NAMES, capabilities


def in_busybox(script, **options):
    """The arguments of `run` and `start` for this shell script in a container of busybox."""
    argv, isolators, settings = container(ready("busybox"), ["sh", "-ec", script], **options)
    return [argv, *isolators], settings


def check_1(module):
    """Processes with and without walls, one of them our own."""
    for kept in (random.sample(DEFAULT, 5), random.sample(NAMES[:30], 9)):
        words, settings = in_busybox("sleep 60", kept=capabilities(kept, ["ALL"]))
        with start(*words, **settings) as process:
            judge(module, process.pid)
    sleeper = subprocess.Popen(["setpriv", "--no-new-privs", "sleep", "60"])
    try:
        while "sleep" not in open(f"/proc/{sleeper.pid}/comm").read():
            pass
        judge(module, sleeper.pid)
    finally:
        sleeper.kill()
        sleeper.wait()


def judge(module, pid):
    """The answer against the kernel's own."""
    with open(f"/proc/{pid}/status") as file:
        said = {name: words[0] for name, *words in (line.replace(":", " ").split() for line in file) if words}
    answer = module.walls(pid)
    assert isinstance(answer, tuple) and len(answer) == 3, f"three things are to be returned, not {answer!r}"
    rights, filtered, frozen = answer
    right = {bit for bit in range(64) if int(said["CapEff"], 16) & 1 << bit}
    assert rights == right, f"its effective capabilities are {sorted(right)}, and you say {rights}: which bits are set?"
    assert filtered is (said["Seccomp"] == "2"), f"Seccomp is {said['Seccomp']}: 2 is a filter, 0 is none"
    assert frozen is (said["NoNewPrivs"] == "1"), f"NoNewPrivs is {said['NoNewPrivs']}"


TASKS = {
    "chown 7 /tmp": {"CHOWN"},
    "mknod /tmp/node c 1 3": {"MKNOD"},
    "chroot / true": {"SYS_CHROOT"},
    "su nobody -s /bin/true": {"SETUID", "SETGID"},
    "touch /tmp/mine; chown 7 /tmp/mine; chmod 600 /tmp/mine": {"CHOWN", "FOWNER"},
    "touch /tmp/mine; chmod 0 /tmp/mine; cat /tmp/mine": {"DAC_OVERRIDE"},
    "true": set(),
}


def check_2(module):
    """Two of the tasks after each other need what both need."""
    for tasks in (random.sample([*TASKS], 2), random.sample([*TASKS], 2)):
        script = "; ".join(tasks)
        right = set().union(*(TASKS[task] for task in tasks))
        found = module.needed(script)
        assert found == right, f"{script!r} needs {sorted(right) or 'nothing'}, and you say {sorted(found or ())}"


def check_3(module):
    """In a child: the call fails as it was told to, others work, and another architecture is the end."""
    calls = {"mkdir": lambda: os.mkdir(f"{place}/made"), "chmod": lambda: os.chmod(place, 0o700), "uname": os.uname}
    numbers = {"mkdir": (83, 34), "chmod": (90, 53), "uname": (63, 160)}  # amd64, arm64: there they are ...at calls
    arm = os.uname().machine == "aarch64"
    for name in random.sample(["mkdir", "chmod", "uname"], 2):
        error = random.choice([errno.EPERM, errno.ENOSYS, errno.EXDEV, errno.EIO])
        with tempfile.TemporaryDirectory() as place:
            program = module.program(numbers[name][arm], error)
            assert program and len(program) % 8 == 0, "each instruction has eight bytes"
            for called, function in calls.items():
                wanted = error if called == name else 0
                found = filtered(program, function)
                assert found == wanted, (
                    f"{called} with a filter for {name}: {told(found)}, and should be {told(wanted)}"
                )
    assert arm or filtered(program, other_door) < 0, "a call by int 0x80 has another architecture: look at it first"


def told(number):
    return errno.errorcode.get(number, f"the end by signal {-number}" if number < 0 else "success")


def other_door():
    """getpid(2) of i386."""
    import mmap

    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("b8 14000000 cd80 c3"))
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()


def filtered(program, function):
    """The errno of the function in a child with this filter; 0 if it succeeds, -N if signal N ended it."""
    child = os.fork()
    if child == 0:
        code = ctypes.create_string_buffer(program, len(program))
        header = ctypes.create_string_buffer(16)
        ctypes.c_ushort.from_buffer(header).value = len(program) // 8
        ctypes.c_void_p.from_buffer(header, 8).value = ctypes.addressof(code)
        syscalls.prctl(38, 1)  # PR_SET_NO_NEW_PRIVS, or only root may load a filter
        if ctypes.CDLL(None).prctl(22, 2, header, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
            os._exit(errno.EINVAL)
        try:
            function()
        except OSError as refused:
            os._exit(refused.errno)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@contextlib.contextmanager
def disk(name, secret):
    """A disk of the host: a file system in a file, on a loop device; its numbers."""
    with tempfile.TemporaryDirectory() as place:
        os.mkdir(f"{place}/files")
        with open(f"{place}/files/{name}", "w") as file:
            file.write(secret)
        mkfs = ["/sbin/mkfs.ext4", "-q", "-d", f"{place}/files", f"{place}/disk", "1M"]
        subprocess.run(mkfs, check=True, capture_output=True)
        loop = subprocess.run(["/sbin/losetup", "-f", "--show", f"{place}/disk"], capture_output=True, text=True)
        assert loop.returncode == 0, f"no loop device: {loop.stderr.strip()}"
        device = loop.stdout.strip()
        try:
            yield os.major(os.stat(device).st_rdev), os.minor(os.stat(device).st_rdev)
        finally:
            subprocess.run(["/sbin/losetup", "-d", device], check=True)


def check_4(module):
    """With --privileged the script prints what nobody could know; without, nothing."""
    name, secret = os.urandom(4).hex(), os.urandom(8).hex()
    with disk(name, secret) as numbers:
        script = module.script(*numbers, name)
        for privileged in (True, False):
            words, settings = in_busybox(script, privileged=privileged)
            said = run(*words, **settings)
            if privileged:
                assert secret in said.stdout, f"it prints {said.stdout!r} and says {said.stderr.strip()!r}"
            else:
                assert secret not in said.stdout, "without --privileged it must not work: tell the author"


if __name__ == "__main__":
    exercise.main({1: check_1, 2: check_2, 3: check_3, 4: check_4}, HERE)
