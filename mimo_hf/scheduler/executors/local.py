"""Runs actions in warm processes of this machine. Isolation is not security: see `sandbox`."""

import asyncio
import contextlib
import itertools
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from ...processes.bubblewrap import REMEDY, bubblewrap, filter_file
from ...processes.kill_trees import send
from ..core.book import Node
from ..core.numbers import MOST_UNITS, is_whole, shown
from ..core.resources import Cores, GpuCells
from ..errors import ActionTimeout, NotStarted, WorkerLost
from .cpu import CpuGroup, cgroup2_parent, enforcement, numa_nodes
from .guard import tagged
from .limits import counts_by_default
from .worker import LENGTH, length

_NAMES = itertools.count()

IMAGE = re.compile(
    r"[a-zA-Z0-9][\w.-]*(:\d+)?(/[a-z0-9][\w.-]*)*(:[\w][\w.-]{0,127})?(@[a-z0-9+.]+:[0-9a-fA-F]{32,})?"
)
NOBODY = 65534
SCRATCH_BYTES = 1 << 30
SHOWN = ("/usr", "/bin", "/lib", "/lib64", "/etc/alternatives")
SANDBOXES: dict[str, tuple[str, ...]] = {
    "none": (),
    # An id of its own also where root calls: the kernel's settings belong to root.
    "bwrap": tuple(bubblewrap("bwrap", SHOWN, SCRATCH_BYTES, writable="{cwd}", user=NOBODY, filtered=True)),
}


def sandbox(spec: str) -> tuple[str, ...]:
    """
    The words in front of a command's own: "none", "bwrap" (no network, nothing but /usr and its own folder, no capability, an id of
    nobody's, 1 GiB each of /tmp and /dev/shm, a filter of system calls), or "docker:IMAGE"/"podman:IMAGE" (a container for each command, without capabilities).

    Raises:
        ValueError: there is no such sandbox.
        FileNotFoundError: its program is not installed.
        OSError: bubblewrap can't make its namespaces on this machine.
    """
    kind, _, image = spec.partition(":")
    if kind in ("docker", "podman") and image:
        if not IMAGE.fullmatch(image):  # an option of docker's would pass for one
            raise ValueError(
                f"`sandbox` must name an image such as python:3.12 or host:5000/team/image@sha256:...; got {image!r} "
                f"in {spec!r}."
            )
        words: tuple[str, ...] = (
            kind, "run", "--rm", "-i", "--init", "--name=mimo-{tag}", "--network=none", "--cap-drop=ALL",
            "--security-opt=no-new-privileges", "--pids-limit=4096", "--cpus={cores}", "{env}", "{limits}",
            "-v", "{cwd}:{cwd}", "-w", "{cwd}", image,
        )  # fmt: skip
    elif spec in SANDBOXES:
        words = SANDBOXES[spec]
    else:
        raise ValueError(f"`sandbox` must be none, bwrap, docker:IMAGE or podman:IMAGE; got {spec!r}.")
    if words and shutil.which(words[0]) is None:
        raise FileNotFoundError(f"sandbox {spec!r} needs the program {words[0]!r}, which is not installed.")
    if spec == "bwrap":
        _try(words)
    return words


def _try(words: Sequence[str]):
    with tempfile.TemporaryDirectory() as folder, filter_file(words) as files:
        command = [word.format(cwd=folder, filter=files and files[0]) for word in words]
        run = subprocess.run([*command, "true"], capture_output=True, text=True, check=False, pass_fds=files)  # noqa: S603  the words of SANDBOXES around `true`
    if run.returncode != 0:
        raise OSError(
            f"sandbox 'bwrap': bubblewrap can't make its namespaces here ({run.stderr.strip()}); {REMEDY}, or choose docker:IMAGE."
        )


class Worker:
    """One warm process and the socket to it."""

    def __init__(self, owner: str, folder: str, containers: str = ""):
        self.containers = containers
        self.tag = f"{owner}-{next(_NAMES)}."  # the dot: no tag begins another
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(  # noqa: S603  this Python and a module of ours
            [sys.executable, "-m", "mimo_hf.scheduler.executors.worker", str(theirs.fileno()), str(os.getpid())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2 if _has_stderr() else subprocess.DEVNULL,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONPATH": python_path(),
                "MIMO_WORKER_TAG": self.tag,
                "MIMO_WORKER_FOLDER": os.path.join(folder, self.tag),
            },
        )
        theirs.close()
        self.channel: socket.socket | None = ours
        self.reader: Any = None
        self.writer: Any = None
        self.group: CpuGroup | None = None

    async def connect(self):
        self.reader, self.writer = await asyncio.open_connection(sock=self.channel)
        self.channel = None
        await self.receive()  # "ready"

    async def send(self, message: bytes):
        self.writer.write(LENGTH.pack(len(message)) + message)
        await self.writer.drain()

    async def receive(self) -> bytes:
        try:
            return await self.reader.readexactly(length(await self.reader.readexactly(LENGTH.size)))
        except (asyncio.IncompleteReadError, ConnectionError, OSError) as error:
            raise WorkerLost(f"worker {self.process.pid} died; the action may have started.") from error

    async def kill(self, grace_s: float) -> list[int]:
        """
        Ends the worker and all it has started: SIGTERM, `grace_s`, SIGKILL; returns once they are gone.

        Returns:
            Processes that had left the worker's session (they are ended too).
        """
        pid = self.process.pid
        offspring = [other for other in tagged(self.tag, pid) if other != pid]
        escaped = [other for other in offspring if _session(other) not in (pid, None)]
        if self.process.poll() is None or offspring:
            send([pid, *offspring], signal.SIGTERM)
            deadline = time.monotonic() + grace_s
            while (left := [p for p in tagged(self.tag, pid) if p != pid]) and time.monotonic() < deadline:
                await asyncio.sleep(min(0.02, grace_s / 4))
            for _ in range(200):
                send([*([pid] if self.process.poll() is None else []), *left], signal.SIGKILL)
                left = [other for other in tagged(self.tag, pid) if other != pid]
                if not left and self.process.poll() is not None:
                    break
                await asyncio.sleep(0.01)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)
        if self.containers:  # they are children of a daemon
            await asyncio.to_thread(
                subprocess.run, [self.containers, "rm", "-f", f"mimo-{self.tag}"], capture_output=True
            )
        self._close()
        return escaped

    def _close(self):
        if self.writer is not None:
            self.writer.close()
        if self.channel is not None:
            self.channel.close()
        if self.group is not None:
            with contextlib.suppress(OSError):
                self.group.remove()


async def _surely(work: Awaitable[Any]) -> Any:
    """Waits to the end, cancelled or not: cores may be given to the next action only once the last one's processes are gone."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def python_path() -> str:
    """Where a new process finds what this one finds."""
    return os.pathsep.join(dict.fromkeys([*filter(None, sys.path), str(Path(__file__).parents[3])]))


def _has_stderr() -> bool:
    try:
        os.fstat(2)
    except OSError:
        return False
    return True


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


class LocalExecutor:
    """
    Args:
        cores: cores to hand out; None: all this process may use, less `reserve_cores`.
        resources: further capacities of this machine, such as {"memory": 64e9}; "gpu" are whole GPUs, in aligned blocks.
        enforce: "auto", "cgroup2", "affinity" or "count" (see `cpu.enforcement`).
        sandbox: wrapper of commands (see `sandbox`).
        warm: processes to start beforehand; None: one a core, at most 8.
    """

    name = "local"

    def __init__(
        self,
        cores: int | None = None,
        resources: dict[str, float] | None = None,
        enforce: str = "auto",
        reserve_cores: int = 0,
        kill_grace_s: float = 2.0,
        sandbox: str = "none",
        warm: int | None = None,
    ):
        nodes = numa_nodes()
        present = sum(len(node) for node in nodes)
        wanted = present - reserve_cores if cores is None else cores
        if cores is not None and not is_whole(cores, 1, MOST_UNITS):
            raise ValueError(f"`cores` must be a whole number from 1 to {MOST_UNITS}, or None, not {shown(cores)}.")
        if wanted < 1:
            raise ValueError(
                f"`reserve_cores` must leave some of this machine's {present} cores; got {reserve_cores}."
            )
        self.enforce = enforcement(enforce)
        if wanted > present:
            if enforce not in ("auto", "count"):
                raise ValueError(
                    f"`cpu_cores` must not be more than this machine has, {present}; got {wanted}. `cpu_enforce='count'` "
                    "counts more."
                )
            self.enforce = "count"  # more cores than there are can only be counted
            nodes = [list(range(wanted))]
        self.cores_by_node = _first(nodes, wanted)
        self._cores = Cores(self.cores_by_node)
        self._capacity = {"cpu": wanted, **(resources or {})}
        self.nodes()  # ValueError for capacities that are none
        self.kill_grace_s = kill_grace_s
        self.prefix = globals()["sandbox"](sandbox)
        self.counts_processes = counts_by_default(self.prefix)
        self.containers = self.prefix[0] if self.prefix[:1] in (("docker",), ("podman",)) else ""
        self.warm = min(wanted, 8) if warm is None else warm
        self.escaped: list[int] = []
        self._owner = f"{os.getpid()}-{time.monotonic_ns()}"
        self._idle: list[Worker] = []
        self._busy: dict[int, Worker] = {}
        self._closed = False
        self._guard: Any = None
        self._folder = ""

    def __repr__(self) -> str:
        return f"LocalExecutor(cores={self._capacity['cpu']}, enforce={self.enforce!r})"

    def nodes(self) -> list[Node]:
        node = Node(self.name, self._capacity, self._cores)
        if gpus := int(self._capacity.get("gpu", 0)):
            node.gpus = GpuCells(gpus)
        return [node]

    async def start(self, node_lost: Any = None, node_joined: Any = None):
        self._folder = tempfile.mkdtemp(prefix="mimo-actions-")
        self._guard = subprocess.Popen(  # noqa: S603  this Python and a module of ours
            [sys.executable, "-m", "mimo_hf.scheduler.executors.guard", self._owner, self._folder, self.containers],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": python_path()},
        )
        started = await asyncio.gather(*(self._start_worker() for _ in range(self.warm)))
        self._idle += started

    async def _start_worker(self) -> Worker:
        worker = Worker(self._owner, self._folder, self.containers)
        if self.enforce == "cgroup2" and (parent := cgroup2_parent()) is not None:
            worker.group = CpuGroup(parent, f"mimo-{worker.tag}")
            worker.group.admit(worker.process.pid)
        try:
            await worker.connect()
        except BaseException:
            await _surely(worker.kill(0.0))
            raise
        return worker

    async def _warm_worker(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            await worker.kill(0.0)  # died while idle
        try:
            return await self._start_worker()
        except (OSError, WorkerLost) as error:
            raise NotStarted(f"no worker process could be started: {error}") from error

    async def run(
        self, lease: Any, payload: bytes, main: Any = None, timeout_s: float | None = None
    ) -> tuple[bool, Any, float]:
        """
        (True, value, seconds) or (False, the action's exception, seconds). Raises WorkerLost if the process died,
        ActionTimeout after `timeout_s`; the lease may be given back when this returns: whatever the action started is gone by
        then.
        """
        good, body, exec_s = await self.perform(lease, payload, main, timeout_s)
        return good, pickle.loads(body), exec_s  # noqa: S301  of an action: the caller's own code

    async def perform(
        self, lease: Any, payload: bytes, main: Any = None, timeout_s: float | None = None
    ) -> tuple[bool, bytes, float]:
        """`run`, with the value or exception still pickled."""
        count = len(lease.cores) or int(lease.resources.get("cpu", 1))
        request = {"payload": payload, "count": count, "prefix": self.prefix, "counted": self.counts_processes}
        request["pin"] = lease.cores if self.enforce == "affinity" else ()
        request["gpus"] = ",".join(map(str, lease.gpus)) if "gpu" in self._capacity else None
        if main is not None:
            request["main"] = main
        keep = False
        try:
            reply = await asyncio.wait_for(self._converse(lease, pickle.dumps(request)), timeout_s)
            good, body, left, exec_s = pickle.loads(reply)  # noqa: S301  from our worker, over a socket pair
            keep = not left and not self._closed
            return good, body, exec_s
        except asyncio.TimeoutError:
            raise ActionTimeout(f"the action ran longer than timeout_s={timeout_s:g} and was ended.") from None
        finally:
            worker = self._busy.get(lease.seq)
            if worker is not None and not keep:
                self.escaped += await _surely(worker.kill(self.kill_grace_s))
            elif worker is not None:
                if worker.group is not None:
                    worker.group.rest()
                self._idle.append(worker)
            self._busy.pop(lease.seq, None)

    async def _converse(self, lease: Any, request: bytes) -> bytes:
        """The answer of a worker. Starting it and sending count as running time: they may hang as the action may."""
        worker = self._busy[lease.seq] = await self._warm_worker()
        if worker.group is not None:
            worker.group.give(lease.cores, lease.resources.get("cpu", 0))
        try:
            await worker.send(request)
        except (ConnectionError, BrokenPipeError) as error:
            raise WorkerLost(f"worker {worker.process.pid} died; the action may have started.") from error
        return await worker.receive()

    def workers(self) -> list[int]:
        """Process ids, idle and busy."""
        return [worker.process.pid for worker in [*self._idle, *self._busy.values()]]

    async def close(self):
        self._closed = True
        workers, self._idle = [*self._idle, *self._busy.values()], []
        busy = list(self._busy.values())
        await asyncio.gather(*(worker.kill(self.kill_grace_s if worker in busy else 0.0) for worker in workers))
        if self._guard is not None:
            with contextlib.suppress(BrokenPipeError):
                self._guard.communicate(b"close")


def _first(nodes: list[list[int]], count: int) -> list[list[int]]:
    kept = []
    for node in nodes:
        kept.append(node[:count])
        count -= len(kept[-1])
    return [node for node in kept if node]
