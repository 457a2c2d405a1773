"""
Runs programs one after another, each in a fork of its own, and ends whatever it has left:
`python program_server.py CHANNEL FOLDER UID [MODULE]`.

A request over the Unix socket CHANNEL is a JSON of limits with four file descriptors: source, stdin, stdout, stderr. They go to the
fork unread, so that this process never holds anything that a later program could find in its memory. Only the standard
library is imported: inside a sandbox there is nothing else.
"""

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
import socket
import sys
import time
import types

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
NO_UID = -1
LIBC = ctypes.CDLL(None)


def serve(channel, folder, uid):
    """Answers until the other side is gone; then None. In the fork that is to run a program: (its source, request)."""
    while True:
        message, files, _, _ = socket.recv_fds(channel, 1 << 16, 4)
        if not message:
            return None
        request = json.loads(message)
        begin = time.monotonic()
        entered, enters = os.pipe()
        pid = os.fork()
        if pid == 0:
            channel.close()
            os.close(entered)
            source = enter(request, files, folder, uid)
            os.write(enters, b"1")
            os.close(enters)
            return source, request
        for file in (enters, *files):
            os.close(file)
        how = wait(pid, channel, request["timeout_s"])
        status = end_everything(pid)
        reply = {
            "how": how,
            "status": os.waitstatus_to_exitcode(status),
            "duration_s": time.monotonic() - begin,
            "clean": clean(folder),
            "entered": os.read(entered, 1) == b"1",  # else it failed before the first word of the program
        }
        os.close(entered)
        if how == "abandoned":
            return None
        try:
            channel.send(json.dumps(reply).encode())
        except OSError:  # the other side has gone meanwhile
            return None


def enter(request, files, folder, uid):
    """Turns the fork into the program's own process, with its limits; returns the source."""
    source_file, *streams = files
    with open(source_file, "rb") as file:
        source = file.read()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if uid == NO_UID and os.getppid() != 1:
        request["rlimits"]["NPROC"] += own_threads()  # the limit counts all of this user's
    for name, value in request["rlimits"].items():
        number = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(number)
        # At the hard limit of CPU time comes SIGKILL, which says less than the SIGXCPU of the soft one.
        limits = (value, value + 1 if name == "CPU" else value)
        resource.setrlimit(
            number, limits if hard == resource.RLIM_INFINITY else tuple(min(limit, hard) for limit in limits)
        )
    os.chdir(folder)
    if uid != NO_UID:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    LIBC.prctl(PR_SET_DUMPABLE, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it: a full file would only raise OSError
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


def end_everything(pid):
    """Kills and reaps all processes but this one; the wait status of `pid`."""
    status = 0
    while True:
        kill_others()
        try:
            found, code = os.wait()
        except ChildProcessError:
            return status
        if found == pid:
            status = code


def kill_others():
    """All others of the PID namespace, at once, if this is its first process; else all descendants."""
    if os.getpid() == 1:
        send([-1], signal.SIGKILL)
        return
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


def clean(folder):
    """Empties the folder; whether nothing is left there or in System V's shared memory, semaphores and queues."""
    try:
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
    except (OSError, RecursionError):
        return False
    if os.getpid() != 1:
        return True
    lines = 0
    for kind in ("msg", "sem", "shm"):
        with open(f"/proc/sysvipc/{kind}", encoding="ascii") as file:
            lines += len(file.readlines()) - 1  # a header
    return lines == 0


def run(source, request):
    """The source as `__main__`; then, if asked to, one call of what it defines."""
    encode, decode, read, write = json.dumps, json.loads, sys.stdin.read, os.write
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = main
    sys.argv = ["program.py"]
    exec(compile(source, "program.py", "exec", dont_inherit=True), main.__dict__)
    if request["call"]:
        asked = decode(read())
        head, _, method = asked["function"].partition(".")
        function = getattr(main.__dict__[head](), method) if method else main.__dict__[head]
        value = function(*asked["arguments"])
        sys.stdout.flush()
        write(1, f"\n{asked['nonce']}{encode(value)}\n".encode())


def end_with_starter(channel):
    """Once the thread that started this process has ended, nobody waits for an answer: its channel is as good as closed.

    As bwrap's --die-with-parent, but with time to end the program and all it has started. Not for the first process of a
    PID namespace: a signal that it handles could come from a program.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: channel.shutdown(socket.SHUT_RDWR))
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main():
    channel = socket.socket(fileno=int(sys.argv[1]))
    folder, uid = sys.argv[2], int(sys.argv[3])
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    LIBC.prctl(PR_SET_DUMPABLE, 0)  # else a program of the same user may read and change this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if os.getpid() != 1:
        end_with_starter(channel)
    if sys.argv[4:]:
        importlib.import_module(sys.argv[4])
    gc.freeze()
    channel.send(b"ready")
    work = serve(channel, folder, uid)
    if work is not None:
        run(*work)
    elif os.getpid() != 1:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
