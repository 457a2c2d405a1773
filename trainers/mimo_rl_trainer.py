"""GRPO with MiMo's dynamic sampling and easy pool (arXiv 2505.07608, sections 3.3.1 and 3.3.2) inside TRL's trainer."""

import errno
import inspect
import json
import logging
import math
import os
import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

try:
    from trl import GRPOTrainer
    from trl.models.utils import disable_gradient_checkpointing
    from trl.trainer.utils import RepeatSampler, get_config_model_id
except ImportError as error:
    raise ImportError("mimo_hf.trainers needs TRL: pip install 'mimo-hf[trl]'") from error

from .engine_rollout import EngineRollout, GenerateFn
from .group_batch import concatenate, take_groups
from .launcher import warn_of_missing_processes
from .mimo_rl_config import MiMoRLConfig
from .prompt_sampler import PromptSampler
from .reward_guard import guard_reward
from .sampling_rounds import Round, Selection, expected_keep_rate, select
from .step_folder import write_whole

logger = logging.getLogger(__name__)

STATE_FILE = "mimo_sampler_state.json"
FULL_DISK = 1 << 20  # bytes: less is left of a disk whose lack of space an error does not name
# What TRL passes to reward functions beside the data set's columns.
NOT_COLUMNS = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments"}


class DynamicSamplingGRPOTrainer(GRPOTrainer):
    """
    [`~trl.GRPOTrainer`] whose batches hold only groups that carry a gradient, and that draws solved problems rarely.

    With the features of [`MiMoRLConfig`] off, weights are bit for bit those of `GRPOTrainer`. Methods overridden:

    - `_generate_and_score_completions`: generates in rounds until every process has its groups. All processes decide
      from the same gathered rewards, so they take the same number of rounds.
    - `_calculate_rewards`: keeps the gathered rewards. A reward function that raises does so for the rows at fault only:
      they are left out of their group and counted in the metric `reward/errors`.
    - `train`: `resume_from_checkpoint=True` passes over a checkpoint that was not written to its end; one with all
      steps is only loaded.
    - `_save_checkpoint`, `_load_optimizer_and_scheduler`, `_get_train_sampler`: the state of the draws, the dataloader's
      permutation, and the generated rows that are still to be trained on. A resumed run ends with the weights of an
      undisturbed one, wherever the save falls (`GRPOTrainer` itself needs a save between two generations of its first
      epoch for that).

    A batch without any informative group has no gradient: training stops after it and says what to change.

    Metrics, a batch each: `sampling/rounds`; `sampling/keep_rate`, the share of informative groups among all generated;
    `sampling/waste`, the share generated, informative, and not needed; `sampling/effective_batch`, the share of the
    batch that carries a gradient (1 unless padded); `sampling/frac_carried`, the share of the batch that the one before had
    left over; `sampling/frac_all_right`, `sampling/frac_all_wrong`;
    `sampling/pool_size`, `sampling/pool_draw_frac`; `reward/errors`, in rows.

    Args:
        args: a `MiMoRLConfig`.
        train_dataset: must have every column that a reward function requires, and be indexable (no `IterableDataset`)
            where dynamic sampling or an easy pool is on.

        generate_fn: an asynchronous engine, `async (prompt, num_generations) -> Generated` (see `engine_rollout`), with the
            policy's weights: the caller keeps them in step, as with TRL's `rollout_func`. With `dynamic_sampling`, problems are
            then started, scored and selected one by one (see [`SeamlessRollout`]) instead of in rounds. On one process, without
            `carry_surplus`.
        max_inflight: problems that the engine may be generating at a time; None: twice the groups of a batch.

    All other arguments are `GRPOTrainer`'s, in its order; ours are given by name.
    """

    _tag_names = ["trl", "grpo", "mimo-rl"]
    _name = "MiMo-RL"
    _paper = {
        "title": "MiMo: Unlocking the Reasoning Potential of Language Model - From Pretraining to Posttraining",
        "id": "2505.07608",
        "citation": textwrap.dedent("""\
            @article{xia2025mimo,
                title        = {{MiMo: Unlocking the Reasoning Potential of Language Model - From Pretraining to Posttraining}},
                author       = {{LLM-Core Xiaomi}},
                year         = 2025,
                eprint       = {arXiv:2505.07608},
            }"""),
    }
    _default_config: type[MiMoRLConfig] = MiMoRLConfig

    def __init__(
        self,
        model,
        reward_funcs=None,
        args: MiMoRLConfig | None = None,
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
        if args is None:
            model_id = model if isinstance(model, str) else get_config_model_id(model.config)
            args = self._default_config(f"{model_id.split('/')[-1]}-{self._name}")
        if not isinstance(args, MiMoRLConfig):
            raise TypeError(
                f"`args` must be a {self._default_config.__name__}; got {type(args).__name__}. It takes every option "
                "of GRPOConfig."
            )
        draws = args.dynamic_sampling or args.easy_pool_alpha > 0
        if draws:
            _check_rows_can_be_drawn(train_dataset, environment_factory)
        if rollout_func is None and environment_factory is None:
            _check_answers(reward_funcs, train_dataset)
        if generate_fn is not None:
            _check_engine(args, rollout_func=rollout_func, environment_factory=environment_factory, tools=tools)
            groups = args.per_device_train_batch_size * args.steps_per_generation // args.num_generations
            self._engine: EngineRollout | None = EngineRollout(self, generate_fn, max_inflight or 2 * groups)
            rollout_func = self._engine.rollout_func
        else:
            self._engine = None
        if isinstance(reward_funcs, list):
            reward_funcs = list(reward_funcs)  # TRL's trainer and the guards write into it
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
        )

        warn_of_missing_processes(os.environ, self.accelerator.num_processes)
        for index, function in enumerate(self.reward_funcs):
            if not isinstance(function, nn.Module):
                self.reward_funcs[index] = guard_reward(
                    function, partial(self._count_error, self.reward_func_names[index])
                )
        self._errors = 0  # rows on this process since the start
        self._rows_in_error = 0  # in the last call, on all processes
        self._first_error: str | None = None
        self._warned = False
        self._train_sampler: Any = None
        self._rewards = torch.empty(0)
        # With `carry_surplus`: this process's rows for the next batch, and the number of groups on every process.
        self._carried: dict[str, torch.Tensor] = {}
        self._carried_groups = [0] * self.accelerator.num_processes
        seed = args.seed if args.sampling_seed is None else args.sampling_seed
        self.sampler = PromptSampler(len(train_dataset), args.easy_pool_alpha, seed) if draws else None

    def _count_error(self, name: str, error: Exception):
        self._errors += 1
        if self._first_error is None:
            self._first_error = f"{name}: {error!r}"
            logger.warning("The reward function %s raised; the row is left out.", name, exc_info=error)

    def score_rows(self, inputs, prompts, completions, completion_ids_list) -> torch.Tensor:
        """Rewards of rows on this process, `[rows, functions]`, by TRL's own scoring."""
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    def make_round(self, batch: dict[str, Any], rewards: torch.Tensor, exempt: torch.Tensor | None) -> Round:
        world_size = self.accelerator.num_processes
        return Round(batch, rewards, self.reward_weights, self.num_generations, world_size, exempt)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self._engine is not None and self._engine.rewards is not None:
            self._rewards, self._engine.rewards = self._engine.rewards, None
            return self._rewards
        before = self._errors
        self._rewards = self.score_rows(inputs, prompts, completions, completion_ids_list)
        errors = torch.tensor(self._errors - before, device=self.accelerator.device)
        self._rows_in_error = int(self.accelerator.gather(errors).sum())
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["reward/errors"].append(float(self._rows_in_error))
        return self._rewards

    def _generate_and_score_completions(self, inputs):
        if not self.model.training:
            return super()._generate_and_score_completions(inputs)
        sampler = self.sampler
        if sampler is None:
            batch = super()._generate_and_score_completions(inputs)
            self._check_something_was_scored([self._rewards])
            return batch

        sampling, world_size = self.args.dynamic_sampling, self.accelerator.num_processes
        needed = len(inputs) // self.num_generations
        columns = list(inputs[0])
        if self._engine is not None:
            return self._generate_with_engine(self._engine, needed, columns)
        carried = torch.tensor(self._carried_groups)
        rounds: list[Round] = []
        rewards: list[torch.Tensor] = []
        # At least one, so that no batch is made of the rest of the last one alone.
        num_groups, from_pool = max(1, needed - int(carried.min())), 0
        while True:
            indices, pooled = None, None
            # Otherwise the first round is the dataloader's, as in GRPOTrainer.
            if rounds or self.args.easy_pool_alpha or self.args.carry_surplus:
                indices = sampler.draw(num_groups * world_size)
                pooled = torch.tensor([sampler.in_pool(index) for index in indices])
                from_pool += int(pooled.sum())
                inputs = self._rows(indices, columns)
            batch = super()._generate_and_score_completions(inputs)
            if self.args.carry_surplus:
                self._add_old_log_probs(batch)
            rewards.append(self._rewards)
            round_ = self.make_round(batch, self._rewards, pooled if self.args.easy_pool_keep_zero_std else None)
            rounds.append(round_)
            if indices is not None:
                for index, solved in zip(indices, round_.solved.flatten().tolist(), strict=True):
                    sampler.update(index, solved)
            # The process with the fewest groups to keep decides for all.
            missing = needed - int((carried + sum(round_.kept.sum(1) for round_ in rounds)).min())
            has_gradient = bool(carried.any()) or any(bool(round_.informative.any()) for round_ in rounds)
            if not has_gradient:  # though exempt groups may fill the batch
                missing = max(missing, 1)
            if not sampling or missing <= 0 or len(rounds) == self.args.max_sampling_rounds:
                break
            num_groups = min(needed, math.ceil(missing / expected_keep_rate(rounds)))

        self._check_something_was_scored(rewards)
        selections = [select(rounds, needed, rank, int(carried[rank])) for rank in range(world_size)]
        self._log_rounds(rounds, selections, needed, sampler.pool_size, from_pool)
        if not sampling:
            return batch
        if not has_gradient:
            self._stop_without_gradient(rounds)
        elif missing > 0:
            self._handle_short_batch(missing, needed)
        own = selections[self.accelerator.process_index]
        taken = self._carried
        self._carried_groups = [0] * world_size
        self._carried = {}
        if self.args.carry_surplus:
            self._carried_groups = [selection.num_surplus for selection in selections]
            self._carried = self._join(rounds, own.surplus)
        if len(rounds) == 1 and not carried.any() and rounds[0].informative.all():  # on every process
            return batch
        return self._assemble(rounds, own, taken)

    def _generate_with_engine(self, engine: EngineRollout, needed: int, columns: Sequence[str]):
        errors = self._errors
        tasks, stats = engine.collect(needed)
        rounds = [task.reward for task in tasks]
        if self._errors > errors and all(round_.batch["rewards"].isnan().all() for round_ in rounds):
            self._rows_in_error = self._errors - errors
            self._check_something_was_scored([round_.batch["rewards"] for round_ in rounds])
        self._metrics["train"]["reward/errors"].append(float(self._errors - errors))
        batch_tasks = tasks[:needed]
        informative = [bool(task.reward.informative.all()) for task in batch_tasks]
        metrics = {
            "rounds": 1,
            "keep_rate": stats.pass_rate,
            "waste": stats.wasted / stats.started,
            "effective_batch": sum(informative) / needed,
            "frac_all_right": sum(bool(round_.solved.all()) for round_ in rounds) / len(rounds),
            "frac_all_wrong": sum(bool(round_.failed.all()) for round_ in rounds) / len(rounds),
            "pool_size": engine.sampler.pool_size,
            "idle_share": stats.idle_share,
        }
        for name, value in metrics.items():
            self._metrics["train"][f"sampling/{name}"].append(float(value))
        if not any(bool(round_.informative.all()) for round_ in rounds):
            self._stop_without_gradient(rounds)
        elif stats.selected < needed:
            self._handle_short_batch(needed - stats.selected, needed)
        engine.prepare(batch_tasks)
        batch = super()._generate_and_score_completions(self._rows([task.prompt for task in batch_tasks], columns))
        equal = ~torch.tensor(informative).repeat_interleave(self.num_generations)
        batch["advantages"][equal.to(batch["advantages"].device)] = 0
        return batch

    def _add_old_log_probs(self, batch: dict[str, Any]):
        """Log-probabilities under the policy that generated the batch, where TRL leaves them out as those of the next step."""
        if "old_per_token_logps" in batch:
            return
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            batch["old_per_token_logps"], *_ = self._get_per_token_logps_and_entropies(
                self.model,
                ids,
                mask,
                batch["completion_ids"].size(1),
                batch_size=self.args.per_device_train_batch_size,
                token_type_ids=batch.get("token_type_ids"),
            )

    def _check_something_was_scored(self, rewards: Sequence[torch.Tensor]):
        if self._rows_in_error and all(matrix.isnan().all() for matrix in rewards):
            raise RuntimeError(
                f"The reward functions raised for every row of a batch, first {self._first_error or 'on another process'}. "
                "A function that fails for some rows leaves these out; one that fails for all needs mending."
            )

    def _rows(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """This process's contiguous share of the drawn problems, each once for every completion."""
        share = len(indices) // self.accelerator.num_processes
        start = self.accelerator.process_index * share
        rows = [self.train_dataset[index] for index in indices[start : start + share]]
        return [{name: row[name] for name in columns} for row in rows for _ in range(self.num_generations)]

    def _join(self, rounds: Sequence[Round], groups_by_round: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        """The rows of this process's groups, in order; empty if there are none."""
        parts = []
        for round_, groups in zip(rounds, groups_by_round, strict=True):
            if groups:
                part = take_groups(round_.batch, groups, self.num_generations)
                # Equal partial rewards leave a rounding error as their advantage.
                informative = round_.informative[self.accelerator.process_index, groups]
                informative = informative.repeat_interleave(self.num_generations)
                part["advantages"][~informative.to(part["advantages"].device)] = 0
                parts.append(part)
        return concatenate(parts, self._tokenizer.pad_token_id) if parts else {}

    def _assemble(
        self, rounds: Sequence[Round], selection: Selection, carried: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """What was carried over, then the selected groups, then groups of zero advantage."""
        parts = [carried, self._join(rounds, selection.kept), self._join(rounds, selection.filling)]
        batch = concatenate([part for part in parts if part], self._tokenizer.pad_token_id)
        # The token-level losses divide by the tokens of this batch, not of the rounds.
        loss_mask = batch["completion_mask"]
        if "tool_mask" in batch:
            loss_mask = loss_mask * batch["tool_mask"]
        batch["num_items_in_batch"] = self.accelerator.gather(loss_mask.sum()).sum()
        return batch

    def _log_rounds(
        self,
        rounds: Sequence[Round],
        selections: Sequence[Selection],
        needed: int,
        pool_size: int,
        from_pool: int,
    ):
        generated = sum(round_.informative.numel() for round_ in rounds)
        informative = sum(int(round_.informative.sum()) for round_ in rounds)
        batch_groups = needed * self.accelerator.num_processes
        fresh = sum(selection.num_informative for selection in selections)
        carried = sum(selection.carried for selection in selections)
        surplus = sum(selection.num_surplus for selection in selections) if self.args.carry_surplus else 0
        metrics = {
            "rounds": len(rounds),
            "keep_rate": informative / generated,
            "waste": (informative - fresh - surplus) / generated,
            "effective_batch": (fresh + carried) / batch_groups,
            "frac_carried": carried / batch_groups,
            "frac_all_right": sum(int(round_.solved.sum()) for round_ in rounds) / generated,
            "frac_all_wrong": sum(int(round_.failed.sum()) for round_ in rounds) / generated,
            "pool_size": pool_size,
            "pool_draw_frac": from_pool / generated,
        }
        for name, value in metrics.items():
            self._metrics["train"][f"sampling/{name}"].append(float(value))

    def _handle_short_batch(self, missing: int, needed: int):
        message = (
            f"After max_sampling_rounds={self.args.max_sampling_rounds} rounds, a process has {needed - missing} of "
            f"{needed} groups whose rewards differ."
        )
        if self.args.on_exhausted == "raise":
            raise RuntimeError(
                f"{message} Raise `max_sampling_rounds`, choose problems nearer to the model's ability, or set "
                "on_exhausted='pad'."
            )
        if not self._warned:
            logger.warning("%s The rest of the batch has zero advantage (said once).", message)
            self._warned = True

    def _stop_without_gradient(self, rounds: Sequence[Round]):
        generated = sum(round_.informative.numel() for round_ in rounds)
        right = sum(int(round_.solved.sum()) for round_ in rounds)
        wrong = sum(int(round_.failed.sum()) for round_ in rounds)
        message = (
            f"None of {generated} groups in {len(rounds)} rounds has two different rewards: {right} are all right, "
            f"{wrong} all wrong. There is no gradient, so training stops. All right: use harder problems. All wrong: "
            "use easier problems or partial rewards, raise `max_completion_length`, or fine-tune on solutions first. "
            "Otherwise: raise `num_generations` or `temperature`, and look at the reward function."
        )
        if self._first_error is not None:
            message += f" It raised for {self._errors} rows on this process, first {self._first_error}."
        if self.args.on_exhausted == "raise":
            raise RuntimeError(message)
        logger.warning(message)
        self.control.should_training_stop = True

    def _get_train_sampler(self, dataset=None):
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"There is no whole checkpoint in output_dir={self.args.output_dir!r} to resume from: start without "
                    "`resume_from_checkpoint`, or give the path of one."
                )
        if resume_from_checkpoint:
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
            if 0 < self.args.max_steps <= state.global_step:  # Trainer would take a step more
                logger.warning(
                    "%s has all max_steps=%d steps: it is only loaded.", resume_from_checkpoint, self.args.max_steps
                )
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, 0.0, {})
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        try:
            # Before TRL's own files: a checkpoint that has its last one, trainer_state.json, has all of these.
            self._save_sampling_state(folder)
            super()._save_checkpoint(model, trial)
        except Exception as error:
            if not _disk_is_full(error, self.args.output_dir):
                raise
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                errno.ENOSPC,
                "No space left on device for a checkpoint, whose folder was removed; those before it are whole. Free some "
                f"space, or set `save_total_limit`, and resume with `resume_from_checkpoint=True` ({error})",
                str(folder),
            ) from error

    def _save_sampling_state(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        if self.args.should_save:
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)  # of an earlier save into this folder
        if self._step % (self.args.steps_per_generation * self.num_iterations):
            torch.save(self._buffered_inputs, folder / self._file_of_process("generated"))
        if self._carried:
            torch.save(self._carried, folder / self._file_of_process("carried"))
        if self.args.should_save:
            write_whole(folder / STATE_FILE, json.dumps(self._sampling_state()))

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = Path(checkpoint, STATE_FILE)
        if not path.exists():
            logger.warning("%s has no %s: prompts are drawn as at the start.", checkpoint, STATE_FILE)
            return
        state = json.loads(path.read_text(encoding="utf-8"))
        self._load_sampling_state(state)
        # The dataloader's sampler makes a new permutation an epoch, from a generator that starts anew with the process.
        if isinstance(self._train_sampler, RepeatSampler) and self._train_sampler.shuffle:
            for _ in range(state["epochs"]):
                torch.randperm(self._train_sampler.num_samples, generator=self._train_sampler.generator)
        if len(state["carried_groups"]) != self.accelerator.num_processes:
            logger.warning(
                "%s was saved by %d processes, and there are %d: what they had generated and not trained on yet is generated anew.",
                checkpoint,
                len(state["carried_groups"]),
                self.accelerator.num_processes,
            )
            return
        self._carried_groups = state["carried_groups"]
        # Files that the state does not speak of are of a save that was cut off.
        if self._step % (self.args.steps_per_generation * self.num_iterations):
            self._buffered_inputs = self._load_tensors(checkpoint, "generated")
        if self._carried_groups[self.accelerator.process_index]:
            self._carried = self._load_tensors(checkpoint, "carried")

    def _load_tensors(self, checkpoint: str, what: str) -> Any:
        path = Path(checkpoint, self._file_of_process(what))
        return torch.load(path, map_location=self.accelerator.device, weights_only=True)

    def _sampling_state(self) -> dict[str, Any]:
        """What a resumed run needs beside TRL's own state and this process's tensors, for JSON."""
        return {
            "step": self._step,
            "ended": self.control.should_training_stop,
            "epochs": math.floor(self.state.epoch + 1e-6),
            "sampler": self.sampler.state_dict() if self.sampler else None,
            "carried_groups": self._carried_groups,
        }

    def _load_sampling_state(self, state: dict[str, Any]):
        if self.sampler and state["sampler"]:
            self.sampler.load_state_dict(state["sampler"])
        self._step = state["step"]

    def _file_of_process(self, what: str) -> str:
        return f"mimo_{what}_{self.accelerator.process_index}.pt"


def last_whole_checkpoint(folder: str) -> str | None:
    """The last checkpoint in the folder that was written to its end; None if there is none."""
    pattern = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    steps = sorted(int(match[1]) for path in Path(folder).glob("*") if (match := pattern.fullmatch(path.name)))
    for step in reversed(steps):
        checkpoint = Path(folder, f"{PREFIX_CHECKPOINT_DIR}-{step}")
        try:
            json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(checkpoint)
    return None


def _disk_is_full(error: Exception, folder: str) -> bool:
    """Some writers raise errors of their own that do not say why."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return True
    return shutil.disk_usage(folder).free < FULL_DISK


def _check_engine(args: MiMoRLConfig, **replaced: Any):
    if not args.dynamic_sampling:
        raise ValueError("`generate_fn` fills batches by dynamic sampling: set `dynamic_sampling=True`.")
    if args.carry_surplus:
        raise ValueError("`generate_fn` starts only as many problems as a batch needs: set `carry_surplus=False`.")
    if args.world_size > 1:
        raise NotImplementedError(
            f"`generate_fn` works on one process; there are {args.world_size}. Leave it out: rounds work on several."
        )
    for name, value in replaced.items():
        if value is not None:
            raise ValueError(f"`generate_fn` takes the place of `{name}`: pass one of the two.")


def _check_rows_can_be_drawn(train_dataset: Any, environment_factory: Any):
    if not isinstance(train_dataset, Dataset):
        raise TypeError(
            "`dynamic_sampling` and `easy_pool_alpha` draw problems by index: `train_dataset` must be a "
            f"datasets.Dataset; got {type(train_dataset).__name__}. Load it without streaming."
        )
    images = {"image", "images"} & set(train_dataset.column_names)
    if images:
        raise NotImplementedError(
            f"`train_dataset` has the column {min(images)!r}. Images are not one row a completion, so batches of "
            "several rounds can't be put together: set dynamic_sampling=False and easy_pool_alpha=0."
        )
    if isinstance(environment_factory, Mapping):
        raise NotImplementedError(
            "`environment_factory` names several environments, whose state is tied to a whole batch: pass a single "
            "factory, or set dynamic_sampling=False and easy_pool_alpha=0."
        )


def _check_answers(reward_funcs: Any, train_dataset: Any):
    """Every column that a reward function can't do without is there, and not empty."""
    columns = getattr(train_dataset, "column_names", None)
    if columns is None:
        return
    functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    for function in functions:
        if not callable(function) or isinstance(function, nn.Module):
            continue
        for name in _required_columns(function):
            title = getattr(function, "__name__", type(function).__name__)
            if name not in columns:
                raise ValueError(
                    f"The reward function {title!r} needs the column {name!r}, which `train_dataset` does not have "
                    f"(it has {', '.join(map(repr, columns))}). Add or rename the column, or give the parameter a "
                    "default."
                )
            if isinstance(train_dataset, Dataset) and all(value in (None, "") for value in train_dataset[name]):
                raise ValueError(
                    f"The column {name!r} of `train_dataset`, which the reward function {title!r} needs, is empty in "
                    f"all {len(train_dataset)} rows. Fill in the answers."
                )


def _required_columns(function: Callable) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some callables written in C have none
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind in named
        and parameter.default is inspect.Parameter.empty
        and parameter.name not in NOT_COLUMNS
    ]
