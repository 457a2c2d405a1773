"""One owner a machine: a lock file tells who hands out its cores, and where to reach them."""

import fcntl
import json
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from ..core.numbers import is_whole

ADDRESS_VARIABLE = "MIMO_SCHED_ADDR"
LOCK_VARIABLE = "MIMO_SCHED_LOCK"
SOCKET_PREFIX = "mimo-sched-"
MOST_LOCK = 4096


class UntrustedLock(PermissionError):
    """The lock, or its folder, is not this user's alone: whoever can write it decides to whom we unpickle."""


def lock_path() -> Path:
    """
    `$MIMO_SCHED_LOCK`, else a file in a folder that only this user can enter: in `$XDG_RUNTIME_DIR`, else in the temporary folder.

    Raises:
        UntrustedLock: the folder is another user's, a link, or open to others.
    """
    if chosen := os.environ.get(LOCK_VARIABLE):
        return Path(chosen)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime or tempfile.gettempdir()) / f"mimo-scheduler-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise UntrustedLock(
            f"{folder} can't be made: {error.strerror}. Set {LOCK_VARIABLE} to a file of yours."
        ) from None
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise UntrustedLock(
            f"{folder} must be a folder of user {os.getuid()} that nobody else can enter (mode 0700); it is {_described(found)}. "
            f"Remove it, or set {LOCK_VARIABLE} to a file in a folder of yours."
        )
    return folder / "lock"


def _open_lock(path: Path, flags: int, mode: str) -> IO[str]:
    """
    The lock file, without following a link.

    Raises:
        FileNotFoundError: there is none, and `flags` makes none.
        UntrustedLock: it is not a plain file of this user under this one name.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:  # ELOOP: a link
        raise UntrustedLock(
            f"the lock {path} can't be opened: {error.strerror}. Remove it, or set {LOCK_VARIABLE} to a file of yours."
        ) from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_nlink != 1 or found.st_mode & 0o022:
        os.close(descriptor)
        raise UntrustedLock(
            f"the lock {path} must be a plain file of user {os.getuid()} that nobody else can write; it is {_described(found)}. "
            f"Remove it, or set {LOCK_VARIABLE} to a file of yours."
        )
    return os.fdopen(descriptor, mode, encoding="utf-8")


def _described(found: os.stat_result) -> str:
    return f"{stat.filemode(found.st_mode)}, of user {found.st_uid}, under {found.st_nlink} name(s)"


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
        self._file = _open_lock(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, "a+")  # held as long as the lock
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            owner = _owner_within(1.0) or {"pid": "?", "address": "?"}
            raise AlreadyOwned(
                f"process {owner['pid']} hands out this machine's cores already (lock {self.path}); two owners would give "
                f"each core twice. Connect to it: ActionScheduler(on_owned='connect'), SchedulerClient({owner['address']!r}), or {ADDRESS_VARIABLE}."
            ) from None
        self._sweep()
        self._file.truncate(0)
        json.dump({"pid": os.getpid(), "start": process_start(os.getpid()), "address": address}, self._file)
        self._file.flush()

    def _sweep(self):
        """An owner that was killed has left its socket's folder."""
        self._file.seek(0)
        owner = _read_owner(self._file)
        if owner is None:
            return
        folder = Path(owner["address"].removeprefix("unix:")).parent
        if folder.name.startswith(SOCKET_PREFIX) and folder.parent == Path(tempfile.gettempdir()):
            shutil.rmtree(folder, ignore_errors=True)

    def release(self):
        if not self._file.closed:
            self._file.truncate(0)
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked child may hold a copy of the file
            self._file.close()


def current_owner() -> dict[str, Any] | None:
    """
    {"pid", "start", "address"} of the living owner; None without one.

    Raises:
        UntrustedLock: another user could have written what the lock says.
    """
    try:
        with _open_lock(lock_path(), os.O_RDONLY, "r") as file:
            owner = _read_owner(file)
    except FileNotFoundError:
        return None
    return owner if owner is not None and process_start(owner["pid"]) == owner["start"] else None


def _read_owner(file: IO[str]) -> dict[str, Any] | None:
    """What a lock says; None for anything but an owner."""
    try:
        found = json.loads(file.read(MOST_LOCK))
        owner = {name: found[name] for name in ("pid", "start", "address")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = isinstance(owner["start"], str) and isinstance(owner["address"], str)
    return owner if texts and is_whole(owner["pid"], 1) else None


def _owner_within(timeout_s: float) -> dict[str, Any] | None:
    """The owner takes the lock a moment before it writes down who it is."""
    deadline = time.monotonic() + timeout_s
    while (owner := current_owner()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return owner
