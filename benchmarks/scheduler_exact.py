"""
Random traces with fractions, unequal nodes, holds and quotas, against books in fractions of their own.

    python benchmarks/scheduler_exact.py --traces 10000

Of each trace: nothing is handed out that is not there, nothing waits for ever, and in the end all of each node and of all quotas is free
at once. Amounts are decimals, shares such as 1/7, whole numbers, raw floats, and next to nothing.
"""

import math
import random
from concurrent.futures import ProcessPoolExecutor
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction

from _record import record
from _scheduler import parse
from tqdm import tqdm

from mimo_hf.scheduler import Concurrency, TokenBucket, Window
from mimo_hf.scheduler.core.types import Amdahl, ElasticRange, PowerLaw
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.trace import Record, Trace, TraceError

POLICIES = ("price", "fifo1", "fifo4", "waterfill", "evict", "srpt", "hrrn")
PART = Decimal("1e-12")
LATE_S = 1e7  # after everything else
MOST_CALLS = 100_000


class PatientWindow(Window):
    """A window that fails where it is asked for ever."""

    asked = 0

    def ready_s(self, amount, now):
        self.asked += 1
        assert self.asked < MOST_CALLS, "the simulator turns in circles"
        return super().ready_s(amount, now)


def read(amount):
    """An amount as it is written, cut after twelve decimals, never 0."""
    return Fraction(max(PART, Decimal(repr(amount)).quantize(PART, ROUND_DOWN))) if amount else Fraction(0)


def some_amount(rng, most):
    """0 < amount <= most: decimals, shares, whole numbers, raw floats, or next to nothing."""
    amount = rng.choice(
        (
            round(rng.uniform(0, most), rng.randint(0, 3)),
            most / rng.choice((1, 2, 3, 7, 11, 13)),
            float(rng.randint(1, 4)),
            rng.uniform(0, most),
            rng.randint(1, 9) * 1e-9,
            most,
        )
    )
    return amount if 0 < amount <= most else most


def random_trace(rng):
    """(trace, quotas): unequal nodes, costs in fractions that some node can meet, and at the end all of each node at once."""
    nodes = {}
    for index in range(rng.randint(1, 3)):
        sizes = {"cpu": rng.choice((1, 4, 2.5, 16)), "memory": rng.choice((1.0, 0.3, 64e9, 10**12)), "share": 1.0}
        nodes[f"n{index}"] = {r: a for r, a in sizes.items() if r == "cpu" or rng.random() < 0.8} | {
            f"only {index}": 1
        }
    concurrency, window = rng.choice((1, 2, 3.5)), rng.choice((1, 2.5, 5))
    bucket = TokenBucket(rng.uniform(0.5, 4), rng.choice((1, 2.5, 4)))
    quotas = {
        "calls": Concurrency(concurrency),
        "window": PatientWindow(window, rng.uniform(0.1, 3)),
        "bucket": bucket,
    }
    records, now = [], 0.0
    for number in range(rng.randint(10, 40)):
        node = nodes[rng.choice(sorted(nodes))]
        cost = {r: some_amount(rng, node[r]) for r in rng.sample(sorted(node), rng.randint(1, 2))}
        if rng.random() < 0.4:
            low = rng.randint(1, int(node["cpu"]))
            cost["cpu"] = ElasticRange(
                low, low + rng.choice((0, 3, 30)), None, rng.choice((Amdahl(0.1), PowerLaw(0.9)))
            )
        for name, quota in quotas.items():
            if rng.random() < 0.2:
                cost[name] = some_amount(rng, quota.most)
        home = rng.choice((None, None, f"t{rng.randrange(4)}"))
        now += rng.expovariate(2)
        gap_s = now if home is None else rng.random()
        t1_s = rng.choice((0.1, 1.0, 90.0)) * rng.uniform(0.01, 1)
        records.append(Record(number, "x", cost, t1_s, home, None, gap_s, rng.choice((None, t1_s))))
    for index, (name, node) in enumerate(nodes.items()):
        everything = dict(node) if index else node | {name: quota.most for name, quota in quotas.items()}
        records.append(Record(len(records), name, everything, 1.0, None, None, LATE_S + 100 * index))
    return Trace(records, nodes), quotas


def check_books(trace, quotas, result):
    """Replays starts and ends into books in fractions."""
    costs = []
    for action, units in zip(trace.records, result.units, strict=True):
        costs.append({r: Fraction(units) if isinstance(a, ElasticRange) else read(a) for r, a in action.cost.items()})
    events = [(at, 1, index) for index, at in enumerate(result.start_s)]
    events += [(at, 0, index) for index, at in enumerate(result.end_s)]
    used, calls = {}, {"window": [], "bucket": []}
    allowed = {("calls", None): Fraction(math.floor(quotas["calls"].limit))}
    allowed |= {(r, name): read(amount) for name, node in trace.nodes.items() for r, amount in node.items()}
    for at, what, index in sorted(events):
        for resource, amount in costs[index].items():
            if resource in calls:
                if what == 1:
                    calls[resource].append((at, amount))
                continue
            place = (resource, None if resource in quotas else result.nodes[index])
            used[place] = used.get(place, Fraction(0)) + (amount if what == 1 else -amount)
            assert 0 <= used[place] <= max(allowed[place], amount)
    assert not any(used.values())
    for resource, made in calls.items():
        quota = quotas[resource]
        for index, (at, _) in enumerate(made):
            if resource == "window":
                recent = [amount for when, amount in made[: index + 1] if when + quota.per_s > at]
                assert sum(recent) <= read(quota.limit)
            else:
                for first in range(index + 1):
                    passed = quota.limit * (at - made[first][0])
                    assert sum(amount for _, amount in made[first : index + 1]) <= quota.burst + passed + 1e-6


def run(seed: int):
    """One random trace; AssertionError or TraceError if anything is taken that is not there, waits for ever, or does not come back."""
    rng = random.Random(seed)
    trace, quotas = random_trace(rng)
    result = simulate(
        trace, policy=rng.choice(POLICIES), quotas=quotas, keep_decisions=True
    )  # TraceError: one never starts
    check_books(trace, quotas, result)
    for index in range(len(trace.nodes)):
        assert result.start_s[index - len(trace.nodes)] == LATE_S + 100 * index, "something did not come back"


def failure(seed: int) -> str | None:
    try:
        run(seed)
    except (AssertionError, TraceError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def main():
    options = parse(__doc__, traces=10_000)
    with ProcessPoolExecutor() as workers:
        found = workers.map(failure, range(options.traces), chunksize=50)
        failures = {seed: text for seed, text in enumerate(tqdm(found, total=options.traces)) if text is not None}
    payload = {"traces": options.traces, "policies": POLICIES, "failed": len(failures), "failures": failures}
    record("scheduler_exact", payload, seed=0, folder=options.out, timed=False, force=options.force)


if __name__ == "__main__":
    main()
