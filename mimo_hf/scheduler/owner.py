"""One owner a machine: a lock file tells who hands out its cores, and where to reach them."""

import fcntl
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

ADDRESS_VARIABLE = "MIMO_SCHED_ADDR"
LOCK_VARIABLE = "MIMO_SCHED_LOCK"
SOCKET_PREFIX = "mimo-sched-"


def lock_path() -> Path:
    """`$MIMO_SCHED_LOCK`, else a file of this user in the temporary folder."""
    default = Path(tempfile.gettempdir()) / f"mimo-scheduler-{os.getuid()}.lock"
    return Path(os.environ.get(LOCK_VARIABLE, default))


def process_start(pid: int) -> str:
    """When a process started, in the kernel's ticks: tells a pid from its reuse. Empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


class AlreadyOwned(RuntimeError):
    """Another process hands out this machine's cores."""


class Ownership:
    """
    Holds the lock of this machine until `release`; the kernel lets go of it when the process dies.

    Raises AlreadyOwned (a RuntimeError) that names the owner if there is one already.
    """

    def __init__(self, address: str):
        self.path = lock_path()
        self._file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115  held as long as the lock
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            owner = _owner_within(1.0) or {"pid": "?", "address": "?"}
            raise AlreadyOwned(
                f"process {owner['pid']} hands out this machine's cores already (lock {self.path}); two owners would give "
                f"each core twice. Connect to it: SchedulerClient({owner['address']!r}), or set {ADDRESS_VARIABLE}."
            ) from None
        self._sweep()
        self._file.truncate(0)
        json.dump({"pid": os.getpid(), "start": process_start(os.getpid()), "address": address}, self._file)
        self._file.flush()

    def _sweep(self):
        """An owner that was killed has left its socket's folder."""
        self._file.seek(0)
        try:
            folder = Path(json.load(self._file)["address"].removeprefix("unix:")).parent
        except (ValueError, KeyError):
            return
        if folder.name.startswith(SOCKET_PREFIX) and folder.parent == Path(tempfile.gettempdir()):
            shutil.rmtree(folder, ignore_errors=True)

    def release(self):
        if not self._file.closed:
            self._file.truncate(0)
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked child may hold a copy of the file
            self._file.close()


def current_owner() -> dict[str, Any] | None:
    """{"pid", "start", "address"} of the living owner; None without one."""
    try:
        owner = json.loads(lock_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner if process_start(owner["pid"]) == owner["start"] else None


def _owner_within(timeout_s: float) -> dict[str, Any] | None:
    """The owner takes the lock a moment before it writes down who it is."""
    deadline = time.monotonic() + timeout_s
    while (owner := current_owner()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return owner
