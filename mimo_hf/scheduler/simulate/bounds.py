"""What no policy can beat: lower bounds on completion and step time, and the optimum of tiny instances by brute force."""

import heapq
import itertools
import math
from collections.abc import Sequence

from ..core.types import Shape
from .trace import Record, Trace


def _choices(record: Record, capacity: int) -> list[tuple[int, float]]:
    """(units of the key resource, duration) of every allotment."""
    shape = Shape(record.cost)
    if shape.key is None:
        units = int(sum(amount for _, amount, _ in shape.fixed))
        return [(units, record.t1_s)]
    return [(m, record.t1_s * shape.curve.share(m)) for m in shape.choices() if m <= capacity]


def act_lower_bound_s(trace: Trace, capacity: int) -> float:
    """
    Lower bound on the mean ACT of actions released at fixed times on `capacity` units of one resource: the larger of
    sum T_i(max), and the flow time of preemptive shortest-remaining-time on one machine of speed `capacity` with the areas
    min_m m T_i(m).
    """
    if not trace.records:
        raise ValueError("`trace` must have actions to bound their completion times; got a trace without actions.")
    jobs = []
    fastest = 0.0
    for record in trace.records:
        if record.trajectory is not None:
            raise ValueError(
                f"`trace` must have fixed release times, that is no trajectories; got {trace.name!r} with some."
            )
        choices = _choices(record, capacity)
        fastest += min(time for _, time in choices)
        jobs.append((record.gap_s, min(units * time for units, time in choices) / capacity))
    return max(fastest, srpt_flow_s(jobs)) / len(jobs)


def srpt_flow_s(jobs: Sequence[tuple[float, float]]) -> float:
    """Total flow time of preemptive SRPT on one machine; jobs are (release, work), and no schedule does better."""
    waiting: list[tuple[float, float]] = []
    flow, now = 0.0, 0.0
    arrivals = sorted(jobs)
    index = 0
    while index < len(arrivals) or waiting:
        if not waiting:
            now = max(now, arrivals[index][0])
        while index < len(arrivals) and arrivals[index][0] <= now:
            heapq.heappush(waiting, (arrivals[index][1], arrivals[index][0]))
            index += 1
        work, release = heapq.heappop(waiting)
        until = arrivals[index][0] if index < len(arrivals) else math.inf
        if now + work <= until:
            now += work
            flow += now - release
        else:
            heapq.heappush(waiting, (work - (until - now), release))
            now = until
    return flow


def step_lower_bound_s(trace: Trace, capacity: int) -> float:
    """Lower bound on the step time: the longest trajectory with every action at its fastest, and all work over capacity."""
    lengths: dict[str, float] = {}
    area = 0.0
    for record in trace.records:
        choices = _choices(record, capacity)
        name = record.trajectory or f"alone {record.id}"
        lengths[name] = lengths.get(name, 0.0) + record.gap_s + min(time for _, time in choices)
        area += min(units * time for units, time in choices)
    return max(*lengths.values(), area / capacity) if len(lengths) > 1 else max([*lengths.values(), area / capacity])


def best_act_s(trace: Trace, capacity: int) -> float:
    """
    The least possible mean ACT of at most five actions with fixed release times, over all orders and allotments by serial
    schedule generation: each action starts at the earliest time its units are free, which contains an optimal schedule.
    """
    records = trace.records
    if not 1 <= len(records) <= 5:
        raise ValueError(f"`records` must be 1 to 5 actions for brute force; got {len(records)}.")
    best = math.inf
    for allotment in itertools.product(*(_choices(record, capacity) for record in records)):
        for order in itertools.permutations(range(len(records))):
            total = 0.0
            placed: list[tuple[float, float, int]] = []
            for index in order:
                units, time = allotment[index]
                start = _earliest_s(placed, records[index].gap_s, units, time, capacity)
                placed.append((start, start + time, units))
                total += start + time - records[index].gap_s
                if total >= best:
                    break
            best = min(best, total)
    return best / len(records)


def _earliest_s(placed, release, units, time, capacity) -> float:
    starts = sorted({release, *(end for _, end, _ in placed if end > release)})
    for start in starts:
        points = [start, *(begin for begin, _, _ in placed if start < begin < start + time)]
        if all(units + sum(u for a, b, u in placed if a <= point < b) <= capacity for point in points):
            return start
    raise AssertionError("after the last end everything is free")
