"""The public functions: one signature for every backend."""

import torch

from ._shared.checks import backend_of, check_devices, check_number, check_tensors, placing, triton_operations
from .reference import block_sparse_attention_reference, full_attention_with_block_scores_reference
from .tiles import BLOCK_MULTIPLE


def full_attention_with_block_scores(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    block_size: int,
    topk: int,
    kv_start: torch.Tensor | None = None,
    q_offset: int | None = None,
    need_selection: bool = True,
    forced_local_blocks: int = 0,
    forced_initial_blocks: int = 0,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    r"""
    Causal attention that also names, for each query and group of heads, the blocks of keys with the largest probability:

    $S_i = \max_{h} \max_{j \in block\ i} \exp(scale \, q_h k_j - LSE_h)$, and idx the topk blocks of largest $S_i$ (HySparse,
    arXiv 2602.03560, section 3.2). The larger score comes first, then the lower index; computed as logarithms in float32.

    Query r stands at slot $q\_offset + r$ and sees the slots $kv\_start \le j \le q\_offset + r$; nothing else is read. Blocks
    are counted from the content's beginning, $(j - kv\_start) / block\_size$ rounded down: padding does not move them.
    Differentiable in q, k, v through out and lse; the selection is not. The same bits in every run.

    Args:
        q: `[B, H, n, d]`.
        k: `[B, K, T, d]`; H is a multiple of K.
        v: `[B, K, T, dv]`.
        scale: factor on the logits; None: `d ** -0.5`.
        block_size: keys in a block.
        topk: blocks to name.
        kv_start: first slot of each row of a left-padded batch, `[B]`, integers from 0 to T; None: 0.
        q_offset: slot of the first query; None: T - n. Slots from q_offset + n on belong to a static cache's future.
        need_selection: False: idx is None, and costs nothing.
        forced_local_blocks: so many blocks up to the query's own are named before all others, if visible.
        forced_initial_blocks: so many blocks at the beginning likewise.
        backend: "triton" (d/dv: 32/32, 64/64, 96/96, 128/128, 192/128; float32, float16, bfloat16; block_size a multiple of
            16), "reference" (PyTorch; any); None: "triton" for CUDA tensors, "reference" for others.

    Returns:
        out `[B, H, n, dv]`, in Triton laid out in memory as `[B, n, H, dv]`; lse `[B, H, n]`, float32 (float64 for float64); idx
        `[B, K, n, topk]`, int32, -1 behind the last visible block. A query that sees no key has out 0, lse minus infinity and
        no blocks.

    Raises:
        ValueError, TypeError: an argument that can't be, or that the backend does not take.
        ImportError: the backend is Triton, and Triton can't be imported.
    """
    _check(q, k, v, None, block_size, kv_start, q_offset)
    _check_selection(topk, forced_local_blocks, forced_initial_blocks)
    if backend_of(q, backend) == "reference":
        return full_attention_with_block_scores_reference(
            q,
            k,
            v,
            scale=scale,
            block_size=block_size,
            topk=topk,
            kv_start=kv_start,
            q_offset=q_offset,
            need_selection=need_selection,
            forced_local_blocks=forced_local_blocks,
            forced_initial_blocks=forced_initial_blocks,
        )
    triton_attention = _triton(q, v, block_size)
    selection = (block_size, topk, forced_local_blocks, forced_initial_blocks)
    with torch.cuda.device_of(q):
        return triton_attention.FullAttention.apply(
            q, k, v, *_placing(q, k, scale, kv_start, q_offset), selection if need_selection else None
        )


def block_sparse_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    idx: torch.Tensor,
    *,
    scale: float | None = None,
    block_size: int,
    kv_start: torch.Tensor | None = None,
    q_offset: int | None = None,
    sinks: torch.Tensor | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    r"""
    Causal attention over the blocks that each query has chosen, with a sink that takes a share and gives nothing:

    $out = \sum_j e^{a_j} v_j / (\sum_j e^{a_j} + e^{sink_h})$ with $a_j = scale \, q_h k_j$, j over the visible keys of the
    chosen blocks (HySparse, arXiv 2602.03560, section 3.3). Where queries stand and how blocks are counted:
    `full_attention_with_block_scores`. Differentiable in q, k, v and sinks through out and lse; the same bits in every run.
    With few queries, as in decoding, the Triton backend splits the blocks of a query over several programs.

    Args:
        q, k, v, scale, block_size, kv_start, q_offset, backend: as in `full_attention_with_block_scores`.
        idx: blocks of each query, `[B, K, n, topk]`, int32, all different; -1: none. Only their visible keys are read.
        sinks: logit of each head's sink, `[H]`; None: plain softmax.
        return_lse: whether to return the logarithm of the denominator, the sink's share in it.

    Returns:
        out `[B, H, n, dv]`, zero for a query without keys; with `return_lse` also lse `[B, H, n]`.

    Raises:
        ValueError, TypeError, ImportError: as `full_attention_with_block_scores`.
    """
    _check(q, k, v, sinks, block_size, kv_start, q_offset)
    _check_blocks(q, k, idx)
    if backend_of(q, backend) == "reference":
        return block_sparse_attention_reference(
            q,
            k,
            v,
            idx,
            scale=scale,
            block_size=block_size,
            kv_start=kv_start,
            q_offset=q_offset,
            sinks=sinks,
            return_lse=return_lse,
        )
    triton_attention = _triton(q, v, block_size)
    with torch.cuda.device_of(q):
        out, lse = triton_attention.BlockSparseAttention.apply(
            q, k, v, sinks, idx, *_placing(q, k, scale, kv_start, q_offset), block_size
        )
    return (out, lse) if return_lse else out


def hysparse_decode(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float | None = None,
    block_size: int,
    topk: int,
    kv_start: torch.Tensor | None = None,
    q_offset: int | None = None,
    forced_local_blocks: int = 0,
    forced_initial_blocks: int = 0,
    backend: str | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    `full_attention_with_block_scores` for one query a row: a step of decoding, without gradients.

    The keys are split over as many programs as the device runs at once, each of which writes the maxima of its own blocks; the
    parts are put together afterwards (flash-decoding). idx goes to `block_sparse_attention`, which splits likewise.

    Args:
        q: `[B, H, 1, d]`; the others as in `full_attention_with_block_scores`.

    Returns:
        out `[B, H, 1, dv]`, lse `[B, H, 1]` and idx `[B, K, 1, topk]`.

    Raises:
        ValueError: there is more than one query; and as `full_attention_with_block_scores`.
    """
    if q.dim() == 4 and q.shape[2] != 1:
        raise ValueError(
            f"`q` must be one query, [B, H, 1, d]; got {list(q.shape)}. For several call full_attention_with_block_scores."
        )
    with torch.no_grad():
        out, lse, idx = full_attention_with_block_scores(
            q,
            k,
            v,
            scale=scale,
            block_size=block_size,
            topk=topk,
            kv_start=kv_start,
            q_offset=q_offset,
            forced_local_blocks=forced_local_blocks,
            forced_initial_blocks=forced_initial_blocks,
            backend=backend,
        )
    assert idx is not None
    return out, lse, idx


# Arguments


def _check(q, k, v, sinks, block_size, kv_start, q_offset):
    check_tensors(q, k, v, sinks, kv_start)
    queries, slots = q.shape[2], k.shape[2]
    if q_offset is not None and (isinstance(q_offset, bool) or not isinstance(q_offset, int)):
        raise TypeError(f"`q_offset` must be an int, the first query's slot, or None for T - n; got {q_offset!r}.")
    if q_offset is not None and not 0 <= q_offset <= slots - queries:
        raise ValueError(
            f"`q_offset` must be 0 to {slots - queries} with {queries} queries and {slots} slots of keys; got {q_offset}."
        )
    check_number("block_size", block_size, 1, "keys in a block")


def _check_selection(topk, forced_local_blocks, forced_initial_blocks):
    check_number("topk", topk, 1, "blocks to name")
    check_number("forced_local_blocks", forced_local_blocks, 0, "blocks")
    check_number("forced_initial_blocks", forced_initial_blocks, 0, "blocks")
    if forced_local_blocks + forced_initial_blocks > topk:
        raise ValueError(
            f"`forced_local_blocks` and `forced_initial_blocks` must fit in topk={topk}; got {forced_local_blocks} and "
            f"{forced_initial_blocks}. Raise topk or force fewer."
        )


def _check_blocks(q, k, idx):
    expected = (q.shape[0], k.shape[1], q.shape[2])
    if idx.dim() != 4 or idx.shape[:3] != expected or idx.shape[3] == 0 or idx.dtype != torch.int32:
        raise ValueError(
            f"`idx` must be int32, [{', '.join(map(str, expected))}, topk], as full_attention_with_block_scores returns it; "
            f"got {list(idx.shape)} {idx.dtype}."
        )
    check_devices({"q": q, "idx": idx})


def _triton(q, v, block_size):
    if block_size % BLOCK_MULTIPLE:
        raise ValueError(
            f"`block_size` must be a multiple of {BLOCK_MULTIPLE} for backend 'triton'; got {block_size}: pass "
            'backend="reference" for PyTorch.'
        )
    return triton_operations(__package__, q, v)


def _placing(q, k, scale, kv_start, q_offset):
    """scale, kv_start and q_offset as the kernels want them."""
    return *placing(q, scale, kv_start), k.shape[2] - q.shape[2] if q_offset is None else q_offset
