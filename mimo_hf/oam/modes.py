"""OAM modes on circular arrays: discrete Fourier transforms across the elements, and Bessel functions behind them."""

import math
import warnings
from functools import cache

import torch
from torch import Tensor

from . import formulas
from .checks import Real, count, matrix, real
from .geometry import LinkGeometry


def signed_modes(num_elements: int) -> Tensor:
    """Signed mode numbers in the order of FFT indices, `[N]`: 8 gives 0, 1, 2, 3, -4, -3, -2, -1."""
    return formulas.signed_modes(count(num_elements, "num_elements", minimum=2))


def nyquist_mode(num_elements: int) -> int | None:
    """FFT index of the mode whose sign is ambiguous, a standing wave without a vortex: N/2, or None where N is odd."""
    return num_elements // 2 if num_elements % 2 == 0 else None


def mode_index(mode: int, num_elements: int) -> int:
    """FFT index of a mode given as FFT index 0..N-1 or as signed number down to -N/2; raises ValueError outside."""
    if isinstance(mode, bool) or not isinstance(mode, int):
        raise TypeError(f"`mode` must be an integer; got {mode!r}.")
    if not -(num_elements // 2) <= mode < num_elements:
        raise ValueError(
            f"`mode` must lie in {-(num_elements // 2)}..{num_elements - 1} for {num_elements} elements; got {mode}."
        )
    return mode % num_elements


def dft_matrix(num_elements: int, dtype: torch.dtype = torch.complex128) -> Tensor:
    r"""Unitary DFT \\(F_{ln} = e^{-j 2\pi l n/N} / \sqrt{N}\\), `[N, N]`."""
    count(num_elements, "num_elements")
    return torch.fft.fft(torch.eye(num_elements, dtype=dtype), dim=0, norm="ortho")


def generate(symbols: Tensor) -> Tensor:
    r"""Mode generation \\(x = F^H s\\): mode l gives element n the phase \\(+2\pi l n/N\\). `[..., N]` to `[..., N]`."""
    return torch.fft.ifft(symbols, norm="ortho")


def decompose(samples: Tensor) -> Tensor:
    r"""Mode decomposition \\(\hat s = F y\\), `[..., N]` to `[..., N]`."""
    return torch.fft.fft(samples, norm="ortho")


def modal_channel(h: Tensor) -> Tensor:
    r"""
    The channel between modes, \\(G = F_r H F_t^H\\), `[..., N_r, N_t]`. Unitary at both ends: energy is kept, noise
    stays white. Diagonal exactly where H is circulant.
    """
    return torch.fft.fft(torch.fft.ifft(h, norm="ortho"), dim=-2, norm="ortho")


def matched_channel(g: Tensor) -> Tensor:
    """
    The part of a modal channel `[..., N_r, N_t]` between modes of equal signed number at both ends, `[..., N, N]` with
    N = min(N_r, N_t), in the FFT order of the smaller array. Unchanged where the counts are equal.
    """
    num_rx, num_tx = g.shape[-2:]
    if num_rx == num_tx:
        return g
    modes = formulas.signed_modes(min(num_rx, num_tx)).to(g.device)
    return g[..., (modes % num_rx)[:, None], (modes % num_tx)[None, :]]


def mode_purity(g: Tensor) -> Tensor:
    r"""Share of transmitted mode l that arrives as mode l, \\(|G_{ll}|^2 / \sum_q |G_{ql}|^2\\), `[..., N]`."""
    return formulas.mode_purity(matrix(g, "g", square=True))


def isr_db(g: Tensor) -> Tensor:
    """Inter-mode energy over wanted energy of a modal channel in dB, `[...]`. Minus infinity where it is diagonal."""
    return formulas.isr_db(matrix(g, "g", square=True))


def circulant_part(h: Tensor) -> Tensor:
    """The circulant matrix nearest to H in the Frobenius norm, `[..., N, N]`."""
    return _circulant(matrix(h, "h", square=True))


def _circulant(h: Tensor) -> Tensor:
    diagonal = modal_channel(h).diagonal(dim1=-2, dim2=-1)
    return torch.fft.fft(torch.fft.ifft(torch.diag_embed(diagonal), dim=-2, norm="ortho"), dim=-1, norm="ortho")


def noncirculance(h: Tensor) -> Tensor:
    r"""\\(\|H - circ(H)\|_F / \|H\|_F\\), `[...]`, between 0 (circulant) and 1."""
    h = matrix(h, "h", square=True)
    return torch.linalg.matrix_norm(h - _circulant(h)) / torch.linalg.matrix_norm(h)


def bessel_j(order: int, x: Real) -> Tensor:
    r"""
    Bessel function of the first kind and integer order, \\(J_l(x) = \frac1M \sum_t \cos(x \sin\tau_t - l\tau_t)\\) over
    M equispaced \\(\tau_t\\), M > |l| + |x| + 40: exact to rounding. Differentiable, which torch's J_0 and J_1 are not.

    Args:
        order: l, any sign.
        x: real, `[...]`.
    """
    if isinstance(order, bool) or not isinstance(order, int):
        raise TypeError(f"`order` must be an integer; got {order!r}.")
    x = real(x, "x")
    return formulas.bessel_j(order, x, float(x.detach().abs().max()) if x.numel() else 0.0)


def bessel_first_maximum(order: int) -> float:
    r"""\\(j'_{l,1}\\), where J_l has its first maximum (l ≥ 1): 1.8412, 3.0542, 4.2012, ..."""
    return _first_maximum(count(order, "order"))


@cache
def _first_maximum(order: int) -> float:
    low, high = float(order), order + 2 * order ** (1 / 3)
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        x = torch.tensor(middle, dtype=torch.float64)
        if float(formulas.bessel_j(order - 1, x, middle) - formulas.bessel_j(order + 1, x, middle)) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def aligned_eigenvalues(link: LinkGeometry, aliases: bool = True) -> Tensor:
    r"""
    Eigenvalues of the aligned channel with equal counts, the mode gains \\(G_{ll}\\) in the far field [derived]:

    \\(G_{ll} = \frac{\lambda}{4\pi D} e^{-jks} N \sum_{p \equiv l (N)} j^p J_p(x) e^{jp\delta}\\)  (Jacobi-Anger), with
    \\(x = k R_t R_r/s\\) and \\(\delta\\) the azimuth of the receive ring's element 0 against the transmit ring's.

    Args:
        link: two UCAs of N elements; any misalignment is ignored.
        aliases: False keeps only \\(p = l\\), the formula usually quoted, which holds while x is well below N/2.

    Returns:
        `[..., N]` in FFT order.
    """
    tx, rx = link.rings()
    if tx.num_elements != rx.num_elements:
        raise ValueError(
            f"`link` must have as many elements at one end as at the other; got {tx.num_elements} and {rx.num_elements}."
        )
    num = tx.num_elements
    x, rotation = link.bessel_argument, link.pose.rotation
    delta = torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0]) + rx.phase0_rad - tx.phase0_rad
    largest = float(x.detach().max())
    if aliases:
        last = math.ceil(largest) + 40
        orders = range(-last, last + 1)
    else:
        orders = formulas.signed_modes(num).tolist()
        if largest > num / 2:
            warnings.warn(
                f"the single Bessel term is invalid at x = {largest:.3g} > N/2 = {num / 2:g}: aliases are as strong.",
                stacklevel=2,
            )

    sums: list[Tensor] = [torch.zeros((), dtype=torch.complex128, device=x.device)] * num
    for p in orders:
        phase = p * (delta + math.pi / 2)
        sums[p % num] = sums[p % num] + formulas.bessel_j(p, x, largest) * torch.complex(phase.cos(), phase.sin())
    slant, wavenumber = link.slant_distance_m, link.wavenumber
    common = -(wavenumber * slant).remainder(2 * math.pi)
    scale = num * link.wavelength_m / (4 * math.pi * link.distance_m)
    return torch.stack(sums, dim=-1) * (scale * torch.complex(common.cos(), common.sin()))[..., None]
