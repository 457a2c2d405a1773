"""BePre: unitary matrices at both ends that make a misaligned channel circulant, exactly or nearly."""

import math

import pytest
import torch
from hypothesis import assume, given, strategies as st

from mimo_hf.oam import (
    bepre,
    capacity_equal,
    isr_db,
    los_channel,
    modal_channel,
    noise_variance,
    noncirculance,
    spectral_efficiency,
)


def assert_unitary(w):
    identity = torch.eye(w.shape[-1], dtype=w.dtype).expand(w.shape)
    torch.testing.assert_close(w @ w.mH, identity, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", ["angle", "geom", "svd"])
@given(data=st.data())
def test_both_matrices_are_unitary(method, data, links):
    precoding = bepre(data.draw(links()), method)
    assert_unitary(precoding.transmit_matrix)
    assert_unitary(precoding.receive_matrix)


@pytest.mark.parametrize("method", ["angle", "geom", "svd"])
def test_apply_multiplies_by_both_matrices(method, make_link):
    link = make_link(tilt=15, off_axis=5, spin=0.4)
    h, precoding = los_channel(link), bepre(link, method)
    torch.testing.assert_close(precoding.apply(h), precoding.receive_matrix @ h @ precoding.transmit_matrix)


def test_default_method_follows_what_is_known(make_link):
    link = make_link(tilt=15)
    assert bepre(link).method == "geom"
    assert bepre(los_channel(link)).method == "svd"


@given(data=st.data(), kind=st.sampled_from(["random", "rank one", "repeated values", "zero columns"]))
def test_svd_makes_any_square_matrix_circulant_and_reaches_equal_power_capacity(data, kind, random_complex):
    num, seed = data.draw(st.integers(2, 10)), data.draw(st.integers(0, 10_000))
    h = random_complex(seed, num, num)
    if kind == "rank one":
        h = h[:, :1] @ h[:1, :]
    elif kind == "repeated values":
        h = torch.linalg.qr(h).Q
    elif kind == "zero columns":
        h[:, 0] = 0
    effective = bepre(h, "svd").apply(h)
    assert float(noncirculance(effective)) < 1e-10
    power = torch.full((num,), 1 / num, dtype=torch.float64)
    reached = spectral_efficiency(modal_channel(effective), power, 0.1)
    torch.testing.assert_close(reached, capacity_equal(h, 0.1), rtol=1e-9, atol=1e-9)


def test_svd_assigns_the_strongest_channels_to_the_lowest_modes(random_complex):
    h = random_complex(3, 5, 5)
    gains = modal_channel(bepre(h).apply(h)).diagonal().abs()
    torch.testing.assert_close(gains[[0, 4, 1, 3, 2]], torch.linalg.svdvals(h))


def test_svd_serves_unequal_counts(random_complex):
    h = random_complex(3, 2, 8, 5)
    g = modal_channel(bepre(h).apply(h))
    torch.testing.assert_close(torch.linalg.svdvals(g), torch.linalg.svdvals(h))
    assert (g.abs() > 1e-9).sum() == 2 * 5


@given(data=st.data())
def test_noncirculance_left_by_geom_is_the_anisotropy_over_root_two(data, links):
    link = data.draw(links(nums=(7, 8, 12, 16), min_distance_radii=30.0, max_angle_deg=30.0))
    eta, radius = float(link.anisotropy), float(link.tx.radius_m)
    # Beyond these limits third-order phases dominate, or the expansion in eta ends.
    assume(0.005 < eta < 0.15)
    assume(float(link.wavenumber) * radius**3 / float(link.distance_m) ** 2 < eta / 2)
    h = los_channel(link)
    # Phases only: amplitudes differ across a tilted ring by R sin(angle) / D, which no phase removes either.
    left = float(noncirculance(bepre(link, "geom").apply(h / h.abs())))
    assert left == pytest.approx(eta / math.sqrt(2), rel=0.05)


def test_angle_aligns_a_small_tilt_that_ruins_the_plain_link(make_link):
    link = make_link(tilt=2, tilt_azimuth=25)
    h = los_channel(link)
    assert float(isr_db(modal_channel(h))) > 0
    assert float(isr_db(modal_channel(bepre(link, "angle").apply(h)))) < -40


PUBLISHED_TILT = {
    "plain": [51.76, 1.34, 2.37, 0.29, 13.05, 6.55, 0.17],
    "angle": [51.76, 51.72, 51.13, 44.61, 33.11, 18.47, 9.98],
    "svd": [51.76, 51.77, 51.77, 51.69, 51.17, 47.60, 47.27],
}
PUBLISHED_OFF_AXIS = {
    "plain": [5.14, 2.89, 2.49, 3.10, 2.49, 3.24],
    "angle": [51.76, 51.76, 51.64, 49.98, 37.35, 22.99],
    "geom": [51.76, 51.76, 51.68, 50.52, 40.27, 26.26],
}


def equal_power_se(link, method):
    h, noise = los_channel(link), noise_variance(20.0, link=link)
    effective = h if method == "plain" else bepre(link, method).apply(h)
    return float(spectral_efficiency(modal_channel(effective), torch.full((8,), 1 / 8), noise))


@pytest.mark.parametrize("method", PUBLISHED_TILT)
def test_published_spectral_efficiency_over_tilt(method, make_link):
    tilts = [0, 5, 10, 20, 30, 45, 60]
    found = [equal_power_se(make_link(tilt=tilt, tilt_azimuth=25), method) for tilt in tilts]
    assert found == pytest.approx(PUBLISHED_TILT[method], abs=0.006)


@pytest.mark.parametrize("method", PUBLISHED_OFF_AXIS)
def test_published_spectral_efficiency_over_off_axis_angle(method, make_link):
    angles = [1, 2, 5, 10, 20, 30]
    found = [equal_power_se(make_link(off_axis=angle, azimuth=40), method) for angle in angles]
    assert found == pytest.approx(PUBLISHED_OFF_AXIS[method], abs=0.006)


def test_published_sensitivity_to_a_wrong_tilt(make_link):
    true = make_link(tilt=10, tilt_azimuth=25)
    h, noise, power = los_channel(true), noise_variance(20.0, link=true), torch.full((8,), 1 / 8)
    found = []
    for error in (0, 0.01, 0.05, 0.1, 0.2):
        believed = make_link(tilt=10 + error, tilt_azimuth=25)
        g = modal_channel(bepre(believed, "angle").apply(h))
        found.append(float(spectral_efficiency(g, power, noise)))
    assert found == pytest.approx([51.1, 49.7, 34.6, 21.7, 8.8], abs=0.06)


def test_bad_arguments(make_link, random_complex):
    with pytest.raises(ValueError, match="method"):
        bepre(make_link(), "magic")
    with pytest.raises(ValueError, match="angle"):
        bepre(random_complex(0, 4, 4), "angle")
    with pytest.raises(ValueError, match="finite"):
        bepre(torch.full((4, 4), math.nan, dtype=torch.complex128))
