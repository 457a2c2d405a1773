"""MiMo-7B's MTP layers draft for one sequence and for batches, and change no token."""

import random

import pytest
import torch

GREEDY = {"do_sample": False}


@pytest.fixture(scope="module")
def followers(mimo_follower):
    return {k: mimo_follower(vocab_size=5, noise=1.5, num_nextn_predict_layers=k) for k in (1, 3)}


@pytest.mark.parametrize("k", [1, 3])
def test_prompts_and_budgets_of_many_lengths(followers, tokens, k):
    model, accepted = followers[k], set()
    for seed, length in enumerate([*range(1, 12), 17, 31, 64, 99, 100, 128, 150, 177, 200]):
        ids = tokens(1, length, seed=seed, vocab=5)
        for budget in [*range(1, k + 3), 25] if length < 12 else [25]:
            expected = model.generate(ids, max_new_tokens=budget, **GREEDY)
            assert torch.equal(model.generate(ids, use_mtp=True, max_new_tokens=budget, **GREEDY), expected)
            accepted.update(model.mtp_statistics.accepted)
    assert accepted == set(range(k + 1))


@pytest.mark.parametrize("arguments", [{"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 3}], ids=str)
def test_logits_processors(mimo_follower, tokens, arguments):
    model = mimo_follower()
    for seed in range(4):
        ids = tokens(1, 8, seed=seed)
        expected = model.generate(ids, max_new_tokens=30, **GREEDY, **arguments)
        assert torch.equal(model.generate(ids, use_mtp=True, max_new_tokens=30, **GREEDY, **arguments), expected)


def test_stops_at_the_end_of_sequence_inside_a_draft(mimo_follower, tokens):
    model = mimo_follower()
    plain = model.generate(tokens(1, 7), max_new_tokens=24, **GREEDY)[0, 7:].tolist()
    for token in dict.fromkeys(plain):
        output = model.generate(tokens(1, 7), use_mtp=True, max_new_tokens=24, eos_token_id=token, **GREEDY)
        assert output[0, 7:].tolist() == plain[: plain.index(token) + 1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("zero_first", [True, False])
def test_drafts_of_a_batch_are_those_of_each_row_alone(mimo_follower, attention, zero_first):
    """Statistics, not only tokens: padding and rollback change no draft."""
    model = mimo_follower(attention=attention, vocab_size=5, noise=1.5, mtp_zero_first_embedding=zero_first)
    rows = [[1, 2, 3], [4], [0, 3, 1, 2, 4, 4, 2, 0]]
    ids = torch.tensor([[0] * (8 - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (8 - len(row)) + [1] * len(row) for row in rows])
    output = model.generate(ids, attention_mask=mask, use_mtp=True, max_new_tokens=30, **GREEDY)
    in_batch = model.mtp_statistics
    accepted = []
    for row, in_row in zip(rows, output, strict=True):
        alone = model.generate(torch.tensor([row]), use_mtp=True, max_new_tokens=30, **GREEDY)
        assert torch.equal(alone[0, len(row) :], in_row[8:])
        accepted += model.mtp_statistics.accepted
    # Near the budget a row alone drafts less than one beside rows that have more to go, so the last rounds may differ.
    assert abs(sum(in_batch.accepted) - sum(accepted)) <= 3 * len(rows)
    assert abs(in_batch.rounds - len(accepted)) <= len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3])
def test_every_row_of_a_batch_is_plain_greedy_decoding(followers, k):
    draw = random.Random(k)
    model, rows_seen = followers[k], 0
    while rows_seen < 120:
        rows = [[draw.randrange(5) for _ in range(draw.choice([1, 2, 5, 18]))] for _ in range(draw.randint(2, 6))]
        length = max(map(len, rows))
        ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        arguments = GREEDY | {"max_new_tokens": draw.choice([1, 3, 16, 40]), "pad_token_id": 0}
        arguments |= {"eos_token_id": draw.choice([None, 3, [1, 4]])}
        output = model.generate(ids, attention_mask=mask, use_mtp=True, **arguments)
        assert torch.equal(output, model.generate(ids, attention_mask=mask, **arguments))
        for row, in_row in zip(rows, output[:, length:].tolist(), strict=True):
            prompt = torch.tensor([row])
            alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), **arguments)[0, len(row) :].tolist()
            assert in_row == alone + [0] * (len(in_row) - len(alone))
        rows_seen += len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3])
def test_samples_have_the_distribution_of_plain_samples(mimo_follower, k):
    """Two-sample chi-square of the third new token over ten symbols."""
    model = mimo_follower(vocab_size=10, noise=1.0, num_nextn_predict_layers=k)
    prompt = torch.tensor([[1, 2, 3, 4]])
    settings = {"do_sample": True, "temperature": 1.3, "top_k": 0, "max_new_tokens": 4, "num_return_sequences": 500}
    counts = []
    for use_mtp in (None, True):
        torch.manual_seed(3)
        drawn = torch.cat([model.generate(prompt, use_mtp=use_mtp, **settings)[:, 6] for _ in range(4)])
        counts.append(torch.bincount(drawn, minlength=10).double())
    both = counts[0] + counts[1]
    used = both > 10
    statistic = ((counts[0] - counts[1]) ** 2 / both)[used].sum()
    freedom = torch.tensor((int(used.sum()) - 1) / 2.0)
    assert used.sum() >= 5
    assert torch.special.gammaincc(freedom, statistic.float() / 2.0) > 1e-3


@pytest.mark.parametrize("arguments", [{"use_cache": False}, {"cache_implementation": "static"}], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_caches_that_can_not_be_rolled_back_are_refused(mimo_follower, tokens, arguments, batch):
    with pytest.raises(ValueError, match=r"use_cache|[Ss]tatic"):
        mimo_follower().generate(tokens(batch, 6), use_mtp=True, max_new_tokens=4, **GREEDY, **arguments)
