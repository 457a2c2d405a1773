"""
BePre: transmit beamforming and receive pre-detection that make a misaligned UCA channel circulant.

The abstract of arXiv 2408.07105 promises two unitary matrices and an equivalent circulant channel; which matrices is not
stated there. The three variants here are derived for this library. See README.md for what each of them needs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .channel import los_channel
from .checks import choice, matrix
from .geometry import LinkGeometry
from .settings import BEPRE_METHODS


@dataclass(frozen=True)
class BePre:
    r"""
    Unitary \\(W_t\\) and \\(W_r\\). Transmission: symbols, mode generation \\(F^H\\), \\(W_t\\), channel, \\(W_r\\), mode
    decomposition F.

    Attributes:
        method: `"angle"`, `"geom"` or `"svd"`.
        w_t, w_r: the diagonals `[..., N]` for `"angle"` and `"geom"`, whole matrices `[..., N, N]` for `"svd"`.
    """

    method: str
    w_t: Tensor
    w_r: Tensor

    @property
    def transmit_matrix(self) -> Tensor:
        """`[..., N_t, N_t]`."""
        return self.w_t if self.method == "svd" else torch.diag_embed(self.w_t)

    @property
    def receive_matrix(self) -> Tensor:
        """`[..., N_r, N_r]`."""
        return self.w_r if self.method == "svd" else torch.diag_embed(self.w_r)

    def apply(self, h: Tensor) -> Tensor:
        r"""The effective channel \\(W_r H W_t\\), `[..., N_r, N_t]`."""
        if self.method == "svd":
            return self.w_r @ h @ self.w_t
        return (self.w_r[..., :, None] * self.w_t[..., None, :]) * h


def bepre(source: LinkGeometry | Tensor, method: str | None = None) -> BePre:
    r"""
    BePre for a link whose geometry is known, or for a known channel matrix.

    - `"angle"`: \\(W_r = diag\,e^{+jk c\cdot\rho_m/s}\\), \\(W_t = diag\,e^{-jk c\cdot q_n/s}\\). Needs the angles, hardly
      the distance. Circulant up to the anisotropy \\(\eta\\) and phases of O(k R²/D) when misaligned [derived].
    - `"geom"`: \\(W_r = diag\,e^{+jk(|p_m|-D)}\\), \\(W_t = diag\,e^{+jk(|c-q_n|-D)}\\), the conjugate of the exact path to
      the other array's centre. Needs the distance too. Circulant up to \\(\eta\\) [derived].
    - `"svd"`: with \\(H = U S V^H\\), \\(W_r = F^H P U^H\\) and \\(W_t = V P^T F\\), P giving the strongest channels to the
      modes 0, -1, 1, -2, 2, ... Exactly circulant for every H, and with equal power exactly the equal-power capacity:
      it is SVD-MIMO in a DFT costume [derived].

    `"angle"` and `"geom"` are differentiable. `"svd"` is not where singular values coincide, as they do when aligned.

    Args:
        source: a link (the geometry as believed, which may differ from the true one), or a channel `[..., N_r, N_t]`.
        method: None: `"geom"` for a link, `"svd"` for a channel. `"svd"` of a link uses its exact channel.
    """
    if isinstance(source, LinkGeometry):
        method = choice(method or "geom", "method", BEPRE_METHODS)
        return of_channel(los_channel(source)) if method == "svd" else of_geometry(source, method)
    if choice(method or "svd", "method", BEPRE_METHODS) != "svd":
        raise ValueError(
            f"`source` must be a LinkGeometry with method={method!r}, which is computed from angles and lengths; got a matrix."
        )
    return of_channel(matrix(source, "source"))


def of_geometry(link: LinkGeometry, method: str) -> BePre:
    rx_ramp, tx_ramp = link.rx_ramp(), -link.tx_ramp()
    if method == "angle":
        slant = link.slant_distance_m[..., None]
        rx_path, tx_path = rx_ramp / slant, tx_ramp / slant
    else:
        tx, rx = link.rings()
        distance = link.distance_m[..., None]
        rx_path = _path_difference(rx.radius_m[..., None].square() + 2 * rx_ramp, distance)
        tx_path = _path_difference(tx.radius_m[..., None].square() + 2 * tx_ramp, distance)
    wavenumber = link.wavenumber[..., None]
    return BePre(method, _unit(wavenumber * tx_path), _unit(wavenumber * rx_path))


def _path_difference(excess: Tensor, distance: Tensor) -> Tensor:
    """sqrt(D² + excess) - D without cancellation."""
    return excess / ((distance.square() + excess).sqrt() + distance)


def _unit(phase_rad: Tensor) -> Tensor:
    return torch.complex(phase_rad.cos(), phase_rad.sin())


def mode_order(num_elements: int) -> Tensor:
    """FFT indices of the modes 0, -1, 1, -2, 2, ..., `[N]`."""
    index = torch.arange(num_elements)
    signed = torch.where(index % 2 == 0, index // 2, -(index + 1) // 2)
    return signed % num_elements


def of_channel(h: Tensor) -> BePre:
    u, _, vh = torch.linalg.svd(h)
    # Row l of P U^H is the singular vector given to mode l.
    receive, transmit = torch.empty_like(u), torch.empty_like(vh)
    receive[..., mode_order(h.shape[-2]).to(h.device), :] = u.mH
    transmit[..., :, mode_order(h.shape[-1]).to(h.device)] = vh.mH
    return BePre("svd", torch.fft.fft(transmit, dim=-1, norm="ortho"), torch.fft.ifft(receive, dim=-2, norm="ortho"))
