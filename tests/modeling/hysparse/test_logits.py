"""HySparse's logits, selections and gradients, against loops over tokens and against dense attention."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mimo_hf import HySparseCache
from mimo_hf.modeling.hysparse import attend, attention_parts, block_major
from mimo_hf.modeling.hysparse.attend import attend_all, attend_blocks, attend_window
from mimo_hf.modeling.hysparse.block_selection import Selection
from mimo_hf.modeling.hysparse.row_layout import Rows

TWO_ROPES = {
    "full_attention": {"rope_type": "default", "rope_theta": 1e4},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0},
}
VARIANTS = {
    "default": {},
    "one head a group": {"num_key_value_heads": 4},
    "one group": {"num_key_value_heads": 1},
    "sixteen heads a group": {"num_attention_heads": 16, "num_key_value_heads": 1, "v_head_dim": 2},
    "more heads in the window": {"swa_num_key_value_heads": 4},
    "gates by channel": {"gate_type": "elementwise", "gate_bias": True},
    "norms and biases": {"qk_norm": True, "attention_bias": True},
    "two rotations": {"rope_parameters": TWO_ROPES},
    "no sinks": {"use_sparse_sink": False, "use_swa_sink": False},
    "tied embeddings": {"tie_word_embeddings": True},
    "window on shared keys": {"swa_shares_kv": True, "rope_parameters": TWO_ROPES},
    "no window": {"use_swa_branch": False},
    "window only": {"use_sparse_branch": False},
    "sums": {"oracle_reduce": "sum"},
    "logits": {"oracle_reduce": "logit_max"},
    "forced blocks": {"forced_local_blocks": 1, "forced_initial_blocks": 1},
    "tokens": {"selection_granularity": "token", "forced_local_tokens": 4},
    "values wider than keys": {"v_head_dim": 16},
    "all layers full": {"sparse_layers_per_full": 0},
    "layout by hand": {"layer_types": ["full_attention", *["sliding_attention"] * 4]},
}


@pytest.mark.parametrize("implementation", ["hysparse_chunked", "eager", "mimo_sink"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_loops(variant, implementation, small_model, tokens, loops):
    model = small_model(**VARIANTS[variant])
    model.set_attn_implementation(implementation)
    reference = loops(model.config, model.state_dict())
    for length in (1, 4, 5, 13, 33):
        ids = tokens(1, length)
        with torch.no_grad():
            logits = model(ids).logits[0]
        assert_close(logits, torch.from_numpy(reference.logits(ids[0].numpy())), atol=1e-12, rtol=0)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 200])
def test_logits_around_the_borders_of_the_papers_blocks_and_window(length, small_model, tokens, loops):
    model = small_model(
        num_hidden_layers=3, sliding_window=128, sparse_block_size=64, sparse_topk_tokens=128, num_key_value_heads=1
    )
    ids = tokens(1, length)
    with torch.no_grad():
        logits = model(ids).logits[0]
    assert_close(logits, torch.from_numpy(loops(model.config, model.state_dict()).logits(ids[0].numpy())))


def test_a_float32_model_is_as_exact_as_float32(small_model, tokens, loops):
    model = small_model()
    ids = tokens(1, 33)
    expected = loops(model.config, model.state_dict()).logits(ids[0].numpy())
    with torch.no_grad():
        assert_close(model.float()(ids).logits[0].double(), torch.from_numpy(expected), atol=1e-4, rtol=0)


def test_small_chunks_of_queries_change_nothing(monkeypatch, small_model, tokens):
    model, ids = small_model(), tokens(2, 90)
    mask = torch.ones_like(ids)
    mask[1, :11] = 0
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).logits
        monkeypatch.setattr(attention_parts, "CHUNK_LOGITS", 1)
        assert_close(model(ids, attention_mask=mask).logits[0], expected[0], atol=1e-12, rtol=0)
        assert_close(model(ids, attention_mask=mask).logits[1, 11:], expected[1, 11:], atol=1e-12, rtol=0)


# The oracle


def random_states(queries=40, heads=4, kv_heads=2, width=8, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, heads, queries, width), (1, kv_heads, queries, width), (1, kv_heads, queries, width)]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize("materialise", [False, True])
def test_selected_blocks_are_the_top_of_a_materialised_softmax(materialise):
    query, key, value = random_states()
    _, blocks, _ = attend_all(query, key, value, scaling=0.5, selection=Selection(4, 3), materialise=materialise)
    logits = torch.einsum("bkgqd,bksd->bkgqs", query.unflatten(1, (2, 2)), key) * 0.5
    future = torch.ones(40, 40, dtype=torch.bool).triu(1)
    probabilities = logits.masked_fill(future, -torch.inf).softmax(-1)
    scores = probabilities.unflatten(-1, (-1, 4)).amax(-1).amax(2)
    for group in range(2):
        for t in range(40):
            seen = t // 4 + 1
            expected = scores[0, group, t, :seen].argsort(descending=True)[:3].tolist()
            assert blocks[0, group, t].tolist() == expected + [-1] * (3 - len(expected))
    assert blocks.dtype == torch.int32


def test_the_groups_maximum_is_of_probabilities_not_of_logits():
    # Head 0 has larger logits, all alike; head 1 has smaller ones, and one key takes nearly all of its mass.
    key = torch.tensor([[[[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]]], dtype=torch.float64)
    query = torch.zeros(1, 2, 4, 2, dtype=torch.float64)
    query[0, 0, 3] = torch.tensor([50.0, -1.0])
    query[0, 1, 3] = torch.tensor([0.0, 9.0])
    _, by_probability, _ = attend_all(query, key, key, scaling=1.0, selection=Selection(1, 1))
    _, by_logit, _ = attend_all(query, key, key, scaling=1.0, selection=Selection(1, 1, "logit_max"))
    assert by_probability[0, 0, 3].tolist() == [2]
    assert by_logit[0, 0, 3].tolist() == [0]


def test_of_equal_scores_the_first_block_wins():
    states = torch.ones(1, 2, 30, 4, dtype=torch.float64)
    for queries in (30, 3):
        rows = Rows(q_offset=30 - queries)
        _, blocks, _ = attend_all(
            states[:, :, -queries:], states, states, rows, scaling=1.0, selection=Selection(4, 5)
        )
        assert blocks[0, 0, -1].tolist() == [0, 1, 2, 3, 4]


def test_random_and_recent_blocks_are_visible_distinct_and_as_named():
    query, key, value = random_states()
    _, recent, _ = attend_all(query, key, value, scaling=0.5, selection=Selection(4, 3, "recent"))
    _, random, _ = attend_all(query, key, value, scaling=0.5, selection=Selection(4, 3, "random"))
    for t in range(40):
        newest = t // 4
        assert recent[0, 0, t].tolist() == [*range(newest, -1, -1), -1, -1][:3]
        drawn = [block for block in random[0, 1, t].tolist() if block >= 0]
        assert len(set(drawn)) == len(drawn) == min(3, newest + 1)
        assert max(drawn) <= newest
    assert not torch.equal(random[0, 0], random[0, 1])


def test_the_cache_shows_what_the_last_pass_selected(small_model, tokens, loops):
    model = small_model()
    cache = HySparseCache(model.config, record_selection=True)
    reference, ids = loops(model.config, model.state_dict()), tokens(1, 30)
    reference.logits(ids[0].numpy())
    with torch.no_grad():
        model(ids, past_key_values=cache)
    assert list(cache.last_selection) == [0]  # full layers: 0, 3 and 4; those before sparse layers select
    for t in range(30):
        for group in range(2):
            assert [b for b in cache.last_selection[0][0, group, t].tolist() if b >= 0] == reference.selection[0][t][
                group
            ]


def test_selection_of_loops_ranks_by_hand(select_by_loops):
    keys = np.array([[0.0], [2.0], [0.0], [0.0], [1.0]])
    assert select_by_loops(np.array([[1.0]]), keys, 1.0, 2, 2) == [0, 2]
    assert select_by_loops(np.array([[1.0]]), keys, 1.0, 2, 2, local=1, initial=0) == [2, 0]


# The sparse branch


@pytest.mark.parametrize("queries", [40, 7, 1])
def test_a_selection_of_everything_is_dense_attention(queries):
    query, key, value = random_states()
    outputs = []
    for block_size in (4, 8):
        blocks = torch.arange(40 // block_size, dtype=torch.int32).expand(1, 2, queries, -1)
        rows = Rows(q_offset=40 - queries)
        output, _ = attend_blocks(query[:, :, -queries:], key, value, blocks, rows, scaling=0.5, block_size=block_size)
        outputs.append(output)
    dense, _, _ = attend_all(query, key, value, scaling=0.5, materialise=True)
    assert torch.equal(*outputs)
    assert_close(outputs[0], dense[:, :, -queries:], atol=1e-14, rtol=0)


@pytest.mark.parametrize("sinks", [None, torch.zeros(4, dtype=torch.float64)])
@pytest.mark.parametrize("queries", [40, 3])
def test_a_query_without_blocks_gives_zeros_and_finite_gradients(sinks, queries):
    states = [state.requires_grad_() for state in random_states()]
    blocks = torch.full((1, 2, queries, 2), -1, dtype=torch.int32)
    blocks[0, 0, -1, 0] = 1
    query, rows = states[0][:, :, -queries:], Rows(q_offset=40 - queries)
    output, _ = attend_blocks(query, *states[1:], blocks, rows, scaling=0.5, block_size=4, sinks=sinks)
    assert output[0, :2, -1].abs().min() > 0
    assert output[0, :, :-1].eq(0).all()
    output.sum().backward()
    assert all(state.grad.isfinite().all() for state in states)


@pytest.mark.parametrize("queries", [20, 3])
def test_gradients_of_the_ops_are_those_of_finite_differences(queries):
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)  # noqa: E731  for four tensors in a row
    query, key, value, sinks = draw(1, 2, queries, 2), draw(1, 1, 20, 2), draw(1, 1, 20, 3), draw(2)
    blocks = torch.tensor([[[[0, 3], [2, -1], [1, 4]] * 7]], dtype=torch.int32)[:, :, :queries]
    rows = Rows(q_offset=20 - queries)

    def some(query, key, value, sinks):
        return attend_blocks(query, key, value, blocks, rows, scaling=0.7, block_size=4, sinks=sinks)[0]

    def every(query, key, value):
        return attend_all(query, key, value, rows, scaling=0.7, selection=Selection(4, 2))[0]

    def window(query, key, value, sinks):
        return attend_window(query, key, value, rows, scaling=0.7, window=4, sinks=sinks)[0]

    assert torch.autograd.gradcheck(some, (query, key, value, sinks))
    assert torch.autograd.gradcheck(every, (query, key, value))
    assert torch.autograd.gradcheck(window, (query, key, value, sinks))


@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("start", [None, [0, 5]])
def test_going_block_by_block_is_attention_under_a_mask(start, with_sinks, monkeypatch):
    generator = torch.Generator().manual_seed(4)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731  for four tensors in a row
    states = [draw(2, 4, 60, 3), draw(2, 2, 100, 3), draw(2, 2, 100, 5), *([draw(4)] if with_sinks else [])]
    start = None if start is None else torch.tensor(start)
    blocks = torch.randint(0, 25, (2, 2, 60, 2), generator=generator).to(torch.int32)  # some lie in the future
    blocks[..., 1] = torch.where(blocks[..., 1] == blocks[..., 0], -1, blocks[..., 1])
    blocks[0, 0, 7] = -1
    results = []
    for enough in (1, 10**9):
        monkeypatch.setattr(attend, "SPARSE_ENOUGH", enough)
        monkeypatch.setattr(block_major, "CHUNK_FLOATS", 1)
        leaves = [state.clone().requires_grad_() for state in states]
        sinks = leaves[3] if with_sinks else None
        output, _ = attend_blocks(*leaves[:3], blocks, Rows(start, 40), scaling=0.6, block_size=4, sinks=sinks)
        output.square().sum().backward()
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    for by_block, by_mask in zip(*results, strict=True):
        assert_close(by_block, by_mask, atol=1e-13, rtol=1e-12)
    assert results[0][0][0, :2, 7].eq(0).all()


def test_not_a_number_in_one_row_does_not_poison_another():
    query, key, value = (torch.cat([state, state]) for state in random_states(dtype=torch.float32))
    key[1, :, 3] = torch.nan
    for queries in (40, 2):
        last, rows = query[:, :, -queries:], Rows(q_offset=40 - queries)
        output, blocks, _ = attend_all(last, key, value, rows, scaling=0.5, selection=Selection(4, 3))
        sparse, _ = attend_blocks(last, key, value, blocks, rows, scaling=0.5, block_size=4)
        assert output[0].isfinite().all()
        assert sparse[0].isfinite().all()
        assert blocks.max() < 10


# What a token may see


def test_later_tokens_change_no_earlier_logit(small_model, tokens):
    model, ids = small_model(), tokens(1, 40)
    model.model.layers[0].self_attn.k_proj.weight.data.zero_()  # all scores tie
    changed = ids.clone()
    changed[0, 20:] = (changed[0, 20:] + 7) % 50
    with torch.no_grad():
        assert torch.equal(model(ids).logits[:, :20], model(changed).logits[:, :20])
        assert not torch.equal(model(ids).logits[:, 20:], model(changed).logits[:, 20:])


def test_a_selection_larger_than_the_context_is_full_attention(small_model, tokens):
    ids = tokens(1, 30)
    wide = small_model(sparse_topk_tokens=64)
    wider = small_model(sparse_topk_tokens=128, sparse_block_size=16)
    with torch.no_grad():
        assert torch.equal(wide(ids).logits, wider(ids).logits)
        assert not torch.equal(wide(ids).logits, small_model()(ids).logits)


def test_attention_weights_are_handed_out_by_the_eager_implementation(small_model, tokens):
    model, ids = small_model(), tokens(1, 20)
    model.set_attn_implementation("eager")
    attentions = model(ids, output_attentions=True).attentions
    assert [list(weights.shape) for weights in attentions] == [[1, 4, 20, 20]] * 5
    for layer, weights in enumerate(attentions):
        share = weights.sum(-1)
        if layer in (0, 3, 4):
            assert_close(share, torch.ones_like(share))
        else:
            assert share.max() < 1  # the sink takes its part
            assert (weights[0, 0, 19] > 0).sum() == 12  # selected tokens
