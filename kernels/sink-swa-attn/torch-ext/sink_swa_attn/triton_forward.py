"""
Forward kernel: an online softmax whose running maximum starts at the sink, over the keys of the window only.

A tile's rows are (query, head) pairs of one key-value head, query by query: the heads of a group read their keys once, a
tile spans few positions, so that little of what it reads lies outside the window, and one query fills it with its heads.
"""

import torch
import triton
import triton.language as tl

from .tiles import Tiles, forward_tiles, number_of_splits, split_head_dim

LOG2_E = 1.4426950408889634


@triton.jit
def dot(a, b, acc, UPCAST: tl.constexpr, PRECISION: tl.constexpr):
    """acc + a b. UPCAST: Triton's interpreter multiplies bfloat16 wrongly."""
    if UPCAST:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def place(WINDOWED: tl.constexpr, KV_HEADS: tl.constexpr):
    """Tile, row of the batch and key-value head of a program."""
    tile = tl.program_id(0)
    if not WINDOWED:
        tile = tl.num_programs(0) - 1 - tile  # the longest rows first
    pair = tl.program_id(1)
    return tile, (pair // KV_HEADS).to(tl.int64), (pair % KV_HEADS).to(tl.int64)


@triton.jit
def rows_of(tile, kv_head, query_length, key_length, GROUP: tl.constexpr, BLOCK_M: tl.constexpr):
    """Of each row of a tile: whether there is one, its query, head and position; of all: first and last position."""
    rows = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    index = rows // GROUP
    offset = key_length - query_length
    first = (tile * BLOCK_M) // GROUP + offset
    last = tl.minimum((tile * BLOCK_M + BLOCK_M - 1) // GROUP, query_length - 1) + offset
    return rows < query_length * GROUP, index, kv_head * GROUP + rows % GROUP, index + offset, first, last


@triton.jit
def seen_keys(first, last, start_ptr, batch, window, WINDOWED: tl.constexpr, HAS_START: tl.constexpr):
    """The half-open range of keys that queries at positions first ... last see."""
    low = first * 0
    if WINDOWED:
        low = tl.maximum(low, first - window + 1)
    if HAS_START:
        low = tl.maximum(low, tl.load(start_ptr + batch))
    return low, last + 1


@triton.jit
def _forward(
    query_ptr, key_ptr, value_ptr, sinks_ptr, start_ptr, out_ptr, lse_ptr,
    query_stride_b, query_stride_h, query_stride_n,
    key_stride_b, key_stride_h, key_stride_n,
    value_stride_b, value_stride_h, value_stride_n,
    out_stride_s, out_stride_b, out_stride_h, out_stride_n,
    batch_size, query_length, key_length, window, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr, DV: tl.constexpr, BLOCK_DV: tl.constexpr,
    WINDOWED: tl.constexpr, HAS_SINKS: tl.constexpr, HAS_START: tl.constexpr, SPLITS: tl.constexpr,
    UPCAST: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tile, batch, kv_head = place(WINDOWED, KV_HEADS)
    split = tl.program_id(2)

    live, index, head, position, first, last = rows_of(tile, kv_head, query_length, key_length, GROUP, BLOCK_M)
    low, high = seen_keys(first, last, start_ptr, batch, window, WINDOWED, HAS_START)
    if SPLITS > 1:
        share = tl.cdiv(tl.cdiv(tl.maximum(high - low, 0), SPLITS), BLOCK_N) * BLOCK_N
        low += split * share
        high = tl.minimum(high, low + share)

    d1, dv, cols = tl.arange(0, D1), tl.arange(0, BLOCK_DV), tl.arange(0, BLOCK_N)
    row_ptr = query_ptr + batch * query_stride_b + head * query_stride_h + index.to(tl.int64) * query_stride_n
    query1 = tl.load(row_ptr[:, None] + d1[None, :], mask=live[:, None], other=0.0)
    key_ptr += batch * key_stride_b + kv_head * key_stride_h + low.to(tl.int64) * key_stride_n
    key1_ptrs = key_ptr + cols[None, :] * key_stride_n + d1[:, None]
    if D2:
        d2 = D1 + tl.arange(0, D2)
        query2 = tl.load(row_ptr[:, None] + d2[None, :], mask=live[:, None], other=0.0)
        key2_ptrs = key_ptr + cols[None, :] * key_stride_n + d2[:, None]
    value_ptr += batch * value_stride_b + kv_head * value_stride_h + low.to(tl.int64) * value_stride_n
    value_ptrs = value_ptr + cols[:, None] * value_stride_n + dv[None, :]

    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    if HAS_SINKS:
        top = tl.load(sinks_ptr + head, mask=live, other=float("-inf"))
        if SPLITS > 1:
            top = tl.where(split == 0, top, float("-inf"))
        total = tl.where(top == float("-inf"), 0.0, 1.0)
    acc = tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)
    for begin in range(low, high, BLOCK_N):
        columns = begin + cols
        there = columns < high
        key1 = tl.load(key1_ptrs, mask=there[None, :], other=0.0)
        logits = dot(query1, key1, None, UPCAST, PRECISION)
        key1_ptrs += BLOCK_N * key_stride_n
        if D2:
            key2 = tl.load(key2_ptrs, mask=there[None, :], other=0.0)
            logits = dot(query2, key2, logits, UPCAST, PRECISION)
            key2_ptrs += BLOCK_N * key_stride_n
        visible = there[None, :] & (columns[None, :] <= position[:, None])
        if WINDOWED:
            visible &= columns[None, :] > position[:, None] - window
        logits = tl.where(visible, logits * scale_log2, float("-inf"))

        new_top = tl.maximum(top, tl.max(logits, 1))
        finite = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(logits - finite[:, None])
        shrink = tl.exp2(top - finite)
        total = total * shrink + tl.sum(weights, 1)
        values = tl.load(value_ptrs, mask=there[:, None] & (dv < DV)[None, :], other=0.0)
        acc = dot(weights.to(values.dtype), values, acc * shrink[:, None], UPCAST, PRECISION)
        value_ptrs += BLOCK_N * value_stride_n
        top = new_top

    # A row that sees neither a key nor a sink is zero.
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    lse = tl.where(total == 0.0, float("-inf"), top + tl.log2(tl.where(total == 0.0, 1.0, total)))
    lse_ptr += (split * batch_size + batch) * (KV_HEADS * GROUP) * query_length
    tl.store(lse_ptr + head * query_length + index, lse, mask=live)
    out_ptr += split.to(tl.int64) * out_stride_s + batch * out_stride_b
    row_ptr = out_ptr + head * out_stride_h + index.to(tl.int64) * out_stride_n
    acc = acc.to(out_ptr.dtype.element_ty)
    tl.store(row_ptr[:, None] + dv[None, :], acc, mask=live[:, None] & (dv < DV)[None, :])


INTERPRETED = not isinstance(_forward, triton.JITFunction)


def dot_options(query: torch.Tensor) -> dict:
    """float32 is multiplied as three products of tf32, which keeps float32's precision; the others as they are."""
    return {
        "UPCAST": INTERPRETED and query.dtype == torch.bfloat16,
        "PRECISION": "tf32x3" if query.dtype == torch.float32 else "tf32",
    }


def head_options(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> dict:
    first, second = split_head_dim(query.shape[-1])
    return {
        "KV_HEADS": key.shape[1],
        "GROUP": query.shape[1] // key.shape[1],
        "D1": first,
        "D2": second,
        "DV": value.shape[-1],
        "BLOCK_DV": triton.next_power_of_2(value.shape[-1]),
    }


def forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks: torch.Tensor | None,
    window: int | None,
    scaling: float,
    kv_start: torch.Tensor | None,
    tiles: Tiles | None = None,
    splits: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Args:
        query, key, value: as in `sink_swa_attention`; the last dimension is contiguous.
        tiles, splits: None: as `tiles.py` says. Splits of the keys are reduced afterwards.

    Returns:
        The output `[B, H, Nq, Dv]`, whose memory is laid out as `[B, Nq, H, Dv]`, and the base-2 logarithm of each row's
        sum of exponentials, the sink's among them, `[B, H, Nq]`.
    """
    batch, heads, query_length, head_dim = query.shape
    kv_heads, key_length, v_head_dim = value.shape[1:]
    assert key.shape == (batch, kv_heads, key_length, head_dim)
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    rows = query_length * (heads // kv_heads)
    tiles = tiles or forward_tiles(query.dtype, rows)
    programs = triton.cdiv(rows, tiles.rows) * batch * kv_heads
    splits = splits or number_of_splits(programs, key_length if window is None else window, tiles, query.device)

    shape = (splits, batch, query_length, heads, v_head_dim)
    out = torch.empty(shape, device=query.device, dtype=query.dtype if splits == 1 else torch.float32).transpose(2, 3)
    lse = torch.empty((splits, batch, heads, query_length), device=query.device, dtype=torch.float32)
    _forward[(triton.cdiv(rows, tiles.rows), batch * kv_heads, splits)](
        query, key, value,
        lse if sinks is None else sinks.float() * LOG2_E, lse if kv_start is None else kv_start,
        out, lse,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *out.stride()[:4],
        batch, query_length, key_length, window or 0, scaling * LOG2_E,
        **head_options(query, key, value),
        WINDOWED=window is not None, HAS_SINKS=sinks is not None, HAS_START=kv_start is not None, SPLITS=splits,
        **dot_options(query),
        BLOCK_M=tiles.rows, BLOCK_N=tiles.keys, num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    if splits == 1:
        return out[0], lse[0]
    top = lse.amax(dim=0)
    parts = torch.exp2(lse - top.clamp_min(torch.finfo(torch.float32).min))
    total = parts.sum(dim=0)
    out = (out * (parts / total.clamp_min(1e-30)).unsqueeze(-1)).sum(dim=0)
    return out.to(query.dtype), top + total.log2()
