"""Accuracy of verified samples, averaged over problems."""

import math
from collections import defaultdict
from collections.abc import Sequence

import datasets
import evaluate

_DESCRIPTION = "Share of samples that a verifier accepts, averaged over each problem's samples and then over problems."
_INPUTS = """
Args:
    predictions: what the verifier gave for each sample, in 0..1; NaN where it could say nothing.
    references: the problem of each sample.
Returns:
    verified_accuracy: mean over problems of the mean over their verified samples; NaN if there are none.
    standard_error: of that mean, over problems; NaN with fewer than two.
    problems: problems with a verified sample.
    unverified: share of samples without a verdict. They are left out, not counted as wrong.
"""


class VerifiedAccuracy(evaluate.Metric):
    """
    `VerifiedAccuracy().compute(predictions=verdicts, references=problem_ids)`, with the verdicts of any reward function (None
    becomes NaN: see `verdicts`).
    """

    def _info(self):
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation="", inputs_description=_INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[str]) -> dict[str, float]:
        means = [sum(own) / len(own) for own in by_problem(predictions, references).values() if own]
        mean = sum(means) / len(means) if means else math.nan
        variance = sum((own - mean) ** 2 for own in means) / (len(means) - 1) if len(means) > 1 else math.nan
        unverified = sum(math.isnan(verdict) for verdict in predictions)
        return {
            "verified_accuracy": mean,
            "standard_error": math.sqrt(variance / len(means)) if means else math.nan,
            "problems": len(means),
            "unverified": unverified / len(predictions),
        }


def verdicts(rewards: Sequence[float | None]) -> list[float]:
    """A reward function's values as predictions: None, which means that nothing is known, becomes NaN."""
    return [math.nan if reward is None else float(reward) for reward in rewards]


def by_problem(predictions: Sequence[float], references: Sequence[str]) -> dict[str, list[float]]:
    """
    The verdicts on each problem's samples, those that are NaN left out.

    Raises:
        ValueError: a verdict outside 0..1.
    """
    problems: dict[str, list[float]] = defaultdict(list)
    for verdict, problem in zip(predictions, references, strict=True):
        own = problems[problem]
        if math.isnan(verdict):
            continue
        if not 0 <= verdict <= 1:
            raise ValueError(f"`predictions` must lie in 0..1 or be NaN; {verdict!r} of problem {problem!r} does not.")
        own.append(verdict)
    return problems
