"""
DeepSearch workload: a search API under a rate limit, shared by four tasks, and judges.

    python benchmarks/scheduler_deepsearch.py

In simulation are compared one bucket for all tasks, a fixed share for each task, and clients that know no limit and retry on 429
(each refused call waits, twice as long every time, before it asks again). Live, the same workload at a tenth of the time scale asks
a provider on the loopback interface that does answer 429: through a bucket that knows its limit, through one that is told twice
the limit and learns from refusals, and without one; and the simulator runs the recorded traces.
"""

import asyncio
import random
import statistics
import tempfile
import time
from functools import partial
from heapq import heappop, heappush
from pathlib import Path

from _provider import Provider, search
from _record import record
from _scheduler import flat, interval, parse

from mimo_hf.scheduler import Action, ActionScheduler, QuotaRefused, SchedulerConfig
from mimo_hf.scheduler.core.resources import TokenBucket
from mimo_hf.scheduler.executors.local import LocalExecutor
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.trace import read_trace
from mimo_hf.scheduler.simulate.workloads import deepsearch, scaled

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


KNOWN, LEARNT, NONE = "bucket that knows the limit", "bucket that is told twice the limit", "no bucket, retries on 429"


async def live(trace, rule, rate, path, seed):
    """Mean ACT, step, refused calls, and the bucket's (rate, burst) of a run; the trace goes to `path`."""
    burst = max(2.0, rate / 2)
    told, most = (rate, burst - 1) if rule == KNOWN else (2 * rate, 2 * burst)
    quotas = {} if rule == NONE else {"search": {"rate": told, "burst": most}}
    config = SchedulerConfig(
        policy="fifo1", quotas=quotas, trace_path=path, cpu_cores=1, cpu_enforce="count", loss_retries=30
    )
    executor = LocalExecutor(1, {"judge": JUDGES}, enforce="count", warm=0)
    rng, acts = random.Random(seed), []
    with Provider(rate, burst) as provider:
        async with ActionScheduler(config, executor=executor, exclusive=False) as scheduler:

            async def perform(call):
                if call.kind == "judge":
                    return await asyncio.sleep(call.t1_s)
                tries = 0
                while True:
                    try:
                        return await search(provider.port, call.t1_s)
                    except QuotaRefused:
                        if rule != NONE:
                            raise
                    await asyncio.sleep(rng.uniform(0, min(6.0, 0.1 * 2.0**tries)))
                    tries += 1

            async def follow(calls):
                for call in calls:
                    await asyncio.sleep(call.gap_s)
                    cost = {} if rule == NONE and call.kind == "search" else call.cost
                    work = partial(perform, call)
                    since = time.perf_counter()
                    await scheduler.run(Action(call.kind, work, cost, call.trajectory, call.task, est_s=call.t1_s))
                    acts.append(time.perf_counter() - since)

            begin = time.perf_counter()
            await asyncio.gather(*(follow(calls) for calls in trace.trajectories().values()))
            step_s = time.perf_counter() - begin
    return statistics.fmean(acts), step_s, provider.refused, (told, most)


def live_rows(seeds, trajectories, rate):
    path = str(Path(tempfile.mkdtemp()) / "run.jsonl")
    rows = []
    for rule in (KNOWN, LEARNT, NONE):
        runs, act_ratios, step_ratios = [], [], []
        for seed in range(seeds):
            trace = scaled(deepsearch(trajectories, seed, TASKS, JUDGES, max_turns=8), 0.1)
            act_s, step_s, refused, (told, most) = asyncio.run(live(trace, rule, rate, path, seed))
            runs.append((act_s, step_s, refused))
            if rule == KNOWN:
                quota = {"search": TokenBucket(told, most)}
                expected = simulate(read_trace(path), policy="fifo1", quotas=quota).summary()
                act_ratios.append(act_s / expected["act_mean_s"])
                step_ratios.append(step_s / expected["step_s"])
        acts, steps, refusals = zip(*runs, strict=True)
        row = {"searches_per_s": rate, "rule": rule, "act_s": interval(list(acts)), "step_s": interval(list(steps))}
        row["refused"] = statistics.fmean(refusals)
        if act_ratios:
            row |= {"act_live_over_simulated": interval(act_ratios), "step_live_over_simulated": interval(step_ratios)}
        rows.append(flat(row))
        print(rows[-1])
    return rows


def main():
    args = parse(__doc__, seeds=5, trajectories=256, live_trajectories=40, live_rate=30.0)
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
    payload = {
        "seeds": args.seeds,
        "trajectories": args.trajectories,
        "tasks": TASKS,
        "judges": JUDGES,
        "runs": rows,
        "live_trajectories": args.live_trajectories,
        "live": live_rows(args.seeds, args.live_trajectories, args.live_rate),
    }
    print(f"wrote {record('scheduler_deepsearch', payload, seed=0, folder=args.out, timed=True, force=args.force)}")


if __name__ == "__main__":
    main()
