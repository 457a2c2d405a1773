"""verified_accuracy and pass@k against counts by hand and over all sets of samples."""

import itertools
import math
from fractions import Fraction

import evaluate
import numpy as np
import pytest

from mimo_hf.metrics.pass_at_k import PassAtK, pass_at_k
from mimo_hf.metrics.verified_accuracy import VerifiedAccuracy


def test_accuracy_is_the_mean_over_problems_not_over_samples():
    found = VerifiedAccuracy().compute(predictions=[1, 0, 0, 0, 1], references=["a", "a", "a", "a", "b"])
    means = np.array([0.25, 1.0])
    assert found["verified_accuracy"] == pytest.approx(means.mean())
    assert found["standard_error"] == pytest.approx(means.std(ddof=1) / math.sqrt(2))
    assert found["problems"] == 2
    assert found["unverified"] == 0


def test_a_sample_without_a_verdict_is_left_out_and_counted():
    found = VerifiedAccuracy().compute(predictions=[1.0, None, math.nan, 0.5], references=["a", "a", "b", "c"])
    assert found["verified_accuracy"] == pytest.approx(0.75)
    assert found["problems"] == 2
    assert found["unverified"] == pytest.approx(0.5)


def test_nothing_verified_is_no_accuracy():
    found = VerifiedAccuracy().compute(predictions=[None, math.nan], references=["a", "b"])
    assert math.isnan(found["verified_accuracy"])
    assert math.isnan(found["standard_error"])
    assert found["unverified"] == 1
    one = VerifiedAccuracy().compute(predictions=[1.0], references=["a"])
    assert one["verified_accuracy"] == 1
    assert math.isnan(one["standard_error"])


@pytest.mark.parametrize("samples", range(1, 7))
def test_pass_at_k_is_the_share_of_sets_of_samples_that_hold_a_right_one(samples):
    for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        sets = list(itertools.combinations([True] * right + [False] * (samples - right), k))
        assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, sets)) / len(sets))


def test_pass_at_k_is_averaged_over_problems_and_only_full_marks_are_right():
    predictions = [1, 0, 0, 0, 0.9, 1, 1, math.nan]
    references = ["a"] * 3 + ["b"] * 2 + ["c"] * 3
    found = PassAtK().compute(predictions=predictions, references=references, k=[1, 2])
    assert found["pass@1"] == pytest.approx((1 / 3 + 0 + 1) / 3)
    assert found["pass@2"] == pytest.approx((2 / 3 + 0 + 1) / 3)


@pytest.mark.parametrize(
    ("samples", "right", "k"),
    [(10**17, 1, 1), (10**9, 3, 2), (10**6, 10, 10**5), (10**6, 10**5, 10), (5000, 40, 4980)],
)
def test_pass_at_k_is_exact_for_many_samples(samples, right, k):
    none = Fraction(1)
    for index in range(min(right, k)):
        none *= Fraction(max(samples - max(right, k) - index, 0), samples - index)
    assert pass_at_k(samples, right, k) == float(1 - none)


@pytest.mark.parametrize(("right", "k"), [(6, 1), (-1, 1), (1, 0), (1, 6)])
def test_pass_at_k_of_more_than_there_is_is_refused(right, k):
    with pytest.raises(ValueError, match="`right` must be in"):
        pass_at_k(5, right, k)


def test_one_number_of_draws_is_enough():
    found = PassAtK().compute(predictions=[1, None, 0], references=["a", "a", "a"], k=2)
    assert found == {"pass@2": 1.0}


@pytest.mark.parametrize("metric", [VerifiedAccuracy, PassAtK])
def test_no_samples_at_all_are_refused(metric):
    with pytest.raises(ValueError, match="`predictions` must hold"):
        metric().compute(predictions=[], references=[])


@pytest.mark.parametrize("k", [0, 3])
def test_more_draws_than_samples_are_refused_by_the_problems_name(k):
    with pytest.raises(ValueError, match="'b'"):
        PassAtK().compute(predictions=[1, 0, 1, 1, 0], references=["b", "b", "a", "a", "a"], k=[k])


@pytest.mark.parametrize("metric", [VerifiedAccuracy, PassAtK])
def test_verdicts_outside_their_range_are_refused(metric):
    with pytest.raises(ValueError, match="predictions"):
        metric().compute(predictions=[1.5], references=["a"])


@pytest.mark.parametrize("metric", [VerifiedAccuracy, PassAtK])
def test_they_are_metrics_of_evaluate_that_take_batches(metric):
    one, batched = metric(), metric()
    assert isinstance(one, evaluate.Metric)
    predictions, references = [1.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"]
    for prediction, reference in zip(predictions, references, strict=True):
        batched.add(prediction=prediction, reference=reference)
    assert batched.compute() == one.compute(predictions=predictions, references=references)
