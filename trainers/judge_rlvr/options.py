"""Options of JudgeRLVR's pipeline, on the command line and in Python. Nothing here imports torch or TRL."""

from dataclasses import dataclass, field

from .problems import Problems, load_problems

HAND_OVERS = ("continue", "merge")


@dataclass
class JudgeRLVRPipelineConfig:
    """
    What is trained on, and by which rewards. The options of both trainings are [`JudgeRLVRConfig`]'s.

    Parameters:
        dataset_name (`str`, *optional*):
            Problems: a JSON, JSONL, CSV or Parquet file, a folder saved by `save_to_disk` or with one such file a split
            (train.jsonl, test.jsonl), or a data set of the Hub. Columns: `problem` (or `prompt`), `solution`, and
            `problem_id` if problems have names.
        dataset (`str`, *optional*):
            Another name of `dataset_name`.
        dataset_config (`str`, *optional*):
            Configuration of the Hub's data set.
        dataset_train_split (`str`, *optional*, defaults to `"train"`):
            Split to train on.
        dataset_test_split (`str`, *optional*, defaults to `"test"`):
            Split that models are measured on in the step `"eval"`.
        test_share (`float`, *optional*, defaults to `0.1`):
            Share of the training problems that is held out for that where the data set has no such split.
        reward (`str`, *optional*):
            Dotted path of the reward function of solutions; it gets the column `solution`.
        judge_reward (`str`, *optional*):
            Dotted path of the reward function of verdicts; it gets the column `label`.
        parse_answer (`str`, *optional*):
            Dotted path of the function that finds the final answer in a solution response, or returns None.
        candidate_models (`list[str]`, *optional*):
            Further models whose solutions are judged, beside the one that is trained. The paper takes several.
        candidates_per_problem (`int`, *optional*, defaults to `8`):
            Solutions sampled for each problem from each model.
        model_thinks (`bool`, *optional*):
            Whether completions have thoughts that end with `</think>`, which are not judged. If `None`, the sampled
            completions show it.
        judge_steps (`int`, *optional*, defaults to `100`):
            Optimizer steps of the stage `"judge"`.
        generate_steps (`int`, *optional*, defaults to `100`):
            Optimizer steps of the stage `"generate"`.
        stage_handoff (`str`, *optional*, defaults to `"continue"`):
            With an adapter: `"continue"` trains the judge's adapter on, `"merge"` adds it to the weights and starts a
            new one.
        step (`str`, *optional*):
            The only step to run in this process: `"collect"`, `"build"`, `"judge"`, `"generate"` (or `"mixed"`), or
            `"eval"`. Those before it must be done. If `None`, all that are not done are run.
        restart (`bool`, *optional*, defaults to `False`):
            Whether to make steps anew whose inputs have changed, instead of refusing.
    """

    dataset_name: str | None = field(
        default=None,
        metadata={
            "help": "Problems: a JSON, JSONL, CSV or Parquet file, a folder saved by `save_to_disk` or with one such file a "
            "split (train.jsonl, test.jsonl), or a data set of the Hub. Columns: `problem` (or `prompt`), `solution`, and "
            "`problem_id` if problems have names."
        },
    )
    dataset: str | None = field(default=None, metadata={"help": "Another name of `dataset_name`."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the Hub's data set."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str = field(
        default="test", metadata={"help": "Split that models are measured on in the step 'eval'."}
    )
    test_share: float = field(
        default=0.1,
        metadata={
            "help": "Share of the training problems that is held out for that where the data set has no such split."
        },
    )
    reward: str | None = field(
        default=None,
        metadata={"help": "Dotted path of the reward function of solutions; it gets the column `solution`."},
    )
    judge_reward: str | None = field(
        default=None,
        metadata={"help": "Dotted path of the reward function of verdicts; it gets the column `label`."},
    )
    parse_answer: str | None = field(
        default=None,
        metadata={
            "help": "Dotted path of the function that finds the final answer in a solution response, or returns None."
        },
    )
    candidate_models: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Further models whose solutions are judged, beside the one that is trained. The paper takes several."
        },
    )
    candidates_per_problem: int = field(
        default=8, metadata={"help": "Solutions sampled for each problem from each model."}
    )
    model_thinks: bool | None = field(
        default=None,
        metadata={
            "help": "Whether completions have thoughts that end with `</think>`, which are not judged. If None, the sampled "
            "completions show it."
        },
    )
    judge_steps: int = field(default=100, metadata={"help": "Optimizer steps of the stage 'judge'."})
    generate_steps: int = field(default=100, metadata={"help": "Optimizer steps of the stage 'generate'."})
    stage_handoff: str = field(
        default="continue",
        metadata={
            "help": "With an adapter: 'continue' trains the judge's adapter on, 'merge' adds it to the weights and "
            "starts a new one.",
            "choices": HAND_OVERS,
        },
    )
    step: str | None = field(
        default=None,
        metadata={
            "help": "The only step to run in this process: 'collect', 'build', 'judge', 'generate' (or 'mixed'), or "
            "'eval'. Those before it must be done. If None, all that are not done are run."
        },
    )
    restart: bool = field(
        default=False,
        metadata={"help": "Whether to make steps anew whose inputs have changed, instead of refusing."},
    )

    def __post_init__(self):
        if self.dataset and self.dataset_name and self.dataset != self.dataset_name:
            raise ValueError(
                f"`dataset_name` and `dataset` are one option, and one must be given; got {self.dataset_name!r} and "
                f"{self.dataset!r}."
            )
        self.dataset_name = self.dataset = self.dataset_name or self.dataset
        needed = ("dataset_name", "reward", "judge_reward", "parse_answer")
        missing = [name for name in needed if not getattr(self, name)]
        if missing:
            raise ValueError(f"{', '.join(f'`{name}`' for name in missing)} must be given: the pipeline needs them.")
        if not 0 < self.test_share <= 0.5:
            raise ValueError(f"`test_share` must be above 0 and at most 0.5; got {self.test_share}.")
        if self.stage_handoff not in HAND_OVERS:
            raise ValueError(f"`stage_handoff` must be one of {HAND_OVERS}; got {self.stage_handoff!r}.")
        if self.candidates_per_problem < 2:
            raise ValueError(
                f"`candidates_per_problem` must be at least 2, one right and one wrong; got {self.candidates_per_problem}."
            )
        for name in ("judge_steps", "generate_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1; got {getattr(self, name)}.")

    def load_problems(self) -> Problems:
        return load_problems(
            str(self.dataset_name),
            self.dataset_config,
            self.dataset_train_split,
            self.dataset_test_split,
            self.test_share,
        )
