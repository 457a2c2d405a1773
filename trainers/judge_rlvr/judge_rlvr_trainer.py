"""JudgeRLVR (arXiv 2601.08468): the same policy learns to judge solutions, then to write them."""

import functools
import inspect
import logging
import math
import random
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from trl.trainer.utils import is_async_callable

from mimo_hf.data.reward_columns import take_rows

from ..mimo_rl.mimo_rl_trainer import DynamicSamplingGRPOTrainer
from ..reward_guard import named_arguments
from ..rollout.engine_rollout import GenerateFn
from .judge_rlvr_config import JudgeRLVRConfig

logger = logging.getLogger(__name__)

TASKS = ("judge", "generate")


class LowSkill(RuntimeError):
    """The policy's verdicts tell too little to train on them."""


class JudgeRLVRTrainer(DynamicSamplingGRPOTrainer):
    """
    [`DynamicSamplingGRPOTrainer`] for one stage of JudgeRLVR, with a gate before training on verdicts.

    Rows of the tasks are told apart by the column `task`, `"judge"` or `"generate"`; without it, all rows are of the
    stage. Judge rows have the column `label`, 1 for a right solution and 0 for a wrong one. With the stage `"generate"`
    weights are those of `DynamicSamplingGRPOTrainer`. Methods overridden:

    - `train`: the skill gate, unless a checkpoint is resumed.
    - `_sampling_state`, `_load_sampling_state`: with the verdicts that `judge_patience` counts.
    - `_calculate_rewards`: the judge's metrics `judge/accuracy`, `judge/tpr`, `judge/tnr`, `judge/balanced_accuracy` and
      `judge/gap`, in which a verdict is right if it has a reward of at least 1.

    Args:
        reward_funcs: as in `GRPOTrainer`, or a mapping from task to a reward function (or several), which then scores the
            rows of its task alone.
        args: a `JudgeRLVRConfig`.
        eval_dataset: its judge rows are what the gate is measured on; needed in the stages `"judge"` and `"mixed"` unless
            `judge_gate_rows=0`. They must be of other problems than the training's.
    """

    _tag_names = ["trl", "grpo", "judge-rlvr"]
    _name = "JudgeRLVR"
    _paper = {
        "title": "JudgeRLVR: Judge First, Generate Second for Efficient Reasoning",
        "id": "2601.08468",
        "citation": textwrap.dedent("""\
            @article{duo2026judgerlvr,
                title        = {{JudgeRLVR: Judge First, Generate Second for Efficient Reasoning}},
                author       = {Jiangshan Duo and Hanyu Li and Hailin Zhang and Yudong Wang and Sujian Li and Liang Zhao},
                year         = 2026,
                eprint       = {arXiv:2601.08468},
            }"""),
    }
    _default_config = JudgeRLVRConfig

    def __init__(
        self,
        model,
        reward_funcs=None,
        args: JudgeRLVRConfig | None = None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        reward_processing_classes=None,
        callbacks=None,
        optimizers=(None, None),
        quantization_config=None,
        peft_config=None,
        tools=None,
        rollout_func=None,
        environment_factory=None,
        *,
        generate_fn: GenerateFn | None = None,
        max_inflight: int | None = None,
    ):
        if args is not None and not isinstance(args, JudgeRLVRConfig):
            raise TypeError(f"`args` must be a JudgeRLVRConfig; got {type(args).__name__}.")
        stage = "generate" if args is None else args.stage
        if isinstance(train_dataset, Dataset):
            _check_tasks(train_dataset, stage)
        if args is not None and stage != "generate" and args.judge_gate_rows:
            _check_gate_rows(eval_dataset, stage)
        if isinstance(reward_funcs, Mapping):
            reward_funcs = _rewards_by_task(reward_funcs, stage)
        if args is not None and stage != "generate":
            reward_funcs = _bind_unparseable_reward(reward_funcs, args.unparseable_reward)
        super().__init__(
            model,
            reward_funcs,
            args,
            train_dataset,
            eval_dataset,
            processing_class=processing_class,
            reward_processing_classes=reward_processing_classes,
            callbacks=callbacks,
            optimizers=optimizers,
            quantization_config=quantization_config,
            peft_config=peft_config,
            tools=tools,
            rollout_func=rollout_func,
            environment_factory=environment_factory,
            generate_fn=generate_fn,
            max_inflight=max_inflight,
        )
        # Of each generation until the patience ends: its step, right verdicts on right solutions and all on these, and the same on
        # wrong ones.
        self._verdicts: list[list[int]] = []
        if stage == "judge" and self.args.judge_patience is not None:
            self.add_callback(_Patience(self))

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        if not resume_from_checkpoint and self.args.stage != "generate" and self.args.judge_gate_rows:
            self.check_skill()
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def check_skill(self) -> dict[str, float]:
        """The gate: raises or warns if the policy's gap on `eval_dataset` is below `judge_min_gap`; returns its skill."""
        skill = self.measure_skill(self.eval_dataset, self.args.judge_gate_rows)
        if skill["gap"] < self.args.judge_min_gap:
            message = (
                f"P(yes | right) - P(yes | wrong) = {skill['gap']:.3f} (standard error {skill['gap_se']:.3f}) is below "
                f"judge_min_gap={self.args.judge_min_gap}: the policy's verdicts tell little, and training on them has ruined "
                "generators. Fine-tune on judged examples with critiques first, ask for a critique in the prompt, or lower "
                "`judge_min_gap`."
            )
            self._refuse(message)
        return skill

    def measure_skill(self, dataset: Dataset, max_rows: int | None = None) -> dict[str, float]:
        """
        What `num_generations_eval` sampled verdicts a judge row are worth. Torch's random numbers stay as they were.

        Args:
            dataset: with the columns `prompt`, `label` and whatever the reward functions need; rows of other tasks are skipped.
            max_rows: drawn by `seed`; None: all.

        Returns:
            `accuracy`, `tpr` (P(yes | right)), `tnr` (1 - P(yes | wrong)), `balanced_accuracy`, `gap` and its standard error
            `gap_se`.
        """
        rows = [{**row, "task": "judge"} for row in dataset if row.get("task", "judge") == "judge"]
        random.Random(self.args.seed).shuffle(rows)  # noqa: S311  a seeded order, no secret
        rows = rows[:max_rows]
        size = max(1, self.args.per_device_eval_batch_size // self.num_generations_eval)
        share = size * self.accelerator.num_processes
        right: list[torch.Tensor] = []
        labels: list[int] = []
        training = self.model.training
        self.model.eval()
        with torch.random.fork_rng(), torch.no_grad():
            for start in range(0, len(rows), share):
                chunk = rows[start : start + share]
                # Every process takes as many rows as the others; what is repeated for that is not counted.
                filled = [chunk[index % len(chunk)] for index in range(share)]
                own = filled[self.accelerator.process_index * size :][:size]
                repeated = [dict(row) for row in own for _ in range(self.num_generations_eval)]
                self._generate_and_score_completions(repeated)
                count = len(chunk) * self.num_generations_eval
                right.append(_reaches_one(self._rewards)[:count].cpu())
                labels += [row["label"] for row in chunk for _ in range(self.num_generations_eval)]
        self.model.train(training)
        self._metrics["eval"].clear()
        return judge_skill(torch.cat(right).tolist(), labels)

    def check_patience(self) -> None:
        """Raises or warns, as `on_low_skill` says, if the gap has not risen over the steps so far, or can't be measured."""
        patience, gaps = self.args.judge_patience, []
        for half in ("first", "second"):
            own = [counts for step, *counts in self._verdicts if (step < patience // 2) == (half == "first")]
            yes, right, no, wrong = map(sum, zip(*own, strict=True)) if own else (0, 0, 0, 0)
            for count, kind in ((right, "right"), (wrong, "wrong")):
                if not count:
                    self._refuse(
                        f"P(yes | right) - P(yes | wrong) can't be measured: there were no verdicts on {kind} solutions in the {half} "
                        f"half of judge_patience={patience} steps. Train on rows of both kinds in random order, raise "
                        "`judge_patience`, or leave it out."
                    )
                    return
            gaps.append(yes / right + no / wrong - 1)
        early, late = gaps
        if late > early:
            return
        self._refuse(
            f"P(yes | right) - P(yes | wrong) has not risen within judge_patience={patience} steps: "
            f"{early:.3f} over their first half, {late:.3f} over the second. The policy "
            "does not learn to judge, and going on has ruined generators: start again from the initial weights with a larger "
            "learning rate, more prompts a step or easier candidates, or raise `judge_patience`."
        )

    def _refuse(self, message: str) -> None:
        if self.args.on_low_skill == "raise":
            raise LowSkill(message)
        logger.warning(message)

    def _sampling_state(self):
        return {**super()._sampling_state(), "verdicts": self._verdicts}

    def _load_sampling_state(self, state):
        super()._load_sampling_state(state)
        self._verdicts = state.get("verdicts") or []
        if state.get("verdicts") is None and self.args.judge_patience is not None:
            logger.warning(
                "The checkpoint was saved by an earlier version: verdicts for `judge_patience` are counted from here on."
            )

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        own = [
            int(row["label"]) if row.get("task", self.args.stage) == "judge" else -1  # no judge row
            for row in inputs
        ]
        labels = self.accelerator.gather(torch.tensor(own, device=rewards.device))
        is_judge = labels >= 0
        if is_judge.any():
            mode = "train" if self.model.training else "eval"
            skill = judge_skill(_reaches_one(rewards)[is_judge].tolist(), labels[is_judge].tolist())
            for name in ("accuracy", "tpr", "tnr", "balanced_accuracy", "gap"):
                self._metrics[mode][f"judge/{name}"].append(skill[name])
            if mode == "train" and self.state.global_step < (self.args.judge_patience or 0):
                right = _reaches_one(rewards)
                counts = [int(which.sum()) for kind in (1, 0) for which in (right & (labels == kind), labels == kind)]
                self._verdicts.append([self.state.global_step, *counts])
        return rewards


class _Patience(TrainerCallback):
    def __init__(self, trainer: JudgeRLVRTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == args.judge_patience:
            self.trainer.check_patience()


def judge_skill(right: Sequence[bool], labels: Sequence[int]) -> dict[str, float]:
    """
    What verdicts are worth, from whether each is right and what it was about.

    Args:
        right: whether the verdict equals the label; False for an unreadable one.
        labels: 1 for a right solution, 0 for a wrong one.

    Returns:
        `accuracy`; `tpr` and `tnr`, the shares of right verdicts on right and on wrong solutions; `balanced_accuracy`, their
        mean; `gap` = tpr + tnr - 1, which is P(yes | right) - P(yes | wrong); `gap_se`. NaN where a class is missing.
    """
    rates, variance = [], 0.0
    for label in (1, 0):
        verdicts = [bool(verdict) for verdict, about in zip(right, labels, strict=True) if about == label]
        rate = sum(verdicts) / len(verdicts) if verdicts else math.nan
        rates.append(rate)
        variance += rate * (1 - rate) / len(verdicts) if verdicts else math.nan
    tpr, tnr = rates
    return {
        "accuracy": sum(map(bool, right)) / len(right) if right else math.nan,
        "tpr": tpr,
        "tnr": tnr,
        "balanced_accuracy": (tpr + tnr) / 2,
        "gap": tpr + tnr - 1,
        "gap_se": math.sqrt(variance),
    }


def mix_tasks(judge: Dataset, generate: Dataset, judge_fraction: float = 0.5, seed: int = 0) -> Dataset:
    """
    Rows of both tasks in random order, `judge_fraction` of them judge rows, as many as the data sets allow.

    Columns that one task lacks are None in its rows.
    """
    if not 0 < judge_fraction < 1:
        raise ValueError(f"`judge_fraction` must be strictly between 0 and 1; got {judge_fraction}.")
    total = min(len(judge) / judge_fraction, len(generate) / (1 - judge_fraction))
    counts = (int(total * judge_fraction + 1e-9), int(total * (1 - judge_fraction) + 1e-9))
    parts = []
    for task, dataset, count in zip(TASKS, (judge, generate), counts, strict=True):
        part = dataset.shuffle(seed=seed, keep_in_memory=True).select(range(count))
        if "task" in part.column_names:
            part = part.remove_columns("task")
        parts.append(part.add_column("task", [task] * count))
    return concatenate_datasets(parts).shuffle(seed=seed, keep_in_memory=True)


def hand_over(model: PreTrainedModel, stage_handoff: str = "continue") -> PreTrainedModel:
    """
    The policy of one stage as the start of the next, with the same outputs.

    Args:
        model: as trained; one without adapters is returned as it is.
        stage_handoff: `"continue"` goes on training the same adapter (pass no `peft_config` to the next trainer);
            `"merge"` adds it to the weights, for a new `peft_config` or for training all weights.
    """
    if stage_handoff not in ("continue", "merge"):
        raise ValueError(f"`stage_handoff` must be 'continue' or 'merge'; got {stage_handoff!r}.")
    if stage_handoff == "merge" and hasattr(model, "merge_and_unload"):
        return model.merge_and_unload()
    return model


def for_task(task: str, function: Callable) -> Callable:
    """A TRL reward function that scores the rows of one task and gives None for others."""

    def select(columns: dict[str, Any]) -> tuple[list[int], dict[str, Any]]:
        num_rows = len(columns["completions"])
        rows = [index for index, name in enumerate(columns["task"]) if name == task]
        chosen = take_rows(columns, rows)
        log_extra = columns.get("log_extra")
        if log_extra:
            chosen["log_extra"] = lambda name, values: log_extra(name, spread(values, rows, num_rows))
        return rows, chosen

    def spread(values: Sequence[Any], rows: Sequence[int], num_rows: int) -> list[Any]:
        by_row = dict(zip(rows, values, strict=True))
        return [by_row.get(index) for index in range(num_rows)]

    # Both have the wrapped function's signature, which says what columns it needs.
    if is_async_callable(function):

        @functools.wraps(function)
        async def scored(*arguments: Any, **columns: Any) -> list[float | None]:
            columns = named_arguments(function, arguments, columns)
            rows, chosen = select(columns)
            rewards = await function(**chosen) if rows else []
            return spread(rewards, rows, len(columns["completions"]))

    else:

        @functools.wraps(function)
        def scored(*arguments: Any, **columns: Any) -> list[float | None]:
            columns = named_arguments(function, arguments, columns)
            rows, chosen = select(columns)
            return spread(function(**chosen) if rows else [], rows, len(columns["completions"]))

    return scored


def _bind_unparseable_reward(reward_funcs: Any, value: float) -> Any:
    """Reward functions that have the parameter `unparseable_reward` get the value; others stay as they are."""

    def bind(function: Any) -> Any:
        if not callable(function) or isinstance(function, nn.Module):
            return function
        try:
            takes_it = "unparseable_reward" in inspect.signature(function).parameters
        except ValueError:  # some callables written in C have none
            return function
        if not takes_it:
            return function
        bound = functools.update_wrapper(functools.partial(function, unparseable_reward=value), function, updated=())
        del bound.__wrapped__  # or the signature would be the one without the value
        return bound

    functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    bound = list(map(bind, functions))
    if value and all(new is old for new, old in zip(bound, functions, strict=True)):
        raise ValueError(
            "`unparseable_reward` must be left at 0 where no reward function has a parameter of this name; got "
            f"{value}. Give the one of the verdicts this parameter."
        )
    return bound if isinstance(reward_funcs, list) else bound[0]


def _rewards_by_task(rewards: Mapping[str, Any], stage: str) -> list[Callable]:
    tasks = TASKS if stage == "mixed" else (stage,)
    functions: list[Callable] = []
    for task in tasks:
        if task not in rewards:
            raise ValueError(
                f"`reward_funcs` must have an entry {task!r}, which the stage {stage!r} needs; got "
                f"{', '.join(map(repr, rewards))}."
            )
        own = rewards[task] if isinstance(rewards[task], list | tuple) else [rewards[task]]
        functions += [for_task(task, function) for function in own] if stage == "mixed" else own
    return functions


def _check_tasks(dataset: Dataset, stage: str) -> None:
    tasks = dataset["task"] if "task" in dataset.column_names else [stage] * len(dataset)
    allowed = TASKS if stage == "mixed" else (stage,)
    labels = dataset["label"] if "label" in dataset.column_names else [None] * len(dataset)
    for index, (task, label) in enumerate(zip(tasks, labels, strict=True)):
        if task not in allowed:
            raise ValueError(
                f"`task` of row {index} of `train_dataset` must be one of {', '.join(allowed)} in the stage "
                f"{stage!r}; got {task!r}. Set the column, or the option `stage`."
            )
        if task == "judge" and label not in (0, 1):
            raise ValueError(
                f"Row {index} of `train_dataset` is a judge row with label {label!r}; the column `label` must be 1 for a right "
                "solution or 0 for a wrong one."
            )


def _check_gate_rows(dataset: Any, stage: str) -> None:
    columns = getattr(dataset, "column_names", None) or []
    if not isinstance(dataset, Dataset) or "label" not in columns:
        raise ValueError(
            f"The stage {stage!r} measures the policy's skill before it starts: `eval_dataset` must be a datasets.Dataset with "
            "judge rows (columns `prompt` and `label`) of held-out problems. Pass one, or set judge_gate_rows=0."
        )
    tasks = dataset["task"] if "task" in columns else ["judge"] * len(dataset)
    labels = {label for label, task in zip(dataset["label"], tasks, strict=True) if task == "judge"}
    if labels != {0, 1}:
        raise ValueError(
            "`eval_dataset` must have judge rows with label 1 and with label 0, or the gap can't be measured; it has "
            f"labels {sorted(labels, key=str)}."
        )


def _reaches_one(rewards: torch.Tensor) -> torch.Tensor:
    """[rows, functions] to [rows]: at least 1 from every function that scored the row, and scored by one."""
    unscored = rewards.isnan()
    return ((rewards >= 1) | unscored).all(-1) & ~unscored.all(-1)
