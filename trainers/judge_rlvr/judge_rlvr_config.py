"""Settings of JudgeRLVR: judge first, generate second (arXiv 2601.08468)."""

from dataclasses import dataclass, field

from mimo_hf.data.judge_prompts import JUDGE_PROMPT_TEMPLATE, judge_prompt

from ..mimo_rl.mimo_rl_config import MiMoRLConfig

STAGES = ("judge", "generate", "mixed")
ON_LOW_SKILL = ("raise", "warn")


@dataclass
class JudgeRLVRConfig(MiMoRLConfig):
    r"""
    Configuration class for the [`JudgeRLVRTrainer`].

    This class includes only the parameters that JudgeRLVR adds. For a full list of training arguments, please refer to
    the [`MiMoRLConfig`] and [`~trl.GRPOConfig`] documentation.

    Using [`~transformers.HfArgumentParser`] we can turn this class into
    [argparse](https://docs.python.org/3/library/argparse#module-argparse) arguments that can be specified on the
    command line.

    Parameters:
        > Parameters that control the stage

        stage (`str`, *optional*, defaults to `"generate"`):
            What this training is: `"judge"` (verdicts on solution responses), `"generate"` (solutions), or `"mixed"`
            (rows of both, by the column `task`). One training is one stage: weights go from one to the next, the
            optimizer starts anew.
        judge_prompt_template (`str`, *optional*):
            Prompt of a judge row, with `{problem}` and `{solution}` once each.
        judge_max_completion_length (`int`, *optional*):
            Replaces `max_completion_length` in the stage `"judge"`, as verdicts are shorter than solutions. If `None`,
            it does not.
        mixed_judge_fraction (`float`, *optional*, defaults to `0.5`):
            Share of judge rows in the data of the stage `"mixed"` that the pipeline makes (see [`mix_tasks`]).
        unparseable_reward (`float`, *optional*, defaults to `0.0`):
            Reward of a completion without a verdict, below 1. It is passed to reward functions with a parameter of this
            name, such as [`~mimo_hf.rewards.judge_reward`].

        > Parameters that control the skill gate

        judge_min_gap (`float`, *optional*, defaults to `0.05`):
            Least P(yes | right) - P(yes | wrong) of the initial policy on `eval_dataset` for training on verdicts to
            start. At a gap of 0 verdicts carry no information, and rewarding them has ruined generators. Unreadable
            verdicts count as wrong ones.
        judge_gate_rows (`int`, *optional*, defaults to `256`):
            Judge rows of `eval_dataset` that the gap is measured on. `0` switches the gate off.
        on_low_skill (`str`, *optional*, defaults to `"raise"`):
            What to do below `judge_min_gap`, or when `judge_patience` ends: `"raise"` raises `RuntimeError`, `"warn"` warns
            and goes on.
        judge_patience (`int`, *optional*):
            In the stage `"judge"`, optimizer steps within which P(yes | right) - P(yes | wrong) on the training rows must
            rise: over all verdicts of the second half of them it must be above that over all of the first half. Where a
            half has no verdicts on right or on wrong solutions, that counts as not risen. If `None`, it need not.
    """

    stage: str = field(
        default="generate",
        metadata={
            "help": "What this training is: 'judge' (verdicts on solution responses), 'generate' (solutions), or "
            "'mixed' (rows of both, by the column `task`). One training is one stage: weights go from one to the "
            "next, the optimizer starts anew.",
            "choices": STAGES,
        },
    )
    judge_prompt_template: str = field(
        default=JUDGE_PROMPT_TEMPLATE,
        metadata={"help": "Prompt of a judge row, with `{problem}` and `{solution}` once each."},
    )
    judge_max_completion_length: int | None = field(
        default=None,
        metadata={
            "help": "Replaces `max_completion_length` in the stage 'judge', as verdicts are shorter than solutions. If "
            "None, it does not."
        },
    )
    mixed_judge_fraction: float = field(
        default=0.5,
        metadata={
            "help": "Share of judge rows in the data of the stage 'mixed' that the pipeline makes (see [mix_tasks])."
        },
    )
    unparseable_reward: float = field(
        default=0.0,
        metadata={
            "help": "Reward of a completion without a verdict, below 1. It is passed to reward functions with a parameter of "
            "this name, such as [~mimo_hf.rewards.judge_reward]."
        },
    )
    judge_min_gap: float = field(
        default=0.05,
        metadata={
            "help": "Least P(yes | right) - P(yes | wrong) of the initial policy on `eval_dataset` for training on "
            "verdicts to start. At a gap of 0 verdicts carry no information, and rewarding them has ruined generators. "
            "Unreadable verdicts count as wrong ones."
        },
    )
    judge_gate_rows: int = field(
        default=256,
        metadata={
            "help": "Judge rows of `eval_dataset` that the gap is measured on. `0` switches the gate off.",
        },
    )
    on_low_skill: str = field(
        default="raise",
        metadata={
            "help": "What to do below `judge_min_gap`, or when `judge_patience` ends: 'raise' raises RuntimeError, 'warn' "
            "warns and goes on.",
            "choices": ON_LOW_SKILL,
        },
    )
    judge_patience: int | None = field(
        default=None,
        metadata={
            "help": "In the stage 'judge', optimizer steps within which P(yes | right) - P(yes | wrong) on the training "
            "rows must rise: over all verdicts of the second half of them it must be above that over all of the first "
            "half. Where a half has no verdicts on right or on wrong solutions, that counts as not risen. If None, it "
            "need not."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.stage not in STAGES:
            raise ValueError(f"`stage` must be one of {STAGES}; got {self.stage!r}.")
        if self.on_low_skill not in ON_LOW_SKILL:
            raise ValueError(f"`on_low_skill` must be one of {ON_LOW_SKILL}; got {self.on_low_skill!r}.")
        if not -1 <= self.judge_min_gap <= 1:
            raise ValueError(
                f"`judge_min_gap` must be a difference of probabilities, in [-1, 1]; got {self.judge_min_gap}."
            )
        if self.judge_gate_rows < 0:
            raise ValueError(f"`judge_gate_rows` must be 0 (no gate) or more; got {self.judge_gate_rows}.")
        if not 0 < self.mixed_judge_fraction < 1:
            raise ValueError(
                f"`mixed_judge_fraction` must be strictly between 0 and 1; got {self.mixed_judge_fraction}."
            )
        if not self.unparseable_reward < 1:
            raise ValueError(
                f"`unparseable_reward` must be below 1, the reward of a right verdict; got {self.unparseable_reward}."
            )
        if self.judge_patience is not None and self.judge_patience < 2:
            raise ValueError(
                f"`judge_patience` must be at least 2 steps, to have two halves, or None; got {self.judge_patience}."
            )
        judge_prompt("", "", self.judge_prompt_template)  # refuses a template without its markers
        if self.stage == "judge" and self.judge_max_completion_length is not None:
            self.max_completion_length = self.judge_max_completion_length
