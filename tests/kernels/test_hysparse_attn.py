"""hysparse-attn: outputs and selected blocks of every backend, against loops in numpy."""

from importlib import import_module

import numpy as np
import pytest
import torch
from _hysparse import (
    CASES,
    DECODE,
    EXACT,
    FULL,
    ROUNDED,
    SPARSE,
    arguments_of,
    full_by_loops,
    gradients_of,
    sparse_by_loops,
    sparse_of,
)
from torch.testing import assert_close


@pytest.fixture(scope="module")
def package(package_of):
    return package_of("hysparse-attn")


@pytest.fixture
def run(backend, calling):
    return calling(backend, "hysparse-attn")


# Values


@pytest.mark.parametrize("name", CASES)
def test_full_attention_and_its_blocks(run, name):
    arguments = arguments_of(name)
    out, lse, idx = run(FULL, arguments)
    expected, expected_lse, expected_idx = full_by_loops(**arguments)
    assert_close(out.double(), expected, **EXACT)
    assert_close(lse.double(), expected_lse, **EXACT)
    assert (lse.dtype, idx.dtype) == (torch.float32, torch.int32)
    assert_close(idx.long(), expected_idx)


@pytest.mark.parametrize("name", CASES)
def test_sparse_attention(run, name):
    arguments = arguments_of(name)
    idx = full_by_loops(**arguments)[2].int()
    sparse = sparse_of(arguments, idx, with_sinks=name != "ragged")
    out, lse = run(SPARSE, sparse | {"return_lse": True})
    expected, expected_lse = sparse_by_loops(**sparse)
    assert_close(out.double(), expected, **EXACT)
    assert_close(lse.double(), expected_lse, **EXACT)


def test_with_all_blocks_it_is_dense_attention_whatever_their_size(run):
    arguments = arguments_of("queries at the end") | {"topk": 5}
    outputs = []
    for block_size in (16, 48):
        full = arguments | {"block_size": block_size}
        idx = run(FULL, full)[2]
        outputs.append(run(SPARSE, sparse_of(full, idx, with_sinks=False)))
    sparse = sparse_of(arguments, idx, with_sinks=False)
    dense = torch.nn.functional.scaled_dot_product_attention(
        *(sparse[x].double() for x in "qkv"), attn_mask=torch.ones(9, 80).tril(71).bool(), enable_gqa=True
    )
    for out in outputs:
        assert_close(out.double(), dense, **EXACT)


def test_scale(run):
    arguments = arguments_of("shorter than a block")
    for function, given in ((FULL, arguments), (SPARSE, sparse_of(arguments, torch.zeros(2, 2, 5, 1).int()))):
        changed = {"q": 0.5 * given["q"], "scale": 2 * 64**-0.5}
        for found, expected in zip(run(function, given | changed), run(function, given), strict=True):
            assert_close(found, expected)


def test_any_layout_of_memory(run):
    """`[B, T, K, d]` seen as `[B, K, T, d]`, and channels that do not lie side by side."""
    arguments = arguments_of("more blocks to name than there are")
    expected = run(FULL, arguments)
    changed = arguments | {x: arguments[x].transpose(1, 2).contiguous().transpose(1, 2) for x in "qk"}
    changed["v"] = arguments["v"].transpose(2, 3).contiguous().transpose(2, 3)
    for found, same in zip(run(FULL, changed), expected, strict=True):
        assert_close(found, same)
    sparse = sparse_of(changed, expected[2].transpose(2, 3).contiguous().transpose(2, 3))
    assert_close(run(SPARSE, sparse), run(SPARSE, sparse_of(arguments, expected[2])))


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("name", ["sixteen heads a group", "left padding, later queries"])
def test_sixteen_bits(run, name, dtype):
    arguments = arguments_of(name, dtype)
    out, lse, idx = run(FULL, arguments)
    expected, expected_lse, _ = full_by_loops(**arguments)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    assert_close(out.double(), expected, rtol=0, atol=ROUNDED[dtype])
    assert_close(lse.double(), expected_lse, rtol=0, atol=ROUNDED[dtype])
    sparse = sparse_of(arguments, idx)
    assert_close(run(SPARSE, sparse).double(), sparse_by_loops(**sparse)[0], rtol=0, atol=ROUNDED[dtype])


# Selection


def one_block_each(logits_of_heads):
    """q, k and v of one query: head h meets block i at `logits_of_heads[h][i]` in its first key, and at -20 in the others."""
    logits = torch.tensor(logits_of_heads, dtype=torch.float32)
    heads, blocks = logits.shape
    q = torch.zeros(1, heads, 1, 32)
    q[0, range(heads), 0, range(heads)] = 1
    k = torch.zeros(1, 1, blocks * 16, 32)
    k[..., :heads] = -20
    k[0, 0, ::16, :heads] = logits.T
    return {"q": q, "k": k, "v": torch.ones_like(k), "scale": 1.0, "block_size": 16}


def test_probabilities_are_compared_and_not_logits(run):
    """
    The first head has the larger logits, and is spread over four blocks: at most 0.25 of it is in any. The second gives
    nearly all to the last block, with a smaller logit.
    """
    arguments = one_block_each([[9, 9, 9, 9, 0], [0, 0, 0, 0, 5]])
    idx = run(FULL, arguments | {"topk": 2})[2]
    assert idx.flatten().tolist() == [4, 0]


def test_equal_scores_go_by_the_lower_block(run):
    arguments = one_block_each([[3, 7, 3, 7, 7, 3]])
    assert run(FULL, arguments | {"topk": 5})[2].flatten().tolist() == [1, 3, 4, 0, 2]


def test_a_query_of_zeros_names_its_first_blocks(run):
    """Each of its keys has the same probability."""
    arguments = arguments_of("ragged")
    arguments["q"] = torch.zeros_like(arguments["q"])
    idx = run(FULL, arguments | {"topk": 3})[2]
    blocks = torch.arange(37) // 16
    expected = torch.where(torch.arange(3) <= blocks[:, None], torch.arange(3), -1)
    assert (idx == expected).all()


def test_forced_blocks_come_first(run):
    arguments = one_block_each([[1, 5, 2, 9, 3, 0]]) | {"topk": 4}
    forced = {"forced_local_blocks": 2, "forced_initial_blocks": 1}
    assert run(FULL, arguments)[2].flatten().tolist() == [3, 1, 4, 2]
    assert run(FULL, arguments | forced)[2].flatten().tolist() == [0, 4, 5, 3]


def test_padding_on_the_left_does_not_move_blocks(run):
    alone = arguments_of("more blocks to name than there are") | {"topk": 2}
    expected = run(FULL, alone)
    padded = alone | {"kv_start": torch.tensor([11, 11])}
    padded |= {x: torch.cat([torch.full_like(alone[x][:, :, :11], float("nan")), alone[x]], dim=2) for x in "kv"}
    out, _, idx = run(FULL, padded)
    assert_close(out, expected[0])
    assert torch.equal(idx, expected[2])
    sparse = sparse_of(padded, idx)
    assert_close(run(SPARSE, sparse), run(SPARSE, sparse_of(alone, idx)))


def test_later_keys_change_no_bit_of_earlier_rows(run):
    arguments = arguments_of("more blocks to name than there are")
    arguments["k"] = arguments["k"].sign()  # many ties
    changed = arguments | {x: arguments[x].clone() for x in "kv"}
    for x in "kv":
        changed[x][:, :, 30:] = 5.0
    (out, lse, idx), again = run(FULL, arguments), run(FULL, changed)
    for found, expected in zip(again, (out, lse, idx), strict=True):
        assert torch.equal(found[:, :, :10], expected[:, :, :10])
    sparse = sparse_of(arguments, idx), sparse_of(changed, again[2])
    assert torch.equal(run(SPARSE, sparse[1])[:, :, :10], run(SPARSE, sparse[0])[:, :, :10])


def test_without_selection_there_are_no_blocks_and_the_rest_is_the_same(run):
    arguments = arguments_of("left padding, later queries")
    without = arguments | {"need_selection": False}
    out, lse, idx = run(FULL, without)
    expected = run(FULL, arguments)
    assert idx is None
    assert_close(out, expected[0])
    assert_close(lse, expected[1])
    found, gradients = gradients_of(run, FULL, without), gradients_of(run, FULL, arguments)
    for x, gradient in gradients.items():
        assert_close(found[x], gradient, rtol=1e-5, atol=1e-5)


# Parts: of queries, and of the keys of one


def internal(arguments):
    """What the functions behind the public ones take."""
    start, (slots, queries) = arguments.get("kv_start"), (arguments[x].shape[2] for x in "kq")
    given = {x: arguments[x] for x in ("q", "k", "v", "idx", "sinks") if x in arguments}
    place = {"scale": 0.1, "kv_start": None if start is None else start.int()}
    return given | place | {"q_offset": arguments.get("q_offset", slots - queries)}


@pytest.mark.parametrize("name", ["left padding", "left padding, later queries"])
def test_chunks_of_queries_change_nothing(triton_backend, package, name):
    arguments = internal(arguments_of(name)) | {"selection": (16, 3, 1, 0)}
    function = "triton_full_forward:full_forward"
    whole, parts = (triton_backend(package, function, arguments | {"chunk": chunk}) for chunk in (None, 5))
    for part, expected in zip(parts, whole, strict=True):
        assert_close(part, expected)


@pytest.mark.parametrize("splits", [2, 7])
@pytest.mark.parametrize("name", ["decoding", "left padding, later queries", "a row of padding only"])
def test_splits_of_the_keys_change_nothing(triton_backend, package, name, splits):
    """Seven are more than there are blocks."""
    arguments = arguments_of(name)
    full = internal(arguments) | {"selection": (16, 3, 0, 0)}
    function = "triton_full_forward:full_forward"
    whole = triton_backend(package, function, full | {"splits": 1})
    for part, expected in zip(triton_backend(package, function, full | {"splits": splits}), whole, strict=True):
        assert_close(part, expected)
    sparse = internal(sparse_of(arguments, whole[2])) | {"block_size": 16}
    function = "triton_sparse_forward:sparse_forward"
    whole = triton_backend(package, function, sparse | {"splits": 1})
    for part, expected in zip(triton_backend(package, function, sparse | {"splits": splits}), whole, strict=True):
        assert_close(part, expected)


def test_decoding_equals_the_last_row_of_one_pass(run):
    arguments = arguments_of("left padding")
    whole = run(FULL, arguments)
    last = arguments | {"q": arguments["q"][:, :, -1:]}
    for found, expected in zip(run(DECODE, last), whole, strict=True):
        assert_close(found, expected[:, :, -1:])
    sparse = sparse_of(arguments, whole[2])
    last = sparse | {x: sparse[x][:, :, -1:] for x in ("q", "idx")}
    assert_close(run(SPARSE, last), run(SPARSE, sparse)[:, :, -1:])


def test_the_maxima_of_few_queries_are_held_at_once(module_of, monkeypatch):
    """Never more than 4 bytes for each head and block of 4096 queries, in all rows of the batch together."""
    module_of("hysparse-attn")
    forward = import_module("hysparse_attn_source.triton_full_forward")
    allocated, launched = [], []
    empty = torch.empty
    monkeypatch.setattr(forward.torch, "empty", lambda shape, **how: allocated.append(shape) or empty(shape, **how))
    monkeypatch.setattr(forward, "select", lambda maxima, *rest: launched.append(maxima.shape))
    monkeypatch.setattr(forward, "dense_forward", lambda *given, **options: None)
    q, k = torch.zeros(3, 2, 10_000, 32, device="meta"), torch.zeros(3, 1, 10_000, 32, device="meta")
    forward.full_forward(q, k, k, 0.1, None, 0, (64, 2))
    (held,) = [shape for shape in allocated if isinstance(shape, int)]
    assert held <= 2 * 4096 * 157
    assert sum(shape[3] for shape in launched) == 10_000
    assert all(shape[:1] + shape[4:] == (3, 2) for shape in launched)


def test_the_queries_of_each_block_are_listed_in_order(module_of):
    module_of("hysparse-attn")
    listed = import_module("hysparse_attn_source.triton_sparse_backward").choosing_queries
    idx = torch.randint(-1, 4, (2, 3, 11, 5), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    queries, first = listed(idx, 4)
    for b, g, block in np.ndindex(2, 3, 4):
        expected = [r for r in range(11) for entry in idx[b, g, r] if entry == block]
        assert queries[b, g, first[b, g, block] : first[b, g, block + 1]].tolist() == expected
