"""
Synthetic traces, all seeded. The paper's own traces are not public: these are ours, after its description.

coding      trajectories of 1-core environment actions between generations, then a reward that uses up to 32 cores
deepsearch  search calls under an API's limits, then one judge call, for several tasks at once
mopd        log-probabilities of nine teachers, for the residency simulator
"""

import math
import random
from collections.abc import Callable

from ..core.types import Amdahl, ElasticRange
from .trace import Record, Trace


def _long_tailed(rng: random.Random) -> float:
    """Seconds of one environment action: lognormal with median 0.35, and a Pareto tail for one in twenty."""
    if rng.random() < 0.05:
        return min(120.0, 3.0 * rng.paretovariate(1.5))
    return 0.35 * math.exp(rng.gauss(0, 0.9))


def coding(
    trajectories: int = 320, seed: int = 0, max_units: int = 32, max_turns: int = 24, cores: int = 320
) -> Trace:
    """
    4 to `max_turns` turns of generation (about 5 s) and a 1-core action; a final reward with T(1) about 40 core-seconds
    and a serial share of 0.02 to 0.1.
    """
    rng = random.Random(seed)
    one = {"cpu": 1}
    records: list[Record] = []
    for number in range(trajectories):
        name = f"t{number}"
        pace = math.exp(rng.gauss(0, 0.25))
        for _ in range(rng.randint(min(4, max_turns), max_turns)):
            gap = pace * 4.0 * math.exp(rng.gauss(0, 0.6))
            t1 = _long_tailed(rng)
            records.append(Record(len(records), "env", one, t1, name, None, gap, t1))
        t1 = 40.0 * math.exp(rng.gauss(-0.125, 0.5))
        cost = {"cpu": ElasticRange(1, max_units, None, Amdahl(rng.uniform(0.02, 0.1)))}
        records.append(Record(len(records), "reward", cost, t1, name, None, 0.5, t1))
    return Trace(records, {"local": {"cpu": cores}}, {"workload": "coding", "seed": seed})


def opened(trace: Trace, seed: int = 0, over_s: float = 240.0) -> Trace:
    """The same actions without trajectories, released at random times: what lower bounds need."""
    rng = random.Random(seed)
    records = []
    for record in trace.records:
        at = rng.uniform(0, over_s)
        records.append(Record(record.id, record.kind, record.cost, record.t1_s, None, record.task, at, record.est_s))
    return Trace(records, trace.nodes, {**trace.header, "open": True})


def deepsearch(
    trajectories: int = 256,
    seed: int = 0,
    tasks: int = 4,
    judges: int = 8,
    split: int | None = None,
    max_turns: int = 16,
) -> Trace:
    """
    Trajectories of 2 to `max_turns` searches (about 0.8 s each) and a judge call of about 3 s; the tasks differ in size.

    Args:
        split: None: all searches cost the quota "search"; otherwise those of task i cost "search:i" (a fixed share each).
    """
    rng = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(tasks)]
    records: list[Record] = []
    for number in range(trajectories):
        name, task = f"t{number}", rng.choices(range(tasks), weights)[0]
        cost = {"search" if split is None else f"search:{task}": 1}
        for _ in range(rng.randint(2, max_turns)):
            t1 = 0.8 * math.exp(rng.gauss(0, 0.5))
            gap = 3.0 * math.exp(rng.gauss(0, 0.5))
            records.append(Record(len(records), "search", cost, t1, name, f"task{task}", gap, t1))
        t1 = 3.0 * math.exp(rng.gauss(0, 0.3))
        records.append(Record(len(records), "judge", {"judge": 1}, t1, name, f"task{task}", 0.5, t1))
    return Trace(records, {"local": {"judge": judges}}, {"workload": "deepsearch", "seed": seed})


def poisson(actions: int, rate: float, seed: int = 0, mean_s: float = 1.0, units: int = 1) -> Trace:
    """Poisson arrivals and exponential durations: M/M/c."""
    rng = random.Random(seed)
    cost = {"cpu": 1}
    now, records = 0.0, []
    for number in range(actions):
        now += rng.expovariate(rate)
        records.append(Record(number, "call", cost, rng.expovariate(1 / mean_s), None, None, now))
    return Trace(records, {"local": {"cpu": units}}, {"workload": "poisson", "seed": seed})


def with_noise(trace: Trace, sigma: float, seed: int = 0) -> Trace:
    """The trace with estimates that are the true T(1) times a lognormal factor."""
    rng = random.Random(seed)
    records = [
        Record(r.id, r.kind, r.cost, r.t1_s, r.trajectory, r.task, r.gap_s, r.t1_s * math.exp(rng.gauss(0, sigma)))
        for r in trace.records
    ]
    return Trace(records, trace.nodes, trace.header)


def scaled(trace: Trace, factor: float) -> Trace:
    """Every duration, gap and estimate times `factor`."""
    records = [
        Record(
            r.id, r.kind, r.cost, r.t1_s * factor, r.trajectory, r.task, r.gap_s * factor,
            None if r.est_s is None else r.est_s * factor,
        )
        for r in trace.records
    ]  # fmt: skip
    return Trace(records, trace.nodes, trace.header)


def as_pods(trace: Trace, pod_cores: int) -> Trace:
    """
    The same work in pods of `pod_cores`: each trajectory holds one from its first action to its last, and an action runs on
    the cores of its pod.
    """
    records = []
    for record in trace.records:
        elastic = next((a for a in record.cost.values() if isinstance(a, ElasticRange)), None)
        units = 1 if elastic is None else min(pod_cores, elastic.max)
        share = 1.0 if elastic is None or elastic.curve is None else elastic.curve.share(units)
        records.append(
            Record(
                record.id, record.kind, {"pod": 1}, record.t1_s * share, record.trajectory, record.task, record.gap_s
            )
        )
    return Trace(records, {}, {**trace.header, "pod_cores": pod_cores})


WORKLOADS: dict[str, Callable[..., Trace]] = {"coding": coding, "deepsearch": deepsearch}
