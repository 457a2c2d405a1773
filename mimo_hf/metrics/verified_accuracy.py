"""Accuracy of verified samples, averaged over problems."""

import math
from collections import defaultdict
from collections.abc import Sequence

import datasets
import evaluate

_DESCRIPTION = "Share of samples that a verifier accepts, averaged over each problem's samples and then over problems."
_INPUTS = """
Args:
    predictions: what the verifier gave for each sample, in 0..1; None or NaN where it could say nothing.
    references: the problem of each sample.
Returns:
    verified_accuracy: mean over problems of the mean over their verified samples; NaN if there are none.
    standard_error: of that mean, over problems; NaN with fewer than two.
    problems: problems with a verified sample.
    unverified: share of samples without a verdict. They are left out, not counted as wrong.
"""


class VerifiedAccuracy(evaluate.Metric):
    """
    `VerifiedAccuracy().compute(predictions=verdicts, references=problem_ids)`, with the verdicts of any reward function.
    """

    def _info(self):
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation="", inputs_description=_INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions: Sequence[float | None], references: Sequence[str]) -> dict[str, float]:
        problems = by_problem(predictions, references)
        means = [sum(own) / len(own) for own in problems.values() if own]
        mean = sum(means) / len(means) if means else math.nan
        variance = sum((own - mean) ** 2 for own in means) / (len(means) - 1) if len(means) > 1 else math.nan
        verified = sum(map(len, problems.values()))
        return {
            "verified_accuracy": mean,
            "standard_error": math.sqrt(variance / len(means)) if means else math.nan,
            "problems": len(means),
            "unverified": 1 - verified / len(predictions),
        }


def by_problem(predictions: Sequence[float | None], references: Sequence[str]) -> dict[str, list[float]]:
    """
    The verdicts on each problem's samples, those that are None or NaN left out.

    Raises:
        ValueError: no predictions, or a verdict outside 0..1.
    """
    if not len(predictions):
        raise ValueError("`predictions` must hold the verdict on each sample; got none.")
    problems: dict[str, list[float]] = defaultdict(list)
    for verdict, problem in zip(predictions, references, strict=True):
        own = problems[problem]
        if verdict is None or math.isnan(verdict):
            continue
        if not 0 <= verdict <= 1:
            raise ValueError(f"`predictions` must lie in 0..1 or be NaN; {verdict!r} of problem {problem!r} does not.")
        own.append(verdict)
    return problems
