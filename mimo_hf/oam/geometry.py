"""
Arrays, poses and links, in metres and radians.

The transmit array lies in the x-y plane, centred at the origin, and looks along +z. The receive array's centre and
attitude are a `Pose`. Distances run from centre to centre. Angles, axes and signs: see README.md in this folder.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from .checks import Real, count, non_negative, positive, real

SPEED_OF_LIGHT_M_S = 299_792_458.0  # in metres a second, exact by definition


# A function of a tensor and the number of its dimensions that are no batch dimensions.
TensorMap = Callable[[Tensor, int], Tensor]
Part = TypeVar("Part")


def altered(part: Part, **attributes: Any) -> Part:
    """A copy with other attributes, made of what has been checked: a large batch is cut often."""
    changed = copy.copy(part)
    for name, value in attributes.items():
        object.__setattr__(changed, name, value)
    return changed


class Array(Protocol):
    """Anything with element positions `[..., N, 3]` in its own frame, centred, in the plane z = 0."""

    @property
    def num_elements(self) -> int: ...

    def positions(self) -> Tensor: ...

    def map_tensors(self, function: TensorMap) -> "Array": ...


@dataclass(frozen=True)
class UCA:
    r"""
    Uniform circular array. Element n stands at \\(R (\cos\varphi_n, \sin\varphi_n, 0)\\),
    \\(\varphi_n = 2\pi n / N + \varphi_0\\).

    Args:
        num_elements: N, at least 2.
        radius_m: R, `[...]`.
        phase0_rad: azimuth of element 0, `[...]`.
    """

    num_elements: int
    radius_m: Real
    phase0_rad: Real = 0.0

    def __post_init__(self):
        count(self.num_elements, "num_elements", minimum=2)
        object.__setattr__(self, "radius_m", positive(self.radius_m, "radius_m"))
        object.__setattr__(self, "phase0_rad", real(self.phase0_rad, "phase0_rad"))

    def azimuths_rad(self) -> Tensor:
        """Azimuth of every element, `[..., N]`."""
        n = torch.arange(self.num_elements, dtype=torch.float64, device=self.phase0_rad.device)
        return 2 * math.pi / self.num_elements * n + self.phase0_rad[..., None]

    def positions(self) -> Tensor:
        """Element positions in the array's own frame, `[..., N, 3]`."""
        azimuths, radius = torch.broadcast_tensors(self.azimuths_rad(), self.radius_m[..., None])
        return torch.stack([radius * azimuths.cos(), radius * azimuths.sin(), torch.zeros_like(radius)], dim=-1)

    def map_tensors(self, function: TensorMap) -> "UCA":
        return altered(self, radius_m=function(self.radius_m, 0), phase0_rad=function(self.phase0_rad, 0))


@dataclass(frozen=True)
class ULA:
    """
    Uniform linear array along x, centred; the baseline of the comparisons with MIMO.

    Args:
        num_elements: at least 2.
        aperture_m: from the first element to the last, `[...]`.
    """

    num_elements: int
    aperture_m: Real

    def __post_init__(self):
        count(self.num_elements, "num_elements", minimum=2)
        object.__setattr__(self, "aperture_m", positive(self.aperture_m, "aperture_m"))

    def positions(self) -> Tensor:
        """Element positions in the array's own frame, `[..., N, 3]`."""
        steps = torch.arange(self.num_elements, dtype=torch.float64, device=self.aperture_m.device)
        x = self.aperture_m[..., None] * (steps / (self.num_elements - 1) - 0.5)
        return torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], dim=-1)

    def map_tensors(self, function: TensorMap) -> "ULA":
        return altered(self, aperture_m=function(self.aperture_m, 0))


@dataclass(frozen=True)
class UCAGrid:
    """
    A plane grid of equal UCAs, row-major: y outside, x inside, centred. Elements of one UCA are adjacent.

    Args:
        uca: the array that is repeated.
        rows, columns: UCAs along y and x.
        pitch_m: spacing of neighbouring centres, at least twice the radius where there is more than one UCA.
    """

    uca: UCA
    rows: int
    columns: int
    pitch_m: Real

    def __post_init__(self):
        count(self.rows, "rows")
        count(self.columns, "columns")
        object.__setattr__(self, "pitch_m", positive(self.pitch_m, "pitch_m"))
        self.refuse_overlap()

    def refuse_overlap(self) -> None:
        pitch = self.pitch_m
        if self.num_ucas > 1 and bool((pitch < 2 * self.uca.radius_m).any()):
            raise ValueError(
                f"`pitch_m` must be at least twice the radius, or neighbouring UCAs overlap; got {float(pitch.min()):g} "
                f"m for a radius of {float(self.uca.radius_m.max()):g} m."
            )

    @property
    def num_ucas(self) -> int:
        return self.rows * self.columns

    @property
    def num_elements(self) -> int:
        return self.num_ucas * self.uca.num_elements

    def centers_m(self) -> Tensor:
        """Centres of the UCAs, `[..., UCAs, 3]`."""
        y, x = (
            torch.arange(size, dtype=torch.float64, device=self.pitch_m.device) - (size - 1) / 2
            for size in (self.rows, self.columns)
        )
        y, x = torch.meshgrid(y, x, indexing="ij")
        steps = torch.stack([x.flatten(), y.flatten(), torch.zeros_like(x.flatten())], dim=-1)
        return self.pitch_m[..., None, None] * steps

    def positions(self) -> Tensor:
        """Element positions in the grid's own frame, `[..., UCAs * N, 3]`."""
        return (self.centers_m()[..., :, None, :] + self.uca.positions()[..., None, :, :]).flatten(-3, -2)

    def map_tensors(self, function: TensorMap) -> "UCAGrid":
        return altered(self, uca=self.uca.map_tensors(function), pitch_m=function(self.pitch_m, 0))


@dataclass(frozen=True)
class Pose:
    """
    Where an array stands: a point \\(p\\) of its own frame is at `center_m + rotation @ p`.

    Args:
        center_m: `[..., 3]`.
        rotation: proper rotation matrices, `[..., 3, 3]`.
    """

    center_m: Tensor
    rotation: Tensor

    def __post_init__(self):
        center, rotation = real(self.center_m, "center_m"), real(self.rotation, "rotation")
        if center.shape[-1:] != (3,) or rotation.shape[-2:] != (3, 3):
            raise ValueError(
                f"`center_m` must be [..., 3] and `rotation` [..., 3, 3]; got {list(center.shape)} and "
                f"{list(rotation.shape)}."
            )
        object.__setattr__(self, "center_m", center)
        object.__setattr__(self, "rotation", rotation)

    @classmethod
    def from_angles(
        cls,
        distance_m: Real,
        off_axis_rad: Real = 0.0,
        azimuth_rad: Real = 0.0,
        tilt_rad: Real = 0.0,
        tilt_azimuth_rad: Real = 0.0,
        spin_rad: Real = 0.0,
    ) -> "Pose":
        r"""
        Pose by distance and angles, all `[...]` and broadcast together.

        Centre \\(c = D(\sin\theta\cos\vartheta, \sin\theta\sin\vartheta, \cos\theta)\\). Attitude: spin \\(\psi_0\\)
        about the array's own normal, then tilt \\(\alpha\\) towards azimuth \\(\gamma\\), which is a right-handed turn
        about \\((-\sin\gamma, \cos\gamma, 0)\\); the normal becomes
        \\((\sin\alpha\cos\gamma, \sin\alpha\sin\gamma, \cos\alpha)\\). Smooth in all angles, at zero too.

        Args:
            distance_m: D.
            off_axis_rad, azimuth_rad: \\(\theta, \vartheta\\).
            tilt_rad, tilt_azimuth_rad: \\(\alpha, \gamma\\).
            spin_rad: \\(\psi_0\\).
        """
        distance, theta, azimuth, tilt, gamma, spin = torch.broadcast_tensors(
            non_negative(distance_m, "distance_m"),
            real(off_axis_rad, "off_axis_rad"),
            real(azimuth_rad, "azimuth_rad"),
            real(tilt_rad, "tilt_rad"),
            real(tilt_azimuth_rad, "tilt_azimuth_rad"),
            real(spin_rad, "spin_rad"),
        )
        sin_theta = theta.sin()
        direction = torch.stack([sin_theta * azimuth.cos(), sin_theta * azimuth.sin(), theta.cos()], dim=-1)

        cos_g, sin_g, sin_t = gamma.cos(), gamma.sin(), tilt.sin()
        versine = 2 * (tilt / 2).sin().square()
        x_axis = torch.stack([1 - versine * cos_g.square(), -versine * cos_g * sin_g, -sin_t * cos_g], dim=-1)
        y_axis = torch.stack([-versine * cos_g * sin_g, 1 - versine * sin_g.square(), -sin_t * sin_g], dim=-1)
        normal = torch.stack([sin_t * cos_g, sin_t * sin_g, 1 - versine], dim=-1)
        cos_s, sin_s = spin.cos()[..., None], spin.sin()[..., None]
        axes = [x_axis * cos_s + y_axis * sin_s, y_axis * cos_s - x_axis * sin_s, normal]
        return altered(cls.__new__(cls), center_m=distance[..., None] * direction, rotation=torch.stack(axes, dim=-1))

    def inverse(self) -> "Pose":
        """The pose of the frame in which this pose is given, seen from this pose."""
        back = self.rotation.mT
        return altered(self, center_m=-(back @ self.center_m[..., None])[..., 0], rotation=back)

    def center_in_own_axes(self) -> Tensor:
        """The centre along the axes of this pose's own frame, `[..., 3]`."""
        x, y, z = self.center_m.unsqueeze(-2).unbind(dim=-1)
        return x * self.rotation[..., 0, :] + y * self.rotation[..., 1, :] + z * self.rotation[..., 2, :]

    def compose(self, inner: "Pose") -> "Pose":
        """The pose, in this pose's outer frame, of something at `inner` in this pose's own frame."""
        center = self.center_m + (self.rotation @ inner.center_m[..., None])[..., 0]
        return altered(self, center_m=center, rotation=self.rotation @ inner.rotation)

    def map_tensors(self, function: TensorMap) -> "Pose":
        return altered(self, center_m=function(self.center_m, 1), rotation=function(self.rotation, 2))


def wavelength(wavelength_m: Real | None = None, freq_hz: Real | None = None) -> Tensor:
    """The wavelength, of one of the two; ValueError where both are given, or none."""
    if (wavelength_m is None) == (freq_hz is None):
        raise ValueError(
            f"`wavelength_m` or `freq_hz` must be given, exactly one of them; got {wavelength_m!r} and {freq_hz!r}."
        )
    if wavelength_m is None:
        return SPEED_OF_LIGHT_M_S / positive(freq_hz, "freq_hz")
    return positive(wavelength_m, "wavelength_m")


def planar_dot(positions: Tensor, vector: Tensor) -> Tensor:
    """Dot products of elements in the plane z = 0, `[..., N, 3]`, with one vector, `[..., 3]`; `[..., N]`."""
    return positions[..., 0] * vector[..., :1] + positions[..., 1] * vector[..., 1:2]


class LinkGeometry:
    r"""
    Two arrays, where they stand, and the wavelength. Every length and angle may carry batch dimensions `[...]`; they
    broadcast.

    Args:
        tx, rx: `UCA`, `ULA` or `UCAGrid`.
        pose: of the receive array.
        tx_pose: of the transmit array, in the same frame as `pose`; None: at the origin, looking along +z. Only the
            relative pose matters, and is what the attribute `pose` holds.
        wavelength_m, freq_hz: exactly one of them; \\(\lambda = c/f\\) with c = 299 792 458 m/s.

    Raises:
        ValueError: both or none of wavelength and frequency; a distance shorter than the wavelength.

    Example:
        >>> link = LinkGeometry(UCA(8, 0.5), UCA(8, 0.5), Pose.from_angles(50.0), wavelength_m=0.01)
        >>> float(link.bessel_argument)
        3.1412784...
    """

    def __init__(
        self,
        tx: Array,
        rx: Array,
        pose: Pose,
        *,
        tx_pose: Pose | None = None,
        wavelength_m: Real | None = None,
        freq_hz: Real | None = None,
    ):
        self.wavelength_m = wavelength(wavelength_m, freq_hz)
        self.tx, self.rx = tx, rx
        self.pose = pose if tx_pose is None else tx_pose.inverse().compose(pose)
        if bool((self.distance_m.detach() < self.wavelength_m.detach()).any()):
            raise ValueError(
                f"`distance_m` must be at least one wavelength ({float(self.wavelength_m.max()):g} m); got "
                f"{float(self.distance_m.min()):g} m."
            )

    @property
    def batch_shape(self) -> torch.Size:
        parts = [self.wavelength_m.shape, self.pose.center_m.shape[:-1], self.pose.rotation.shape[:-2]]
        parts += [array.positions().shape[:-2] for array in (self.tx, self.rx)]
        return torch.broadcast_shapes(*parts)

    @property
    def distance_m(self) -> Tensor:
        """D, `[...]`."""
        return torch.linalg.vector_norm(self.pose.center_m, dim=-1)

    @property
    def wavenumber(self) -> Tensor:
        r"""\\(k = 2\pi/\lambda\\) in rad/m, `[...]`."""
        return 2 * math.pi / self.wavelength_m

    def tx_positions(self) -> Tensor:
        """`[..., N_t, 3]`."""
        return self.tx.positions()

    def rx_offsets(self) -> Tensor:
        r"""Receive elements relative to their centre, \\(\rho_m = A p_m\\), `[..., N_r, 3]`."""
        return self.rx.positions() @ self.pose.rotation.mT

    def rx_positions(self) -> Tensor:
        """`[..., N_r, 3]`."""
        return self.pose.center_m[..., None, :] + self.rx_offsets()

    def tx_ramp(self) -> Tensor:
        r"""\\(c \cdot q_n\\) in m², `[..., N_t]`: by D, how much nearer a transmit element is than its centre."""
        return planar_dot(self.tx.positions(), self.pose.center_m)

    def rx_ramp(self) -> Tensor:
        r"""\\(c \cdot \rho_m\\) in m², `[..., N_r]`: by D, how much farther a receive element is than its centre."""
        return planar_dot(self.rx.positions(), self.pose.center_in_own_axes())

    def rings(self) -> tuple[UCA, UCA]:
        """Both arrays, where both are UCAs; raises TypeError where they are not."""
        if not isinstance(self.tx, UCA) or not isinstance(self.rx, UCA):
            names = f"{type(self.tx).__name__} and {type(self.rx).__name__}"
            raise TypeError(f"`link` must have a UCA at both ends; got {names}.")
        return self.tx, self.rx

    @property
    def slant_distance_m(self) -> Tensor:
        r"""\\(s = \sqrt{D^2 + R_t^2 + R_r^2}\\), `[...]`: from element to element when aligned, but for their azimuths."""
        tx, rx = self.rings()
        return (self.distance_m.square() + tx.radius_m.square() + rx.radius_m.square()).sqrt()

    @property
    def bessel_argument(self) -> Tensor:
        r"""\\(x = k R_t R_r / s\\), `[...]`. Mode l passes an aligned link with about \\(N |J_l(x)|\\)."""
        tx, rx = self.rings()
        return self.wavenumber * tx.radius_m * rx.radius_m / self.slant_distance_m

    @property
    def anisotropy(self) -> Tensor:
        r"""
        \\(\eta = x (b_1 - b_2)/2\\), `[...]`, what no diagonal phases remove from a misaligned channel [derived].

        \\(b_1 \ge b_2\\) are the singular values of \\(B = A_{xy} - c_{xy}(A^T c)_{xy}^T / s^2\\), the bilinear part of
        the phase. For small \\(\eta\\) the non-circulance after BePre is about \\(\eta/\sqrt{2}\\).
        """
        center, rotation = self.pose.center_m, self.pose.rotation
        seen = self.pose.center_in_own_axes()[..., :2]
        squared = self.slant_distance_m.square()[..., None, None]
        bilinear = rotation[..., :2, :2] - center[..., :2, None] * seen[..., None, :] / squared
        values = torch.linalg.svdvals(bilinear)
        return self.bessel_argument * (values[..., 0] - values[..., 1]) / 2

    @property
    def pointing_tolerance_rad(self) -> Tensor:
        r"""\\(\lambda / (2\pi R)\\) of the larger ring, `[...]`: angles must be known far better than this."""
        tx, rx = self.rings()
        return 1 / (self.wavenumber * torch.maximum(tx.radius_m, rx.radius_m))

    def swapped(self) -> "LinkGeometry":
        """The link in the other direction; its channel is the transpose."""
        return altered(self, tx=self.rx, rx=self.tx, pose=self.pose.inverse())

    def map_tensors(self, function: TensorMap) -> "LinkGeometry":
        return altered(
            self,
            tx=self.tx.map_tensors(function),
            rx=self.rx.map_tensors(function),
            pose=self.pose.map_tensors(function),
            wavelength_m=function(self.wavelength_m, 0),
        )

    def to(self, device: torch.device | str) -> "LinkGeometry":
        """The same link with its tensors on a device, where everything computed from it then stays."""
        return self.map_tensors(lambda tensor, _: tensor.to(device))
