"""pass@k from verified samples."""

import math
from collections.abc import Sequence

import datasets
import evaluate

from .verified_accuracy import by_problem

_DESCRIPTION = (
    "Probability that at least one of k samples of a problem is right, estimated without bias from n >= k samples."
)
_CITATION = """\
@article{chen2021evaluating,
  title={Evaluating Large Language Models Trained on Code},
  author={Chen, Mark and others},
  journal={arXiv preprint arXiv:2107.03374},
  year={2021}
}"""
_INPUTS = """
Args:
    predictions: what the verifier gave for each sample: 1 is right, less is wrong; None or NaN where it could say nothing, which
        leaves the sample out.
    references: the problem of each sample.
    k: number of samples, or several; each from 1 to the number of verified samples of every problem.
Returns:
    pass@k for each k: mean over problems.
"""


class PassAtK(evaluate.Metric):
    """`PassAtK().compute(predictions=verdicts, references=problem_ids, k=[1, 8])`; see arXiv 2107.03374, equation 1."""

    def _info(self):
        features = {"predictions": datasets.Value("float64"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(
        self, predictions: Sequence[float | None], references: Sequence[str], k: int | Sequence[int] = (1,)
    ) -> dict[str, float]:
        problems = by_problem(predictions, references)
        results = {}
        for draws in (k,) if isinstance(k, int) else k:
            for problem, own in problems.items():
                if not 1 <= draws <= len(own):
                    raise ValueError(
                        f"`k` is {draws!r}, but must be from 1 to {len(own)}, the number of verified samples of problem {problem!r}: "
                        "draw more samples or ask for less."
                    )
            estimates = [pass_at_k(len(own), sum(verdict == 1 for verdict in own), draws) for own in problems.values()]
            results[f"pass@{draws}"] = sum(estimates) / len(estimates)
        return results


def pass_at_k(samples: int, right: int, k: int) -> float:
    """
    1 - C(samples - right, k) / C(samples, k): the share of sets of k samples that hold a right one, rounded once.

    Raises:
        ValueError: `right` is not in 0..samples, or `k` not in 1..samples.
    """
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"`right` must be in 0..{samples}, not {right!r}, and `k` in 1..{samples}, not {k!r}.")
    few, many = sorted((right, k))  # the two may change places: the ratio has no more factors than the lesser
    sets = math.perm(samples, few)
    return (sets - math.perm(samples - many, few)) / sets
