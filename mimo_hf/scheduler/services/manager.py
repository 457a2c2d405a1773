"""Models behind actions: loaded once, kept in host memory, on the device while they have work, called in batches."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ..config import SchedulerConfig
from ..core.types import ServiceCall
from .residency import Replica, Residency, Service


class ModelService:
    """
    A model that actions call by name; subclass it, or use `accel.TorchService`.

    Attributes:
        nbytes: device memory while resident, workspace of calls included.
        restore_cost_s: time from host to device, an EWMA once measured.
        max_batch_tokens, max_wait_ms: calls are joined up to so many tokens (`ServiceCall.tokens`), waiting so long.
    """

    nbytes: int = 0
    restore_cost_s: float = 1.0
    max_batch_tokens: int = 1
    max_wait_ms: float = 0.0

    def load(self):
        """Once, before the first call: into host memory."""

    def to_device(self):
        """Makes it callable."""

    def to_host(self):
        """Frees the device."""

    def call(self, batch: list[Any]) -> list[Any]:
        """One result for each request of the batch."""
        raise NotImplementedError


@dataclass(eq=False)
class _Request:
    call: ServiceCall
    future: asyncio.Future
    at_s: float
    timing: dict[str, float]


class ServiceManager:
    """Runs services in threads of this process, within `gpu_bytes` of device memory."""

    def __init__(
        self, services: Mapping[str, ModelService], config: SchedulerConfig, loop: asyncio.AbstractEventLoop,
        on_switch: Callable[[], None],
    ):  # fmt: skip
        self._loop = loop
        self._on_switch = on_switch
        capacity = math.inf if config.gpu_bytes is None else float(config.gpu_bytes)
        if config.gpu_bytes is None and services:
            from .torch_service import gpu_budget_bytes

            capacity = gpu_budget_bytes(config.gpu_reserve)
        self.residency = Residency(capacity, config.restore_kappa, most_replicas=1)
        self._queues: dict[str, deque[_Request]] = {}
        self._loaded: set[str] = set()
        self._threads = ThreadPoolExecutor(max_workers=max(32, 2 * len(services)), thread_name_prefix="mimo-service")
        self._tasks: set[asyncio.Task] = set()
        self._switching = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self.restores: list[tuple[str, float]] = []
        self._services: dict[str, ModelService] = {}
        for name, service in services.items():
            self.add(name, service)

    def add(self, name: str, service: ModelService):
        """One more service; ValueError if it is larger than the device or its name is taken."""
        if name in self._services:
            raise ValueError(f"`name` of a service must be a new one; got {name!r}, which is there already.")
        self.residency.add(Service(name, service.nbytes, service.restore_cost_s))
        self._services[name] = service
        self._queues[name] = deque()

    def check(self, call: ServiceCall):
        if call.service not in self._services:
            raise ValueError(
                f"`service` must be one of {', '.join(self._services) or 'none, as there are none'}; got "
                f"{call.service!r}."
            )

    async def call(self, call: ServiceCall, timing: dict[str, float] | None = None) -> Any:
        """
        Waits for the service to be resident and for a place in a batch; its result, or its exception.

        Args:
            timing: gets `start_s` (of the batch, on the monotonic clock), `exec_s` (of the batch), and `restore_s` if the call
                had to wait for that.
        """
        request = _Request(call, self._loop.create_future(), time.monotonic(), {} if timing is None else timing)
        self._queues[call.service].append(request)
        self.residency.services[call.service].waiting.append(request.at_s)
        self._pump()
        try:
            return await request.future
        except asyncio.CancelledError:
            if request in self._queues[call.service]:  # a request in a running batch only loses its result
                self._queues[call.service].remove(request)
                self.residency.services[call.service].waiting.remove(request.at_s)
            raise

    def _pump(self):
        """Starts batches on resident services, switches where the rule says so, and starts what that lets through."""
        now = time.monotonic()
        self._start_batches(now)
        while True:
            evicted, restored = self.residency.plan(now)
            if not evicted and restored is None:
                break
            self._spawn(self._switch(evicted, restored))
        soonest = min(self._start_batches(now), self.residency.review_s(now))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(0.0, soonest - now), self._pump) if soonest < math.inf else None

    def _start_batches(self, now: float) -> float:
        """Returns when the next batch has waited long enough for more."""
        soonest = math.inf
        for name, queue in self._queues.items():
            while queue and (replica := self.residency.room(name)) is not None:
                service = self._services[name]
                ready_s = queue[0].at_s + service.max_wait_ms / 1e3
                if now < ready_s and sum(r.call.tokens for r in queue) < service.max_batch_tokens:
                    soonest = min(soonest, ready_s)
                    break
                self.residency.start(replica, now)
                self._spawn(self._run_batch(name, replica, self._next_batch(name)))
        return soonest

    def _next_batch(self, name: str) -> list[_Request]:
        queue, waiting = self._queues[name], self.residency.services[name].waiting
        batch: list[_Request] = []
        tokens = 0
        while queue and (not batch or tokens + queue[0].call.tokens <= self._services[name].max_batch_tokens):
            tokens += queue[0].call.tokens
            batch.append(queue.popleft())
            waiting.popleft()
        return batch

    def _spawn(self, work):
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_batch(self, name: str, replica: Replica, batch: list[_Request]):
        service, booked = self._services[name], self.residency.services[name]
        begin = time.monotonic()
        for request in batch:
            request.timing["start_s"] = begin
        try:
            results = await self._loop.run_in_executor(self._threads, service.call, [r.call.batch for r in batch])
            for request in batch:
                request.timing["exec_s"] = time.monotonic() - begin
            if len(results) != len(batch):
                raise RuntimeError(f"service {name!r} returned {len(results)} results for {len(batch)} requests.")
        except Exception as error:  # noqa: BLE001  the service's exception is the result of each request
            for request in batch:
                if not request.future.done():
                    request.future.set_exception(error)
        else:
            for request, result in zip(batch, results, strict=True):
                if not request.future.done():
                    request.future.set_result(result)
        finally:
            now = time.monotonic()
            each_s = (now - begin) / len(batch)
            booked.request_s = each_s if not booked.request_s else 0.8 * booked.request_s + 0.2 * each_s
            self.residency.end(replica, now)
            self._pump()

    async def _switch(self, evicted: list[Replica], restored: Replica | None):
        """
        One at a time, and in the order of the plans: what comes to the device has to wait for what leaves it. Evictions don't
        wait for a load, since plans made meanwhile count on their room.
        """
        name = "" if restored is None else restored.service.name
        try:
            async with self._switching:
                for replica in evicted:
                    await self._loop.run_in_executor(self._threads, self._services[replica.service.name].to_host)
            if restored is not None:
                if name not in self._loaded:
                    await self._loop.run_in_executor(self._threads, self._services[name].load)
                    self._loaded.add(name)
                async with self._switching:
                    begin = time.monotonic()
                    await self._loop.run_in_executor(self._threads, self._services[name].to_device)
                    self._restored(restored, time.monotonic() - begin)
        except Exception as error:  # noqa: BLE001  whoever waits for the service has to know
            if restored is not None:
                self._give_up(restored, error)
        self._pump()

    def _restored(self, replica: Replica, took_s: float):
        name = replica.service.name
        self.restores.append((name, took_s))
        replica.service.restore_s = 0.7 * replica.service.restore_s + 0.3 * took_s
        self._services[name].restore_cost_s = replica.service.restore_s
        replica.since_s = now = time.monotonic()
        replica.ready = True
        for request in self._queues[name]:  # some have come meanwhile
            waited_s = request.timing.get("restore_s", 0.0)
            request.timing["restore_s"] = waited_s + min(took_s, now - request.at_s)
        self._on_switch()

    def _give_up(self, replica: Replica, error: Exception):
        name = replica.service.name
        self.residency.replicas.remove(replica)
        self.residency.services[name].waiting.clear()
        while self._queues[name]:
            request = self._queues[name].popleft()
            if not request.future.done():
                request.future.set_exception(error)

    async def close(self):
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        for replica in self.residency.replicas:
            if replica.ready:
                self._services[replica.service.name].to_host()
