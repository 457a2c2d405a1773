"""Where a model's programs run: bubblewrap, or a restricted subprocess that is no security boundary."""

import atexit
import functools
import itertools
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import program_server
from .notices import warn_once
from .program_pool import Limits, ProgramPool, Result, ServerLost

BACKENDS = ("auto", "bwrap", "subprocess")
SCRATCH_BYTES = 16 << 20
SERVER = str(Path(program_server.__file__).resolve())
FLAGS = ("-I", "-S", "-B", "-X", "utf8")
SYSTEM_PYTHON = "/usr/bin/python3"
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
NAMESPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
# What a root server keeps: to become another user, to end that user's processes and to remove its files.
CAPABILITIES = ("SETUID", "SETGID", "KILL", "DAC_OVERRIDE", "FOWNER")
# Root is exempt from RLIMIT_NPROC and may read everything, so its programs run as users that nobody is: one a server,
# since the limit counts a user's processes wherever they are. A process that has servers takes a block of them for itself.
FIRST_UID, BLOCKS, BLOCK = 61184, 64, 64
_COUNTER = itertools.count()
_CLAIMS: list[socket.socket] = []


@dataclass(frozen=True)
class Interpreter:
    """A Python's executable and the folder of its standard library, without symbolic links."""

    executable: str
    library: str

    @classmethod
    def at(cls, path: str) -> "Interpreter":
        code = "import os, sys; print(os.path.realpath(sys.executable)); print(os.path.realpath(os.path.dirname(os.__file__)))"
        try:
            said = subprocess.run([path, "-I", "-S", "-c", code], capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise OSError(f"`python={path!r}` is no Python that runs: {error}") from error
        return cls(*said.splitlines())

    def is_open(self) -> bool:
        """Whether every user may run and read it."""
        modes = [(path, os.stat(path).st_mode) for path in (self.executable, self.library)]
        parents = {parent for path, _ in modes for parent in Path(path).parents}
        return all(mode & stat.S_IROTH and mode & stat.S_IXOTH for _, mode in modes) and all(
            os.stat(parent).st_mode & stat.S_IXOTH for parent in parents
        )


class Sandbox:
    """
    Runs Python programs that need only the standard library, each as a process of its own with an empty environment, an empty
    working folder and limits; afterwards nothing of it is left. It pickles (without its processes) and may be used by any
    thread.

    Args:
        backend: "bwrap" (no network, no files but the interpreter's, no other processes), "subprocess" (limits only: network and
            readable files are open to the programs), or "auto": bwrap where it works, else subprocess with a warning.
        workers: programs that run at once, each on a warm process.
        limits: of each program; `run` can replace them.
        python: interpreter of the programs; None: this one (for root's subprocess, /usr/bin/python3 if this one is root's alone).
    """

    def __init__(
        self, backend: str = "auto", workers: int = 2, limits: Limits | None = None, python: str | None = None
    ):
        if backend not in BACKENDS:
            raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}, not {backend!r}.")
        if workers < 1:
            raise ValueError(f"`workers` must be at least 1, not {workers!r}.")
        self.backend, self.workers, self.python = backend, workers, python
        self.limits = limits or Limits()
        self._pool: ProgramPool | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"backend": self.backend, "workers": self.workers, "limits": self.limits, "python": self.python}

    def __setstate__(self, state: dict[str, Any]):
        self.__init__(**state)  # type: ignore[misc]

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: Any):
        self.close()

    def __repr__(self) -> str:
        return f"Sandbox(backend={self.backend!r}, workers={self.workers})"

    def run(
        self, source: str | bytes, stdin: str | bytes = "", limits: Limits | None = None, call: bool = False
    ) -> Result:
        """
        Runs one program when a worker is free; whatever it does, this returns.

        Args:
            source: of the program, run as `__main__`.
            stdin: its standard input.
            call: after the source, call a function of it: `stdin` is then a JSON of `function` ("f" or "Class.method"), `arguments`
                and `nonce`, and the last line of the output is the nonce and the value as JSON.

        Raises:
            OSError: before any program has run, if this machine has no such sandbox.
        """
        return self._ready().run(source, stdin, limits or self.limits, call)

    def is_boundary(self) -> bool:
        """Whether programs are kept from the network, files and processes of this machine."""
        self._ready()
        return self.backend == "bwrap"

    def close(self):
        """Ends all processes, each when its program has ended, and removes their folders; the next program starts anew."""
        if self._pool is not None:
            self._pool.close()

    def _ready(self) -> ProgramPool:
        with self._lock:
            if self._pool is None:
                self._pool = self._open()
            return self._pool

    def _open(self) -> ProgramPool:
        if sys.platform != "linux":
            raise OSError(f"Programs can be run on Linux only, not on {sys.platform}: use a container.")
        problem = ""
        if self.backend != "subprocess":
            try:
                pool = self._bubblewrap()
                self.backend = "bwrap"
                return pool
            except OSError as error:
                if self.backend == "bwrap":
                    raise
                problem = str(error)
        pool = self._subprocess()
        pool.check()
        if self.backend == "auto":
            warn_once(
                f"{problem} Programs run in a restricted subprocess instead: that is NO SECURITY BOUNDARY. They can use the "
                "network and read what their user can read. Install bubblewrap, or run in a container."
            )
        self.backend = "subprocess"
        return pool

    def _bubblewrap(self) -> ProgramPool:
        path = shutil.which("bwrap")
        if path is None:
            raise FileNotFoundError("The program bwrap (package bubblewrap) is not installed.")
        interpreter = Interpreter.at(self.python or sys.executable)
        # An empty environment for bwrap itself: /proc/1/environ shows what it was started with, whatever --clearenv does.
        pool = ProgramPool(functools.partial(bubblewrap_command, path, interpreter), self.workers, {})
        try:
            pool.check()
        except ServerLost as error:
            pool.close()
            raise OSError(f"bubblewrap does not work here: {error}.") from error
        return pool

    def _subprocess(self) -> ProgramPool:
        interpreter = Interpreter.at(self.python or sys.executable)
        if os.getuid() == 0 and not interpreter.is_open():
            fallback = Interpreter.at(SYSTEM_PYTHON) if os.path.exists(SYSTEM_PYTHON) else interpreter
            if self.python is not None or not fallback.is_open():
                raise PermissionError(
                    f"root's programs run as another user, which can't read {interpreter.executable}: pass `python=`, the path of "
                    "an interpreter that all users can read, or don't run as root."
                )
            interpreter = fallback
        return ProgramPool(functools.partial(subprocess_command, interpreter), self.workers, {})


def subprocess_command(interpreter: Interpreter, channel: int) -> tuple[list[str], str]:
    """A server in this machine's own namespaces, with a folder for its programs."""
    folder, uid = tempfile.mkdtemp(prefix="mimo-program-"), program_uid()
    if uid != program_server.NO_UID:
        os.chown(folder, uid, uid)
    return [interpreter.executable, *FLAGS, SERVER, str(channel), folder, str(uid)], folder


def program_uid() -> int:
    """The user of a new server's programs."""
    if os.getuid() != 0:
        return program_server.NO_UID
    return FIRST_UID + _block(os.getpid()) * BLOCK + next(_COUNTER) % BLOCK


@functools.cache
def _block(pid: int) -> int:
    """A block of users that no other living process of this machine has: the name of a socket is a claim that ends with its owner."""
    for number in ((pid + step) % BLOCKS for step in range(BLOCKS)):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0mimo-hf-program-users-{number}")
        except OSError:
            claim.close()
            continue
        _CLAIMS.append(claim)
        return number
    raise OSError(
        f"all {BLOCKS} blocks of users for sandboxed programs are taken: {BLOCKS} processes of this machine have a sandbox as root. "
        "Close one, or run as an ordinary user."
    )


def bubblewrap_command(path: str, interpreter: Interpreter, channel: int) -> tuple[list[str], None]:
    """bwrap and a server as the first process of its namespaces: no signal from inside can end it."""
    words = [path, "--die-with-parent", "--new-session", "--as-pid-1", *NAMESPACES, "--hostname", "sandbox"]
    words += ["--cap-drop", "ALL"]
    if os.getuid() == 0:
        words += [word for name in CAPABILITIES for word in ("--cap-add", f"CAP_{name}")]
    else:
        words += ["--unshare-user"]
    shown = [*LIBRARIES, str(Path(interpreter.library).parent), interpreter.executable]
    parents = {parent for source in shown for parent in Path(source).parents if parent != Path("/")}
    for parent in sorted(parents, key=lambda parent: len(parent.parts)):
        words += ["--perms", "755", "--dir", str(parent)]  # made by a bind, root's programs could not pass them
    for source in shown:
        words += ["--ro-bind-try", source, source]
    words += ["--ro-bind", SERVER, "/program_server.py", "--proc", "/proc", "--dev", "/dev"]
    words += ["--perms", "1777", "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp"]
    words += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--"]
    words += [interpreter.executable, *FLAGS, "/program_server.py", str(channel), "/tmp", str(program_uid())]
    return words, None


@functools.cache
def shared_sandbox() -> Sandbox:
    """The sandbox of rewards that were given none."""
    sandbox = Sandbox()
    atexit.register(sandbox.close)
    return sandbox
