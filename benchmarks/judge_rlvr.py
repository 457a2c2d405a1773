"""
JudgeRLVR's claim on small domains: does judging first make a generator more accurate, and its responses shorter?

    python benchmarks/judge_rlvr.py                                    # all domains, three seeds: more than an hour on one core
    python benchmarks/judge_rlvr.py --domains doubt_search --seeds 0
    python benchmarks/judge_rlvr.py --small                            # a few steps of everything; writes nothing

From one warm start a seed, with the same settings and an optimizer that starts anew at every stage:
    vanilla              generate only; measured at the generator steps, at steps equal in total, and at equal completion tokens
    length penalty       vanilla with a reward of 1 - 0.3 * length / limit for a right response
    judge                judge only
    judge -> generate    judge first, generate second
    mixed                both kinds of rows in every batch, half and half
A seed that is done is not repeated; each is added to `benchmarks/results/judge_rlvr_<domain>.json` when it ends, with plots
beside it.
"""

import argparse
import json
import math
import random
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from _judge_rlvr_domains import DOMAINS, Domain, Phase
from _record import RESULTS, record
from datasets import Dataset
from rich.console import Console
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from mimo_hf.data.pair_sum import judgement_reward
from mimo_hf.data.word_tokenizer import word_tokenizer
from mimo_hf.drawing import line_chart, save
from mimo_hf.trainers import JudgeRLVRConfig, JudgeRLVRTrainer, sample_responses
from mimo_hf.trainers.analysis import length_stats, paired_bootstrap, pareto_plot
from mimo_hf.trainers.judge_rlvr import judge_skill, mix_tasks

GROUP = 8
JUDGED_SHARE = 0.25  # of the demonstrations
SOLVE_DRAWS, JUDGE_DRAWS = 1024, 512
EQUAL_TOKENS = "equal tokens"
COMMON = {
    "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
    "disable_tqdm": True,
}  # fmt: skip
LIMITS = (
    "tiny models on domains made by hand, few seeds: nothing here speaks of language models of any size",
    "accuracy +3.7 points and length -42 % are the paper's figures, and are not reproduced",
)
console = Console(stderr=True)


def imitate(model, tokenizer, domain: Domain, phase: Phase, seed: int) -> None:
    """Supervised steps on demonstrations that are seen once each."""
    rng, rows = random.Random(seed), domain.load("train").to_list()
    columns: dict[str, list] = {"input_ids": [], "completion_mask": []}
    for row in rng.choices(rows, k=phase.steps * phase.batch_size):
        demonstrate = domain.judge if rng.random() < JUDGED_SHARE else domain.solve
        prompt, response = (tokenizer(text).input_ids for text in demonstrate(row, rng, **phase.noise))
        response = [*response[: domain.solve_tokens], tokenizer.eos_token_id]
        columns["input_ids"].append(prompt + response)
        columns["completion_mask"].append([0] * len(prompt) + [1] * len(response))
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder, max_steps=phase.steps, per_device_train_batch_size=phase.batch_size, warmup_steps=50,
            learning_rate=phase.learning_rate, lr_scheduler_type="linear", weight_decay=0.01, max_length=None,
            completion_only_loss=True, logging_strategy="no", seed=seed, **COMMON,
        )  # fmt: skip
        SFTTrainer(model, config, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer).train()


class Meter:
    """Measures a policy on the same test problems, with the same random numbers, whenever it is asked."""

    def __init__(self, domain: Domain, tokenizer, seed: int, draws: int = SOLVE_DRAWS, judge_draws: int = JUDGE_DRAWS):
        self.domain, self.tokenizer, self.seed = domain, tokenizer, seed
        test = domain.load("test").shuffle(seed=seed, keep_in_memory=True)
        self.solve = _repeated(domain.solve_rows(test), draws)
        self.judge = _repeated(domain.judge_rows(test, seed), judge_draws)

    def __call__(self, model) -> dict:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            sample = partial(sample_responses, model, self.tokenizer, batch_size=256)
            tokens = [row[0] for row in sample(self.solve["prompt"], max_new_tokens=self.domain.solve_tokens)]
            judged = [row[0] for row in sample(self.judge["prompt"], max_new_tokens=self.domain.judge_tokens)]
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        right = self._scores(self.domain.reward, texts, self.solve)
        verdicts = self._scores(
            judgement_reward, self.tokenizer.batch_decode(judged, skip_special_tokens=True), self.judge
        )
        lengths = [len(ids) for ids in tokens]
        cut = [ids[-1] != self.tokenizer.eos_token_id for ids in tokens]
        shares = {name: statistics.fmean(map(test, texts)) for name, test in self.domain.describe.items()}
        skill = judge_skill(verdicts, self.judge["label"])
        found = {
            **length_stats(lengths, right, cut),
            **shares,
            "judge_accuracy": skill["accuracy"],
            "judge_gap": skill["gap"],
        }
        return {"found": {name: round(value, 4) for name, value in found.items()}, "right": right, "lengths": lengths}

    @staticmethod
    def _scores(reward: Callable, texts: list[str], rows: Dataset) -> list[bool]:
        columns = {name: rows[name] for name in rows.column_names if name not in ("prompt", "completions")}
        return [score >= 1 for score in reward(completions=texts, **columns)]


def _repeated(rows: Dataset, count: int) -> Dataset:
    return rows.select([index % len(rows) for index in range(count)])


class Curve(TrainerCallback):
    """Measures at given steps, and once when the completion tokens so far reach a budget."""

    def __init__(self, meter: Meter, steps: tuple[int, ...], budget: float | None = None):
        self.meter, self.steps, self.budget = meter, steps, budget
        self.tokens = 0.0
        self.points: dict[int | str, dict] = {}

    def on_log(self, args, state, control, logs, model, **kwargs):
        if "completions/mean_length" not in logs:  # the summary of a whole training
            return
        self.tokens += logs["completions/mean_length"] * args.per_device_train_batch_size
        names: list[int | str] = [state.global_step] if state.global_step in self.steps else []
        if self.budget is not None and self.tokens >= self.budget and EQUAL_TOKENS not in self.points:
            names.append(EQUAL_TOKENS)
        for name in names:
            self.points[name] = self.meter(model) | {"steps": state.global_step, "tokens": round(self.tokens)}
            console.print(name, self.points[name]["found"], f"{self.tokens:.0f} tokens")


def train(
    model, tokenizer, domain: Domain, meter: Meter, stage: str, steps: tuple[int, ...], seed: int, *,
    reward: Callable | None = None, budget: float | None = None,
) -> Curve:  # fmt: skip
    """Trains the model in place through one stage, measuring after the given steps; the last one ends it."""
    problems = domain.load("train")
    judge_rows, solve_rows = domain.judge_rows(problems, seed), domain.solve_rows(problems)
    rows = {"judge": judge_rows, "generate": solve_rows}.get(stage) or mix_tasks(judge_rows, solve_rows, seed=seed)
    rewards = {"judge": judgement_reward, "generate": reward or domain.reward}
    curve = Curve(meter, steps, budget)
    console.print(f"{stage}, {steps[-1]} steps")
    with tempfile.TemporaryDirectory() as folder:
        config = JudgeRLVRConfig(
            output_dir=folder, stage=stage, max_steps=steps[-1], learning_rate=domain.learning_rate,
            lr_scheduler_type="constant", per_device_train_batch_size=domain.prompts * GROUP, num_generations=GROUP,
            max_completion_length=domain.solve_tokens, judge_max_completion_length=domain.judge_tokens, seed=seed,
            per_device_eval_batch_size=256, judge_gate_rows=64, on_low_skill="warn", logging_steps=1, **COMMON,
        )  # fmt: skip
        trainer = JudgeRLVRTrainer(
            model, rewards if stage == "mixed" else rewards[stage], config, rows,
            domain.judge_rows(domain.load("test"), seed), processing_class=tokenizer, callbacks=[curve],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return curve


def penalised(
    completions: list[str], completion_ids: list[list[int]], *, of: Callable, penalty: float, limit: int, **columns
) -> list[float]:
    """The reward, less `penalty` times the length's share of the limit where the response is right."""
    scores = of(completions=completions, **columns)
    return [score * (1 - penalty * len(ids) / limit) for score, ids in zip(scores, completion_ids, strict=True)]


def run_seed(name: str, domain: Domain, seed: int, draws: int, judge_draws: int) -> list[dict]:
    """All arms from one warm start; a row for each point at which one was measured."""
    set_seed(seed)
    tokenizer = word_tokenizer(domain.words)
    start = domain.model(len(tokenizer))
    for index, phase in enumerate(domain.warm_start):
        imitate(start, tokenizer, domain, phase, seed=10 * seed + index)

    def fresh_start():
        # A deep copy would go on using this model's weights: TRL's trainers bind `forward` to the model that they get.
        model = domain.model(len(tokenizer))
        model.load_state_dict(start.state_dict())
        return model

    meter = Meter(domain, tokenizer, seed, draws, judge_draws)
    points: dict[tuple[str, int | str], dict] = {("warm start", 0): meter(start) | {"steps": 0, "tokens": 0}}
    console.print(f"{name}, seed {seed}, warm start", points["warm start", 0]["found"])

    run = partial(train, tokenizer=tokenizer, domain=domain, meter=meter, seed=seed)
    judged = fresh_start()
    judging = run(judged, stage="judge", steps=(domain.judge_steps,))
    points["judge", 0] = judging.points[domain.judge_steps]
    for step, point in run(judged, stage="generate", steps=domain.generate_steps).points.items():
        tokens = round(point["tokens"] + judging.tokens)
        points["judge -> generate", step] = point | {"tokens": tokens, "steps": point["steps"] + domain.judge_steps}
    arms = {
        "vanilla": {
            "stage": "generate",
            "steps": tuple(sorted({*domain.generate_steps, *domain.longer})),
            "budget": points["judge -> generate", domain.generate_steps[0]]["tokens"],
        },
        "mixed": {"stage": "mixed", "steps": domain.mixed_steps},
        "length penalty": {
            "stage": "generate",
            "steps": domain.generate_steps[:2],
            "reward": partial(penalised, of=domain.reward, penalty=domain.penalty, limit=domain.solve_tokens),
        },
    }
    for arm, options in arms.items():
        points |= {(arm, step): point for step, point in run(fresh_start(), **options).points.items()}
    rows = []
    for (arm, step), point in points.items():
        row = {"arm": arm, "point": step, "seed": seed, "steps": point["steps"], "tokens": point["tokens"]}
        row |= point["found"]
        if arm == "judge -> generate":
            row |= compare(points["vanilla", step], point, meter.solve["problem_id"])
        rows.append(row)
    return rows


def compare(vanilla: dict, sequence: dict, problem_ids: list[str]) -> dict:
    """Differences to vanilla at equal generator steps, with 95 % intervals over problems."""
    found = {}
    scales = {"right": ("points", 100), "lengths": ("length", 1 / statistics.fmean(vanilla["lengths"]))}
    for values, (name, scale) in scales.items():
        gain = paired_bootstrap(vanilla[values], sequence[values], problem_ids, num_samples=2000)
        found[f"{name}_over_vanilla"] = round(scale * gain["difference"], 4)
        found[f"{name}_interval"] = [round(scale * gain["low"], 4), round(scale * gain["high"], 4)]
    return found


def summary(runs: list[dict]) -> list[dict]:
    """One row an arm and point: mean over the seeds, and range of what counts."""
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault((run["arm"], run["point"]), []).append(run)
    rows = []
    for (arm, point), own in groups.items():
        row: dict = {"arm": arm, "point": point, "seeds": len(own)}
        names = [name for name in own[0] if name not in (*row, "seed") and not isinstance(own[0][name], list)]
        for name in names:
            values = [run[name] for run in own]
            row[name] = round(statistics.fmean(values), 4)
            if name in ("accuracy", "mean_length"):
                row[f"{name}_range"] = [min(values), max(values)]
        rows.append(row)
    return rows


def claims(runs: list[dict]) -> list[dict]:
    """judge -> generate against vanilla at equal generator steps: by how much, and in how many seeds."""
    found = []
    sequences = [run for run in runs if run["arm"] == "judge -> generate"]
    for point in dict.fromkeys(run["point"] for run in sequences):
        points = [run["points_over_vanilla"] for run in sequences if run["point"] == point]
        lengths = [run["length_over_vanilla"] for run in sequences if run["point"] == point]
        found.append(
            {
                "generator_steps": point,
                "points_by_seed": points,
                "length_by_seed": lengths,
                "seeds_3_points_better": sum(value >= 3 for value in points),
                "seeds_15_percent_shorter": sum(value <= -0.15 for value in lengths),
            }
        )
    return found


def write(name: str, domain: Domain, runs: list[dict], folder: Path) -> None:
    payload = {
        "domain": domain.summary,
        "limits": [*LIMITS, *domain.limits],
        "settings": {
            "prompts_a_step": domain.prompts,
            "completions_a_prompt": GROUP,
            "learning_rate": domain.learning_rate,
            "judge_steps": domain.judge_steps,
            "longest_response": domain.solve_tokens,
            "longest_verdict": domain.judge_tokens,
            "warm_start": [f"{phase.steps} steps of {phase.batch_size}, {phase.noise}" for phase in domain.warm_start],
            "measured_on": f"{SOLVE_DRAWS} responses at temperature 1 to test problems, and {JUDGE_DRAWS} verdicts",
        },
        "judge_then_generate_over_vanilla": claims(runs),
        "table": summary(runs),
        "runs": runs,
    }
    command = f"python benchmarks/judge_rlvr.py --domains {name}"
    record(f"judge_rlvr_{name}", payload, folder=folder, command=command, timed=False)
    shown = {row["arm"] + f" {row['point']}" * bool(row["point"]): row for row in payload["table"]}
    pareto_plot(shown, folder / f"judge_rlvr_{name}.svg")
    for value, label in (("accuracy", "accuracy"), ("mean_length", "mean length (tokens)")):
        steps, series = curves(payload["table"], domain, value)
        picture = line_chart(steps, series, title=name, x_label="generator steps", y_label=label)
        save(picture, folder / f"judge_rlvr_{name}_{value}.png")


def curves(table: list[dict], domain: Domain, value: str) -> tuple[list[int], dict[str, list[float]]]:
    """A value over the steps of the generator; what was not measured is NaN."""
    found = {(row["arm"], row["point"]): row[value] for row in table}
    starts = {"vanilla": "warm start", "length penalty": "warm start", "judge -> generate": "judge"}
    series = {
        arm: [found[start, 0], *(found.get((arm, step), math.nan) for step in domain.generate_steps)]
        for arm, start in starts.items()
    }
    return [0, *domain.generate_steps], series


def reduced(domain: Domain) -> Domain:
    """A few steps of everything, to see that it runs."""
    phases = tuple(replace(phase, steps=3, batch_size=8) for phase in domain.warm_start)
    return replace(
        domain, warm_start=phases, prompts=2, judge_steps=2, generate_steps=(1, 2), longer=(3,), mixed_steps=(2,)
    )


def study(name: str, seeds: list[int], small: bool = False, folder: Path = RESULTS) -> list[dict]:
    """Runs the seeds that are not on record."""
    path = folder / f"judge_rlvr_{name}.json"
    if small:
        return [row for seed in seeds for row in run_seed(name, reduced(DOMAINS[name]), seed, 16, 8)]
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    for seed in seeds:
        if all(run["seed"] != seed for run in runs):
            runs += run_seed(name, DOMAINS[name], seed, SOLVE_DRAWS, JUDGE_DRAWS)
            write(name, DOMAINS[name], runs, folder)
    return runs


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", nargs="+", choices=list(DOMAINS), default=list(DOMAINS), help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--small", action="store_true", help="a few steps of everything; writes nothing")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    for name in options.domains:
        console.print_json(data=summary(study(name, options.seeds, options.small)))


if __name__ == "__main__":
    main()
