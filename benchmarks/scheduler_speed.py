"""
Speed of the simulator and of the live scheduler.

    python benchmarks/scheduler_speed.py
"""

import asyncio
import math
import random
import statistics
import subprocess
import sys
import time
from functools import partial

from _record import record
from _scheduler import parse
from _timing import STEADY, ratio_of

from mimo_hf.scheduler import Action, ActionScheduler, Command, ElasticRange, SchedulerConfig
from mimo_hf.scheduler.executors.local import LocalExecutor

SIMULATION = """
import resource, sys, time
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.workloads import coding, poisson
workload, policy, count, cores = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
trace = poisson(count, 0.8 * cores, units=cores) if workload == "poisson" else coding(count, cores=cores)
begin, used = time.perf_counter(), time.process_time()
simulate(trace, {"local": {"cpu": cores}}, policy)
print(len(trace.records), time.perf_counter() - begin, time.process_time() - used, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def simulator(workload, policy, count, cores, repeats=3):
    """Each time in a process of its own, for its memory."""
    command = [sys.executable, "-c", SIMULATION, workload, policy, str(count), str(cores)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(repeats)]
    actions, seconds, processor_s, gib = (statistics.median(map(float, column)) for column in zip(*runs, strict=True))
    return {
        "workload": workload,
        "policy": policy,
        "cores": cores,
        "actions": int(actions),
        "wall_s": seconds,
        "processor_s": processor_s,
        "processor_s_range": [min(float(run[2]) for run in runs), max(float(run[2]) for run in runs)],
        "actions_per_processor_s": actions / processor_s,
        "peak_gib": gib,
    }


async def nothing():
    return None


async def no_ops(count):
    """Submit to result, in this process."""
    async with ActionScheduler(SchedulerConfig(cpu_cores=8, cpu_enforce="count"), exclusive=False) as scheduler:
        await scheduler.map([Action("n", nothing, {"cpu": 1}) for _ in range(500)])
        begin = time.perf_counter()
        await scheduler.map([Action("n", nothing, {"cpu": 1}) for _ in range(count)])
        return count / (time.perf_counter() - begin)


async def bare_tasks(count):
    """The floor of `no_ops`: tasks of the event loop and nothing else."""
    begin = time.perf_counter()
    await asyncio.gather(*[asyncio.create_task(nothing()) for _ in range(count)])
    return count / (time.perf_counter() - begin)


def no_op_rates(count, repeats=5):
    """Medians of both, which take turns, and how many bare tasks fit into the time of one no-op action."""
    ours, bare = [], []
    for _ in range(repeats):
        ours.append(asyncio.run(no_ops(count)))
        bare.append(asyncio.run(bare_tasks(count)))
    ratio = ratio_of(bare, ours)
    return {
        "no_ops_per_s": statistics.median(ours),
        "no_ops_per_s_range": [min(ours), max(ours)],
        "bare_tasks_per_s": statistics.median(bare),
        **{f"bare_tasks_a_no_op_{name}": value for name, value in ratio.items()},
        "repeats": repeats,
        "steady": ratio["spread"] <= STEADY,
    }


def decision_times(policy, queued, repeats=3):
    runs = [asyncio.run(decisions(policy, queued)) for _ in range(repeats)]
    p99 = sorted(run["p99_ms"] for run in runs)
    return runs[0] | {
        "p50_ms": statistics.median(run["p50_ms"] for run in runs),
        "p99_ms": statistics.median(p99),
        "p99_ms_range": [p99[0], p99[-1]],
        "repeats": repeats,
    }


async def decisions(policy, queued, count=1000):
    """`count` decisions while `queued` elastic actions wait."""
    config = SchedulerConfig(cpu_cores=64, cpu_enforce="count", policy=policy, coalesce_ms=0)
    executor = LocalExecutor(64, enforce="count", warm=0)
    rng = random.Random(0)
    async with ActionScheduler(config, executor=executor, exclusive=False) as scheduler:

        async def fill():
            while scheduler.core.queued < queued:
                work = partial(asyncio.sleep, rng.uniform(0.001, 0.02))
                await scheduler.submit(Action("n", work, {"cpu": ElasticRange(1, 16)}, est_s=1.0))

        await fill()
        scheduler.decision_s.clear()
        while len(scheduler.decision_s) < count:
            await asyncio.sleep(0.001)
            await fill()
        times = sorted(scheduler.decision_s)
        return {
            "policy": policy,
            "queued": queued,
            "decisions": len(times),
            "p50_ms": 1e3 * times[len(times) // 2],
            "p99_ms": 1e3 * times[math.ceil(0.99 * len(times)) - 1],
        }


async def commands(count):
    """One command at a time on warm workers: what completion takes beyond the command itself."""
    extra, whole, alone = [], [], []
    async with ActionScheduler(SchedulerConfig(cpu_cores=2), exclusive=False) as scheduler:
        for number in range(count + 20):
            handle = await scheduler.submit(Action("true", Command(("/bin/true",)), {"cpu": 1}))
            await handle
            took = handle.timing["end_s"] - handle.timing["submit_s"]
            begin = time.perf_counter()
            subprocess.run(["/bin/true"], check=True)
            if number >= 20:
                whole.append(took)
                extra.append(took - handle.timing["exec_s"])
                alone.append(time.perf_counter() - begin)
        enforce = scheduler.executor.enforce
    return {
        "commands": count,
        "enforce": enforce,
        "overhead_ms_median": 1e3 * statistics.median(extra),
        "overhead_ms_p99": 1e3 * sorted(extra)[math.ceil(0.99 * count) - 1],
        "whole_ms_median": 1e3 * statistics.median(whole),
        "subprocess_run_alone_ms_median": 1e3 * statistics.median(alone),
    }


def main():
    args = parse(__doc__, scale=1.0)
    full = int(1_000_000 * args.scale)
    payload = {
        "simulator": [
            simulator("poisson", "fifo1", full, 8),
            simulator("poisson", "price", full, 8),
            simulator("coding", "price", int(64_500 * args.scale), 40_000),
            simulator("coding", "evict", int(13_600 * args.scale), 3_840),
        ],
        "live_no_ops": no_op_rates(int(20_000 * args.scale)),
        "decisions": [decision_times(policy, int(10_000 * args.scale)) for policy in ("price", "fifo4", "evict")],
        "commands": asyncio.run(commands(int(300 * args.scale))),
    }
    for name, value in payload.items():
        print(name, value)
    print(f"wrote {record('scheduler_speed', payload, seed=0, folder=args.out, timed=True, force=args.force)}")


if __name__ == "__main__":
    main()
