"""What the tests of the sandbox see of processes and folders."""

import ctypes
import glob
import os
import signal
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from mimo_hf.processes.program_server import PR_SET_CHILD_SUBREAPER


def stat(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root):
    parents = {}
    for entry in os.listdir("/proc"):
        try:
            if entry.isdecimal() and stat(entry)[0] not in "ZX":
                parents[int(entry)] = int(stat(entry)[1])
        except OSError:
            continue
    below, waiting = [], [root]
    while waiting:
        parent = waiting.pop()
        children = [pid for pid, own in parents.items() if own == parent]
        below += children
        waiting += children
    return sorted(below)


@contextmanager
def subreaper():
    """Orphans of this process's children become its own, so that `tree` sees them."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0)


def until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def kill_servers():
    for pid in tree(os.getpid()):
        if alive(pid) and b"program_server" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def alive(pid):
    try:
        return stat(pid)[0] not in "ZX"
    except OSError:
        return False


def os_servers():
    return sorted(pid for pid in tree(os.getpid()) if b"bwrap" in Path(f"/proc/{pid}/cmdline").read_bytes())


def folders():
    return set(glob.glob(os.path.join(tempfile.gettempdir(), "mimo-program-*")))
