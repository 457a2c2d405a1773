"""The simulator: the live scheduler's core under a virtual clock."""

import gc
import math
from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Any

from ..core.book import Lease, Node
from ..core.policies import Policy
from ..core.resources import Quota
from ..core.scheduler import Scheduler
from ..core.types import Shape
from .trace import Record, Trace, TraceError


@dataclass
class Result:
    """
    Attributes:
        submit_s, start_s, end_s: of every record, in the order of the trace; `end_s` includes the overhead.
        units: of the key resource, 0 where there is none.
        makespan_s: when the last trajectory or action ended: the step time.
        capacity: of every resource.
        unit_seconds: used, by resource.
        decisions: (time, record id, units, node) in order, where asked for.
    """

    submit_s: array
    start_s: array
    end_s: array
    units: array
    overhead_s: float
    makespan_s: float
    capacity: dict[str, float]
    unit_seconds: dict[str, float]
    decisions: list[tuple[float, int, int, str]] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    cores: list[tuple[int, ...]] = field(default_factory=list)

    def act_s(self) -> list[float]:
        """Action completion times: end minus submission."""
        return [end - submit for submit, end in zip(self.submit_s, self.end_s, strict=True)]

    def summary(self) -> dict[str, Any]:
        """Mean, median and 99th percentile of ACT, its parts, step time, and the use of each resource."""
        acts = sorted(self.act_s())
        count = len(acts)
        if not count:
            raise ValueError(
                "`trace` must have actions to summarise their completion times; got a trace without actions."
            )
        queue = math.fsum(start - submit for submit, start in zip(self.submit_s, self.start_s, strict=True)) / count
        mean = math.fsum(acts) / count
        return {
            "actions": count,
            "act_mean_s": mean,
            "act_p50_s": acts[(count - 1) // 2],
            "act_p99_s": acts[min(count - 1, math.ceil(0.99 * count) - 1)],
            "exec_s": mean - queue - self.overhead_s,
            "queue_s": queue,
            "overhead_s": self.overhead_s,
            "step_s": self.makespan_s,
            "utilization": {
                name: used / (self.capacity[name] * self.makespan_s) if self.makespan_s else 0.0
                for name, used in self.unit_seconds.items()
            },
        }


@contextmanager
def _no_garbage():
    """Nothing here is cyclic: walking millions of live objects again and again would take a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _check_possible(trace: Trace, core: Scheduler):
    """Costs that no node can meet; records that were read share them."""
    found: dict[int, str] = {}
    problems = []
    for record in trace.records:
        known = id(record.cost)
        if known not in found:
            try:
                core.check_possible(Shape(record.cost))
                found[known] = ""
            except ValueError as error:
                found[known] = str(error)
        if found[known]:
            problems.append(f"{trace.place(record)}: {found[known]}")
    if problems:
        raise TraceError(problems)


def _never_started(trace: Trace, core: Scheduler, slot: array, missing: int) -> str:
    entry = core.waiting()[0]
    node = core.never_at_home(entry)
    first = trace.records[slot[entry.seq]]
    why = "what others keep" if node is None else f"more than node {node.name!r} has, where its {entry.home!r} is"
    return (
        f"{trace.place(first)}: {missing} of {len(trace.records)} actions never start, this one first: it costs "
        f"{', '.join(first.cost)}, and waits for {why}."
    )


@_no_garbage()
def simulate(
    trace: Trace,
    nodes: Mapping[str, Mapping[str, float]] | Iterable[Node] | None = None,
    policy: str | Policy = "price",
    *,
    quotas: Mapping[str, Quota] | None = None,
    held: Iterable[str] = (),
    overhead_s: float = 0.0,
    first_overhead_s: float = 0.0,
    keep_decisions: bool = False,
    debug: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """
    Runs a trace.

    Args:
        nodes: capacities; None: those of the trace.
        overhead_s: added to every action's time on its units.
        first_overhead_s: added to the first action of each trajectory, such as a pod's start.
        debug: check the capacity book after every event (slow).
        progress: called with (ended, all) now and then.

    Raises:
        TraceError: actions that could never start, each with its file and line.
    """
    records = trace.records
    core = Scheduler(trace.nodes if nodes is None else nodes, quotas, policy, held, debug=debug)
    _check_possible(trace, core)
    count = len(records)
    result = Result(
        array("d", bytes(8 * count)), array("d", bytes(8 * count)), array("d", bytes(8 * count)),
        array("l", bytes(8 * count)), overhead_s, 0.0,
        {name: core.capacity_of(name) for node in core.nodes.values() for name in node.capacity},
        {name: 0.0 for node in core.nodes.values() for name in node.capacity},
    )  # fmt: skip
    if keep_decisions:
        result.nodes, result.cores = [""] * count, [()] * count
    # Both (time, order, index of the record to submit, or lease that ends). What is known beforehand needs no heap.
    arrivals: list[tuple[float, int, int]] = []
    events: list[tuple[float, int, int | Lease]] = []
    following = array("l", [0]) * count  # the next of its trajectory; 0: none
    is_first = bytearray(count)
    last: dict[str, int] = {}
    slot = array("l", [0])  # by number in the queue, which counts from 1: index of the record
    for index, record in enumerate(records):
        if record.trajectory is not None and record.trajectory in last:
            following[last[record.trajectory]] = index
        else:
            arrivals.append((record.gap_s, index, index))
            is_first[index] = True
        if record.trajectory is not None:
            last[record.trajectory] = index
    arrivals.sort(reverse=True)
    order = count
    submit_s, start_s, end_s, units_of = result.submit_s, result.start_s, result.end_s, result.units
    used = result.unit_seconds
    ended = 0
    step = max(1, count // 200)
    retry_at = math.inf
    while arrivals or events or retry_at < math.inf:
        now = retry_at
        if arrivals and arrivals[-1][0] < now:
            now = arrivals[-1][0]
        if events and events[0][0] < now:
            now = events[0][0]
        while True:
            if arrivals and arrivals[-1][0] <= now and not (events and events[0] < arrivals[-1]):
                what: int | Lease = arrivals.pop()[2]
            elif events and events[0][0] <= now:
                what = heappop(events)[2]
            else:
                break
            if not isinstance(what, Lease):
                submit_s[what] = now
                try:
                    core.submit(now, records[what])
                except ValueError as error:
                    raise TraceError([f"{trace.place(records[what])}: {error}"]) from None
                slot.append(what)
                continue
            index = slot[what.seq]
            share = what.entry.shape.curve.share(what.units) if what.units > 1 else 1.0
            core.finish(now, what, records[index].t1_s * share)
            end_s[index] = now
            ended += 1
            if (after := following[index]) > 0:
                order += 1
                heappush(events, (now + records[after].gap_s, order, after))
            elif held and what.entry.home is not None:
                core.close(now, what.entry.home)
            if progress is not None and ended % step == 0:
                progress(ended, count)
        for lease in core.schedule(now):
            index = slot[lease.seq]
            shape, units = lease.entry.shape, lease.units
            duration = records[index].t1_s * (shape.curve.share(units) if units > 1 else 1.0) + overhead_s
            if first_overhead_s and is_first[index]:
                duration += first_overhead_s
            start_s[index] = now
            units_of[index] = units
            if shape.key is not None:
                used[shape.key] += units * duration
            for name, amount, _ in shape.fixed:
                if name in used:
                    used[name] += amount * duration
            order += 1
            heappush(events, (now + duration, order, lease))
            if keep_decisions:
                result.decisions.append((now, records[index].id, units, lease.node.name))
                result.nodes[index], result.cores[index] = lease.node.name, lease.cores
        if quotas and core.queued:
            ready = core.next_ready_s()
            retry_at = ready if ready > now else math.nextafter(now, math.inf)
        else:
            retry_at = math.inf
    if ended != count:
        raise TraceError([_never_started(trace, core, slot, count - ended)])
    result.makespan_s = max(end_s, default=0.0)
    return result


def recorded(trace: Trace, result: Result) -> Trace:
    """The trace with what the simulation did to each action (submitted, started, ended, units, node)."""
    rows: list[Record] = []
    for index, record in enumerate(trace.records):
        rows.append(
            replace(
                record,
                submit_s=result.submit_s[index],
                start_s=result.start_s[index],
                end_s=result.end_s[index],
                release_s=result.end_s[index],
                units=result.units[index] or None,
                node=result.nodes[index] if result.nodes else None,
                cores=result.cores[index] if result.cores else (),
            )
        )
    return Trace(rows, trace.nodes, trace.header)
