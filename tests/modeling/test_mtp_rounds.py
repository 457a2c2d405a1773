"""What happens in the rounds of `generate(use_mtp=True)`: drafts, caches, statistics, and the distribution of samples."""

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mimo_hf.modeling.mtp.mtp import MTPCandidateGenerator


def watched(model, check):
    """The model, whose candidate generator calls `check(generator, text, text_with_drafts, logits)` in each round."""

    class Watched(MTPCandidateGenerator):
        def get_candidates(self, input_ids, *args, **kwargs):
            candidates, logits = super().get_candidates(input_ids, *args, **kwargs)
            if candidates.shape[1] > input_ids.shape[1]:
                check(self, input_ids[0], candidates[0], logits)
            return candidates, logits

    model.mtp_candidate_generator_class = Watched
    return model


@pytest.mark.parametrize("window", [3, 5, 64])
def test_caches_equal_a_fresh_computation_in_every_round(follower_model, tokens, states_of, head_oracle, window):
    rounds = []

    def check(generator, text, candidates, logits):
        num_rows = len(text) - 1
        states = states_of(model, text[None, :-1])[0]
        for k in range(len(candidates) - len(text)):
            oracle = head_oracle(model, k, candidates[: num_rows + 1 + k], states)
            keys, values = generator.cache.layers[k].keys[0], generator.cache.layers[k].values[0]
            cached = keys.shape[1]
            # Everything that the newest row sees is there, and ends with the newest row.
            assert cached >= min(window, num_rows)
            assert generator.row_ends[k] == num_rows
            expected_keys = torch.tensor(np.array(oracle.keys)).transpose(0, 1)
            expected_values = torch.tensor(np.array(oracle.values)).transpose(0, 1)
            assert_close(keys.double(), expected_keys[:, num_rows - cached :], rtol=0, atol=1e-5)
            assert_close(values.double(), expected_values[:, num_rows - cached :], rtol=0, atol=1e-5)
            # The draft is what the head says about the text and the drafts before it.
            assert candidates[len(text) + k] == oracle.logits(num_rows - 1).argmax()
        rounds.append(len(candidates) - len(text))

    model = watched(follower_model(vocab_size=5, noise=1.5, sliding_window=window), check)
    accepted = []
    for seed, prompt in enumerate([1, 4, 13]):
        model.generate(tokens(1, prompt, seed=seed, vocab=5), use_mtp=True, max_new_tokens=20, do_sample=False)
        accepted += model.mtp_statistics.accepted
    assert len(rounds) == len(accepted)
    assert {0, 3} < set(accepted)


@pytest.mark.parametrize("padding", [2, 11])
def test_caches_hold_no_padding(follower_model, tokens, states_of, head_oracle, padding):
    def check(generator, text, candidates, logits):
        num_rows = len(text) - 1 - padding
        states = states_of(model, text[None, padding:-1])[0]
        for k in range(len(candidates) - len(text)):
            oracle = head_oracle(model, k, candidates[padding : len(text) + k], states)
            values = generator.cache.layers[k].values[0]
            assert values.shape[1] <= num_rows
            expected = torch.tensor(np.array(oracle.values)).transpose(0, 1)[:, num_rows - values.shape[1] :]
            assert_close(values.double(), expected, rtol=0, atol=1e-5)
            assert candidates[len(text) + k] == oracle.logits(num_rows - 1).argmax()

    model = watched(follower_model(), check)
    ids = torch.cat([torch.zeros(1, padding, dtype=torch.long), tokens(1, 4)], dim=1)
    mask = (torch.arange(padding + 4) >= padding).long().unsqueeze(0)
    model.generate(ids, attention_mask=mask, use_mtp=True, max_new_tokens=16, do_sample=False)
    assert model.mtp_statistics.rounds > 3


def test_heads_keep_no_more_than_the_window_asks_for(follower_model, tokens):
    """After a prompt of 100 tokens a head with a window of 5 holds a window and the rows of a round."""
    sizes = []

    def check(generator, text, candidates, logits):
        sizes.extend(layer.keys.shape[2] for layer in generator.cache.layers if layer.is_initialized)

    model = watched(follower_model(), check)
    model.generate(tokens(1, 100), use_mtp=True, max_new_tokens=16, do_sample=False)
    assert max(sizes) <= 5 + 2 * 3


def test_drafts_for_sampling_come_with_their_distribution(follower_model, tokens, states_of, head_oracle):
    """The logits beside the drafts are the heads' own after temperature and top-k, or sampling would be skewed."""
    seen = []

    def check(generator, text, candidates, logits):
        states = states_of(model, text[None, :-1])[0]
        assert logits.shape == (1, len(candidates) - len(text), 29)
        for k in range(logits.shape[1]):
            expected = head_oracle(model, k, candidates[: len(text) + k], states).logits(len(text) - 2) / 0.7
            expected[np.argsort(expected)[:-4]] = -math.inf
            assert_close(logits[0, k].double(), torch.tensor(expected), rtol=0, atol=1e-4)
            assert logits[0, k, candidates[len(text) + k]] > -math.inf
        seen.append(logits.shape[1])

    torch.manual_seed(0)
    model = watched(follower_model(noise=1.5), check)
    model.generate(tokens(1, 6), use_mtp=True, max_new_tokens=24, do_sample=True, temperature=0.7, top_k=4, top_p=1.0)
    assert len(seen) > 4


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("sample", [False, True])
def test_statistics_add_up(follower_model, tokens, chunks, budget, sample):
    torch.manual_seed(1)
    model = follower_model()
    streamer = chunks()
    model.generate(tokens(1, 6), use_mtp=True, streamer=streamer, max_new_tokens=budget, do_sample=sample)
    statistics = model.mtp_statistics
    rounds = [len(chunk) for chunk in streamer.chunks[2 : 2 + statistics.rounds]]
    assert statistics.num_heads == 3
    assert statistics.rounds == len(statistics.drafted) == len(statistics.accepted)
    assert statistics.forward_passes == len(streamer.chunks) - 1  # the prompt's chunk is no pass
    assert statistics.forward_passes + sum(statistics.accepted) == budget
    assert [matches + 1 for matches in statistics.accepted] == rounds
    assert all(matches <= drafts <= 3 for matches, drafts in zip(statistics.accepted, statistics.drafted, strict=True))
    assert statistics.draft_time_s > 0 or not rounds
    assert statistics.verify_time_s > 0
    if rounds:
        assert statistics.acceptance_length == pytest.approx(sum(rounds) / len(rounds))
        for position, rate in enumerate(statistics.acceptance_by_position, start=1):
            tried = [m for m, d in zip(statistics.accepted, statistics.drafted, strict=True) if d >= position]
            expected = sum(m >= position for m in tried) / len(tried) if tried else math.nan
            assert rate == pytest.approx(expected, nan_ok=True)
    else:
        assert math.isnan(statistics.acceptance_length)
    assert statistics.to_dict()["acceptance_length"] == pytest.approx(statistics.acceptance_length, nan_ok=True)


def distribution(logits, temperature, top_p):
    """Softmax at a temperature, cut to the fewest symbols that hold `top_p` of it."""
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    order = np.argsort(-p)
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= top_p]] = 0
    return p / p.sum()


@pytest.mark.slow
@pytest.mark.parametrize(("k", "draws"), [(1, 700), (3, 1300)])
def test_samples_have_the_trunks_distribution(follower_model, upstream_of, tokens, k, draws):
    """Chi-square over the three tokens that follow the first new one; that one is drawn without drafts."""
    vocab, temperature, top_p = 5, 1.3, 0.9
    model = follower_model(vocab_size=vocab, noise=1.5, num_mtp_layers=k, mlp_layer_types=["dense", "dense"])
    prompt = tokens(1, 4, vocab=vocab)
    settings = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0, "max_new_tokens": 4}

    texts = list(product(range(vocab), repeat=3))
    with torch.no_grad():
        logits = upstream_of(model)(torch.cat([prompt.expand(len(texts), -1), torch.tensor(texts)], dim=1)).logits
    probability = Counter()
    for text, row in zip(texts, logits[:, 3:].double().numpy(), strict=True):
        steps = [distribution(step, temperature, top_p) for step in row]
        first_three = math.prod(step[token] for step, token in zip(steps, text, strict=False))
        for last in range(vocab):
            probability[(*text[1:], last)] += first_three * steps[3][last]
    assert sum(probability.values()) == pytest.approx(1)
    assert 0 in probability.values()  # top-p forbids some continuations

    torch.manual_seed(3)
    counts, accepted = Counter(), Counter()
    for _ in range(draws):
        output = model.generate(prompt, use_mtp=True, **settings)
        counts[tuple(output[0, 5:].tolist())] += 1
        accepted.update(model.mtp_statistics.accepted)
    assert set(accepted) == set(range(min(k, 2) + 1))
    assert not [text for text in counts if probability[text] == 0]

    # Cells with few expected draws are pooled.
    frequent = [text for text, p in probability.items() if p * draws >= 5]
    rest = 1 - sum(probability[text] for text in frequent)
    cells = [(counts[text], probability[text] * draws) for text in frequent]
    if rest * draws >= 1:
        cells.append((draws - sum(counts[text] for text in frequent), rest * draws))
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    freedom = len(cells) - 1
    assert freedom > 10
    p_value = torch.special.gammaincc(torch.tensor(freedom / 2.0), torch.tensor(statistic / 2.0)).item()
    assert p_value > 1e-3
