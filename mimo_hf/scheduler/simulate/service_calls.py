"""Services that share a device, under a virtual clock: the live service manager's residency rule on synthetic requests."""

import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from ..services.residency import Replica, Residency, Service
from .trace import Trace


@dataclass(frozen=True)
class Request:
    """A call of `service` at `at_s` that runs for `exec_s`."""

    at_s: float
    service: str
    exec_s: float


@dataclass
class ServiceResult:
    """
    Attributes:
        act_s: of each request, in order: end minus arrival.
        end_s: when the last one ended.
        switches: restores from host memory.
        most: units of the device in use at once.
    """

    act_s: list[float]
    end_s: float
    switches: int
    most: float


def mopd_requests(
    count: int = 4000, rate: float = 6.0, services: int = 9, seed: int = 0, burst: float = 0.25, exec_s: float = 0.54
) -> list[Request]:
    """
    Log-probability requests to `services` teachers whose use falls off as 1/rank (Zipf).

    Args:
        rate: requests a second on average.
        burst: share of the requests that comes within the last twentieth of the time, as roll-outs end together.
        exec_s: mean duration; lognormal with sigma 0.4.
    """
    rng = random.Random(seed)  # noqa: S311  a seeded workload, no secret
    weights = [1 / (rank + 1) for rank in range(services)]
    span = count / rate
    times = [rng.uniform(0.95 * span, span) if rng.random() < burst else rng.uniform(0, span) for _ in range(count)]
    names = [f"teacher{rank}" for rank in rng.choices(range(services), weights, k=count)]
    sizes = [exec_s * math.exp(rng.gauss(-0.08, 0.4)) for _ in range(count)]
    return [Request(at, name, size) for at, name, size in zip(sorted(times), names, sizes, strict=True)]


def recorded_requests(trace: Trace) -> list[Request]:
    """The calls of services in a live run's trace: a service for each kind, and what its batches took."""
    ran = [record for record in trace.records if record.submit_s is not None and record.start_s is not None]
    calls = [Request(r.submit_s or 0.0, r.kind, (r.end_s or 0.0) - (r.start_s or 0.0)) for r in ran]
    return sorted(calls, key=lambda call: call.at_s)


def simulate_services(
    requests: Sequence[Request],
    capacity: float,
    size: float = 4,
    restore_s: float | Mapping[str, float] = 0.5,
    concurrency: int = 8,
    kappa: float = 5.0,
    sticky: bool = True,
    resident: bool = False,
    most_replicas: int | None = None,
) -> ServiceResult:
    """
    Args:
        requests: in order of arrival.
        capacity, size: units of the device in all, and of one service.
        most_replicas: of one service at once; None: any number.
        resident: a static partition: one replica of each service, on the device from the beginning to the end.
        sticky, kappa, restore_s, concurrency: see `Residency` and `Service`.
    """
    book = Residency(capacity, kappa, sticky, most_replicas=1 if resident else most_replicas or len(requests))
    for name in sorted({request.service for request in requests}):
        takes_s = restore_s if isinstance(restore_s, int | float) else restore_s[name]
        book.add(Service(name, size, takes_s, concurrency))
        if resident:
            if not book.has_room(book.services[name]):
                raise ValueError(
                    f"`resident` must be possible: each service needs {size:g} units; got {capacity:g} in all."
                )
            book.replicas.append(Replica(book.services[name], 0.0, ready=True))
    queues: dict[str, deque[int]] = {name: deque() for name in book.services}
    act_s = [0.0] * len(requests)
    events: list[tuple[float, int, str, Any]] = []
    for index, request in enumerate(requests):
        heappush(events, (request.at_s, index, "arrive", index))
    order, now, most, review_s = len(requests), 0.0, book.used, math.inf
    while events or review_s < math.inf:
        now = min(events[0][0] if events else math.inf, review_s)
        while events and events[0][0] <= now:
            _, _, what, about = heappop(events)
            if what == "arrive":
                request = requests[about]
                queues[request.service].append(about)
                book.services[request.service].waiting.append(now)
            elif what == "ready":
                about.ready, about.since_s = True, now
            else:
                replica, index = about
                book.end(replica, now)
                act_s[index] = now - requests[index].at_s
                service, took = replica.service, requests[index].exec_s
                service.request_s = 0.8 * service.request_s + 0.2 * took if service.request_s else took
        changing = True
        while changing:
            changing = False
            for name, queue in queues.items():
                while queue and (room := book.room(name)) is not None:
                    index = queue.popleft()
                    book.services[name].waiting.popleft()
                    book.start(room, now)
                    order += 1
                    heappush(events, (now + requests[index].exec_s, order, "end", (room, index)))
            evicted, restored = book.plan(now)
            changing = bool(evicted) or restored is not None
            if restored is not None:
                order += 1
                heappush(events, (now + restored.service.restore_s, order, "ready", restored))
            most = max(most, book.used)
        review_s = book.review_s(now)
        if review_s <= now:
            review_s = math.inf
    if any(queues.values()):
        raise RuntimeError("some requests were never served.")
    return ServiceResult(act_s, now, book.switches, most)
