"""Noise, SINR, spectral efficiency, capacity and degrees of freedom."""

import math

import torch
from torch import Tensor

from . import formulas
from .checks import Real, choice, matrix, positive, real
from .detectors import DETECTORS, separable
from .geometry import LinkGeometry
from .power import stream_power
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
    snr_db, total = real(snr_db, "snr_db"), positive(total_power, "total_power")
    choice(reference, "reference", SNR_REFERENCES)
    gain = formulas.ONE
    if reference == "siso":
        if link is None:
            raise ValueError("`link` must be given with `reference='siso'`, for the distance and the wavelength.")
        gain = real(beta, "beta")
    if reference == "frobenius":
        if h is None:
            raise ValueError("`h` must be given with `reference='frobenius'`, for its norm.")
        h = matrix(h, "h")
    return formulas.noise_variance(snr_db, reference, link, h, total, gain)


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
    return formulas.sinr(*_streams(g, power, noise_variance, detector), detector)


def _streams(g: Tensor, power: Tensor, noise_variance: Real, detector: str) -> tuple[Tensor, Tensor, Tensor]:
    """Channel, power and noise of parallel streams, checked."""
    choice(detector, "detector", DETECTORS)
    g = matrix(g, "g", square=detector == "mode")
    power = stream_power(power, g.shape[-1])
    noise = positive(noise_variance, "noise_variance")
    return separable(g) if detector == "zf" else g, power, noise


def spectral_efficiency(g: Tensor, power: Tensor, noise_variance: Real, detector: str = "mode") -> Tensor:
    r"""\\(\sum_l \log_2(1 + SINR_l)\\) in bit/s/Hz, `[...]`. Arguments as for `sinr`."""
    return formulas.spectral_efficiency(*_streams(g, power, noise_variance, detector), detector)


def capacity_equal(h: Tensor, noise_variance: Real, total_power: Real = 1.0) -> Tensor:
    r"""
    Capacity with equal power on all transmit elements, \\(\log_2\det(I + \frac{P}{N_t n_0} H H^H)\\) in bit/s/Hz.

    Args:
        h: `[..., N_r, N_t]`; unitary transforms at either end change nothing.
        noise_variance, total_power: `[...]`.
    """
    h, total = matrix(h, "h"), positive(total_power, "total_power")
    return formulas.capacity_equal(h, positive(noise_variance, "noise_variance"), total)


def capacity_waterfill(h: Tensor, noise_variance: Real, total_power: Real = 1.0) -> Tensor:
    r"""
    Capacity \\(\sum_i \log_2(1 + p_i \sigma_i^2/n_0)\\) in bit/s/Hz, `[...]`, p by water-filling over the squared singular
    values. The most that any scheme with this channel and this power can reach. Arguments as for `capacity_equal`.
    """
    gains = formulas.channel_gains(matrix(h, "h"), positive(noise_variance, "noise_variance"))
    return formulas.capacity_waterfill(gains, positive(total_power, "total_power"))


def dof_threshold(h: Tensor, tau_db: float = -30.0) -> Tensor:
    r"""Number of channels within `tau_db` of the strongest, \\(\#\{\sigma_i^2 > \sigma_1^2 10^{\tau/10}\}\\), `[...]`, int64."""
    if not (math.isfinite(tau_db) and tau_db < 0):
        raise ValueError(f"`tau_db` must be negative; got {tau_db}.")
    return formulas.dof_threshold(torch.linalg.svdvals(matrix(h, "h")), tau_db)


def edof(h: Tensor) -> Tensor:
    r"""\\((tr\,HH^H)^2 / \|HH^H\|_F^2\\), `[...]`, between 1 and min(N_r, N_t); equal to it for equal channels."""
    return formulas.edof(torch.linalg.svdvals(matrix(h, "h")))


def dof_slope(h: Tensor, noise_variance: Real, total_power: Real = 1.0) -> Tensor:
    r"""
    Slope of the water-filling capacity over \\(\log_2\\) SNR at this SNR, `[...]`: \\(P/\mu\\), \\(\mu\\) the water level
    (envelope theorem) [derived].
    """
    gains = formulas.channel_gains(matrix(h, "h"), positive(noise_variance, "noise_variance"))
    return formulas.dof_slope(gains, positive(total_power, "total_power"))
