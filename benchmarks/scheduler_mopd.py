"""
MOPD teachers on less device memory than all of them need.

    python benchmarks/scheduler_mopd.py

In simulation nine teachers of 4 GPUs: static partition, switching at every request, sticky residency. Live, on this machine's
processor, four small language models of which the byte budget holds four or two, and the simulator on each recorded trace.
"""

import asyncio
import math
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from _record import record
from _scheduler import flat, interval, parse
from transformers import LlamaConfig, LlamaForCausalLM

from mimo_hf.scheduler import ActionScheduler, SchedulerConfig
from mimo_hf.scheduler.executors.local import LocalExecutor
from mimo_hf.scheduler.services.teachers import TeacherPool
from mimo_hf.scheduler.simulate.service_calls import mopd_requests, recorded_requests, simulate_services
from mimo_hf.scheduler.simulate.trace import read_trace

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


TEACHERS, TOKENS = 4, 48


def teacher(seed, width):
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=4, num_attention_heads=4, vocab_size=1024
    )
    return LlamaForCausalLM(config).eval()


async def live(requests, held, width, path):
    """Mean ACT, end, and restores of a run whose budget holds so many teachers; the trace goes to `path`."""
    models = {f"teacher{seed}": teacher(seed, width) for seed in range(TEACHERS)}
    nbytes = sum(weight.numel() * weight.element_size() for weight in models["teacher0"].parameters())
    budget = int((held + 0.5) * nbytes)
    config = SchedulerConfig(gpu_bytes=budget, trace_path=path, cpu_cores=1, cpu_enforce="count")
    acts, ids = [], torch.arange(TOKENS)
    executor = LocalExecutor(1, enforce="count", warm=0)
    async with ActionScheduler(config, executor=executor, exclusive=False) as scheduler:
        loaders = {name: partial(models.get, name) for name in models}
        pool = TeacherPool(scheduler, loaders, nbytes, "cpu", max_batch_tokens=TOKENS, max_wait_ms=0.0)
        for name in models:  # loads them all, and says how long a restore takes
            await pool.logprobs(name, ids, trajectory="warm")
        restored = len(scheduler.services.restores)
        begin = time.perf_counter()

        async def ask(request):
            await asyncio.sleep(request.at_s)
            since = time.perf_counter()
            await pool.logprobs(request.service, ids)
            acts.append(time.perf_counter() - since)

        await asyncio.gather(*(ask(request) for request in requests))
        end_s = time.perf_counter() - begin
        restores = scheduler.services.restores[restored:] or scheduler.services.restores
        return statistics.fmean(acts), end_s, [took for _, took in restores], len(restores), budget, nbytes


def simulated(path, budget, nbytes, restore_s):
    trace = read_trace(path)
    trace.records = [action for action in trace.records if action.trajectory != "warm"]
    requests = recorded_requests(trace)
    result = simulate_services(
        requests, budget, nbytes, restore_s, concurrency=1, most_replicas=1, resident=budget >= TEACHERS * nbytes
    )
    return statistics.fmean(result.act_s), result.end_s - requests[0].at_s


def live_rows(seeds, count, rate, width):
    path = str(Path(tempfile.mkdtemp()) / "run.jsonl")
    rows = []
    for held in (TEACHERS, 2):
        runs, measured_over_simulated, ends = [], [], []
        for seed in range(seeds):
            requests = mopd_requests(count, rate, TEACHERS, seed)
            act_s, end_s, restores, switches, budget, nbytes = asyncio.run(live(requests, held, width, path))
            expected_s, expected_end_s = simulated(path, budget, nbytes, statistics.fmean(restores))
            runs.append((act_s, end_s, switches, statistics.fmean(restores)))
            measured_over_simulated.append(act_s / expected_s)
            ends.append((end_s - requests[0].at_s) / expected_end_s)
        acts, steps, switches, restores = zip(*runs, strict=True)
        rows.append(
            flat(
                {
                    "teachers": TEACHERS,
                    "held": held,
                    "mib_each": nbytes / 2**20,
                    "requests_per_s": rate,
                    "act_s": interval(list(acts)),
                    "end_s": interval(list(steps)),
                    "restore_s": interval(list(restores)),
                    "switches": statistics.fmean(switches) if held < TEACHERS else 0,
                    "act_live_over_simulated": interval(measured_over_simulated),
                    "end_live_over_simulated": interval(ends),
                }
            )
        )
        print(rows[-1])
    return rows


def main():
    args = parse(__doc__, seeds=5, requests=2000, live_requests=200, live_rate=25.0, live_width=256)
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
    for row in rows:
        print(row)
    torch.set_num_threads(1)
    payload = {
        "seeds": args.seeds,
        "requests": args.requests,
        "services": 9,
        "gpus_each": 4,
        "runs": rows,
        "live_requests": args.live_requests,
        "live": live_rows(args.seeds, args.live_requests, args.live_rate, args.live_width),
    }
    print(f"wrote {record('scheduler_mopd', payload, seed=0, folder=args.out, timed=True, force=args.force)}")


if __name__ == "__main__":
    main()
