"""From attention masks to `kv_start`: what the kernels can represent, and a clear error for the rest."""

import torch

ROWS = 1024


def kv_start_of(
    mask: torch.Tensor | None, query_length: int, key_length: int, window: int | None
) -> torch.Tensor | None:
    """
    The first key of each row of a batch, `[B]`, or None where all begin at key 0.

    Args:
        mask: None: causal; `[B, T]` of which keys are real; or boolean `[B, 1, n, T]`, True where a query may attend.
            Left padding is represented. So is right padding where n = T: rows of padding then give any finite values.

    Raises:
        ValueError: the mask says something else: packed documents, a static cache, another window, additive values.
    """
    if mask is None:
        if 1 < query_length < key_length:
            raise ValueError(
                f"`attention_mask` must not be None with {query_length} queries and {key_length} keys: this is how a static "
                "cache begins, and here the last query stands at the last key. Use a dynamic cache."
            )
        return None
    expected = [(key_length,), (1, query_length, key_length)]
    if tuple(mask.shape[1:]) not in expected:
        raise ValueError(
            f"`attention_mask` must be [B, {key_length}] or [B, 1, {query_length}, {key_length}]; got {list(mask.shape)}."
        )
    if mask.dim() == 4 and mask.dtype != torch.bool:
        raise ValueError(
            f"`attention_mask` must be booleans, True where a query may attend; got {mask.dtype}. Additive masks are not "
            "represented."
        )
    # All layers of a model get the same mask: it is read once for each window.
    version = 0 if mask.is_inference() else mask._version
    known = mask.__dict__.setdefault("_sink_swa_kv_start", {})
    question = (version, query_length, window)
    if question not in known:
        of_mask = _of_keys if mask.dim() == 2 else _of_pairs
        known[question] = of_mask(mask.bool(), query_length, key_length, window)
    return known[question]


def _of_keys(mask, query_length, key_length, window):
    position = torch.arange(key_length, device=mask.device)
    start = torch.where(mask.any(-1), mask.int().argmax(-1), key_length)
    end = torch.where(mask.any(-1), key_length - mask.int().flip(-1).argmax(-1), key_length)
    contiguous = mask == ((position >= start[:, None]) & (position < end[:, None]))
    if not bool(contiguous.all()) or (query_length < key_length and bool((end < key_length).any())):
        raise ValueError(
            "`attention_mask` must not have padding between or after the keys: here rows of a batch end at the last key. Pad "
            'them on the left (`tokenizer.padding_side = "left"`).'
        )
    return start.int() if bool((start > 0).any()) else None


def _of_pairs(mask, query_length, key_length, window):
    offset = key_length - query_length
    mask = mask[:, 0]
    real = mask.diagonal(offset, dim1=-2, dim2=-1)  # a query that does not see itself is padding
    position = torch.arange(key_length, device=mask.device)
    seen = torch.zeros_like(mask[:, 0])
    for begin in range(0, query_length, ROWS):
        seen |= (mask[:, begin : begin + ROWS] & real[:, begin : begin + ROWS, None]).any(1)
    start = torch.where(seen.any(-1), seen.int().argmax(-1), key_length)
    wrong = torch.zeros((), dtype=torch.bool, device=mask.device)
    for begin in range(0, query_length, ROWS):
        rows, own = mask[:, begin : begin + ROWS], real[:, begin : begin + ROWS, None]
        query = position[offset + begin : offset + begin + rows.shape[1], None]
        expected = (position <= query) & (position >= start[:, None, None])
        if window is not None:
            expected = expected & (position > query - window)
        differs = rows != (expected & own)
        wrong |= (differs & own if offset == 0 else differs).any()
    if bool(wrong):
        raise ValueError(
            f"`attention_mask` must be causal with window={window}, padding on the left and the last query at the last key; "
            "got another one. Packed documents, static caches and masks of one's own are not represented: use "
            'attn_implementation="eager" or "mimo_sink" for them.'
        )
    return start.int() if bool((start > (0 if window is None else max(0, offset - window + 1))).any()) else None
