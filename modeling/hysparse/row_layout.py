"""Where the content of a batch's rows lies: after padding, or as documents packed into one row."""

from dataclasses import dataclass

import torch
from torch.nn.functional import pad


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


__all__ = ["PackedDocuments", "content_start", "find_documents"]
