"""Power over parallel channels."""

from torch import Tensor

from . import formulas
from .checks import Real, count, non_negative, positive


def equal_power(num_channels: int, total_power: Real = 1.0) -> Tensor:
    """`total_power` `[...]` shared evenly, `[..., N]`."""
    return formulas.equal_power(count(num_channels, "num_channels"), positive(total_power, "total_power"))


def stream_power(power: Tensor, num_streams: int, on_all: bool = False) -> Tensor:
    """`power` as `[..., N]`, not negative, with one entry a stream; `on_all`: none may be zero."""
    power = (
        positive(power, "power", " on every stream (leave out the others)") if on_all else non_negative(power, "power")
    )
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
    return formulas.water_filling(gains, total)
