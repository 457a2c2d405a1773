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

from .checks import Real, positive, shown
from .geometry import UCA
from .modes import bessel_first_maximum


def divergence_rad(mode: int, kr: Real) -> Tensor:
    r"""
    Angle of strongest radiation \\(\theta_l = \arcsin(j'_{l,1}/kR)\\), `[...]`; zero for mode 0.

    Args:
        mode: signed.
        kr: \\(kR\\), `[...]`.

    Raises:
        ValueError: \\(kR \le j'_{l,1}\\): a ring that small does not radiate the mode.
    """
    return _divergence(mode, positive(kr, "kr"), "`kr`")


def _divergence(mode: int, kr: Tensor, called: str) -> Tensor:
    if mode == 0:
        return torch.zeros_like(kr)
    needed = bessel_first_maximum(abs(mode))
    if bool((kr.detach() <= needed).any()):
        raise ValueError(
            f"{called} must exceed {needed:.4g} for mode {mode} to radiate; got {shown(kr.min())}. Enlarge the radius, or use "
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
    angles = [_divergence(order, kr, "kR of `radius_m`") for order in orders]
    radii = [uca.radius_m, *(2 * focal * torch.tan(angle / 2) for angle in angles)]
    if dish_radius_m is not None:
        limit = positive(dish_radius_m, "dish_radius_m")
        lost = [str(order) for order, radius in enumerate(radii) if bool((radius > limit).any())]
        if lost:
            warnings.warn(f"a dish of radius {float(limit):g} m truncates modes {', '.join(lost)}.", stacklevel=2)
    return torch.stack(torch.broadcast_tensors(*radii), dim=-1)
