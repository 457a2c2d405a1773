"""
What the functions of this room compute, of values that are checked: no line here looks at a value again, and none waits for
a GPU. The functions of the same names in the other modules check, say what they take, and call these; simulations, which
check at their own entrance, call these too. Shapes and units: see those functions.
"""

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .geometry import LinkGeometry

ONE = torch.ones((), dtype=torch.float64)  # total power and element gain unless given


def energy(g: Tensor) -> Tensor:
    """Squared amplitudes."""
    return g.real.square() + g.imag.square()


def equal_power(num_channels: int, total: Tensor = ONE) -> Tensor:
    return (total[..., None] / num_channels).expand(*total.shape, num_channels)


def water_filling(gains: Tensor, total: Tensor = ONE) -> Tensor:
    ordered, order = torch.broadcast_to(gains, torch.broadcast_shapes(gains.shape, (*total.shape, 1))).sort(
        dim=-1, descending=True
    )
    usable = ordered > torch.finfo(torch.float64).tiny
    inverse = torch.where(usable, ordered, 1.0).reciprocal()
    # Heights above the best channel's, so that 1/g may be huge beside P.
    height = torch.where(usable, inverse - inverse[..., :1], torch.inf)
    ranks = torch.arange(1, gains.shape[-1] + 1, dtype=torch.float64, device=gains.device)
    level = (total.to(gains.device)[..., None] + torch.where(usable, height, 0.0).cumsum(dim=-1)) / ranks
    num_active = (usable & (level > height)).sum(dim=-1, keepdim=True)
    level = level.gather(-1, (num_active - 1).clamp(min=0))
    power = torch.where(ranks <= num_active, level - torch.where(usable, height, 0.0), 0.0)
    return torch.zeros_like(power).scatter(-1, order, power)


def noise_variance(
    snr_db: Tensor,
    reference: str,
    link: "LinkGeometry | None",
    h: Tensor | None,
    total: Tensor = ONE,
    beta: Tensor = ONE,
) -> Tensor:
    snr = 10 ** (snr_db / 10)
    if reference == "tx":
        return total / snr
    if link is not None and reference == "siso":
        gain = beta * link.wavelength_m / (4 * math.pi * link.distance_m)
        return total * gain.square() / snr
    return total * energy(cast(Tensor, h)).mean(dim=(-2, -1)) / snr


# Detection


def mmse(g: Tensor, noise: Tensor) -> Tensor:
    identity = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
    return torch.linalg.solve(g.mH @ g + noise[..., None, None] * identity, g.mH)


def unbiased(filters: Tensor, g: Tensor) -> Tensor:
    """The filters scaled to unit gain of every stream, which hard decisions need; same shape."""
    return filters / (filters @ g).diagonal(dim1=-2, dim2=-1)[..., None]


def detection_filters(g: Tensor, noise: Tensor, detector: str) -> Tensor:
    if detector == "mode":
        return torch.diag_embed(1 / g.diagonal(dim1=-2, dim2=-1))
    return torch.linalg.pinv(g) if detector == "zf" else unbiased(mmse(g, noise), g)


def sinr(g: Tensor, power: Tensor, noise: Tensor, detector: str = "mode") -> Tensor:
    noise = noise[..., None]
    if detector == "mode":
        return _mode_sinr(energy(g), power, noise)
    if detector == "zf":
        return _zf_sinr(g, power, noise)
    weighted = g * power.sqrt()[..., None, :].to(g.dtype)
    gram = weighted.mH @ weighted / noise[..., None]
    identity = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
    inverse = torch.linalg.inv(identity + gram).diagonal(dim1=-2, dim2=-1).real
    return (1 / inverse - 1).clamp(min=0)


def _mode_sinr(energies: Tensor, power: Tensor, noise: Tensor) -> Tensor:
    wanted = energies.diagonal(dim1=-2, dim2=-1) * power
    # Summed without the diagonal: a difference would drown weak interference in rounding.
    others = 1 - torch.eye(energies.shape[-1], dtype=energies.dtype, device=energies.device)
    return wanted / ((energies * (power[..., None, :] * others)).sum(dim=-1) + noise)


def _zf_sinr(g: Tensor, power: Tensor, noise: Tensor) -> Tensor:
    num_rx, num_tx = g.shape[-2:]
    # [(G^H G)^-1]_ll is the squared norm of row l of R^-1, and QR does not square the condition number.
    triangle = torch.linalg.qr(g).R
    size = triangle.diagonal(dim1=-2, dim2=-1).abs()
    singular = (size <= num_rx * torch.finfo(size.dtype).eps * size.amax(dim=-1, keepdim=True)).any(
        dim=-1, keepdim=True
    )
    identity = torch.eye(num_tx, dtype=g.dtype, device=g.device)
    triangle = torch.where(singular[..., None], identity, triangle)
    inverse = torch.linalg.solve_triangular(triangle, identity.expand_as(triangle), upper=True)
    return torch.where(singular, 0.0, power / (noise * energy(inverse).sum(dim=-1)))


# Rates


def spectral_efficiency(g: Tensor, power: Tensor, noise: Tensor, detector: str = "mode") -> Tensor:
    return torch.log1p(sinr(g, power, noise, detector)).sum(dim=-1) / math.log(2)


def capacity_equal(h: Tensor, noise: Tensor, total: Tensor = ONE) -> Tensor:
    gram = h @ h.mH if h.shape[-2] <= h.shape[-1] else h.mH @ h
    identity = torch.eye(gram.shape[-1], dtype=h.dtype, device=h.device)
    determinant = torch.linalg.slogdet(identity + (total / noise / h.shape[-1])[..., None, None] * gram)
    return determinant.logabsdet / math.log(2)


def channel_gains(h: Tensor, noise: Tensor) -> Tensor:
    r"""\\(\sigma_i^2/n_0\\), `[..., N]`, strongest first."""
    return torch.linalg.svdvals(h).square() / noise[..., None]


def capacity_waterfill(gains: Tensor, total: Tensor = ONE) -> Tensor:
    """Of `channel_gains`."""
    return torch.log1p(water_filling(gains, total) * gains).sum(dim=-1) / math.log(2)


def dof_slope(gains: Tensor, total: Tensor = ONE) -> Tensor:
    """Of `channel_gains`."""
    return total / (water_filling(gains, total)[..., 0] + 1 / gains[..., 0])


def dof_threshold(values: Tensor, tau_db: float = -30.0) -> Tensor:
    """Of singular values."""
    return (values.square() > values[..., :1].square() * 10 ** (tau_db / 10)).sum(dim=-1)


def edof(values: Tensor) -> Tensor:
    """Of singular values."""
    values = values.square()
    return values.sum(dim=-1).square() / values.square().sum(dim=-1)


def bit_error_rate(snr: Tensor, order: int) -> Tensor:
    """Of square QAM with Gray labels: Cho & Yoon, eq. 14-16."""
    levels = math.isqrt(order)
    num_bits = levels.bit_length() - 1
    total = torch.zeros_like(snr)
    for k in range(1, num_bits + 1):
        for i in range(levels - levels // 2**k):
            flips = i * 2 ** (k - 1) // levels
            weight = (-1) ** flips * (2 ** (k - 1) - (2 * i * 2 ** (k - 1) + levels) // (2 * levels))
            total = total + weight * torch.erfc((2 * i + 1) * (1.5 * snr / (order - 1)).sqrt())
    return total / (levels * num_bits)


# Modes


def signed_modes(num_elements: int) -> Tensor:
    index = torch.arange(num_elements)
    return torch.where(index < (num_elements + 1) // 2, index, index - num_elements)


def mode_purity(g: Tensor) -> Tensor:
    energies = energy(g)
    return energies.diagonal(dim1=-2, dim2=-1) / energies.sum(dim=-2)


def isr_db(g: Tensor) -> Tensor:
    wanted = energy(g.diagonal(dim1=-2, dim2=-1)).sum(dim=-1)
    # Summed without the diagonal: a difference would drown weak interference in rounding.
    others = energy(g) * (1 - torch.eye(g.shape[-1], dtype=wanted.dtype, device=g.device))
    return 10 * torch.log10(others.sum(dim=(-2, -1)) / wanted)


def bessel_j(order: int, x: Tensor, largest: float) -> Tensor:
    """`largest`: of the absolute values of x, or more."""
    num_points = math.ceil(abs(order) + largest + 41)
    tau = 2 * math.pi / num_points * torch.arange(num_points, dtype=x.dtype, device=x.device)
    return (x[..., None] * tau.sin() - order * tau).cos().mean(dim=-1)
