"""Fields of single modes in front of a UCA: phase fronts, intensity, vortex charge."""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from .checks import Real, count, positive, real
from .geometry import SPEED_OF_LIGHT_M_S, UCA
from .modes import bessel_first_maximum, mode_index, nyquist_mode, signed_modes
from .settings import MAX_PIXELS


def field_at(
    uca: UCA,
    points_m: Tensor,
    mode: int | None = None,
    *,
    wavelength_m: float | None = None,
    freq_hz: float | None = None,
    max_bytes: int = 2**27,
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
    if (wavelength_m is None) == (freq_hz is None):
        raise ValueError(f"give exactly one of `wavelength_m` and `freq_hz`; got {wavelength_m!r} and {freq_hz!r}.")
    if wavelength_m is None:
        wavelength = SPEED_OF_LIGHT_M_S / positive(freq_hz, "freq_hz")
    else:
        wavelength = positive(wavelength_m, "wavelength_m")
    index = None if mode is None else mode_index(mode, uca.num_elements)
    points, elements = real(points_m, "points_m"), uca.positions()
    wavenumber = 2 * math.pi / wavelength
    signed = signed_modes(uca.num_elements).abs()
    _warn_of_evanescent_mode(int(signed.max() if index is None else signed[index]), float(wavenumber * uca.radius_m))
    count(max_bytes, "max_bytes")
    chunk = max(1, max_bytes // (96 * uca.num_elements))
    parts = []
    for start in range(0, len(points), chunk):
        distance = torch.linalg.vector_norm(points[start : start + chunk, None] - elements, dim=-1)
        if bool((distance == 0).any()):
            raise ValueError("a point of `points_m` lies on an element, where the field has no value.")
        amplitude, phase = wavelength / (4 * math.pi * distance), -wavenumber * distance
        waves = torch.complex(amplitude * phase.cos(), amplitude * phase.sin())
        modes = torch.fft.ifft(waves, dim=-1, norm="ortho")
        parts.append(modes.mT if index is None else modes[:, index])
        if progress is not None:
            progress(min(start + chunk, len(points)), len(points))
    return torch.cat(parts, dim=-1)


def _warn_of_evanescent_mode(order: int, kr: float):
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
    max_bytes: int = 2**27,
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
    axis = extent * (torch.arange(num_pixels, dtype=torch.float64, device=extent.device) / (num_pixels - 1) - 0.5)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y, distance.expand_as(x)], dim=-1).flatten(0, 1)
    field = field_at(
        uca, points, mode, wavelength_m=wavelength_m, freq_hz=freq_hz, max_bytes=max_bytes, progress=progress
    )
    return field.unflatten(-1, (num_pixels, num_pixels))


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
    order = abs(int(signed_modes(uca.num_elements)[index]))
    wavelength = SPEED_OF_LIGHT_M_S / freq_hz if wavelength_m is None and freq_hz else wavelength_m
    sine = 0.1
    if order and wavelength:
        sine = min(bessel_first_maximum(order) * wavelength / (2 * math.pi * float(uca.radius_m)), 0.9) / 2
    radius = float(positive(distance_m, "distance_m")) * math.tan(math.asin(sine))
    azimuth = 2 * math.pi / num_points * torch.arange(num_points + 1, dtype=torch.float64)
    points = torch.stack(
        [radius * azimuth.cos(), radius * azimuth.sin(), torch.full_like(azimuth, float(distance_m))], dim=-1
    )
    field = field_at(uca, points, mode, wavelength_m=wavelength_m, freq_hz=freq_hz)
    turns = (field[1:] * field[:-1].conj()).angle().sum() / (2 * math.pi)
    return round(float(turns))
