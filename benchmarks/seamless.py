"""
The seamless rollout engine against rounds, in virtual time: what each of its parts saves, and what taking the fastest groups would cost.

    python benchmarks/seamless.py                   # some minutes on one core
    python benchmarks/seamless.py --seeds 2 --steps 1

`SeamlessRollout` itself runs, on an event loop whose clock jumps from timer to timer; generation and scoring are sleeps. A
task (a problem with its group of completions) takes a lognormal time of mean 1, cut at the token limit, to generate and an
exponential time to score, and is valid with probability 0.41, all independent. There are as many slots as groups needed,
512, the paper's batch; scoring has no limit. How an attempt at a problem turns out is the same in every arm.

Arms
    static          512 groups, all generated, then all scored; invalid groups stay in the batch
    over-sampled    one fixed batch, as large as gives 512 valid groups in 99 of 100 steps; generated, then scored
    naive           rounds of 512 until 512 groups are valid; each is generated, then scored
    sized rounds    the rounds of DynamicSamplingGRPOTrainer: later ones are as large as what is missing asks for
    continuous      the engine's launch rule; a task is scored in its slot, and the step ends when all tasks have
    + async reward  scored outside the slots
    + early stop    `SeamlessRollout` as it is
    first finished  the groups that finish first instead of those that were started first: the comparison that shows the bias

Figures
    speed_up, idle_share     of a step over the same seed's `naive`; of the slots' time, slots in which nothing is generated
    waste                    share of the valid groups that were not selected
    length_ratio             mean generation time of the selected groups over that of all valid problems
    generation_per_group_s   generation spent for one group of the batch

The paper's figures are from 256 GPUs with real lengths and rewards, and it defines neither its idle share nor its waste. What
the simulation leaves out: a GPU whose slots empty decodes the rest faster, here a slot's speed is constant; long groups are
less often valid, here both are independent. `naive` always takes three rounds here. The launch rule alone wastes far less
than the paper reports.
"""

import argparse
import asyncio
import itertools
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _record import RESULTS, record
from _virtual_time import run_in_virtual_time
from rich.console import Console
from rich.progress import track

from mimo_hf.drawing import bar_chart, save
from mimo_hf.trainers import SeamlessRollout
from mimo_hf.trainers.rollout import RolloutTask

BASELINES = ("static", "over-sampled", "naive", "sized rounds")
ENGINES = ("continuous", "+ async reward", "+ early stop", "first finished")
NEEDED, VALID_RATE = 512, 0.41
# Chosen so that `naive` leaves as much idle as the paper's does; nothing else is fitted.
SIGMA, LIMIT, REWARD_S = 0.8, 2.8, 0.05
SWEEP_NEEDED = 128
SWEEP = list(itertools.product((0.5, 0.8, 1.2), (0.05, 0.3), (0.5, 1, 2)))  # sigma, reward_s, slots / needed
# Arm: speed-up, idle share, waste; Table 2 of arXiv 2505.07608, measured on 256 H20 with real lengths and rewards.
PAPER = {
    "static": (2.45, 0.708, None),
    "naive": (1.00, 0.693, 0.221),
    "continuous": (1.99, 0.388, 0.139),
    "+ async reward": (2.09, 0.340, 0.164),
    "+ early stop": (2.29, 0.277, 0.129),
}
console = Console(stderr=True)


@dataclass(frozen=True)
class Sample:
    generation_s: float
    reward_s: float
    valid: bool


class Problems:
    """Numbered prompts; how the n-th attempt at one turns out depends on the seed alone."""

    def __init__(self, seed: int, sigma: float, reward_s: float):
        self.seed, self.sigma, self.reward_s = seed, sigma, reward_s
        self.prompts = iter(range(10**9))
        self.generating_s = 0.0
        self.samples: list[Sample] = []
        self._attempts: dict[int, int] = {}

    @property
    def mean_generation_s(self) -> float:
        """Of all problems, and so of the valid ones: the mean of min(X, LIMIT) for a lognormal X of mean 1."""
        normal, point = statistics.NormalDist(), math.log(LIMIT) / self.sigma
        return normal.cdf(point - self.sigma / 2) + LIMIT * (1 - normal.cdf(point + self.sigma / 2))

    def draw(self, prompt: int) -> Sample:
        attempt = self._attempts[prompt] = self._attempts.get(prompt, 0) + 1
        rng = random.Random(f"{self.seed} {prompt} {attempt}")
        generation_s = min(rng.lognormvariate(-(self.sigma**2) / 2, self.sigma), LIMIT)
        return Sample(generation_s, rng.expovariate(1 / self.reward_s), rng.random() < VALID_RATE)

    async def generate(self, prompt: int) -> Sample:
        sample = self.draw(prompt)
        loop = asyncio.get_running_loop()
        begin = loop.time()
        try:
            await asyncio.sleep(sample.generation_s)
        finally:
            self.generating_s += loop.time() - begin
        return sample

    async def score(self, prompt: int, sample: Sample) -> bool:
        await asyncio.sleep(sample.reward_s)
        return sample.valid


@dataclass(frozen=True)
class Step:
    """What a step ended with: the batch, and how many of all finished groups were valid."""

    groups: list[Sample]
    valid: int


class WaitForAll(SeamlessRollout):
    """Without early termination: every task that was started has finished."""

    def _select(self, tasks: Sequence[RolloutTask]) -> list[RolloutTask] | None:
        return None if any(task.valid is None for task in tasks) else super()._select(tasks)


class FirstFinished(SeamlessRollout):
    def _select(self, tasks: Sequence[RolloutTask]) -> list[RolloutTask] | None:
        valid = sorted((task for task in tasks if task.valid), key=lambda task: task.finished_s)
        return valid[: self.needed]


async def rounds(problems: Problems, arm: str, needed: int, max_inflight: int) -> Step:
    """Each round generates all of its prompts, then scores them."""
    slots = asyncio.Semaphore(max_inflight)

    async def generate(prompt: int) -> Sample:
        async with slots:
            return await problems.generate(prompt)

    finished: list[Sample] = []
    size = over_sampled(needed) if arm == "over-sampled" else needed
    while True:
        prompts = [next(problems.prompts) for _ in range(size)]
        samples = await asyncio.gather(*map(generate, prompts))
        await asyncio.gather(*map(problems.score, prompts, samples))
        finished += samples
        valid = [sample for sample in finished if sample.valid]
        if arm == "static":
            return Step(finished, len(valid))
        if len(valid) >= needed or arm == "over-sampled":  # which may fall short
            return Step(valid[:needed], len(valid))
        if arm == "sized rounds":
            size = min(needed, math.ceil((needed - len(valid)) * (2 + len(finished)) / (1 + len(valid))))


async def engine(problems: Problems, rollout: SeamlessRollout) -> Step:
    result = await rollout.rollout(problems.prompts)
    return Step([task.output for task in result.groups], result.stats.valid)


def over_sampled(needed: int) -> int:
    """Smallest batch with `needed` valid groups in 99 of 100 cases, by the normal approximation."""
    size = needed
    while size * VALID_RATE - 2.326 * math.sqrt(size * VALID_RATE * (1 - VALID_RATE)) < needed:
        size += 1
    return size


def make_engine(problems: Problems, arm: str, needed: int, max_inflight: int) -> SeamlessRollout:
    async def generate_and_score(prompt: int) -> Sample:
        sample = await problems.generate(prompt)
        await problems.score(prompt, sample)
        return sample

    async def look_up(prompt: int, sample: Sample) -> bool:
        return sample.valid

    if arm == "continuous":
        return WaitForAll(generate_and_score, look_up, needed, max_inflight, is_valid=bool)
    kinds = {"+ async reward": WaitForAll, "+ early stop": SeamlessRollout, "first finished": FirstFinished}
    return kinds[arm](problems.generate, problems.score, needed, max_inflight, is_valid=bool)


async def run_steps(problems: Problems, arm: str, needed: int, max_inflight: int, steps: int) -> dict[str, float]:
    """One seed of one arm."""
    if arm in BASELINES:
        done = [await rounds(problems, arm, needed, max_inflight) for _ in range(steps)]
    else:
        rollout = make_engine(problems, arm, needed, max_inflight)
        done = [await engine(problems, rollout) for _ in range(steps)]
    wall_s = asyncio.get_running_loop().time()
    groups = [sample for step in done for sample in step.groups]
    return {
        "step_s": wall_s / steps,
        "idle_share": 1 - problems.generating_s / (max_inflight * wall_s),
        "waste": 1 - sum(sample.valid for sample in groups) / sum(step.valid for step in done),
        "length_ratio": statistics.mean(sample.generation_s for sample in groups) / problems.mean_generation_s,
        "generation_per_group_s": problems.generating_s / len(groups),
        "full_batches": sum(len(step.groups) == needed for step in done) / steps,
    }


def spread(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)]


def measure(
    arms: Sequence[str],
    seeds: int,
    steps: int,
    needed: int,
    sigma: float = SIGMA,
    reward_s: float = REWARD_S,
    slots: float = 1,
) -> list[dict]:
    """A row an arm: means over seeds and ranges. Speed-ups are over the same seed's `naive`."""
    runs: dict[str, list[dict]] = {}
    for arm in track(arms, f"sigma {sigma}, reward {reward_s}, slots {slots}", console=console):
        problems = [Problems(seed, sigma, reward_s) for seed in range(seeds)]
        runs[arm] = [run_in_virtual_time(run_steps(own, arm, needed, int(slots * needed), steps)) for own in problems]
    rows = []
    for arm in arms:
        speed_ups = [naive["step_s"] / own["step_s"] for own, naive in zip(runs[arm], runs["naive"], strict=True)]
        row: dict = {"arm": arm, "speed_up": statistics.mean(speed_ups), "speed_up range": spread(speed_ups)}
        for name in ("idle_share", "waste", "length_ratio"):
            values = [run[name] for run in runs[arm]]
            row |= {name: statistics.mean(values), f"{name} range": spread(values)}
        for name in ("generation_per_group_s", "full_batches"):
            row[name] = statistics.mean(run[name] for run in runs[arm])
        rows.append(row)
    return rows


def plot(rows: Sequence[dict], path: Path):
    """Speed-up over `naive`, ours and the paper's, as a file."""
    arms = [row["arm"] for row in rows]
    reported = [PAPER[arm][0] if arm in PAPER else math.nan for arm in arms]
    series = {"simulated": [row["speed_up"] for row in rows], "the paper's": reported}
    save(bar_chart(arms, series, title="A step against naive rounds", x_label="speed-up (times)"), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=4, help="of each seed")
    options = parser.parse_args()
    rows = measure((*BASELINES, *ENGINES), options.seeds, options.steps, NEEDED)
    sweep = []
    for setting in SWEEP:
        own = measure(("naive", *ENGINES), options.seeds, options.steps, SWEEP_NEEDED, *setting)
        entry = dict(zip(("sigma", "mean_reward_s", "slots_over_needed"), setting, strict=True))
        entry["naive idle_share"] = own[0]["idle_share"]
        entry |= {f"{row['arm']} speed_up": row["speed_up"] for row in own[1:4]}
        sweep.append(entry | {f"{row['arm']} length_ratio": row["length_ratio"] for row in own[3:]})
    columns = ("speed_up", "idle_share", "waste")
    paper = [{"arm": arm, **dict(zip(columns, values, strict=True))} for arm, values in PAPER.items()]
    about = {
        "seeds": options.seeds, "steps_a_seed": options.steps, "groups_needed": NEEDED, "slots": NEEDED,
        "valid_rate": VALID_RATE, "sigma": SIGMA, "limit": LIMIT, "mean_generation_s": Problems(0, SIGMA, REWARD_S).mean_generation_s,
        "mean_reward_s": REWARD_S,
        "over_sampled_groups": over_sampled(NEEDED),
    }  # fmt: skip
    record(
        "seamless",
        {**about, "simulated": rows, "reported_by_the_paper": paper, f"sweep_with_{SWEEP_NEEDED}_groups": sweep},
        seed=0,
        timed=False,
    )
    plot(rows[:-1], RESULTS / "seamless.svg")


if __name__ == "__main__":
    main()
