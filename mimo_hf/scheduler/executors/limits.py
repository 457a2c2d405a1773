"""How many processes a command may start: where the kernel counts them, and for whom it does not."""

import functools
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

from ...processes.bubblewrap import filter_file
from ..core.types import PROCESSES

CONTAINERS = (("docker",), ("podman",))
COUNTED_BY_NAMESPACE = (5, 14)  # the first kernel that counts a user's processes in each user namespace on its own


@functools.cache
def limits_processes(prefix: tuple[str, ...]) -> bool:
    """Whether RLIMIT_NPROC holds behind these words, by trying: root is exempt from it, also in a namespace that root has made."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: S103  it is empty, and the sandbox's nobody has to enter it
        held, free = (
            _starts([*prefix, *_prlimit(count), "sh", "-c", "(true); true"], folder) for count in (1, PROCESSES)
        )
    return free and not held


def _starts(words: Sequence[str], folder: str) -> bool:
    with filter_file(words) as files:
        command = [word.format(cwd=folder, filter=files and files[0]) for word in words]
        run = subprocess.run(command, capture_output=True, check=False, cwd=folder, pass_fds=files)  # noqa: S603  our sandbox's words around a fixed command
    return run.returncode == 0


def counts_by_default(prefix: tuple[str, ...]) -> bool:
    """
    Whether commands get `PROCESSES` without being asked: only in a namespace of their own, where nobody else counts.

    Raises:
        FileNotFoundError: the program that sets the limit inside is not installed.
    """
    if "bwrap" not in map(os.path.basename, prefix):
        return False
    if shutil.which("prlimit") is None:
        raise FileNotFoundError(
            "sandbox 'bwrap' needs the program 'prlimit' (package util-linux), which is not installed."
        )
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    namespaced = release is not None and tuple(map(int, release.groups())) >= COUNTED_BY_NAMESPACE
    return namespaced and limits_processes(prefix)


def process_words(prefix: tuple[str, ...], counted: bool, limits: Mapping[str, int]) -> tuple[str, ...]:
    """
    The words between a sandbox's and the command's own that bound its processes. The limit must be set inside: outside, it would
    count the processes of the user on the whole machine.

    Args:
        counted: as `counts_by_default` says.

    Raises:
        ValueError: NPROC was asked for, and the kernel would not heed it.
    """
    asked = limits.get("NPROC")
    if prefix[:1] in CONTAINERS or (asked is None and not counted):
        return ()
    if asked is not None and not counted and not limits_processes(prefix):
        raise ValueError(
            f"`limits` of Command must leave NPROC out here; got NPROC={asked}, and the kernel does not count "
            "root's processes. Run the scheduler as an ordinary user, or choose sandbox='docker:IMAGE'."
        )
    return _prlimit(PROCESSES if asked is None else asked) if prefix else ()


def _prlimit(count: int) -> tuple[str, ...]:
    return ("prlimit", f"--nproc={count}:{count}", "--")
