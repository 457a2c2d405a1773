"""Equations 7 to 9 against sums over all outcomes, in float64."""

import math

import pytest
import torch

from mimo_hf.trainers.mopd.losses import (
    RunningScale,
    aggregate,
    importance_weights,
    sampled_term,
    support_reverse_kl,
)


def categorical(vocab, seed):
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def expected_gradient(logits, teacher, sampling, mode="none", low=0.5, high=5.0):
    """Of the loss of one token, over every token that the sampling policy may give."""
    logits = logits.clone().requires_grad_()
    total = 0.0
    for token in range(len(logits)):
        log_prob = torch.log_softmax(logits, 0)[token].view(1, 1)
        mu = torch.log_softmax(sampling, 0)[token]
        weights = importance_weights(log_prob, mu.view(1, 1), mode, low, high)
        gap = torch.log_softmax(teacher, 0)[token] - log_prob
        loss = aggregate(weights.value * sampled_term(log_prob, gap), torch.ones(1, 1, dtype=torch.float64))
        total = total + mu.exp() * loss
    return torch.autograd.grad(total, logits)[0]


def kl_gradient(logits, teacher):
    logits = logits.clone().requires_grad_()
    log_pi, log_t = torch.log_softmax(logits, 0), torch.log_softmax(teacher, 0)
    return torch.autograd.grad((log_pi.exp() * (log_pi - log_t)).sum(), logits)[0]


@pytest.mark.parametrize("vocab", [2, 5, 17])
def test_the_expected_gradient_on_policy_is_that_of_the_reverse_kl(vocab):
    logits, teacher = categorical(vocab, 0), categorical(vocab, 1)
    got = expected_gradient(logits, teacher, logits)
    torch.testing.assert_close(got, kl_gradient(logits, teacher), rtol=0, atol=1e-10)


@pytest.mark.parametrize("vocab", [2, 5, 17])
def test_weights_make_up_for_another_sampling_policy(vocab):
    logits, teacher, sampling = (categorical(vocab, seed) for seed in range(3))
    got = expected_gradient(logits, teacher, sampling, "mask", 0.0, math.inf)
    torch.testing.assert_close(got, kl_gradient(logits, teacher), rtol=0, atol=1e-10)


@pytest.mark.parametrize("vocab", [2, 5, 17])
def test_with_masked_tokens_it_is_the_closed_form(vocab):
    logits, teacher, sampling = (categorical(vocab, seed) for seed in range(3))
    log_pi, log_t, log_mu = (torch.log_softmax(values, 0) for values in (logits, teacher, sampling))
    kept = ((log_pi - log_mu).exp() >= 0.6) & ((log_pi - log_mu).exp() <= 1.5)
    assert 0 < kept.sum() < vocab or vocab == 2
    c = log_pi.exp() * kept * (log_t - log_pi)
    expected = -(c - log_pi.exp() * c.sum())
    got = expected_gradient(logits, teacher, sampling, "mask", 0.6, 1.5)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def weights_of(ratios, mode):
    log_probs = torch.tensor(ratios, dtype=torch.float64).log().view(1, -1)
    return importance_weights(log_probs, torch.zeros_like(log_probs), mode, 0.5, 4.0)


def test_tokens_outside_the_bounds_are_discarded_and_the_bounds_belong_to_the_inside():
    below, above = math.nextafter(0.5, 0) * (1 - 1e-12), 4.0 * (1 + 1e-12)
    weights = weights_of([below, 0.5, 1.0, 4.0, above], "mask")
    assert weights.value[0].tolist() == pytest.approx([0, 0.5, 1, 4, 0], abs=1e-15)
    assert weights.value[0, 0] == 0
    assert weights.value[0, 4] == 0
    assert weights.outside[0].tolist() == [True, False, False, False, True]


def test_truncated_tokens_weigh_the_bound():
    assert weights_of([0.1, 1.0, 40.0], "truncate").value[0].tolist() == pytest.approx([0.5, 1, 4])


def test_without_weights_every_token_counts_once_and_those_outside_are_still_told():
    weights = weights_of([0.1, 1.0, 40.0], "none")
    assert weights.value[0].tolist() == [1, 1, 1]
    assert weights.outside[0].tolist() == [True, False, True]


def test_a_token_that_the_sampler_could_not_score_has_ratio_one():
    log_probs = torch.tensor([[-1.0, -2.0]])
    assert importance_weights(log_probs, torch.tensor([[math.nan, -2.0]]), "mask", 0.5, 5).value.tolist() == [[1, 1]]
    assert importance_weights(log_probs, None, "mask", 0.5, 5).value.tolist() == [[1, 1]]


def test_weights_have_no_gradient():
    log_probs = torch.tensor([[-1.0]], requires_grad=True)
    assert not importance_weights(log_probs, torch.tensor([[-1.2]]), "mask", 0.5, 5).value.requires_grad


def test_the_teacher_and_the_gap_get_no_gradient():
    log_probs = torch.tensor([[-1.0]], requires_grad=True)
    teacher = torch.tensor([[-0.5]], requires_grad=True)
    sampled_term(log_probs, teacher - log_probs).sum().backward()
    assert teacher.grad is None
    assert log_probs.grad.item() == pytest.approx(-0.5)


def test_a_row_of_one_token_weighs_as_much_as_one_of_nine_and_padding_nothing():
    mask = torch.zeros(2, 9)
    mask[0, 0], mask[1] = 1, 1
    per_token = torch.full((2, 9), 7.0)
    per_token[0, 0], per_token[1] = 2.0, 4.0
    assert aggregate(per_token, mask).item() == pytest.approx(3.0)


def test_a_batch_without_tokens_is_a_finite_zero():
    assert aggregate(torch.ones(3, 4), torch.zeros(3, 4)).item() == 0


@pytest.mark.parametrize("known", [1, 3, 6, 7])
def test_the_rest_of_the_vocabulary_counts_as_one_token(known):
    student, teacher = (torch.log_softmax(categorical(7, seed), 0) for seed in (3, 4))
    p, t = student.exp().tolist(), teacher.exp().tolist()
    expected = sum(p[i] * math.log(p[i] / t[i]) for i in range(known))
    if known < 7:
        expected += sum(p[known:]) * math.log(sum(p[known:]) / sum(t[known:]))
    got = support_reverse_kl(student[:known], teacher[:known])
    assert got.item() == pytest.approx(expected, abs=1e-12)
    assert got.item() <= (student.exp() * (student - teacher)).sum().item() + 1e-12


def test_an_entry_that_does_not_count_changes_neither_value_nor_gradient():
    student, teacher = (torch.log_softmax(categorical(7, seed), 0)[:3] for seed in (3, 4))
    short = student.clone().requires_grad_()
    support_reverse_kl(short, teacher).backward()
    long = torch.cat([student, student[:1]]).requires_grad_()
    valid = torch.tensor([True, True, True, False])
    value = support_reverse_kl(long, torch.cat([teacher, teacher[:1]]), valid)
    value.backward()
    assert value.item() == pytest.approx(support_reverse_kl(student, teacher).item(), abs=1e-15)
    torch.testing.assert_close(long.grad, torch.cat([short.grad, torch.zeros(1)]).double(), rtol=0, atol=1e-15)


def test_a_domain_that_varies_more_weighs_less_within_bounds():
    scale = RunningScale(3)
    assert scale.factors().tolist() == [1, 1, 1]
    generator = torch.Generator().manual_seed(0)
    gaps = [deviation * torch.randn(4000, generator=generator, dtype=torch.float64) for deviation in (1.0, 2.0)]
    moments = [[len(gap), gap.sum().item(), (gap**2).sum().item()] for gap in gaps]
    scale.update(torch.tensor([*moments, [0.0, 0.0, 0.0]]))
    everywhere = torch.cat(gaps).std(unbiased=False).item()
    expected = [everywhere / gap.std(unbiased=False).item() for gap in gaps]
    assert scale.factors().tolist() == pytest.approx([*expected, 1.0])
    scale.update(torch.tensor([[1000.0, 0.0, 1e-9], [0, 0, 0], [0, 0, 0]]))
    scale.moments[0] = torch.tensor([1000.0, 0.0, 1e-9])
    assert scale.factors()[0].item() == RunningScale.MOST
