"""What root in a container may try, as a table: each attack is a few lines, and beside it stand the wall that stops it
and the flags that take this wall down.

    sudo minidocker run --rm -v /usr:/usr:ro -v $PWD/chapters/09_security:/mnt:ro debian python3 /mnt/attacks.py
    sudo docker run --rm -v /usr:/usr:ro -v ...         the same under Docker, or Podman

A line for each: the name, and `worked`, or the error with which it ended. Names as arguments pick some; those in
`HARMFUL` are tried only if they are named. It needs Python's standard library, which lies in the host's /usr.
"""

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import time

NUMBERS = {  # of system calls that Python has no function for: <asm/unistd.h>, on amd64 and on arm64
    "ptrace": (101, 117), "init_module": (175, 105), "add_key": (248, 217), "clone": (56, 220), "clone3": (435, 435),
    "pivot_root": (155, 41), "open_by_handle_at": (304, 265), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "reboot": (169, 142), "swapon": (167, 224),
    "syslog": (103, 116), "iopl": (172, None), "kexec_load": (246, 104), "quotactl": (179, 60), "acct": (163, 89),
    "personality": (135, 92), "fsopen": (430, 430), "sethostname": (170, 161), "setns": (308, 268),
    "unshare": (272, 97), "mount": (165, 40),
}  # fmt: skip
LIBC = ctypes.CDLL(None, use_errno=True)
UNFILTERED, UNCOVERED = "--security-opt seccomp=unconfined", "--security-opt systempaths=unconfined"
CLONE_NEWUSER, SIGCHLD = 0x10000000, 17
# Why another engine ends an attack in another way
OF_2020 = "its filter is older: 24 refuses vsock, 25 io_uring, AF_ALG those of 2026"
ITS_LIST = "its filter is another list: users may make namespaces, and what is not in it is ENOSYS"
ITS_OWN = "it has a second filter, for the numbers of i386"
NOT_ITS_OWN = "root inside is the user who started it, and the file is root's of the host"
ATTACKS = {}  # name -> the function, with what the decorator says of it


def attack(wall, off="", through=(), ends="EPERM", on="", **differs):
    """Put a function into the table.

    `wall` stops it: it `ends` with that error. `off` are the flags of `minidocker run`, and of Docker, that take this
    wall down. Then it works. Where no more than the attempt is harmless, the arguments are such as no kernel takes, and
    an error in `through` says that it has got so far. `on`: the flag that puts this wall up, which is down by default.
    `differs`: engine, or "rootless" -> (how it ends there, why), where that is not as here.
    """

    def entered(function):
        function.wall, function.off, function.through, function.ends = wall, off, through, ends
        function.on, function.differs = on, differs
        ATTACKS[function.__name__.replace("_", " ")] = function
        return function

    return entered


def call(name, *arguments):
    """A system call by its number; an error is raised, as Python's own functions do."""
    number = NUMBERS[name][os.uname().machine == "aarch64"]
    if number is None:
        raise OSError(errno.ENOSYS, name)
    result = LIBC.syscall(number, *(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def read(path):
    """Some bytes of a file of the kernel; a file without any is one that is covered."""
    with open(path, "rb", 0) as file:
        if not file.read(64):
            raise OSError(errno.ENODATA, path)


def may_write(path):
    """Open a file of the kernel to write, and write nothing."""
    os.close(os.open(path, os.O_WRONLY))


def as_user(function):
    """Do it in a child that is user 1000; what it writes."""
    ours, its = os.pipe()
    if os.fork() == 0:
        os.setgroups([])
        os.setresgid(1000, 1000, 1000)
        os.setresuid(1000, 1000, 1000)
        os.dup2(its, 1)
        try:
            function()
        finally:
            os._exit(1)
    os.close(its)
    os.wait()
    with open(ours) as text:
        return text.read()


# The kernel itself: what no namespace divides


@attack("capabilities: SYS_MODULE", "--cap-add SYS_MODULE", ["ENOEXEC"])
def load_a_module():
    """A module's code runs in the kernel, where there is no wall. (Tried with an empty one.)"""
    call("init_module", b"", 0, b"")


@attack("masked paths", f"--cap-add SYS_RAWIO {UNCOVERED}", ends="ENODATA")
def read_the_kernels_memory():
    """/proc/kcore is all memory of the machine: each key, each page of each container."""
    read("/proc/kcore")


@attack("read-only paths", UNCOVERED, ends="EROFS", rootless=("EACCES", NOT_ITS_OWN))
def name_a_program_for_crashes():
    """What kernel/core_pattern names, the kernel runs as root of the host when a program crashes."""
    may_write("/proc/sys/kernel/core_pattern")


@attack("read-only paths", UNCOVERED, ends="EROFS", rootless=("EACCES", NOT_ITS_OWN))
def press_the_magic_key():
    """A letter in /proc/sysrq-trigger restarts the machine, or kills everything on it."""
    may_write("/proc/sysrq-trigger")


@attack("read-only paths", "--privileged", ends="EROFS")
def change_a_setting_in_sys():
    """Files in /sys set the machine's devices and memory."""
    may_write("/sys/kernel/mm/transparent_hugepage/enabled")


@attack("masked paths", UNCOVERED, ends="ENODATA")
def list_the_keys():
    """/proc/keys names the keys of all containers that have the same user numbers."""
    read("/proc/keys")


@attack("masked paths", UNCOVERED, ends="ENODATA")
def list_the_timers():
    """/proc/timer_list tells what the whole machine waits for, and addresses in the kernel."""
    read("/proc/timer_list")


@attack("capabilities: SYSLOG", "--cap-add SYSLOG")
def read_the_kernels_log():
    """The log is the machine's. It tells about hardware, neighbours, addresses in the kernel."""
    call("syslog", 3, ctypes.create_string_buffer(8), 8)


@attack("capabilities: SYS_TIME", "--cap-add SYS_TIME")
def set_the_clock():
    """There is one time of day for all: certificates, logs and locks of the host believe it."""
    time.clock_settime(time.CLOCK_REALTIME, time.time() + 3600)


@attack("capabilities: SYS_BOOT", "--cap-add SYS_BOOT", ["EINVAL"])
def restart_the_machine():
    """In a PID namespace reboot(2) would end its first process only. (Tried with a wrong magic number.)"""
    call("reboot", 0, 0, 0, 0)


@attack("capabilities: SYS_BOOT", f"--cap-add SYS_BOOT {UNFILTERED}", ["EINVAL"])
def start_another_kernel():
    """kexec_load(2) puts another kernel in the place of this one. (Tried with flags that do not exist.)"""
    call("kexec_load", 0, 0, 0, 0xFFFF)


@attack("capabilities: SYS_ADMIN", f"--cap-add SYS_ADMIN {UNFILTERED}", ["ENOENT"])
def swap_to_a_file():
    """Pages of everybody's memory go to a file that the container can read. (Tried with one that is not there.)"""
    call("swapon", b"/none", 0)


@attack("capabilities: SYS_RAWIO", "--cap-add SYS_RAWIO")
def reach_for_the_ports():
    """iopl(2) opens the processor's ports: the disk's controller, the keyboard. (Some kernels do not have it.)"""
    call("iopl", 3)


@attack("capabilities: SYS_ADMIN", "--cap-add SYS_ADMIN", ["ENOENT", "ENODEV", "ENOTBLK"])
def switch_quotas_off():
    """quotactl(2) sets who may use how much of the host's disk. (Tried with one that is not there.)"""
    call("quotactl", 0x80000300, b"/none", 0, 0)


@attack("capabilities: SYS_PACCT", "--cap-add SYS_PACCT")
def stop_the_accounting():
    """acct(2) switches the record of ended processes off, here that of this PID namespace."""
    call("acct", None)


@attack("capabilities: SYS_ADMIN", "--cap-add SYS_ADMIN")
def load_a_program_into_the_kernel():
    """bpf(2) gives the kernel programs to run; its checker has had errors. (Tried with a map of one element.)"""
    call("bpf", 0, struct.pack("=4I", 2, 4, 4, 1), 16)


@attack("capabilities: SYS_ADMIN", "--cap-add SYS_ADMIN", ["ENOENT"])
def watch_the_processor():
    """perf_event_open(2) for all processes of a CPU: what runs there, with registers and addresses."""
    call("perf_event_open", struct.pack("=IIQ", 1, 64, 0).ljust(64, b"\0"), -1, 0, -1, 0)


# System calls that need no right: the filter alone stops them


@attack("seccomp", UNFILTERED, podman=("ENOSYS", ITS_LIST))
def use_keyrings():
    """Keyrings are divided by user numbers, not by containers: root here has the same as root there."""
    call("add_key", b"user", b"minidocker", b"x", 1, -2)


@attack("seccomp", UNFILTERED, podman=("worked", ITS_LIST))
def make_a_user_namespace():
    """All capabilities in a namespace of one's own: many errors of the kernel can be reached only with these."""
    call("unshare", CLONE_NEWUSER)


@attack("seccomp", UNFILTERED, podman=("worked", ITS_LIST))
def be_born_in_a_user_namespace():
    """The same by clone(2). The filter looks at the flags, which are in a register."""
    if call("clone", CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


@attack("seccomp", UNFILTERED, ["EINVAL"], ends="ENOSYS", podman=("EINVAL", ITS_LIST))
def hide_the_flags():
    """clone3(2) has its flags in memory, which a filter cannot see. "Not implemented" makes C libraries take clone."""
    call("clone3", 0, 0)


@attack("seccomp", UNFILTERED)
def hold_the_kernel_up():
    """userfaultfd(2) stops the kernel in the middle of a copy, for as long as an attack needs to win a race."""
    os.close(call("userfaultfd", 1))


@attack("seccomp", UNFILTERED, docker=("worked", OF_2020), podman=("ENOSYS", ITS_LIST))
def queue_system_calls():
    """io_uring does work by queues in memory, which no filter sees; it had most of the exploited errors of 2022."""
    os.close(call("io_uring_setup", 1, ctypes.create_string_buffer(120)))


@attack("seccomp", UNFILTERED, ["EAFNOSUPPORT"], docker=("worked", OF_2020), podman=("worked", ITS_LIST))
def talk_to_the_hypervisor():
    """vsock(7) sockets lead to the host of a virtual machine, past each network namespace."""
    socket.socket(40, socket.SOCK_STREAM).close()


@attack("seccomp", UNFILTERED, ["EAFNOSUPPORT"], docker=("worked", OF_2020), podman=("worked", ITS_LIST))
def use_the_kernels_ciphers():
    """AF_ALG sockets encrypt in the kernel. By an error there one wrote to any file (CVE-2026-31431)."""
    socket.socket(38, socket.SOCK_SEQPACKET).close()


@attack("seccomp", UNFILTERED, podman=("ENOSYS", ITS_LIST))
def switch_randomness_off():
    """With personality(2) programs lie at the same addresses each time, set-user-ID ones as well."""
    call("personality", 0x40000)


@attack("seccomp", UNFILTERED, ends="killed by SIGSYS", docker=("EPERM", ITS_OWN), podman=("EPERM", ITS_OWN))
def enter_by_the_32_bit_door():
    """int 0x80 takes the numbers of i386. 374 is userfaultfd(2) there, and nothing in the 64-bit list."""
    if os.uname().machine != "x86_64":
        raise OSError(errno.ENOSYS, "int 0x80")
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("53  b8 76010000  bb 01000000  cd80  5b  c3"))  # eax = 374, ebx = 1, int 0x80
    result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    if result < 0:
        raise OSError(-result, "int 0x80")


# Mounts and namespaces


@attack("capabilities: SYS_ADMIN", "--cap-add SYS_ADMIN")
def mount_something():
    """Who may mount may take covers and read-only marks off again, and mount the host's disk."""
    call("mount", b"none", b"/tmp", b"tmpfs", 0, None)


@attack("capabilities: SYS_ADMIN", "--cap-add SYS_ADMIN")
def mount_by_the_new_calls():
    """fsopen(2) and its siblings mount, too. Who forbids a thing has to know all of its names."""
    os.close(call("fsopen", b"tmpfs", 0))


@attack("capabilities: SYS_ADMIN", "--cap-add SYS_ADMIN")
def leave_the_fence():
    """Who has the control groups mounted may write limits, and in version 1 name a program that the host runs."""
    os.makedirs("/tmp/groups", exist_ok=True)
    call("mount", b"none", b"/tmp/groups", b"cgroup2", 0, None)
    may_write("/tmp/groups/cgroup.procs")


@attack("capabilities: SYS_ADMIN", "--cap-add SYS_ADMIN")
def enter_a_namespace():
    """setns(2) into what /proc shows. Here that is the container's own; with the host's processes, the host's."""
    descriptor = os.open("/proc/1/ns/uts", os.O_RDONLY)
    call("setns", descriptor, 0)


@attack("capabilities: SYS_ADMIN", f"--cap-add SYS_ADMIN {UNFILTERED}", ["EINVAL", "EBUSY"])
def change_the_root():
    """pivot_root(2) exchanges what is mounted at /, as the engine did. (Tried with the same twice.)"""
    call("pivot_root", b"/", b"/")


@attack("capabilities: SYS_ADMIN", "--cap-add SYS_ADMIN")
def rename_the_host():
    """With the UTS namespace it is the container's own name; the right is the same."""
    call("sethostname", b"mine", 4)


@attack("pivot_root", ends="ENODATA")
def escape_from_chroot():
    """Chapter 1's way out: chroot into a directory, climb up past it. Behind pivot_root there is nothing above."""
    before = os.stat("/")
    os.makedirs("/tmp/jail", exist_ok=True)
    os.chroot("/tmp/jail")
    for _ in range(64):
        os.chdir("..")
    after = os.stat(".")
    if (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino):
        raise OSError(errno.ENODATA, "this is the container's own root")


@attack("capabilities: DAC_READ_SEARCH", "--cap-add DAC_READ_SEARCH", ["ESTALE"])
def open_by_number():
    """Shocker (2014): open inode 2, the root, of the disk on which a volume lies, without any path to it."""
    handle = struct.pack("=IiII", 8, 1, 2, 0)
    os.close(call("open_by_handle_at", os.open("/usr", os.O_RDONLY), handle, os.O_RDONLY))


@attack("network namespace", "--network host", ends="ECONNREFUSED")
def call_a_socket_of_the_host():
    """Sockets with a name that is no file belong to the network namespace: the desktop's, containerd's."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0minidocker-attack")


# Devices


@attack("devices", "--privileged", ends="EACCES")
def read_the_hosts_disk():
    """Make the node of a disk, whose numbers /sys tells, and read it: every file of everybody. (It is only opened.)"""
    for name in sorted(os.listdir("/sys/block"), key=lambda name: name.startswith("loop")):
        with open(f"/sys/block/{name}/dev") as file:
            major, minor = map(int, file.read().split(":"))
        os.mknod(f"/tmp/{name}", 0o60600, os.makedev(major, minor))
        try:
            return os.close(os.open(f"/tmp/{name}", os.O_RDONLY | os.O_NONBLOCK))
        except OSError as error:
            refused = error
    raise refused


@attack("devices", "--privileged", ends="EACCES")
def write_to_the_kernels_log():
    """/dev/kmsg takes lines that look like the kernel's own. Any device will do: this one is everywhere."""
    os.mknod("/tmp/kmsg", 0o20600, os.makedev(1, 11))
    os.close(os.open("/tmp/kmsg", os.O_WRONLY))


# Neighbours, and other users


@attack("capabilities: SYS_PTRACE", "--cap-add SYS_PTRACE")
def take_a_neighbours_process_over():
    """ptrace(2) reads and writes another process's memory and registers: here, one of another user."""
    neighbour = os.fork()
    if neighbour == 0:
        os.setresuid(1000, 1000, 1000)
        time.sleep(60)
    try:
        while os.stat(f"/proc/{neighbour}/stat") and _uid(neighbour) != 1000:
            time.sleep(0.001)
        call("ptrace", 16, neighbour, 0, 0)
    finally:
        os.kill(neighbour, signal.SIGKILL)


def _uid(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Uid:"))


@attack("capabilities: SYS_NICE", "--cap-add SYS_NICE", ends="EACCES")
def go_before_all_others():
    """A niceness below zero takes CPU time from everybody on the machine, within its group."""
    os.setpriority(os.PRIO_PROCESS, 0, -20)


@attack("capabilities: SYS_RESOURCE", "--cap-add SYS_RESOURCE")
def raise_a_limit():
    """A hard limit can be lowered by everybody, and raised again only with this right."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 4096))
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 8192))
    except ValueError as refused:
        raise OSError(errno.EPERM, "RLIMIT_CORE") from refused


@attack("bounding set", "--cap-add SYS_ADMIN")
def give_a_file_more_rights():
    """Root may give a file capabilities that its process does not have. The bounding set is the end of it."""
    path = _copy("/usr/bin/true")
    os.setxattr(path, "security.capability", struct.pack("=5I", 0x02000001, 1 << 21, 0, 0, 0))
    if os.spawnv(os.P_WAIT, path, [path]):
        raise OSError(errno.EPERM, path)


def _copy(path):
    """A copy of a program, which this container owns."""
    with open(path, "rb") as file, open(f"/tmp/{os.path.basename(path)}", "wb") as copy:
        copy.write(file.read())
    os.chmod(copy.name, 0o755)
    return copy.name


# What Docker lets root do, unless a flag forbids it


@attack("no-new-privileges", on="--security-opt no-new-privileges")
def become_root_again():
    """A set-user-ID program makes an ordinary user root: as on each Linux. One flag ends that."""
    path = _copy("/usr/bin/id")
    os.chmod(path, 0o4755)
    if as_user(lambda: os.execv(path, [path, "-u"])) != "0\n":
        raise OSError(errno.EPERM, path)


@attack("capabilities: NET_RAW", on="--cap-drop NET_RAW")
def send_raw_packets():
    """ping needs them, and so Docker leaves the right to root. They can claim to be from anybody on the network."""
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()


@attack("capabilities: NET_RAW", on="--cap-drop NET_RAW")
def listen_to_all_packets():
    """A packet socket hears each frame at its interface, and can send any: the bridge's switch is the wall."""
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()


HARMFUL = ("set the clock",)  # without the wall: in a virtual machine only


def outcome(function):
    """Try it in a child of its own, which may change its root and namespaces: "worked", or how it ended."""
    ours, its = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            function()
            answer = "worked"
        except OSError as refused:
            answer = errno.errorcode.get(refused.errno, str(refused.errno))
        os.write(its, answer.encode())
        os._exit(0)
    os.close(its)
    with open(ours) as text:
        answer = text.read()
    status = os.waitpid(child, 0)[1]
    return answer or f"killed by {signal.Signals(os.WTERMSIG(status)).name}"


def main(names):
    """A line for each attack. Some change their namespaces, which on the host would be the host's."""
    if os.path.exists("/proc/2/comm") and open("/proc/2/comm").read() == "kthreadd\n":
        sys.exit("attacks: this is the host, and no container: nothing is tried here")
    for name in names or [name for name in ATTACKS if name not in HARMFUL]:
        print(f"{name}: {outcome(ATTACKS[name])}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
