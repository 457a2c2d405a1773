"""Links for the tests of mimo_hf.oam: the reference link of the published values, and random ones for property tests."""

import math

import pytest
import torch
from hypothesis import settings, strategies as st

from mimo_hf.oam import UCA, LinkGeometry, Pose

settings.register_profile("oam", deadline=None, max_examples=40)
settings.load_profile("oam")

WAVELENGTH_M = 0.01


@pytest.fixture(scope="session")
def make_link():
    """A UCA link at 1 cm wavelength; angles in degrees."""

    def make(num=8, radius=0.5, distance=50.0, *, num_rx=None, radius_rx=None, spin=0.0, phase0=0.0, **angles_deg):
        angles = {f"{name}_rad": math.radians(value) for name, value in angles_deg.items()}
        return LinkGeometry(
            UCA(num, radius, phase0_rad=phase0),
            UCA(num_rx or num, radius_rx or radius),
            Pose.from_angles(distance, spin_rad=spin, **angles),
            wavelength_m=WAVELENGTH_M,
        )

    return make


@pytest.fixture(scope="session")
def links(make_link):
    """A strategy of UCA links whose ends stand in any attitude, from 2 to 1000 radii apart."""

    @st.composite
    def strategy(draw, aligned=False, nums=(3, 4, 7, 8, 16), min_distance_radii=2.0, max_angle_deg=60.0):
        radius = draw(st.floats(0.02, 2.0))
        distance = max(radius * draw(st.floats(min_distance_radii, 1000.0)), 3 * WAVELENGTH_M)
        angles = {}
        if not aligned:
            angles = {
                "off_axis": draw(st.floats(0, max_angle_deg)),
                "azimuth": draw(st.floats(-180, 180)),
                "tilt": draw(st.floats(0, max_angle_deg)),
                "tilt_azimuth": draw(st.floats(-180, 180)),
            }
        num = draw(st.sampled_from(nums))
        return make_link(num, radius, distance, spin=draw(st.floats(-math.pi, math.pi)), **angles)

    return strategy


@pytest.fixture(scope="session")
def random_complex():
    """A complex Gaussian tensor of a shape, from a seed."""

    def draw(seed, *shape):
        return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))

    return draw


@pytest.fixture(scope="session")
def exact_tolerance():
    """Relative error that float64 phases allow at this link: ten units of rounding in k D."""

    def tolerance(link):
        return max(1e-12, 10 * torch.finfo(torch.float64).eps * float((link.wavenumber * link.distance_m).max()))

    return tolerance
