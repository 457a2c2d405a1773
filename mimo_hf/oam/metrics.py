"""Noise, SINR, spectral efficiency, capacity and degrees of freedom."""

import math

import torch
from torch import Tensor

from .checks import Real, choice, matrix, positive, real
from .detectors import DETECTORS, separable
from .geometry import LinkGeometry
from .power import stream_power, water_filling
from .settings import SNR_REFERENCES


def noise_variance(
    snr_db: Real,
    reference: str = "siso",
    total_power: Real = 1.0,
    link: LinkGeometry | None = None,
    beta: Real = 1.0,
    h: Tensor | None = None,
) -> Tensor:
    r"""
    Noise \\(n_0\\) (complex variance per receive element) that makes an SNR. What the SNR refers to changes every
    conclusion, so say it beside every result [our design]:

    - `"siso"`: \\(P \beta^2 (\lambda/4\pi D)^2 / n_0\\), what one pair of elements would see. Needs `link`.
    - `"tx"`: \\(P / n_0\\).
    - `"frobenius"`: \\(P \|H\|_F^2 / (N_r N_t n_0)\\), which hides losses of the whole channel. Needs `h`.

    Args:
        snr_db, total_power, beta: `[...]`.
        h: `[..., N_r, N_t]`.

    Returns:
        `[...]`.
    """
    snr = 10 ** (real(snr_db, "snr_db") / 10)
    total = positive(total_power, "total_power")
    choice(reference, "reference", SNR_REFERENCES)
    if reference == "tx":
        return total / snr
    if reference == "siso":
        if link is None:
            raise ValueError("`reference='siso'` needs `link`, for the distance and the wavelength.")
        gain = real(beta, "beta") * link.wavelength_m / (4 * math.pi * link.distance_m)
        return total * gain.square() / snr
    if h is None:
        raise ValueError("`reference='frobenius'` needs `h`, for its norm.")
    energy = _energy(matrix(h, "h")).mean(dim=(-2, -1))
    return total * energy / snr


def sinr(g: Tensor, power: Tensor, noise_variance: Real, detector: str = "mode") -> Tensor:
    r"""
    Signal to interference and noise of every transmitted stream, interference treated as noise.

    - `"mode"`: each mode by itself, \\(p_l |G_{ll}|^2 / (\sum_{q \ne l} p_q |G_{lq}|^2 + n_0)\\). Needs a square G.
    - `"zf"`: joint zero-forcing, \\(p_l / (n_0 [(G^H G)^{-1}]_{ll})\\); zero where G has no left inverse. Needs
      N_r ≥ N_t.
    - `"mmse"`: joint linear MMSE, \\(1/[(I + P^{1/2} G^H G P^{1/2}/n_0)^{-1}]_{ll} - 1\\).

    Args:
        g: modal channel, or any effective channel behind a unitary front end, `[..., N_r, N_t]`.
        power: `[..., N_t]`.
        noise_variance: n_0, `[...]`.

    Returns:
        `[..., N_t]`.
    """
    choice(detector, "detector", DETECTORS)
    g = matrix(g, "g", square=detector == "mode")
    power = stream_power(power, g.shape[-1])
    noise = positive(noise_variance, "noise_variance")[..., None]
    if detector == "mode":
        return _mode_sinr(_energy(g), power, noise)
    if detector == "zf":
        return _zf_sinr(g, power, noise)
    weighted = g * power.sqrt()[..., None, :].to(g.dtype)
    gram = weighted.mH @ weighted / noise[..., None]
    identity = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
    inverse = torch.linalg.inv(identity + gram).diagonal(dim1=-2, dim2=-1).real
    return (1 / inverse - 1).clamp(min=0)


def _energy(g: Tensor) -> Tensor:
    return g.real.square() + g.imag.square()


def _mode_sinr(energy: Tensor, power: Tensor, noise: Tensor) -> Tensor:
    wanted = energy.diagonal(dim1=-2, dim2=-1) * power
    # Summed without the diagonal: a difference would drown weak interference in rounding.
    others = 1 - torch.eye(energy.shape[-1], dtype=energy.dtype, device=energy.device)
    return wanted / ((energy * (power[..., None, :] * others)).sum(dim=-1) + noise)


def _zf_sinr(g: Tensor, power: Tensor, noise: Tensor) -> Tensor:
    num_rx, num_tx = separable(g).shape[-2:]
    # [(G^H G)^-1]_ll is the squared norm of row l of R^-1, and QR does not square the condition number.
    triangle = torch.linalg.qr(g).R
    size = triangle.diagonal(dim1=-2, dim2=-1).abs()
    singular = (size <= num_rx * torch.finfo(size.dtype).eps * size.amax(dim=-1, keepdim=True)).any(
        dim=-1, keepdim=True
    )
    identity = torch.eye(num_tx, dtype=g.dtype, device=g.device)
    triangle = torch.where(singular[..., None], identity, triangle)
    inverse = torch.linalg.solve_triangular(triangle, identity.expand_as(triangle), upper=True)
    return torch.where(singular, 0.0, power / (noise * _energy(inverse).sum(dim=-1)))


def spectral_efficiency(g: Tensor, power: Tensor, noise_variance: Real, detector: str = "mode") -> Tensor:
    r"""\\(\sum_l \log_2(1 + SINR_l)\\) in bit/s/Hz, `[...]`. Arguments as for `sinr`."""
    return torch.log1p(sinr(g, power, noise_variance, detector)).sum(dim=-1) / math.log(2)


def capacity_equal(h: Tensor, noise_variance: Real, total_power: Real = 1.0) -> Tensor:
    r"""
    Capacity with equal power on all transmit elements, \\(\log_2\det(I + \frac{P}{N_t n_0} H H^H)\\) in bit/s/Hz.

    Args:
        h: `[..., N_r, N_t]`; unitary transforms at either end change nothing.
        noise_variance, total_power: `[...]`.
    """
    h = matrix(h, "h")
    snr = positive(total_power, "total_power") / positive(noise_variance, "noise_variance")
    gram = h @ h.mH if h.shape[-2] <= h.shape[-1] else h.mH @ h
    identity = torch.eye(gram.shape[-1], dtype=h.dtype, device=h.device)
    determinant = torch.linalg.slogdet(identity + (snr / h.shape[-1])[..., None, None] * gram)
    return determinant.logabsdet / math.log(2)


def capacity_waterfill(h: Tensor, noise_variance: Real, total_power: Real = 1.0) -> Tensor:
    r"""
    Capacity \\(\sum_i \log_2(1 + p_i \sigma_i^2/n_0)\\) in bit/s/Hz, `[...]`, p by water-filling over the squared singular
    values. The most that any scheme with this channel and this power can reach. Arguments as for `capacity_equal`.
    """
    gains = torch.linalg.svdvals(matrix(h, "h")).square() / positive(noise_variance, "noise_variance")[..., None]
    return torch.log1p(water_filling(gains, total_power) * gains).sum(dim=-1) / math.log(2)


def dof_threshold(h: Tensor, tau_db: float = -30.0) -> Tensor:
    r"""Number of channels within `tau_db` of the strongest, \\(\#\{\sigma_i^2 > \sigma_1^2 10^{\tau/10}\}\\), `[...]`, int64."""
    if not (math.isfinite(tau_db) and tau_db < 0):
        raise ValueError(f"`tau_db` must be negative; got {tau_db}.")
    values = torch.linalg.svdvals(matrix(h, "h"))
    return (values.square() > values[..., :1].square() * 10 ** (tau_db / 10)).sum(dim=-1)


def edof(h: Tensor) -> Tensor:
    r"""\\((tr\,HH^H)^2 / \|HH^H\|_F^2\\), `[...]`, between 1 and min(N_r, N_t); equal to it for equal channels."""
    values = torch.linalg.svdvals(matrix(h, "h")).square()
    return values.sum(dim=-1).square() / values.square().sum(dim=-1)


def dof_slope(h: Tensor, noise_variance: Real, total_power: Real = 1.0) -> Tensor:
    r"""
    Slope of the water-filling capacity over \\(\log_2\\) SNR at this SNR, `[...]`: \\(P/\mu\\), \\(\mu\\) the water level
    (envelope theorem) [derived].
    """
    gains = torch.linalg.svdvals(matrix(h, "h")).square() / positive(noise_variance, "noise_variance")[..., None]
    power = water_filling(gains, total_power)
    return positive(total_power, "total_power") / (power[..., 0] + 1 / gains[..., 0])
