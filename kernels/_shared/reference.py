"""A softmax written out in PyTorch: what the references of all attentions are made of."""

import torch


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    visible: torch.Tensor,
    sinks: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    In float32 or better. Keys that no query sees are not read.

    Args:
        q: `[B, H, m, d]`.
        k: `[B, K, P, d]`.
        v: `[B, K, P, dv]`.
        visible: which keys a query sees, `[B or 1, K or 1, m, P]`.
        sinks: `[H]`, or None.

    Returns:
        out `[B, H, m, dv]` in the type of q, lse `[B, H, m]` and logits `[B, K, G, m, P]`.
    """
    precision = torch.promote_types(q.dtype, torch.float32)
    rows = (q.shape[1] // k.shape[1], q.shape[2])
    unseen = ~visible.any(dim=2)[..., None]
    k, v = (x.to(precision).masked_fill(unseen, 0) for x in (k, v))  # 0 * NaN is NaN
    grouped = q.to(precision).unflatten(1, (k.shape[1], rows[0])).flatten(2, 3)
    logits = (grouped @ k.transpose(-1, -2) * scale).unflatten(2, rows)
    logits = logits.masked_fill(~visible[:, :, None], float("-inf"))

    top = logits.detach().amax(dim=-1, keepdim=True)
    if sinks is not None:
        sinks = sinks.to(precision).view(1, k.shape[1], rows[0], 1, 1)
        top = torch.maximum(top, sinks.detach())
    top = top.clamp_min(torch.finfo(precision).min)  # a row without keys and without a sink
    weights = (logits - top).exp()
    total = weights.sum(dim=-1, keepdim=True)
    if sinks is not None:
        total = total + (sinks - top).exp()
    empty = total == 0
    total = total.masked_fill(empty, 1)
    out = ((weights / total).flatten(2, 3) @ v).unflatten(2, rows)
    lse = (top + total.log()).masked_fill(empty, float("-inf"))
    return out.flatten(1, 2).to(q.dtype), lse.squeeze(-1).flatten(1, 2), logits
