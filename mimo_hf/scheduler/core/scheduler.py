"""The scheduler itself, one class in more than 500 lines since all its methods keep the same book.

It is a queue, a capacity book, and `schedule(now)`. Events go in with their time, leases come out.

It has no clock and does no input or output: the simulator drives it with virtual time, `ActionScheduler` with the real one.
"""

import math
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heapreplace
from typing import Any

from ..errors import Unsatisfiable
from .book import Entry, Lease, Node
from .durations import DurationModel
from .numbers import PARTS, counted
from .policies import Policy, SortedEnds, make_policy
from .queues import OrderedQueue, Queue
from .resources import Quota
from .types import Action, Shape

MAX_SHAPES = 65536
MAX_OVERTAKEN = 100  # actions that may start before one that fits nowhere yet


class Scheduler:
    """
    Args:
        nodes: capacities by node, such as {"local": {"cpu": 8, "memory": 64e9}}, or `Node`s.
        quotas: limits that belong to no node, such as {"search": TokenBucket(10, 20)}.
        policy: a `Policy`, or its name and options, as in "fifo(dop=4)".
        held: resources that the first action of a trajectory (or `env`) takes and `close` gives back.
        fair_tasks: among actions of one priority, those of the task with the fewest units in use go first.
        debug: check the whole book after every event.
    """

    def __init__(
        self,
        nodes: Mapping[str, Mapping[str, float]] | Iterable[Node],
        quotas: Mapping[str, Quota] | None = None,
        policy: str | Policy = "price",
        held: Iterable[str] = (),
        durations: DurationModel | None = None,
        fair_tasks: bool = False,
        debug: bool = False,
    ):
        listed = (
            [Node(name, capacity) for name, capacity in nodes.items()] if isinstance(nodes, Mapping) else list(nodes)
        )
        self.nodes = {node.name: node for node in listed}
        self.quotas = dict(quotas or {})
        self.policy = make_policy(policy)
        self.held = frozenset(held)
        self.durations = durations or DurationModel()
        self.fair_tasks = fair_tasks
        self.debug = debug
        self.now = -math.inf
        self.leases: dict[int, Lease] = {}
        self.queued = 0
        self._buckets: dict[tuple, Queue] = {}
        self._shapes: dict[tuple, Shape] = {}
        self._homes: dict[str, tuple[Node, dict[str, int]]] = {}
        self._homeless: dict[str, list[Entry]] = {}  # waiting actions whose home is on no node yet
        self._task_units: dict[str | None, float] = {}
        self._seq = 0
        self._recounts = 0  # of the nodes' capacities, which shapes remember their largest node by
        self._node_list = listed
        clashes = set(self.quotas) & {resource for node in listed for resource in node.capacity}
        if clashes:
            raise ValueError(
                f"`quotas` must have other names than the resources of nodes; got {', '.join(sorted(clashes))} as "
                "both."
            )
        self._recount()

    def _recount(self):
        self._capacity: dict[str, float] = {}
        for node in self._node_list:
            for resource, amount in node.capacity.items():
                self._capacity[resource] = self._capacity.get(resource, 0) + amount
        self._largest = {r: max(node.total.get(r, 0) for node in self._node_list) for r in self._capacity}
        self._recounts += 1
        self._shapes.clear()  # what was possible may be so no more

    # Events

    def submit(self, now: float, action: Action | Any, attempt: int = 1) -> Entry:
        """Queues an action. Raises ValueError if it could never run."""
        if not now <= self.now:
            self._advance(now)
        shape = self._shape(action.cost)
        home = action.env
        if self.held and not self.held.isdisjoint(shape.resources):
            home = home or action.trajectory
            if home is None:
                raise ValueError(
                    "`trajectory` or `env` must be given for an action that costs a held resource; got neither for "
                    f"{action.kind!r}."
                )
        est_s = action.est_s
        if est_s is not None and not 0 <= est_s < math.inf:
            raise ValueError(f"`est_s` must be a number of seconds from 0, not {est_s!r}.")
        t1_s = self.durations.t1_s(action.kind, est_s)
        self._seq += 1
        entry = Entry(action, self._seq, shape, now, t1_s, attempt)
        entry.home = home
        if shape.fitted:
            shape.curve = self.durations.curve(action.kind, action.est_s, shape)
        self._queue(entry)
        if self.debug:
            self.check()
        return entry

    def cancel(self, now: float, entry: Entry) -> bool:
        """Takes an action out of the queue; False if it is not waiting any more."""
        self._advance(now)
        if entry.bucket is None:
            return False
        entry.bucket.remove(entry)
        self.queued -= 1
        if entry.home in self._homeless:
            self._homeless[entry.home] = [other for other in self._homeless[entry.home] if other is not entry]
            if not self._homeless[entry.home]:
                del self._homeless[entry.home]
        return True

    def finish(self, now: float, lease: Lease, duration_s: float | None = None) -> bool:
        """
        Gives a lease back; False if it was given back before.

        Args:
            duration_s: how long the action ran, if that tells anything about its kind.
        """
        if lease.released:
            return False
        if now > self.now:
            self.now = now
        lease.released = True
        del self.leases[lease.seq]
        entry, node = lease.entry, lease.node
        shape = entry.shape
        for resource, amount, count in shape.fixed:
            if resource in self.quotas:
                self.quotas[resource].give(amount, now)
            elif resource not in self.held:
                node.left[resource] += count
        if shape.key is not None:
            node.left[shape.key] += lease.units * PARTS
        if lease.cores:
            node.cores.give(lease.cores)
        if lease.gpus:
            node.gpus.give(lease.gpus)
        if self.policy.needs_finishes:
            for resource, units in _whole_units(lease):
                node.ends[resource].remove(lease.end_s, lease.seq, units)
        if self.fair_tasks:
            self._task_units[lease.action.task] -= max(1, lease.units)
        if duration_s is not None:
            self.durations.observe(lease.action.kind, lease.action.est_s, shape, lease.units or 1, duration_s)
        if self.debug:
            self.check()
        return True

    def close(self, now: float, home: str):
        """Ends a trajectory or environment: its held resources come back. Its actions must have ended."""
        self._advance(now)
        if home in self._homes:
            node, counts = self._homes.pop(home)
            for resource, count in counts.items():
                node.left[resource] += count

    def lose_node(self, now: float, name: str) -> tuple[list[Lease], list[tuple[Entry, Exception]], list[str]]:
        """
        A node died.

        Returns:
            The leases it held (revoked here, once), the waiting actions that cannot run any more with the reason, and the
            homes (trajectories, environments) that lived there.
        """
        self._advance(now)
        node = self.nodes.pop(name)
        self._node_list.remove(node)
        lost = [lease for lease in self.leases.values() if lease.node is node]
        for lease in lost:
            self.finish(now, lease)
        homes = [home for home, (where, _) in self._homes.items() if where is node]
        for home in homes:
            del self._homes[home]
        self._recount()
        failed: list[tuple[Entry, Exception]] = []
        for entry in self.waiting():
            try:
                self.check_possible(entry.shape)
            except ValueError as error:
                self.cancel(now, entry)
                failed.append((entry, Unsatisfiable(f"node {name!r} is gone, and now {error}")))
        return lost, failed, homes

    def add_node(self, now: float, node: Node):
        self._advance(now)
        if node.name in self.nodes:
            raise ValueError(f"`node` must have a name of its own; got {node.name!r}, which is there already.")
        self.nodes[node.name] = node
        self._node_list.append(node)
        self._recount()

    # Decisions

    def schedule(self, now: float) -> list[Lease]:
        """Starts what the policy wants to start now."""
        if now > self.now:
            self.now = now
        if not self.queued:
            return []
        chosen = self._prefix()
        if not chosen:
            return []
        groups: dict[tuple, list[Entry]] = {}
        for entry in chosen:
            if entry.shape.key is not None:
                groups.setdefault((entry.node, entry.shape.key), []).append(entry)
        dropped: list[Entry] = []
        for (node, key), group in groups.items():
            if len(group) == 1 and group[0].units == group[0].shape.high:
                continue
            floors = [entry.units for entry in group]
            kept = self.policy.allot(group, self, key, node)
            for entry, floor in zip(group, floors, strict=True):
                self._grow(entry, floor)
            dropped += group[kept:]
        if dropped:
            for entry in sorted(dropped, key=lambda entry: -entry.seq):
                self._put_back(entry)
            gone = {entry.seq for entry in dropped}
            chosen = [entry for entry in chosen if entry.seq not in gone]
        leases = [self._grant(entry) for entry in chosen]
        if self.debug:
            self.check()
        return leases

    def next_ready_s(self) -> float:
        """When a quota may let the next action through; infinity: only an event changes anything."""
        soonest = math.inf
        for bucket in self._buckets.values():
            if not bucket.size:
                continue
            entry = bucket.head(self.now)
            waits = [
                self.quotas[resource].ready_s(amount, self.now)
                for resource, amount, _ in entry.shape.fixed
                if resource in self.quotas and not self.quotas[resource].fits(amount, self.now)
            ]
            if waits:
                soonest = min(soonest, max(waits))
        return soonest

    def _prefix(self) -> list[Entry]:
        """Takes heads of the queues in order as long as they fit. What does not fit blocks what shares its resource."""
        now = self.now
        chosen: list[Entry] = []
        blocked: set[tuple[str | None, str]] = set()
        live = [bucket for bucket in self._buckets.values() if bucket.size]
        if len(live) == 1:
            bucket = live[0]
            while bucket.size and self._place(entry := bucket.head(now), blocked):
                self._choose(entry, bucket, chosen)
        else:
            turned_away: list[tuple[Entry, int]] = []
            heads = [(bucket.key(now), bucket) for bucket in live]
            heapify(heads)
            while heads:
                bucket = heads[0][1]
                entry = bucket.head(now)
                if not self._place(entry, blocked):
                    turned_away.append((entry, len(chosen)))
                    heappop(heads)
                    continue
                self._choose(entry, bucket, chosen)
                if bucket.size:
                    heapreplace(heads, (bucket.key(now), bucket))
                else:
                    heappop(heads)
            for entry, before in turned_away:
                entry.overtaken += len(chosen) - before
        settled = [home for home in self._homeless if home in self._homes] if self._homeless else []
        for entry in [entry for home in settled for entry in self._homeless.pop(home) if entry.bucket is not None]:
            entry.bucket.remove(entry)
            self.queued -= 1
            self._queue(entry)
        return chosen + self._prefix() if settled else chosen

    def _choose(self, entry: Entry, bucket: Queue, chosen: list[Entry]):
        bucket.pop(entry)
        self.queued -= 1
        chosen.append(entry)
        if self.fair_tasks:
            task = entry.action.task
            self._task_units[task] = self._task_units.get(task, 0) + max(1, entry.units)

    def _place(self, entry: Entry, blocked: set[tuple[str | None, str]]) -> bool:
        """Takes the least units and all fixed costs of the entry on the node with most to spare, if there is one."""
        shape, home = entry.shape, entry.home
        nodes = self._node_list
        held: dict[str, int] = {}
        if home is not None and home in self._homes:
            node, held = self._homes[home]
            nodes = [node]
        key, units = shape.key, 0
        if key is not None:
            if nodes is not self._node_list:
                most_units = nodes[0].most(key)
            elif shape.most_as_of == self._recounts:
                most_units = shape.most
            else:
                most_units = self._most_units(shape)
            units = self.policy.floor(entry, most_units)
        if self.quotas and (short := self._short_of_quota(shape, blocked)) is not None:
            blocked.add((None, short))
            return False

        best: Node | None = None
        most: float = -1
        lacking: list[tuple[str, str]] = []
        for node in nodes:
            if blocked and any((node.name, r) in blocked and r not in held for r in shape.resources):
                continue
            short, spare = self._short_of(node, shape, units, held)
            if short is not None:
                lacking.append((node.name, short))
            elif spare > most:
                best, most = node, spare
        if best is None:
            if home is not None and self.never_at_home(entry) is not None:
                return False
            blocked.update(lacking)
            if entry.overtaken >= MAX_OVERTAKEN and self.held.isdisjoint(short for _, short in lacking):
                # Its resources might come free in turn for ever, and never together. (Who holds memory needs cores to end.)
                blocked.update((node.name, r) for node in nodes for r in shape.resources if r not in self.quotas)
                blocked.update((None, r) for r in shape.resources if r in self.quotas)
            return False
        entry.node, entry.units = best, units
        self._take(entry, held)
        return True

    def _most_units(self, shape: Shape) -> int:
        """Units of the key resource on the largest node that can meet the whole cost: no floor may be above it."""
        key = shape.key or ""
        shape.most_as_of = self._recounts
        shape.most = max((node.most(key) for node in self._node_list if self._could_meet(node, shape)), default=0)
        return shape.most

    def _could_meet(self, node: Node, shape: Shape) -> bool:
        """Whether the node, with all it has free, can start the action on its least units."""
        if shape.key is not None and node.most(shape.key) < shape.low:
            return False
        return all(
            resource in self.quotas
            or (node.total.get(resource, 0) >= count and (resource != "gpu" or node.most("gpu") >= int(amount)))
            for resource, amount, count in shape.fixed
        )

    def never_at_home(self, entry: Entry) -> Node | None:
        """The node of its home, where that can never meet its cost: it waits, and holds up nobody."""
        node = self._homes[entry.home][0] if entry.home is not None and entry.home in self._homes else None
        return None if node is None or self._could_meet(node, entry.shape) else node

    def _short_of_quota(self, shape: Shape, blocked: set[tuple[str | None, str]]) -> str | None:
        for resource, amount, _ in shape.fixed:
            if resource in self.quotas and (
                (None, resource) in blocked or not self.quotas[resource].fits(amount, self.now)
            ):
                return resource
        return None

    def _short_of(self, node: Node, shape: Shape, units: int, held: dict[str, int]) -> tuple[str | None, float]:
        """The first resource that the node has too little of, or None and how much it has to spare, `counted`."""
        free, spare = node.left, math.inf
        for resource, amount, count in shape.fixed:
            if resource not in self.quotas:
                need = count - held.get(resource, 0) if resource in self.held else count
                left = free.get(resource, -1) - need
                if left < 0 or (resource == "gpu" and node.gpus is not None and not node.gpus.fits(int(amount))):
                    return resource, 0.0
                if left < spare:
                    spare = left
        key = shape.key
        if key is not None:
            spare = free.get(key, -1) - units * PARTS
            if spare < 0 or (key == "gpu" and node.gpus is not None and not node.gpus.fits(units)):
                return key, 0.0
        return None, spare

    def _take(self, entry: Entry, held: dict[str, int]):
        node, shape = entry.node, entry.shape
        counts = dict(held)
        for resource, amount, count in shape.fixed:
            if resource in self.quotas:
                self.quotas[resource].take(amount, self.now)
            elif resource in self.held:
                node.left[resource] -= max(0, count - held.get(resource, 0))
                counts[resource] = max(count, held.get(resource, 0))
            else:
                node.left[resource] -= count
                if resource == "gpu" and node.gpus is not None:
                    entry.block = node.gpus.take(int(amount))
        if shape.key is not None:
            node.left[shape.key] -= entry.units * PARTS
            if shape.key == "gpu" and node.gpus is not None:
                entry.block = node.gpus.take(entry.units)
        if entry.home is not None:
            self._homes[entry.home] = (node, counts)

    def _grow(self, entry: Entry, floor: int):
        """Books the units beyond `floor` that the policy chose; for GPUs, as many as an aligned block allows."""
        node, key = entry.node, entry.shape.key
        if key == "gpu" and node.gpus is not None and entry.units > floor:
            node.gpus.give(entry.block)
            while entry.units > floor and not node.gpus.fits(entry.units):
                entry.units = max(m for m in entry.shape.choices() if m < entry.units)
            entry.block = node.gpus.take(entry.units)
        if entry.units != floor:
            node.left[key] -= (entry.units - floor) * PARTS
        if self.fair_tasks:
            self._task_units[entry.action.task] += entry.units - max(1, floor)

    def _put_back(self, entry: Entry):
        """Undoes `_place`."""
        node = entry.node
        for resource, amount, count in entry.shape.fixed:
            if resource in self.quotas:
                self.quotas[resource].take(-amount, self.now)
            elif resource not in self.held:
                node.left[resource] += count
        node.left[entry.shape.key] += entry.units * PARTS
        if entry.block:
            node.gpus.give(entry.block)
            entry.block = ()
        if self.fair_tasks:
            self._task_units[entry.action.task] -= max(1, entry.units)
        self._queue(entry)

    def _grant(self, entry: Entry) -> Lease:
        now = self.now
        lease = Lease(entry, now)
        self.leases[lease.seq] = lease
        node = entry.node
        if node.cores is not None:
            count = lease.units if lease.key == "cpu" else entry.shape.cores
            lease.cores = node.cores.take(count) if count else ()
        if self.policy.needs_finishes:
            lease.end_s = now + entry.t1_s * (entry.shape.curve.share(entry.units) if entry.units else 1.0)
            for resource, units in _whole_units(lease):
                node.ends.setdefault(resource, SortedEnds()).add(lease.end_s, lease.seq, units)
        return lease

    # What policies ask

    def capacity_of(self, key: str) -> float:
        return self._capacity[key]

    def free_of(self, key: str) -> float:
        if len(self._node_list) == 1:
            return self._node_list[0].left[key] / PARTS
        return sum(node.left.get(key, 0) for node in self._node_list) / PARTS

    def in_use(self) -> dict[str, float]:
        """Of every resource, on all nodes together."""
        used: dict[str, int] = {}
        for node in self._node_list:
            for resource, count in node.total.items():
                used[resource] = used.get(resource, 0) + count - node.left[resource]
        return {resource: count / PARTS for resource, count in used.items()}

    def waiting_for(self, key: str) -> int:
        """How many waiting actions need this resource."""
        return sum(bucket.size for bucket in self._buckets.values() if key in bucket.resources)

    def peek(self, key: str, count: int) -> list[Entry]:
        """The first `count` waiting actions that need this resource."""
        found: list[Entry] = []
        for bucket in self._buckets.values():
            if bucket.size and key in bucket.resources:
                found += bucket.first(count)
        return sorted(found, key=lambda entry: entry.seq)[:count]

    def waiting(self) -> list[Entry]:
        """All waiting actions in order of submission."""
        return sorted(
            (entry for bucket in self._buckets.values() for entry in bucket.first(bucket.size)),
            key=lambda entry: entry.seq,
        )

    # The book

    def check(self):
        """Raises AssertionError unless free + leases + held = capacity for every resource and no unit is leased twice."""
        for node in self._node_list:
            used = dict.fromkeys(node.total, 0)
            cores: list[int] = []
            for lease in self.leases.values():
                if lease.node is node:
                    cores += lease.cores
                    for resource, amount in lease.resources.items():
                        if resource in used and resource not in self.held:
                            used[resource] += counted(amount)
            for where, counts in self._homes.values():
                if where is node:
                    for resource, count in counts.items():
                        used[resource] += count
            if len(cores) != len(set(cores)):
                raise AssertionError(f"a core of {node.name} is in two leases")
            for resource, total in node.total.items():
                left = node.left[resource]
                if left < 0:
                    raise AssertionError(f"{resource} of {node.name} is overdrawn: {left / PARTS}")
                if used[resource] + left != total:
                    raise AssertionError(
                        f"{resource} of {node.name}: {used[resource] / PARTS} used + {left / PARTS} free is not {total / PARTS}"
                    )

    def _advance(self, now: float):
        if now != now:
            raise ValueError(f"`now` must be a number; got {now!r}.")
        self.now = max(self.now, now)  # a clock that jumps back stands still

    def _shape(self, cost: Mapping[str, Any]) -> Shape:
        key = tuple(cost.items())
        shape = self._shapes.get(key)
        if shape is None:
            shape = Shape(cost)
            self.check_possible(shape)
            if shape.fitted:
                return shape
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            self._shapes[key] = shape
        return shape

    def check_possible(self, shape: Shape):
        """Raises ValueError for a cost that no node and no quota can ever meet."""
        for resource in shape.resources:
            if resource not in self._capacity and resource not in self.quotas:
                known = ", ".join(sorted([*self._capacity, *self.quotas])) or "none"
                raise ValueError(f"`cost` must name known resources: {known}; got {resource!r}.")
        if shape.key in self.quotas:
            raise ValueError(
                f"`cost` must have a number for a quota, which cannot be elastic; got a range of {shape.key!r}."
            )
        needs: dict[str, float] = {resource: amount for resource, amount, _ in shape.fixed}
        if shape.key is not None:
            needs[shape.key] = shape.low
        for resource, amount in needs.items():
            if resource in self.quotas:
                if counted(amount) > counted(self.quotas[resource].most):
                    raise ValueError(
                        f"`cost` of {resource!r} must not be more than its quota allows at once, "
                        f"{self.quotas[resource].most:g}; got {amount}."
                    )
            elif counted(amount) > self._largest[resource]:
                raise ValueError(
                    f"`cost` of {resource!r} must not be more than the largest node has, "
                    f"{self._largest[resource] / PARTS:g}; got {amount}."
                )
        if not any(self._could_meet(node, shape) for node in self._node_list):
            on_nodes = {resource: amount for resource, amount in needs.items() if resource not in self.quotas}
            raise ValueError(
                f"`cost` must fit on one node; got {on_nodes}{self._in_blocks(on_nodes)}, and no single node has all "
                "of it."
            )

    def _in_blocks(self, needs: Mapping[str, float]) -> str:
        most = max((node.most("gpu") for node in self._node_list), default=0)
        return f"; GPUs are given in aligned blocks, of at most {most} here" if needs.get("gpu", 0) > most else ""

    def _queue(self, entry: Entry):
        action, resources = entry.action, entry.shape.resources
        bound = self._homes[entry.home][0].name if entry.home in self._homes else None
        if bound is not None and self.never_at_home(entry) is not None:
            bound = f"never {bound}"
        if entry.home is not None and bound is None:
            self._homeless.setdefault(entry.home, []).append(entry)
        task = action.task if self.fair_tasks else None
        key = (-action.priority, resources, bound, task)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) > 256:
                self._buckets = {k: b for k, b in self._buckets.items() if b.size}
            share = self._task_units if self.fair_tasks else None
            make = Queue if self.policy.order == "fcfs" else OrderedQueue
            bucket = self._buckets[key] = make(-action.priority, resources, task, share, self.policy)
        entry.bucket = bucket
        bucket.push(entry)
        self.queued += 1


def _whole_units(lease: Lease) -> list[tuple[str, int]]:
    capacity = lease.node.capacity
    whole = [(resource, int(amount)) for resource, amount, _ in lease.entry.shape.fixed if resource in capacity]
    return whole if lease.key is None else [*whole, (lease.key, lease.units)]
