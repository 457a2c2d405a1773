"""What the scheduler benchmarks share: intervals over seeds, and Ray's own scheduling in simulation."""

import argparse
import math
import statistics
from collections import deque
from heapq import heappop, heappush
from pathlib import Path

from _record import RESULTS, force_option

from mimo_hf.scheduler.core.types import ElasticRange
from mimo_hf.scheduler.simulate.trace import Trace

# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def parse(doc: str, **defaults: float) -> argparse.Namespace:
    """The options of a benchmark: numbers with their defaults, and `--out`, the folder of the results."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default benchmarks/results")
    force_option(parser)
    return parser.parse_args()


def interval(values: list[float]) -> dict[str, float]:
    """Mean over seeds and half the width of its 95 % interval."""
    half = T975[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"mean": statistics.fmean(values), "plus_minus": half}


def flat(row: dict) -> dict:
    """{"act_s": {"mean": 1, "plus_minus": 2}} as {"act_s": 1, "act_s +-": 2}."""
    shown = {}
    for name, value in row.items():
        if isinstance(value, dict):
            shown[name], shown[f"{name} +-"] = value["mean"], value["plus_minus"]
        else:
            shown[name] = value
    return shown


def simulate_ray(trace: Trace, cores: int, dop: int, overhead_s: float = 0.0025) -> tuple[float, float]:
    """
    (mean ACT, step time) of one node under Ray's own rules: what an action costs is fixed, at most `dop` cores; actions of one
    shape start in order, and a shape whose head does not fit holds up no other. `overhead_s`: of a task, our own measurement on
    two cores is of this order.
    """
    events: list[tuple[float, int, tuple]] = []
    following, last = {}, {}
    for index, record in enumerate(trace.records):
        if record.trajectory in last and record.trajectory is not None:
            following[last[record.trajectory]] = index
        else:
            heappush(events, (record.gap_s, index, ("submit", index)))
        last[record.trajectory] = index
    queues: dict[int, deque[int]] = {}
    submitted, acts, free, order, now = {}, [], cores, len(trace.records), 0.0
    while events:
        now = events[0][0]
        while events and events[0][0] <= now:
            what, index, *units = heappop(events)[2]
            record = trace.records[index]
            amount = record.cost["cpu"]
            elastic = isinstance(amount, ElasticRange)
            if what == "submit":
                submitted[index] = now
                queues.setdefault(min(dop, amount.max) if elastic else amount, deque()).append(index)
                continue
            free += units[0]
            acts.append(now - submitted[index])
            if index in following:
                after = following[index]
                order += 1
                heappush(events, (now + trace.records[after].gap_s, order, ("submit", after)))
        for shape, queue in queues.items():
            while queue and shape <= free:
                index = queue.popleft()
                free -= shape
                amount = trace.records[index].cost["cpu"]
                share = amount.curve.share(shape) if isinstance(amount, ElasticRange) else 1.0
                order += 1
                end = now + trace.records[index].t1_s * share + overhead_s
                heappush(events, (end, order, ("end", index, shape)))
    return statistics.fmean(acts), now
