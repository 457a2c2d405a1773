"""
Nine MOPD teachers on fewer GPUs, in simulation: static partition, switching at every request, sticky residency.

    python benchmarks/scheduler_mopd.py
"""

import math
import statistics

from _record import record
from _scheduler import flat, interval, parse

from mimo_hf.scheduler.service_sim import mopd_requests, simulate_services

CONDITIONS = (("light, 1.2 % of 36 GPUs' places", 1.6), ("5 % of 36 GPUs' places", 6.7))


def measured(requests, **options):
    result = simulate_services(requests, **options)
    acts = sorted(result.act_s)
    p99 = acts[math.ceil(0.99 * len(acts)) - 1]
    return statistics.fmean(acts), p99, result.end_s, result.switches


def row_of(runs, **about):
    act, p99, end, switches = zip(*runs, strict=True)
    return flat(
        {**about, "act_s": interval(list(act)), "act_p99_s": interval(list(p99)), "end_s": interval(list(end)),
         "switches": statistics.fmean(switches)}
    )  # fmt: skip


def main():
    args = parse(__doc__, seeds=5, requests=2000)
    rows = []
    for load, rate in CONDITIONS:
        sets = [mopd_requests(args.requests, rate, seed=seed) for seed in range(args.seeds)]
        runs = [measured(requests, capacity=36, resident=True) for requests in sets]
        rows.append(row_of(runs, load=load, gpus=36, rule="static, 4 GPUs each", restore_s=0.0))
        for restore_s in (0.5, 1.5, 5.0):
            for gpus in (8, 12, 16, 20):
                for rule, sticky in (("sticky", True), ("oldest first", False)):
                    runs = [measured(r, capacity=gpus, restore_s=restore_s, sticky=sticky) for r in sets]
                    rows.append(row_of(runs, load=load, gpus=gpus, rule=rule, restore_s=restore_s))
    payload = {"seeds": args.seeds, "requests": args.requests, "services": 9, "gpus_each": 4, "runs": rows}
    for row in rows:
        print(row)
    print(f"wrote {record('scheduler_mopd', payload, seed=0, folder=args.out)}")


if __name__ == "__main__":
    main()
