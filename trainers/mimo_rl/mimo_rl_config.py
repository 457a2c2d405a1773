"""Settings of MiMo's reinforcement learning: GRPO with dynamic sampling and an easy pool (arXiv 2505.07608, section 3.3)."""

from dataclasses import dataclass, field

import torch
from transformers.utils import is_torch_xla_available
from trl import GRPOConfig

EXHAUSTED = ("pad", "raise")
SCHEMES = ("strict", "soft", "vanilla")
BACKENDS = ("auto", "bwrap", "subprocess")


@dataclass
class MiMoRLConfig(GRPOConfig):
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

        > Parameters that control code rewards

        code_reward_scheme (`str`, *optional*, defaults to `"strict"`):
            What passed tests are worth to the reward that `mimo_hf.rewards.CodeReward.from_args` makes of these options:
            `"strict"`, `"soft"` or `"vanilla"`.
        code_level_thresholds (`list[float]`, *optional*, defaults to `[0.3, 0.7]`):
            Pass rates below which a test is hard, and from which on it is easy, for `grade_tests`.
        sandbox (`str`, *optional*, defaults to `"auto"`):
            Backend of the sandbox that programs run in: `"bwrap"`; `"subprocess"`, which is no security boundary; or `"auto"`:
            bubblewrap, and an error that says what to do where it does not work.
        sandbox_timeout_s (`float`, *optional*, defaults to `6.0`):
            Seconds of wall-clock time for a program.
        sandbox_memory_mb (`int`, *optional*, defaults to `512`):
            Memory of a program, in MiB.
        sandbox_workers (`int`, *optional*, defaults to `2`):
            Programs that run at once.

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
    code_reward_scheme: str = field(
        default="strict",
        metadata={
            "help": "What passed tests are worth to the reward that `mimo_hf.rewards.CodeReward.from_args` makes of these "
            "options: 'strict', 'soft' or 'vanilla'.",
            "choices": SCHEMES,
        },
    )
    code_level_thresholds: list[float] = field(
        default_factory=lambda: [0.3, 0.7],
        metadata={"help": "Pass rates below which a test is hard, and from which on it is easy, for `grade_tests`."},
    )
    sandbox: str = field(
        default="auto",
        metadata={
            "help": "Backend of the sandbox that programs run in: 'bwrap', 'subprocess' (no security boundary), or 'auto' "
            "(bwrap, or an error).",
            "choices": BACKENDS,
        },
    )
    sandbox_timeout_s: float = field(default=6.0, metadata={"help": "Seconds of wall-clock time for a program."})
    sandbox_memory_mb: int = field(default=512, metadata={"help": "Memory of a program, in MiB."})
    sandbox_workers: int = field(default=2, metadata={"help": "Programs that run at once."})
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
                f"`easy_pool_alpha` is a probability in [0, 1] (the paper: 0.1); got {self.easy_pool_alpha}."
            )
        if self.carry_surplus and not self.dynamic_sampling:
            raise ValueError(
                "`carry_surplus` has no surplus to carry without dynamic sampling: set `dynamic_sampling=True`."
            )
        if self.easy_pool_keep_zero_std and not (self.dynamic_sampling and self.easy_pool_alpha):
            raise ValueError(
                "`easy_pool_keep_zero_std` exempts groups of the easy pool from dynamic sampling: set "
                f"`dynamic_sampling=True` and `easy_pool_alpha` above 0; got {self.dynamic_sampling} and "
                f"{self.easy_pool_alpha}."
            )
        self._check_code_reward()
        if self.dynamic_sampling:
            self._check_advantages_belong_to_groups()
        if self.dynamic_sampling or self.easy_pool_alpha:
            self._check_groups_are_whole()

    def _check_code_reward(self):
        low, *rest = self.code_level_thresholds or (0.0,)
        if len(rest) != 1 or not 0 < low < rest[0] < 1:
            raise ValueError(
                f"`code_level_thresholds` must be two rising pass rates between 0 and 1; got {self.code_level_thresholds}."
            )
        for name, allowed in (("code_reward_scheme", SCHEMES), ("sandbox", BACKENDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}; got {getattr(self, name)!r}.")
        for name in ("sandbox_timeout_s", "sandbox_memory_mb", "sandbox_workers"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be above 0; got {getattr(self, name)}.")

    def _check_advantages_belong_to_groups(self):
        # A round's statistics would count groups that are dropped, and differ from one round of a batch to the next.
        if self.scale_rewards == "batch":
            raise ValueError(
                "`dynamic_sampling` drops groups after their advantages are known, so these must not depend on other "
                "groups: set `scale_rewards` to 'group' or 'none'; got 'batch'."
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
