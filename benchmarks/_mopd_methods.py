"""What the MOPD study compares: functions of a start and its teachers that give a student, and what each of them cost."""

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from _mopd_setups import Study, reinforce
from datasets import Dataset
from mopd_toy import COMMON, copy_of, distil, problems, supervise
from transformers import LlamaForCausalLM, PrinterCallback
from trl import DistillationConfig, DistillationTrainer

from mimo_hf.data.symbol_tasks import exact_match_reward
from mimo_hf.trainers import sample_responses

SCALES = {"third": 1 / 3, "half": 1 / 2, "most": 0.7, "whole": 1.0}
FEW = 4  # tokens of the estimators that know some


@dataclass
class Trained:
    """
    Attributes:
        prompts: that the student was trained on; repeated ones count each time.
        completions: that it was trained on.
        sampled_by: who wrote them.
        tokens: of prompts and completions that it was trained on.
    """

    model: LlamaForCausalLM
    prompts: int = 0
    completions: int = 0
    sampled_by: str = ""
    tokens: int = 0
    options: dict[str, Any] = field(default_factory=dict)


def mopd(study: Study, *, group: int = 1, reward: bool = False, pool: int | None = None, **options) -> Trained:
    """`pool`: so many distinct prompts of each domain, again and again; None: each prompt once."""
    setup = study.setup
    prompts = options.pop("prompts", setup.prompts)
    rows = study.pool(pool) if pool else study.prompts(setup.steps * prompts)
    options = {"per_device_train_batch_size": prompts * group, "num_generations": group} | options
    model = copy_of(study.start)
    rewards = exact_match_reward if reward else None
    trainer = distil(
        model, study.fresh_teachers(), study.tokenizer, rows, setup, study.seed, reward_funcs=rewards, **options
    )
    count = prompts * setup.steps
    return Trained(model, count, count * group, "student", trainer.state.num_input_tokens_seen, options)


def sequential(study: Study) -> Trained:
    """One teacher after another, a share of the steps each."""
    model, setup = copy_of(study.start), study.setup
    steps = setup.steps // len(setup.domains)
    tokens = 0
    for index, (domain, teacher) in enumerate(study.fresh_teachers().items()):
        rows = problems([domain], steps * setup.prompts, seed=study.data_seed + index)
        part = replace(setup, steps=steps)
        trainer = distil(model, {domain: teacher}, study.tokenizer, rows, part, study.seed)
        tokens += trainer.state.num_input_tokens_seen
        model = copy_of(model)
    count = steps * len(setup.domains) * setup.prompts
    return Trained(model, count, count, "student", tokens, {"steps_a_teacher": steps})


def one_teacher(study: Study) -> Trained:
    """TRL's trainer, which has one teacher for all prompts: that of the domain in the middle."""
    model, setup = copy_of(study.start), study.setup
    domain = setup.domains[len(setup.domains) // 2]
    rows = study.prompts(setup.steps * setup.prompts).select_columns("prompt")
    with tempfile.TemporaryDirectory() as folder:
        config = DistillationConfig(
            output_dir=folder, beta=1.0, max_steps=setup.steps, per_device_train_batch_size=setup.prompts, warmup_steps=10,
            learning_rate=setup.learning_rate, max_completion_length=setup.max_completion_length, seed=study.seed,
            logging_steps=10, **COMMON,
        )  # fmt: skip
        trainer = DistillationTrainer(
            model, study.fresh_teachers()[domain], config, rows, processing_class=study.tokenizer
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    count = setup.steps * setup.prompts
    return Trained(model, count, count, "student", trainer.state.num_input_tokens_seen, {"teacher": domain})


def teachers_answers(study: Study, rows: Dataset) -> Dataset:
    """The rows with `answer` as each one's teacher says it, sampled at temperature 1, right or wrong."""
    answers: list[str] = [""] * len(rows)
    domains = rows["domain"]
    for domain, teacher in study.fresh_teachers().items():
        own = [index for index, name in enumerate(domains) if name == domain]
        torch.manual_seed(study.seed)
        samples = sample_responses(
            teacher, study.tokenizer, [rows[index]["prompt"] for index in own],
            max_new_tokens=study.setup.max_completion_length, batch_size=250,
        )  # fmt: skip
        texts = study.tokenizer.batch_decode([sample for (sample,) in samples], skip_special_tokens=True)
        for index, text in zip(own, texts, strict=True):
            answers[index] = text
    return rows.remove_columns("answer").add_column("answer", answers)


def sft(study: Study, *, pool: int | None = None, rate: float | None = None) -> Trained:
    """Supervised on what the teachers say; `pool` as of `mopd`."""
    model, setup = copy_of(study.start), study.setup
    rows = teachers_answers(study, study.pool(pool) if pool else study.prompts(setup.steps * setup.prompts))
    rate = rate or setup.learning_rate
    supervise(
        model, study.tokenizer, rows, steps=setup.steps, learning_rate=rate, seed=study.seed, batch_size=setup.prompts
    )
    count = setup.steps * setup.prompts
    each = statistics.fmean(len((row["prompt"] + " " + row["answer"]).split()) + 1 for row in rows)
    return Trained(
        model, count, count, "teachers", round(each * count), {"learning_rate": rate, "distinct": len(rows)}
    )


def averaged(study: Study, *, scale: float) -> Trained:
    """Start + scale * sum of (teacher - start): no training."""
    start = study.start.state_dict()
    moved = {name: value.clone() for name, value in start.items()}
    for teacher in study.teachers.values():
        for name, value in teacher.state_dict().items():
            moved[name] += scale * (value - start[name])
    model = copy_of(study.start)
    model.load_state_dict(moved)
    return Trained(model, options={"scale": round(scale, 3)})


def outcome_only(study: Study, *, prompts: int, group: int, rate: float, steps: int | None = None) -> Trained:
    """GRPO over all domains, without teachers."""
    steps = steps or study.setup.steps
    model, tokens = reinforce(
        study.start, study.tokenizer, study.prompts(steps * prompts), study.setup, study.seed, steps=steps, prompts=prompts,
        group=group, learning_rate=rate, dynamic=False,
    )  # fmt: skip
    options = {"learning_rate": rate, "num_generations": group, "steps": steps}
    return Trained(model, steps * prompts, steps * prompts * group, "student", tokens, options)


def mix_rl(study: Study) -> Trained:
    """One run of reinforcement over all domains, as long as those of all teachers and the student together."""
    rl, setup = study.rl, study.setup
    student = setup.steps * setup.prompts / (rl.prompts * rl.group)
    steps = round(rl.steps * len(setup.domains) + student)
    model, tokens = reinforce(
        study.start, study.tokenizer, study.prompts(steps * rl.prompts), setup, study.seed, steps=steps, prompts=rl.prompts,
        group=rl.group, learning_rate=rl.learning_rate, dynamic=True,
    )  # fmt: skip
    options = {"learning_rate": rl.learning_rate, "num_generations": rl.group, "steps": steps}
    return Trained(model, steps * rl.prompts, steps * rl.prompts * rl.group, "student", tokens, options)


POOL = 300
WIDE = {"prompts": 192, "learning_rate": 5e-4}  # `sampled` needs both: its estimate is noisy
METHODS: dict[str, Callable[[Study], Trained]] = {
    "mopd full": mopd,
    "mopd sampled": partial(mopd, kl_estimator="sampled", **WIDE),
    "mopd sampled, equal prompts": partial(mopd, kl_estimator="sampled", learning_rate=5e-4),
    "mopd topk": partial(mopd, kl_estimator="topk", kl_top_k=FEW),
    "mopd topk_teacher": partial(mopd, kl_estimator="topk_teacher", kl_top_k=FEW),
    "sft": sft,
    "sequential": sequential,
    "one teacher": one_teacher,
    **{f"average {name}": partial(averaged, scale=scale) for name, scale in SCALES.items()},
    "mopd full, four answers": partial(mopd, group=4),
    "mopd full + orm": partial(mopd, group=4, reward=True, orm_alpha=0.5),
    "orm only": partial(outcome_only, prompts=64, group=4, rate=3e-4),
    "mopd full, pool": partial(mopd, pool=POOL),
    "sft, pool": partial(sft, pool=POOL),
    "mix rl": mix_rl,
}
