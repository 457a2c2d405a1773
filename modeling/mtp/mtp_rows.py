"""Rows of a left-padded batch that share a right edge: where their tokens stand, and how their caches are moved."""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..transformers_versions import CACHE


def check_cache(cache):
    if (
        type(cache) is not DynamicCache
        or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
        or cache.offloading
    ):
        kind = type(cache).__name__ + (" with offloading" if getattr(cache, "offloading", False) else "")
        raise ValueError(
            f"`{CACHE}` must be a DynamicCache with `use_mtp=True`, as rows are rolled back by different numbers of tokens; "
            f"got a {kind}. Leave `cache_implementation` and `{CACHE}` out."
        )
    if cache.get_seq_length() > 0:
        raise ValueError(
            f"`{CACHE}` must be empty for a batch with `use_mtp=True`, whose rows the cache holds aligned otherwise than the "
            f"text; got {cache.get_seq_length()} tokens. Leave it out."
        )


def left_padding(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Number of padding tokens of each row, `[batch, 1]`."""
    if attention_mask is None:
        return input_ids.new_zeros(input_ids.shape[0], 1)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"`attention_mask` must have the shape of `input_ids`, {list(input_ids.shape)}; got "
            f"{list(attention_mask.shape)}."
        )
    mask = attention_mask.bool()
    padding = (~mask).sum(dim=1, keepdim=True)
    if not torch.equal(mask, columns(input_ids) >= padding) or (padding == input_ids.shape[1]).any():
        raise ValueError(
            "`attention_mask` must be zeros, then at least one 1 in each row, as `use_mtp=True` needs padding on the left; "
            'got another order. Set `tokenizer.padding_side = "left"`.'
        )
    return padding


def columns(input_ids: torch.Tensor) -> torch.Tensor:
    return torch.arange(input_ids.shape[1], device=input_ids.device)


def positions(input_ids: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    return (columns(input_ids) - padding).clamp(min=0)


def realign(layer: DynamicLayer, shifts: torch.Tensor | None, held_end: int, end: int, first: int, extra: int = 0):
    """
    Moves a layer that holds columns up to `held_end`. Then it holds those from `first` on, or a sliding window of them and
    `extra` more, up to `end`.
    """
    if not layer.is_initialized:
        return
    start = first
    if isinstance(layer, DynamicSlidingWindowLayer):
        start = max(first, end - (layer.sliding_window - 1) - extra)
        layer.cumulative_length = end - first
    layer.keys = moved(layer.keys.transpose(1, 2), shifts, held_end, start, end).transpose(1, 2)
    layer.values = moved(layer.values.transpose(1, 2), shifts, held_end, start, end).transpose(1, 2)


def moved(states: torch.Tensor, shifts: torch.Tensor | None, held_end: int, start: int, end: int) -> torch.Tensor:
    """
    Columns `start` to `end` of each row, moved right.

    Args:
        states: `[rows, columns, ...]`, of columns up to `held_end`.
        shifts: by how many columns, `[rows, 1]`; None: nothing moves.
    """
    held_start = held_end - states.shape[1]
    if shifts is None:
        return states[:, start - held_start : end - held_start]
    everyone = torch.arange(len(shifts), device=shifts.device)[:, None]
    columns = torch.arange(start, end, device=shifts.device) - shifts - held_start
    return states[everyone, columns.clamp(min=0)]  # what comes from before the first column is padding
