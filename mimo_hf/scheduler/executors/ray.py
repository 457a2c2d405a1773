"""
Runs actions on the nodes of a Ray cluster. Ray places one worker actor a node and carries messages; which action runs where, on
which cores, is decided by our own capacity book: Ray's resources are fixed when a task is made and pinned to no core.
"""

import asyncio
import contextlib
import pickle
from dataclasses import dataclass
from typing import Any

from ..core.book import Lease, Node
from ..core.numbers import MOST_UNITS, is_whole, shown
from ..core.resources import Cores, GpuCells
from ..errors import ActionTimeout, NotStarted, SchedulerError, WorkerLost
from .local import LocalExecutor

try:
    import ray
    from ray.exceptions import RayActorError, RayError, RayTaskError
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:
    raise ImportError("the Ray executor needs Ray: pip install 'mimo-hf[ray]'") from error

HEARTBEAT_S, MISSED_BEATS = 1.0, 5
MAX_CALLS = 100_000  # of an actor at once; asynchronous actors stop at 1000 unless told


@dataclass
class RemoteLease:
    """What a node has to know of a lease."""

    seq: int
    cores: tuple[int, ...]
    gpus: tuple[int, ...]
    resources: dict[str, float]


class NodeWorker:
    """The actor of one node: a `LocalExecutor` there."""

    def __init__(self, cores: int, resources: dict[str, float], enforce: str, kill_grace_s: float, sandbox: str):
        self._executor = LocalExecutor(cores, resources, enforce, 0, kill_grace_s, sandbox)
        self._running: dict[int, asyncio.Task] = {}

    async def start(self) -> tuple[list[list[int]], str]:
        """The node's cores by NUMA node, and how actions are kept on them."""
        await self._executor.start()
        return self._executor.cores_by_node, self._executor.enforce

    async def ping(self) -> bool:
        return True

    async def perform(
        self, lease: RemoteLease, payload: bytes, main: Any, timeout_s: float
    ) -> tuple[str, bytes, float]:
        task = asyncio.ensure_future(self._executor.perform(lease, payload, main, timeout_s))
        self._running[lease.seq] = task
        try:
            good, body, exec_s = await task
            return "done" if good else "failed", body, exec_s
        except asyncio.CancelledError:
            return "cancelled", b"", 0.0
        except (ActionTimeout, WorkerLost) as error:
            return type(error).__name__, str(error).encode(), 0.0
        finally:
            self._running.pop(lease.seq, None)

    async def cancel(self, seq: int):
        """Returns once the action's processes are gone."""
        task = self._running.get(seq)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def workers(self) -> list[int]:
        return self._executor.workers()

    async def close(self):
        await self._executor.close()


class RayExecutor:
    """
    Args:
        address: of the cluster, as for `ray.init`; None: the one this process is connected to, else a new local one.
        cores_per_node: cores to hand out on each node; None: the `CPU` resource that the node has in Ray.
        resources: further capacities of every node, such as {"memory": 64e9}; "gpu" are whole GPUs.
        enforce, kill_grace_s, sandbox: as for `LocalExecutor`, on every node.
        reserve: keep other users of the cluster off these cores, by one placement group for the life of the executor.
    """

    name = "ray"

    def __init__(
        self,
        address: str | None = None,
        cores_per_node: int | None = None,
        resources: dict[str, float] | None = None,
        enforce: str = "auto",
        kill_grace_s: float = 2.0,
        sandbox: str = "none",
        reserve: bool = True,
    ):
        if cores_per_node is not None and not is_whole(cores_per_node, 1, MOST_UNITS):
            raise ValueError(
                f"`cores_per_node` must be at least 1 and at most {MOST_UNITS}, or None, not {shown(cores_per_node)}."
            )
        self.address = address
        self.cores_per_node = cores_per_node
        self.resources = dict(resources or {})
        self.enforce = enforce
        self.reserve = reserve
        self._options = (enforce, kill_grace_s, sandbox)
        self._actors: dict[str, Any] = {}
        self._nodes: dict[str, Node] = {}
        self._ids: dict[str, str] = {}
        self._group: Any = None
        self._beats: list[asyncio.Task] = []
        self._reviving: set[asyncio.Task] = set()
        self._node_lost: Any = None
        self._node_joined: Any = None
        self._closed = False

    def __repr__(self) -> str:
        return f"RayExecutor(nodes={len(self._nodes)}, enforce={self.enforce!r})"

    def nodes(self) -> list[Node]:
        return list(self._nodes.values())

    async def start(self, node_lost: Any = None, node_joined: Any = None):
        self._node_lost, self._node_joined = node_lost, node_joined
        if not ray.is_initialized():
            await asyncio.to_thread(
                ray.init, address=self.address, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
            )
        found = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        if not found:
            raise RuntimeError("the Ray cluster has no living node with a CPU.")
        if self.reserve:
            await self._reserve([self._core_count(node) for node in found])
        await asyncio.gather(*(self._add(node) for node in found))

    def _core_count(self, node: dict[str, Any]) -> int:
        return self.cores_per_node or int(node["Resources"]["CPU"])

    async def _reserve(self, cores: list[int]):
        self._group = placement_group([{"CPU": count} for count in cores], strategy="STRICT_SPREAD")
        try:
            await asyncio.wait_for(self._group.ready(), 60)
        except asyncio.TimeoutError:
            remove_placement_group(self._group)
            free = ray.available_resources().get("CPU", 0)
            raise RuntimeError(
                f"{cores} cores could not be reserved within 60 s; {free:g} are free in the cluster. Wait for other jobs, ask "
                f"for fewer (`cores_per_node`), or share them with `reserve=False`."
            ) from None

    async def _add(self, about: dict[str, Any]):
        node_id, cores = about["NodeID"], self._core_count(about)
        name = f"ray-{node_id[:8]}"
        here = NodeAffinitySchedulingStrategy(node_id, soft=False)
        make = ray.remote(NodeWorker).options(num_cpus=0, scheduling_strategy=here, max_concurrency=MAX_CALLS)
        actor = make.remote(cores, self.resources, *self._options)
        by_node, self.enforce = await actor.start.remote()
        gpus = int(self.resources.get("gpu", 0))
        node = Node(name, {"cpu": cores, **self.resources}, Cores(by_node), GpuCells(gpus) if gpus else None)
        self._actors[name], self._nodes[name], self._ids[name] = actor, node, node_id
        self._beats.append(asyncio.ensure_future(self._watch(name, actor)))

    async def _watch(self, name: str, actor: Any):
        """A node that misses five heartbeats in a row is lost."""
        missed = 0
        while name in self._actors and self._actors[name] is actor:
            await asyncio.sleep(HEARTBEAT_S)
            try:
                await asyncio.wait_for(actor.ping.remote(), HEARTBEAT_S)
                missed = 0
            except RayActorError:
                missed = MISSED_BEATS
            except (asyncio.TimeoutError, RayError):
                missed += 1
            if missed >= MISSED_BEATS:
                self._lose(name, actor)

    def _lose(self, name: str, actor: Any):
        """Once for each actor: revokes the node's leases, and tries to put a new actor on it."""
        if self._actors.get(name) is not actor or self._closed:
            return
        del self._actors[name]
        del self._nodes[name]
        with contextlib.suppress(RayError, ValueError):
            ray.kill(actor)
        if self._node_lost is not None:
            self._node_lost(name)
        task = asyncio.ensure_future(self._revive(self._ids.pop(name)))
        self._reviving.add(task)
        task.add_done_callback(self._reviving.discard)

    async def _revive(self, node_id: str):
        for _ in range(10):
            await asyncio.sleep(HEARTBEAT_S)
            about = next((node for node in ray.nodes() if node["NodeID"] == node_id and node["Alive"]), None)
            if about is None or self._closed:
                return
            with contextlib.suppress(RayError, asyncio.TimeoutError):
                await asyncio.wait_for(self._add(about), 30)
                if self._node_joined is not None:
                    self._node_joined(self._nodes[f"ray-{node_id[:8]}"])
                return

    async def run(
        self, lease: Lease, payload: bytes, main: Any = None, timeout_s: float | None = None
    ) -> tuple[bool, Any, float]:
        """As `LocalExecutor.run`, on the node of the lease."""
        name = lease.node.name
        actor = self._actors.get(name)
        if actor is None:
            raise NotStarted(f"node {name} died before the action was sent to it.")
        remote = RemoteLease(lease.seq, lease.cores, lease.gpus, lease.resources)
        call = actor.perform.remote(remote, payload, main, timeout_s)
        try:
            word, body, exec_s = await call
        except asyncio.CancelledError:
            with contextlib.suppress(RayError):
                await actor.cancel.remote(lease.seq)
            raise
        except RayTaskError as error:
            raise SchedulerError(f"node {name} could not run the action: {error.cause!r}") from error
        except RayError as error:
            self._lose(name, actor)
            raise WorkerLost(f"node {name} died; the action may have started ({type(error).__name__}).") from error
        for fault in (ActionTimeout, NotStarted, WorkerLost):
            if word == fault.__name__:
                raise fault(body.decode())
        if word == "cancelled":
            raise SchedulerError("the action was ended on its node.")
        return word == "done", pickle.loads(body), exec_s  # noqa: S301  of an action: the caller's own code

    async def worker_pids(self) -> list[int]:
        """Process ids of the workers of all nodes, each on its own machine."""
        lists = await asyncio.gather(*(actor.workers.remote() for actor in self._actors.values()))
        return [pid for pids in lists for pid in pids]

    async def close(self):
        self._closed = True
        actors, self._actors = list(self._actors.values()), {}
        for task in [*self._beats, *self._reviving]:
            task.cancel()
        await asyncio.gather(*self._beats, *self._reviving, return_exceptions=True)
        for actor in actors:
            with contextlib.suppress(RayError, asyncio.TimeoutError):
                await asyncio.wait_for(actor.close.remote(), 30)
            with contextlib.suppress(RayError, ValueError):
                ray.kill(actor)
        if self._group is not None:
            remove_placement_group(self._group)
