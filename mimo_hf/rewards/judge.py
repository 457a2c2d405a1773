"""Rewards for verdicts on solutions: the first stage of JudgeRLVR (arXiv 2601.08468)."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from ..data.judge_prompts import JUDGE_PROMPT_TEMPLATE, judge_prompt
from .completions import after_thinking, completion_text, same_length

__all__ = ["JUDGE_PROMPT_TEMPLATE", "judge_prompt", "judge_reward", "parse_verdict"]

# A run of blanks that may span lines stands in a lookahead, which gives nothing back: a megabyte of them must not be tried one by one.
_VERDICT = re.compile(
    r"^[^\S\n]*(?:\*\*)?Verdict\s*[:=](?=(\s*\**\s*))\1(?P<verdict>[01])\b(?P<rest>.*)$", re.IGNORECASE | re.MULTILINE
)
_NOTHING_MORE = re.compile(r"[\s*_`.!]*")
_BOXED = re.compile(r"\\boxed\{([01])\}")


def parse_verdict(text: str) -> int | None:
    """
    The verdict of a judge's text: 0, 1, or None if it gives none.

    Only what follows the last `</think>` counts: its last line `Verdict: 0` or `Verdict: 1`, or, without such a line, its last
    `\\boxed{0}` or `\\boxed{1}`. A last line that says more than the number, as `Verdict: 1, or maybe 0` does, is none.
    """
    text = after_thinking(text)
    lines = list(_VERDICT.finditer(text)) if "verdict" in text.lower() else []
    if lines:
        return int(lines[-1]["verdict"]) if _NOTHING_MORE.fullmatch(lines[-1]["rest"]) else None
    boxes = _BOXED.findall(text)
    return int(boxes[-1]) if boxes else None


def judge_reward(
    completions: Sequence[Any],
    label: Sequence[int] | None = None,
    log_metric: Callable[[str, float], None] | None = None,
    unparseable_reward: float = 0.0,
    **columns: Any,
) -> list[float | None]:
    """
    A TRL reward function: 1 if the verdict of a completion is the row's `label` (1: the judged solution is right), else 0;
    `unparseable_reward` without a verdict. It logs `judge/accuracy`, `judge/balanced_accuracy`, `judge/tpr`, `judge/tnr`, `judge/parse_rate` and
    `judge/pos_rate` (share of verdicts that are 1); rates over no rows are left out.

    Raises:
        ValueError: no column `label`, or a label that is neither 0 nor 1.
    """
    same_length(completions=completions, label=label)
    labels = list(label)  # type: ignore[arg-type]  # None was refused
    for index, expected in enumerate(labels):
        if expected not in (0, 1):
            raise ValueError(f"`label` of row {index} must be 0 or 1, not {expected!r}.")
    verdicts = [parse_verdict(completion_text(completion)) for completion in completions]
    rewards: list[float | None] = [
        unparseable_reward if verdict is None else float(verdict == expected)
        for verdict, expected in zip(verdicts, labels, strict=True)
    ]
    if log_metric is not None:
        for name, value in _metrics(verdicts, labels).items():
            log_metric(f"judge/{name}", value)
    return rewards


def _metrics(verdicts: Sequence[int | None], labels: Sequence[int]) -> dict[str, float]:
    rates = {
        "accuracy": [verdict == expected for verdict, expected in zip(verdicts, labels, strict=True)],
        "tpr": [verdict == 1 for verdict, expected in zip(verdicts, labels, strict=True) if expected == 1],
        "tnr": [verdict == 0 for verdict, expected in zip(verdicts, labels, strict=True) if expected == 0],
        "parse_rate": [verdict is not None for verdict in verdicts],
        "pos_rate": [verdict == 1 for verdict in verdicts if verdict is not None],
    }
    metrics = {name: sum(hits) / len(hits) for name, hits in rates.items() if hits}
    if "tpr" in metrics and "tnr" in metrics:
        metrics["balanced_accuracy"] = (metrics["tpr"] + metrics["tnr"]) / 2
    return metrics
