"""Sliding-window attention with sinks in PyTorch: the ground truth of every backend, and what runs on a CPU."""

import torch

from ._shared.reference import attend

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
    query_length, key_length = query.shape[2], key.shape[2]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling

    # Keys that no query sees are cut off: what a cache holds there is never read.
    offset = key_length - query_length
    first_seen = 0 if window is None else max(0, offset - window + 1)
    position = torch.arange(first_seen, key_length, device=query.device)
    key, value = key[:, :, first_seen:], value[:, :, first_seen:]
    if kv_start is not None:
        kv_start = kv_start.to(query.device).view(-1, 1, 1, 1)

    # Chunk i of the queries sees chunk i of the keys, and what lies before it: one chunk where there is a window.
    size = CHUNK if window is None else max(window, CHUNK)
    rest = [min(size, query_length - begin) for begin in range(0, query_length, size)]
    sizes = [offset - first_seen, *rest]
    chunks = zip(key.split(sizes, dim=2), value.split(sizes, dim=2), position.split(sizes), strict=True)
    before = [next(chunks)]
    outputs = []
    for rows, seen in zip(query.split(rest, dim=2), chunks, strict=True):
        before = [*(before if window is None else before[-1:]), seen]
        keys, values = (torch.cat(parts, dim=2) for parts in list(zip(*before, strict=True))[:2])
        columns = torch.cat([part[2] for part in before])
        visible = (columns <= seen[2][:, None])[None, None]
        if window is not None:
            visible &= columns > seen[2][:, None] - window
        if kv_start is not None:
            visible = visible & (columns >= kv_start)
        outputs.append(attend(rows, keys, values, visible, sinks, scaling)[0])
    return torch.cat(outputs, dim=2)
