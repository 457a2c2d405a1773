"""An online softmax, a tile of keys at a time."""

import triton
import triton.language as tl

from .triton_launch import dot


@triton.jit
def softmax_start(
    sinks_ptr, head, live, split, HAS_SINKS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_DV: tl.constexpr
):
    """Largest logit, sum of exponentials and weighted values of rows that have seen their sink only, in the first split."""
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    if HAS_SINKS:
        top = tl.load(sinks_ptr + head, mask=live, other=float("-inf"))
        top = tl.where(split == 0, top, float("-inf"))
    return top, tl.where(top == float("-inf"), 0.0, 1.0), tl.zeros([BLOCK_M, BLOCK_DV], tl.float32)


@triton.jit
def softmax_step(logits, tile_top, values, top, total, acc, UPCAST: tl.constexpr, PRECISION: tl.constexpr):
    """The same after one more tile of keys; `tile_top` is the largest of each row's logits."""
    new_top = tl.maximum(top, tile_top)
    finite = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp2(logits - finite[:, None])
    shrink = tl.exp2(top - finite)
    total = total * shrink + tl.sum(weights, 1)
    return new_top, total, dot(weights.to(values.dtype), values, acc * shrink[:, None], UPCAST, PRECISION)


@triton.jit
def softmax_end(top, total, acc):
    """Output and base-2 lse. A row that sees neither a key nor a sink is zero."""
    acc = acc / tl.where(total == 0.0, 1.0, total)[:, None]
    return acc, tl.where(total == 0.0, float("-inf"), top + tl.log2(tl.where(total == 0.0, 1.0, total)))
