"""Where the content of a batch's rows lies: after padding, or as documents packed into one row."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.functional import pad


class Rows(NamedTuple):
    """
    Where the rows of a batch stand in the text. A *slot* is a place in the cache.

    Rows of a left-padded batch begin at the slots `kv_start`, and blocks of keys are counted from there: block i of row b holds
    the slots from `kv_start[b] + i * block_size` on. So padding moves no block.

    Args:
        kv_start: the first slot of each row, `[batch]`; None: 0.
        q_offset: the slot of the first query; query r stands at slot `q_offset + r`.
        k_offset: the slot of the first key: a sliding cache begins later than its row.
    """

    kv_start: torch.Tensor | None = None
    q_offset: int = 0
    k_offset: int = 0

    @property
    def start(self) -> torch.Tensor | int:
        """kv_start, to be compared with `[batch, key_value_heads, queries, slots]`."""
        return 0 if self.kv_start is None else self.kv_start.view(-1, 1, 1, 1)

    def after(self, queries: int) -> "Rows":
        """The same without the first queries."""
        return self._replace(q_offset=self.q_offset + queries)

    def query_slots(self, num_queries: int, device: torch.device) -> torch.Tensor:
        """`[queries, 1]`."""
        return torch.arange(self.q_offset, self.q_offset + num_queries, device=device)[:, None]

    def visible(
        self, num_queries: int, num_keys: int, device: torch.device, window: int | None = None
    ) -> torch.Tensor:
        """Who sees whom, `[batch or 1, 1, queries, keys]`: keys from `kv_start` on, in the past and in the window."""
        query_slots = self.query_slots(num_queries, device)
        key_slots = torch.arange(self.k_offset, self.k_offset + num_keys, device=device)
        visible = key_slots <= query_slots
        if window is not None:
            visible &= key_slots > query_slots - window
        return visible[None, None] if self.kv_start is None else visible & (key_slots >= self.start)


def content_start(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """
    Args:
        attention_mask: `[batch, slots]`, not 0 where there is content; or a mask that transformers made of it, `[batch, 1,
            queries, slots]`, boolean or additive.

    Returns:
        The first slot with content of each row, `[batch]`, the number of slots for a row without any; None where all
        rows begin at slot 0.

    Raises:
        ValueError: there is padding between two tokens of a row.
    """
    if attention_mask is None:
        return None
    if attention_mask.dim() == 4:
        seen = attention_mask[:, 0, -1]
        seen = seen if seen.dtype == torch.bool else seen == 0
    else:
        seen = attention_mask != 0
    starts = (seen.cumsum(dim=-1) == 0).sum(dim=-1)
    if torch.compiler.is_compiling():
        return starts
    if attention_mask.dim() == 2:
        begins = seen & ~pad(seen[:, :-1], (1, 0), value=False)
        broken = (begins.sum(dim=-1) > 1).nonzero().flatten().tolist()
        if broken:
            raise ValueError(
                f"`attention_mask` has zeros between the tokens of row {broken[0]}: blocks are counted from a row's first "
                "token, so its tokens must be contiguous. Pad on the left (`tokenizer.padding_side = 'left'`)."
            )
    return starts if starts.any() else None


@dataclass(frozen=True)
class PackedDocuments:
    """Where each token of a packed batch lies among one row a document, `[batch, length]` both."""

    row: torch.Tensor
    column: torch.Tensor
    num_rows: int
    length: int

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """`[batch, length, ...]` to one row a document, zeros on the right: `[num_rows, longest, ...]`."""
        rows = states.new_zeros(self.num_rows, self.length, *states.shape[2:])
        return rows.index_put((self.row, self.column), states)

    def pack(self, rows: torch.Tensor) -> torch.Tensor:
        """The way back."""
        return rows[self.row, self.column]


def find_documents(position_ids: torch.Tensor | None) -> PackedDocuments | None:
    """
    Args:
        position_ids: `[batch, length]`; a token whose position is not the one after its neighbour's begins a document.

    Returns:
        None where each row is one document.
    """
    if position_ids is None or position_ids.shape[1] < 2:
        return None
    begins = position_ids[:, 1:] != position_ids[:, :-1] + 1
    if not begins.any():
        return None
    begins = pad(begins, (1, 0), value=True)
    row = begins.flatten().cumsum(0).sub(1).view_as(begins)
    places = torch.arange(begins.shape[1], device=begins.device).expand_as(begins)
    column = places - places.masked_fill(~begins, 0).cummax(dim=1).values
    return PackedDocuments(row, column, int(row.max()) + 1, int(column.max()) + 1)


__all__ = ["PackedDocuments", "Rows", "content_start", "find_documents"]
