r"""
UCAs in the focus of a paraboloid: every mode leaves as a parallel ring beam ("effective ring" model) [our design].

A mode of a UCA with radius R radiates most at \\(\theta_l = \arcsin(j'_{l,1}/kR)\\). From the focus of z = r²/4f, the ray
at \\(\theta_l\\) leaves parallel to the axis at \\(\rho_l = 2f\tan(\theta_l/2)\\), all paths equally long. Mode l of the UCA
thus acts as a ring of radius \\(\rho_l\\); mode 0 keeps R. The design of the dish in arXiv 2408.07103 is not known.
"""

import math
import warnings

import torch
from torch import Tensor

from .channel import los_channel
from .checks import Real, count, positive, shown
from .geometry import UCA, LinkGeometry, UCAGrid
from .modes import bessel_first_maximum, signed_modes
from .oem import grids, mode_blocks


def divergence_rad(mode: int, kr: Real) -> Tensor:
    r"""
    Angle of strongest radiation \\(\theta_l = \arcsin(j'_{l,1}/kR)\\), `[...]`; zero for mode 0.

    Args:
        mode: signed.
        kr: \\(kR\\), `[...]`.

    Raises:
        ValueError: \\(kR \le j'_{l,1}\\): a ring that small does not radiate the mode.
    """
    kr = positive(kr, "kr")
    if mode == 0:
        return torch.zeros_like(kr)
    needed = bessel_first_maximum(abs(mode))
    if bool((kr.detach() <= needed).any()):
        raise ValueError(
            f"kR must exceed {needed:.4g} for mode {mode} to radiate; got {shown(kr.min())}. Enlarge the radius, or use "
            "fewer elements."
        )
    return torch.asin(needed / kr)


def effective_ring_radii(
    uca: UCA, wavelength_m: Real, focal_length_m: Real, dish_radius_m: float | None = None
) -> Tensor:
    r"""
    Radius of the beam behind the dish for the modes |l| = 0..N/2, `[..., N // 2 + 1]`.

    Args:
        focal_length_m: f, `[...]`.
        dish_radius_m: warns where the dish is too small for a mode's ring.
    """
    focal = positive(focal_length_m, "focal_length_m")
    kr = 2 * math.pi / positive(wavelength_m, "wavelength_m") * uca.radius_m
    orders = range(1, uca.num_elements // 2 + 1)
    angles = [divergence_rad(order, kr) for order in orders]
    radii = [uca.radius_m, *(2 * focal * torch.tan(angle / 2) for angle in angles)]
    if dish_radius_m is not None:
        limit = positive(dish_radius_m, "dish_radius_m")
        lost = [str(order) for order, radius in enumerate(radii) if bool((radius > limit).any())]
        if lost:
            warnings.warn(f"a dish of radius {float(limit):g} m truncates modes {', '.join(lost)}.", stacklevel=2)
    return torch.stack(torch.broadcast_tensors(*radii), dim=-1)


def effective_ring_blocks(link: LinkGeometry, radii_m: Tensor, num_samples: int | None = None) -> Tensor:
    r"""
    Modal blocks of UCA grids behind equal dishes at both ends: the coupling of mode l to mode l' is
    \\(a_{l'}^H h\, a_l\\) between rings of K samples \\(\sqrt{L}/K\; e^{jl\varphi_k}\\) with the exact channel h.

    Args:
        link: between two `UCAGrid`s.
        radii_m: radius of mode |l|'s ring, `[..., L // 2 + 1]`, as from `effective_ring_radii`.
        num_samples: K, at least L; None: 4 L. With K = L and all radii R the blocks are those of the plain grids.

    Returns:
        `[..., L, N_r, L, N_t]`.
    """
    tx, rx = grids(link)
    num_modes = tx.uca.num_elements
    num_samples = 4 * num_modes if num_samples is None else count(num_samples, "num_samples", minimum=num_modes)
    if radii_m.shape[-1] != num_modes // 2 + 1:
        raise ValueError(
            f"`radii_m` must be [..., {num_modes // 2 + 1}], one for each |mode|; got {list(radii_m.shape)}."
        )
    radii_m = positive(radii_m, "radii_m")
    orders = signed_modes(num_modes).abs()

    blocks: dict[tuple[int, int], Tensor] = {}
    for rx_order in range(num_modes // 2 + 1):
        for tx_order in range(num_modes // 2 + 1):
            ends = [
                _with_ring(tx, num_samples, radii_m[..., tx_order]),
                _with_ring(rx, num_samples, radii_m[..., rx_order]),
            ]
            between = los_channel(LinkGeometry(ends[0], ends[1], link.pose, wavelength_m=link.wavelength_m))
            blocks[rx_order, tx_order] = mode_blocks(between, rx.num_ucas, tx.num_ucas)

    signed = signed_modes(num_modes).tolist()
    rows = []
    for rx_mode, rx_order in zip(signed, orders.tolist(), strict=True):
        row = [
            blocks[rx_order, tx_order][..., rx_mode % num_samples, :, tx_mode % num_samples, :]
            for tx_mode, tx_order in zip(signed, orders.tolist(), strict=True)
        ]
        rows.append(torch.stack(row, dim=-2))
    return torch.stack(rows, dim=-4) * (num_modes / num_samples)


def _with_ring(grid: UCAGrid, num_samples: int, radius_m: Tensor) -> UCAGrid:
    return UCAGrid(UCA(num_samples, radius_m, grid.uca.phase0_rad), grid.rows, grid.columns, grid.pitch_m)
