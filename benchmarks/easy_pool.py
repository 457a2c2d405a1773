"""
What the easy pool does to dynamic sampling, on a policy that is a pass rate for each problem and nothing else.

    python benchmarks/easy_pool.py

Training on a group that carries a gradient raises its problem's log-odds; all others fall a little at every step, as a policy
forgets. `PromptSampler` draws as in a training, one group after another until the batch is full. Arms: no pool, the paper's
probability of 0.1, a larger one, and solved problems deleted for good (arXiv 2505.07608, section 3.3.2, reports unstable updates).
"""

import argparse
import itertools
import math
import random
import statistics

from _record import record
from rich.console import Console
from rich.progress import track

from mimo_hf.trainers import PromptSampler

PROBLEMS, BATCH, GROUP, STEPS = 500, 32, 8, 400
LEARN = 0.4  # log-odds a trained group
FORGET = (0.01, 0.02, 0.03)  # log-odds a step
MOST = 20 * BATCH  # groups of a batch, after which it stays short
# With next to no probability the pool is never drawn from: its problems are deleted.
ARMS = {"no pool": 0.0, "deleted": 1e-12, "pool, 0.1": 0.1, "pool, 0.3": 0.3}
LIMITS = ("a model of a policy, not a policy: how fast it learns and forgets was chosen, and decides what comes out",)
console = Console(stderr=True)


def run(alpha: float, forget: float, seed: int, steps: int = STEPS) -> dict:
    rng = random.Random(seed)
    odds = [rng.gauss(-0.5, 1.5) for _ in range(PROBLEMS)]
    sampler = PromptSampler(PROBLEMS, alpha, seed)
    generated, filled = [], []
    for _ in range(steps):
        trained: set[int] = set()
        count = size = 0
        while size < BATCH and count < MOST:
            (index,) = sampler.draw(1)
            passes = sum(rng.random() < 1 / (1 + math.exp(-odds[index])) for _ in range(GROUP))
            sampler.update(index, passes == GROUP)
            count += 1
            if 0 < passes < GROUP:
                size += 1
                trained.add(index)
        odds = [value + (LEARN if index in trained else -forget) for index, value in enumerate(odds)]
        generated.append(count)
        filled.append(size / BATCH)
    late = steps // 4
    rates = [1 / (1 + math.exp(-value)) for value in odds]
    pooled = [rates[index] for index in range(PROBLEMS) if sampler.in_pool(index)]
    return {
        "groups_a_batch_early": statistics.fmean(generated[:late]) / BATCH,
        "groups_a_batch_late": statistics.fmean(generated[-late:]) / BATCH,
        "filled_late": statistics.fmean(filled[-late:]),
        "pass_rate_at_the_end": statistics.fmean(rates),
        "pool_share": len(pooled) / PROBLEMS,
        "pass_rate_in_the_pool": statistics.fmean(pooled) if pooled else None,
        "regressed_in_the_pool": sum(rate < 0.8 for rate in pooled) / PROBLEMS,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    table = []
    for forget, (arm, alpha) in track(list(itertools.product(FORGET, ARMS.items())), "arms", console=console):
        runs = [run(alpha, forget, seed, options.steps) for seed in range(options.seeds)]
        row: dict = {"forget": forget, "arm": arm}
        for name in runs[0]:
            values = [found[name] for found in runs if found[name] is not None]
            row[name] = round(statistics.fmean(values), 4) if values else None
            if name == "groups_a_batch_late":
                row[f"{name}_range"] = [round(min(values), 3), round(max(values), 3)]
        table.append(row)
        console.print(row)
    settings = {
        "problems": PROBLEMS,
        "batch": BATCH,
        "group": GROUP,
        "steps": options.steps,
        "learn": LEARN,
        "most_groups": MOST,
    }
    payload = {"limits": list(LIMITS), "settings": settings, "seeds": options.seeds, "table": table}
    record("easy_pool", payload, seed=0, timed=False)


if __name__ == "__main__":
    main()
