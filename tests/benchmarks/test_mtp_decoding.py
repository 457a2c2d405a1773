"""The arithmetic of benchmarks/mtp_decoding.py, and its forced acceptance on a small model."""

import numpy as np
import pytest
import torch


@pytest.fixture(scope="module")
def bench():
    import mtp_decoding

    return mtp_decoding


@pytest.mark.parametrize("target", [1.0, 2.0, 2.8, 3.4, 3.6, 4.0])
def test_the_schedule_has_the_mean_that_is_asked_for(bench, target):
    schedule = bench.acceptance_schedule(target)
    assert sum(schedule) / len(schedule) == pytest.approx(target - 1)
    assert max(schedule) - min(schedule) <= 1
    assert 0 <= min(schedule) <= max(schedule) <= 3


def test_the_fit_recovers_the_curve_of_the_paper(bench):
    entropy = np.linspace(0.05, 0.3, 6)
    length = 4 * (1 - 0.58 * entropy**0.58)
    fit = bench.fit_entropy_curve(entropy, length, np.ones(6), cap=4)
    assert fit["a"] == pytest.approx(0.58)
    assert fit["b"] == pytest.approx(0.58)
    assert fit["r_squared"] == pytest.approx(1.0)


def test_entropies_are_in_nats(bench):
    flat, certain = torch.zeros(1, 8), torch.tensor([[100.0] + [0.0] * 7])
    assert bench.entropies((flat, certain)) == pytest.approx([np.log(8), 0.0], abs=1e-5)


def test_forced_drafts_change_no_token_and_are_accepted_as_told(bench):
    torch.manual_seed(0)
    model = bench.dense_model(2, 32)
    prompt = torch.randint(model.config.vocab_size, (1, 20))
    result = bench.forced_acceptance(model, prompt, new_tokens=61, repeats=1, targets=(1.0, 3.0, 4.0))
    assert all(row["outputs_equal"] for row in result["rows"])
    lengths = [row["acceptance_length"] for row in result["rows"]]
    assert lengths == pytest.approx([1.0, 3.0, 4.0], abs=0.1)
