"""Linear detectors: the receive filters behind every detection of modes, streams and grids."""

import torch
from torch import Tensor

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
    return torch.linalg.pinv(separable(g))


def separable(g: Tensor) -> Tensor:
    """`g` where it has as many rows as columns at least; raises ValueError where it has not."""
    num_rx, num_tx = matrix(g, "g").shape[-2:]
    if num_rx < num_tx:
        raise ValueError(f"`detector='zf'` needs N_r >= N_t; got N_r = {num_rx}, N_t = {num_tx}. Use 'mmse'.")
    return g


def mmse(g: Tensor, noise_variance: Real) -> Tensor:
    r"""
    Linear MMSE filters for streams of unit power, \\((G^H G + n_0 I)^{-1} G^H\\), `[..., N_t, N_r]`.

    Args:
        g: `[..., N_r, N_t]`, powers included.
        noise_variance: \\(n_0\\), `[...]`.
    """
    noise = positive(noise_variance, "noise_variance")[..., None, None]
    identity = torch.eye(matrix(g, "g").shape[-1], dtype=g.dtype, device=g.device)
    return torch.linalg.solve(g.mH @ g + noise * identity, g.mH)


def unbiased(filters: Tensor, g: Tensor) -> Tensor:
    """The filters scaled to unit gain of every stream, which hard decisions need; same shape."""
    return filters / (filters @ g).diagonal(dim1=-2, dim2=-1)[..., None]


def detection_filters(g: Tensor, noise_variance: Real, detector: str) -> Tensor:
    """
    Filters with unit gain of the wanted stream, `[..., N_t, N_r]`.

    Args:
        g: channel as the receiver knows it, powers included, `[..., N_r, N_t]`; square for `"mode"`.
        noise_variance: `[...]`.
        detector: `"mode"` (each mode by itself), `"zf"` or `"mmse"`.
    """
    if choice(detector, "detector", DETECTORS) == "mode":
        return torch.diag_embed(1 / matrix(g, "g", square=True).diagonal(dim1=-2, dim2=-1))
    return zf(g) if detector == "zf" else unbiased(mmse(g, noise_variance), g)
