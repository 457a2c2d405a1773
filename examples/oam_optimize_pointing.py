"""
Finds the attitude of a misaligned receiver from noisy pilots, by gradients through the channel model, and points BePre.

    python examples/oam_optimize_pointing.py
    python examples/oam_optimize_pointing.py --pilot_snr_db 0 20 40 --num_trials 64

The mechanics know the direction and the tilt only to a degree, ten times coarser than the beams are: plain BePre by
these angles fails. A coarse search over a grid finer than wavelength / (2 pi R), then Gauss-Newton steps on the exact
channel model, whose derivatives come from automatic differentiation. The error falls as the pilots' SNR grows, with slope
-1/2 in log-log, as for any efficient estimator.
"""

import argparse
import math

import torch
from torch import Tensor

from mimo_hf.oam import (
    UCA,
    LinkGeometry,
    Pose,
    bepre,
    equal_power,
    los_channel,
    modal_channel,
    noise_variance,
    spectral_efficiency,
)

DISTANCE_M, WAVELENGTH_M = 50.0, 0.01
RING = UCA(8, 0.5)
NOMINAL_DEG = (4.0, 2.0, 10.0, -5.0)  # direction and tilt, each as two components


def link_of(angles_rad: Tensor) -> LinkGeometry:
    """
    The link of angles in components, `[..., 4]`: the direction towards x and y, the tilt towards x and y. Unlike an angle
    and its azimuth, they say the same everywhere near the axis.
    """
    off_x, off_y, tilt_x, tilt_y = angles_rad.unbind(-1)

    def polar(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.hypot(x, y), torch.atan2(y, x)

    pose = Pose.from_angles(DISTANCE_M, *polar(off_x, off_y), *polar(tilt_x, tilt_y))
    return LinkGeometry(RING, RING, pose, wavelength_m=WAVELENGTH_M)


def mismatch(angles_rad: Tensor, pilots: Tensor) -> Tensor:
    """1 - |<h, pilots>|² / (|h|² |pilots|²): zero for the true channel up to a complex factor, `[...]`."""
    h = los_channel(link_of(angles_rad))
    inner = (h.conj() * pilots).sum(dim=(-2, -1))
    energy = h.abs().square().sum(dim=(-2, -1)) * pilots.abs().square().sum(dim=(-2, -1))
    return 1 - inner.abs().square() / energy


def coarse_search(start_rad: Tensor, pilots: Tensor, reach_rad: float, step_rad: float) -> Tensor:
    """
    The best grid point around `start_rad`, `[trials, 4]`. The receive and the transmit ramp are searched one after the
    other: each depends on two of the four numbers only, where the tilt is taken relative to the direction.
    """
    steps = torch.arange(-reach_rad, reach_rad + step_rad / 2, step_rad, dtype=torch.float64)
    x, y = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack([x.flatten(), y.flatten()], dim=-1)
    zeros = torch.zeros_like(grid)
    tilts, directions = torch.cat([zeros, grid], dim=-1), torch.cat([grid, grid], dim=-1)

    best = start_rad.clone()
    for trial in range(len(best)):
        # The tilt alone turns the receive ramp. Over columns it is compared without their phases, which are not known yet.
        candidates = los_channel(link_of(best[trial] + tilts))
        by_column = (candidates.conj() * pilots[trial]).sum(dim=-2).abs().sum(dim=-1)
        best[trial] += tilts[by_column.argmax()]
        # Direction and tilt together turn the transmit ramp and keep the receive ramp.
        best[trial] += directions[mismatch(best[trial] + directions, pilots[trial]).argmin()]
    return best


def refine(angles_rad: Tensor, pilots: Tensor, steps: int) -> Tensor:
    """Gauss-Newton on all trials at once; the unknown complex factor is fitted in every step."""

    def residual(angles: Tensor) -> Tensor:
        h = los_channel(link_of(angles))
        factor = (h.conj() * pilots).sum(dim=(-2, -1)) / h.abs().square().sum(dim=(-2, -1))
        difference = torch.view_as_real(factor[:, None, None] * h - pilots).flatten(start_dim=1)
        return difference / torch.linalg.vector_norm(pilots, dim=(-2, -1))[:, None]

    for _ in range(steps):
        # Trials don't depend on each other: one derivative along each angle serves them all.
        columns = []
        for direction in torch.eye(4, dtype=torch.float64):
            value, column = torch.func.jvp(residual, (angles_rad,), (direction.expand_as(angles_rad),))
            columns.append(column)
        step = torch.linalg.lstsq(torch.stack(columns, dim=-1), value[..., None]).solution[..., 0]
        angles_rad = angles_rad - step
    return angles_rad


def efficiency(true: LinkGeometry, angles_rad: Tensor) -> float:
    """Mean spectral efficiency behind BePre that believes these angles."""
    g = modal_channel(bepre(link_of(angles_rad), "geom").apply(los_channel(true)))
    return float(spectral_efficiency(g, equal_power(8), noise_variance(20.0, link=true)).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pilot_snr_db", type=float, nargs="+", default=[10.0, 20.0, 30.0, 40.0])
    parser.add_argument("--num_trials", type=int, default=8)
    parser.add_argument("--prior_deg", type=float, default=0.5, help="largest error of each angle at the start")
    parser.add_argument("--steps", type=int, default=6, help="Gauss-Newton steps")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    generator = torch.Generator().manual_seed(args.seed)
    shape = (args.num_trials, 4)
    prior = math.radians(args.prior_deg)
    start = torch.tensor(NOMINAL_DEG, dtype=torch.float64).deg2rad().expand(shape)
    true = start + prior * (2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1)
    link = link_of(true)
    h = los_channel(link)
    tolerance = float(link.pointing_tolerance_rad)

    print(f"Beams are {math.degrees(tolerance):.2f} degrees wide; angles are known to {args.prior_deg:g}.")
    print(
        f"Spectral efficiency with these angles: {efficiency(link, start):.1f} bit/s/Hz, with the true ones ", end=""
    )
    print(f"{efficiency(link, true):.1f}.\n")
    print("pilot SNR   angle error   bit/s/Hz")
    for snr_db in args.pilot_snr_db:
        noise = torch.randn(h.shape, dtype=h.dtype, generator=generator)
        pilots = h + (h.abs().square().mean() / 10 ** (snr_db / 10)).sqrt() * noise
        coarse = coarse_search(start, pilots, 2 * prior, tolerance / 2)
        found = refine(coarse, pilots, args.steps)
        error = (found - true).square().mean().sqrt().rad2deg()
        print(f"{snr_db:6.0f} dB   {float(error):8.2g} deg   {efficiency(link, found):8.1f}")


if __name__ == "__main__":
    main()
