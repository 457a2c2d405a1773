"""Domains of the JudgeRLVR study: problems, demonstrations of a warm start, model, and the settings that all arms share."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM

from mimo_hf.data import linear_equations as equations, pair_sum

Row = dict[str, Any]
# (row, noise...) to a prompt and a response
Demonstrate = Callable[..., tuple[str, str]]


@dataclass(frozen=True)
class Phase:
    """Steps of supervised training on demonstrations with the same noise."""

    steps: int
    learning_rate: float
    noise: dict[str, float]
    batch_size: int = 64


@dataclass(frozen=True)
class Domain:
    """All that differs between two domains; what arms do is in judge_rlvr.py."""

    summary: str
    words: Sequence[str]
    load: Callable[[str], Dataset]  # of a split
    solve_rows: Callable[[Dataset], Dataset]
    judge_rows: Callable[[Dataset, int], Dataset]
    solve: Demonstrate
    judge: Demonstrate
    reward: Callable[..., list[float]]
    warm_start: tuple[Phase, ...]
    shape: dict[str, int]
    solve_tokens: int  # the most that a response may have
    judge_tokens: int
    prompts: int  # a step, eight completions each
    learning_rate: float
    judge_steps: int
    generate_steps: tuple[int, ...]  # where all arms that generate are measured
    longer: tuple[int, ...]  # where vanilla is measured beside that, for equal steps in total
    mixed_steps: tuple[int, ...]
    penalty: float = 0.3  # of the longest response, in the arm with a length penalty
    limits: tuple[str, ...] = ()
    describe: dict[str, Callable[[str], bool]] = field(default_factory=dict)  # shares of responses on record

    def model(self, vocab_size: int) -> Qwen2ForCausalLM:
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=vocab_size, num_key_value_heads=self.shape["num_attention_heads"], max_position_embeddings=256,
                tie_word_embeddings=False, pad_token_id=0, eos_token_id=1, bos_token_id=None, **self.shape,
            )
        )  # fmt: skip


def _solve_pair_sum(row: Row, rng: random.Random, **noise: float) -> tuple[str, str]:
    prompt = pair_sum.solve_prompt(row["numbers"], row["target"])
    return prompt, pair_sum.solve_demonstration(row["numbers"], row["target"], rng, **noise)


def _judge_pair_sum(row: Row, rng: random.Random, straight: float = 0.0, **noise: float) -> tuple[str, str]:
    pair = rng.sample(row["pair"] if rng.random() < 0.5 else row["numbers"], 2)
    prompt = pair_sum.judge_prompt(row["numbers"], row["target"], pair)
    return prompt, pair_sum.judge_demonstration(pair, row["target"], rng, **noise)


def _solve_by_plan_or_trials(
    row: Row, rng: random.Random, plan_slips: float, trial_slips: float, false_no: float
) -> tuple[str, str]:
    a, b, c = row["a"], row["b"], row["c"]
    response = (
        equations.plan_demonstration(a, b, c, rng, plan_slips)
        if rng.random() < 0.5
        else equations.trial_demonstration(a, b, c, rng, trial_slips, false_no)
    )
    return equations.solve_prompt(a, b, c), response


def _judge_plan(row: Row, rng: random.Random, plan_slips: float, **noise: float) -> tuple[str, str]:
    a, b, c = row["a"], row["b"], row["c"]
    # A plan with slips of its own makes the candidate.
    words = equations.plan_demonstration(a, b, c, rng, 0.0 if rng.random() < 0.4 else 0.5).split()
    candidate = (int(words[2]), int(words[5]))
    response = equations.judge_demonstration(a, b, c, candidate, rng, plan_slips)
    return equations.judge_prompt(a, b, c, candidate), response


def _solve_with_check(row: Row, rng: random.Random, **noise: float) -> tuple[str, str]:
    a, b, c = row["a"], row["b"], row["c"]
    return equations.solve_prompt(a, b, c), equations.checked_demonstration(a, b, c, rng, **noise)


def _check_answer(row: Row, rng: random.Random, slips: float, **noise: float) -> tuple[str, str]:
    a, b, c = row["a"], row["b"], row["c"]
    answer = row["x"] if rng.random() < 0.5 else rng.randint(1, equations.MAX_SOLUTION + equations.SLIP)
    return equations.check_prompt(a, b, c, answer), equations.check_demonstration(a, b, c, answer, rng, **noise)


SMALL = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
CONSTRUCTED = (
    "the warm start was built so that judging and generating share a skill that it lacks: this shows that the mechanism can work, "
    "not how common it is"
)
PAIRS: dict[str, Any] = {
    "solve_rows": pair_sum.solve_rows,
    "judge_rows": pair_sum.judge_rows,
    "solve": _solve_pair_sum,
    "judge": _judge_pair_sum,
    "reward": pair_sum.pair_reward,
    "limits": (CONSTRUCTED,),
}
EQUATIONS: dict[str, Any] = {
    "words": equations.words(),
    "load": equations.linear_equation_problems,
    "solve_rows": equations.solve_rows,
    "reward": equations.solution_reward,
    "describe": {"planned": equations.is_plan},
    "limits": (CONSTRUCTED,),
}

DOMAINS = {
    "pair_sum": Domain(
        "PairSum: of four numbers up to 20, the two that sum to a target; a quarter of the warm start's sums is wrong",
        words=pair_sum.words(20),
        load=partial(pair_sum.pair_sum_problems, num_numbers=4, max_number=20),
        **PAIRS,
        warm_start=(
            Phase(1500, 3e-3, {"false_no": 0.0, "false_yes": 0.0, "wrong_sum": 0.05, "straight": 0.15}),
            Phase(500, 1e-3, {"false_no": 0.0, "false_yes": 0.0, "wrong_sum": 0.25, "straight": 0.15}),
        ),
        shape={**SMALL, "num_hidden_layers": 3},
        solve_tokens=32,
        judge_tokens=10,
        prompts=24,
        learning_rate=1e-4,
        judge_steps=100,
        generate_steps=(25, 50, 100),
        longer=(125, 200),
        mixed_steps=(50, 100, 200),
    ),
    "doubt_search": Domain(
        "DoubtSearch: PairSum with three numbers up to 12 and right sums; the warm start rejects the right pair most of the times",
        words=pair_sum.words(),
        load=pair_sum.pair_sum_problems,
        **PAIRS,
        warm_start=(
            Phase(800, 3e-3, {"false_no": 0.7, "false_yes": 0.06}, 48),
            Phase(1400, 3e-3, {"false_no": 0.1, "false_yes": 0.0}),
            Phase(250, 1e-3, {"false_no": 0.7, "false_yes": 0.02}, 48),
        ),
        shape=SMALL,
        solve_tokens=96,
        judge_tokens=30,
        prompts=32,
        learning_rate=3e-4,
        judge_steps=30,
        generate_steps=(10, 20, 60),
        longer=(40, 90),
        mixed_steps=(10, 20, 40),
    ),
    "equations": Domain(
        "linear equations: a plan that slips half of the times, a check of its answer that doubts, and trials if it says no; "
        "answers are judged",
        **EQUATIONS,
        judge_rows=equations.check_rows,
        solve=_solve_with_check,
        judge=_check_answer,
        warm_start=(
            Phase(900, 3e-3, {"slips": 0.1, "false_no": 0.1, "false_yes": 0.0}),
            Phase(200, 1e-3, {"slips": 0.3, "false_no": 0.6, "false_yes": 0.02}, 48),
        ),
        shape={**SMALL, "num_hidden_layers": 3},
        solve_tokens=96,
        judge_tokens=10,
        prompts=32,
        learning_rate=3e-4,
        judge_steps=30,
        generate_steps=(10, 20, 40),
        longer=(70,),
        mixed_steps=(10, 20, 40),
    ),
    "plans": Domain(
        "linear equations, solved half by half by a short plan whose steps slip and by long trials that hardly do; plans are judged",
        **EQUATIONS,
        judge_rows=equations.judge_rows,
        solve=_solve_by_plan_or_trials,
        judge=_judge_plan,
        warm_start=(
            Phase(1000, 3e-3, {"plan_slips": 0.02, "trial_slips": 0.0, "false_no": 0.0}),
            Phase(250, 1e-3, {"plan_slips": 0.3, "trial_slips": 0.01, "false_no": 0.02}),
        ),
        shape={"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4},
        solve_tokens=64,
        judge_tokens=12,
        prompts=32,
        learning_rate=3e-4,
        judge_steps=50,
        generate_steps=(10, 25, 50),
        longer=(100,),
        mixed_steps=(20, 50, 100),
    ),
}
