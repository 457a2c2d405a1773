"""Field maps of single modes: vortex charge, null on the axis, ring at the divergence angle."""

import math

import pytest
import torch

from mimo_hf.oam import UCA, divergence_rad, field_at, field_map, signed_modes, winding_number


@pytest.mark.parametrize("num", [7, 8, 16])
def test_phase_winds_as_often_as_the_mode_says(num):
    for mode in signed_modes(num).tolist():
        if 2 * abs(mode) < num:
            assert winding_number(UCA(num, 0.03), mode, distance_m=2.0, wavelength_m=0.01) == mode


def test_nyquist_mode_is_a_standing_wave_without_a_vortex():
    with pytest.warns(UserWarning, match="standing wave"):
        winding_number(UCA(8, 0.03), 4, distance_m=2.0, wavelength_m=0.01)


def test_field_vanishes_on_the_axis_for_every_mode_but_zero():
    fields = field_map(UCA(8, 0.03), distance_m=2.0, extent_m=1.0, num_pixels=65, wavelength_m=0.01).abs()
    peak = fields.amax(dim=(-2, -1))
    centre = fields[:, 32, 32]
    assert float((centre / peak)[1:].max()) < 1e-9
    assert float((centre / peak)[0]) == pytest.approx(1)


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_brightest_ring_is_at_the_divergence_angle(mode):
    angle = torch.linspace(0.5, 20, 2000, dtype=torch.float64).deg2rad()
    points = 1000.0 * torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()], dim=-1)
    field = field_at(UCA(16, 0.03), points, mode=mode, wavelength_m=0.01).abs()
    assert float(angle[field.argmax()]) == pytest.approx(float(divergence_rad(mode, 6 * math.pi)), rel=0.01)


def test_map_is_spherical_waves_summed_by_a_loop():
    uca, wavelength = UCA(5, 0.04, phase0_rad=0.2), 0.01
    field = field_map(uca, mode=2, distance_m=0.5, extent_m=0.3, num_pixels=4, wavelength_m=wavelength)
    axis = [-0.15 + 0.1 * i for i in range(4)]
    for row, y in enumerate(axis):
        for column, x in enumerate(axis):
            total = 0j
            for n in range(5):
                azimuth = 2 * math.pi * n / 5 + 0.2
                d = math.dist((x, y, 0.5), (0.04 * math.cos(azimuth), 0.04 * math.sin(azimuth), 0.0))
                phase = 2 * math.pi * 2 * n / 5 - 2 * math.pi * d / wavelength
                total += wavelength / (4 * math.pi * d) / math.sqrt(5) * complex(math.cos(phase), math.sin(phase))
            assert complex(field[row, column]) == pytest.approx(total, rel=1e-9)


def test_chunks_change_nothing_and_report_progress():
    arguments = {"distance_m": 1.0, "extent_m": 0.5, "num_pixels": 40, "wavelength_m": 0.01}
    whole = field_map(UCA(8, 0.05), **arguments)
    seen = []
    parts = field_map(UCA(8, 0.05), **arguments, max_bytes=60_000, progress=lambda *p: seen.append(p))
    assert torch.equal(whole, parts)
    assert len(seen) > 5
    assert seen[-1] == (1600, 1600)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"mode": 8}, "mode"),
        ({"mode": -5}, "mode"),
        ({"mode": 1.5}, "mode"),
        ({"num_pixels": 0}, "num_pixels"),
        ({"distance_m": 0.0}, "distance_m"),
        ({"extent_m": -1.0}, "extent_m"),
        ({"extent_m": math.nan}, "extent_m"),
        ({"freq_hz": 3e10}, "exactly one"),
        ({"wavelength_m": None}, "exactly one"),
        ({"num_pixels": 100_000}, "num_pixels"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, match):
    defaults = {"mode": 1, "distance_m": 1.0, "extent_m": 0.5, "num_pixels": 8, "wavelength_m": 0.01}
    with pytest.raises((ValueError, TypeError), match=match):
        field_map(UCA(8, 0.05), **{**defaults, **arguments})


def test_more_elements_than_the_ring_can_radiate_modes_are_told():
    with pytest.warns(UserWarning, match="mode 4 hardly radiates"):
        field_map(UCA(8, 0.002), distance_m=1.0, extent_m=0.5, num_pixels=4, wavelength_m=0.01)


def test_winding_number_needs_a_plane_in_front():
    with pytest.raises(ValueError, match="distance_m"):
        winding_number(UCA(8, 0.05), 1, distance_m=-1.0, wavelength_m=0.01)


def test_field_on_an_element_is_refused():
    with pytest.raises(ValueError, match="element"):
        field_at(UCA(8, 0.05), UCA(8, 0.05).positions(), mode=0, wavelength_m=0.01)


def test_mode_that_hardly_radiates_is_warned_of():
    with pytest.warns(UserWarning, match="mode 3 hardly radiates"):
        field_map(UCA(8, 0.005), 3, distance_m=1.0, extent_m=0.5, num_pixels=4, wavelength_m=0.01)
