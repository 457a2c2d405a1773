"""
Runs programs one after another, each in a fork of its own, and ends whatever it has left:
`python program_server.py CHANNEL FOLDER UID ROOM FILTER [MODULE]`.

A request over the Unix socket CHANNEL is a JSON of limits with four file descriptors: source, stdin, stdout, stderr. They go to the
fork unread, so that this process never holds anything that a later program could find in its memory. Only the standard
library is imported: inside a sandbox there is nothing else.

ROOM says what a program has to itself. With "inside" (in bubblewrap) and "try" (elsewhere, if the kernel lets us): processes and their
numbers, /proc, and a scratch folder in memory, which all end with it. With "none": FOLDER, and what `end_everything` can find.
FILTER, in hexadecimal, is the BPF of the system calls that a program is refused; "" refuses none.
"""

import atexit
import builtins
import ctypes
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import site
import socket
import struct
import sys
import time
import types

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
SECCOMP_MODE_FILTER = 2
NEW_MOUNTS, NEW_NAMES, NEW_IPC, NEW_USERS, NEW_PIDS, NEW_NETWORK = (1 << bit for bit in (17, 26, 27, 28, 29, 30))
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_SLAVE = 1, 2, 4, 8, 1 << 12, 1 << 14, 1 << 19
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
CAPABILITY_VERSION_3 = 0x20080522
NO_UID = -1
LONG = 1 << 63  # exit codes beyond C's are -1
SCRATCH = "/tmp"  # noqa: S108  in a sandbox it is empty, and each program has its own
SCRATCH_BYTES, SCRATCH_FILES = 16 << 20, 1 << 15
SHARED_MEMORY = "/dev/shm"  # noqa: S108  where libc keeps the locks of multiprocessing
SHARED = (SCRATCH, "/var/tmp", SHARED_MEMORY)  # noqa: S108  where any user of a machine may leave files
LIBC = ctypes.CDLL(None, use_errno=True)
ALIVE: list = []  # what lies at an address that the kernel is given


def serve(channel, folder, uid, own_room, refused):
    """Answers until the other side is gone; then None. In the fork that is to run a program: (its source, request)."""
    ours = os.open("/proc/self/ns/pid", os.O_RDONLY) if own_room else None
    while True:
        message, files, _, _ = socket.recv_fds(channel, 1 << 16, 4)
        if not message:
            return None
        request = json.loads(message)
        begin = time.monotonic()
        said, says = os.pipe()
        pid = os.fork() if ours is None else fork_with_new_pids(ours)
        if pid == 0:
            channel.close()
            os.close(said)
            if ours is not None:
                os.close(ours)
                keep_room(files, says)
            source = enter(request, files, folder, uid, own_room, refused)
            os.write(says, b"!")
            os.close(says)
            return source, request
        for file in (says, *files):
            os.close(file)
        how = wait(pid, channel, request["timeout_s"])
        status = end_everything(pid) if ours is None else end_room(pid)
        words = os.read(
            said, 16
        )  # "!" once the program's first word is next, then how it ended, from the keeper of its room
        os.close(said)
        reply = {
            "how": how,
            "status": int(words[1:] or -signal.SIGKILL) if own_room else status,
            "duration_s": time.monotonic() - begin,
            "clean": own_room or clean(folder, uid),
            "entered": words[:1] == b"!",
        }
        if how == "abandoned":
            return None
        try:
            channel.send(json.dumps(reply).encode())
        except OSError:  # the other side has gone meanwhile
            return None


def enter(request, files, folder, uid, own_room, refused):
    """Turns the fork into the program's own process, with its limits; returns the source."""
    source_file, *streams = files
    with open(source_file, "rb") as file:
        source = file.read()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if uid == NO_UID:  # the limit counts all of this user's: those of its namespace, or of the machine
        request["rlimits"]["NPROC"] += 2 if own_room else own_threads()
    for name, value in request["rlimits"].items():
        number = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(number)
        # At the hard limit of CPU time comes SIGKILL, which says less than the SIGXCPU of the soft one.
        limits = (value, value + 1 if name == "CPU" else value)
        resource.setrlimit(
            number, limits if hard == resource.RLIM_INFINITY else tuple(min(limit, hard) for limit in limits)
        )
    os.chdir(SCRATCH if own_room else folder)
    if uid != NO_UID:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    LIBC.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24))
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    LIBC.prctl(PR_SET_DUMPABLE, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it: a full file would only raise OSError
    if refused:
        check(LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, refused), "the filter of system calls")
    return source


def own_threads():
    """Processes and threads of this process's user on this machine."""
    count = 0
    for entry in os.scandir("/proc"):
        try:
            if entry.name.isdecimal() and entry.stat().st_uid == os.getuid():
                count += len(os.listdir(f"{entry.path}/task"))
        except OSError:
            continue  # it has ended
    return count


def wait(pid, channel, timeout_s):
    """How it ended: "exit", "timeout", or "abandoned" if nobody waits for it any more."""
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(channel, select.POLLIN)
    ready = {file for file, _ in poll.poll(timeout_s * 1000)}
    os.close(ended)
    return "exit" if ended in ready else "abandoned" if ready else "timeout"


# A room of one's own: namespaces of processes and mounts that end with the program.


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(kind, place, flags, options=""):
    words = (kind, place, kind)
    check(LIBC.mount(*(word.encode() for word in words), flags, options.encode()), f"mounting {kind} on {place}")


def fork_with_new_pids(ours):
    """The fork is the first process of a namespace of its own; this process stays in `ours`."""
    check(LIBC.unshare(NEW_PIDS), "a namespace of processes")
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            check(LIBC.setns(ours, NEW_PIDS), "the way back to the own namespace of processes")
    return pid


def furnish():
    """Own mounts: /proc of this namespace's processes alone, which nobody can write, and an empty scratch folder with two names."""
    check(LIBC.unshare(NEW_MOUNTS), "a namespace of mounts")
    mount("proc", "/proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "subset=pid")
    mount("tmpfs", SCRATCH, MS_NOSUID | MS_NODEV, f"size={SCRATCH_BYTES},nr_inodes={SCRATCH_FILES},mode=1777")
    if os.path.isdir(SHARED_MEMORY):
        check(
            LIBC.mount(SCRATCH.encode(), SHARED_MEMORY.encode(), None, MS_BIND, None), f"mounting on {SHARED_MEMORY}"
        )


def keep_room(files, says):
    """Returns in a fork that is to run a program. This process waits for it, says how it ended, and takes the room along."""
    os.dup2(files[3], 2)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what has no handler, its first process is not sent from inside
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    furnish()
    program = os.fork()
    if program == 0:
        return
    for file in files:
        os.close(file)
    ended = None
    while ended != program:  # others are orphans that the program has left
        ended, status = os.wait()
    os.write(says, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def end_room(keeper):
    """Returns once all of the room's processes are gone: they end with their first one."""
    os.kill(keeper, signal.SIGKILL)
    os.waitpid(keeper, 0)


def leave_host(channel):
    """
    Outside bubblewrap: no network, nothing writable, shared folders empty; the files of this machine stay readable. Returns, for an
    ordinary user, in the first process of new namespaces; the old process waits for it.
    """
    uid, gid = os.getuid(), os.getgid()
    LIBC.prctl(PR_SET_DUMPABLE, 1)  # else its maps of users are root's
    check(
        LIBC.unshare(NEW_MOUNTS | NEW_NAMES | NEW_IPC | NEW_NETWORK | (NEW_USERS | NEW_PIDS if uid else 0)),
        "namespaces of a server's own",
    )
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        if uid:
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(line)
    check(LIBC.mount(None, b"/", None, MS_REC | MS_SLAVE, None), "mounts of its own")
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    check(
        LIBC.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, len(attributes)), "read-only mounts"
    )
    for place in SHARED:
        if place != SCRATCH and os.path.isdir(place):
            mount("tmpfs", place, MS_RDONLY | MS_NOSUID | MS_NODEV)
    LIBC.prctl(PR_SET_DUMPABLE, 0)
    if uid and (inner := os.fork()):
        end_with_starter(channel)
        os._exit(os.waitpid(inner, 0)[1] != 0)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def try_room(room, channel):
    """In forks: whether the kernel gives a program a room of its own. Its words, if not, are on standard error."""
    pid = os.fork()
    if pid == 0:
        try:
            if room == "try":
                leave_host(channel)
            ours = os.open("/proc/self/ns/pid", os.O_RDONLY)
            first = fork_with_new_pids(ours)
            if first == 0:
                furnish()
            os._exit(os.waitpid(first, 0)[1] != 0 if first else 0)
        except OSError as error:
            os.write(2, f"{error.strerror}\n".encode())
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


# Without a room: what a program has left is looked for.


def end_everything(pid):
    """Kills and reaps all descendants of this process; how `pid` ended."""
    status = 0
    while True:
        kill_descendants()
        try:
            found, code = os.wait()
        except ChildProcessError:
            return os.waitstatus_to_exitcode(status)
        if found == pid:
            status = code


def kill_descendants():
    stopped: set[int] = set()
    while new := set(descendants()) - stopped:  # what is stopped can't fork
        send(new, signal.SIGSTOP)
        stopped |= new
    send(stopped, signal.SIGKILL)


def descendants():
    found, waiting = [], [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                    waiting += map(int, file.read().split())
        except OSError:
            continue  # it has ended
        finally:
            found.append(pid)
    return found[1:]


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def clean(folder, uid):
    """Empties the folder, and removes what the programs' own user, if there is one, has in shared ones; whether nothing is left."""
    try:
        for place in (folder, *(SHARED if uid != NO_UID else ())):
            for entry in os.scandir(place) if os.path.isdir(place) or place == folder else ():
                if (place != folder and entry.stat(follow_symlinks=False).st_uid != uid) or entry.path == folder:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
    except (OSError, RecursionError):
        return False
    return True


# The program itself.


def run(source, request, main):
    """The source as `__main__`; then, if asked to, one call of what it defines."""
    encode, decode, read, write = json.dumps, json.loads, sys.stdin.read, os.write
    main.__dict__.update(__builtins__=builtins, __file__=os.path.abspath("program.py"))
    sys.modules["__main__"] = main
    sys.argv = ["program.py"]
    exec(compile(source, "program.py", "exec", dont_inherit=True), main.__dict__)  # noqa: S102  to run programs is what this is for
    if request["call"]:
        asked = decode(read())
        head, _, method = asked["function"].partition(".")
        function = getattr(main.__dict__[head](), method) if method else main.__dict__[head]
        value = function(*asked["arguments"])
        sys.stdout.flush()
        write(1, f"\n{asked['nonce']}{encode(value)}\n".encode())


def run_to_the_end(source, request):
    """
    `run`, and what an interpreter does at its end, but for taking itself apart: that takes longer than most programs. Threads are
    waited for, exit functions called, streams flushed, the program's objects finalized.
    """
    code = 0
    main = types.ModuleType("__main__")
    try:
        run(source, request, main)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if not isinstance(ended.code, int | None):
            print(ended.code, file=sys.stderr or sys.__stderr__)
    except BaseException as error:  # noqa: BLE001 whatever it is, it is the program's end
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        code = 1
    if not -LONG <= code < LONG:
        code = -1
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    atexit._run_exitfuncs()
    written = flush(sys.stdout, sys.stderr)
    gc.collect()  # with all still in use: then the next one comes upon a file before its buffer, and the buffer is written
    sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
    sys.modules.pop("__main__", None)
    names = id(main.__dict__)
    del main
    gc.collect()
    forget(names)
    flush(sys.stdout, sys.stderr)
    os._exit(code & 0xFF if written else 120)


def flush(*streams):
    """Whether all that was said has arrived."""
    done = True
    for stream in streams:
        try:
            if stream is not None and not is_closed(stream):
                stream.flush()
        except Exception:  # noqa: BLE001 the stream may be anything that the program has put there
            done = False
    return done


def is_closed(stream):
    try:
        return bool(stream.closed)
    except Exception:  # noqa: BLE001 as above; print needs no such attribute
        return False


def forget(address):
    """The program's names one by one, if something other than the program holds them, such as a handler of signals or a hook."""
    for names in gc.get_objects():
        if id(names) == address and isinstance(names, dict):
            for name in list(names):
                names[name] = None


def end_with_starter(channel):
    """Once the thread that started this process has ended, nobody waits for an answer: its channel is as good as closed.

    As bwrap's --die-with-parent, but with time to end the program and all it has started. Not for the first process of a
    PID namespace: a signal that it handles could come from a program.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: channel.shutdown(socket.SHUT_RDWR))
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def filter_of(code):
    """The struct sock_fprog of BPF in hexadecimal; None for none."""
    if not code:
        return None
    instructions = ctypes.create_string_buffer(bytes.fromhex(code))
    ALIVE.append(instructions)
    return struct.pack("HP", len(code) // 16, ctypes.addressof(instructions))


def main():
    channel = socket.socket(fileno=int(sys.argv[1]))
    folder, uid, room, refused = sys.argv[2], int(sys.argv[3]), sys.argv[4], filter_of(sys.argv[5])
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    LIBC.prctl(PR_SET_DUMPABLE, 0)  # else a program of the same user may read and change this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own_room = room != "none" and try_room(room, channel)
    if room == "inside" and not own_room:
        raise SystemExit("a program can't have namespaces of its own here")
    if room == "try" and own_room:
        os.rmdir(folder)  # programs get one in memory
        leave_host(channel)
    if os.getpid() != 1:
        end_with_starter(channel)
    for module in sys.argv[6:]:
        importlib.import_module(module)
    for set_names in (site.setquit, site.setcopyright, site.sethelper):  # exit() and others, which -S leaves out
        set_names()
    compile("", "program.py", "exec")  # the first time takes milliseconds: let it be now, and not in each fork
    gc.freeze()
    channel.send(b"ready, rooms" if own_room else b"ready")
    work = serve(channel, folder, uid, own_room, refused)
    if work is not None:
        run_to_the_end(*work)
    elif os.getpid() != 1 and not own_room:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
