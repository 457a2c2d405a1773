"""Sliding-window attention with sinks in PyTorch: the ground truth of every backend, and what runs on a CPU."""

import torch

CHUNK = 128


def sink_swa_attention_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    sinks: torch.Tensor | None = None,
    window: int | None = None,
    scaling: float | None = None,
    kv_start: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""
    `sink_swa_attention` in chunks of queries, in float32 or better. With a window, time and memory are O(N W).

    Any head dims and any floating-point type, on any device. Shapes, arguments and the equation: `sink_swa_attention`.
    """
    batch, heads, query_length, head_dim = query.shape
    kv_heads, key_length = key.shape[1], key.shape[2]
    scaling = head_dim**-0.5 if scaling is None else scaling
    precision = torch.promote_types(query.dtype, torch.float32)

    # Keys that no query sees are cut off: what a cache holds there is never read.
    offset = key_length - query_length
    first_seen = 0 if window is None else max(0, offset - window + 1)
    position = torch.arange(first_seen, key_length, device=query.device)
    grouped = query.unflatten(1, (kv_heads, heads // kv_heads))
    key, value = key[:, :, first_seen:], value[:, :, first_seen:]
    if kv_start is not None:
        kv_start = kv_start.to(query.device).view(batch, 1, 1)
        padding = (position < kv_start).view(batch, 1, -1, 1)
        key, value = key.masked_fill(padding, 0), value.masked_fill(padding, 0)
    if sinks is not None:
        sinks = sinks.to(precision).view(1, kv_heads, heads // kv_heads, 1, 1)

    # Chunk i of the queries sees chunk i of the keys, and what lies before it: one chunk where there is a window.
    size = CHUNK if window is None else max(window, CHUNK)
    rest = [min(size, query_length - begin) for begin in range(0, query_length, size)]
    sizes = [offset - first_seen, *rest]
    chunks = zip(key.split(sizes, dim=2), value.split(sizes, dim=2), position.split(sizes), strict=True)
    before = [next(chunks)]
    outputs = []
    for rows, seen in zip(grouped.split(rest, dim=3), chunks, strict=True):
        before = [*(before if window is None else before[-1:]), seen]
        keys, values = (torch.cat(parts, dim=2) for parts in list(zip(*before, strict=True))[:2])
        columns = torch.cat([part[2] for part in before])
        visible = columns <= seen[2][:, None]
        if window is not None:
            visible &= columns > seen[2][:, None] - window
        if kv_start is not None:
            visible = (visible & (columns >= kv_start))[:, None, None]
        outputs.append(_attend(rows, keys, values, visible, sinks, scaling, precision))
    return torch.cat(outputs, dim=3).flatten(1, 2).to(query.dtype)


def _attend(query, key, value, visible, sinks, scaling, precision) -> torch.Tensor:
    """query `[B, Hk, G, M, D]`, key `[B, Hk, N, D]`, value `[B, Hk, N, Dv]`, visible broadcast to `[B, Hk, G, M, N]`."""
    group = query.shape[2:4]
    logits = query.to(precision).flatten(2, 3) @ key.to(precision).transpose(-1, -2) * scaling
    logits = logits.unflatten(2, group).masked_fill(~visible, float("-inf"))
    top = logits.detach().amax(dim=-1, keepdim=True)
    if sinks is not None:
        top = torch.maximum(top, sinks.detach())
    top = top.clamp_min(torch.finfo(precision).min)  # a row without keys and without a sink
    weights = (logits - top).exp()
    total = weights.sum(dim=-1, keepdim=True)
    if sinks is not None:
        total = total + (sinks - top).exp()
    weights = weights / torch.where(total > 0, total, 1)
    return (weights.flatten(2, 3) @ value.to(precision)).unflatten(2, group)
