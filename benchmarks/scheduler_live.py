"""
The live scheduler on this machine: simulated against measured completion times, and beside Ray's own scheduling.

    python benchmarks/scheduler_live.py

Two workloads of closed-loop trajectories (tool calls, then an elastic reward): "burn" keeps real cores busy, on as many as there
are; "wait" sleeps, on four counted cores, so that what is compared is scheduling alone: our local executor, our Ray executor on
two nodes, and plain Ray tasks of fixed size on the same two nodes.
"""

import asyncio
import os
import random
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from _record import record
from _scheduler import flat, interval, parse

from mimo_hf.scheduler import Action, ActionScheduler, Amdahl, ElasticRange, SchedulerConfig
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.trace import read_trace

SERIAL = 0.05


def wait(t1_s):
    time.sleep(t1_s * Amdahl(SERIAL).share(int(os.environ["MIMO_ACTION_CORES"])))


def burn(t1_s):
    """Processor seconds, the parallel part in as many processes as there are cores."""
    cores = int(os.environ["MIMO_ACTION_CORES"])
    _spin(t1_s * SERIAL)
    children = []
    for _ in range(cores - 1):
        pid = os.fork()
        if not pid:
            _spin(t1_s * (1 - SERIAL) / cores)
            os._exit(0)
        children.append(pid)
    _spin(t1_s * (1 - SERIAL) / cores)
    for pid in children:
        os.waitpid(pid, 0)


def _spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def script(seed, trajectories, scale):
    """For each trajectory (gap_s, t1_s, elastic) of its actions."""
    rng = random.Random(seed)
    found = []
    for _ in range(trajectories):
        turns = [(rng.expovariate(1) * 0.3 * scale, rng.lognormvariate(-2.5, 0.7) * scale, False) for _ in range(6)]
        found.append([*turns, (0.05 * scale, rng.uniform(0.4, 1.2) * scale, True)])
    return found


async def ours(fn, plan, executor, cores, most, path):
    """(ACTs, step time, enforcement) and the recorded trace at `path`."""
    config = SchedulerConfig(cpu_cores=cores, trace_path=path, cpu_enforce="auto" if fn is burn else "count")
    acts = []
    async with ActionScheduler(config, executor=executor, exclusive=False) as scheduler:
        await scheduler.map([Action("warm", partial(wait, 0.0), {"cpu": 1}) for _ in range(8)])

        async def follow(number, turns):
            for gap_s, t1_s, elastic in turns:
                await asyncio.sleep(gap_s)
                cost = {"cpu": ElasticRange(1, most, None, Amdahl(SERIAL)) if elastic else 1}
                kind = "reward" if elastic else "tool"
                handle = await scheduler.submit(
                    Action(kind, partial(fn, t1_s), cost, trajectory=f"t{number}", est_s=t1_s)
                )
                await handle
                acts.append(handle.timing["end_s"] - handle.timing["submit_s"])

        begin = time.perf_counter()
        await asyncio.gather(*(follow(number, turns) for number, turns in enumerate(plan)))
        return acts, time.perf_counter() - begin, scheduler.executor.enforce


def simulated_act_s(path):
    trace = read_trace(path)
    trace.records = [action for action in trace.records if action.kind != "warm"]
    first = min(action.submit_s for action in trace.records)
    seen = set()
    for action in trace.records:
        if action.trajectory not in seen:
            action.gap_s = max(0.0, action.submit_s - first)
            seen.add(action.trajectory)
    return statistics.fmean(simulate(trace).act_s())


def ray_default(plan, dop):
    """Plain tasks with `num_cpus`: what one gets from Ray without a scheduler on top."""
    import ray

    def sleep(seconds):
        time.sleep(seconds)

    task = ray.remote(sleep)
    ray.get([task.options(num_cpus=1).remote(0.0) for _ in range(8)])
    acts = []

    def follow(turns):
        for gap_s, t1_s, elastic in turns:
            time.sleep(gap_s)
            units = dop if elastic else 1
            begin = time.perf_counter()
            ray.get(task.options(num_cpus=units).remote(t1_s * Amdahl(SERIAL).share(units)))
            acts.append(time.perf_counter() - begin)

    begin = time.perf_counter()
    with ThreadPoolExecutor(len(plan)) as threads:
        list(threads.map(follow, plan))
    return acts, time.perf_counter() - begin


def compare(name, runs):
    """One row over seeds; `runs` are (ACTs, step, simulated mean ACT or None)."""
    row = {
        "system": name,
        "act_s": interval([statistics.fmean(acts) for acts, _, _ in runs]),
        "step_s": interval([step for _, step, _ in runs]),
    }
    ratios = [statistics.fmean(acts) / expected for acts, _, expected in runs if expected is not None]
    return flat(row | ({"live_over_simulated": interval(ratios)} if ratios else {}))


def main():
    args = parse(__doc__, seeds=5, trajectories=16, scale=1.0)
    from mimo_hf.scheduler.executors.local import LocalExecutor
    from mimo_hf.scheduler.executors.ray import RayExecutor

    path = str(Path(tempfile.mkdtemp()) / "run.jsonl")
    plans = [script(seed, args.trajectories, args.scale) for seed in range(args.seeds)]
    real = len(os.sched_getaffinity(0))

    def live(fn, executor, cores, most):
        found = []
        for plan in plans:
            acts, step, enforce = asyncio.run(ours(fn, plan, executor(), cores, most, path))
            found.append((acts, step, simulated_act_s(path)))
        return found, enforce

    found, enforce = live(burn, lambda: None, real, real)
    burned = [{"cores": real, "enforce": enforce, **compare("local executor", found)}]
    rows = [compare("local executor", live(wait, lambda: LocalExecutor(4, enforce="count"), 4, 4)[0])]

    import ray
    from ray.cluster_utils import Cluster

    two = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    two.add_node(num_cpus=2)
    ray.init(address=two.address, log_to_driver=False, logging_level="ERROR")
    rows.append(compare("Ray executor, two nodes", live(wait, lambda: RayExecutor(enforce="count"), 4, 2)[0]))
    time.sleep(2)  # the placement group's cores come back
    for dop in (1, 2):
        found = [(*ray_default(plan, dop), None) for plan in plans]
        rows.append(compare(f"plain Ray tasks, two nodes, rewards of {dop}", found))
    ray.shutdown()
    two.shutdown()
    payload = {
        "seeds": args.seeds,
        "trajectories": args.trajectories,
        "actions_per_seed": sum(map(len, plans[0])),
        "burn": burned,
        "wait_on_four_counted_cores": rows,
    }
    for row in [*burned, *rows]:
        print(row)
    print(f"wrote {record('scheduler_live', payload, seed=0, folder=args.out, timed=True, force=args.force)}")


if __name__ == "__main__":
    main()
