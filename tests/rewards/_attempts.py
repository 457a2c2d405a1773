"""
What programs try that solve nothing. Each prints "reached" if it gets what it should not, or "found" if another left it something.

The last word says where it must fail: "bwrap"; "rooms", in a subprocess with namespaces of its own too; "root", in any subprocess of
root's; "all", in any subprocess. `python -m PACKAGE._attempts` tries them all and prints what went wrong.
"""

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mimo_hf.processes.program_server import SHARED

from ._hostile import HOSTILE, LIMITS

PATIENT = replace(LIMITS, timeout_s=20)  # for programs that end by themselves: on a busy machine that may take long

CALL = "import ctypes, errno, os\nC = ctypes.CDLL(None, use_errno=True)\n"
TRY = "try:\n    {}\n    print('reached')\nexcept (OSError, ImportError, AttributeError, ValueError, MemoryError): print('no')"


def attempt(line, before="import os"):
    return f"{before}\n" + TRY.format(line)


def sockets(arguments):
    return attempt(f"socket.socket({arguments})", "import socket")


def call(words):
    """A call of libc that returns -1 where it is refused."""
    return f"{CALL}print('reached' if C.{words} != -1 else 'no')"


def number(words):
    """A system call by its number on x86-64; with arguments that do nothing where it is allowed, which then is another error."""
    return (
        f"{CALL}import platform\nresult = C.syscall({words}) if platform.machine() == 'x86_64' else -1\n"
        "print('no' if result == -1 and ctypes.get_errno() in (0, errno.EPERM, errno.ENOSYS) else 'reached')"
    )


REACH = {
    "a socket of the internet": (sockets("socket.AF_INET"), "all"),
    "a socket of the newer internet": (sockets("socket.AF_INET6"), "all"),
    "a datagram socket": (sockets("socket.AF_INET, socket.SOCK_DGRAM"), "all"),
    "a raw socket": (sockets("socket.AF_INET, socket.SOCK_RAW, 1"), "all"),
    "a packet socket": (sockets("socket.AF_PACKET, socket.SOCK_RAW"), "all"),
    "a netlink socket": (sockets("socket.AF_NETLINK, socket.SOCK_RAW"), "all"),
    "a socket to the virtual machine's host": (sockets("socket.AF_VSOCK"), "all"),
    "a socket of the kernel's ciphers": (sockets("socket.AF_ALG, socket.SOCK_SEQPACKET"), "all"),
    "a bus of cars": (sockets("socket.AF_CAN, socket.SOCK_RAW"), "all"),
    "asyncio's server": ("import asyncio\n" + TRY.format("assert asyncio.run(asyncio.start_server(print, '127.0.0.1', 0)).sockets").replace("MemoryError", "AssertionError"), "all"),
    "another system's sockets, by their ring": (number("425, 1, 0"), "all"),
    "keys of the kernel": (number("250, 0, -3, 0"), "all"),
    "a new key": (number("248, b'user', b'mimo', b'x', 1, -3"), "all"),
    "programs for the kernel": (number("321, 0, 0, 0"), "all"),
    "counters of the processor": (number("298, 0, 0, -1, -1, 0"), "all"),
    "page faults of others": (number("323, 0"), "all"),
    "a namespace of users": (call("unshare(0x10000000)"), "all"),
    "a namespace of mounts": (call("unshare(0x20000)"), "all"),
    "a namespace by clone": (number("56, 0x10000000 | 17, 0, 0, 0, 0"), "all"),
    "a namespace by the newer clone": (number("435, 0, 0"), "all"),
    "a namespace of another": (attempt("assert C.setns(os.open('/proc/1/ns/net', os.O_RDONLY), 0) == 0", CALL).replace("MemoryError", "AssertionError"), "all"),
    "a mount": (call("mount(b'none', b'/tmp', b'tmpfs', 0, None)"), "all"),
    "no mount any more": (call("umount2(b'/proc', 2)"), "all"),
    "another root": (call("chroot(b'/tmp')"), "all"),
    "another process's steps": (call("ptrace(16, os.getppid(), 0, 0)"), "all"),
    "another process's memory by a call": (call("process_vm_readv(os.getppid(), None, 0, None, 0, 0)"), "all"),
    "a file by its handle": (number("304, -100, 0, 0"), "all"),
    "the kernel's log": (call("klogctl(3, ctypes.create_string_buffer(100), 100)"), "all"),
    "another name of the machine": (call("sethostname(b'x', 1)"), "all"),
    "another time": (attempt("time.clock_settime(time.CLOCK_REALTIME, time.time())", "import time").replace("MemoryError", "PermissionError"), "all"),
    "root": (attempt("os.setuid(0)").replace("print('reached')", "print('reached' if os.geteuid() == 0 else 'no')"), "all"),
    "root's groups": (attempt("os.setgroups([0])"), "all"),
    "every capability": (f"{CALL}import struct\nprint('reached' if C.capset(struct.pack('Ii', 0x20080522, 0), b'\\xff' * 24) == 0 else 'no')", "all"),
    "a device": (attempt("os.mknod('memory', 0o20600, os.makedev(1, 1))"), "all"),
    "a higher limit": ("import resource\n" + TRY.format("resource.setrlimit(resource.RLIMIT_NPROC, (10**6, 10**6))"), "all"),
    "more priority": (attempt("os.setpriority(os.PRIO_PROCESS, 0, -20)"), "all"),
    "a real-time schedule": (attempt("os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))"), "all"),
    "a file above the limit by its length": (attempt("os.truncate(os.open('f', os.O_CREAT | os.O_RDWR), 1 << 30)", "import os, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)"), "all"),
    "a file of memory above the limit": (attempt("os.truncate(os.memfd_create('f'), 1 << 30)", "import os, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)"), "all"),
    "memory of the machine, shared": (attempt("mmap.mmap(-1, 4 << 30)", "import mmap"), "all"),
    "more files than are allowed": (attempt("[open('/dev/null') for _ in range(100)]"), "all"),
    "more threads than are allowed": ("import threading\nevent = threading.Event()\ntry:\n    for _ in range(100): threading.Thread(target=event.wait).start()\n    print('reached')\nexcept RuntimeError: print('no')\nevent.set()", "all"),
    "the end of its keeper": ("import os, time\nfor n in (1, 2, 3, 9, 15, 19) if os.getppid() == 1 else ():\n    try: os.kill(1, n)\n    except OSError: pass\ntime.sleep(0.1)\nprint('no')", "rooms"),
    "the keeper's memory": (attempt("open(f'/proc/{os.getppid()}/mem', 'rb')"), "all"),
    "the keeper's environment": (attempt("open(f'/proc/{os.getppid()}/environ').read()"), "all"),
    "the keeper's files": (attempt("os.listdir(f'/proc/{os.getppid()}/fd')"), "all"),
    "the keeper's root": (attempt("os.listdir(os.path.join('/proc', str(os.getppid()), 'root', ''))"), "all"),
    "the limits of its keeper": (attempt("resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))", "import os, resource"), "all"),
    "the mask of its keeper's processors": (attempt("os.sched_setaffinity(os.getppid(), {0})"), "all"),
    "the priority of its keeper": (attempt("os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)"), "all"),
    "the priority of all its user's": (attempt("os.setpriority(os.PRIO_USER, 0, 19)"), "all"),
    "another process's memory, the trainer's above all": ("import os\nseen = []\nfor pid in os.listdir('/proc'):\n    try: seen += [open(f'/proc/{pid}/mem', 'rb')] if pid.isdecimal() and int(pid) != os.getpid() else []\n    except OSError: pass\nprint('reached' if seen else 'no')", "all"),
    "another process": ("import os\nprint('reached' if [pid for pid in os.listdir('/proc') if pid.isdecimal() and int(pid) > 2] else 'no')", "rooms"),
    "the kernel's settings": (attempt("open('/proc/sys/kernel/core_pattern', 'a')"), "all"),
    "what the kernel would kill first": (attempt("open('/proc/self/oom_score_adj', 'wb', 0).write(b'-1000')"), "all"),
    "the kernel's memory": (attempt("open('/proc/kcore', 'rb').read(1)"), "all"),
    "the machine's devices": (attempt("os.listdir('/sys')"), "bwrap"),
    "users of the machine": (attempt("open('/etc/passwd')"), "bwrap"),
    "homes of the machine": (attempt("os.listdir('/home')"), "bwrap"),
    "the trainer's code": (attempt("import mimo_hf"), "all"),
    "packages of the system's Python": (attempt("os.listdir('/usr/lib/python3')"), "bwrap"),
    "other programs": ("import os\nprint('reached' if os.path.isdir('/usr/bin') and len(os.listdir('/usr/bin')) > 1 else 'no')", "bwrap"),
    "a file outside its folder": ("import os\nopened = 0\nfor place in ('/', '/usr', '/var/tmp', '/dev', os.path.dirname(os.__file__)):\n    try: open(f'{place}/mimo-test-left', 'w'); opened += 1\n    except OSError: pass\nprint('reached' if opened else 'no')", "rooms"),
}  # fmt: skip

# (what it leaves, what looks for it, where nothing may be found)
FILE = "import os\nfor place in {}:\n    if os.access(place, os.W_OK): open(place + '/mimo-test-left', 'w').write('8')"
LOOK = "import os\nfor place in {}:\n    if os.path.exists(place + '/mimo-test-left'): print('found')"
PLACES = "('/tmp', '/var/tmp', '/dev/shm', '.')"
LEAVE = {
    "files in shared folders": (FILE.format(PLACES), LOOK.format(PLACES), "root"),
    "a file in its folder": (FILE.format("('.',)"), LOOK.format("('.',)"), "all"),
    "shared memory": (CALL + "C.shmget(4711, 4096, 0o1666)", CALL + "if C.shmget(4711, 4096, 0) != -1: print('found')", "all"),
    "semaphores": (CALL + "C.semget(4711, 1, 0o1666)", CALL + "if C.semget(4711, 1, 0) != -1: print('found')", "all"),
    "a queue of messages": (CALL + "C.msgget(4711, 0o1666)", CALL + "if C.msgget(4711, 0) != -1: print('found')", "all"),
    "a key": (CALL + "C.syscall(248, b'user', b'mimo', b'8', 1, -4)", CALL + "if C.syscall(249, b'user', b'mimo', None, 0) > 0: print('found')", "all"),
    "a name of a socket, held by a daemon": (
        "import os, socket, time\ns = socket.socket(socket.AF_UNIX); s.bind('\\0mimo-test-left')\nif os.fork() == 0:\n    os.setsid(); time.sleep(100)",
        "import socket\ntry: socket.socket(socket.AF_UNIX).bind('\\0mimo-test-left')\nexcept OSError: print('found')", "all"),
    "a lock on a file of the library": (
        "import fcntl, os, time\nf = open(os.__file__)\nif os.fork() == 0:\n    os.setsid(); fcntl.flock(f, fcntl.LOCK_SH); time.sleep(100)",
        "import fcntl, os\ntry: fcntl.flock(open(os.__file__), fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError: print('found')", "all"),
    "a number of processes": ("import os\nfor _ in range(50):\n    if os.fork() == 0: os._exit(0)\n    os.wait()", "import os\nif os.getpid() > 2: print('found')", "rooms"),
    "a number of files": ("import os\nfor n in range(50): open(str(n), 'w')", "import os\nif os.stat(os.open('.', 0)).st_ino > 40 or (open('f', 'w') and os.stat('f').st_ino > 40): print('found')", "rooms"),
    "its limits": ("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (37, 37))", "import resource\nif resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 37: print('found')", "all"),
    "a mask": ("import os, signal\nos.umask(0); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])", "import os, signal\nif os.umask(0) == 0 or signal.pthread_sigmask(signal.SIG_BLOCK, []): print('found')", "all"),
    "its keeper's variables": ("import os, sys\nos.environ['LEFT'] = '8'; sys.modules['left'] = sys", "import os, sys\nif 'LEFT' in os.environ or 'left' in sys.modules: print('found')", "all"),
}  # fmt: skip

# Each has to be ended.
HANGS = {
    "exit functions": "import atexit, time\natexit.register(time.sleep, 1e6)",
    "finalizers": "import time\nclass Last:\n    def __del__(self): time.sleep(1e6)\nlast = Last()",
    "finalizers in a circle": "import time\nclass Last:\n    def __del__(self): time.sleep(1e6)\nlast = Last(); last.own = last",
    "a stream that is never flushed": "import sys, time\nclass Out:\n    closed = False\n    def flush(self): time.sleep(1e6)\nsys.stdout = Out()",
    "a hook for errors": "import sys, time\nsys.excepthook = lambda *e: time.sleep(1e6)\nraise ValueError",
    "a pipe that nobody writes": "import os\nos.mkfifo('p'); open('p').read()",
    "a lock that it holds": "import threading\nlock = threading.Lock(); lock.acquire(); lock.acquire()",
    "a child that stops, waited for": "import os, signal\npid = os.fork()\nif pid == 0: os.kill(os.getpid(), signal.SIGSTOP)\nos.waitpid(pid, 0)",
    "all signals blocked": "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\ntime.sleep(1e6)",
    "a thread and no main": "import _thread, os, threading, time\nthreading.Thread(target=time.sleep, args=(1e6,)).start()\n_thread.exit()",
    "a device without an end": "for line in open('/dev/zero', 'rb', 0).read(1) and iter(int, 1): pass",
    "a signal of its own, again and again": "import signal, time\nsignal.signal(signal.SIGALRM, lambda *a: signal.alarm(1)); signal.alarm(1)\nwhile True: time.sleep(1)",
}  # fmt: skip

# Each ends with exit code 0 and has solved nothing: (its output must not hold the answer to 7, which is 8).
NOTHING = {
    "exit in a finalizer": "import os\nclass Last:\n    def __del__(self): os._exit(0)\nlast = Last()",
    "exit in an exit function": "import atexit, os\natexit.register(os._exit, 0)",
    "an error that nobody hears of": "import sys\nsys.excepthook = lambda *e: None\nraise SystemExit",
    "its own end of the interpreter": "import gc, os\ngc.collect = lambda: None\nos._exit = lambda code: None",
    "a closed standard output": "import sys\nsys.stdout.close()",
    "no standard output": "import sys\nsys.stdout = None",
    "children that beget children": "import os\nwhile True:\n    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass",
    "its input again": "print(input())",
    "its input's file, written": "import os\nos.write(0, b'8')",
}  # fmt: skip

STRENGTH = {"bwrap": {"bwrap", "rooms", "root", "all"}, "subprocess": {"rooms", "root", "all"}, "plain": {"all"}}
KINDS = tuple(STRENGTH)


def open_sandbox(kind, **options):
    """ "plain" is a subprocess on a machine whose kernel gives no namespaces."""
    from mimo_hf.rewards import Sandbox

    sandbox = Sandbox("bwrap" if kind == "bwrap" else "subprocess", **{"workers": 1, "limits": LIMITS} | options)
    if kind == "plain":
        sandbox._room = "none"
    return sandbox


def wrong(kind):
    """What some program reached, found, or did otherwise than it must, in a sandbox of this kind: a line each."""
    must_fail = STRENGTH[kind] | ({"root"} if os.getuid() == 0 else set())
    said = []
    with open_sandbox(kind) as one:
        for name, (leave, look, where) in LEAVE.items():
            left, seen = one.run(leave, "", PATIENT), one.run(look, "", PATIENT)
            if where in must_fail and (left.status, seen.status, seen.stdout) != ("ok", "ok", ""):
                said.append(f"left, {name}: {left} {seen}")
        for name, (source, where) in REACH.items():
            seen = one.run(source, "", PATIENT)
            if where in must_fail and (seen.status, seen.stdout) != ("ok", "no\n"):
                said.append(f"reached, {name}: {seen}")
    with open_sandbox(kind, workers=6) as several, ThreadPoolExecutor(6) as threads:

        def hang(name):
            if (seen := several.run(HANGS[name])).status != "timeout":
                said.append(f"not ended, {name}: {seen}")

        def nothing(name):
            seen = several.run(NOTHING[name], "7\n", PATIENT)
            if seen.status != "ok" or "8" in seen.stdout:
                said.append(f"not nothing, {name}: {seen}")

        def hostile(name):
            source, status = HOSTILE[name]
            seen = several.run(source, "7\n", LIMITS if status in (None, "timeout") else PATIENT)
            if seen.status == "infra" or seen.stdout.strip() == "8" or (status and seen.status != status):
                said.append(f"hostile, {name}: {seen}")

        jobs = ((hang, HANGS), (nothing, NOTHING), (hostile, HOSTILE))
        for job in [threads.submit(function, name) for function, names in jobs for name in names]:
            job.result()
        after = several.run("print(int(input()) + 1)", "7", PATIENT)
        if after.stdout != "8\n":
            said.append(f"afterwards: {after}")
    for place in SHARED:  # an ordinary user's files, where there are no namespaces
        with contextlib.suppress(OSError):
            os.unlink(f"{place}/mimo-test-left")
    return [line[:600] for line in said]


if __name__ == "__main__":
    from ._honest import different

    print(json.dumps({kind: wrong(kind) + different(kind) for kind in KINDS if kind in os.environ["KINDS"].split()}))
