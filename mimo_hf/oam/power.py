"""Power over parallel channels."""

import torch
from torch import Tensor

from .checks import Real, count, non_negative, positive


def equal_power(num_channels: int, total_power: Real = 1.0) -> Tensor:
    """`total_power` `[...]` shared evenly, `[..., N]`."""
    total = positive(total_power, "total_power")
    share = total[..., None] / count(num_channels, "num_channels")
    return share.expand(*total.shape, num_channels)


def stream_power(power: Tensor, num_streams: int) -> Tensor:
    """`power` as `[..., N]`, not negative, with one entry a stream."""
    power = non_negative(power, "power")
    if power.dim() == 0 or power.shape[-1] != num_streams:
        raise ValueError(f"`power` must be [..., {num_streams}], one entry a stream; got {list(power.shape)}.")
    return power


def water_filling(gains: Tensor, total_power: Real = 1.0) -> Tensor:
    r"""
    Power that maximises \\(\sum_i \log_2(1 + p_i g_i)\\) under \\(\sum_i p_i = P\\): \\(p_i = \max(0, \mu - 1/g_i)\\).

    All candidate levels \\(\mu_k = (P + \sum_{i \le k} 1/g_i)/k\\) of the k strongest channels are computed at once; the
    largest k with \\(\mu_k > 1/g_k\\) holds. Differentiable where no channel is about to be switched on or off.

    Args:
        gains: \\(g_i = \sigma_i^2/n_0\\), `[..., N]`, not negative. A zero gain gets no power.
        total_power: P, `[...]`, greater than zero.

    Returns:
        `[..., N]` in the order of `gains`, with the sum P; all zero where every gain is zero.
    """
    gains, total = non_negative(gains, "gains"), positive(total_power, "total_power")
    if gains.dim() == 0 or gains.shape[-1] == 0:
        raise ValueError(f"`gains` must be [..., N] with at least one channel; got {list(gains.shape)}.")
    ordered, order = torch.broadcast_to(gains, torch.broadcast_shapes(gains.shape, (*total.shape, 1))).sort(
        dim=-1, descending=True
    )
    usable = ordered > torch.finfo(torch.float64).tiny
    inverse = torch.where(usable, ordered, 1.0).reciprocal()
    # Heights above the best channel's, so that 1/g may be huge beside P.
    height = torch.where(usable, inverse - inverse[..., :1], torch.inf)
    ranks = torch.arange(1, gains.shape[-1] + 1, dtype=torch.float64, device=gains.device)
    level = (total[..., None] + torch.where(usable, height, 0.0).cumsum(dim=-1)) / ranks
    num_active = (usable & (level > height)).sum(dim=-1, keepdim=True)
    level = level.gather(-1, (num_active - 1).clamp(min=0))
    power = torch.where(ranks <= num_active, level - torch.where(usable, height, 0.0), 0.0)
    return torch.zeros_like(power).scatter(-1, order, power)
