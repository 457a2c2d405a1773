"""Modulation, closed-form error rates, and Monte Carlo against them."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from mimo_hf.oam import (
    bepre,
    ber_theory,
    equal_power,
    los_channel,
    modal_channel,
    noise_variance,
    qam_constellation,
    qam_demod,
    qam_mod,
    simulate_ber,
)
from mimo_hf.oam.ber import BERResult, ls_estimate

ORDERS = [4, 16, 64]


@pytest.mark.parametrize("order", ORDERS)
def test_constellation_has_unit_energy_and_gray_neighbours(order):
    points = qam_constellation(order)
    assert float(points.abs().square().mean()) == pytest.approx(1)
    spacing = (points[:, None] - points).abs()
    nearest = spacing[spacing > 1e-9].min()
    for a in range(order):
        for b in range(order):
            if abs(float(spacing[a, b] - nearest)) < 1e-9:
                assert (a ^ b).bit_count() == 1


@pytest.mark.parametrize("order", ORDERS)
@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_demodulation_picks_the_nearest_point(order, seed, spread):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(order, (200,), generator=generator)
    received = qam_mod(labels, order) + spread * torch.randn(200, dtype=torch.complex128, generator=generator)
    nearest = (received[:, None] - qam_constellation(order)).abs().argmin(dim=1)
    assert torch.equal(qam_demod(received, order), nearest)


def test_closed_forms_of_qpsk_and_16_qam():
    def q(x):
        return math.erfc(x / math.sqrt(2)) / 2

    for snr_db in (-5, 0, 8, 15):
        snr = 10 ** (snr_db / 10)
        assert float(ber_theory(snr, 4)) == pytest.approx(q(math.sqrt(snr)))
        root = math.sqrt(snr / 5)
        assert float(ber_theory(snr, 16)) == pytest.approx(0.75 * q(root) + 0.5 * q(3 * root) - 0.25 * q(5 * root))


@pytest.mark.parametrize(("snr_db", "published"), [(0, 0.2873), (10, 0.0590), (15, 0.00447)])
def test_published_error_rates_of_16_qam(snr_db, published):
    assert float(ber_theory(10 ** (snr_db / 10), 16)) == pytest.approx(published, rel=2e-3)


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=8)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_monte_carlo_agrees_with_theory_for_every_mode_of_an_aligned_link(order, data, seed, links):
    link = data.draw(links(aligned=True, nums=(4, 8)))
    g = modal_channel(los_channel(link))
    power, noise = equal_power(g.shape[-1]), noise_variance(14.0, link=link)
    result = simulate_ber(g, noise, power, order=order, num_symbols=20_000, seed=seed)
    theory = ber_theory(power * g.diagonal().abs().square() / noise, order)
    # Bits of one symbol err together, which widens the spread over that of independent bits.
    sigma = (theory * (1 - theory) / result.num_bits * math.log2(order)).sqrt()
    # Five sigma plus one error: hundreds of modes are checked, and rare errors are Poissonian.
    assert bool(((result.ber - theory).abs() <= 5 * sigma + 3 / result.num_bits).all())


def test_misalignment_costs_errors_that_bepre_wins_back(make_link):
    link = make_link(tilt=5, tilt_azimuth=25)
    h, noise = los_channel(link), noise_variance(20.0, link=link)
    rates = {
        name: float(simulate_ber(modal_channel(effective), noise, equal_power(8), num_symbols=2000, seed=0).ber.mean())
        for name, effective in (("plain", h), ("geom", bepre(link).apply(h)))
    }
    assert rates["plain"] > 0.2
    assert rates["geom"] < 1e-2


def test_joint_mmse_errs_less_than_joint_zero_forcing(make_link):
    link = make_link(distance=30.0, tilt=20)
    g, noise = modal_channel(los_channel(link)), noise_variance(12.0, link=link)
    zf, mmse = (
        simulate_ber(g, noise, equal_power(8), order=16, num_symbols=20_000, seed=0, detector=detector)
        for detector in ("zf", "mmse")
    )
    assert int(mmse.symbol_errors.sum()) <= int(zf.symbol_errors.sum())


@pytest.mark.parametrize("detector", ["mode", "zf", "mmse"])
@pytest.mark.parametrize("order", ORDERS)
def test_without_noise_a_circulant_channel_makes_no_errors(detector, order, make_link):
    g = modal_channel(los_channel(make_link(distance=30.0)))
    result = simulate_ber(g, 1e-25, equal_power(8), order=order, num_symbols=500, seed=1, detector=detector)
    assert int(result.bit_errors.sum()) == 0
    low, high = result.interval()
    assert float(low.max()) == 0
    assert 0 < float(high.min()) < 0.02


def test_estimated_channel_costs_errors_that_pilot_energy_wins_back(make_link):
    link = make_link()
    g, noise = modal_channel(los_channel(link)), noise_variance(14.0, link=link)

    def rate(**csi):
        result = simulate_ber(g, noise, equal_power(8), num_symbols=200, num_channels=50, seed=0, **csi)
        return float(result.ber.mean())

    perfect, good, bad = rate(), rate(csi="ls", pilot_snr_db=25.0), rate(csi="ls", pilot_snr_db=0.0)
    assert bad > 1.5 * perfect
    assert good < 1.2 * perfect


def test_channel_estimate_has_the_stated_error():
    g = torch.zeros(4, 4, dtype=torch.complex128)
    estimates = ls_estimate(g.expand(20_000, 4, 4), 0.5, 10.0, torch.Generator().manual_seed(0))
    assert float(estimates.abs().square().mean()) == pytest.approx(0.05, rel=0.02)


def test_results_do_not_depend_on_the_chunk_size_and_are_reproducible(make_link):
    g, noise = modal_channel(los_channel(make_link())), noise_variance(10.0, link=make_link())
    arguments = {"order": 16, "num_symbols": 3000, "seed": 5}
    whole = simulate_ber(g, noise, equal_power(8), **arguments)
    again = simulate_ber(g, noise, equal_power(8), **arguments)
    assert torch.equal(whole.bit_errors, again.bit_errors)
    seen = []
    parts = simulate_ber(g, noise, equal_power(8), max_bytes=200_000, progress=lambda *p: seen.append(p), **arguments)
    assert len(seen) > 3
    assert seen[-1] == (3000, 3000)
    assert parts.num_bits == whole.num_bits
    assert float((parts.ber - whole.ber).abs().max()) < 0.03


def test_batches_of_noise_levels(make_link):
    g = modal_channel(los_channel(make_link()))
    noise = noise_variance(torch.tensor([0.0, 10.0, 20.0]), link=make_link())
    result = simulate_ber(g, noise, equal_power(8), num_symbols=2000, seed=0)
    assert result.ber.shape == (3, 8)
    means = result.ber.mean(dim=-1).tolist()
    assert means[0] > means[1] > means[2]


def test_wilson_interval_covers_the_truth():
    result = BERResult(torch.tensor([100, 0]), torch.tensor([60, 0]), num_bits=10_000)
    low, high = result.interval()
    assert low.tolist() == pytest.approx([0.00823, 0.0], abs=1e-5)
    assert high.tolist() == pytest.approx([0.01215, 0.000384], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"order": 8}, "order"),
        ({"num_symbols": 0}, "num_symbols"),
        ({"num_channels": 0}, "num_channels"),
        ({"detector": "ml"}, "detector"),
        ({"csi": "genie"}, "csi"),
        ({"csi": "ls"}, "pilot_snr_db"),
        ({"csi": "ls", "pilot_snr_db": math.nan}, "pilot_snr_db"),
        ({"max_bytes": 10}, "max_bytes"),
        ({"max_bytes": -1}, "max_bytes"),
        ({"seed": "a"}, "seed"),
        ({"power": equal_power(3)}, "power"),
        ({"power": torch.zeros(4)}, "power"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, match, random_complex):
    with pytest.raises((ValueError, TypeError), match=match):
        simulate_ber(random_complex(0, 4, 4), 0.1, **{"power": equal_power(4), **arguments})
    with pytest.raises(ValueError, match="N_r"):
        simulate_ber(random_complex(0, 3, 4), 0.1, equal_power(4), detector="zf")


def test_what_is_no_label_and_no_snr_is_refused():
    with pytest.raises(ValueError, match="labels"):
        qam_mod(torch.tensor([0, 4]), 4)
    with pytest.raises(ValueError, match="snr"):
        ber_theory(-1.0)
