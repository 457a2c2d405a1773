"""
A warm process that runs one action after another: `python -m mimo_hf.scheduler.executors.worker FD PARENT`.

Requests and answers are length-prefixed pickles over the socket FD. It leads a session, dies with its parent, and adopts
what its actions leave behind, so that nothing they start outlives it unseen.
"""

import asyncio
import contextlib
import ctypes
import inspect
import os
import pickle
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from ...processes.bubblewrap import filter_file
from ...processes.kill_trees import children
from ..core.types import Command, CommandResult
from .cpu import pin, thread_variables
from .limits import process_words
from .output import collect

LENGTH = struct.Struct("!Q")
MOST_BYTES = 1 << 40  # what does not speak our language announces more
LINGER_S = 0.02
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
KEPT_VARIABLES = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "MIMO_WORKER_TAG",
    "CUDA_VISIBLE_DEVICES",
)


# Containers limit memory, not address space, and count processes themselves.
CONTAINER_LIMITS = {"AS": "--memory", "NPROC": "--pids-limit"}


def read_message(channel: socket.socket) -> bytes | None:
    """The next message; None once the other side is gone."""
    header = _read(channel, LENGTH.size)
    return None if header is None else _read(channel, length(header))


def length(header: bytes) -> int:
    """Of the message that follows; ConnectionError where the other side can't mean it."""
    (size,) = LENGTH.unpack(header)
    if size > MOST_BYTES:
        raise ConnectionError(f"a message of {size} bytes was announced; at most {MOST_BYTES} are taken.")
    return size


def _read(channel: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = channel.recv(min(1 << 20, size - len(parts)))
        if not part:
            return None
        parts += part
    return bytes(parts)


def write_message(channel: socket.socket, message: bytes):
    channel.sendall(LENGTH.pack(len(message)) + message)


def die_with_parent():
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def left_behind() -> list[int]:
    """Processes of an action that is over. Those that have ended are reaped, those about to (a sandbox's own) have a moment."""
    deadline = time.monotonic() + LINGER_S
    while left := children(os.getpid()):
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        left = children(os.getpid())
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(LINGER_S / 20)
    return []


def clean_folder() -> str:
    """This worker's folder, empty. It is made anew only if the last command left something: that takes milliseconds."""
    folder = os.environ.get("MIMO_WORKER_FOLDER") or tempfile.mkdtemp(prefix="mimo-action-")
    os.environ["MIMO_WORKER_FOLDER"] = folder
    if not os.path.isdir(folder) or os.listdir(folder):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder, mode=0o700, exist_ok=True)
    return folder


def wrapper(
    prefix: tuple[str, ...],
    folder: str,
    cores: int,
    variables: Mapping[str, str],
    limits: Mapping[str, int],
    filter_number: int = -1,
) -> list[str]:
    """The words of a sandbox; those of containers say which variables and limits to pass on."""
    words: list[str] = []
    tag = os.environ.get("MIMO_WORKER_TAG", "")
    for part in prefix:
        if part == "{env}":
            words += [word for name in variables for word in ("--env", name)]
        elif part == "{limits}":
            words += [f"{CONTAINER_LIMITS.get(name, f'--ulimit={name.lower()}')}={n}" for name, n in limits.items()]
        else:
            words.append(part.format(cwd=folder, cores=cores, tag=tag, filter=filter_number))
    return words


def run_command(command: Command, prefix: tuple[str, ...], cores: int, counted: bool = False) -> CommandResult:
    """
    Runs the program in an empty folder with few variables, its rlimits and no core dump.

    Args:
        counted: the sandbox counts processes (see `limits.counts_by_default`).
    """
    folder = command.cwd or clean_folder()
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    given = {**thread_variables(cores), **command.env}
    inside = process_words(prefix, counted, command.limits)
    limits = [
        (getattr(resource, f"RLIMIT_{name}"), value)
        for name, value in command.limits.items()
        if not (inside and name == "NPROC")
    ]

    def prepare():
        for limit, value in limits:
            _, hard = resource.getrlimit(limit)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))

    with contextlib.ExitStack() as stack:
        files = stack.enter_context(filter_file(prefix))
        filter_number = files[0] if files else -1
        process = subprocess.Popen(  # noqa: S603  to run the caller's command is what this is for
            [*wrapper(prefix, folder, cores, given, command.limits, filter_number), *inside, *command.argv],
            stdin=subprocess.DEVNULL if command.stdin is None else _fed(command.stdin, stack),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=files,
            cwd=folder,
            env={**kept, "HOME": folder, **given},
            preexec_fn=prepare if limits and "{limits}" not in prefix else None,  # noqa: PLW1509  one thread here; slow, so only where needed
        )
        stack.enter_context(process.stdout)  # type: ignore[arg-type]
        stack.enter_context(process.stderr)  # type: ignore[arg-type]
        out, error = collect(process, command.output_bytes)
        process.wait()
    result = CommandResult(process.returncode, out.text(), error.text(), out.dropped, error.dropped)
    if command.check and result.returncode:
        raise subprocess.CalledProcessError(result.returncode, command.argv, result.stdout, result.stderr)
    return result


def _fed(stdin: bytes | str, stack: contextlib.ExitStack) -> Any:
    """A file with this content: nobody has to write while the command runs."""
    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  the stack closes it
    file.write(stdin.encode() if isinstance(stdin, str) else stdin)
    file.seek(0)
    return file


def perform(request: dict[str, Any]) -> Any:
    if "main" in request:
        from multiprocessing import spawn

        spawn.prepare(request["main"])  # functions of the caller's script
    fn = pickle.loads(request["payload"])  # noqa: S301  the caller's own code
    if isinstance(fn, Command):
        return run_command(fn, request["prefix"], request["count"], request["counted"])
    value = fn()
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def answer(request: dict[str, Any]) -> bytes:
    """(whether it returned, its value or exception, processes it left, seconds it took), pickled, the value on its own."""
    begin = time.perf_counter()
    good = True
    try:
        body = pickle.dumps(perform(request))
    except BaseException as error:  # noqa: BLE001  SystemExit of an action must not end the worker unseen
        good, body = False, _pickled_error(error)
    exec_s = time.perf_counter() - begin
    return pickle.dumps((good, body, left_behind(), exec_s))


def _pickled_error(error: BaseException) -> bytes:
    """As it is if a future can carry it and its pickle can be read, else its description."""
    try:
        if not isinstance(error, Exception) or isinstance(error, StopIteration):
            raise TypeError("futures cannot carry it")
        if hasattr(error, "add_note"):  # from Python 3.11
            error.add_note(f"in worker {os.getpid()}")
        body = pickle.dumps(error)
        pickle.loads(body)  # noqa: S301  dumped in the line above
        return body
    except Exception:  # noqa: BLE001  pickle raises whatever it likes
        return pickle.dumps(RuntimeError(f"the action raised {type(error).__name__}: {error}"))


def serve(channel: socket.socket):
    everywhere = tuple(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else ()
    write_message(channel, b"ready")
    while True:
        message = read_message(channel)
        if message is None:
            return
        request = pickle.loads(message)  # noqa: S301  from the executor, over a socket pair
        os.environ.update(thread_variables(request["count"]))
        if request["gpus"] is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = request["gpus"]
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(
                max(1, request["count"])
            )  # it read the variables when it was imported
        if request["pin"]:
            pin(request["pin"])
        reply = answer(request)
        if request["pin"]:
            pin(everywhere)
        write_message(channel, reply)


def main():
    die_with_parent()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != int(sys.argv[2]):
        return  # the parent died before we could ask to die with it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
