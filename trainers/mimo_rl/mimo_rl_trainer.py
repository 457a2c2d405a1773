"""GRPO with MiMo's dynamic sampling and easy pool (arXiv 2505.07608, sections 3.3.1 and 3.3.2) inside TRL's trainer."""

import logging
import math
import os
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

try:
    from trl import GRPOTrainer
    from trl.models.utils import disable_gradient_checkpointing
except ImportError as error:
    raise ImportError("mimo_hf.trainers needs TRL: pip install 'mimo-hf[trl]'") from error

from ..checkpoints import (
    checkpoint_to_resume,
    is_of_as_many_processes,
    last_whole_checkpoint,  # noqa: F401  for who imports it from here, as of the last release
    load_rows,
    load_state,
    replay_permutations,
    save_state,
    state_at_end,
    whole_or_removed,
)
from ..launcher import warn_of_missing_processes
from ..reward_guard import RewardErrors, guard_reward
from ..rollout.engine_rollout import EngineRollout, GenerateFn
from ..rollout.group_batch import concatenate
from ..rollout.prompt_sampler import PromptSampler
from .entrance_checks import check_answers, check_engine, check_rows_can_be_drawn, config_of
from .mimo_rl_config import MiMoRLConfig
from .sampling_rounds import (
    SHORT_REMEDY,
    Round,
    Selection,
    expected_keep_rate,
    join,
    rollout_metrics,
    round_metrics,
    select,
    why_no_gradient,
    why_short,
)

logger = logging.getLogger(__name__)


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

    Metrics, a batch each: `sampling/*` (see `round_metrics`), and `reward/errors`, in rows.

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
        args = config_of(args, model, self._default_config, self._name)
        draws = args.dynamic_sampling or args.easy_pool_alpha > 0
        if draws:
            check_rows_can_be_drawn(train_dataset, environment_factory)
        if rollout_func is None and environment_factory is None:
            check_answers(reward_funcs, train_dataset)
        if generate_fn is not None:
            check_engine(args, rollout_func=rollout_func, environment_factory=environment_factory, tools=tools)
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
        self._errors = RewardErrors()
        for index, function in enumerate(self.reward_funcs):
            if not isinstance(function, nn.Module):
                on_error = partial(self._errors.add, self.reward_func_names[index])
                self.reward_funcs[index] = guard_reward(function, on_error)
        self._warned = False
        self._train_sampler: Any = None
        self._rewards = torch.empty(0)
        # With `carry_surplus`: this process's rows for the next batch, and the number of groups on every process.
        self._carried: dict[str, torch.Tensor] = {}
        self._carried_groups = [0] * self.accelerator.num_processes
        seed = args.seed if args.sampling_seed is None else args.sampling_seed
        self.sampler = PromptSampler(len(train_dataset), args.easy_pool_alpha, seed) if draws else None

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
        before = self._errors.count
        self._rewards = self.score_rows(inputs, prompts, completions, completion_ids_list)
        errors = torch.tensor(self._errors.count - before, device=self.accelerator.device)
        self._errors.in_last_call = int(self.accelerator.gather(errors).sum())
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["reward/errors"].append(float(self._errors.in_last_call))
        return self._rewards

    def _generate_round(self, inputs) -> dict[str, Any]:
        """One generation of these rows by TRL; a batch may be made of several."""
        return super()._generate_and_score_completions(inputs)

    def _generate_and_score_completions(self, inputs):
        if not self.model.training:
            return self._generate_round(inputs)
        sampler = self.sampler
        if sampler is None:
            batch = self._generate_round(inputs)
            self._errors.check_something_was_scored([self._rewards])
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
            batch = self._generate_round(inputs)
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

        self._errors.check_something_was_scored(rewards)
        selections = [select(rounds, needed, rank, int(carried[rank])) for rank in range(world_size)]
        self._log_rounds(rounds, selections, needed, from_pool)
        if not sampling:
            return batch
        if not has_gradient:
            self._stop_without_gradient(rounds)
        elif missing > 0:
            self._handle_short_batch(missing, needed)
        own = selections[self.accelerator.process_index]
        taken = self._carried
        self._carried_groups, self._carried = [0] * world_size, {}
        if self.args.carry_surplus:
            self._carried_groups = [selection.num_surplus for selection in selections]
            self._carried = self._join(rounds, own.surplus)
        if len(rounds) == 1 and not carried.any() and rounds[0].informative.all():  # on every process
            return batch
        return self._assemble(rounds, own, taken)

    def _generate_with_engine(self, engine: EngineRollout, needed: int, columns: Sequence[str]):
        before = self._errors.count
        tasks, stats = engine.collect(needed)
        rounds = [task.reward for task in tasks]
        self._errors.in_last_call = self._errors.count - before
        self._errors.check_something_was_scored([round_.batch["rewards"] for round_ in rounds])
        self._metrics["train"]["reward/errors"].append(float(self._errors.in_last_call))
        batch_tasks = tasks[:needed]
        informative = [bool(task.reward.informative.all()) for task in batch_tasks]
        shares = {"effective_batch": sum(informative) / needed, "pool_size": engine.sampler.pool_size}
        self._log_sampling(rollout_metrics(rounds, stats) | shares)
        if not any(bool(round_.informative.all()) for round_ in rounds):
            self._stop_without_gradient(rounds)
        elif stats.selected < needed:
            self._handle_short_batch(needed - stats.selected, needed)
        engine.prepare(batch_tasks)
        batch = self._generate_round(self._rows([task.prompt for task in batch_tasks], columns))
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

    def _rows(self, indices: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """This process's contiguous share of the drawn problems, each once for every completion."""
        share = len(indices) // self.accelerator.num_processes
        start = self.accelerator.process_index * share
        rows = [self.train_dataset[index] for index in indices[start : start + share]]
        return [{name: row[name] for name in columns} for row in rows for _ in range(self.num_generations)]

    def _join(self, rounds: Sequence[Round], groups_by_round: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        rank, pad_token_id = self.accelerator.process_index, self._tokenizer.pad_token_id
        return join(rounds, groups_by_round, rank, self.num_generations, pad_token_id)

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

    def _log_rounds(self, rounds: Sequence[Round], selections: Sequence[Selection], needed: int, from_pool: int):
        metrics = round_metrics(rounds, selections, needed, from_pool, self.args.carry_surplus)
        self._log_sampling(metrics | {"pool_size": self.sampler.pool_size if self.sampler else 0})

    def _log_sampling(self, metrics: dict[str, float]):
        for name, value in metrics.items():
            self._metrics["train"][f"sampling/{name}"].append(float(value))

    def _handle_short_batch(self, missing: int, needed: int):
        message = why_short(self.args.max_sampling_rounds, missing, needed)
        if self.args.on_exhausted == "raise":
            raise RuntimeError(f"{message} {SHORT_REMEDY}")
        if not self._warned:
            logger.warning("%s The rest of the batch has zero advantage (said once).", message)
            self._warned = True

    def _stop_without_gradient(self, rounds: Sequence[Round]):
        message = f"{why_no_gradient(rounds)}{self._errors.said()}"
        if self.args.on_exhausted == "raise":
            raise RuntimeError(message)
        logger.warning(message)
        self.control.should_training_stop = True

    def _get_train_sampler(self, dataset=None):
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        checkpoint = checkpoint_to_resume(resume_from_checkpoint, self.args.output_dir)
        state = state_at_end(checkpoint, self.args.max_steps)
        if state is not None:
            logger.warning("%s has all max_steps=%d steps: it is only loaded.", checkpoint, self.args.max_steps)
            self._load_from_checkpoint(checkpoint)
            self.state = state
            return TrainOutput(state.global_step, 0.0, {})
        return super().train(checkpoint, trial, ignore_keys_for_eval)

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        with whole_or_removed(folder, removes=self.args.should_save):
            # Before TRL's own files: a checkpoint that has its last one, trainer_state.json, has all of these.
            self._save_sampling_state(folder)
            super()._save_checkpoint(model, trial)

    def _save_sampling_state(self, folder: Path):
        rows = {"carried": self._carried} if self._carried else {}
        if self._step % (self.args.steps_per_generation * self.num_iterations):
            rows["generated"] = self._buffered_inputs
        rank, is_main = self.accelerator.process_index, self.args.should_save
        save_state(folder, self._sampling_state() if is_main else None, rows, rank)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        state = load_state(checkpoint) if checkpoint is not None else None
        if state is None:
            return
        self._load_sampling_state(state)
        replay_permutations(self._train_sampler, state["epochs"])
        if not is_of_as_many_processes(checkpoint, len(state["carried_groups"]), self.accelerator.num_processes):
            return
        self._carried_groups = state["carried_groups"]
        # Files that the state does not speak of are of a save that was cut off.
        rank, device = self.accelerator.process_index, self.accelerator.device
        if self._step % (self.args.steps_per_generation * self.num_iterations):
            self._buffered_inputs = load_rows(checkpoint, "generated", rank, device)
        if self._carried_groups[rank]:
            self._carried = load_rows(checkpoint, "carried", rank, device)

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
