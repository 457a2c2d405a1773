"""sale-attn: codes, kept tiles and attention over them, against loops in numpy and dense attention."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from _sale import ATTEND, SELECT, areas_by_loops, attention_by_loops, codes_by_loops, margins_by_loops
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

KERNEL = "sale-attn"
CLOSE = {"atol": 2e-5, "rtol": 2e-5}
QUANTS = ["thread", "token", "block"]


@pytest.fixture
def run(reference_backend, calling):
    return calling(reference_backend, KERNEL)


@pytest.fixture(scope="module")
def sale(module_of):
    return module_of(KERNEL)


def tensors(queries, keys, heads=2, kv_heads=1, d=32, dv=None, seed=0, spread=3.0):
    """Queries and keys whose scores reach far enough that some tiles matter and some do not."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(1, heads, queries, d, generator=generator) * spread
    k = torch.randn(1, kv_heads, keys, d, generator=generator)
    k += torch.randn(1, kv_heads, 1, d, generator=generator) * 3  # what smoothing takes off
    return q, k, torch.randn(1, kv_heads, keys, dv or d, generator=generator)


def tiles_of(sale, kept, keys):
    return sale.unpack_tiles(kept, -(-keys // 32))


def dense(q, k, v, scale=None):
    n, t = q.shape[2], k.shape[2]
    mask = torch.ones(n, t, dtype=torch.bool).tril(t - n)
    return scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)


LENGTHS = [(512, 512), (1025, 1025), (1999, 1999), (130, 1030), (1, 700), (64, 97)]


# Where tiles lie


@pytest.mark.parametrize(("queries", "keys"), [*LENGTHS, (4100, 4100), (31, 31), (65, 4100)])
def test_what_is_always_kept(run, sale, queries, keys):
    q, k, _ = tensors(queries, keys, d=8)
    tiles = tiles_of(sale, run(SELECT, {"q": q, "k": k, "tau": math.inf}), keys)
    for tile, (_, always) in enumerate(areas_by_loops(queries, keys)):
        assert set(tiles[0, 0, tile].nonzero()[:, 0].tolist()) == always


def test_counts_of_tiles(sale):
    areas = areas_by_loops(1999, 2050)
    layout = sale.Layout(1999, 2050, sale.Tiling())
    assert layout.causal_tiles() == sum(visible for visible, _ in areas)
    assert layout.estimated_tiles() == sum(visible - len(always) for visible, always in areas)


@pytest.mark.parametrize("tiling", [(16, 8, 8, 8, 8), (128, 64, 64, 64, 64), (64, 16, 16, 128, 48)])
def test_other_tilings_keep_the_diagonal_and_estimate_only_what_all_rows_see(sale, tiling):
    q, k, v = tensors(300, 420)
    layout = sale.Layout(300, 420, sale.Tiling(*tiling))
    for tile in range(layout.query_tiles):
        assert all(
            (n + 1) * layout.tiling.block_k <= layout.offset + layout.rows(tile).start + 1
            for n in layout.estimated(tile)
        )
    kept = sale.select_blocks(q, k, 0.0, tiling=layout.tiling)
    assert_close(sale.attend_blocks(q, k, v, kept, tiling=layout.tiling), dense(q, k, v), **CLOSE)


# Codes


@pytest.mark.parametrize("quant", QUANTS)
@pytest.mark.parametrize("role", ["query", "key"])
@pytest.mark.parametrize("smooth", [True, False])
def test_codes(sale, quant, role, smooth):
    x = tensors(77, 77)[0]
    found = sale.quantize(x, role, quant, smooth)
    assert found.codes.dtype == torch.int8
    assert found.codes.abs().max() == 7
    for head in range(2):
        codes, scales, mean = codes_by_loops(x[0, head].double().numpy(), role, quant, smooth)
        assert_close(found.scales[0, head].double(), torch.from_numpy(scales), **CLOSE)
        assert_close(found.mean[0, head, 0].double(), torch.from_numpy(mean), **CLOSE)
        assert (found.codes[0, head].numpy() != codes).mean() < 1e-3  # a value half way between two codes
    error = (found.codes * found.scales[..., None] + found.mean - x).abs()
    assert (error <= found.scales[..., None] * 0.5001 + 1e-6).all()


def test_codes_of_four_bits_are_packed_and_come_back(sale):
    codes = torch.arange(-7, 8, dtype=torch.int8).repeat(4).view(2, 30)
    packed = sale.pack_int4(codes)
    assert packed.shape == (2, 15)
    assert packed[0, 0] == (-7 & 15) * 16 + (-6 & 15)  # the first of a pair in the high half
    assert torch.equal(sale.unpack_int4(packed), codes)


@pytest.mark.parametrize("fill", [0.0, 2.5])
def test_constant_rows_have_codes_and_no_nan(sale, run, fill):
    q, k, v = torch.full((1, 1, 200, 16), fill), torch.full((1, 1, 900, 16), fill), torch.randn(1, 1, 900, 16)
    for quant in QUANTS:
        assert torch.equal(sale.quantize(k, "key", quant).codes, torch.zeros(1, 1, 900, 16, dtype=torch.int8))
        kept = run(SELECT, {"q": q, "k": k, "tau": 1.0, "quant": quant})  # each key weighs 1 / (160 or more)
        assert torch.equal(kept, run(SELECT, {"q": q, "k": k, "tau": math.inf}))
        assert run(ATTEND, {"q": q, "k": k, "v": v, "kept": kept}).isfinite().all()


def test_tiles_as_bits(sale):
    kept = torch.rand(2, 3, 5, 77) < 0.3
    bits = sale.pack_tiles(kept)
    assert bits.shape == (2, 3, 5, 10)
    assert np.array_equal(bits.numpy(), np.packbits(kept.numpy(), axis=-1, bitorder="little"))
    assert torch.equal(sale.unpack_tiles(bits, 77), kept)
    begins, tiles = sale.tile_lists(bits, 77)
    for row, own in enumerate(kept.flatten(0, 2)):
        assert torch.equal(tiles[begins[row] : begins[row + 1]], own.nonzero()[:, 0].int())


# Selection


@pytest.mark.parametrize(("queries", "keys"), LENGTHS)
@pytest.mark.parametrize("quant", ["exact", *QUANTS])
def test_kept_tiles(run, sale, queries, keys, quant):
    q, k, _ = tensors(queries, keys)
    tau = 3.0
    tiles = tiles_of(sale, run(SELECT, {"q": q, "k": k, "tau": tau, "quant": quant}), keys)
    for head in range(2):
        margins = margins_by_loops(q[0, head].double().numpy(), k[0, 0].double().numpy(), tau, 32**-0.5, quant)
        clear = ~(np.abs(margins) < 1e-3)
        assert np.array_equal(tiles[0, head].numpy()[clear], (margins > 0)[clear])
        assert (~clear).sum() <= 2
    if keys > 1000 and queries == keys:
        layout = sale.Layout(queries, keys, sale.Tiling())
        assert 0.15 < tiles.sum() / 2 / layout.causal_tiles() < 0.95  # a density at which a wrong rule would show


def test_without_smoothing(run, sale):
    q, k, _ = tensors(600, 600)
    k -= k.mean(dim=2, keepdim=True)
    tiles = tiles_of(sale, run(SELECT, {"q": q, "k": k, "tau": 0.5, "smooth": False}), 600)
    margins = margins_by_loops(
        q[0, 1].double().numpy(), k[0, 0].double().numpy(), 0.5, 32**-0.5, "thread", smooth=False
    )
    clear = ~(np.abs(margins) < 1e-3)
    assert np.array_equal(tiles[0, 1].numpy()[clear], (margins > 0)[clear])


def test_fewer_tiles_with_a_higher_threshold(run, sale):
    q, k, _ = tensors(1025, 1025)
    found = [tiles_of(sale, run(SELECT, {"q": q, "k": k, "tau": tau}), 1025) for tau in (0.0, 0.1, 0.5, 2.0, math.inf)]
    for more, fewer in pairwise(found):
        assert (more | ~fewer).all()
        assert more.sum() > fewer.sum()


def test_a_constant_added_to_all_keys_changes_nothing(run):
    q, k, _ = tensors(900, 900)
    shifted = k + torch.randn(32) * 0.5
    for quant in ("exact", "thread"):
        same = run(SELECT, {"q": q, "k": k, "tau": 0.5, "quant": quant})
        differs = (same != run(SELECT, {"q": q, "k": shifted, "tau": 0.5, "quant": quant})).sum()
        assert differs <= 2  # a tile at the threshold


def test_a_scale_moved_from_the_queries_changes_nothing(run):
    q, k, _ = tensors(900, 900)
    other = {"q": 4 * q, "k": k, "tau": 0.5, "scale": 32**-0.5 / 4}
    assert torch.equal(run(SELECT, {"q": q, "k": k, "tau": 0.5}), run(SELECT, other))


def test_thresholds_of_heads_and_groups(run, sale):
    q, k, _ = tensors(900, 900, heads=4, kv_heads=2)
    tau = torch.tensor([0.0, 0.5, 9e-6, math.inf])
    tiles = tiles_of(sale, run(SELECT, {"q": q, "k": k, "tau": tau}), 900)
    repeated = k.repeat_interleave(2, dim=1)
    for head in range(4):
        alone = {"q": q[:, head : head + 1], "k": repeated[:, head : head + 1], "tau": float(tau[head])}
        assert torch.equal(tiles[:, head : head + 1], tiles_of(sale, run(SELECT, alone), 900))
    layout = sale.Layout(900, 900, sale.Tiling())
    assert tiles[0, 0].sum() == tiles[0, 2].sum() == layout.causal_tiles()
    shared = tiles_of(sale, run(SELECT, {"q": q, "k": k, "tau": 0.5, "share_group": True}), 900)
    own = tiles_of(sale, run(SELECT, {"q": q, "k": k, "tau": 0.5}), 900)
    assert torch.equal(
        shared, own.unflatten(1, (2, 2)).any(dim=2, keepdim=True).expand(-1, -1, 2, -1, -1).flatten(1, 2)
    )


# Attention


@pytest.mark.parametrize(("queries", "keys"), [*LENGTHS, (4100, 4100)])
def test_with_threshold_zero_it_is_dense_attention(run, queries, keys):
    q, k, v = tensors(queries, keys)
    kept = run(SELECT, {"q": q, "k": k, "tau": 0.0})
    assert_close(run(ATTEND, {"q": q, "k": k, "v": v, "kept": kept}), dense(q, k, v), **CLOSE)


@pytest.mark.parametrize("heads", [(4, 1), (6, 1), (8, 2)])
@pytest.mark.parametrize("dims", [(32, 32), (192, 128), (24, 40)])
def test_attention_over_kept_tiles(run, sale, heads, dims):
    q, k, v = tensors(260, 520, *heads, *dims, spread=2.0)
    kept = run(SELECT, {"q": q, "k": k, "tau": 0.5, "scale": 0.1})
    out = run(ATTEND, {"q": q, "k": k, "v": v, "kept": kept, "scale": 0.1})
    tiles = tiles_of(sale, kept, 520)
    for head in range(heads[0]):
        kv_head = head * heads[1] // heads[0]
        arrays = (x[0, i].double().numpy() for x, i in ((q, head), (k, kv_head), (v, kv_head)))
        expected = attention_by_loops(*arrays, tiles[0, head].numpy(), 0.1)
        assert_close(out[0, head].double(), torch.from_numpy(expected), **CLOSE)


def test_batch_rows_are_independent(run):
    both = [torch.cat(pair) for pair in zip(tensors(300, 300), tensors(300, 300, seed=1), strict=True)]
    kept = run(SELECT, {"q": both[0], "k": both[1], "tau": 0.5})
    out = run(ATTEND, {"q": both[0], "k": both[1], "v": both[2], "kept": kept})
    for row in range(2):
        q, k, v = (x[row : row + 1] for x in both)
        alone = run(SELECT, {"q": q, "k": k, "tau": 0.5})
        assert torch.equal(alone[0], kept[row])
        assert_close(run(ATTEND, {"q": q, "k": k, "v": v, "kept": alone})[0], out[row])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types(run, dtype):
    q, k, v = (x.to(dtype) for x in tensors(400, 400, spread=1.0))
    kept = run(SELECT, {"q": q, "k": k, "tau": 0.0})
    out = run(ATTEND, {"q": q, "k": k, "v": v, "kept": kept})
    assert out.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float64 else 1e-2
    assert_close(out.double(), dense(q.double(), k.double(), v.double()), atol=tolerance, rtol=tolerance)


def test_scores_of_eight_bits(run):
    q, k, v = tensors(700, 700, spread=1.0)
    kept = run(SELECT, {"q": q, "k": k, "tau": 0.0})
    out = run(ATTEND, {"q": q, "k": k, "v": v, "kept": kept, "compute": "int8"})
    error = (out - dense(q, k, v)).abs().mean()
    assert 0 < error < 0.01


@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows(run, where, value):
    q, k, v = tensors(700, 700)
    {"q": q, "k": k, "v": v}[where][0, 0, 300] = value
    kept = run(SELECT, {"q": q, "k": k, "tau": 0.5})
    lost = ~run(ATTEND, {"q": q, "k": k, "v": v, "kept": kept}).isfinite().all(dim=-1)
    slots = torch.arange(700)
    if where == "q":  # its own row, and no other: as in dense attention
        assert torch.equal(lost, torch.stack([slots == 300, slots < 0])[None])
    elif where == "k":
        assert torch.equal(lost, (slots >= 300).expand(1, 2, -1))
    else:  # those that read it, and the earlier rows of its tile, where 0 times NaN is NaN
        assert lost[0, :, 300:428].all()
        assert not lost[0, :, :256].any()


# What can't be


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau": -1.0}, "`tau` must be 0 or more; got -1.0"),
        ({"tau": math.nan}, "`tau` must be 0 or more"),
        ({"tau": torch.zeros(3)}, r"`tau` must be one threshold, or one a head, \[2\]; got \[3\]"),
        ({"quant": "int4"}, "`quant` must be 'thread', 'token', 'block' or 'exact'; got 'int4'"),
        ({"scale": 0.0}, "`scale` must be a positive number; got 0.0"),
        ({"k": torch.zeros(1, 1, 50, 32)}, "`k` must have a slot for each query"),
    ],
)
def test_arguments_of_the_selection_that_can_not_be(run, change, message):
    q, k, _ = tensors(100, 100)
    with pytest.raises(ValueError, match=message):
        run(SELECT, {"q": q, "k": k} | change)


@pytest.mark.parametrize(
    ("tiling", "message"),
    [
        ({"block_q": 40}, "`block_q` must be a multiple of 16; got 40"),
        ({"block_k": 12}, "`block_k` must be a multiple of 8; got 12"),
        ({"local_window": 100}, "`local_window` must be a multiple of `block_k`=32; got 100"),
        ({"sink_tokens": 0}, "`sink_tokens` must be a number of keys, at least 32; got 0"),
    ],
)
def test_tilings_that_can_not_be(sale, tiling, message):
    q, k, _ = tensors(100, 100)
    with pytest.raises(ValueError, match=message):
        sale.select_blocks(q, k, tiling=sale.Tiling(**tiling))


def test_attention_asks_for_the_map_of_its_own_tiling(run, sale):
    q, k, v = tensors(300, 300)
    kept = run(SELECT, {"q": q, "k": k})
    with pytest.raises(ValueError, match=r"`kept` must be uint8 \[1, 2, 3, 2\]"):
        run(ATTEND, {"q": q, "k": k, "v": v, "kept": kept, "tiling": sale.Tiling(block_q=128)})
    with pytest.raises(ValueError, match="must not require gradients"):
        run(ATTEND, {"q": q.requires_grad_(), "k": k, "v": v, "kept": kept})
