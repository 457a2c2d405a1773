"""Linear detectors: the receive filters behind every detection of modes, streams and grids."""

import torch
from torch import Tensor

from . import formulas
from .checks import Real, choice, matrix, positive
from .settings import DETECTORS

JOINT_DETECTORS = ("zf", "mmse")


def zf(g: Tensor) -> Tensor:
    r"""
    Zero-forcing filters, the left inverse \\(G^+ = (G^H G)^{-1} G^H\\), `[..., N_t, N_r]`.

    Args:
        g: `[..., N_r, N_t]`.

    Raises:
        ValueError: N_r < N_t, where no filter separates the streams.
    """
    return torch.linalg.pinv(separable(matrix(g, "g")))


def separable(g: Tensor) -> Tensor:
    """`g` where it has as many rows as columns at least; raises ValueError where it has not."""
    num_rx, num_tx = g.shape[-2:]
    if num_rx < num_tx:
        raise ValueError(f"`detector='zf'` must have N_r >= N_t; got N_r = {num_rx}, N_t = {num_tx}. Use 'mmse'.")
    return g


def mmse(g: Tensor, noise_variance: Real) -> Tensor:
    r"""
    Linear MMSE filters for streams of unit power, \\((G^H G + n_0 I)^{-1} G^H\\), `[..., N_t, N_r]`.

    Args:
        g: `[..., N_r, N_t]`, powers included.
        noise_variance: \\(n_0\\), `[...]`.
    """
    noise = positive(noise_variance, "noise_variance")
    return formulas.mmse(matrix(g, "g"), noise)


def detection_filters(g: Tensor, noise_variance: Real, detector: str) -> Tensor:
    """
    Filters with unit gain of the wanted stream, `[..., N_t, N_r]`.

    Args:
        g: channel as the receiver knows it, powers included, `[..., N_r, N_t]`; square for `"mode"`.
        noise_variance: `[...]`.
        detector: `"mode"` (each mode by itself), `"zf"` or `"mmse"`.
    """
    choice(detector, "detector", DETECTORS)
    g = matrix(g, "g", square=detector == "mode")
    if detector == "zf":
        separable(g)
    noise = positive(noise_variance, "noise_variance") if detector == "mmse" else formulas.ONE
    return formulas.detection_filters(g, noise, detector)
