"""
Which services are on the device: sticky residency, shared by the live service manager and the simulator.

Switching at every request thrashes, so a service leaves only when its queue is empty, or when it has been resident longer
than kappa restore times while another's request waits. The next one is that with the largest backlog x age / restore time; a
second replica comes only where the backlog would take longer than 1.5 restores.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from ..core.numbers import PARTS, counted


@dataclass
class Service:
    """
    Attributes:
        size: units of the device it takes, such as bytes or GPUs.
        restore_s: time from host to device.
        concurrency: requests a replica runs at once.
        request_s: mean time of a request.
    """

    name: str
    size: float
    restore_s: float
    concurrency: int = 1
    request_s: float = 0.0
    waiting: deque[float] = field(default_factory=deque)  # arrival times


@dataclass(eq=False)
class Replica:
    """A service on the device, or on its way there."""

    service: Service
    since_s: float
    ready: bool = False
    running: int = 0
    draining: bool = False
    used_s: float = -math.inf


class Residency:
    """
    Args:
        capacity: units of the device in all.
        kappa: restore times a service stays at least while it has work.
        sticky: False evicts whatever is idle or least recently used as soon as an older request of another service waits.
    """

    def __init__(self, capacity: float, kappa: float = 5.0, sticky: bool = True, most_replicas: int = 1 << 30):
        self.capacity = capacity
        self.kappa = kappa
        self.sticky = sticky
        self.most_replicas = most_replicas
        self.services: dict[str, Service] = {}
        self.replicas: list[Replica] = []
        self.switches = 0

    def add(self, service: Service):
        if self.capacity < math.inf and counted(service.size) > counted(self.capacity):
            raise ValueError(
                f"{service.name!r} must fit on the device, which has {self.capacity:g}; got {service.size:g}."
            )
        self.services[service.name] = service

    @property
    def used(self) -> float:
        return self._used() / PARTS

    @property
    def free(self) -> float:
        return self.capacity if self.capacity == math.inf else (counted(self.capacity) - self._used()) / PARTS

    def _used(self) -> int:
        return sum(counted(replica.service.size) for replica in self.replicas)

    def has_room(self, service: Service) -> bool:
        """Whether one more replica of it fits."""
        return self.capacity == math.inf or self._used() + counted(service.size) <= counted(self.capacity)

    def room(self, name: str) -> Replica | None:
        """A replica that can take a request now."""
        open_ones = [
            r for r in self.replicas
            if r.service.name == name and r.ready and not r.draining and r.running < r.service.concurrency
        ]  # fmt: skip
        return min(open_ones, key=lambda r: r.running, default=None)

    def start(self, replica: Replica, now: float):
        replica.running += 1
        replica.used_s = now

    def end(self, replica: Replica, now: float):
        replica.running -= 1
        replica.used_s = now

    def plan(self, now: float) -> tuple[list[Replica], Replica | None]:
        """
        What to change now: replicas to evict (none of them runs anything), then the replica to restore, if there is room
        for it after that. Restores are booked here; the caller sets `ready` when they are done.
        """
        wanted = self._wanted(now)
        if wanted is None:
            for replica in self.replicas:
                replica.draining = False
            return [], None
        evicted: list[Replica] = []
        for victim in self._victims(wanted, now):
            if self.has_room(wanted):
                break
            if victim.running:
                victim.draining = True  # no new requests; it leaves when the last one ends
            else:
                self.replicas.remove(victim)
                evicted.append(victim)
        if not self.has_room(wanted):
            return evicted, None
        for replica in self.replicas:
            replica.draining = False
        restored = Replica(wanted, now)
        self.replicas.append(restored)
        self.switches += 1
        return evicted, restored

    def review_s(self, now: float) -> float:
        """When a waiting service may push out a busy one; infinity if none waits."""
        if self._wanted(now) is None:
            return math.inf
        ends = [r.since_s + self.kappa * r.service.restore_s for r in self.replicas if r.ready and not r.draining]
        return min((end for end in ends if end > now), default=math.inf)

    def _wanted(self, now: float) -> Service | None:
        best, most = None, -1.0
        for service in self.services.values():
            if not service.waiting:
                continue
            mine = [r for r in self.replicas if r.service is service]
            if any(not r.ready or r.draining for r in mine) or len(mine) >= self.most_replicas:
                continue  # on its way, or about to make room
            if mine:
                backlog_s = len(service.waiting) * service.request_s / (service.concurrency * len(mine))
                if backlog_s <= 1.5 * service.restore_s:
                    continue
            urgency = len(service.waiting) * max(now - service.waiting[0], 1e-9) / max(service.restore_s, 1e-9)
            if urgency > most:
                best, most = service, urgency
        return best

    def _victims(self, wanted: Service, now: float) -> list[Replica]:
        """Those that may leave: idle ones, least recently used first; then those that have stayed long enough."""
        others = [r for r in self.replicas if r.ready and r.service is not wanted]
        idle = [r for r in others if not r.service.waiting and not r.running]
        if self.sticky:
            long = [r for r in others if r not in idle and (
                r.draining or now >= r.since_s + self.kappa * r.service.restore_s or not r.service.waiting
            )]  # fmt: skip
        else:
            oldest = wanted.waiting[0]
            long = [r for r in others if r not in idle and (
                r.draining or not r.service.waiting or r.service.waiting[0] > oldest
            )]  # fmt: skip
        return sorted(idle, key=lambda r: r.used_s) + sorted(long, key=lambda r: (not r.draining, r.since_s))
