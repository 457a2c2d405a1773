"""Processes that somebody has started, found in /proc, and signals to them. `program_server.py` stands alone, and has its own."""

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path


def children(pid: int) -> list[int]:
    """Processes that `pid` has started or adopted, by whichever thread; none if it has ended."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended since
            found += map(int, path.read_text().split())
    return found


def end_tree(pid: int):
    """Kills a process and all that it has started or adopted: each is stopped first, and what is stopped can't fork."""
    stopped: set[int] = set()
    new = {pid}
    while new:
        send(new, signal.SIGSTOP)
        stopped |= new
        new = {below for process in stopped for below in children(process)} - stopped
    send(stopped - {pid}, signal.SIGKILL)  # the last one that its own could be found by
    send([pid], signal.SIGKILL)


def tagged(variable: str, beginning: str, leader: int | None = None) -> list[int]:
    """
    Living processes whose environment has `variable` with a value of this `beginning`, whatever their session, and, of the process
    `leader`, those of its session and its descendants, whatever their environment.
    """
    needle = f"{variable}={beginning}".encode()
    parents: dict[int, int] = {}
    found = set()
    for entry in os.scandir("/proc") if os.path.isdir("/proc") else ():
        if not entry.name.isdecimal():
            continue
        try:
            state, parent, _, session = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:4]
            if state in ("Z", "X"):
                continue
            parents[int(entry.name)] = int(parent)
            if leader == int(session) or needle in Path(entry.path, "environ").read_bytes():
                found.add(int(entry.name))
        except OSError:
            continue
    if leader is not None:
        found |= {pid for pid in parents if leader in _ancestors(pid, parents)}
    return sorted(found)


def _ancestors(pid: int, parents: dict[int, int]) -> list[int]:
    line = [pid]
    while (parent := parents.get(line[-1], 0)) and parent not in line:
        line.append(parent)
    return line[1:]


def send(pids: Iterable[int], number: int):
    """The signal to each that is still there and may be sent one."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
