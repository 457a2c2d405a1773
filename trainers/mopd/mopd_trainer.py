"""One student, a teacher a domain: MiMo-V2-Flash's multi-teacher on-policy distillation inside TRL's trainer."""

import contextlib
import copy
import logging
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import create_model_from_path

from ..checkpoints import random_states, set_random_states
from ..mimo_rl.entrance_checks import config_of
from ..mimo_rl.mimo_rl_trainer import DynamicSamplingGRPOTrainer
from ..rollout.engine_rollout import GenerateFn
from .domains import Domains, QuotaSampler, check_quota, check_streams
from .fingerprints import differences, write_manifest
from .heads import Head, last_hidden_states, log_probs_of, reverse_kl, top_log_probs
from .hosts import has_adapters
from .losses import RunningScale, aggregate, importance_weights, sampled_term, support_reverse_kl
from .model_card import add_teachers
from .mopd_config import MOPDConfig
from .pool import LocalTeacher, RemoteTeacher, Student, TeacherPool
from .routing_replay import RoutingReplay, stacked
from .scoring import NO_TOKEN, score_rows
from .server_teacher import TeacherError
from .statistics import DomainStatistics
from .teachers import check_estimator, check_teachers, initial_copy, needs_a_copy

logger = logging.getLogger(__name__)


class _LastStep(TrainerCallback):
    """What generating a batch changes and a checkpoint holds, as it was after the last step: random numbers and draws of prompts."""

    def __init__(self, trainer: "MOPDTrainer"):
        self.trainer = trainer
        self.kept: tuple[Any, ...] | None = None

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        self.kept = random_states(), copy.deepcopy(trainer._sampling_state()), trainer._carried

    def restore(self) -> bool:
        """Whether there was a step to go back to."""
        if self.kept is None:
            return False
        random, sampling, carried = self.kept
        set_random_states(random)
        self.trainer._load_sampling_state(sampling)
        self.trainer._carried, self.trainer._carried_groups = carried, sampling["carried_groups"]
        return True


def no_reward(completions, **columns) -> list[float]:
    """What stands in the place of a reward where `orm_alpha` is 0."""
    return [0.0] * len(completions)


class MOPDTrainer(DynamicSamplingGRPOTrainer):
    """
    Distils several teachers into the student, on the student's own completions, token by token, with the reverse KL.

    Each prompt belongs to a domain, and each domain has one teacher. The loss is equation 7 of arXiv 2601.02780: tokens are weighed
    by the ratio of training to sampling policy, and discarded where it leaves its bounds; outcome rewards may be mixed in. Methods
    overridden:

    - `_generate_round`: keeps the domain of each row.
    - `_generate_and_score_completions`: the teachers score what was generated, once.
    - `_compute_loss`: the loss. What depends on the current policy, the log-ratio and the weights, is made here.
    - `_set_signature_columns_if_needed`, `_get_train_sampler`: the column of the domains, and batches by `domain_quota`.
    - `_save`, `_save_checkpoint`, `_load_from_checkpoint`, `create_model_card`: teachers are named, not saved.

    Metrics: `mopd/reverse_kl` and `mopd/teacher_seconds`, and of each domain `mopd/<domain>/reverse_kl` (mean of log(student /
    teacher), which may be negative in a batch), `/k3` (another estimate of it, never negative), `/agreement` (share of tokens that
    are the teacher's most likely ones; not behind a server), `/adv_abs`, `/is_dropped`, `/adv_clipped`, `/tokens`, and `/reward`.

    Args:
        reward_funcs: outcome rewards, as in `GRPOTrainer`; needed where `orm_alpha` is above 0. `mimo_hf.rewards.by_domain` sends each
            domain to its own.
        args: a `MOPDConfig`.
        train_dataset: with a column that names the teacher of each row, see `domain_column`.
        teachers: domains and their teachers, each a `PreTrainedModel`, the path of a model or an adapter, a `LoraTeacher`, the address
            of a server (`"http://..."`), or `"self"`, the student as it is at the start. Teachers never change.

    All other arguments are `GRPOTrainer`'s, in its order; ours are given by name.
    """

    _tag_names = ["trl", "mopd"]
    _name = "MOPD"
    _paper = {
        "title": "MiMo-V2-Flash Technical Report",
        "id": "2601.02780",
        "citation": textwrap.dedent("""\
            @article{xiao2026mimov2flash,
                title        = {{MiMo-V2-Flash Technical Report}},
                author       = {{LLM-Core Xiaomi}},
                year         = 2026,
                eprint       = {arXiv:2601.02780},
            }"""),
    }
    _default_config = MOPDConfig

    def __init__(
        self,
        model,
        reward_funcs=None,
        args: MOPDConfig | None = None,
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
        teachers: Mapping[str, Any] | None = None,
        generate_fn: GenerateFn | None = None,
        max_inflight: int | None = None,
    ):
        args = config_of(args, model, self._default_config, self._name)
        if not isinstance(args, MOPDConfig):
            raise TypeError(f"`args` must be a MOPDConfig; got {type(args).__name__}.")
        if isinstance(reward_funcs, Mapping):
            raise TypeError(
                "`reward_funcs` must be reward functions; got a mapping. Give teachers by name: `teachers={...}`."
            )
        teachers = check_teachers(teachers, model)
        check_estimator(teachers, args)
        self._has_rewards = reward_funcs is not None
        if args.orm_alpha and not self._has_rewards:
            raise ValueError(
                f"`reward_funcs` must be given with `orm_alpha={args.orm_alpha}`, which mixes outcome rewards in; got None. "
                "Give them, or set `orm_alpha=0`."
            )
        datasets = _named_datasets(train_dataset, eval_dataset)
        _refuse_images(datasets)
        self._domains = Domains(list(teachers), args.domain_column, args.default_teacher, datasets)
        self._domain_factors = _factors(args.domain_weights, self._domains.names)
        if args.domain_quota is not None:
            check_streams(train_dataset)
            self._rows_by_domain = self._domains.rows_by_domain(train_dataset)
            self._shares = check_quota(args.domain_quota, self._domains.names, self._rows_by_domain)
        initial = None
        if needs_a_copy(teachers, model, peft_config):
            initial = _copy_or_load(model, args)
        super().__init__(
            model,
            reward_funcs if self._has_rewards else [no_reward],
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
        student = Student(self.model, self._tokenizer, initial)
        # Loading an adapter draws numbers; the training's own are the same whatever its teachers are.
        with torch.random.fork_rng():
            self.pool = TeacherPool(teachers, student, self.args, self.accelerator)
        self.pool.check_servers()
        self._last_step: _LastStep | None = None
        if any(isinstance(teacher, RemoteTeacher) for teacher in self.pool.teachers):
            self._last_step = _LastStep(self)
            self.add_callback(self._last_step)
        self._replay = RoutingReplay(student.causal_lm) if self.args.router_replay else None
        self._scale = RunningScale(len(self.pool.names)) if self.args.domain_normalize else None

    # Data

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if self._domains.column not in self._signature_columns:
            self._signature_columns.append(self._domains.column)

    def _get_train_sampler(self, dataset=None):
        if self.args.domain_quota is None:
            return super()._get_train_sampler(dataset)
        self._train_sampler = QuotaSampler(
            self._rows_by_domain,
            self._shares,
            self.args.generation_batch_size // self.num_generations,
            self.num_generations,
            self.num_iterations * self.args.steps_per_generation,
            self.shuffle_dataset,
            self.args.seed,
        )
        return self._train_sampler

    def _generate_round(self, inputs):
        if self._replay is not None:
            self._replay.clear()
        batch = super()._generate_round(inputs)
        batch["domain_idx"] = self._domains.indices(inputs).to(self.accelerator.device)
        if self._has_rewards:
            self._log_rewards(self.accelerator.gather(batch["domain_idx"]))
        return batch

    def _log_rewards(self, domains: Tensor):
        """`domains`: of the rows of all processes, as `_rewards` has them."""
        rewards = (self._rewards * self.reward_weights.to(self._rewards)).nansum(1)
        scored = ~self._rewards.isnan().all(1)
        for index, name in enumerate(self.pool.names):
            own = rewards[scored & (domains == index)]
            if len(own):
                self._metrics["train" if self.model.training else "eval"][f"mopd/{name}/reward"].append(
                    own.mean().item()
                )

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        mode = "train" if self.model.training else "eval"
        if not self._has_rewards:
            for name in [
                name for name in self._metrics[mode] if name.startswith("reward") or name == "frac_reward_zero_std"
            ]:
                del self._metrics[mode][name]
        with DomainStatistics.timed(self._metrics[mode]), self._saved_if_a_teacher_fails():
            batch |= score_rows(self.pool, batch, self.accelerator)
        if self._replay is not None and self.model.training:
            batch["routed_experts"] = self._routes(self._replay, batch)
        return batch

    @contextlib.contextmanager
    def _saved_if_a_teacher_fails(self):
        """A server that is down ends the training, with a checkpoint of all steps that are done."""
        try:
            yield
        except TeacherError as error:
            done = self.state.global_step
            between_steps = self._step == done * self.args.gradient_accumulation_steps
            can_save = self.model.training and between_steps and self.accelerator.num_processes == 1
            if self._last_step is None or not can_save or not self._last_step.restore():
                raise
            self._save_checkpoint(self.model, trial=None)
            raise TeacherError(
                f"{error} The {done} steps that are done were saved: resume with `resume_from_checkpoint=True` when the teacher "
                "answers again."
            ) from error

    def _routes(self, replay: RoutingReplay, batch: Mapping[str, Tensor]) -> Tensor:
        """Which experts the policy that generated the batch chooses for it, `[B, L, routers, k]`."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        without_checkpoints = disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs)
        with torch.no_grad(), without_checkpoints, replay.record() as chosen:
            self._get_per_token_logps_and_entropies(
                self.model, ids, mask, batch["completion_ids"].size(1), self.args.per_device_train_batch_size
            )
        return stacked(chosen, len(ids))

    # Loss

    def _compute_loss(self, model, inputs):
        mask = inputs["completion_mask"]
        if "tool_mask" in inputs:
            mask = mask * inputs["tool_mask"]
        needs_states = self.args.kl_estimator != "sampled"
        causal_lm = self.pool.student.causal_lm
        if self._replay is not None and "routed_experts" in inputs:
            self._replay.replay(inputs["routed_experts"])
        with last_hidden_states(causal_lm) as states:
            log_probs, entropies, aux_loss = self._get_per_token_logps_and_entropies(
                model,
                torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
                torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
                inputs["completion_ids"].size(1),
                compute_entropy=True,
                compute_aux_loss=self.aux_loss_enabled,
            )
        gap = inputs["teacher_per_token_logps"] - log_probs.detach()
        sampling = inputs.get("sampling_per_token_logps", inputs.get("old_per_token_logps"))
        weights = importance_weights(log_probs, sampling, self.args.is_mode, self.args.is_low, self.args.is_high)
        if needs_states:
            hidden = states[-1][:, :-1][:, -mask.size(1) :]
            distilled = self._divergence(hidden, Head.of(causal_lm, self.temperature), inputs, mask)
        else:
            clipped = gap if self.args.adv_clip is None else gap.clamp(-self.args.adv_clip, self.args.adv_clip)
            distilled = sampled_term(log_probs, clipped)
        factors = self.args.distill_coef * self._factors(gap, inputs["domain_idx"], mask)
        per_token = factors.unsqueeze(1) * distilled
        if self.args.orm_alpha:
            per_token = per_token - self.args.orm_alpha * inputs["advantages"].unsqueeze(1) * log_probs
        loss = self._aggregate(per_token * weights.value, mask, inputs)
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * aux_loss / self._accumulation
        self._log_loss(inputs, gap, weights.outside, entropies, mask)
        return loss

    @property
    def _accumulation(self) -> float:
        return self.current_gradient_accumulation_steps if self.model.training else 1.0

    def _divergence(self, hidden: Tensor, head: Head, inputs: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """The reverse KL of each position with tokens that count, `[B, T]`, by the estimators that know more than the sampled token."""
        counts = mask.bool()
        states, result = hidden[counts], torch.zeros(mask.shape, device=hidden.device)
        if self.args.kl_estimator == "topk_teacher":
            ids, teacher = inputs["teacher_top_ids"][counts], inputs["teacher_top_logps"][counts]
            valid = ids != NO_TOKEN
            student = log_probs_of(states, head, ids.clamp(min=0))
            return result.masked_scatter(counts, support_reverse_kl(student, teacher, valid).float())
        domains = inputs["domain_idx"].unsqueeze(1).expand_as(mask)[counts]
        values = torch.zeros(len(states), device=hidden.device)
        for teacher, indices in self.pool.distinct():
            own = torch.isin(domains, torch.tensor(indices, device=domains.device))
            if not isinstance(teacher, LocalTeacher) or not own.any():
                continue
            teacher_head = teacher.head(hidden.device)
            teacher_states = inputs["teacher_hidden_states"][counts][own][:, : teacher_head.weight.shape[1]]
            teacher_states = teacher_states.to(teacher_head.weight.dtype)
            own_head = head if head.vocab_size == teacher_head.vocab_size else head.cut(teacher_head.vocab_size)
            if self.args.kl_estimator == "full":
                found = reverse_kl(states[own], own_head, teacher_states, teacher_head)
            else:
                ids, student = top_log_probs(states[own], own_head, self.args.kl_top_k)
                with torch.no_grad():
                    wanted = log_probs_of(teacher_states, teacher_head, ids)
                found = support_reverse_kl(student, wanted)
            values = values.masked_scatter(own, found.float())
        # An empty sum of the states keeps the loss a function of the model where no token counts.
        return result.masked_scatter(counts, values) + 0.0 * hidden[:, :1].sum()

    def _aggregate(self, per_token: Tensor, mask: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        if self.args.loss_aggregation == "sequence":
            return aggregate(per_token, mask) / self._accumulation
        # `num_items_in_batch` counts the tokens of a generation batch: as TRL does, one accumulation of it is taken.
        tokens = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if self.model.training:
            tokens = tokens * self._accumulation / self.args.steps_per_generation
        return (per_token * mask).sum() / tokens

    def _factors(self, gap: Tensor, domains: Tensor, mask: Tensor) -> Tensor:
        """Of each row, `[B]`."""
        factors = self._domain_factors.to(gap.device)
        if self._scale is not None:
            if self.model.training:
                moments = torch.stack([mask.sum(1), (gap * mask).sum(1), (gap**2 * mask).sum(1)], 1).double()
                total = torch.zeros(len(factors), 3, dtype=torch.float64, device=gap.device)
                total.index_add_(0, domains, moments)
                self._scale.update(self.accelerator.reduce(total).cpu())
            factors = factors * self._scale.factors().to(factors)
        return factors[domains]

    def _log_loss(self, inputs: Mapping[str, Tensor], gap: Tensor, outside: Tensor, entropies: Tensor, mask: Tensor):
        metrics = self._metrics["train" if self.model.training else "eval"]
        statistics = DomainStatistics(len(self.pool.names), gap.device)
        statistics.add_tokens(
            inputs["domain_idx"], mask, gap, outside, inputs["teacher_is_top1"], entropies, self.args.adv_clip
        )
        statistics.log(metrics, self.pool.names, self.accelerator)

    # Checkpoints and the card

    def _load_sampling_state(self, state: dict[str, Any]):
        super()._load_sampling_state(state)
        if self._scale is not None and state.get("domain_scale"):
            self._scale.moments = torch.tensor(state["domain_scale"], dtype=torch.float64)

    def _sampling_state(self) -> dict[str, Any]:
        scale = None if self._scale is None else self._scale.moments.tolist()
        return super()._sampling_state() | {"domain_scale": scale}

    def _save(self, output_dir=None, state_dict=None):
        if not has_adapters(self.model):
            return super()._save(output_dir, state_dict)
        teachers = self.pool.adapters_of_student()
        own = [name for name in self.model.peft_config if name not in teachers]
        save = self.model.save_pretrained
        self.model.save_pretrained = lambda *paths, **options: save(*paths, selected_adapters=own, **options)
        try:
            return super()._save(output_dir, state_dict)
        finally:
            del self.model.save_pretrained

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            write_manifest(folder, self.pool.describe())

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        found = differences(resume_from_checkpoint, self.pool.describe())
        if found and not self.args.allow_teacher_change:
            raise ValueError(
                f"The teachers of {resume_from_checkpoint!r} must be those of this training; {'; '.join(found)}. Give the same "
                "ones, or set `allow_teacher_change=True`."
            )
        if found:
            logger.warning("Resumed with other teachers: %s.", "; ".join(found))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        super().create_model_card(model_name, dataset_name, tags)
        if self.is_world_process_zero():
            add_teachers(Path(self.args.output_dir, "README.md"), self.pool.describe(), self.args)


def _named_datasets(train_dataset: Any, eval_dataset: Any) -> dict[str, Any]:
    named = {} if train_dataset is None else {"train_dataset": train_dataset}
    if isinstance(eval_dataset, Mapping):
        return named | {f"eval_dataset[{name!r}]": dataset for name, dataset in eval_dataset.items()}
    return named if eval_dataset is None else named | {"eval_dataset": eval_dataset}


def _refuse_images(datasets: Mapping[str, Any]) -> None:
    for title, dataset in datasets.items():
        images = {"image", "images"} & set(dataset.column_names or [])
        if images:
            raise NotImplementedError(
                f"`{title}` has the column {min(images)!r}: MOPD's teachers score text only. Leave the column out."
            )


def _factors(weights: Any, names: list[str]) -> Tensor:
    weights = weights or {}
    unknown = weights.keys() - set(names)
    if unknown:
        raise ValueError(
            f"`domain_weights` must name teachers only, {', '.join(map(repr, names))}; got "
            f"{', '.join(map(repr, sorted(unknown)))}."
        )
    return torch.tensor([float(weights.get(name, 1.0)) for name in names])


def _copy_or_load(model: Any, args: MOPDConfig) -> PreTrainedModel:
    """The student as it is before training, with weights of its own."""
    if isinstance(model, str):
        settings = dict(args.model_init_kwargs or {}) | {"trust_remote_code": args.trust_remote_code}
        return create_model_from_path(model, **settings)
    return initial_copy(model)
