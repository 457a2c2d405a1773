"""sale-attn: what every backend does alike, on small cases: kept tiles and attention over them, against loops in numpy."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from _sale import ATTEND, SELECT, attention_by_loops, margins_by_loops
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

KERNEL = "sale-attn"
CLOSE = {"atol": 2e-5, "rtol": 2e-5}

# Queries, keys, heads, heads of keys, head dims; what shares a scale, whether the mean is taken off.
CASES = {
    "later queries, ragged": ((130, 421, 2, 1, 32, 32), "thread", True),
    "more tiles than two bytes hold": ((70, 701, 1, 1, 32, 32), "token", True),
    "one query": ((1, 700, 2, 2, 32, 32), "block", True),
    "nothing to estimate": ((64, 97, 2, 1, 32, 32), "thread", True),
    "six heads a group, 192 and 128 channels": ((17, 330, 6, 1, 192, 128), "thread", True),
    "four heads a group, 96 channels": ((20, 330, 4, 1, 96, 96), "block", True),
    "without smoothing": ((130, 421, 2, 1, 32, 32), "thread", False),
}


def tensors(queries, keys, heads=2, kv_heads=1, d=32, dv=32, batch=1, seed=0):
    """Queries and keys whose scores reach far enough that some tiles matter and some do not."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(batch, heads, queries, d, generator=generator) * 3
    k = torch.randn(batch, kv_heads, keys, d, generator=generator)
    k += torch.randn(batch, kv_heads, 1, d, generator=generator) * 3  # what smoothing takes off
    return {"q": q, "k": k, "v": torch.randn(batch, kv_heads, keys, dv, generator=generator)}


def dense(q, k, v):
    n, t = q.shape[2], k.shape[2]
    mask = torch.ones(n, t, dtype=torch.bool).tril(t - n)
    return scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


@pytest.fixture(scope="module")
def sale(module_of):
    return module_of(KERNEL)


@pytest.fixture
def run(backend, calling, package_of):
    """Loads the package first: a `Tiling` of it can be sent then."""
    backend(package_of(KERNEL), "pack_tiles", {"kept": torch.ones(1, dtype=torch.bool)})
    return calling(backend, KERNEL)


def select(run, given, **options):
    return run(SELECT, {"q": given["q"], "k": given["k"], **options})


@pytest.mark.parametrize("name", CASES)
def test_kept_tiles_and_attention_over_them(run, sale, name):
    (queries, keys, heads, kv_heads, d, dv), quant, smooth = CASES[name]
    given = tensors(queries, keys, heads, kv_heads, d, dv)
    if not smooth:
        given["k"] -= given["k"].mean(dim=2, keepdim=True)
    tau, scale = 1.0, d**-0.5
    kept = select(run, given, tau=tau, scale=scale, quant=quant, smooth=smooth)
    out = run(ATTEND, given | {"kept": kept, "scale": scale})
    tiles = sale.unpack_tiles(kept, -(-keys // 32))
    assert torch.equal(kept, sale.pack_tiles(tiles))  # nothing is set behind the last tile
    shares = []
    for head in range(heads):
        arrays = [given[x][0, head if x == "q" else head * kv_heads // heads].double().numpy() for x in "qkv"]
        margins = margins_by_loops(*arrays[:2], tau, scale, quant, smooth)
        clear = ~(np.abs(margins) < 1e-3)
        assert np.array_equal(tiles[0, head].numpy()[clear], (margins > 0)[clear])
        assert (~clear).sum() <= 1
        shares += [(margins > 0)[np.isfinite(margins)].mean()] if np.isfinite(margins).any() else []
        expected = attention_by_loops(*arrays, tiles[0, head].numpy(), scale)
        assert_close(out[0, head].double(), torch.from_numpy(expected), **CLOSE)
    # Some of what is estimated is kept and some is not: a wrong rule would show.
    assert not shares or 0.05 < np.mean(shares) < 0.95


def test_thresholds_of_heads_and_groups(run, sale):
    given = tensors(30, 330, heads=4, kv_heads=2)
    tau = torch.tensor([0.0, 2.0, 9e-6, math.inf])
    tiles = sale.unpack_tiles(select(run, given, tau=tau), 11)
    layout = sale.Layout(30, 330, sale.Tiling())
    assert tiles[0, 0].sum() == tiles[0, 2].sum() == layout.causal_tiles()
    assert tiles[0, 3].sum() == layout.causal_tiles() - layout.estimated_tiles()
    own = sale.unpack_tiles(select(run, given, tau=2.0), 11)
    assert torch.equal(tiles[0, 1], own[0, 1])
    shared = sale.unpack_tiles(select(run, given, tau=2.0, share_group=True), 11)
    assert torch.equal(shared, own.unflatten(1, (2, 2)).any(dim=2).repeat_interleave(2, dim=1))
    assert (shared != own).any()


def test_rows_of_a_batch_and_what_lies_around_them_in_memory(run, surround):
    """`[B, T, K, d]` seen as `[B, K, T, d]`, in memory full of NaN."""
    given = tensors(30, 300, kv_heads=2, batch=2)
    kept = select(run, given, tau=0.5)
    out = run(ATTEND, given | {"kept": kept})
    placed = {name: surround(x.transpose(1, 2)).transpose(1, 2) for name, x in given.items()}
    assert torch.equal(select(run, placed, tau=0.5), kept)
    assert_close(run(ATTEND, placed | {"kept": kept}), out)
    second = {name: x[1:] for name, x in given.items()}
    assert torch.equal(select(run, second, tau=0.5), kept[1:])
    assert_close(run(ATTEND, second | {"kept": kept[1:]}), out[1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(run, sale, dtype):
    given = {name: x.to(dtype) for name, x in tensors(70, 300).items()}
    kept = select(run, given, tau=0.5)
    wide = {name: x.float() for name, x in given.items()}
    differs = sale.unpack_tiles(kept, 10) != sale.unpack_tiles(sale.select_blocks(wide["q"], wide["k"], 0.5), 10)
    assert differs.sum() <= 1
    every = torch.full_like(kept, 255)  # bits above the diagonal are not read
    out = run(ATTEND, given | {"kept": every})
    assert out.dtype == dtype
    assert_close(out.float(), dense(**wide), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("tiling", [(32, 16, 32, 64, 16), (128, 64, 64, 64, 64)])
def test_other_tilings(run, sale, tiling):
    given = tensors(150, 400)
    tiling = sale.Tiling(*tiling)
    kept = select(run, given, tau=4.0, tiling=tiling)
    assert torch.equal(kept, sale.select_blocks(given["q"], given["k"], 4.0, tiling=tiling))
    every = select(run, given, tau=0.0, tiling=tiling)
    assert (every != kept).any()
    assert_close(run(ATTEND, given | {"kept": every, "tiling": tiling}), dense(**given), **CLOSE)


def test_scores_of_eight_bits(run, sale):
    given = tensors(70, 330)
    given["q"] /= 3
    every = select(run, given, tau=0.0)
    out = run(ATTEND, given | {"kept": every, "compute": "int8"})
    error = (out - dense(**given)).abs().mean()
    assert 0 < error < 0.01
    assert_close(out, sale.attend_blocks(**given, kept=every, compute="int8"), **CLOSE)


@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_shows(run, where, value):
    given = tensors(80, 300)
    given[where][0, 0, 70 if where == "q" else 100] = value
    kept = select(run, given, tau=0.5)
    lost = ~run(ATTEND, given | {"kept": kept}).isfinite().all(dim=-1)
    row = torch.arange(80)
    if where == "q":  # its own row, and no other: as in dense attention
        assert torch.equal(lost, torch.stack([row == 70, row < 0])[None])
    elif where == "k":  # all queries stand behind it, and none may leave it out
        assert lost.all()
    else:
        readers = (kept[..., 0] & 8) > 0  # those that keep tile 3
        assert torch.equal(lost, readers.repeat_interleave(64, dim=2)[..., :80])


# What the kernel alone has


@pytest.mark.parametrize(("role", "quant"), list(product(["query", "key"], ["thread", "token", "block"])))
def test_codes_of_the_kernel_are_those_of_the_reference(triton_backend, package_of, sale, role, quant):
    x = tensors(77, 77)["q"]
    x[0, 1, 40, 3] = math.inf
    x[0, 0, 3:40] = 1.5  # rows that are all alike
    expected = sale.quantize(x, role, quant, smooth=False)
    package = package_of(KERNEL)
    triton_backend(package, "pack_tiles", {"kept": torch.ones(1, dtype=torch.bool)})
    arguments = {"role": role, "quant": quant, "mean": None, "tiling": sale.Tiling(), "largest": 7}
    codes, scales, _ = triton_backend(package, "triton_quantize:quantize_rows", arguments | {"x": x})
    assert_close(scales, expected.scales, equal_nan=True)
    assert (codes != expected.codes).float().mean() < 1e-3  # a value half way between two codes
    smooth = sale.quantize(x[:, :1], role, quant)
    codes, scales, _ = triton_backend(
        package, "triton_quantize:quantize_rows", arguments | {"x": x[:, :1], "mean": smooth.mean}
    )
    assert_close(scales, smooth.scales)
    assert (codes != smooth.codes).float().mean() < 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant": "exact"}, "`quant` must be 'thread', 'token' or 'block' for backend 'triton'; got 'exact'"),
        ({x: torch.ones(1, 2, 9, 24) for x in "qk"}, r"head dims d/dv .*32/32, .* 192/128; got 24/24"),
        ({x: torch.ones(1, 2, 9, 32).double() for x in "qk"}, "`q` must be float32, .*; got torch.float64"),
        ({"tiling": (48, 32, 128, 128, 32)}, "`block_q` must be 16, 32, 64 or 128 for backend 'triton'; got 48"),
        ({"tiling": (64, 8, 128, 128, 32)}, "`block_k` must be 16, 32, 64 or 128 for backend 'triton'; got 8"),
    ],
)
def test_what_the_kernel_does_not_take_has_a_remedy(sale, changes, message):
    given = tensors(70, 300)
    if "tiling" in changes:
        changes = {"tiling": sale.Tiling(*changes["tiling"])}
    with pytest.raises(ValueError, match=message + '.* pass backend="reference"'):
        sale.select_blocks(**({"q": given["q"], "k": given["k"]} | changes), backend="triton")


def test_the_kernel_asked_for_on_a_cpu_is_an_error(sale):
    given = tensors(70, 300, d=192, dv=128)
    message = r"`q` must be a CUDA tensor for backend 'triton'; got cpu. .* backend=\"reference\""
    with pytest.raises(ValueError, match=message):
        sale.select_blocks(given["q"], given["k"], backend="triton")
    kept = sale.select_blocks(given["q"], given["k"])
    with pytest.raises(ValueError, match=message):
        sale.attend_blocks(**given, kept=kept, backend="triton")


@pytest.mark.gpu
def test_a_gpu_takes_the_kernel_by_default(sale):
    given = {name: x.cuda() for name, x in tensors(130, 421).items()}
    kept = sale.select_blocks(given["q"], given["k"], 0.5)
    assert torch.equal(kept, sale.select_blocks(given["q"], given["k"], 0.5, backend="triton"))
    assert torch.equal(
        sale.attend_blocks(**given, kept=kept), sale.attend_blocks(**given, kept=kept, backend="triton")
    )
