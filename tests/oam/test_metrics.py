"""SINR, spectral efficiency, capacity and degrees of freedom; no scheme may beat the capacity."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from mimo_hf.oam import (
    UCA,
    ULA,
    LinkGeometry,
    Pose,
    bepre,
    capacity_equal,
    capacity_waterfill,
    decompose,
    dof_slope,
    dof_threshold,
    edof,
    equal_power,
    exponential_correlation,
    kronecker,
    los_channel,
    modal_channel,
    noise_variance,
    sinr,
    spectral_efficiency,
    water_filling,
)

DETECTORS = ["mode", "zf", "mmse"]


def loop_sinr(g, power, noise):
    found = []
    for row in range(g.shape[0]):
        energy = [float(power[q] * g[row, q].abs() ** 2) for q in range(g.shape[1])]
        found.append(energy[row] / (math.fsum(energy) - energy[row] + noise))
    return found


def test_mode_sinr_agrees_with_a_loop(random_complex):
    g, power = random_complex(0, 5, 5), torch.rand(5, dtype=torch.float64)
    assert sinr(g, power, 0.3).tolist() == pytest.approx(loop_sinr(g, power, 0.3))


@pytest.mark.parametrize("detector", ["zf", "mmse"])
def test_joint_sinr_agrees_with_the_filters_written_out(detector, random_complex):
    g, power, noise = random_complex(0, 6, 4), torch.rand(4, dtype=torch.float64) + 0.1, 0.3
    weighted = g * power.sqrt()
    gram = weighted.mH @ weighted
    if detector == "mmse":
        gram = gram + noise * torch.eye(4)
    filters = torch.linalg.inv(gram) @ weighted.mH
    through = filters @ weighted
    wanted = through.diagonal().abs().square()
    interference = through.abs().square().sum(dim=1) - wanted
    expected = wanted / (interference + noise * filters.abs().square().sum(dim=1))
    torch.testing.assert_close(sinr(g, power, noise, detector), expected)


def test_zero_forcing_of_a_singular_channel_carries_nothing():
    g = torch.ones(2, 2, dtype=torch.complex128)
    assert sinr(g, equal_power(2), 0.1, "zf").tolist() == [0.0, 0.0]


def test_zero_forcing_needs_enough_receivers(random_complex):
    with pytest.raises(ValueError, match="zf"):
        sinr(random_complex(0, 3, 4), equal_power(4), 0.1, "zf")


@given(
    st.integers(2, 8),
    st.integers(0, 10**6),
    st.floats(-20, 40),
    st.sampled_from(DETECTORS),
    st.sampled_from(["plain", "svd", "random unitary"]),
)
def test_no_scheme_exceeds_the_capacity(num, seed, snr_db, detector, precoding):
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(25, num, num, dtype=torch.complex128, generator=generator)
    noise = 10 ** (-snr_db / 10)
    power = torch.rand(25, num, dtype=torch.float64, generator=generator).pow(4)
    power = power / power.sum(dim=-1, keepdim=True)
    if precoding == "svd":
        h = bepre(h).apply(h)
    elif precoding == "random unitary":
        h = torch.linalg.qr(torch.randn(num, num, dtype=torch.complex128, generator=generator)).Q @ h
    reached = spectral_efficiency(modal_channel(h), power, noise, detector)
    limit = capacity_waterfill(h, noise)
    assert bool((reached <= limit * (1 + 1e-9) + 1e-12).all())
    assert bool((capacity_equal(h, noise) <= limit * (1 + 1e-9)).all())


@given(data=st.data(), snr_db=st.floats(-10, 40))
def test_aligned_oam_reaches_the_capacity_of_mimo_and_no_more(data, snr_db, links):
    link = data.draw(links(aligned=True, nums=(4, 8, 16)))
    h, noise = los_channel(link), noise_variance(snr_db, link=link)
    g = modal_channel(h)
    power = water_filling(g.diagonal().abs().square() / noise)
    torch.testing.assert_close(
        spectral_efficiency(g, power, noise), capacity_waterfill(h, noise), rtol=1e-8, atol=1e-8
    )
    equal = equal_power(h.shape[-1])
    torch.testing.assert_close(spectral_efficiency(g, equal, noise), capacity_equal(h, noise), rtol=1e-8, atol=1e-8)


def test_capacity_of_a_diagonal_channel_by_hand():
    h = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.complex128))
    assert float(capacity_equal(h, 0.5)) == pytest.approx(math.log2(1 + 4) + math.log2(1 + 1))
    # Gains 8 and 2, power 1: level (1 + 1/8 + 1/2) / 2 = 0.8125.
    assert float(capacity_waterfill(h, 0.5)) == pytest.approx(math.log2(0.8125 * 8) + math.log2(0.8125 * 2))


def test_capacity_does_not_care_for_more_receivers_than_transmitters(random_complex):
    h = random_complex(0, 6, 3)
    identity = torch.eye(6) + h @ h.mH / (3 * 0.2)
    assert float(capacity_equal(h, 0.2)) == pytest.approx(
        float(torch.linalg.slogdet(identity).logabsdet) / math.log(2)
    )


def test_conjugate_transposes_are_taken_as_they_are(random_complex):
    h = random_complex(0, 4, 4)
    assert float(capacity_equal(h.mH, 0.2)) == pytest.approx(float(capacity_equal(h, 0.2)))
    assert float(capacity_waterfill(h.mH, 0.2)) == pytest.approx(float(capacity_waterfill(h, 0.2)))


def test_noise_variance_of_each_reference(make_link):
    link = make_link(tilt=10)
    h = los_channel(link)
    assert float(noise_variance(20.0, link=link, total_power=3.0)) == pytest.approx(
        3 * (0.01 / (4 * math.pi * 50)) ** 2 / 100
    )
    assert float(noise_variance(20.0, reference="tx", total_power=3.0)) == pytest.approx(0.03)
    normalised = h * math.sqrt(64) / h.norm()
    noise = noise_variance(20.0, reference="frobenius", h=h)
    assert float(capacity_equal(h, noise)) == pytest.approx(float(capacity_equal(normalised, 0.01)))


TABLE = [
    (10, 0, 8.64, 8.82),
    (10, 20, 44.7, 42.1),
    (10, 30, 69.6, 65.9),
    (50, 0, 7.86, 8.79),
    (50, 20, 51.8, 33.6),
    (50, 30, 78.2, 49.8),
    (100, 0, 8.64, 7.87),
    (100, 20, 40.5, 25.8),
    (100, 30, 64.7, 38.0),
    (200, 0, 7.93, 6.99),
    (200, 20, 30.6, 21.0),
    (200, 30, 46.9, 30.6),
    (20, 0, 8.56, 8.44),
    (20, 20, 40.8, 49.3),
    (20, 30, 61.0, 75.1),
    (5, 0, 5.96, 8.74),
    (5, 20, 22.9, 44.2),
    (5, 30, 43.7, 69.9),
]
EFFECTIVE_DOF = {10: (5.4, 4.4), 50: (6.0, 3.1), 100: (3.8, 1.8), 200: (1.8, 1.2), 20: (3.7, 6.8), 5: (1.05, 4.5)}


def ula_link(distance):
    return LinkGeometry(ULA(8, 1.0), ULA(8, 1.0), Pose.from_angles(distance), wavelength_m=0.01)


@pytest.mark.parametrize(("distance", "snr_db", "uca", "ula"), TABLE)
def test_published_capacities_of_rings_and_lines(distance, snr_db, uca, ula, make_link):
    for link, published in ((make_link(distance=float(distance)), uca), (ula_link(float(distance)), ula)):
        found = float(capacity_waterfill(los_channel(link), noise_variance(float(snr_db), link=link)))
        assert found == pytest.approx(published, abs=0.006 if published < 10 else 0.06)


@pytest.mark.parametrize("distance", EFFECTIVE_DOF)
def test_published_effective_degrees_of_freedom(distance, make_link):
    links = (make_link(distance=float(distance)), ula_link(float(distance)))
    found = [float(edof(los_channel(link))) for link in links]
    assert found == pytest.approx(EFFECTIVE_DOF[distance], abs=0.06)


@pytest.mark.parametrize(
    ("rho", "published"),
    [(0.0, [8.49, 22.99, 44.51, 69.3]), (0.5, [8.09, 20.5, 40.1, 63.9]), (0.9, [6.24, 12.9, 24.0, 41.3])],
)
def test_published_ergodic_capacities_of_kronecker_channels(rho, published):
    r = exponential_correlation(8, rho)
    h = kronecker(r, r, (1000,), seed=7)
    for snr_db, expected in zip((0, 10, 20, 30), published, strict=True):
        samples = capacity_waterfill(h, 10 ** (-snr_db / 10))
        standard_error = float(samples.std()) / math.sqrt(1000)
        assert abs(float(samples.mean()) - expected) < 5 * standard_error + 0.05


def test_degrees_of_freedom_of_known_spectra():
    h = torch.diag(torch.tensor([1.0, 1.0, 1e-2, 1e-5], dtype=torch.complex128))
    assert int(dof_threshold(h, tau_db=-30)) == 2
    assert int(dof_threshold(h, tau_db=-50)) == 3
    assert float(edof(torch.eye(5, dtype=torch.complex128))) == pytest.approx(5)


def test_dof_slope_is_the_derivative_of_capacity(make_link):
    link = make_link(distance=100.0)
    h = los_channel(link)
    low, high = (capacity_waterfill(h, noise_variance(snr, link=link)) for snr in (19.999, 20.001))
    derivative = float(high - low) / (0.002 * math.log2(10) / 10)
    assert float(dof_slope(h, noise_variance(20.0, link=link))) == pytest.approx(derivative, rel=1e-5)


def test_gradients_of_capacity_and_spectral_efficiency_at_exact_alignment():
    def measures(distance, tilt, off_axis, radius, power):
        link = LinkGeometry(
            UCA(4, radius), UCA(4, 0.1), Pose.from_angles(distance, off_axis, 0.2, tilt, 0.5), wavelength_m=0.05
        )
        h = los_channel(link)
        noise = noise_variance(20.0, link=link)
        g = modal_channel(bepre(link, "angle").apply(h))
        rows = [spectral_efficiency(modal_channel(h), power, noise), spectral_efficiency(g, power, noise)]
        rows += [spectral_efficiency(g, power, noise, "mmse"), capacity_equal(h, noise), capacity_waterfill(h, noise)]
        return torch.stack(rows)

    def inputs(tilt, off_axis):
        values = ([2.0], [tilt], [off_axis], [0.1], [[0.3, 0.2, 0.4, 0.1]])
        return tuple(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values)

    assert torch.autograd.gradcheck(measures, inputs(0.2, 0.1))
    aligned = inputs(0.0, 0.0)
    for gradient in torch.autograd.grad(measures(*aligned).sum(), aligned):
        assert bool(torch.isfinite(gradient).all())


def test_noise_stays_white_through_reception(make_link):
    link = make_link(tilt=20)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(100_000, 8, dtype=torch.complex128, generator=generator)
    seen = decompose(noise @ bepre(link, "svd").receive_matrix.mT)
    covariance = seen.mT @ seen.conj() / len(seen)
    assert (covariance - torch.eye(8)).abs().max() < 5 / math.sqrt(100_000)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda g: sinr(g, torch.ones(3), 0.1), "power"),
        (lambda g: sinr(g, -torch.ones(4), 0.1), "power"),
        (lambda g: sinr(g, torch.ones(4), 0.0), "noise_variance"),
        (lambda g: sinr(g, torch.ones(4), math.nan), "noise_variance"),
        (lambda g: sinr(g, torch.ones(4), 0.1, "ml"), "detector"),
        (lambda g: sinr(g[:3], torch.ones(4), 0.1), "square"),
        (lambda g: capacity_equal(g * math.nan, 0.1), "finite"),
        (lambda g: capacity_waterfill(g, 0.1, total_power=-1), "total_power"),
        (lambda g: noise_variance(20.0), "link"),
        (lambda g: noise_variance(20.0, reference="frobenius"), "`h`"),
        (lambda g: noise_variance(20.0, reference="db"), "reference"),
        (lambda g: noise_variance(math.inf, reference="tx"), "snr_db"),
        (lambda g: dof_threshold(g, tau_db=3.0), "tau_db"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, match, random_complex):
    with pytest.raises((ValueError, TypeError), match=match):
        call(random_complex(0, 4, 4))
