"""Which tiles are kept: integer products of codes against each row's bar, a tile of queries a program, eight tiles of keys a byte."""

import torch
import triton
import triton.language as tl

from ._shared.tiles import split_head_dim
from .quantize import LARGEST
from .reference import DENSE_BELOW
from .tiling import Layout, Tiling
from .triton_bars import areas, areas_of, row_bars
from .triton_quantize import quantize_rows

BYTES = 64  # of the map that are written at once, where nothing is estimated


@triton.jit
def _select(
    q_ptr, q_scales_ptr, k_ptr, k_scales_ptr, offsets_ptr, bars_ptr, tau_ptr, kept_ptr,
    queries, keys, width,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, SINK: tl.constexpr, LOCAL: tl.constexpr, SEGMENT: tl.constexpr,
    HEADS: tl.constexpr, GROUP: tl.constexpr, D1: tl.constexpr, D2: tl.constexpr, HAS_OFFSETS: tl.constexpr,
    DENSE_BELOW: tl.constexpr, TILES: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest rows first
    pair = tl.program_id(1).to(tl.int64)
    kv_pair, head = pair // GROUP, pair % HEADS
    visible, local = areas(tile, queries, keys - queries, BLOCK_Q, BLOCK_K, SINK, LOCAL, SEGMENT)
    kept_ptr += (pair * tl.num_programs(0) + tile) * width
    local = tl.where(tl.load(tau_ptr + head) < DENSE_BELOW, SINK, local)

    # Bytes in which nothing is estimated.
    low = SINK // 8
    high = tl.where(local > SINK, tl.cdiv(local, 8), low)
    for begin in range(0, tl.cdiv(visible, 8), BYTES):
        byte = begin + tl.arange(0, BYTES)
        seen = tl.minimum(tl.maximum(visible - 8 * byte, 0), 8)
        tl.store(kept_ptr + byte, ((1 << seen) - 1).to(tl.uint8), mask=(seen > 0) & ((byte < low) | (byte >= high)))

    rows = tile * BLOCK_Q + tl.arange(0, BLOCK_Q)
    live, row = rows < queries, pair * queries + rows
    d1, cols = tl.arange(0, D1), tl.arange(0, TILES * BLOCK_K)
    q1 = tl.load(q_ptr + row[:, None] * (D1 + D2) + d1[None, :], mask=live[:, None], other=0)
    if D2:
        d2 = D1 + tl.arange(0, D2)
        q2 = tl.load(q_ptr + row[:, None] * (D1 + D2) + d2[None, :], mask=live[:, None], other=0)
    q_scale = tl.load(q_scales_ptr + row, mask=live, other=0.0)
    bar = tl.load(bars_ptr + row, mask=live, other=0.0)

    parts: tl.constexpr = 8 // TILES
    bits = tl.full([], 0, tl.int32)
    for step in range(low * parts, high * parts):
        columns = step * (TILES * BLOCK_K) + cols
        there, column = columns < keys, kv_pair * keys + columns
        k1 = tl.load(k_ptr + column[None, :] * (D1 + D2) + d1[:, None], mask=there[None, :], other=0)
        products = tl.dot(q1, k1, out_dtype=tl.int32)
        if D2:
            k2 = tl.load(k_ptr + column[None, :] * (D1 + D2) + d2[:, None], mask=there[None, :], other=0)
            products = tl.dot(q2, k2, products, out_dtype=tl.int32)
        k_scale = tl.load(k_scales_ptr + column, mask=there, other=0.0)
        scores = products.to(tl.float32) * q_scale[:, None] * k_scale[None, :]
        if HAS_OFFSETS:
            scores += tl.load(offsets_ptr + pair * keys + columns, mask=there, other=0.0)[None, :]
        # What is not known to be below the bar stays.
        below = (scores <= bar[:, None]) | (rows >= queries)[:, None]
        found = tl.max(tl.where(below, 0, 1), 0)
        found = tl.max(tl.reshape(found, [TILES, BLOCK_K]), 1)
        place = tl.arange(0, TILES)
        other = step * TILES + place
        found = tl.where((other < SINK) | (other >= local), 1, found)
        part = tl.sum(tl.where(other < visible, found << place, 0), 0)
        # Of a byte in several parts, the last to be written has all.
        inside = step % parts
        bits = tl.where(inside == 0, part, bits | (part << (inside * TILES)))
        tl.store(kept_ptr + step // parts, bits.to(tl.uint8))


def select(
    q: torch.Tensor,
    k: torch.Tensor,
    tau: torch.Tensor,
    *,
    scale: float,
    quant: str,
    smooth: bool,
    share_group: bool,
    tiling: Tiling,
) -> torch.Tensor:
    """`select_blocks`, tau `[H]`."""
    batch, heads, queries, d = q.shape
    kv_heads, keys = k.shape[1:3]
    layout = Layout(queries, keys, tiling)
    q_mean, k_mean = (x.mean(dim=2, keepdim=True, dtype=torch.float32) if smooth else None for x in (q, k))
    tau = tau.to(q.device).contiguous()
    bars = row_bars(q, k, k_mean, tau, scale, tiling)
    q_codes, q_scales, _ = quantize_rows(q, "query", quant, q_mean, tiling, LARGEST)
    k_codes, k_scales, offsets = quantize_rows(k, "key", quant, k_mean, tiling, LARGEST, q_mean)
    kept = torch.zeros(
        (batch, heads, layout.query_tiles, -(-layout.key_tiles // 8)), dtype=torch.uint8, device=q.device
    )
    first, second = split_head_dim(d)
    _select[(layout.query_tiles, batch * heads)](
        q_codes, q_scales, k_codes, k_scales, k_scales if offsets is None else offsets, bars, tau, kept,
        queries, keys, kept.shape[-1],
        **areas_of(tiling), HEADS=heads, GROUP=heads // kv_heads, D1=first, D2=second, HAS_OFFSETS=offsets is not None,
        DENSE_BELOW=DENSE_BELOW, TILES=max(1, min(8, 128 // tiling.block_k)), BYTES=BYTES,
        num_warps=4 if tiling.block_q <= 64 else 8, num_stages=3,
    )  # fmt: skip
    if share_group:
        grouped = kept.unflatten(1, (kv_heads, -1))
        shared = grouped[:, :, 0]
        for member in range(1, grouped.shape[2]):
            shared = shared | grouped[:, :, member]
        kept = shared[:, :, None].expand_as(grouped).flatten(1, 2)
    return kept
