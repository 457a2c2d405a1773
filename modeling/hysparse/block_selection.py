"""Which blocks of keys a full layer finds most important for each query (arXiv 2602.03560, section 3.2)."""

from typing import NamedTuple

import torch
from torch.compiler import is_exporting
from torch.nn.functional import pad

from .attention_parts import chunks_of, logits_of
from .configuration_hysparse import HySparseConfig
from .row_layout import Rows


class Selection(NamedTuple):
    r"""
    The rule: block i scores $\max_{h \in group} \max_{j \in i} \exp(scaling\, q_h k_j - LSE_h)$; of equal scores the first
    block wins. `oracle_reduce`, `forced_local_blocks` and `forced_initial_blocks` are as in `HySparseConfig`.
    """

    block_size: int
    topk: int
    oracle_reduce: str = "max"
    forced_local_blocks: int = 0
    forced_initial_blocks: int = 0

    @classmethod
    def of(cls, config: HySparseConfig) -> "Selection":
        forced = config.forced_local_blocks, config.forced_initial_blocks
        return cls(config.sparse_block_size, config.topk_blocks, config.oracle_reduce, *forced)

    def blocks(self, logits: torch.Tensor, rows: Rows) -> torch.Tensor:
        """
        Args:
            logits: `[batch, key_value_heads, group, queries, slots]`, -inf in the future; overwritten.

        Returns:
            `[batch, key_value_heads, queries, topk]`, int32.
        """
        by_block = _from_content_start(logits, rows.kv_start, self.block_size)
        scores = self._scores(by_block)
        ids = torch.arange(scores.shape[-1], device=scores.device)
        query_slots = rows.query_slots(scores.shape[2], scores.device)
        own = torch.div(query_slots - rows.start, self.block_size, rounding_mode="floor")
        if self.oracle_reduce == "recent":
            scores = torch.where(ids <= own, ids.to(scores.dtype), float("-inf")).expand_as(scores)
        elif self.oracle_reduce == "random":
            scores = torch.where(ids <= own, torch.rand_like(scores), float("-inf"))
        if self.forced_local_blocks or self.forced_initial_blocks:
            forced = (ids <= own) & ((ids > own - self.forced_local_blocks) | (ids < self.forced_initial_blocks))
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


@torch.no_grad()
def select_blocks(
    query: torch.Tensor, key: torch.Tensor, rows: Rows, scaling: float, selection: Selection
) -> torch.Tensor:
    """
    The blocks that each query gets, found chunk by chunk.

    Args:
        query: `[batch, heads, queries, head_dim]`.
        key: `[batch, key_value_heads, slots, head_dim]`.

    Returns:
        `[batch, key_value_heads, queries, topk]`, int32, best first, -1 where there are no more.
    """
    chosen = []
    for part, part_rows, end in chunks_of(query, rows):
        logits = logits_of(query[:, :, part], key[:, :, :end], scaling)
        # Only the slots of the chunk itself can lie in a query's future.
        future = torch.ones_like(logits[0, 0, 0, :, part_rows.q_offset :], dtype=torch.bool).triu(1)
        logits[..., part_rows.q_offset :].masked_fill_(future, float("-inf"))
        chosen.append(selection.blocks(logits, part_rows))
    return torch.cat(chosen, dim=2)


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
