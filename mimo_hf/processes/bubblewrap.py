"""The one way in which this package runs anything in bubblewrap."""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from .system_calls import system_call_filter

NAMESPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
DEVICES = ("null", "zero", "full", "random", "urandom")
KERNEL_SETTINGS = ("sys", "sysrq-trigger", "irq", "bus", "fs")
FILTER = "{filter}"  # stands for the number of an open file with the filter of system calls: see `filter_file`
REMEDY = (
    "allow user namespaces (`sysctl kernel.unprivileged_userns_clone=1`, `sysctl user.max_user_namespaces=10000`, or a container with "
    "fewer restrictions)"
)


def bubblewrap(
    path: str,
    shown: Sequence[str],
    scratch_bytes: int,
    *,
    hidden: Sequence[str] = (),
    placed: Sequence[tuple[str, str]] = (),
    writable: str | None = None,
    user: int | None = None,
    capabilities: Sequence[str] = (),
    bare: bool = False,
    filtered: bool = False,
) -> list[str]:
    """
    The words in front of those that are to run. What runs has namespaces of its own, no network but its own loopback, no file but
    the `shown` ones, kernel settings that it can't write, no capability, and ends with whoever started it.

    Args:
        path: of bwrap.
        shown: files and folders that are seen where they are, read-only; those that are not there are left out.
        scratch_bytes: size of /tmp, in memory; of /dev/shm too, unless `bare`.
        hidden: folders within the shown ones that are seen empty.
        placed: files that are seen elsewhere, read-only: (file, where).
        writable: a folder that is seen and can be written, and where the program starts; None: it starts in /tmp.
        user: the number of its user, in a user namespace; None: in a user namespace the one who calls, unless that is root, who
            then must become another user before anything foreign runs.
        capabilities: names of those kept, without CAP_, for a server of ours that drops them before anything foreign runs.
        bare: no terminals and no shared memory among the devices, and /proc is left as it is: for a server of ours that covers it, and
            makes namespaces within these.
        filtered: bwrap loads a filter of system calls; without it, what runs loads one itself.
    """
    words = [path, "--die-with-parent", "--new-session", *NAMESPACES, "--hostname", "sandbox", "--cap-drop", "ALL"]
    if user is not None:
        words += ["--unshare-user", "--uid", str(user), "--gid", str(user)]
    words += [word for name in capabilities for word in ("--cap-add", f"CAP_{name}")]
    places = [*shown, *(place for _, place in placed)]
    parents = {parent for place in places for parent in Path(place).parents if parent != Path("/")}
    for parent in sorted(parents, key=lambda parent: len(parent.parts)):
        words += ["--perms", "755", "--dir", str(parent)]  # made by a bind, root's programs could not pass them
    for place in shown:
        words += ["--ro-bind-try", place, place]
    for place in hidden:
        words += ["--perms", "555", "--tmpfs", place, "--remount-ro", place]
    for file, place in placed:
        words += ["--ro-bind", file, place]
    words += ["--proc", "/proc", *(_bare() if bare else _furnished(scratch_bytes))]
    words += ["--perms", "1777", "--size", str(scratch_bytes), "--tmpfs", "/tmp"]  # noqa: S108  the sandbox's own, empty
    if writable is not None:
        words += ["--bind", writable, writable]
    if filtered:
        words += ["--seccomp", FILTER]
    return [*words, "--remount-ro", "/", "--chdir", writable or "/tmp", "--"]  # noqa: S108  as above


def _bare() -> list[str]:
    """bwrap's own /dev would make it nest two user namespaces, and the server could not return to its processes' own."""
    words = ["--perms", "755", "--dir", "/dev", "--perms", "755", "--dir", "/dev/shm"]  # noqa: S108  the server covers it
    for name in DEVICES:
        words += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        words += ["--symlink", f"/proc/self/fd/{number}", f"/dev/{name}"]
    return words


def _furnished(scratch_bytes: int) -> list[str]:
    words = [word for name in KERNEL_SETTINGS for word in ("--ro-bind-try", f"/proc/{name}", f"/proc/{name}")]
    words += ["--dev", "/dev", "--remount-ro", "/dev"]
    # Locks of multiprocessing lie there.
    return [*words, "--perms", "1777", "--size", str(scratch_bytes), "--tmpfs", "/dev/shm"]  # noqa: S108  the sandbox's own, empty


@contextlib.contextmanager
def filter_file(words: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """For one start of these words: the open file that takes the place of `FILTER` in them and has to be passed on, if there is one."""
    if FILTER not in words:
        yield ()
        return
    with open(os.memfd_create("filter"), "w+b") as file:
        # Sockets of the internet, since the only network is the command's own loopback.
        file.write(system_call_filter((socket.AF_UNIX, socket.AF_INET, socket.AF_INET6), own_only=False))
        file.seek(0)
        yield (file.fileno(),)
