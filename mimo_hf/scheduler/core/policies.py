"""How many units each action gets, and in which order actions start. Pure and deterministic."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from .numbers import MOST_UNITS, PARTS, is_whole, shown

# An action as policies see it: `units`, `t1_s` (estimated), `shape` (types.Shape), `submit_s`, `seq`.
Entry = Any


def water_fill(group: Sequence[Entry], free: int, price: float | None = None) -> tuple[list[int], int]:
    """
    Gives `free` units where they save most: the exact optimum of sum T_i(m_i) for convex T, the optimum over lower convex
    hulls otherwise.

    Args:
        group: entries, whose `units` are where they start from.
        free: units to give beyond those.
        price: seconds a unit-second must save; a unit whose extra area costs more than it saves stays free.

    Returns:
        Units of each entry, and how many are left.
    """
    units = [entry.units for entry in group]
    if free < 1:
        return units, free
    if len(group) == 1:
        return _fill_one(group[0], free, price)
    heap: list[tuple[float, int, int, float, float]] = []
    for index, entry in enumerate(group):
        _push_step(heap, index, entry, units[index], entry.shape.curve.share(units[index]), price)
    while heap and free:
        _, index, step_to, share, _ = heappop(heap)
        if step_to - units[index] > free:
            continue
        free -= step_to - units[index]
        units[index] = step_to
        _push_step(heap, index, group[index], step_to, share, price)
    return units, free


def _push_step(heap: list, index: int, entry: Entry, units: int, share: float, price: float | None):
    step = entry.shape.step(units)
    if step is None:
        return
    gain = share - step[1]
    if gain > 0 and (price is None or gain > price * (step[0] * step[1] - units * share)):
        heappush(heap, (-entry.t1_s * gain / (step[0] - units), index, step[0], step[1], gain))


def _fill_one(entry: Entry, free: int, price: float | None) -> tuple[list[int], int]:
    units, shape = entry.units, entry.shape
    share = shape.curve.share(units)
    while (step := shape.step(units)) is not None:
        gain = share - step[1]
        worth = gain > 0 and (price is None or gain > price * (step[0] * step[1] - units * share))
        if not worth or step[0] - units > free:
            break
        free -= step[0] - units
        units, share = step
    return [units], free


def optimal_allotment(group: Sequence[Entry], free: int) -> list[int]:
    """
    Units of each entry that minimise sum T_i(m_i) with at most `free` units beyond the present ones, by dynamic
    programming over (entry, units): exact for any curve and any allowed amounts, in O(n m^2).
    """
    return list(_optima_of_prefixes(group, free)[-1])


def _optima_of_prefixes(group: Sequence[Entry], free: int) -> list[tuple[int, ...]]:
    """`optimal_allotment` of the first entry, of the first two, ..., each with `free` and the units of those after it."""
    total = free + sum(entry.units for entry in group)
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())] * (total + 1)
    optima = []
    for entry in group:
        choices = [(m, entry.t1_s * entry.shape.curve.share(m)) for m in entry.shape.choices() if m >= entry.units]
        best = [
            min(
                ((best[units - m][0] + time, (*best[units - m][1], m)) for m, time in choices if m <= units),
                default=(math.inf, ()),
            )
            for units in range(total + 1)
        ]
        optima.append(best[total][1])
    return optima


def shrinking_optima(group: Sequence[Entry], free: int) -> Iterator[tuple[list[int], list[float], int]]:
    """
    The optimum of the group, then of the group without its last entry, and so on to its first: units, durations, and what is
    left of `free` and of the units of those dropped. For convex curves each is the one before it, filled further: without an
    entry's steps the others keep their order.
    """
    convex = next((index for index, entry in enumerate(group) if not entry.shape.convex), len(group))
    if convex < len(group):
        total = free + sum(entry.units for entry in group)
        for optimum in reversed(_optima_of_prefixes(group, free)[convex:]):
            times = [e.t1_s * e.shape.curve.share(m) for e, m in zip(group, optimum, strict=False)]
            yield list(optimum), times, total - sum(optimum)
        free += sum(entry.units for entry in group[convex:])
    units = [entry.units for entry in group[:convex]]
    times = []
    heap: list[tuple[float, int, int, float, float]] = []
    for index, m in enumerate(units):
        share = group[index].shape.curve.share(m)
        times.append(group[index].t1_s * share)
        _push_step(heap, index, group[index], m, share, None)
    for kept in range(convex, 0, -1):
        while heap and free:
            _, index, m, share, _ = heappop(heap)
            if index < kept:
                free -= 1
                units[index] = m
                times[index] = group[index].t1_s * share
                _push_step(heap, index, group[index], m, share, None)
        del units[kept:], times[kept:]
        yield units, times, free
        free += units[-1]


class Policy:
    """
    Starts the longest prefix of the queue that fits and gives every action its least units.

    Args:
        order: "fcfs"; "srpt", shortest estimated work first; "hrrn", highest (wait + estimate)/estimate first.
        max_overtake: under "srpt", an action that has waited this many times its own estimate goes first.
    """

    name = "min"
    needs_finishes = False

    def __init__(self, order: str = "fcfs", max_overtake: float = 50.0):
        if order not in ("fcfs", "srpt", "hrrn"):
            raise ValueError(f"`order` must be fcfs, srpt or hrrn, not {shown(order)}.")
        if not max_overtake > 0:
            raise ValueError(f"`max_overtake` must be above 0, not {max_overtake!r}.")
        self.order = order
        self.max_overtake = max_overtake

    def floor(self, entry: Entry, capacity: int) -> int:
        """Units an action needs to be started at all."""
        return entry.shape.low

    def allot(self, group: list[Entry], book: Any, key: str, node: Any) -> int:
        """
        Sets `units` of the entries that start together on one node and compete for `key`.

        Args:
            book: the scheduler: `capacity_of(key)`, `free_of(key)`, `waiting_for(key)`, `peek(key, count)`, `now`.

        Returns:
            How many of them start; the others go back to the head of the queue.
        """
        return len(group)


class Fifo(Policy):
    """A fixed degree of parallelism `dop`, within each action's range."""

    name = "fifo"

    def __init__(self, dop: int = 1, **order):
        super().__init__(**order)
        if not is_whole(dop, 1, MOST_UNITS):
            raise ValueError(
                f"`dop` of fifo must be a whole number of at least 1 and at most {MOST_UNITS}, not {shown(dop)}."
            )
        self.dop = dop

    def floor(self, entry: Entry, capacity: int) -> int:
        shape = entry.shape
        if shape.options is None:
            return min(max(self.dop, shape.low), shape.high, max(shape.low, capacity))
        return max((m for m in shape.options if m <= min(self.dop, capacity)), default=shape.low)


class WaterFill(Policy):
    """All free units at once, each where it saves most."""

    name = "waterfill"

    def allot(self, group: list[Entry], book: Any, key: str, node: Any) -> int:
        units, _ = water_fill(group, node.left[key] // PARTS)
        for entry, m in zip(group, units, strict=True):
            entry.units = m
        return len(group)


class Price(Policy):
    """
    A unit is given only if the time it saves this action exceeds the delay it causes the others:
    T(m) - T(m+1) > lambda ((m+1) T(m+1) - m T(m)), with lambda = w/R + b rho/(1 - rho), w actions waiting, R units in all, a
    share rho of them in use.

    Args:
        b: weight of the actions to come.
        straggler_floor_s: an action that would take longer starts with more units, which is what step time needs; None: off.
        floor_min_eff: but only while the next unit keeps the efficiency T(1)/(m T(m)) this high, and up to R/4.
    """

    name = "price"

    def __init__(self, b: float = 0.1, straggler_floor_s: float | None = 30.0, floor_min_eff: float = 0.9, **order):
        super().__init__(**order)
        if not 0 <= b < math.inf:
            raise ValueError(f"`b` of price must be a number from 0, not {shown(b)}.")
        if straggler_floor_s is not None and not straggler_floor_s > 0:
            raise ValueError(f"`straggler_floor_s` must be above 0 or None, not {straggler_floor_s!r}.")
        if not 0 <= floor_min_eff <= 1:
            raise ValueError(f"`floor_min_eff` must lie in 0..1, not {floor_min_eff!r}.")
        self.b = b
        self.straggler_floor_s = straggler_floor_s
        self.floor_min_eff = floor_min_eff

    def floor(self, entry: Entry, capacity: int) -> int:
        shape = entry.shape
        units = shape.low
        if self.straggler_floor_s is None or shape.high == units or entry.t1_s <= self.straggler_floor_s:
            return units
        share, cap = shape.curve.share, capacity // 4
        while entry.t1_s * share(units) > self.straggler_floor_s:
            more = shape.next_option(units)
            if more == units or more > cap or more * share(more) * self.floor_min_eff > 1 + 1e-12:
                break
            units = more
        return units

    def allot(self, group: list[Entry], book: Any, key: str, node: Any) -> int:
        capacity = book.capacity_of(key)
        rho = 1 - book.free_of(key) / capacity
        price = book.waiting_for(key) / capacity + self.b * rho / max(1 - rho, 1e-3)
        units, _ = water_fill(group, node.left[key] // PARTS, price)
        for entry, m in zip(group, units, strict=True):
            entry.units = m
        return len(group)


class Evict(Policy):
    """
    The paper's greedy eviction, as reconstructed from public notes: allot the prefix at its optimum, then drop its last
    action as long as that lowers the sum of durations plus the estimated completion times of the next `depth` waiting.
    """

    name = "evict"
    needs_finishes = True

    def __init__(self, depth: int = 16, **order):
        super().__init__(**order)
        if not is_whole(depth, 0, MOST_UNITS):
            raise ValueError(f"`depth` of evict must be a whole number from 0 to {MOST_UNITS}, not {shown(depth)}.")
        self.depth = depth

    def allot(self, group: list[Entry], book: Any, key: str, node: Any) -> int:
        ahead = _Ahead(group, self.depth if len(group) > 1 else 0, self.order == "fcfs", book, key, node)
        kept, best, chosen = len(group), math.inf, [entry.units for entry in group]
        for units, times, left in shrinking_optima(group, node.left[key] // PARTS):
            value = sum(times) + ahead.completion_s(units, times, left)
            if value >= best:
                break
            kept, best, chosen = len(units), value, units.copy()
        for entry, m in zip(group, chosen, strict=False):
            entry.units = m
        return kept


class _Ahead:
    """What `evict` looks ahead to: the next `depth` in the queue, and when those that run will end."""

    def __init__(self, group: list[Entry], depth: int, in_order: bool, book: Any, key: str, node: Any):
        self._depth, self._book, self._key, self._now = depth, book, key, book.now
        self._ends = node.finishes(key, depth)
        self._dropped = [_least(entry) for entry in group] if depth else []
        # In another order than that of submission the first few are not the beginning of the first many.
        self._queued = [_least(entry) for entry in book.peek(key, depth)] if depth and in_order else None

    def completion_s(self, units: list[int], times: list[float], left: int) -> float:
        """
        Estimated sum of the completion times of the next `depth`, where the first of the group run on `units` for `times` and
        `left` are free: each on its least units as soon as the earliest ends leave that many.
        """
        rest = self._dropped[len(units) : len(units) + self._depth]
        if len(rest) < self._depth:
            missing = self._depth - len(rest)
            if self._queued is None:
                rest += [_least(entry) for entry in self._book.peek(self._key, missing)]
            else:
                rest += self._queued[:missing]
        if not rest:
            return 0.0
        now, total = self._now, 0.0
        ends = [*self._ends[: len(rest)], *[(now + t, m) for t, m in zip(times, units, strict=True)]]
        heapify(ends)
        for need, time_s, submit_s in rest:
            while left < need and ends:
                end, freed = heappop(ends)
                if end > now:
                    now = end
                left += freed
            left -= need
            total += now + time_s - submit_s
            heappush(ends, (now + time_s, need))
        return total


def _least(entry: Entry) -> tuple[int, float, float]:
    """Units, duration and submission of an action on its least units."""
    need = max(1, entry.shape.low)
    return need, entry.t1_s * entry.shape.curve.share(need), entry.submit_s


class SortedEnds:
    """Estimated ends of running actions, in order: what `evict` looks ahead with."""

    def __init__(self):
        self._ends: list[tuple[float, int, int]] = []

    def add(self, end_s: float, seq: int, units: int):
        item = (end_s, seq, units)
        self._ends.insert(bisect_left(self._ends, item), item)

    def remove(self, end_s: float, seq: int, units: int):
        del self._ends[bisect_left(self._ends, (end_s, seq, units))]

    def first(self, count: int) -> list[tuple[float, int]]:
        return [(end_s, units) for end_s, _, units in self._ends[:count]]


def srpt(max_overtake: float = 50.0, **options) -> Price:
    """`price` in the order of shortest work, aged so that none waits longer than `max_overtake` times its estimate first."""
    policy = Price(order="srpt", max_overtake=max_overtake, **options)
    policy.name = "srpt"
    return policy


def hrrn(**options) -> Price:
    """`price` in the order of the highest response ratio."""
    policy = Price(order="hrrn", **options)
    policy.name = "hrrn"
    return policy


POLICIES: dict[str, Callable[..., Policy]] = {
    "price": Price,
    "fifo": Fifo,
    "waterfill": WaterFill,
    "evict": Evict,
    "srpt": srpt,
    "hrrn": hrrn,
}


def make_policy(spec: str | Policy) -> Policy:
    """
    A policy from its name and options: "price", "fifo(dop=4)", "price(b=0.2, straggler_floor_s=None)"; `fifo4` is short for
    `fifo(dop=4)`.
    """
    if isinstance(spec, Policy):
        return spec
    name, _, rest = spec.strip().partition("(")
    if name.startswith("fifo") and name[4:].isdecimal():
        name, rest = "fifo", f"dop={name[4:]})"
    if name not in POLICIES or (rest and not rest.endswith(")")):
        raise ValueError(
            f"`policy` must be one of {', '.join(POLICIES)}, with options as in fifo(dop=4); got {shown(spec)}."
        )
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.removesuffix(")").split(","))):
        option, _, text = part.partition("=")
        options[option.strip()] = _value(text.strip())
    try:
        return POLICIES[name](**options)
    except TypeError as error:
        unknown = str(error).rpartition("unexpected keyword argument ")[2]
        problem = f"has no option {unknown}" if unknown != str(error) else "has an option that must be a number"
        raise ValueError(f"`policy` must be one that can be made; got {shown(spec)}, which {problem}.") from None


def _value(text: str) -> int | float | str | None:
    if text == "None":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
