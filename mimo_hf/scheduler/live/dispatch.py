"""The core under the real clock: every queued action becomes a task when its lease comes, and ends in exactly one state."""

import asyncio
import math
import random
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any

from ..config import SchedulerConfig
from ..core.book import Lease, Node
from ..core.scheduler import Scheduler
from ..core.types import Action, ServiceCall, check_action
from ..errors import (
    ActionTimeout,
    EnvironmentLost,
    NotStarted,
    QueueFull,
    QuotaRefused,
    SchedulerError,
    SchedulerLost,
    WorkerLost,
)
from ..executors.payload import Pickled, pack
from ..executors.protocol import Executor
from ..services.manager import ServiceManager
from .handles import ActionHandle
from .metrics import Metrics
from .recording import Recorder

MAX_REMEMBERED = 10_000
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.05, 5.0
LOOP_CHECK_S = 1.0


class Dispatcher:
    """
    Everything here but `ask`, `on_loop`, `here` and `result` runs on `loop`. Whoever has a Dispatcher sets `loop`, `started_s`,
    `core`, `services` and `recorder` before it sets `state` to "open".
    """

    loop: asyncio.AbstractEventLoop
    core: Scheduler
    services: ServiceManager
    started_s: float

    def __init__(self, config: SchedulerConfig, executor: Executor):
        self.config = config
        self.executor = executor
        self.metrics = Metrics()
        self.decision_s: deque[float] = deque(maxlen=MAX_REMEMBERED)
        self.recorder: Recorder | None = None
        self.state = "new"
        self._handles: dict[int, ActionHandle] = {}  # waiting ones by their number in the queue
        self._open: set[ActionHandle] = set()
        self._by_trajectory: dict[str, set[ActionHandle]] = {}
        self._environments: dict[str, set[str]] = {}  # of each trajectory
        self._remembered: OrderedDict[str, ActionHandle] = OrderedDict()
        self._lost_environments: set[str] = set()
        self._room: deque[asyncio.Future] = deque()
        self._random = random.Random(config.seed)  # noqa: S311  seeded pauses between tries, no secret
        self._pending: asyncio.Handle | None = None
        self._quota_timer: asyncio.TimerHandle | None = None
        self._counter = 0

    # Queueing

    def submit(self, action: Action) -> ActionHandle:
        """Queues an action, whether there is room or not (see `room`)."""
        check_action(action)
        self._check_environment(action)
        if action.dedup_key is not None and action.dedup_key in self._remembered:
            shared = self._remembered[action.dedup_key]
            shared.sharers += 1
            return shared
        if isinstance(action.fn, ServiceCall):
            self.services.check(action.fn)
        handle = ActionHandle(self, action, pack(action.fn))
        self._enqueue(handle)
        handle.timing["submit_s"] = self._since_start()
        handle.number = self._counter
        self._counter += 1
        self._open.add(handle)
        if action.trajectory is not None:
            self._by_trajectory.setdefault(action.trajectory, set()).add(handle)
            if action.env is not None:
                self._environments.setdefault(action.trajectory, set()).add(action.env)
        if action.dedup_key is not None:
            self._remembered[action.dedup_key] = handle
            while len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return handle

    def _check_environment(self, action: Action):
        for home in (action.env, action.trajectory):
            if home in self._lost_environments:
                raise EnvironmentLost(f"environment {home!r} was lost with its node; release it and start again.")

    def _enqueue(self, handle: ActionHandle):
        handle.entry = self.core.submit(time.monotonic(), handle.action, handle.attempt)
        handle.state = "queued"
        self._handles[handle.entry.seq] = handle
        longest_s = handle.action.queue_timeout_s
        if longest_s is not None:
            handle.queue_timer = self.loop.call_later(longest_s, self._queue_timeout, handle)
        self._wake()

    # Decisions

    def _wake(self):
        if self._pending is None and self.state == "open":
            # All events of one turn of the loop meet in one decision; only where decisions are slow are more collected.
            wait = min(self.config.coalesce_ms / 1e3, self.decision_s[-1] if self.decision_s else 0.0)
            if wait > 2e-4:
                self._pending = self.loop.call_later(wait, self.decide)
            else:
                self._pending = self.loop.call_soon(self.decide)

    def decide(self):
        """One decision of the core, and a task for each lease that comes of it."""
        self._pending = None
        if self.state != "open":
            return
        begin = time.perf_counter()
        now = time.monotonic()
        leases = self.core.schedule(now)
        self.decision_s.append(time.perf_counter() - begin)
        for lease in leases:
            handle = self._handles.pop(lease.seq)
            handle.lease = lease
            handle.state = "starting"
            handle.timing["start_s"] = now - self.started_s
            if handle.queue_timer is not None:
                handle.queue_timer.cancel()
                handle.queue_timer = None
            handle.task = self.loop.create_task(self._execute(handle, lease))
            handle.task.add_done_callback(partial(self._settled, handle, lease))
        while self._room and self.core.queued < self.config.max_queue:
            waiter = self._room.popleft()
            if not waiter.done():
                waiter.set_result(None)
        if self.core.quotas and self.core.queued:
            ready = self.core.next_ready_s()
            if ready < math.inf:
                if self._quota_timer is not None:
                    self._quota_timer.cancel()
                self._quota_timer = self.loop.call_later(max(0.0, ready - time.monotonic()) + 1e-4, self._wake)

    async def _execute(self, handle: ActionHandle, lease: Lease):
        timeout_s = handle.action.timeout_s or self.config.default_timeout_s
        began = time.monotonic()
        handle.state = "running"
        try:
            good, value, handle.timing["exec_s"] = await self._perform(handle, lease, timeout_s)
        except ActionTimeout as error:
            self._free(lease)
            self._end(handle, "timed_out", error)
        except Exception as error:  # noqa: BLE001  whatever the executor says goes to whoever awaits the action
            self._free(lease)
            self._failed(handle, error, started=not isinstance(error, NotStarted))
        else:
            self._learn(handle.action, value if not good else None)
            self._free(lease, time.monotonic() - began)
            if good:
                self._end(handle, "done", value)
            else:
                self._failed(handle, value, started=True)

    def _learn(self, action: Action, error: BaseException | None):
        """A provider's refusal shrinks the action's quotas, a success regrows them."""
        quotas = [self.core.quotas[name] for name in action.cost if name in self.core.quotas]
        for quota in quotas:
            if isinstance(error, QuotaRefused):
                quota.refused(time.monotonic(), error.retry_after_s)
            elif error is None:
                quota.succeeded(time.monotonic())

    def _settled(self, handle: ActionHandle, lease: Lease, task: asyncio.Task):
        """A task may be cancelled before its first step, so what is left to give back is given back here."""
        self._free(lease)
        if task.cancelled():
            self._end(handle, "cancelled", None)

    async def _perform(self, handle: ActionHandle, lease: Lease, timeout_s: float) -> tuple[bool, Any, float]:
        payload = handle.payload
        if isinstance(payload, Pickled):
            return await self.executor.run(lease, payload.payload, payload.main, timeout_s)
        seen: dict[str, float] = {}
        work = self.services.call(payload, seen) if isinstance(payload, ServiceCall) else payload()
        begin = time.perf_counter()
        try:
            good, value = await asyncio.wait_for(_caught(work), timeout_s)
            return good, value, seen.get("exec_s", time.perf_counter() - begin)
        except asyncio.TimeoutError:
            raise ActionTimeout(f"action {handle.action.kind!r} ran longer than timeout_s={timeout_s:g}.") from None
        finally:
            if "start_s" in seen:  # a service's call waits once more, for its model and its batch
                seen["start_s"] -= self.started_s
            handle.timing.update(seen)

    def _free(self, lease: Lease, duration_s: float | None = None):
        if self.core.finish(time.monotonic(), lease, duration_s):
            self._wake()

    # Ends

    def _failed(self, handle: ActionHandle, error: BaseException, started: bool):
        """Tries again what may be tried again, after a back-off with full jitter."""
        action = handle.action
        lost, refused = isinstance(error, WorkerLost), isinstance(error, QuotaRefused)
        home = handle.entry.home if handle.entry is not None else None
        if lost and home is not None and home in self._lost_environments:
            error = EnvironmentLost(f"environment {home!r} was lost with its node ({error})")
            self._end(handle, "failed", error)
            return
        harmless = action.idempotent or refused or not started
        allowed = max(action.retries, self.config.loss_retries) if harmless and (lost or refused) else action.retries
        again = (refused or isinstance(error, action.retry_on)) and handle.attempt <= allowed and harmless
        if not again or self.state != "open" or handle.future.done():
            self._end(handle, "failed", error)
            return
        backoff_s = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** (handle.attempt - 1)) * self._random.random()
        handle.attempt += 1
        handle.state = "queued"
        handle.task = handle.entry = handle.lease = None
        handle.timing = {"submit_s": handle.timing["submit_s"]}
        self.loop.call_later(backoff_s, self._again, handle)

    def _again(self, handle: ActionHandle):
        if handle.future.done() or self.state != "open":
            return
        try:
            self._check_environment(handle.action)
            self._enqueue(handle)
        except (ValueError, SchedulerError) as error:
            self._end(handle, "failed", error)

    def _end(self, handle: ActionHandle, state: str, result: Any):
        """The one place where a handle reaches its end."""
        if handle.future.done():
            return
        handle.state = state
        handle.timing["end_s"] = self._since_start()
        self._forget(handle)
        if state == "done":
            handle.future.set_result(result)
        elif isinstance(result, BaseException):
            handle.future.set_exception(result)
            handle.future.exception()  # nobody has to fetch it
        else:
            handle.future.cancel()
        self._account(handle)

    def _forget(self, handle: ActionHandle):
        self._open.discard(handle)
        action = handle.action
        if action.trajectory is not None:
            mine = self._by_trajectory.get(action.trajectory, set())
            mine.discard(handle)
            if not mine:
                self._by_trajectory.pop(action.trajectory, None)
        if handle.queue_timer is not None:
            handle.queue_timer.cancel()
        if handle.state != "done" and action.dedup_key is not None:
            self._remembered.pop(action.dedup_key, None)

    def _account(self, handle: ActionHandle):
        timing = handle.timing
        start_s = timing.get("start_s", timing["end_s"])
        self.metrics.ended(
            handle.action.kind, handle.state, max(0.0, start_s - timing["submit_s"] - timing.get("restore_s", 0.0)),
            timing.get("exec_s", timing["end_s"] - start_s), timing["end_s"] - timing["submit_s"],
        )  # fmt: skip
        if self.recorder is not None:
            self.recorder.write(handle)

    def _drop(self, handle: ActionHandle, state: str, result: Any) -> bool:
        """Ends an action that still waits; False if it does not."""
        if handle.entry is None or not self.core.cancel(time.monotonic(), handle.entry):
            return False
        self._handles.pop(handle.entry.seq, None)
        self._end(handle, state, result)
        self._wake()
        return True

    def _queue_timeout(self, handle: ActionHandle):
        waited_s = handle.action.queue_timeout_s
        self._drop(handle, "timed_out", ActionTimeout(f"the action waited longer than queue_timeout_s={waited_s:g}."))

    def leave_handle(self, handle: ActionHandle):
        """On the loop: one sharer fewer."""
        handle.sharers -= 1
        if handle.sharers < 1:
            self.cancel_handle(handle)

    def cancel_handle(self, handle: ActionHandle):
        """On the loop: ends the action wherever it is."""
        if handle.future.done() or self._drop(handle, "cancelled", None):
            return
        if handle.task is not None:
            handle.task.cancel()
        else:
            self._end(handle, "cancelled", None)

    # Trajectories, environments, nodes

    def cancel_trajectory(self, trajectory: str) -> int:
        """Cancels its actions and gives back what it held; how many were cancelled."""
        mine = list(self._by_trajectory.get(trajectory, ()))
        for handle in mine:
            self.cancel_handle(handle)
        self.release(trajectory)
        return len(mine)

    def release(self, home: str):
        """Once the running actions of a trajectory or environment have ended, what it holds is free again."""
        for environment in self._environments.pop(home, ()):
            self.release(environment)
        busy = [h.task for h in self._open if h.task is not None and h.entry is not None and h.entry.home == home]
        running = [task for task in busy if not task.done()]
        if running:
            waiting = asyncio.gather(*running, return_exceptions=True)
            waiting.add_done_callback(lambda _: self.release(home))
            return
        self.core.close(time.monotonic(), home)
        self._lost_environments.discard(home)
        self._wake()

    def node_lost(self, name: str):
        """The executor noticed that a node died; its running actions fail by themselves as their calls return."""
        if name not in self.core.nodes:
            return
        _, failed, homes = self.core.lose_node(time.monotonic(), name)
        self._lost_environments.update(homes)
        for entry, error in failed:
            self._end(self._handles.pop(entry.seq), "failed", error)
        for entry in self.core.waiting():
            if entry.home in self._lost_environments:
                lost = EnvironmentLost(f"environment {entry.home!r} was lost with node {name!r}.")
                self._drop(self._handles[entry.seq], "failed", lost)
        self._wake()

    def node_joined(self, node: Node):
        """On the loop: the executor has one more node."""
        self.core.add_node(time.monotonic(), node)
        self._wake()

    # Room in the queue, and the end

    async def room(self):
        """Waits until fewer than `max_queue` actions wait; QueueFull at once where `backpressure` says so."""
        while self.core.queued >= self.config.max_queue:
            if self.config.backpressure == "raise":
                raise QueueFull(f"{self.core.queued} actions wait, and `max_queue` is {self.config.max_queue}.")
            waiter = self.loop.create_future()
            self._room.append(waiter)
            await waiter
            self.check_open()

    def check_open(self):
        if self.state != "open":
            raise SchedulerLost(f"this scheduler is {self.state}: nothing can be submitted.")

    async def drain(self, timeout_s: float | None):
        waiting = [handle.future for handle in self._open]
        if waiting:
            _, left = await asyncio.wait(waiting, timeout=timeout_s)
            if left:
                raise TimeoutError(f"{len(left)} actions have not ended after {timeout_s:g} s.")

    async def close(self):
        """Cancels what is left; handles that have not ended raise SchedulerLost."""
        self.state = "closed"
        tasks = [handle.task for handle in self._open if handle.task is not None]
        for handle in list(self._open):
            self._end(handle, "cancelled", SchedulerLost("the scheduler was closed before the action ended."))
        for waiter in self._room:
            if not waiter.done():
                waiter.set_result(None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for timer in (self._pending, self._quota_timer):
            if timer is not None:
                timer.cancel()

    # Threads

    def _since_start(self) -> float:
        return time.monotonic() - self.started_s

    def here(self) -> bool:
        """Whether this is the scheduler's own loop."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    def on_loop(self, work: Callable, *args):
        """Calls `work` on the scheduler's loop, at once if that is where we are."""
        if self.here():
            work(*args)
        else:
            self.loop.call_soon_threadsafe(work, *args)

    def ask(self, work: Callable, *args) -> Any:
        """What `work` returns on the scheduler's loop."""
        if self.here() or self.state != "open":
            return work(*args)

        async def ask():
            return work(*args)

        return self.result(asyncio.run_coroutine_threadsafe(ask(), self.loop))

    def result(self, future: Future) -> Any:
        """What a future of the scheduler's loop comes to, for another thread; SchedulerLost if the loop ends before it."""
        while not future.done():
            wait([future], timeout=LOOP_CHECK_S)
            if not future.done() and self.loop.is_closed():
                raise SchedulerLost("the scheduler was closed before the action ended.")
        return future.result()


async def _caught(work: Awaitable) -> tuple[bool, Any]:
    """The exception of an action is its result."""
    try:
        return True, await work
    except Exception as error:  # noqa: BLE001  whatever it is, it goes to the caller
        return False, error
    except SystemExit as error:
        return False, RuntimeError(f"the action raised {error!r}")
