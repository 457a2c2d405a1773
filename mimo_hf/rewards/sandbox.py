"""Where a model's programs run: bubblewrap, or a restricted subprocess that is no security boundary."""

import atexit
import ctypes
import functools
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from ..processes import program_server
from ..processes.bubblewrap import REMEDY, bubblewrap
from ..processes.interpreter import Interpreter
from ..processes.program_pool import Limits, ProgramPool, Result, ServerLost
from ..processes.system_calls import system_call_filter
from ..processes.users import program_uid
from .notices import warn_once

BACKENDS = ("auto", "bwrap", "subprocess")
SERVER = str(Path(program_server.__file__).resolve())
FLAGS = ("-I", "-S", "-B", "-X", "utf8")
SYSTEM_PYTHON = "/usr/bin/python3"
# What a server keeps: to give each program namespaces of its own; and root's, to become another user.
CAPABILITIES, ROOTS_CAPABILITIES = ("SYS_ADMIN",), ("SETUID", "SETGID", "KILL")


class Sandbox:
    """
    Runs Python programs that need only the standard library, each as a process of its own with an empty environment, an empty
    working folder and limits; afterwards nothing of it is left. It pickles (without its processes) and may be used by any
    thread.

    Args:
        backend: "bwrap" (no network, no files but the interpreter's, no other processes), or "subprocess", which is no security
            boundary: the programs can read what their user can read, and more where the kernel gives them no namespaces (see
            README.md). "auto" is bwrap; where that does not work it asks for a word, which is `backend="subprocess"`.
        workers: programs that run at once, each on a warm process.
        limits: of each program; `run` can replace them.
        python: interpreter of the programs; None: this one (for root's subprocess, /usr/bin/python3 if this one is root's alone).
    """

    def __init__(
        self, backend: str = "auto", workers: int = 2, limits: Limits | None = None, python: str | None = None
    ):
        if backend not in BACKENDS:
            raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}, not {backend!r}.")
        if not isinstance(workers, int) or workers < 1:
            raise ValueError(f"`workers` must be a whole number from 1, not {workers!r}.")
        if not isinstance(limits, Limits | None):
            raise TypeError(f"`limits` must be Limits, such as Limits(timeout_s=10), not {limits!r:.100}.")
        self.backend, self.workers, self.python = backend, workers, python
        self.limits = limits or Limits()
        self._room = "try"  # of programs in a subprocess: see program_server.py
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
        system_call_filter()  # an OSError that says what is missing
        interpreter = Interpreter.at(
            shutil.which(self.python) or self.python if self.python is not None else sys.executable
        )
        if self.backend == "subprocess":
            return self._subprocess(interpreter)
        try:
            pool = self._bubblewrap(interpreter)
        except OSError as error:
            if self.backend == "bwrap":
                raise
            raise OSError(
                f"{error} Without it nothing keeps a model's programs from this machine's files: install bubblewrap (apt-get install "
                'bubblewrap) or run in a container, and if you take that risk say so: `backend="subprocess"` of Sandbox, or '
                '`sandbox="subprocess"` of CodeRewardOptions.'
            ) from error
        self.backend = "bwrap"
        return pool

    def _bubblewrap(self, interpreter: Interpreter) -> ProgramPool:
        path = shutil.which("bwrap")
        if path is None:
            raise FileNotFoundError("The program bwrap (package bubblewrap) is not installed.")
        # An empty environment for bwrap itself: /proc/1/environ shows what it was started with, whatever --clearenv does.
        pool = ProgramPool(functools.partial(bubblewrap_command, path, interpreter), self.workers, {})
        try:
            pool.check()
        except ServerLost as error:
            pool.close()
            raise OSError(f"bubblewrap does not work here: {error}. To use it, {REMEDY}.") from error
        return pool

    def _subprocess(self, interpreter: Interpreter) -> ProgramPool:
        other = ""
        if os.getuid() == 0 and not interpreter.is_open():
            fallback = Interpreter.at(SYSTEM_PYTHON) if os.path.exists(SYSTEM_PYTHON) else interpreter
            if self.python is not None or not fallback.is_open():
                raise PermissionError(
                    f"root's programs run as another user, which can't read {interpreter.executable}: pass `python=`, the path of "
                    "an interpreter that all users can read, or don't run as root."
                )
            other = f"Their Python is {fallback.executable}, since {interpreter.executable} is root's alone. "
            interpreter = fallback
        pool = ProgramPool(functools.partial(subprocess_command, interpreter, self._room), self.workers, {})
        try:
            rooms = pool.check()
        except ServerLost as error:
            pool.close()
            raise OSError(f"programs can't be run here: {error}") from error
        warn_once(
            "Programs run in a restricted subprocess: that is NO SECURITY BOUNDARY. They can read what their user can read. "
            + ("" if rooms else _WITHOUT_ROOMS)
            + other
            + "For a boundary install bubblewrap (apt-get install bubblewrap)."
        )
        if not rooms and os.getuid() != 0:  # else a program reads the expected outputs in this process's memory
            ctypes.CDLL(None).prctl(program_server.PR_SET_DUMPABLE, 0)
        return pool


_WITHOUT_ROOMS = "This machine gives them no namespaces: they also see this machine's processes, and what they write into shared folders may stay. "


def subprocess_command(interpreter: Interpreter, room: str, channel: int) -> tuple[list[str], str]:
    """A server with namespaces of its own where the kernel lets it, and a folder for its programs where not."""
    folder, uid = tempfile.mkdtemp(prefix="mimo-program-"), program_uid()
    if uid != program_server.NO_UID:
        os.chown(folder, uid, uid)
    return [interpreter.executable, *FLAGS, SERVER, *_arguments(channel, folder, uid, room)], folder


def bubblewrap_command(path: str, interpreter: Interpreter, channel: int) -> tuple[list[str], None]:
    """bwrap and a server as the first process of its namespaces: no signal from inside can end it."""
    uid = program_uid()
    root = os.getuid() == 0
    words = bubblewrap(
        path,
        interpreter.files(),
        program_server.SCRATCH_BYTES,
        hidden=interpreter.foreign(),
        placed=[(SERVER, "/program_server.py")],
        user=None if root else os.getuid(),
        bare=True,
        capabilities=[*CAPABILITIES, *(ROOTS_CAPABILITIES if root else ())],
    )
    words[1:1] = ["--as-pid-1"]
    arguments = _arguments(channel, program_server.SCRATCH, uid, "inside")
    return [*words, interpreter.executable, *FLAGS, "/program_server.py", *arguments], None


def _arguments(channel: int, folder: str, uid: int, room: str) -> list[str]:
    return [str(channel), folder, str(uid), room, system_call_filter().hex()]


@functools.cache
def shared_sandbox() -> Sandbox:
    """The sandbox of rewards that were given none."""
    sandbox = Sandbox()
    atexit.register(sandbox.close)
    return sandbox
