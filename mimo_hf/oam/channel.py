"""Line-of-sight channels between arrays, exact and in the far field, and the Kronecker model of correlated MIMO."""

import math
import warnings

import torch
from torch import Tensor

from .checks import Real, choice, count, matrix, positive, random_generator, real, usable_device
from .formulas import ONE
from .geometry import UCA, LinkGeometry, planar_dot
from .modes import bessel_j

CHANNEL_MODELS = ("exact", "far_field")
EPS_FLOAT32 = torch.finfo(torch.float32).eps


def los_channel(
    link: LinkGeometry,
    model: str = "exact",
    beta: Real = 1.0,
    dtype: torch.dtype = torch.complex128,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""
    Free-space channel of isotropic elements without mutual coupling,

    \\(h_{mn} = \beta \frac{\lambda}{4\pi d_{mn}} e^{-j k d_{mn}}\\)  (Friis; time convention \\(e^{+j\omega t}\\)).

    The phase is taken from the path difference \\(d_{mn} - D\\), which keeps the digits that a long distance would
    swallow. `model="far_field"` expands the distance to first order [derived],
    \\(d_{mn} \approx s + (c\cdot\rho_m - c\cdot q_n - q_n\cdot\rho_m)/s\\), \\(s^2 = D^2 + |q_n|^2 + |\rho_m|^2\\), with
    the amplitude \\(\lambda/4\pi D\\). Its phase is wrong by O(k R³/D²), or O(k R⁴/D³) when aligned.

    Args:
        link: batch shape `[...]`.
        beta: amplitude of element gains and losses, `[...]`.
        dtype: complex128, or complex64 where the last digits do not matter.
        device: where it is computed; None: where the link's tensors are.

    Returns:
        `[..., N_r, N_t]`, differentiable in every length and angle, at exact alignment too.

    Raises:
        ValueError: two elements coincide; an argument is out of range.
    """
    choice(model, "model", CHANNEL_MODELS)
    if dtype not in (torch.complex128, torch.complex64):
        raise ValueError(f"`dtype` must be torch.complex128 or torch.complex64; got {dtype}.")
    if device is not None:
        link = link.to(usable_device(device))
    beta = real(beta, "beta").to(link.wavelength_m.device)
    if dtype == torch.complex64:
        warn_of_float32(link)
    return free_space(link, dtype, beta, far_field=model == "far_field")


def free_space(
    link: LinkGeometry,
    dtype: torch.dtype = torch.complex128,
    beta: Tensor = ONE,
    far_field: bool = False,
    apart: bool = False,
) -> Tensor:
    """`los_channel` of what is checked; `apart`: that no two elements coincide is known too."""
    real_dtype = torch.float64 if dtype == torch.complex128 else torch.float32
    distance, wavenumber = link.distance_m, link.wavenumber
    p, q = link.rx.positions(), link.tx.positions()
    rx_ramp, tx_ramp = planar_dot(p, link.pose.center_in_own_axes()), planar_dot(q, link.pose.center_m)
    p_squared, q_squared = p.square().sum(dim=-1), q.square().sum(dim=-1)
    far = distance.to(real_dtype)[..., None, None]
    minus_k = -wavenumber.to(real_dtype)[..., None, None]
    # k D modulo a turn, in float64: the phase common to all elements.
    common = -(wavenumber * distance).remainder(2 * math.pi).to(real_dtype)[..., None, None]

    if not far_field:
        if not apart:
            _refuse_coincidence(link, p_squared, q_squared)
        # |c + rho - q|² - |c|²
        rotation = link.pose.rotation
        excess = _plus_cross(p_squared + 2 * rx_ramp, q_squared - 2 * tx_ramp, p, q, -2 * rotation, real_dtype)
        path = (far.square() + excess).sqrt()
        difference = excess / (path + far)
    else:
        _warn_of_near_field(link, p_squared, q_squared)
        squares = (p_squared[..., :, None] + q_squared[..., None, :]).to(real_dtype)
        slant = (far.square() + squares).sqrt()
        ramps = _plus_cross(rx_ramp, -tx_ramp, p, q, -link.pose.rotation, real_dtype)
        path = far
        difference = squares / (slant + far) + ramps / slant

    phase = torch.addcmul(common, minus_k, difference)
    amplitude = (beta * link.wavelength_m / (4 * math.pi)).to(real_dtype)[..., None, None] / path
    # Cosine and sine are vectorised; a complex exponential is not, and takes ten times as long.
    return torch.complex(amplitude * phase.cos(), amplitude * phase.sin())


def _plus_cross(
    rx_terms: Tensor, tx_terms: Tensor, p: Tensor, q: Tensor, rotation: Tensor, dtype: torch.dtype
) -> Tensor:
    r"""rx_terms_m + tx_terms_n + (rotation \\(p_m\\)) \\(\cdot q_n\\), `[..., N_r, N_t]`, for planar arrays."""
    px, py = p[..., 0], p[..., 1]
    rho_x = (rotation[..., 0, :1] * px + rotation[..., 0, 1:2] * py).to(dtype)
    rho_y = (rotation[..., 1, :1] * px + rotation[..., 1, 1:2] * py).to(dtype)
    q = q.to(dtype)
    total = rx_terms.to(dtype)[..., :, None] + tx_terms.to(dtype)[..., None, :]
    total = torch.addcmul(total, rho_x[..., :, None], q[..., None, :, 0])
    return torch.addcmul(total, rho_y[..., :, None], q[..., None, :, 1])


def _refuse_coincidence(link: LinkGeometry, p_squared: Tensor, q_squared: Tensor):
    # Arrays whose enclosing spheres do not touch have no common point, which settles nearly every link.
    reach = p_squared.detach().amax(dim=-1).sqrt() + q_squared.detach().amax(dim=-1).sqrt()
    if bool((link.distance_m.detach() > reach * (1 + 1e-6)).all()):
        return
    between = link.rx_positions().detach()[..., :, None, :] - link.tx_positions().detach()[..., None, :, :]
    nearest = between.square().sum(dim=-1).amin(dim=(-2, -1)).sqrt()
    if bool((nearest <= 1e-6 * link.wavelength_m.detach()).any()):
        raise ValueError(
            "`link` must keep the elements of its ends apart; got two that coincide. Move the arrays apart."
        )


def _warn_of_near_field(link: LinkGeometry, p_squared: Tensor, q_squared: Tensor):
    radius = torch.maximum(p_squared.detach().amax(dim=-1), q_squared.detach().amax(dim=-1)).sqrt()
    nearest = (link.distance_m.detach() / radius).min()
    if nearest < 10:
        warnings.warn(
            f"the far-field model is poor at {float(nearest):.3g} array radii, less than ten; use model='exact'.",
            stacklevel=3,
        )


def warn_of_float32(link: LinkGeometry):
    phase = float((link.wavenumber * link.distance_m).detach().max())
    if phase * EPS_FLOAT32 > 0.01:
        warnings.warn(
            f"complex64 at k D = {phase:.3g} rad: float32 resolves such a phase to {phase * EPS_FLOAT32:.2g} rad only. "
            "Phases across the arrays are kept here, because they come from path differences; phases recomputed from "
            "float32 positions are lost. Use complex128 if in doubt.",
            stacklevel=3,
        )


def kronecker(
    rx_correlation: Tensor,
    tx_correlation: Tensor,
    batch_shape: tuple[int, ...] = (),
    seed: int | torch.Generator = 0,
    dtype: torch.dtype = torch.complex128,
) -> Tensor:
    r"""
    Correlated Rayleigh fading \\(H = R_r^{1/2} H_w R_t^{1/2}\\), entries of \\(H_w\\) i.i.d. CN(0, 1) (Kronecker model).

    Args:
        rx_correlation, tx_correlation: `[N_r, N_r]` and `[N_t, N_t]`, Hermitian and positive semi-definite.
        batch_shape: leading dimensions of independent draws.
        seed: or a CPU generator. Numbers are drawn on the CPU, so that every device gets the same channel.

    Returns:
        `[*batch_shape, N_r, N_t]` on the device of `rx_correlation`.
    """
    generator = random_generator(seed)
    named = {"rx_correlation": rx_correlation, "tx_correlation": tx_correlation}
    roots = [_hermitian_root(matrix(r, name, square=True).to(dtype), name) for name, r in named.items()]
    device = rx_correlation.device
    shape = (*batch_shape, rx_correlation.shape[-1], tx_correlation.shape[-1])
    white = torch.randn(shape, dtype=dtype, generator=generator).to(device)
    return roots[0] @ white @ roots[1]


def _hermitian_root(correlation: Tensor, name: str) -> Tensor:
    largest = float(correlation.abs().max())
    if float((correlation - correlation.mH).abs().max()) > 1e-6 * largest:
        raise ValueError(f"`{name}` must be Hermitian, as correlations are; it differs from its conjugate transpose.")
    values, vectors = torch.linalg.eigh(correlation)
    if float(values.min()) < -1e-9 * largest:
        raise ValueError(f"`{name}` must be positive semi-definite; it has the eigenvalue {float(values.min()):.3g}.")
    return (vectors * values.clamp(min=0).sqrt().to(vectors.dtype)) @ vectors.mH


def exponential_correlation(num_elements: int, rho: float) -> Tensor:
    r"""\\(R_{ij} = \rho^{|i-j|}\\), `[N, N]`, \\(0 \le \rho < 1\\)."""
    count(num_elements, "num_elements")
    if not 0 <= rho < 1:
        raise ValueError(f"`rho` must be at least 0 and below 1; got {rho}.")
    index = torch.arange(num_elements, dtype=torch.float64)
    return torch.as_tensor(rho, dtype=torch.float64) ** (index[:, None] - index).abs()


def ring_correlation(uca: UCA, wavelength_m: float) -> Tensor:
    r"""\\(R_{ij} = J_0(2\pi d_{ij}/\lambda)\\) between the elements of a ring (isotropic scattering in the plane), `[N, N]`."""
    positions = uca.positions()
    spacing = torch.cdist(positions, positions, compute_mode="donot_use_mm_for_euclid_dist")
    return bessel_j(0, 2 * math.pi / positive(wavelength_m, "wavelength_m") * spacing)
