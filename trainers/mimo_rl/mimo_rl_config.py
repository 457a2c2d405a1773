"""Settings of MiMo's reinforcement learning: GRPO with dynamic sampling and an easy pool (arXiv 2505.07608, section 3.3)."""

from dataclasses import dataclass, field

import torch
from transformers.utils import is_torch_xla_available
from trl import GRPOConfig

from .moved_options import MovedOptions

EXHAUSTED = ("pad", "raise")


@dataclass
class MiMoRLConfig(GRPOConfig, MovedOptions):
    r"""
    Configuration class for the [`DynamicSamplingGRPOTrainer`].

    This class includes only the parameters that dynamic sampling and the easy pool add. For a full list of training
    arguments, please refer to the [`~trl.GRPOConfig`] documentation. Note that the default value of `epsilon_high`
    differs from the one in [`~trl.GRPOConfig`], and that `bf16` that is not set is `False` on a machine without an
    accelerator, where [`~trl.GRPOConfig`] raises an error unless `use_cpu` is set.

    Using [`~transformers.HfArgumentParser`] we can turn this class into
    [argparse](https://docs.python.org/3/library/argparse#module-argparse) arguments that can be specified on the
    command line.

    Parameters:
        > Parameters that control dynamic sampling

        dynamic_sampling (`bool`, *optional*, defaults to `False`):
            Whether to drop groups whose rewards are all equal and to sample further prompts until the batch is full of
            groups that carry a gradient. The batch size stays fixed. Needs full groups on every process:
            `per_device_train_batch_size * steps_per_generation` must be a multiple of `num_generations`.
        max_sampling_rounds (`int`, *optional*, defaults to `8`):
            Rounds of generation for one batch, the first one included, before it counts as exhausted.
        on_exhausted (`str`, *optional*, defaults to `"pad"`):
            What to do with a batch that is still short after `max_sampling_rounds`. `"pad"` fills it with groups of
            zero advantage and warns once; `"raise"` raises `RuntimeError`. A batch without any group that carries a
            gradient ends the training in both cases.
        carry_surplus (`bool`, *optional*, defaults to `False`):
            Whether to train on groups that carry a gradient and that a batch does not need in the next batch, instead of
            dropping them. They are off-policy by one generation then, so log-probabilities are kept from when they were
            generated, which takes one more forward pass a batch. Prompts then come from the seeded order of
            `sampling_seed` instead of the dataloader's. Needs `dynamic_sampling`.
        sampling_seed (`int`, *optional*):
            Seed of the order in which further prompts are drawn. If `None`, it is `seed`.

        > Parameters that control the easy pool

        easy_pool_alpha (`float`, *optional*, defaults to `0.0`):
            Probability that a prompt is drawn from the easy pool, which holds the problems whose last group was all
            right (every completion has a reward of at least 1 from every reward function). A problem that is not all
            right any more leaves the pool. The paper uses 0.1; `0.0` means no pool: solved problems are drawn like any
            other. With a pool, prompts come from the pool's own seeded order instead of the dataloader's.
        easy_pool_keep_zero_std (`bool`, *optional*, defaults to `False`):
            Whether to keep groups drawn from the easy pool in the batch even if their rewards are all equal. They take
            the place of groups that carry a gradient. Needs `dynamic_sampling` and an easy pool.

        > Parameters whose default differs from [`~trl.GRPOConfig`]

        epsilon_high (`float`, *optional*, defaults to `0.28`):
            Upper-bound epsilon value for clipping, above `epsilon` so that unlikely tokens may grow ("clip-higher").
            The paper gives no value; this one is DAPO's (arXiv 2503.14476).
    """

    dynamic_sampling: bool = field(
        default=False,
        metadata={
            "help": "Whether to drop groups whose rewards are all equal and to sample further prompts until the batch "
            "is full of groups that carry a gradient. The batch size stays fixed. Needs full groups on every process: "
            "`per_device_train_batch_size * steps_per_generation` must be a multiple of `num_generations`."
        },
    )
    max_sampling_rounds: int = field(
        default=8,
        metadata={
            "help": "Rounds of generation for one batch, the first one included, before it counts as exhausted."
        },
    )
    on_exhausted: str = field(
        default="pad",
        metadata={
            "help": "What to do with a batch that is still short after `max_sampling_rounds`. 'pad' fills it with "
            "groups of zero advantage and warns once; 'raise' raises RuntimeError. A batch without any group that "
            "carries a gradient ends the training in both cases.",
            "choices": EXHAUSTED,
        },
    )
    carry_surplus: bool = field(
        default=False,
        metadata={
            "help": "Whether to train on groups that carry a gradient and that a batch does not need in the next batch, "
            "instead of dropping them. They are off-policy by one generation then, so log-probabilities are kept from "
            "when they were generated, which takes one more forward pass a batch. Prompts then come from the seeded order "
            "of `sampling_seed` instead of the dataloader's. Needs `dynamic_sampling`."
        },
    )
    sampling_seed: int | None = field(
        default=None,
        metadata={"help": "Seed of the order in which further prompts are drawn. If None, it is `seed`."},
    )
    easy_pool_alpha: float = field(
        default=0.0,
        metadata={
            "help": "Probability that a prompt is drawn from the easy pool, which holds the problems whose last group "
            "was all right (every completion has a reward of at least 1 from every reward function). A problem that "
            "is not all right any more leaves the pool. The paper uses 0.1; 0.0 means no pool: solved problems are "
            "drawn like any other. With a pool, prompts come from the pool's own seeded order instead of the "
            "dataloader's."
        },
    )
    easy_pool_keep_zero_std: bool = field(
        default=False,
        metadata={
            "help": "Whether to keep groups drawn from the easy pool in the batch even if their rewards are all equal. "
            "They take the place of groups that carry a gradient. Needs `dynamic_sampling` and an easy pool."
        },
    )
    epsilon_high: float | None = field(
        default=0.28,
        metadata={
            "help": "Upper-bound epsilon value for clipping, above `epsilon` so that unlikely tokens may grow "
            "('clip-higher'). The paper gives no value; this one is DAPO's (arXiv 2503.14476)."
        },
    )

    def __post_init__(self):
        if getattr(self, "bf16", None) is None and not self.use_cpu and not _has_accelerator():
            self.bf16 = False  # where TRL's own default is refused
        super().__post_init__()
        if self.max_sampling_rounds < 1:
            raise ValueError(f"`max_sampling_rounds` must be at least 1; got {self.max_sampling_rounds}.")
        if self.on_exhausted not in EXHAUSTED:
            raise ValueError(f"`on_exhausted` must be one of {EXHAUSTED}; got {self.on_exhausted!r}.")
        if not 0 <= self.easy_pool_alpha <= 1:
            raise ValueError(
                f"`easy_pool_alpha` must be a probability in [0, 1] (the paper: 0.1); got {self.easy_pool_alpha}."
            )
        if self.carry_surplus and not self.dynamic_sampling:
            raise ValueError(
                "`carry_surplus` must be False without dynamic sampling, which has no surplus to carry; got True. Or "
                "set `dynamic_sampling=True`."
            )
        if self.easy_pool_keep_zero_std and not (self.dynamic_sampling and self.easy_pool_alpha):
            raise ValueError(
                "`easy_pool_keep_zero_std`, which exempts groups of the easy pool from dynamic sampling, must go "
                f"with `dynamic_sampling=True` and `easy_pool_alpha` above 0; got {self.dynamic_sampling} and "
                f"{self.easy_pool_alpha}."
            )
        if self.dynamic_sampling:
            self._check_advantages_belong_to_groups()
        if self.dynamic_sampling or self.easy_pool_alpha:
            self._check_groups_are_whole()

    def _check_advantages_belong_to_groups(self):
        # A round's statistics would count groups that are dropped, and differ from one round of a batch to the next.
        if self.scale_rewards == "batch":
            raise ValueError(
                "`scale_rewards` must be 'group' or 'none' with `dynamic_sampling`, which drops groups after their "
                "advantages are known; got 'batch', by which they depend on other groups."
            )
        if self.multi_objective_aggregation != "sum_then_normalize":
            raise ValueError(
                "`dynamic_sampling` drops groups after their advantages are known, so these must not depend on other "
                "groups: set `multi_objective_aggregation` to 'sum_then_normalize'; got "
                f"{self.multi_objective_aggregation!r}."
            )

    def _check_groups_are_whole(self):
        rows = self.per_device_train_batch_size * self.steps_per_generation
        if rows % self.num_generations:
            raise ValueError(
                f"`num_generations={self.num_generations}` must divide the rows that a process generates at once, "
                f"per_device_train_batch_size * steps_per_generation = {rows}: with dynamic sampling or an easy pool, "
                "a group must not straddle processes. Change one of the three."
            )


def _has_accelerator() -> bool:
    return torch.accelerator.is_available() or is_torch_xla_available()
