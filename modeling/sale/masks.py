"""From transformers' masks to where the content of each row lies; no map of all pairs unless attention is dense."""

from typing import Any, NamedTuple

import torch
from transformers.masking_utils import causal_mask_function, sdpa_mask


def sale_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function=causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> torch.Tensor | None:
    """
    What transformers builds for `attn_implementation="sale"`.

    Returns:
        None: causal from the first key on, or one query that sees all. Booleans `[B, T]`: causal, with the keys that are real; the last
        query stands at the last key. Booleans `[B, 1, n, T]`: any other mask, as `sdpa` gets it.
    """
    plain = mask_function is causal_mask_function and q_length > 1 and kv_offset == 0
    is_short = attention_mask is not None and attention_mask.shape[1] < kv_length  # sdpa fills it up
    if is_short or not plain or not isinstance(q_offset, int) or q_offset + q_length != kv_length:
        # A static cache has keys to come: a mask that says nothing would mean another thing there.
        allow_is_causal_skip = allow_is_causal_skip and not (plain and q_length < kv_length)
        return sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
            allow_is_causal_skip=allow_is_causal_skip, **kwargs,
        )  # fmt: skip
    if attention_mask is not None:
        attention_mask = attention_mask[:, :kv_length].bool()
        if attention_mask.all():
            attention_mask = None
    if attention_mask is None and q_length == kv_length and allow_is_causal_skip:
        return None
    if attention_mask is None:
        return torch.ones(batch_size, kv_length, dtype=torch.bool, device=kwargs.get("device", "cpu"))
    return attention_mask


class Content(NamedTuple):
    """Of a row of a batch: the slots of its keys, and those of its queries, of which the last stands at the last key."""

    keys: slice
    queries: slice


def content_of(mask: torch.Tensor | None, batch: int, queries: int, keys: int) -> list[Content] | None:
    """
    Where each row's content lies; None where it is not one piece.

    Args:
        mask: `[B, T]`, or None: all of it.
    """
    if mask is None:
        return [Content(slice(0, keys), slice(0, queries))] * batch
    counts = mask.sum(dim=-1)
    starts = mask.int().argmax(dim=-1)
    places = torch.arange(keys, device=mask.device)
    pieces = (places >= starts[:, None]) & (places < (starts + counts)[:, None])
    if not torch.equal(pieces, mask):
        return None
    offset = keys - queries
    rows = []
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        first = max(start - offset, 0)
        rows.append(Content(slice(start, start + count), slice(first, max(start + count - offset, first))))
    return rows


def pairs_of(mask: torch.Tensor, queries: int) -> torch.Tensor:
    """Booleans `[B, 1, n, T]` of a mask `[B, T]`. A query in the padding sees all: its output is never read, and is no NaN."""
    keys = mask.shape[1]
    causal = torch.ones(queries, keys, dtype=torch.bool, device=mask.device).tril(keys - queries)
    pairs = causal & mask[:, None]
    return (pairs | ~pairs.any(dim=-1, keepdim=True))[:, None]
