"""`generate(use_mtp=True)` of a batch gives every row what it gets alone, whatever the other rows accept."""

import random

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, StaticCache, StoppingCriteria
from transformers.generation import RepetitionPenaltyLogitsProcessor, StoppingCriteriaList

from mimo_hf import record_routing
from mimo_hf.modeling.mtp.mtp_batch import _BatchDecoder, accept_samples

GREEDY = {"do_sample": False}
PAD = 0


@pytest.fixture(scope="module")
def followers(follower_model):
    """Five symbols; windows shorter and longer than most texts."""
    return {
        (k, window): follower_model(vocab_size=5, noise=1.5, num_mtp_layers=k, sliding_window=window)
        for k in (1, 2, 3)
        for window in (2, 5, 64)
    }


@pytest.fixture(scope="module")
def follower(follower_model):
    return follower_model()


def left_padded(rows):
    """Prompts of different lengths as one batch, and its mask."""
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def alone(model, row, **arguments):
    """The new tokens of one prompt by plain greedy decoding."""
    ids = torch.tensor([row])  # without a mask, tokens equal to the padding token would be taken for padding
    return model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY, **arguments)[0, len(row) :].tolist()


def filled(rows, pad):
    length = max(map(len, rows))
    return [row + [pad] * (length - len(row)) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_row_is_plain_greedy_decoding_of_that_row(followers, k):
    """Random prompts, budgets, ends of sequence and batch sizes: 240 rows, all numbers of accepted drafts."""
    draw = random.Random(k)
    rows_seen, ended_inside, accepted = 0, 0, set()
    while rows_seen < 80:
        model = followers[k, draw.choice([2, 5, 64])]
        rows = [[draw.randrange(5) for _ in range(draw.choice([1, 2, 3, 7, 20]))] for _ in range(draw.randint(2, 6))]
        ids, mask = left_padded(rows)
        budget, eos = draw.choice([1, 2, 3, 5, 17, 40]), draw.choice([None, 3, [1, 4]])
        arguments = {"max_new_tokens": budget, "eos_token_id": eos, "pad_token_id": PAD}
        output = model.generate(ids, attention_mask=mask, use_mtp=True, **GREEDY, **arguments)
        expected = [alone(model, row, **arguments) for row in rows]
        assert output[:, ids.shape[1] :].tolist() == filled(expected, PAD)
        assert torch.equal(output[:, : ids.shape[1]], ids)
        assert torch.equal(output, model.generate(ids, attention_mask=mask, **GREEDY, **arguments))
        statistics = model.mtp_statistics
        # The first token of a row comes without drafts, and so may its last within the budget.
        without_drafts = sum(map(len, expected)) - sum(statistics.accepted) - statistics.rounds
        assert len(rows) <= without_drafts <= 2 * len(rows)
        ended_inside += sum(a < d for a, d in zip(statistics.accepted, statistics.drafted, strict=True))
        accepted.update(statistics.accepted)
        rows_seen += len(rows)
    assert accepted == set(range(k + 1))
    assert ended_inside > 10


def test_windows_and_paddings_of_every_length(followers):
    for length in range(1, 14):
        for model in (followers[3, 2], followers[3, 5]):
            rows = [[1] * length, [(3 * i + length) % 5 for i in range(13)], [2, 4]]
            ids, mask = left_padded(rows)
            output = model.generate(ids, attention_mask=mask, use_mtp=True, max_new_tokens=12, **GREEDY)
            assert output[:, ids.shape[1] :].tolist() == [alone(model, row, max_new_tokens=12) for row in rows]


def test_eager_attention(follower_model):
    model = follower_model(attention="eager", vocab_size=5, noise=1.5)
    rows = [[1, 2, 3], [4] * 9, [0]]
    ids, mask = left_padded(rows)
    output = model.generate(ids, attention_mask=mask, use_mtp=True, max_new_tokens=20, **GREEDY)
    assert output[:, 9:].tolist() == [alone(model, row, max_new_tokens=20) for row in rows]


def test_a_batch_without_padding_needs_no_mask(follower, tokens):
    ids = tokens(4, 6)
    expected = follower.generate(ids, max_new_tokens=20, **GREEDY)
    assert torch.equal(follower.generate(ids, use_mtp=True, max_new_tokens=20, **GREEDY), expected)


def test_heads_that_are_right_save_the_passes_that_they_should(follower_model, tokens):
    """25 tokens a row: one pass for the prompts and their first tokens, then K + 1 tokens of every row a pass."""
    for k in (1, 2, 3):
        model = follower_model(noise=0.0, num_mtp_layers=k)
        model.generate(tokens(4, 6), use_mtp=True, max_new_tokens=25, **GREEDY)
        assert model.mtp_statistics.forward_passes == 1 + 24 // (k + 1)
        assert model.mtp_statistics.rounds == 4 * (24 // (k + 1))
        assert model.mtp_statistics.acceptance_length == k + 1


def test_rows_that_are_done_leave_the_batch(follower_model):
    """The trunk runs over fewer rows, not over padding, once some have ended."""
    model = follower_model(noise=0.0)  # counts up by two
    sizes = []
    model.model.register_forward_pre_hook(lambda m, a, kw: sizes.append(len(kw["input_ids"])), with_kwargs=True)
    ids = torch.tensor([[5], [15], [4]])
    output = model.generate(ids, use_mtp=True, max_new_tokens=24, eos_token_id=[21, 28], pad_token_id=PAD, **GREEDY)
    assert output.tolist() == filled([[*range(5, 22, 2)], [15, 17, 19, 21], [*range(4, 29, 2)]], PAD)
    assert sizes == [3, 3, 2, 1]


class NoRepeatOfSecondLast(LogitsProcessor):
    """Depends on the exact text so far: shifted by one token it forbids another symbol."""

    def __call__(self, input_ids, scores):
        return scores.scatter(1, input_ids[:, -2:-1], float("-inf"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 12, "eos_token_id": list(range(14))},
        {"bad_words_ids": [[4], [6, 8], [1, 3, 5]]},
        {"suppress_tokens": list(range(0, 29, 3))},
        {"logits_processor": LogitsProcessorList([NoRepeatOfSecondLast()])},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_logits_processors_see_the_text_of_the_row(follower, arguments):
    arguments = {"max_new_tokens": 24, "pad_token_id": PAD} | arguments
    ids, mask = left_padded([[1, 2, 3, 4, 5, 6, 7], [8, 9], [11] * 5])
    expected = follower.generate(ids, attention_mask=mask, **GREEDY, **arguments)
    output = follower.generate(ids, attention_mask=mask, use_mtp=True, **GREEDY, **arguments)
    assert torch.equal(output, expected)
    assert max(follower.mtp_statistics.accepted) > 0


class StopBehind(StoppingCriteria):
    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids[:, -1] == self.token


def test_stopping_criteria_see_every_prefix_of_every_row(follower, tokens):
    ids = tokens(3, 6)
    arguments = GREEDY | {"max_new_tokens": 20, "pad_token_id": PAD, "attention_mask": torch.ones_like(ids)}
    plain = follower.generate(ids, **arguments)[:, 6:].tolist()
    cut = 0
    for token in {token for row in plain for token in row}:
        criteria = StoppingCriteriaList([StopBehind(token)])
        output = follower.generate(ids, use_mtp=True, stopping_criteria=criteria, **arguments)
        expected = [row[: row.index(token) + 1] if token in row else row for row in plain]
        assert output[:, 6:].tolist() == filled(expected, PAD)
        cut += sum(len(row) < 20 for row in expected)
    assert cut > 3


def test_head_caches_equal_those_of_each_row_alone(follower_model, states_of, head_oracle, monkeypatch):
    """After every draft, each head holds the keys and values that a loop over the row's own text gives."""
    model = follower_model(vocab_size=5, noise=1.5, sliding_window=5)
    checks = []
    settle = _BatchDecoder._settle

    def checked(decoder, num_drafts):
        settle(decoder, num_drafts)
        for i, row in enumerate(decoder.rows):
            start, length = decoder.paddings[row], decoder.lengths[row]
            text = decoder.tokens[row, start : length + num_drafts]
            num_rows = length - start - 1
            states = states_of(model, text[None, :num_rows])[0]
            for k in range(num_drafts):
                oracle = head_oracle(model, k, text[: num_rows + 1 + k], states)
                layer = decoder.head_cache.layers[k]
                held = min(layer.keys.shape[2], num_rows, 4 + k)
                for cached, expected in ((layer.keys, oracle.keys), (layer.values, oracle.values)):
                    expected = torch.tensor(np.array(expected)).transpose(0, 1)[:, num_rows - held :]
                    assert_close(cached[i, :, -held:].double(), expected, rtol=0, atol=1e-5)
                assert text[num_rows + 1 + k] == oracle.logits(num_rows - 1).argmax()
        checks.append(len(decoder.rows))

    monkeypatch.setattr(_BatchDecoder, "_settle", checked)
    ids, mask = left_padded([[1, 2, 3], [4], [0, 3, 1, 2, 4, 4, 2, 0]])
    model.generate(ids, attention_mask=mask, use_mtp=True, max_new_tokens=20, **GREEDY)
    assert checks.count(3) > 4


def test_caches_hold_no_padding_that_all_rows_share(follower_model, monkeypatch):
    """Rows that lag behind keep the cache no longer than the longest text."""
    model = follower_model(vocab_size=5, noise=1.5)
    spare = []
    settle = _BatchDecoder._settle

    def checked(decoder, num_drafts):
        settle(decoder, num_drafts)
        longest = max(decoder.lengths[row] - decoder.paddings[row] for row in decoder.rows)
        full = decoder.cache.layers[0].keys.shape[2]
        spare.append(full - (longest - 1))

    monkeypatch.setattr(_BatchDecoder, "_settle", checked)
    ids, mask = left_padded([[1, 2, 3], [4], [0, 3, 1, 2, 4, 4, 2, 0]])
    model.generate(ids, attention_mask=mask, use_mtp=True, max_new_tokens=60, **GREEDY)
    assert set(spare) == {0}


def test_scores_and_logits_have_one_entry_a_token(follower):
    arguments = GREEDY | {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    arguments |= {"max_new_tokens": 17, "repetition_penalty": 1.3}
    ids, mask = left_padded([[1, 2, 3, 4], [8, 9]])
    plain = follower.generate(ids, attention_mask=mask, **arguments)
    drafted = follower.generate(ids, attention_mask=mask, use_mtp=True, **arguments)
    assert torch.equal(drafted.sequences, plain.sequences)
    for field in ("scores", "logits"):
        assert len(drafted[field]) == 17
        assert_close(torch.stack(drafted[field]), torch.stack(plain[field]), rtol=1e-4, atol=1e-4)


def test_scores_behind_the_end_of_a_row_are_zeros(follower_model):
    model = follower_model(noise=0.0)
    arguments = {"eos_token_id": 9, "pad_token_id": PAD, "return_dict_in_generate": True, "output_scores": True}
    output = model.generate(torch.tensor([[5], [4]]), use_mtp=True, max_new_tokens=6, **GREEDY, **arguments)
    assert output.sequences.tolist() == [[5, 7, 9, 0, 0, 0, 0], [4, 6, 8, 10, 12, 14, 16]]
    scores = torch.stack(output.scores)
    assert not scores[2:, 0].any()
    assert scores[:, 1].any(dim=-1).all()


def test_routing_of_a_batch_is_that_of_each_text(follower_model):
    model = follower_model()
    rows = [[1, 2, 3], [8, 9, 10], [4, 7, 11]]
    with record_routing(model) as routing:
        output = model.generate(
            torch.tensor(rows), use_mtp=True, max_new_tokens=14, eos_token_id=[12, 15], pad_token_id=PAD, **GREEDY
        )
    expected = []
    for row in output.tolist():
        end = next((i for i, token in enumerate(row) if i > 2 and token in (12, 15)), len(row) - 1)
        with record_routing(model) as of_row, torch.no_grad():
            model(torch.tensor([row[:end]]))
        expected.append(of_row.indices)
    assert len({len(indices) for indices in expected}) > 1
    assert torch.equal(routing.indices.sort().values, torch.cat(expected).sort().values)


def test_several_samples_of_one_prompt(follower, tokens):
    torch.manual_seed(0)
    output = follower.generate(
        tokens(1, 6), use_mtp=True, do_sample=True, num_return_sequences=4, max_new_tokens=20, temperature=1.5
    )
    assert output.shape == (4, 26)
    assert len({tuple(row) for row in output.tolist()}) > 1


@pytest.mark.parametrize("num_drafts", [1, 3])
def test_accepted_samples_have_the_trunks_distribution(num_drafts):
    """The first emitted token follows p, whatever q proposed; chi-square over five symbols."""
    generator = torch.Generator().manual_seed(5)
    p, q = (torch.randn(1, n, 5, generator=generator) * 1.5 for n in (num_drafts + 1, num_drafts))
    p[0, 0, 2] = q[0, 0, 4] = float("-inf")
    draws = 20_000
    torch.manual_seed(1)
    drafts = torch.stack(
        [torch.multinomial(q[0, j].softmax(-1), draws, replacement=True) for j in range(num_drafts)], dim=1
    )
    matches, own = accept_samples(drafts, q.expand(draws, -1, -1), p.expand(draws, -1, -1))
    emitted = torch.cat([drafts, own[:, None]], dim=1).scatter(1, matches[:, None], own[:, None])
    for position in range(num_drafts + 1):
        reached = emitted[matches >= position, position]
        counts = torch.bincount(reached, minlength=5).double()
        expected = p[0, position].double().softmax(-1) * len(reached)
        assert counts[expected == 0].sum() == 0
        statistic = ((counts - expected) ** 2 / expected)[expected > 0].sum()
        assert statistic < 27  # far beyond the 99.99 % point for four degrees of freedom, 23.5
    assert set(matches.tolist()) == set(range(num_drafts + 1))


def test_equal_distributions_accept_everything():
    logits = torch.randn(50, 3, 7)
    drafts = logits[:, :2].argmax(dim=-1)
    matches, own = accept_samples(drafts, logits[:, :2], logits)
    assert (matches == 2).all()
    assert own.shape == (50,)


@pytest.mark.slow
def test_samples_of_a_batch_have_the_distribution_of_plain_samples(follower_model):
    """Two-sample chi-square of the second and third new token, of rows that are padded differently."""
    model = follower_model(vocab_size=5, noise=1.5, mlp_layer_types=["dense", "dense"])
    copies = 400
    rows = [[1, 2, 3, 4]] * copies + [[2]] * copies
    ids, mask = left_padded(rows)
    settings = {"do_sample": True, "temperature": 1.2, "top_p": 0.95, "top_k": 0, "max_new_tokens": 3}
    counts = {}
    for use_mtp in (None, True):
        torch.manual_seed(7)
        seen = [model.generate(ids, attention_mask=mask, use_mtp=use_mtp, **settings)[:, -2:] for _ in range(3)]
        pairs = torch.stack(seen).view(3, 2, copies, 2).transpose(0, 1).reshape(2, -1, 2)
        counts[use_mtp] = [torch.bincount(part[:, 0] * 5 + part[:, 1], minlength=25).double() for part in pairs]
    assert set(model.mtp_statistics.accepted) == {0, 1}
    for plain, drafted in zip(counts[None], counts[True], strict=True):
        both = plain + drafted
        used = both > 10
        assert used.sum() > 8
        statistic = ((plain - drafted) ** 2 / both)[used].sum()
        freedom = torch.tensor(int(used.sum()) - 1)
        assert torch.special.gammaincc(freedom / 2.0, statistic.float() / 2.0) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}, "padding on the left"),
        ({"attention_mask": torch.tensor([[0, 0, 0], [1, 1, 1]])}, "at least one 1 in each row"),
        ({"use_cache": False}, "use_cache"),
        ({"cache_implementation": "static"}, "StaticCache"),
        ({"cache_implementation": "offloaded"}, "with offloading"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions"),
        ({"prefix_allowed_tokens_fn": lambda row, ids: [1, 2]}, "prefix_allowed_tokens_fn"),
        ({"num_beams": 2}, "num_beams"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_does_not_go_together_is_refused(follower, tokens, arguments, named):
    with pytest.raises(ValueError, match=named):
        follower.generate(tokens(2, 3), use_mtp=True, max_new_tokens=4, **(GREEDY | arguments))


def test_a_penalty_told_the_padding_of_the_rows(follower, tokens):
    """transformers makes it so from 5.23 on; each row of the batch is to be told its own number."""
    ids, mask = tokens(2, 3), torch.tensor([[0, 1, 1], [1, 1, 1]])
    penalty = RepetitionPenaltyLogitsProcessor(1.3)
    penalty.prompt_ignore_length = torch.tensor([1, 0])
    arguments = {"use_mtp": True, "max_new_tokens": 12, "logits_processor": [penalty], **GREEDY}
    found = follower.generate(ids, attention_mask=mask, **arguments)
    plain = {"repetition_penalty": 1.3, "max_new_tokens": 12, **GREEDY}
    assert torch.equal(found[:1, 1:], follower.generate(ids[:1, 1:], **plain))
    assert torch.equal(found[1:], follower.generate(ids[1:], **plain))


def test_streamers_need_a_batch_of_one(follower, tokens, chunks):
    with pytest.raises(ValueError, match=r"`streamer`.*batch of 1"):
        follower.generate(tokens(2, 3), use_mtp=True, streamer=chunks(), max_new_tokens=4, **GREEDY)


def test_filled_caches_are_refused(follower, tokens):
    cache = DynamicCache(config=follower.config)
    with torch.no_grad():
        follower(tokens(2, 3), past_key_values=cache)
    with pytest.raises(ValueError, match=r"must be empty .*; got 3 tokens"):
        follower.generate(tokens(2, 6), use_mtp=True, past_key_values=cache, max_new_tokens=4, **GREEDY)


def test_static_caches_given_by_hand_are_refused(follower, tokens):
    cache = StaticCache(config=follower.config, max_cache_len=20)
    with pytest.raises(ValueError, match="StaticCache"):
        follower.generate(tokens(2, 3), use_mtp=True, past_key_values=cache, max_new_tokens=4, **GREEDY)
