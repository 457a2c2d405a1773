"""Fields of single modes in front of a UCA: phase fronts, intensity, vortex charge."""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from . import formulas
from .checks import Real, count, positive, real
from .geometry import UCA, wavelength
from .modes import bessel_first_maximum, mode_index, nyquist_mode
from .settings import MAX_PIXELS

MAX_BYTES = 2**27  # working memory unless given


def field_at(
    uca: UCA,
    points_m: Tensor,
    mode: int | None = None,
    *,
    wavelength_m: float | None = None,
    freq_hz: float | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    r"""
    Field of a mode with unit power, \\(E(r) = \sum_n \frac{e^{j 2\pi l n/N}}{\sqrt N} \frac{\lambda}{4\pi d_n} e^{-jkd_n}\\).

    Args:
        uca: one array, no batch, in the plane z = 0.
        points_m: `[P, 3]`.
        mode: FFT index 0..N-1 or signed; None: all modes in FFT order.
        max_bytes: working memory; points are taken in chunks that fit.
        progress: called with (points done, points in all) after every chunk.

    Returns:
        `[P]`, or `[N, P]` for all modes; complex128.
    """
    waves_m = wavelength(wavelength_m, freq_hz)
    index = None if mode is None else mode_index(mode, uca.num_elements)
    points = real(points_m, "points_m")
    count(max_bytes, "max_bytes")
    warn_of_evanescent_mode(uca, index, waves_m)
    return superpose(uca, points, index, waves_m, max_bytes, progress)


def superpose(
    uca: UCA,
    points: Tensor,
    index: int | None,
    wavelength_m: Tensor,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """`field_at` of what is checked; `index`: of the mode, in FFT order."""
    elements, wavenumber = uca.positions(), 2 * math.pi / wavelength_m
    chunk = max(1, max_bytes // (96 * uca.num_elements))
    parts = []
    for start in range(0, len(points), chunk):
        distance = torch.linalg.vector_norm(points[start : start + chunk, None] - elements, dim=-1)
        if bool((distance == 0).any()):
            raise ValueError(
                "`points_m` must not lie on elements, where the field has no value; move the point that does."
            )
        amplitude, phase = wavelength_m / (4 * math.pi * distance), -wavenumber * distance
        waves = torch.complex(amplitude * phase.cos(), amplitude * phase.sin())
        modes = torch.fft.ifft(waves, dim=-1, norm="ortho")
        parts.append(modes.mT if index is None else modes[:, index])
        if progress is not None:
            progress(min(start + chunk, len(points)), len(points))
    return torch.cat(parts, dim=-1)


def warn_of_evanescent_mode(uca: UCA, index: int | None, wavelength_m: Tensor):
    orders = formulas.signed_modes(uca.num_elements).abs()
    order = int(orders.max() if index is None else orders[index])
    kr = float(2 * math.pi / wavelength_m * uca.radius_m)
    if order and kr <= bessel_first_maximum(order):
        warnings.warn(
            f"mode {order} hardly radiates from a ring with kR = {kr:.3g}: its beam would lie beyond 90 degrees.",
            stacklevel=3,
        )


def field_map(
    uca: UCA,
    mode: int | None = None,
    *,
    distance_m: Real,
    extent_m: Real,
    num_pixels: int = 256,
    wavelength_m: float | None = None,
    freq_hz: float | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """
    The field on a square across the axis. Phase: `.angle()`; intensity: `.abs().square()`. Other arguments: `field_at`.

    Args:
        distance_m: of the plane from the array.
        extent_m: side of the square, from the centre of its first pixel to that of its last.
        num_pixels: along a side, 2 to 4096.

    Returns:
        `[num_pixels, num_pixels]`, or `[N, ...]` for all modes; rows along y, columns along x, both ascending.
    """
    if count(num_pixels, "num_pixels", minimum=2) > MAX_PIXELS:
        raise ValueError(f"`num_pixels` must be at most {MAX_PIXELS}; got {num_pixels}.")
    distance, extent = positive(distance_m, "distance_m"), positive(extent_m, "extent_m")
    waves_m = wavelength(wavelength_m, freq_hz)
    index = None if mode is None else mode_index(mode, uca.num_elements)
    count(max_bytes, "max_bytes")
    warn_of_evanescent_mode(uca, index, waves_m)
    field = superpose(uca, plane(distance, extent, num_pixels), index, waves_m, max_bytes, progress)
    return field.unflatten(-1, (num_pixels, num_pixels))


def plane(distance: Tensor, extent: Tensor, num_pixels: int) -> Tensor:
    """The points of a square across the axis, `[num_pixels * num_pixels, 3]`, rows along y."""
    axis = extent * (torch.arange(num_pixels, dtype=torch.float64, device=extent.device) / (num_pixels - 1) - 0.5)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y, distance.expand_as(x)], dim=-1).flatten(0, 1)


def winding_number(
    uca: UCA,
    mode: int,
    *,
    distance_m: float,
    wavelength_m: float | None = None,
    freq_hz: float | None = None,
    num_points: int = 720,
) -> int:
    """
    Turns of the field's phase along a circle around the axis, half way out to the mode's brightest ring. Equals the
    signed mode where 2 |l| < N; warns at the Nyquist mode, which has no vortex.
    """
    index = mode_index(mode, uca.num_elements)
    if index == nyquist_mode(uca.num_elements):
        warnings.warn(
            f"mode {mode} of {uca.num_elements} elements is a standing wave and has no vortex.", stacklevel=2
        )
    signed = int(formulas.signed_modes(uca.num_elements)[index])
    distance, waves_m = float(positive(distance_m, "distance_m")), wavelength(wavelength_m, freq_hz)
    warn_of_evanescent_mode(uca, index, waves_m)
    return turns(uca, signed, distance, waves_m, num_points)


def turns(uca: UCA, signed: int, distance_m: float, wavelength_m: Tensor, num_points: int = 720) -> int:
    """`winding_number` of what is checked; `signed`: of the mode."""
    sine = 0.1
    if signed:
        widest = bessel_first_maximum(abs(signed)) * float(wavelength_m) / (2 * math.pi * float(uca.radius_m))
        sine = min(widest, 0.9) / 2
    radius = distance_m * math.tan(math.asin(sine))
    azimuth = 2 * math.pi / num_points * torch.arange(num_points + 1, dtype=torch.float64)
    points = torch.stack(
        [radius * azimuth.cos(), radius * azimuth.sin(), torch.full_like(azimuth, distance_m)], dim=-1
    )
    field = superpose(uca, points, signed % uca.num_elements, wavelength_m)
    return round(float((field[1:] * field[:-1].conj()).angle().sum() / (2 * math.pi)))
