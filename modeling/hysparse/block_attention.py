"""The attentions of HySparse in PyTorch: full with block selection, over selected blocks, over a window.

A *slot* is a place in the cache. Rows of a left-padded batch begin at the slots `kv_start`, and blocks of keys are counted
from there: block i of row b holds the slots from `kv_start[b] + i * block_size` on. So padding moves no block.

*Materialised* attention holds all logits of all queries at once, for few queries, and where weights are wanted. Otherwise
queries go chunk by chunk through PyTorch's fused attention: memory grows with the context, not with its square. An exported
program is materialised as well: the number of chunks would fix its length.
"""

import torch
from torch.compiler import is_exporting
from torch.nn.functional import pad

from ..sink_attention import FEW_QUERIES, sink_attention_forward
from .block_major import block_major_attention

CHUNK_LOGITS = 1 << 22  # of a chunk of queries, over all heads: 16 MB, which caches can hold
SPARSE_ENOUGH = 8  # from this many times the selected keys on, going block by block is quicker than a mask

# Full attention


def full_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float,
    block_size: int,
    topk: int,
    kv_start: torch.Tensor | None = None,
    q_offset: int = 0,
    need_selection: bool = True,
    oracle_reduce: str = "max",
    forced_local_blocks: int = 0,
    forced_initial_blocks: int = 0,
    materialise: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    r"""
    Causal attention, and the blocks of keys that it finds most important for each query (arXiv 2602.03560, section 3.2).

    Block i scores $\max_{h \in group} \max_{j \in i} \exp(scaling\, q_h k_j - LSE_h)$; of equal scores the first block
    wins. No gradient flows through the selection.

    Args:
        query: `[batch, heads, queries, head_dim]`; query r stands at slot `q_offset + r`.
        key: `[batch, key_value_heads, slots, head_dim]`; slots after the last query's are not read.
        value: `[batch, key_value_heads, slots, v_head_dim]`.
        kv_start: the first slot of each row, `[batch]`; None: 0.
        oracle_reduce, forced_local_blocks, forced_initial_blocks: as in `HySparseConfig`.
        materialise: hand out the attention weights.

    Returns:
        `[batch, heads, queries, v_head_dim]`, zeros where a query sees no key; the selected blocks, `[batch,
        key_value_heads, queries, topk]`, int32, best first, -1 where there are no more, or None; and the weights `[batch,
        heads, queries, slots]`, or None.
    """
    num_queries, num_slots = query.shape[2], q_offset + query.shape[2]
    key, value = key[:, :, :num_slots], value[:, :, :num_slots]
    selection = Selection(block_size, topk, oracle_reduce, forced_local_blocks, forced_initial_blocks)
    if materialise or is_exporting() or (need_selection and num_queries <= FEW_QUERIES):
        visible = visible_keys(num_queries, num_slots, q_offset, kv_start, query.device)
        logits = _logits(query, key, scaling)
        output, weights = _materialised(logits, value, visible)
        blocks = None
        if need_selection:
            with torch.no_grad():
                blocks = selection.blocks(logits.masked_fill(~visible[:, :, None], float("-inf")), kv_start, q_offset)
        return output, blocks, weights if materialise else None

    if kv_start is None and q_offset == 0:
        output = _fused(query, key, value, None, scaling)
    else:
        chunks = []
        for first, last in _chunks(query, num_slots):
            end = q_offset + last
            visible = visible_keys(last - first, end, q_offset + first, kv_start, query.device)
            chunks.append(_fused(query[:, :, first:last], key[:, :, :end], value[:, :, :end], visible, scaling))
        output = torch.cat(chunks, dim=2)
    blocks = select_blocks(query, key, scaling, selection, kv_start, q_offset) if need_selection else None
    return output, blocks, None


@torch.no_grad()
def select_blocks(query, key, scaling, selection: "Selection", kv_start, q_offset: int) -> torch.Tensor:
    """The selection of `full_attention`, chunk by chunk: `[batch, key_value_heads, queries, topk]`."""
    chosen = []
    for first, last in _chunks(query, q_offset + query.shape[2]):
        start, end = q_offset + first, q_offset + last
        logits = _logits(query[:, :, first:last], key[:, :, :end], scaling)
        # Only the slots of the chunk itself can lie in a query's future.
        future = torch.ones(last - first, last - first, dtype=torch.bool, device=query.device).triu(1)
        logits[..., start:].masked_fill_(future, float("-inf"))
        chosen.append(selection.blocks(logits, kv_start, start))
    return torch.cat(chosen, dim=2)


class Selection:
    """Which blocks a query gets: the rule of `full_attention` on the logits of one chunk of queries."""

    def __init__(self, block_size: int, topk: int, oracle_reduce: str, forced_local: int, forced_initial: int):
        self.block_size = block_size
        self.topk = topk
        self.oracle_reduce = oracle_reduce
        self.forced_local = forced_local
        self.forced_initial = forced_initial

    def blocks(self, logits: torch.Tensor, kv_start: torch.Tensor | None, q_offset: int) -> torch.Tensor:
        """
        Args:
            logits: `[batch, key_value_heads, group, queries, slots]`, -inf in the future; overwritten.

        Returns:
            `[batch, key_value_heads, queries, topk]`, int32.
        """
        by_block = _from_content_start(logits, kv_start, self.block_size)
        scores = self._scores(by_block)
        ids = torch.arange(scores.shape[-1], device=scores.device)
        query_slots = torch.arange(q_offset, q_offset + scores.shape[2], device=scores.device)[:, None]
        starts = 0 if kv_start is None else kv_start.view(-1, 1, 1, 1)
        own = torch.div(query_slots - starts, self.block_size, rounding_mode="floor")
        if self.oracle_reduce == "recent":
            scores = torch.where(ids <= own, ids.to(scores.dtype), float("-inf")).expand_as(scores)
        elif self.oracle_reduce == "random":
            scores = torch.where(ids <= own, torch.rand_like(scores), float("-inf"))
        if self.forced_local or self.forced_initial:
            forced = (ids <= own) & ((ids > own - self.forced_local) | (ids < self.forced_initial))
            scores = scores.masked_fill(forced, float("inf"))

        missing = self.topk if is_exporting() else max(self.topk - scores.shape[-1], 0)
        best, order = pad(scores, (0, missing), value=float("-inf")).sort(dim=-1, descending=True, stable=True)
        chosen = order[..., : self.topk].masked_fill(best[..., : self.topk] == float("-inf"), -1)
        return chosen.to(torch.int32)

    def _scores(self, by_block: torch.Tensor) -> torch.Tensor:
        """`[batch, key_value_heads, group, queries, blocks, block_size]` to the group's `[..., queries, blocks]`."""
        if self.oracle_reduce == "sum":
            scores = by_block.logsumexp(-1)
        else:
            scores = by_block.amax(-1)
        # The heads of a group differ in their LSE; within one head it changes no order.
        if by_block.shape[2] > 1 and self.oracle_reduce in ("max", "sum"):
            top = scores.amax(-1, keepdim=True)
            top = top.masked_fill(top == float("-inf"), 0.0)
            mass = by_block.sub_(top[..., None]).exp_().sum((-2, -1))[..., None]
            scores = scores - top - mass.log().masked_fill(mass == 0, 0.0)
        return scores.amax(dim=2)


def _from_content_start(logits: torch.Tensor, kv_start: torch.Tensor | None, block_size: int) -> torch.Tensor:
    """Cuts the last dimension into blocks that begin at `kv_start`, -inf beyond the last slot."""
    if kv_start is not None:
        places = torch.arange(logits.shape[-1], device=logits.device)
        slots = places + kv_start.view(-1, 1, 1, 1, 1)
        beyond = slots > places[-1:]
        logits = logits.gather(-1, slots.masked_fill(beyond, 0).expand_as(logits)).masked_fill_(beyond, float("-inf"))
    if is_exporting():  # padding of a size that depends on the length would fix its remainder
        blocks = -(-logits.shape[-1] // block_size)
        logits = pad(logits, (0, block_size), value=float("-inf"))[..., : blocks * block_size]
    else:
        logits = pad(logits, (0, -logits.shape[-1] % block_size), value=float("-inf"))
    return logits.unflatten(-1, (-1, block_size))


# Sparse attention


def block_sparse_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    block_indices: torch.Tensor,
    *,
    scaling: float,
    block_size: int,
    kv_start: torch.Tensor | None = None,
    q_offset: int = 0,
    sinks: torch.Tensor | None = None,
    materialise: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Causal attention over the keys of selected blocks (arXiv 2602.03560, section 3.3).

    Args:
        query, key, value, kv_start, q_offset: as in `full_attention`.
        block_indices: `[batch, key_value_heads, queries, topk]`, -1 for no block.
        sinks: a logit per head that takes its share of the softmax and gives nothing, `[heads]`.
        materialise: hand out the attention weights.

    Returns:
        `[batch, heads, queries, v_head_dim]`, zeros where no key is selected; and the weights `[batch, heads, queries,
        slots]`, or None.
    """
    num_queries, num_slots = query.shape[2], q_offset + query.shape[2]
    key, value = key[:, :, :num_slots], value[:, :, :num_slots]
    materialised = materialise or is_exporting()
    few = not materialised and num_queries <= FEW_QUERIES
    if few and block_indices.shape[-1] * block_size < num_slots:
        return _gathered(query, key, value, block_indices, scaling, block_size, kv_start, q_offset, sinks), None
    if few or materialised:
        visible = visible_keys(num_queries, num_slots, q_offset, kv_start, query.device)
        visible = visible & selected_keys(block_indices, num_slots, block_size, kv_start)
        output, weights = _materialised(_logits(query, key, scaling), value, visible, sinks)
        return output, weights if materialise else None
    if block_indices.shape[-1] * block_size * SPARSE_ENOUGH <= num_slots:
        arguments = (query, key, value, block_indices, scaling, block_size, kv_start, q_offset, sinks)
        return block_major_attention(*arguments), None

    chunks = []
    for first, last in _chunks(query, num_slots):
        end = q_offset + last
        visible = visible_keys(last - first, end, q_offset + first, kv_start, query.device)
        visible = visible & selected_keys(block_indices[:, :, first:last], end, block_size, kv_start)
        chunks.append(_fused(query[:, :, first:last], key[:, :, :end], value[:, :, :end], visible, scaling, sinks))
    return torch.cat(chunks, dim=2), None


def selected_keys(block_indices, num_slots: int, block_size: int, kv_start: torch.Tensor | None) -> torch.Tensor:
    """`[batch, key_value_heads, queries, topk]` as a mask of slots, `[batch, key_value_heads, queries, slots]`."""
    # Comparing with sizes as tensors, not as numbers, keeps a traced program free to take other sizes. Column 0 takes -1 and,
    # in a chunk that ends before its row does, blocks after its end.
    places = torch.arange(num_slots, device=block_indices.device)
    chosen = block_indices.new_zeros(*block_indices.shape[:-1], -(-num_slots // block_size) + 1, dtype=torch.bool)
    columns = block_indices.long() + 1
    if num_slots > 0:
        columns = columns.masked_fill(columns > _block(places[-1], block_size) + 1, 0)
    chosen = chosen.scatter(-1, columns, True).index_fill(-1, columns.new_zeros(1), False)
    if kv_start is None and not is_exporting():
        return chosen[..., 1:].repeat_interleave(block_size, dim=-1)[..., :num_slots]
    places = places if kv_start is None else places - kv_start.view(-1, 1, 1, 1)
    return chosen.gather(-1, (_block(places, block_size) + 1).clamp(min=0).expand(*chosen.shape[:-1], num_slots))


def _block(places: torch.Tensor, block_size: int) -> torch.Tensor:
    return torch.div(places, block_size, rounding_mode="floor")


def _gathered(query, key, value, block_indices, scaling, block_size, kv_start, q_offset, sinks) -> torch.Tensor:
    """For few queries: reads the selected keys only."""
    batch, kv_heads, num_queries, _ = block_indices.shape
    offsets = torch.arange(block_size, device=query.device)
    slots = (block_indices.long()[..., None] * block_size + offsets).flatten(-2)
    if kv_start is not None:
        slots = slots + kv_start.view(-1, 1, 1, 1)
    query_slots = torch.arange(q_offset, q_offset + num_queries, device=query.device)[:, None]
    there = (block_indices >= 0).repeat_interleave(block_size, dim=-1) & (slots <= query_slots)
    slots = slots.masked_fill(~there, 0)
    rows = torch.arange(batch, device=query.device).view(-1, 1, 1, 1)
    groups = torch.arange(kv_heads, device=query.device).view(1, -1, 1, 1)
    key, value = key[rows, groups, slots], value[rows, groups, slots]  # [batch, kv_heads, queries, selected, width]

    query = query.unflatten(1, (kv_heads, -1)).transpose(2, 3)  # [batch, kv_heads, queries, group, head_dim]
    logits = torch.matmul(query * scaling, key.transpose(-1, -2)).transpose(2, 3)
    weights = _softmax(logits, there[:, :, None], sinks).to(value.dtype)
    output = torch.matmul(weights.transpose(2, 3), value)
    return output.transpose(2, 3).flatten(1, 2)


# Window attention


def window_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    scaling: float,
    window: int,
    kv_start: torch.Tensor | None = None,
    q_offset: int = 0,
    k_offset: int = 0,
    sinks: torch.Tensor | None = None,
    materialise: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """
    Causal attention over the last `window` slots, the query's own among them.

    Args:
        query, kv_start, q_offset: as in `full_attention`.
        key, value: from slot `k_offset` on (a sliding cache begins later than its row).
        sinks, materialise: as in `block_sparse_attention`.

    Returns:
        `[batch, heads, queries, v_head_dim]`; and the weights `[batch, heads, queries, slots]`, or None.
    """
    num_queries = query.shape[2]
    if materialise or is_exporting():
        num_keys = q_offset + num_queries - k_offset
        key, value = key[:, :, :num_keys], value[:, :, :num_keys]
        visible = visible_keys(num_queries, num_keys, q_offset, kv_start, query.device, window, k_offset)
        output, weights = _materialised(_logits(query, key, scaling), value, visible, sinks)
        return output, weights if materialise else None

    chunks = []
    size = max(window, 256)
    for first in range(0, max(num_queries, 1), size):
        last = min(first + size, num_queries)
        begin = max(q_offset + first - window + 1, k_offset)
        end = q_offset + last
        visible = visible_keys(last - first, end - begin, q_offset + first, kv_start, query.device, window, begin)
        part = slice(begin - k_offset, end - k_offset)
        chunks.append(_fused(query[:, :, first:last], key[:, :, part], value[:, :, part], visible, scaling, sinks))
    return torch.cat(chunks, dim=2), None


# What they share


def visible_keys(
    num_queries: int,
    num_keys: int,
    q_offset: int,
    kv_start: torch.Tensor | None,
    device: torch.device,
    window: int | None = None,
    k_offset: int = 0,
) -> torch.Tensor:
    """Who sees whom, `[batch or 1, 1, queries, keys]`: keys from `kv_start` on, in the past and in the window."""
    query_slots = torch.arange(q_offset, q_offset + num_queries, device=device)[:, None]
    key_slots = torch.arange(k_offset, k_offset + num_keys, device=device)
    visible = key_slots <= query_slots
    if window is not None:
        visible &= key_slots > query_slots - window
    visible = visible[None, None]
    return visible if kv_start is None else visible & (key_slots >= kv_start.view(-1, 1, 1, 1))


def _chunks(query: torch.Tensor, num_slots: int) -> list[tuple[int, int]]:
    batch, heads, num_queries, _ = query.shape
    size = max(FEW_QUERIES + 1, CHUNK_LOGITS // max(batch * heads * num_slots, 1))
    return [(first, min(first + size, num_queries)) for first in range(0, max(num_queries, 1), size)]


def _logits(query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
    """`[batch, key_value_heads, group, queries, keys]`, in float32 at least: close scores must not change their order."""
    precision = torch.promote_types(query.dtype, torch.float32)
    kv_heads, num_queries = key.shape[1], query.shape[2]
    stacked = query.unflatten(1, (kv_heads, -1)).flatten(2, 3).to(precision)
    # Scaled after the product, as transformers' eager attention does it.
    logits = torch.matmul(stacked, key.to(precision).transpose(-1, -2)).mul_(scaling)
    return logits.unflatten(2, (-1, num_queries))


def _materialised(logits, value, visible, sinks=None) -> tuple[torch.Tensor, torch.Tensor]:
    kv_heads, num_queries = value.shape[1], logits.shape[3]
    weights = _softmax(logits, visible[:, :, None], sinks).to(value.dtype).flatten(1, 2)
    # The output is made of what is handed out, so that a gradient by the weights can be had.
    output = torch.matmul(weights.unflatten(1, (kv_heads, -1)).flatten(2, 3), value)
    return output.unflatten(2, (-1, num_queries)).flatten(1, 2), weights


def _softmax(logits: torch.Tensor, visible: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Over the last dimension of `[batch, key_value_heads, group, queries, keys]`; zeros where nothing is visible."""
    logits = logits.masked_fill(~visible, float("-inf"))
    precision = torch.promote_types(logits.dtype, torch.float32)
    if sinks is None:
        weights = logits.softmax(dim=-1, dtype=precision)
    else:
        column = sinks.to(logits.dtype).view(1, *logits.shape[1:3], 1, 1).expand(*logits.shape[:-1], 1)
        weights = torch.cat([logits, column], dim=-1).softmax(dim=-1, dtype=precision)[..., :-1]
    return weights.masked_fill(~visible, 0.0)


def _fused(query, key, value, visible, scaling, sinks=None) -> torch.Tensor:
    """PyTorch's fused attention; `visible` is `[batch or 1, 1 or key_value_heads, queries, keys]`, None: causal."""
    groups = query.shape[1] // key.shape[1]
    blind = None
    if visible is not None and sinks is None:
        blind = ~visible.any(dim=-1, keepdim=True)
        visible = visible | blind  # a softmax over nothing is NaN
    if visible is not None and visible.shape[1] > 1:
        visible, blind = (mask if mask is None else mask.repeat_interleave(groups, dim=1) for mask in (visible, blind))
    if query.shape[2] > FEW_QUERIES or (visible is not None and visible.shape[1] > 1):
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    output, _ = sink_attention_forward(None, query, key, value, visible, scaling=scaling, s_aux=sinks)
    output = output.transpose(1, 2)
    return output if blind is None else output.masked_fill(blind, 0.0)


__all__ = ["block_sparse_attention", "full_attention", "window_attention"]
