"""Conventions of poses and links, the symmetries that follow from them, and what a link refuses."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from mimo_hf.oam import UCA, ULA, LinkGeometry, Pose, UCAGrid, los_channel


def rotation(axis, angle):
    """Rodrigues' formula, written out independently of Pose."""
    x, y, z = axis
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def test_elements_of_a_uca_start_on_the_x_axis_and_turn_towards_y():
    positions = UCA(4, 0.5).positions()
    expected = torch.tensor([[0.5, 0, 0], [0, 0.5, 0], [-0.5, 0, 0], [0, -0.5, 0]], dtype=torch.float64)
    torch.testing.assert_close(positions, expected, atol=1e-16, rtol=0)


def test_centre_and_normal_of_a_pose():
    off_axis, azimuth, tilt, tilt_azimuth = 0.3, -1.1, 0.4, 2.0
    pose = Pose.from_angles(7.0, off_axis, azimuth, tilt, tilt_azimuth, spin_rad=0.9)
    sine = math.sin(off_axis)
    centre = [7 * sine * math.cos(azimuth), 7 * sine * math.sin(azimuth), 7 * math.cos(off_axis)]
    normal = [math.sin(tilt) * math.cos(tilt_azimuth), math.sin(tilt) * math.sin(tilt_azimuth), math.cos(tilt)]
    torch.testing.assert_close(pose.center_m, torch.tensor(centre, dtype=torch.float64))
    torch.testing.assert_close(pose.rotation[:, 2], torch.tensor(normal, dtype=torch.float64))


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-3, 3))
def test_rotation_is_spin_about_the_normal_then_tilt_towards_its_azimuth(tilt, tilt_azimuth, spin):
    found = Pose.from_angles(1.0, tilt_rad=tilt, tilt_azimuth_rad=tilt_azimuth, spin_rad=spin).rotation
    axis = (-math.sin(tilt_azimuth), math.cos(tilt_azimuth), 0.0)
    expected = rotation(axis, tilt) @ rotation((0.0, 0.0, 1.0), spin)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=0)


def test_ula_is_centred_and_as_long_as_its_aperture():
    positions = ULA(8, 1.0).positions()
    assert positions[0, 0] == -0.5
    assert positions[-1, 0] == 0.5
    assert positions[:, 1:].abs().max() == 0


def test_grid_is_row_major_with_y_outside():
    grid = UCAGrid(UCA(4, 0.1), rows=2, columns=3, pitch_m=0.3)
    centres = grid.positions().view(6, 4, 3).mean(dim=1)
    expected = [[x, y, 0.0] for y in (-0.15, 0.15) for x in (-0.3, 0.0, 0.3)]
    torch.testing.assert_close(centres, torch.tensor(expected, dtype=torch.float64), atol=1e-15, rtol=0)


@given(data=st.data())
def test_swapping_the_ends_transposes_the_channel(data, links, exact_tolerance):
    link = data.draw(links())
    forward, back = los_channel(link), los_channel(link.swapped())
    assert (back.mT - forward).norm() <= exact_tolerance(link) * forward.norm()


@given(data=st.data())
def test_moving_the_whole_scene_changes_nothing(data, links, exact_tolerance):
    link = data.draw(links())
    motion = Pose.from_angles(data.draw(st.floats(0.1, 30)), 0.7, -0.4, 1.1, 0.5, 2.0)
    moved = LinkGeometry(link.tx, link.rx, motion.compose(link.pose), tx_pose=motion, wavelength_m=link.wavelength_m)
    h = los_channel(link)
    # The relative pose goes through two more rotations of lengths up to |motion|.
    factor = 10 * (1 + float(motion.center_m.norm() / link.distance_m))
    assert (los_channel(moved) - h).norm() <= factor * exact_tolerance(link) * h.norm()


@given(data=st.data(), scale=st.floats(0.1, 10))
def test_scaling_lengths_and_wavelength_together_keeps_the_channel(data, links, scale, exact_tolerance):
    link = data.draw(links())
    tx, rx = (UCA(end.num_elements, end.radius_m * scale, end.phase0_rad) for end in (link.tx, link.rx))
    pose = Pose(link.pose.center_m * scale, link.pose.rotation)
    scaled = los_channel(LinkGeometry(tx, rx, pose, wavelength_m=link.wavelength_m * scale))
    h = los_channel(link)
    assert (scaled - h).norm() <= exact_tolerance(link) * h.norm()


def test_turning_tilt_azimuth_by_one_element_permutes_the_elements(make_link):
    step = 360 / 8
    h = los_channel(make_link(tilt=20, tilt_azimuth=25))
    turned = los_channel(make_link(tilt=20, tilt_azimuth=25 + step))
    torch.testing.assert_close(turned, h.roll((1, 1), dims=(0, 1)), rtol=1e-9, atol=0)


def test_transmitter_attitude_is_composed_into_the_link():
    tilt = Pose.from_angles(0.0, tilt_rad=0.2, tilt_azimuth_rad=0.3)
    ahead = Pose.from_angles(20.0)
    link = LinkGeometry(UCA(8, 0.3), UCA(8, 0.3), ahead, tx_pose=tilt, wavelength_m=0.01)
    tx, rx = UCA(8, 0.3).positions() @ tilt.rotation.mT, UCA(8, 0.3).positions() + ahead.center_m
    distance = torch.cdist(rx, tx, compute_mode="donot_use_mm_for_euclid_dist")
    expected = 0.01 / (4 * math.pi * distance) * torch.exp(-2j * math.pi / 0.01 * distance)
    torch.testing.assert_close(los_channel(link), expected, rtol=1e-9, atol=0)


def test_derived_quantities(make_link):
    link = make_link(tilt=10, tilt_azimuth=30)
    slant = math.sqrt(50**2 + 0.5)
    assert float(link.slant_distance_m) == pytest.approx(slant)
    assert float(link.bessel_argument) == pytest.approx(2 * math.pi / 0.01 * 0.25 / slant)
    assert float(link.anisotropy) == pytest.approx(
        float(link.bessel_argument) * (1 - math.cos(math.radians(10))) / 2, rel=1e-3
    )
    assert math.degrees(link.pointing_tolerance_rad) == pytest.approx(0.18, abs=0.003)


def test_frequency_and_wavelength_mean_the_same():
    by_frequency = LinkGeometry(UCA(4, 0.1), UCA(4, 0.1), Pose.from_angles(5.0), freq_hz=299_792_458.0 / 0.02)
    assert float(by_frequency.wavelength_m) == pytest.approx(0.02, rel=1e-15)


def test_batches_of_distances_and_angles_broadcast():
    pose = Pose.from_angles(torch.tensor([[10.0], [20.0]]), tilt_rad=torch.linspace(0, 0.3, 5))
    link = LinkGeometry(UCA(4, 0.1), UCA(6, 0.1), pose, wavelength_m=0.01)
    assert link.batch_shape == (2, 5)
    h = los_channel(link)
    assert h.shape == (2, 5, 6, 4)
    single = LinkGeometry(UCA(4, 0.1), UCA(6, 0.1), Pose.from_angles(20.0, tilt_rad=0.3), wavelength_m=0.01)
    torch.testing.assert_close(h[1, 4], los_channel(single), rtol=1e-6, atol=0)  # linspace was float32


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: UCA(1, 0.5), "num_elements"),
        (lambda: UCA(0, 0.5), "num_elements"),
        (lambda: UCA(-8, 0.5), "num_elements"),
        (lambda: UCA(2.5, 0.5), "num_elements"),
        (lambda: UCA(8, 0.0), "radius_m"),
        (lambda: UCA(8, -1.0), "radius_m"),
        (lambda: UCA(8, math.nan), "radius_m"),
        (lambda: UCA(8, math.inf), "radius_m"),
        (lambda: UCA(8, "wide"), "radius_m"),
        (lambda: UCA(8, 0.5, phase0_rad=math.inf), "phase0_rad"),
        (lambda: UCA(8, torch.tensor([0.5, math.nan])), "radius_m"),
        (lambda: ULA(8, 0.0), "aperture_m"),
        (lambda: UCAGrid(UCA(4, 0.1), 2, 2, 0.19), "pitch_m"),
        (lambda: UCAGrid(UCA(4, 0.1), 0, 2, 0.3), "rows"),
        (lambda: Pose.from_angles(math.nan), "distance_m"),
        (lambda: Pose.from_angles(-1.0), "distance_m"),
        (lambda: Pose.from_angles(5.0, tilt_rad=math.inf), "tilt_rad"),
    ],
)
def test_bad_arrays_and_poses_are_refused_by_name(make, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make()


@pytest.mark.parametrize(
    ("distance", "arguments", "match"),
    [
        (5.0, {}, "exactly one"),
        (5.0, {"freq_hz": 3e10, "wavelength_m": 0.01}, "exactly one"),
        (5.0, {"freq_hz": 0.0}, "freq_hz"),
        (5.0, {"freq_hz": -3e10}, "freq_hz"),
        (5.0, {"wavelength_m": math.nan}, "wavelength_m"),
        (0.0, {"wavelength_m": 0.01}, "distance"),
        (0.005, {"wavelength_m": 0.01}, "distance"),
    ],
)
def test_bad_links_are_refused(distance, arguments, match):
    with pytest.raises(ValueError, match=match):
        LinkGeometry(UCA(4, 0.5), UCA(4, 0.5), Pose.from_angles(distance), **arguments)


def test_coinciding_elements_are_refused():
    # Element 0 of one ring lands on element 2 of the other.
    link = LinkGeometry(UCA(4, 0.5), UCA(4, 0.5), Pose(torch.tensor([1.0, 0, 0]), torch.eye(3)), wavelength_m=0.01)
    with pytest.raises(ValueError, match="coincide"):
        los_channel(link)
