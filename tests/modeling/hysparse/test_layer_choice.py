"""Which layers stay full: the agreement of layers against loops over attention weights, the choice against all choices."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import Qwen3Config, Qwen3ForCausalLM

from mimo_hf.modeling.hysparse import choose_full_layers, convert_dense, layer_agreement
from mimo_hf.modeling.hysparse.layer_choice import best_full_layers


def make_dense(**changes):
    fields = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "initializer_range": 0.5,
    }
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**(fields | changes))).eval()


def agreement_by_loops(attentions, groups, block, topk):
    """From attention weights `[rows, heads, queries, keys]` a layer."""
    num_layers, (rows, heads, length, _) = len(attentions), attentions[0].shape
    total, count = np.zeros((num_layers, num_layers)), 0
    for row in range(rows):
        for query in range(topk * block, length):
            count += 1
            for group in range(groups):
                members = range(group * heads // groups, (group + 1) * heads // groups)
                by_block = [
                    [
                        [weights[row, h, query, start : start + block] for start in range(0, query + 1, block)]
                        for h in members
                    ]
                    for weights in attentions
                ]
                for i in range(num_layers):
                    scores = np.max([[part.max() for part in head] for head in by_block[i]], axis=0)
                    chosen = np.argsort(-scores, kind="stable")[:topk]
                    for j in range(i, num_layers):
                        shares = [sum(head[b].sum() for b in chosen) for head in by_block[j]]
                        total[i, j] += np.mean(shares) / groups
    return total / count


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_agreement_is_the_attention_in_the_blocks_that_another_layer_selects(kv_heads, tokens, monkeypatch):
    monkeypatch.setattr("mimo_hf.modeling.hysparse.layer_choice.QUERIES", 7)
    dense = make_dense(num_key_value_heads=kv_heads)
    batches = [tokens(2, 31), tokens(1, 18, seed=5)]
    measured = layer_agreement(dense, batches, sparse_block_size=4, sparse_topk_tokens=8)
    dense.set_attn_implementation("eager")
    expected, queries = np.zeros((4, 4)), 0
    for ids in batches:
        with torch.no_grad():
            attentions = dense(ids, output_attentions=True).attentions
        contested = ids.shape[0] * (ids.shape[1] - 8)
        expected += contested * agreement_by_loops([w.double().numpy() for w in attentions], kv_heads, 4, 2)
        queries += contested
    assert_close(measured, torch.from_numpy(expected / queries), atol=1e-5, rtol=0)


def total_agreement(agreement, full):
    return sum(agreement[max(i for i in full if i < j), j] for j in range(len(agreement)) if j not in full)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("last_is_full", [False, True])
def test_the_choice_is_the_best_of_all(num_layers, last_is_full):
    for seed in range(3):
        agreement = torch.rand(num_layers, num_layers, generator=torch.Generator().manual_seed(seed)).double()
        for num_full in range(1 if not last_is_full else min(2, num_layers), num_layers + 1):
            choices = [full for full in combinations(range(num_layers), num_full) if full[0] == 0]
            if last_is_full:
                choices = [full for full in choices if full[-1] == num_layers - 1]
            best = max(choices, key=lambda full: total_agreement(agreement, full))
            assert best_full_layers(agreement, num_full, last_is_full=last_is_full) == list(best)


def test_the_choice_can_be_converted_and_leaves_the_model_as_it_was(tokens):
    dense = make_dense()
    logits = dense(tokens(1, 30)).logits
    full = choose_full_layers(dense, [tokens(1, 30)], 3, sparse_block_size=4, sparse_topk_tokens=8)
    assert len(full) == 3
    assert full[0] == 0
    assert full[-1] == 3
    assert dense.config._attn_implementation == "sdpa"
    assert torch.equal(dense(tokens(1, 30)).logits, logits)
    types = convert_dense(dense, full_layers=full).config.layer_types
    assert [layer for layer, kind in enumerate(types) if kind == "full_attention"] == full


def test_the_model_attends_as_before_after_an_error(tokens):
    dense = make_dense()
    with pytest.raises(IndexError):
        layer_agreement(dense, [tokens(1, 30) + 50], sparse_block_size=4, sparse_topk_tokens=8)
    assert dense.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sparse_topk_tokens": 10}, "sparse_topk_tokens=10.*sparse_block_size=4"),
        ({"sparse_topk_tokens": 32}, "`batches` must have a row longer than `sparse_topk_tokens=32`.*; got none"),
        ({"num_full": 1}, "num_full.*between 2 and 4.*got 1"),
        ({"num_full": 5}, "num_full.*got 5"),
    ],
)
def test_impossible_choices_are_refused(changes, named, tokens):
    arguments = {"num_full": 2, "sparse_block_size": 4, "sparse_topk_tokens": 8} | changes
    with pytest.raises(ValueError, match=named):
        choose_full_layers(make_dense(), [tokens(1, 30)], **arguments)
