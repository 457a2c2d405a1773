"""Warm processes that run Python programs, each in a fresh fork with limits. What contains a program is up to the command."""

import contextlib
import json
import math
import os
import queue
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from .kill_trees import end_tree

# The words that start a server on the socket of the given number, and the folder on this machine that is to go with it, if any.
Command = Callable[[int], tuple[list[str], str | None]]
GRACE_S = 0.75
SAID_BYTES, SAID_PIECE, SAID_PIECES = 2000, 1 << 16, 16
START_S = 60.0
MOST_S, MOST = 1_000_000, 1 << 60  # what the kernel can count


@dataclass(frozen=True)
class Limits:
    """
    What a program may use.

    Args:
        timeout_s: wall-clock time, 11 days at most; a CPU limit stands beside it.
        memory_bytes: address space of each of its processes.
        output_bytes: size of each file it writes, standard output included; of standard error the last words are kept.
        processes: processes and threads, the first one included.
    """

    timeout_s: float = 6.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 64 << 10
    processes: int = 32

    def __post_init__(self):
        for name, value in vars(self).items():
            kinds, most = (int | float, MOST_S) if name == "timeout_s" else (int, MOST)
            if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value <= most:
                number = "number" if name == "timeout_s" else "int"
                raise ValueError(f"`{name}` of Limits must be a positive {number} up to {most}, not {value!r:.50}.")


@dataclass(frozen=True)
class Result:
    """
    What a program did.

    Args:
        status: "ok" (it ended by itself with exit code 0: no proof that it did its work), "runtime_error", "timeout", "memory",
            "output_limit", or "infra": the program could not be run, which says nothing about it.
        stdout: its standard output, undecodable bytes replaced.
        stderr: its last words, or why it could not be run.
        duration_s: from its start until all its processes were gone.
    """

    status: str
    stdout: str = ""
    stderr: str = ""
    duration_s: float = 0.0


class ServerLost(RuntimeError):
    """A server process could not be started, or ended without an answer."""


class _Server:
    """One process of `program_server.py` and the socket to it. Once it has ended, `left` gets the folder that went with it."""

    def __init__(self, command: Command, environment: dict[str, str], left: list[str]):
        self.clean = True
        with contextlib.ExitStack() as undo:
            try:
                self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                undo.callback(self.channel.close)
                with theirs:
                    words, folder = command(theirs.fileno())
                    if folder is not None:
                        undo.callback(left.append, folder)
                    stderr = os.memfd_create("stderr")
                    undo.callback(os.close, stderr)
                    self.process = subprocess.Popen(  # noqa: S603  our server, in a sandbox or not as was asked
                        words,
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=stderr,
                        start_new_session=True,
                        env=environment,
                    )
            except OSError as error:
                raise ServerLost(f"a program server could not be started: {error}") from error
            undo.callback(self._end)
            self.channel.settimeout(START_S)
            try:
                ready = self.channel.recv(16)
            except OSError:
                ready = b""
            self.rooms = ready == b"ready, rooms"
            if not ready.startswith(b"ready"):
                self.channel.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(1)
                said = os.pread(stderr, 2000, 0).decode(errors="replace").strip()
                raise ServerLost(f"{words[0]} did not start a program server: {said or 'it said nothing'}")
            self._undo = undo.pop_all()

    def run(self, source: bytes, stdin: bytes, limits: Limits, call: bool) -> Result:
        """TimeoutError if no answer comes in time, ServerLost if none will; the server is of no use afterwards."""
        files: list[int] = []
        try:
            for name, content in (("source", source), ("stdin", stdin), ("stdout", b"")):
                files.append(os.memfd_create(name))
                _write(files[-1], content)
            # No file: a limit of output is one of answers, not of debugging.
            stderr, theirs = os.pipe()
            files.append(stderr)
            request = {"timeout_s": limits.timeout_s, "rlimits": _rlimits(limits), "call": call}
            try:
                self.channel.settimeout(limits.timeout_s + GRACE_S)
                socket.send_fds(self.channel, [json.dumps(request).encode()], [*files[:3], theirs])
            finally:
                os.close(theirs)
            reply, said = self._hear(stderr, limits.timeout_s + GRACE_S)
            if not reply:
                raise ServerLost("the program server ended while it ran a program.")
            answer = json.loads(reply)
            self.clean = answer["clean"]
            out = os.pread(files[2], min(limits.output_bytes, os.fstat(files[2]).st_size), 0).decode(errors="replace")
            if not answer["entered"]:
                over = answer["how"] == "timeout" and f"its {limits.timeout_s:g} s were over before it began"
                raise ServerLost(f"the program server could not start the program: {over or said}")
            return Result(_status(answer, said), out, said, answer["duration_s"])
        except TimeoutError:
            raise
        except OSError as error:
            raise ServerLost(f"the program could not be handed to its server: {error}") from error
        finally:
            for file in files:
                os.close(file)

    def _hear(self, stderr: int, timeout_s: float) -> tuple[bytes, str]:
        """The server's reply, and the last of what the program says meanwhile. TimeoutError if none comes in time."""
        os.set_blocking(stderr, False)
        deadline = time.monotonic() + timeout_s
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        poll.register(stderr, select.POLLIN)
        said, reply = b"", None
        while reply is None:
            ready = [file for file, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
            if not ready or (self.channel.fileno() not in ready and time.monotonic() > deadline):
                raise TimeoutError  # also if the program never stops talking
            if self.channel.fileno() in ready:
                reply = self.channel.recv(1 << 16)
            for _ in range(SAID_PIECES) if stderr in ready or reply is not None else ():
                try:
                    piece = os.read(stderr, SAID_PIECE)
                except BlockingIOError:  # nothing more for now
                    break
                if not piece:  # nobody is left to say anything
                    if reply is None:
                        poll.unregister(stderr)
                    break
                said = (said + piece)[-SAID_BYTES:]
        return reply, said.decode(errors="replace")

    def close(self):
        """Ends the process and all it has started."""
        self._undo.close()

    def _end(self):
        """The server ends itself and all it has started once its channel closes; by force if it does not."""
        self.channel.close()
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            end_tree(self.process.pid)
            self.process.wait()


def _remove(folder: str):
    if os.path.exists(folder):  # the server could not; nor can rmtree, if the trees in it are thousands deep
        subprocess.run(["chmod", "-R", "u+rwX", folder], check=False, stderr=subprocess.DEVNULL)  # noqa: S603, S607  the system's own, on a folder of mkdtemp's
        subprocess.run(["rm", "-rf", folder], check=False)  # noqa: S603, S607  as above


def _write(file: int, content: bytes):
    written = 0
    while written < len(content):
        written += os.pwrite(file, content[written:], written)


def _rlimits(limits: Limits) -> dict[str, int]:
    return {
        "CPU": math.ceil(limits.timeout_s) + 1,
        "AS": limits.memory_bytes,
        "FSIZE": limits.output_bytes,
        "NPROC": limits.processes,
        "NOFILE": 64,
        "CORE": 0,
        "MSGQUEUE": 0,
    }


def _status(answer: dict, said: str) -> str:
    if answer["how"] == "timeout" or answer["status"] == -signal.SIGXCPU:
        return "timeout"
    if answer["status"] == -signal.SIGXFSZ:
        return "output_limit"
    if answer["status"] == 0:
        return "ok"
    if answer["status"] == -signal.SIGKILL or said.rstrip().rpartition("\n")[2].startswith("MemoryError"):
        return "memory"
    return "runtime_error"


class ProgramPool:
    """
    Args:
        command: what starts a server (see `Command`).
        workers: programs that run at once.
        environment: of the servers.
    """

    def __init__(self, command: Command, workers: int, environment: dict[str, str]):
        if workers < 1:
            raise ValueError(f"`workers` must be at least 1, not {workers!r}.")
        self.command, self.workers, self.environment = command, workers, environment
        self._pid = 0
        self._lock = threading.Lock()

    def _own(self):
        """A fork shares neither servers nor threads."""
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            self._slots: queue.LifoQueue[_Server | None] = queue.LifoQueue()
            for _ in range(self.workers):
                self._slots.put(None)
            self._left: list[str] = []
            self._closing = threading.Lock()
            self._starter = _starter()

    def _start(self) -> _Server:
        try:
            starting = self._starter.submit(_Server, self.command, self.environment, self._left)
        except RuntimeError as error:  # the main thread has ended, and executors with it
            raise ServerLost(f"no program server is started any more: {error}") from error
        try:
            return starting.result()
        except BaseException:  # an interrupt, after which nobody would close it
            starting.add_done_callback(lambda done: done.exception() or done.result().close())
            raise

    def check(self) -> bool:
        """Starts a server if none is warm; whether it gives each program a room of its own. ServerLost if it can't be started."""
        self._own()
        server = self._slots.get()
        try:
            server = server or self._start()
            return server.rooms
        finally:
            self._slots.put(server)

    def run(self, source: str | bytes, stdin: str | bytes, limits: Limits, call: bool = False) -> Result:
        """Runs one program, when a worker is free. Never raises because of what the program does."""
        source = source.encode(errors="surrogatepass") if isinstance(source, str) else source
        stdin = stdin.encode(errors="surrogatepass") if isinstance(stdin, str) else stdin
        self._own()
        server, result = self._slots.get(), Result("infra")
        try:
            for _ in range(2):  # a server may have been lost through no fault of this program
                try:
                    server = server or self._start()
                    result = server.run(source, stdin, limits, call)
                except TimeoutError:
                    result = Result("timeout", duration_s=limits.timeout_s + GRACE_S)
                except ServerLost as lost:
                    result = Result("infra", stderr=str(lost))
                else:
                    if server.clean:
                        return result
                if server is not None:
                    server.close()
                server = None
                if result.status != "infra":
                    break
        except BaseException:  # an interrupt: the server's answer would be taken for that of the next program
            if server is not None:
                server.close()
            server = None
            raise
        finally:
            self._slots.put(server)
        return result

    def close(self):
        """Ends all servers, each when its program has ended, and removes their folders; the next program starts new ones."""
        if self._pid != os.getpid():
            return
        taken = 0
        with self._closing:  # two at once would wait for each other's servers
            try:
                while taken < self.workers:
                    server = self._slots.get()
                    taken += 1
                    if server is not None:
                        server.close()
                self._starter.shutdown()
                self._starter = _starter()
                while self._left:
                    _remove(self._left.pop())
            finally:
                for _ in range(taken):
                    self._slots.put(None)


def _starter() -> ThreadPoolExecutor:
    """Servers die with the thread that started them (PR_SET_PDEATHSIG), so one that stays starts them all."""
    return ThreadPoolExecutor(1, "mimo-program-starter")
