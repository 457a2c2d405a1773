"""
DeepSearch workload in simulation: a search API under a rate limit, shared by four tasks, and judges.

    python benchmarks/scheduler_deepsearch.py

Compared are one bucket for all tasks, a fixed share for each task, and clients that know no limit and retry on 429 (each refused
call waits, twice as long every time, before it asks again).
"""

import random
import statistics
from heapq import heappop, heappush

from _record import record
from _scheduler import flat, interval, parse

from mimo_hf.scheduler.resources import TokenBucket
from mimo_hf.scheduler.sim import simulate
from mimo_hf.scheduler.workloads import deepsearch

TASKS, JUDGES = 4, 8


def scheduled(trace, quotas):
    summary = simulate(trace, {"local": {"judge": JUDGES}}, "fifo1", quotas=quotas).summary()
    return summary["act_mean_s"], summary["step_s"], 0


def uncontrolled(trace, rate, seed):
    """Every call goes out at once; a refused one backs off with full jitter from 1 s to 60 s."""
    rng, bucket = random.Random(seed), TokenBucket(rate, max(1.0, rate))
    events, following, last = [], {}, {}
    for index, call in enumerate(trace.records):
        if call.trajectory in last:
            following[last[call.trajectory]] = index
        else:
            heappush(events, (call.gap_s, index, "ask", index, 0, call.gap_s))
        last[call.trajectory] = index
    order, acts, refused, judges, waiting, now = len(trace.records), [], 0, JUDGES, [], 0.0

    def push(at, what, index, tries, since):
        nonlocal order
        order += 1
        heappush(events, (at, order, what, index, tries, since))

    while events:
        now, _, what, index, tries, since = heappop(events)
        call = trace.records[index]
        if what == "ask" and call.kind == "judge":
            waiting.append((index, since))
        elif what == "ask" and bucket.fits(1, now):
            bucket.take(1, now)
            push(now + call.t1_s, "end", index, tries, since)
        elif what == "ask":
            refused += 1
            push(now + rng.uniform(0, min(60.0, 2.0**tries)), "ask", index, tries + 1, since)
        else:
            acts.append(now - since)
            judges += call.kind == "judge"
            if index in following:
                after = following[index]
                start = now + trace.records[after].gap_s
                push(start, "ask", after, 0, start)
        while waiting and judges:
            index, since = waiting.pop(0)
            judges -= 1
            push(now + trace.records[index].t1_s, "end", index, 0, since)
    return statistics.fmean(acts), now, refused


def main():
    args = parse(__doc__, seeds=5, trajectories=256)
    rows = []
    for rate in (8.0, 16.0, 32.0, 64.0):
        runs: dict[str, list] = {"shared bucket": [], "a share for each task": [], "uncontrolled, 429s": []}
        for seed in range(args.seeds):
            shared = deepsearch(args.trajectories, seed, TASKS, JUDGES)
            split = deepsearch(args.trajectories, seed, TASKS, JUDGES, split=TASKS)
            own = {f"search:{task}": TokenBucket(rate / TASKS, max(1.0, rate / TASKS)) for task in range(TASKS)}
            runs["shared bucket"].append(scheduled(shared, {"search": TokenBucket(rate, max(1.0, rate))}))
            runs["a share for each task"].append(scheduled(split, own))
            runs["uncontrolled, 429s"].append(uncontrolled(shared, rate, seed))
        for rule, found in runs.items():
            acts, steps, refused = zip(*found, strict=True)
            row = {
                "searches_per_s": rate,
                "rule": rule,
                "act_s": interval(list(acts)),
                "step_s": interval(list(steps)),
            }
            rows.append(flat({**row, "refused": statistics.fmean(refused)}))
            print(rows[-1])
    payload = {"seeds": args.seeds, "trajectories": args.trajectories, "tasks": TASKS, "judges": JUDGES, "runs": rows}
    print(f"wrote {record('scheduler_deepsearch', payload, seed=0, folder=args.out)}")


if __name__ == "__main__":
    main()
