"""
Coding workload in simulation: policies, pods and Ray's own rules over a sweep of cluster sizes, several seeds.

    python benchmarks/scheduler_coding.py
    python benchmarks/scheduler_coding.py --seeds 2 --trajectories 40 --out /tmp/quick   # seconds, writes elsewhere

The trace is ours, after public descriptions of ARL-Tangram's (see mimo_hf/scheduler/simulate/workloads.py); pods are our model of them.
"""

import statistics

from _record import record
from _scheduler import flat, interval, parse, simulate_ray

from mimo_hf.scheduler.simulate.bounds import act_lower_bound_s, step_lower_bound_s
from mimo_hf.scheduler.simulate.simulator import simulate
from mimo_hf.scheduler.simulate.workloads import as_pods, coding, opened, with_noise

LOADS = (60, 80, 120, 160, 240, 320, 640, 1280)
POLICIES = (
    "price", "price(straggler_floor_s=None)", "evict", "waterfill", "srpt", "hrrn", "fifo1", "fifo4", "fifo8", "fifo16",
)  # fmt: skip
FIXED = ("fifo1", "fifo4", "fifo8", "fifo16")
POD_START_S = 5.0


def outcome(trace, cores, policy):
    summary = simulate(trace, {"local": {"cpu": cores}}, policy).summary()
    return summary["act_mean_s"], summary["step_s"]


def pods(trace, cores, size, start_s=POD_START_S):
    held = simulate(
        as_pods(trace, size), {"local": {"pod": cores // size}}, "fifo1", held=("pod",), first_overhead_s=start_s
    ).summary()
    return held["act_mean_s"], held["step_s"]


def rows_of(label, cores, pairs):
    return {
        "cores": cores,
        "policy": label,
        "act_s": interval([act for act, _ in pairs]),
        "step_s": interval([step for _, step in pairs]),
    }


def sweep(traces, loads):
    rows = []
    for cores in loads:
        rows += [rows_of(name, cores, [outcome(trace, cores, name) for trace in traces]) for name in POLICIES]
        rows += [
            rows_of(f"ray-default dop {dop}", cores, [simulate_ray(trace, cores, dop) for trace in traces])
            for dop in (4, 8)
        ]
        rows += [rows_of(f"pods of {size}", cores, [pods(trace, cores, size) for trace in traces]) for size in (1, 4)]
    return rows


def find(rows, cores, policy):
    return next(row for row in rows if (row["cores"], row["policy"]) == (cores, policy))


def against_pods(rows, loads):
    found = []
    for cores in loads:
        ours = find(rows, cores, "price")
        row = {"cores": cores}
        for size in (1, 4):
            theirs = find(rows, cores, f"pods of {size}")
            row[f"act ratio, pods of {size}"] = theirs["act_s"]["mean"] / ours["act_s"]["mean"]
            row[f"step ratio, pods of {size}"] = theirs["step_s"]["mean"] / ours["step_s"]["mean"]
        found.append(row)
    return found


def against_fixed(rows, loads):
    """price over the best fixed degree of parallelism at each load, and over the shortest step of all rows."""
    found = []
    for cores in loads:
        best_act = min(find(rows, cores, policy)["act_s"]["mean"] for policy in FIXED)
        best_step = min(row["step_s"]["mean"] for row in rows if row["cores"] == cores)
        ours = find(rows, cores, "price")
        found.append(
            {
                "cores": cores,
                "act over best fixed": ours["act_s"]["mean"] / best_act,
                "step over best of all": ours["step_s"]["mean"] / best_step,
                "act of worst fixed over ours": max(find(rows, cores, p)["act_s"]["mean"] for p in FIXED)
                / ours["act_s"]["mean"],
            }
        )
    return found


def saving(traces, full):
    """The fewest cores with which `price` is no slower than pods of 4 on `full` cores, by bisection."""
    target = statistics.fmean(pods(trace, full, 4)[1] for trace in traces)
    low, high = 1, full
    while high - low > 1:
        middle = (low + high) // 2
        step = statistics.fmean(outcome(trace, middle, "price")[1] for trace in traces)
        low, high = (low, middle) if step <= target else (middle, high)
    return {"pods_cores": full, "pods_step_s": target, "price_cores": high, "share_of_cores": high / full}


def bounds(traces, loads):
    found = []
    for cores in loads:
        ratios, steps = [], []
        for seed, trace in enumerate(traces):
            released = opened(trace, seed)
            act = simulate(released, {"local": {"cpu": cores}}, "price").summary()["act_mean_s"]
            ratios.append(act / act_lower_bound_s(released, cores))
            steps.append(outcome(trace, cores, "price")[1] / step_lower_bound_s(trace, cores))
        found.append(
            flat({"cores": cores, "act over bound (open)": interval(ratios), "step over bound": interval(steps)})
        )
    return found


def noise(traces, loads):
    found = []
    for sigma in (0.0, 0.5, 1.0):
        for cores in loads:
            pairs = [outcome(with_noise(trace, sigma, seed), cores, "price") for seed, trace in enumerate(traces)]
            found.append(flat({"sigma": sigma, **rows_of("price", cores, pairs)}))
    return found


def no_gain(traces, loads):
    """Where elasticity or action-level allocation gains nothing."""
    large = 4 * len({record.trajectory for record in traces[0].records})
    price = statistics.fmean(outcome(trace, large, "price")[1] for trace in traces)
    idle = statistics.fmean(pods(trace, large, 4, start_s=0.0)[1] for trace in traces)
    found = [{"preset": "every pod of 4 fits and starts at once", "cores": large, "step ratio": idle / price}]
    for cores in (loads[0], loads[-1]):
        singles = [coding(len({r.trajectory for r in t.records}), seed, max_units=1) for seed, t in enumerate(traces)]
        ours = statistics.fmean(outcome(trace, cores, "price")[0] for trace in singles)
        fifo = statistics.fmean(outcome(trace, cores, "fifo1")[0] for trace in singles)
        found.append({"preset": "no action can use more than one core", "cores": cores, "act ratio": fifo / ours})
    return found


def main():
    args = parse(__doc__, seeds=5, trajectories=320)
    traces = [coding(args.trajectories, seed) for seed in range(args.seeds)]
    loads = tuple(max(4, cores * args.trajectories // 320) for cores in LOADS)
    rows = sweep(traces, loads)
    payload = {
        "trajectories": args.trajectories,
        "seeds": args.seeds,
        "actions": sum(len(trace.records) for trace in traces),
        "saving": saving(traces, 4 * args.trajectories),
        "against_pods": against_pods(rows, loads),
        "against_fixed": against_fixed(rows, loads),
        "bounds": bounds(traces, loads),
        "no_gain": no_gain(traces, loads),
        "noise": noise(traces, (loads[1], loads[3])),
        "sweep": [flat(row) for row in rows],
    }
    path = record("scheduler_coding", payload, seed=0, folder=args.out, timed=False)
    for row in payload["against_pods"]:
        print(row)
    print(payload["saving"], f"\nwrote {path}")


if __name__ == "__main__":
    main()
