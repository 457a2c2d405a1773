"""The line-of-sight channel against published values and closed forms, and the Kronecker model."""

import math
import warnings

import mpmath
import pytest
import torch
from hypothesis import given, strategies as st

from mimo_hf.oam import (
    UCA,
    LinkGeometry,
    Pose,
    exponential_correlation,
    kronecker,
    los_channel,
    modal_channel,
    noncirculance,
    ring_correlation,
)

PATH_GAIN = 0.01 / (4 * math.pi * 50)


def test_public_values_of_the_aligned_link(make_link):
    h = los_channel(make_link())
    assert float(h.norm()) == pytest.approx(1.2731122526e-4, rel=1e-10)
    expected = {
        (0, 0): 1.5915494309e-5,
        (1, 0): 9.6399010889e-6 - 1.2663349826e-5j,
        (4, 0): 1.5912309025e-5 + 9.996e-9j,
    }
    for (row, column), value in expected.items():
        assert abs(complex(h[row, column]) - value) < 1e-6 * abs(value)
    gains = modal_channel(h).diagonal(dim1=-2, dim2=-1).abs() / PATH_GAIN
    published = torch.tensor([2.421850, 2.251344, 3.999600, 2.250087, 2.421850, 2.250087, 3.999600, 2.251344])
    assert (gains - published).abs().max() < 1e-6


def test_aligned_gains_agree_with_40_digit_arithmetic(make_link):
    mpmath.mp.dps = 40
    radius, distance, wavelength = mpmath.mpf("0.5"), mpmath.mpf(50), mpmath.mpf("0.01")
    column = []
    for m in range(8):
        d = mpmath.sqrt(distance**2 + 2 * radius**2 * (1 - mpmath.cos(2 * mpmath.pi * m / 8)))
        column.append(distance / d * mpmath.expj(-2 * mpmath.pi * d / wavelength))
    gains = modal_channel(los_channel(make_link())).diagonal() / PATH_GAIN
    for mode, gain in enumerate(gains.tolist()):
        exact = complex(sum(h * mpmath.expj(-2 * mpmath.pi * m * mode / 8) for m, h in enumerate(column)))
        assert abs(gain - exact) < 1e-10


def test_public_values_of_the_tilted_link(make_link):
    h = los_channel(make_link(tilt=20, tilt_azimuth=25))
    assert abs(complex(h[3, 1]) - (-8.1072279e-6 - 1.3672422e-5j)) < 1e-6 * abs(complex(h[3, 1]))
    values = torch.linalg.svdvals(h) / PATH_GAIN
    published = torch.tensor([3.993629, 3.989234, 2.655171, 2.448479, 2.282210, 2.207046, 2.173425, 2.068175])
    assert (values - published).abs().max() < 1e-6


@given(data=st.data())
def test_channel_is_spherical_waves_between_elements(data, links):
    link = data.draw(links(max_angle_deg=170))
    distance = torch.cdist(link.rx_positions(), link.tx_positions(), compute_mode="donot_use_mm_for_euclid_dist")
    wavelength = float(link.wavelength_m)
    expected = wavelength / (4 * math.pi * distance) * torch.exp(-2j * math.pi / wavelength * distance)
    # The reference rounds every distance by itself, so it is the looser of the two.
    tolerance = max(1e-9, 1e-14 * float(distance.max()) / wavelength)
    assert (los_channel(link) - expected).norm() <= tolerance * expected.norm()


@given(data=st.data())
def test_aligned_channel_is_circulant_at_any_distance_and_spin(data, links, exact_tolerance):
    link = data.draw(links(aligned=True))
    assert float(noncirculance(los_channel(link))) <= exact_tolerance(link)


def test_element_gain_is_an_amplitude(make_link):
    link = make_link(tilt=5)
    torch.testing.assert_close(los_channel(link, beta=0.5), 0.5 * los_channel(link))


def test_far_field_approaches_the_exact_channel_with_distance(make_link):
    errors = []
    for distance in (50.0, 500.0, 5000.0):
        link = make_link(distance=distance, tilt=20, off_axis=10)
        exact, far = los_channel(link), los_channel(link, model="far_field")
        errors.append(float((exact - far).norm() / exact.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3


def test_far_field_formula(make_link):
    link = make_link(tilt=12, tilt_azimuth=40, off_axis=7, azimuth=-20)
    c, q = link.pose.center_m, link.tx_positions()
    rho = link.rx_positions() - c
    s = math.sqrt(50**2 + 2 * 0.5**2)
    d = s + ((rho @ c)[:, None] - (q @ c)[None, :] - rho @ q.mT) / s
    torch.testing.assert_close(
        los_channel(link, model="far_field"), PATH_GAIN * torch.exp(-2j * math.pi / 0.01 * d), rtol=1e-9, atol=0
    )


def test_far_field_warns_at_short_range(make_link):
    with pytest.warns(UserWarning, match="far-field"):
        los_channel(make_link(radius=1.0, distance=3.0), model="far_field")


def test_unknown_model_and_bad_gain_are_refused(make_link):
    with pytest.raises(ValueError, match="model"):
        los_channel(make_link(), model="fresnel")
    with pytest.raises(ValueError, match="beta"):
        los_channel(make_link(), beta=math.nan)
    with pytest.raises(ValueError, match="dtype"):
        los_channel(make_link(), dtype=torch.float64)


def test_complex64_keeps_the_phases_across_the_arrays_and_warns_at_long_range():
    pose = Pose.from_angles(1000.0, tilt_rad=0.2, off_axis_rad=0.1)
    link = LinkGeometry(UCA(8, 0.5), UCA(8, 0.5), pose, freq_hz=60e9)
    with pytest.warns(UserWarning, match="complex64"):
        single = los_channel(link, dtype=torch.complex64)
    double = los_channel(link)
    assert single.dtype == torch.complex64
    assert float((single - double).norm() / double.norm()) < 1e-3


def test_complex64_at_short_range_is_silent(make_link):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        los_channel(make_link(distance=5.0), dtype=torch.complex64)


def test_gradients_of_the_channel(make_link):
    def channel(distance, off_axis, tilt, radius):
        link = LinkGeometry(
            UCA(4, radius), UCA(4, 0.1), Pose.from_angles(distance, off_axis, 0.3, tilt, 0.8), wavelength_m=0.05
        )
        return torch.view_as_real(los_channel(link))

    values = (torch.tensor([2.0, 3.0]), torch.tensor([0.1, 0.0]), torch.tensor([0.2, 0.0]), torch.tensor([0.1, 0.2]))
    values = tuple(value.double().requires_grad_() for value in values)
    assert torch.autograd.gradcheck(channel, values)


def test_exponential_correlation():
    r = exponential_correlation(4, 0.5)
    assert r[0].tolist() == [1.0, 0.5, 0.25, 0.125]
    with pytest.raises(ValueError, match="rho"):
        exponential_correlation(4, 1.5)


def test_ring_correlation_is_bessel_of_the_spacing():
    r = ring_correlation(UCA(4, 0.01), wavelength_m=0.01)
    spacing = math.sqrt(2) * 0.01
    assert float(r[0, 1]) == pytest.approx(float(mpmath.besselj(0, 2 * math.pi * spacing / 0.01)))
    assert torch.equal(r.diagonal(), torch.ones(4))


def test_kronecker_channel_has_the_asked_correlation():
    r_rx, r_tx = exponential_correlation(3, 0.9), exponential_correlation(4, 0.4)
    h = kronecker(r_rx, r_tx, (40_000,), seed=1)
    assert h.shape == (40_000, 3, 4)
    rx_found = (h @ h.mH).mean(dim=0) / 4
    tx_found = (h.mT @ h.conj()).mean(dim=0) / 3
    assert (rx_found - r_rx).abs().max() < 0.02
    assert (tx_found - r_tx).abs().max() < 0.02
    assert torch.equal(h, kronecker(r_rx, r_tx, (40_000,), seed=1))


def test_channel_on_an_asked_device(make_link):
    h = los_channel(make_link(), beta=torch.tensor(2.0), device="cpu")
    torch.testing.assert_close(h, 2 * los_channel(make_link()))


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (torch.ones(3), "rx_correlation"),
        (torch.ones(2, 3), "square"),
        (torch.full((3, 3), math.nan), "finite"),
        (-torch.eye(3), "semi-definite"),
        (torch.tensor([[1.0, 0.9], [0.1, 1.0]]), "Hermitian"),
    ],
)
def test_what_is_no_correlation_is_refused(bad, match):
    with pytest.raises((ValueError, TypeError), match=match):
        kronecker(bad, torch.eye(3))


def test_a_device_that_is_not_there_is_refused(make_link, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees 0"):
        los_channel(make_link(), device="cuda")
    with pytest.raises(ValueError, match="abacus"):
        los_channel(make_link(), device="abacus")


@pytest.mark.gpu
def test_cpu_and_cuda_agree(make_link):
    link = make_link(tilt=20, tilt_azimuth=25)
    h = los_channel(link)
    for on_gpu in (los_channel(link.to("cuda")), los_channel(link, device="cuda")):
        assert float((on_gpu.cpu() - h).norm() / h.norm()) < 1e-9
