"""`ActionScheduler`: what users hold. It starts and ends things, takes actions in and says what happened."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from ..config import SchedulerConfig
from ..core.book import Node
from ..core.scheduler import Scheduler
from ..core.types import Action
from ..errors import SchedulerLost
from ..executors.local import LocalExecutor
from ..executors.protocol import Executor
from ..services.manager import ServiceManager
from ..sharing.client import SchedulerClient
from ..sharing.election import elect
from ..sharing.owner import AlreadyOwned, Ownership
from ..sharing.server import serve
from .dispatch import Dispatcher
from .handles import ActionHandle
from .metrics import Metrics, serve_metrics
from .recording import Recorder


class ActionScheduler:
    """
    Queues actions and runs each when its resources are free, on as many units as `policy` gives it.

    Use it as `async with ActionScheduler() as scheduler:` on the running loop, or as `with ActionScheduler() as scheduler:`
    with a loop of its own in a thread. One process a machine owns the capacity: others connect through `client()`, or with
    `on_owned="connect"`.

    Args:
        config: settings.
        executor: where actions run; None: a `LocalExecutor` made from the settings.
        resources: further capacities of this machine, such as {"memory": 64e9}.
        held: of those, what a trajectory keeps until `release`.
        services: `ModelService`s by name, for `ServiceCall`s.
        exclusive: take the machine's lock. Off only where the caller knows that the cores are its own.
        on_owned: where another process of this user hands out the machine's cores already: "raise" AlreadyOwned on entering
            `with`, or "connect": `with` then gives a `SchedulerClient` of that process, and a `config` that differs from its
            own is a ValueError.
    """

    def __init__(
        self,
        config: SchedulerConfig | None = None,
        executor: Any = None,
        resources: Mapping[str, float] | None = None,
        held: Iterable[str] = (),
        services: Mapping[str, Any] | None = None,
        exclusive: bool = True,
        on_owned: str = "raise",
    ):
        if on_owned not in ("raise", "connect"):
            raise ValueError(f"`on_owned` must be 'raise' or 'connect'; got {on_owned!r}.")
        own = {"executor": executor, "resources": resources, "held": tuple(held), "services": services}
        brought = [f"`{name}`" for name, value in own.items() if value]
        if on_owned == "connect" and (brought or not exclusive):
            raise ValueError(
                f"`on_owned='connect'` may end with another process's scheduler, which has no {' or '.join(brought)} of yours; "
                "leave them out, or on_owned."
                if brought
                else "`on_owned='connect'` goes with `exclusive=True`: without the lock nobody else owns the machine."
            )
        self._on_owned, self._given_config = on_owned, config
        self.config = config or SchedulerConfig()
        self.executor: Executor = executor or LocalExecutor(
            self.config.cpu_cores, dict(resources or {}), self.config.cpu_enforce, self.config.reserve_cores,
            self.config.kill_grace_s, self.config.sandbox,
        )  # fmt: skip
        self._dispatcher = Dispatcher(self.config, self.executor)
        self._held = own["held"]
        self._given_services = dict(services or {})
        self._exclusive = exclusive
        self._thread: threading.Thread | None = None
        self._ownership: Ownership | None = None
        self._server: Any = None
        self._metrics_server: asyncio.Server | None = None
        self.address = ""

    def __repr__(self) -> str:
        return f"ActionScheduler({self.executor!r}, policy={self.config.policy!r}, {self._dispatcher.state})"

    @classmethod
    def from_accelerate(cls, config: SchedulerConfig | None = None, state: Any = None, **options) -> Any:
        """
        The scheduler of this machine in a job started by `accelerate launch`: the local main process gets an
        `ActionScheduler` that runs (with its own thread), every other process a `SchedulerClient` of it.

        Args:
            state: a `PartialState`; None: the process's own.
        """
        return elect(cls, config, state, options)

    # Life

    async def __aenter__(self) -> "ActionScheduler":
        try:
            await self._start()
        except AlreadyOwned:
            if self._on_owned == "raise":
                raise
            return await asyncio.to_thread(self._connect)
        return self

    async def __aexit__(self, *error):
        await self.close()

    def __enter__(self) -> "ActionScheduler":
        try:
            return self.start_in_thread()
        except AlreadyOwned:
            if self._on_owned == "raise":
                raise
            return self._connect()

    def __exit__(self, *error):
        self.stop()

    def _connect(self) -> Any:
        return SchedulerClient().expect(self._given_config)

    def start_in_thread(self) -> "ActionScheduler":
        """Starts with an event loop of its own in a daemon thread."""
        started = threading.Event()
        failure: list[BaseException] = []

        def work():
            async def life():
                try:
                    await self._start()
                except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
                    failure.append(error)
                    return
                finally:
                    started.set()
                await self._closed.wait()

            asyncio.run(life())

        self._thread = threading.Thread(target=work, name="mimo-scheduler", daemon=True)
        self._thread.start()
        started.wait()
        if failure:
            raise failure[0]
        return self

    def stop(self):
        """Closes a scheduler that was started in a thread."""
        if self._dispatcher.state == "open":
            asyncio.run_coroutine_threadsafe(self.close(), self.loop).result()
        if self._thread is not None:
            self._thread.join()

    async def _start(self):
        dispatcher = self._dispatcher
        if dispatcher.state != "new":
            raise RuntimeError(f"this ActionScheduler is {dispatcher.state}; make a new one.")
        dispatcher.loop = asyncio.get_running_loop()
        dispatcher.started_s = time.monotonic()
        self._closed = asyncio.Event()
        if self._exclusive:
            self._server, self.address = await serve(self)
            try:
                self._ownership = Ownership(self.address)
            except RuntimeError:
                self._server.close()
                raise
        try:
            await self.executor.start(dispatcher.node_lost, dispatcher.node_joined)
            nodes: list[Node] = self.executor.nodes()
            dispatcher.services = ServiceManager(
                self._given_services, self.config, dispatcher.loop, self._count_switch
            )
            dispatcher.core = Scheduler(
                nodes,
                self.config.make_quotas(),
                self.config.make_policy(),
                self._held,
                fair_tasks=self.config.fair_tasks,
            )
            if self.config.trace_path is not None:
                shown = {node.name: dict(node.capacity) for node in nodes}
                dispatcher.recorder = Recorder(self.config.trace_path, shown, self.config.policy)
            if self.config.metrics_port is not None:
                self._metrics_server = await serve_metrics(self.prometheus, self.config.metrics_port)
        except BaseException:
            dispatcher.state = "open"
            await self.close()
            raise
        dispatcher.state = "open"

    @property
    def metrics_port(self) -> int | None:
        """The port the Prometheus endpoint listens on."""
        return None if self._metrics_server is None else self._metrics_server.sockets[0].getsockname()[1]

    async def drain(self, timeout: float | None = None):
        """Waits until every action has ended; TimeoutError after `timeout` seconds."""
        await self._on_loop(self._dispatcher.drain(timeout))

    async def close(self):
        """Cancels what is left, ends all processes, gives the machine back. Handles still open raise SchedulerLost."""
        if self._dispatcher.state == "open":
            await self._on_loop(self._close())

    async def _close(self):
        if self._dispatcher.state != "open":
            return
        await self._dispatcher.close()
        await self.executor.close()
        services = getattr(self._dispatcher, "services", None)  # none yet if it closes because it can't start
        if services is not None:
            await services.close()
        for server in (self._server, self._metrics_server):
            if server is not None:
                server.close()
        if self._ownership is not None:
            self._ownership.release()
        if self._dispatcher.recorder is not None:
            self._dispatcher.recorder.close()
        self._closed.set()

    async def _on_loop(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What a coroutine gives on the scheduler's own loop, wherever it is awaited."""
        if self._dispatcher.here():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    # Submission

    async def submit(self, action: Action) -> ActionHandle:
        """
        Queues an action; returns at once unless the queue is full.

        Raises:
            ValueError: it could never run here.
            TypeError: its function cannot be sent to another process.
            QueueFull: `max_queue` actions wait and `backpressure` is "raise".
            SchedulerLost: the scheduler is closed.
        """
        return await self._on_loop(self._submit(action))

    async def _submit(self, action: Action) -> ActionHandle:
        self._dispatcher.check_open()
        await self._dispatcher.room()
        return self._dispatcher.submit(action)

    async def run(self, action: Action) -> Any:
        """Submits and waits. If the waiting task is cancelled, so is the action."""
        handle = await self.submit(action)
        try:
            return await handle
        except asyncio.CancelledError:
            handle.leave()
            raise

    async def map(self, actions: Iterable[Action], return_exceptions: bool = False) -> list[Any]:
        """
        Runs actions at once; results in their order.

        Args:
            return_exceptions: give exceptions among the results, of `submit` too. Otherwise the first one of an action is
                raised while the others go on, and one of `submit` is raised once those before it are cancelled.
        """
        submitted: list[ActionHandle | Exception] = []
        try:
            for action in actions:
                try:
                    submitted.append(await self.submit(action))
                except Exception as error:
                    if not return_exceptions:
                        raise
                    submitted.append(error)
        except BaseException:
            _leave(submitted)
            raise
        handles = [handle for handle in submitted if isinstance(handle, ActionHandle)]
        try:
            results = iter(
                await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=return_exceptions)
            )
        except asyncio.CancelledError:
            _leave(submitted)
            raise
        return [next(results) if isinstance(handle, ActionHandle) else handle for handle in submitted]

    def start(self, action: Action) -> Future:
        """Submits from any thread, without waiting: a `concurrent.futures.Future` with the result."""
        self._dispatcher.check_open()
        running = self.run(action)
        try:
            return asyncio.run_coroutine_threadsafe(running, self.loop)
        except RuntimeError:  # closed since
            running.close()
            raise SchedulerLost("this scheduler is closed: nothing can be submitted.") from None

    def run_sync(self, action: Action) -> Any:
        """Submits and waits, from any thread but the scheduler's own (RuntimeError: it would wait for itself)."""
        self._dispatcher.check_open()
        if self._dispatcher.here():
            raise RuntimeError(
                "run_sync on the scheduler's own loop would wait for itself; use `await scheduler.run(action)`."
            )
        return self._dispatcher.result(self.start(action))

    def client(self) -> Any:
        """A picklable client for other processes of this machine."""
        if not self.address:
            raise RuntimeError("this scheduler has no address: it is not open, or was made with exclusive=False.")
        return SchedulerClient(self.address)

    def add_service(self, name: str, service: Any):
        """One more `ModelService`; ValueError if it is larger than the device or its name is taken."""
        self._dispatcher.ask(self.services.add, name, service)

    def cancel(self, trajectory: str) -> int:
        """Cancels a trajectory's actions and gives back what it held. Returns how many were cancelled."""
        return self._dispatcher.ask(self._dispatcher.cancel_trajectory, trajectory)

    def release(self, home: str):
        """Ends a trajectory or environment once its running actions have ended: what it holds is free again."""
        self._dispatcher.on_loop(self._dispatcher.release, home)

    # What one can ask

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that it runs on, once it has started."""
        return self._dispatcher.loop

    @property
    def core(self) -> Scheduler:
        """The queue, the book and the policy, once it has started; to be asked on `loop` only."""
        return self._dispatcher.core

    @property
    def services(self) -> ServiceManager:
        """The services and where each is, once it has started."""
        return self._dispatcher.services

    @property
    def metrics(self) -> Metrics:
        return self._dispatcher.metrics

    @property
    def decision_s(self) -> deque[float]:
        """How long the last decisions took, in seconds."""
        return self._dispatcher.decision_s

    def _count_switch(self):
        self.metrics.switches += 1

    def in_use(self) -> dict[str, float]:
        return self.core.in_use()

    def prometheus(self) -> str:
        return self.metrics.text(self.core.queued, self.in_use())

    def stats(self) -> dict[str, Any]:
        """Counts by state, units in use, mean ACT and wait, and how long decisions take (seconds)."""
        return self._dispatcher.ask(self._stats)

    def _stats(self) -> dict[str, Any]:
        decisions = sorted(self.decision_s)
        outcomes: dict[str, int] = {}
        for (_, outcome), count in self.metrics.actions.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        return {
            **self.metrics.summary(),
            "queued": self.core.queued,
            "running": len(self.core.leases),
            "in_use": self.in_use(),
            "outcomes": outcomes,
            "service_switches": self.metrics.switches,
            "decision_p99_s": decisions[math.ceil(0.99 * len(decisions)) - 1] if decisions else 0.0,
            "enforce": getattr(self.executor, "enforce", "count"),
        }


def _leave(submitted: Iterable[ActionHandle | Exception]):
    for handle in submitted:
        if isinstance(handle, ActionHandle):
            handle.leave()
