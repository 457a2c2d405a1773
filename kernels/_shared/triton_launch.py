"""What all launches have in common: products, where rows begin, options and strides."""

import torch
import triton
import triton.language as tl

from .tiles import Tiles, split_head_dim

LOG2_E = 1.4426950408889634


@triton.jit
def dot(a, b, acc, UPCAST: tl.constexpr, PRECISION: tl.constexpr):
    """acc + a b. UPCAST: Triton's interpreter multiplies bfloat16 wrongly."""
    if UPCAST:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def first_slot(start_ptr, batch, HAS_START: tl.constexpr):
    """Where the content of a row of the batch begins."""
    start = (batch * 0).to(tl.int32)
    if HAS_START:
        start = tl.load(start_ptr + batch)
    return start


INTERPRETED = not isinstance(dot, triton.JITFunction)


def options_of(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kv_start: torch.Tensor | None, tiles: Tiles) -> dict:
    """float32 is multiplied as three products of tf32, which keeps float32's precision; the others as they are."""
    first, second = split_head_dim(q.shape[-1])
    return {
        "KV_HEADS": k.shape[1],
        "GROUP": q.shape[1] // k.shape[1],
        "D1": first,
        "D2": second,
        "DV": v.shape[-1],
        "BLOCK_DV": triton.next_power_of_2(v.shape[-1]),
        "HAS_START": kv_start is not None,
        "UPCAST": INTERPRETED and q.dtype == torch.bfloat16,
        "PRECISION": "tf32x3" if q.dtype == torch.float32 else "tf32",
        "BLOCK_M": tiles.rows,
        "BLOCK_N": tiles.keys,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
    }


def strides_of(*tensors: torch.Tensor) -> list[int]:
    """All but that of the channels, which lie side by side."""
    assert all(tensor.stride(-1) == 1 for tensor in tensors)
    return [stride for tensor in tensors for stride in tensor.stride()[:-1]]


def with_channels_side_by_side(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def empty_outputs(q: torch.Tensor, v: torch.Tensor, splits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[splits, B, H, n, dv]`, in memory `[splits, B, n, H, dv]`, and `[splits, B, H, n]`; parts are kept in float32."""
    batch, heads, queries = q.shape[:3]
    dtype = q.dtype if splits == 1 else torch.float32
    out = torch.empty((splits, batch, queries, heads, v.shape[-1]), device=q.device, dtype=dtype).transpose(2, 3)
    return out, torch.empty((splits, batch, heads, queries), device=q.device, dtype=torch.float32)


def merge_splits(out: torch.Tensor, lse: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """What `empty_outputs` made, filled with parts of rows (base-2 lse), as it were with `splits` = 1."""
    top = lse.amax(dim=0, keepdim=True)
    parts = torch.exp2(lse - top.clamp_min(torch.finfo(torch.float32).min))
    total = parts.sum(dim=0, keepdim=True)
    out = (out * (parts / total.clamp_min(1e-30)).unsqueeze(-1)).sum(dim=0, keepdim=True)
    return out.to(dtype), top + total.log2()
