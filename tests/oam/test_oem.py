"""OAM-embedded MIMO: what the block-circulant assumption promises, and what exact line of sight leaves of it."""

import math

import pytest
import torch
from hypothesis import given, strategies as st

from mimo_hf.oam import (
    UCA,
    LinkGeometry,
    OEMLink,
    Pose,
    UCAGrid,
    block_circulant_part,
    capacity_equal,
    capacity_waterfill,
    divergence_rad,
    effective_ring,
    effective_ring_radii,
    equal_power,
    flatten_blocks,
    inter_mode_energy,
    joint_detect,
    los_channel,
    mmse,
    modal_channel,
    mode_blocks,
    noise_variance,
    oem_spectral_efficiency,
    oem_water_filling,
    per_mode_channels,
    sinr,
    spectral_efficiency,
    zf,
)


@pytest.fixture(scope="module")
def make_grid_link():
    def make(distance=5.0, rows=2, columns=2, num=8, radius=0.1, pitch=0.3, **angles):
        grid = UCAGrid(UCA(num, radius), rows, columns, pitch)
        return LinkGeometry(grid, grid, Pose.from_angles(distance, **angles), wavelength_m=0.01)

    return make


def blocks_of(link):
    return mode_blocks(los_channel(link), link.rx.num_ucas, link.tx.num_ucas)


def test_blocks_are_modal_channels_of_pairs_of_ucas(make_grid_link, random_complex):
    h = random_complex(0, 3, 2 * 4, 5 * 4)
    blocks = mode_blocks(h, 2, 5)
    assert blocks.shape == (3, 4, 2, 4, 5)
    for m in range(2):
        for n in range(5):
            pair = h[:, 4 * m : 4 * m + 4, 4 * n : 4 * n + 4]
            torch.testing.assert_close(blocks[:, :, m, :, n], modal_channel(pair))
    torch.testing.assert_close(blocks.norm(), h.norm())


def test_published_numbers_of_the_2_by_2_grid(make_grid_link):
    link = make_grid_link()
    blocks, h = blocks_of(link), los_channel(link)
    noise = noise_variance(20.0, link=link)

    assert float(inter_mode_energy(blocks)) == pytest.approx(0.54, abs=0.006)

    def se(detector, assume="exact", power="equal"):
        return float(oem_spectral_efficiency(blocks, noise, detector=detector, assume=assume, power=power))

    assert se("svd", "block_circulant", "waterfill") == pytest.approx(156.3, abs=0.06)
    assert se("zf", "block_circulant") == pytest.approx(143.2, abs=0.06)
    assert se("zf") == pytest.approx(19.2, abs=0.06)
    # With one stream an element the joint MMSE reaches 97.1; with one a mode, which is the scheme, a little more.
    assert float(spectral_efficiency(h, equal_power(32), noise, "mmse")) == pytest.approx(97.1, abs=0.06)
    assert se("joint_mmse") == pytest.approx(98.9, abs=0.06)
    assert float(capacity_equal(h, noise)) == pytest.approx(172.3, abs=0.06)
    assert float(capacity_waterfill(h, noise)) == pytest.approx(175.4, abs=0.06)


def test_published_baselines_of_the_2_by_2_grid(make_grid_link):
    link = make_grid_link()
    noise = noise_variance(20.0, link=link)
    assert float(capacity_waterfill(OEMLink(link).center_channel(), noise)) == pytest.approx(21.0, abs=0.06)
    pair = LinkGeometry(UCA(8, 0.1), UCA(8, 0.1), Pose.from_angles(5.0), wavelength_m=0.01)
    assert float(capacity_waterfill(los_channel(pair), noise)) == pytest.approx(36.7, abs=0.06)


def test_ideal_blocks_promise_more_than_the_capacity_at_50_m(make_grid_link):
    link = make_grid_link(distance=50.0)
    noise = noise_variance(20.0, link=link)
    blocks = blocks_of(link)
    with pytest.warns(UserWarning, match="exceeds the capacity"):
        ideal = oem_spectral_efficiency(blocks, noise, detector="svd", power="waterfill", assume="block_circulant")
    assert float(ideal) == pytest.approx(61.6, abs=0.06)
    assert float(capacity_waterfill(los_channel(link), noise)) == pytest.approx(52.2, abs=0.06)


@pytest.mark.parametrize(("per_mode", "joint"), [("zf", "zf"), ("mmse", "mmse")])
def test_per_mode_detection_equals_joint_detection_without_inter_mode_terms(per_mode, joint, make_grid_link):
    link = make_grid_link()
    noise = noise_variance(20.0, link=link)
    ideal = block_circulant_part(blocks_of(link))
    flat = flatten_blocks(ideal)
    expected = spectral_efficiency(flat, equal_power(32), noise, joint)
    torch.testing.assert_close(oem_spectral_efficiency(ideal, noise, detector=per_mode), expected, rtol=1e-9, atol=0)


@given(
    st.floats(2, 100),
    st.floats(-10, 40),
    st.sampled_from(["zf", "mmse", "svd", "joint_zf", "joint_mmse"]),
    st.sampled_from(["equal", "waterfill"]),
    st.floats(0, 0.2),
)
def test_no_detector_exceeds_the_capacity_of_the_exact_channel(distance, snr_db, detector, power, tilt):
    grid = UCAGrid(UCA(4, 0.1), 1, 2, 0.25)
    link = LinkGeometry(grid, grid, Pose.from_angles(distance, tilt_rad=tilt), wavelength_m=0.01)
    noise = noise_variance(snr_db, link=link)
    if power == "waterfill" and detector != "svd":
        with pytest.raises(ValueError, match="waterfill"):
            oem_spectral_efficiency(blocks_of(link), noise, detector=detector, power=power)
        return
    reached = oem_spectral_efficiency(blocks_of(link), noise, detector=detector, power=power)
    assert float(reached) <= float(capacity_waterfill(los_channel(link), noise)) * (1 + 1e-9)


def test_an_oem_link_gives_the_blocks_with_and_without_dishes(make_grid_link):
    link = make_grid_link()
    torch.testing.assert_close(OEMLink(link).blocks(), blocks_of(link))
    radii = effective_ring_radii(link.tx.uca, 0.01, focal_length_m=1.0)
    torch.testing.assert_close(OEMLink(link, focal_length_m=1.0).blocks(), effective_ring(link, radii))
    with pytest.raises(ValueError, match="focal_length_m"):
        OEMLink(link, dish_radius_m=0.5)
    with pytest.raises(TypeError, match="UCAGrid"):
        OEMLink(LinkGeometry(UCA(8, 0.1), UCA(8, 0.1), Pose.from_angles(5.0), wavelength_m=0.01))


@pytest.mark.parametrize("detector", ["zf", "mmse"])
def test_joint_detection_finds_the_symbols_of_all_modes(detector, make_grid_link, random_complex):
    blocks = blocks_of(make_grid_link(num=4))
    noise = float(blocks.abs().square().mean()) * 1e-12
    symbols = random_complex(0, 4, 4, 20)
    received = torch.einsum("lmkn,knt->lmt", blocks, symbols) / 4  # power 1/16 on each of 16 streams
    found = joint_detect(received, blocks, noise, detector=detector)
    torch.testing.assert_close(found, symbols, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="detector"):
        joint_detect(received, blocks, noise, detector="mode")
    with pytest.raises(ValueError, match="received"):
        joint_detect(received[:3], blocks, noise)


def test_detection_filters_are_those_of_the_normal_equations(random_complex):
    g = random_complex(1, 3, 6, 4)
    gram = g.mH @ g
    torch.testing.assert_close(zf(g), torch.linalg.inv(gram) @ g.mH)
    torch.testing.assert_close(mmse(g, 0.3), torch.linalg.inv(gram + 0.3 * torch.eye(4)) @ g.mH)
    with pytest.raises(ValueError, match="N_r >= N_t"):
        zf(g.mT)
    with pytest.raises(ValueError, match="noise_variance"):
        mmse(g, 0.0)


def test_oem_water_filling_has_one_level_over_modes_and_streams(make_grid_link):
    blocks = blocks_of(make_grid_link())
    noise = noise_variance(10.0, link=make_grid_link())
    power, gains = oem_water_filling(blocks, noise)
    assert power.shape == gains.shape == (8, 4)
    assert float(power.sum()) == pytest.approx(1)
    levels = (power + 1 / gains)[power > 0]
    torch.testing.assert_close(levels, levels[:1].expand_as(levels))
    expected = torch.stack([torch.linalg.svdvals(g) for g in per_mode_channels(blocks)]).square() / noise
    torch.testing.assert_close(gains, expected)


def test_mmse_filter_by_mode_agrees_with_a_loop(make_grid_link):
    link = make_grid_link(num=4)
    blocks, noise = blocks_of(link), float(noise_variance(20.0, link=link))
    share, total = 1 / 16, 0.0
    for mode in range(4):
        own = blocks[mode, :, mode, :]
        filters = torch.linalg.inv(own.mH @ own * share + noise * torch.eye(4)) @ own.mH
        through = (filters @ blocks[mode].flatten(1)).abs().square() * share
        for stream in range(4):
            wanted = through[stream, 4 * mode + stream]
            rest = through[stream].sum() - wanted + noise * filters[stream].abs().square().sum()
            total += math.log2(1 + float(wanted / rest))
    assert float(oem_spectral_efficiency(blocks, noise, detector="mmse")) == pytest.approx(total)


def test_fewer_receive_ucas_than_transmit_ucas():
    tx, rx = UCAGrid(UCA(4, 0.1), 1, 3, 0.3), UCAGrid(UCA(4, 0.1), 1, 2, 0.3)
    link = LinkGeometry(tx, rx, Pose.from_angles(5.0), wavelength_m=0.01)
    blocks, noise = blocks_of(link), noise_variance(20.0, link=link)
    with pytest.raises(ValueError, match="N_r >= N_t"):
        oem_spectral_efficiency(blocks, noise, detector="zf")
    assert float(oem_spectral_efficiency(blocks, noise, detector="mmse")) > 0
    assert float(oem_spectral_efficiency(blocks, noise, detector="svd", power="waterfill")) > 0


def test_divergence_angles_of_a_radius_of_three_wavelengths():
    found = [round(math.degrees(float(divergence_rad(mode, 6 * math.pi))), 2) for mode in (1, 2, 3)]
    assert found == [5.61, 9.32, 12.88]
    assert float(divergence_rad(0, 1.0)) == 0
    assert float(divergence_rad(-2, 6 * math.pi)) == float(divergence_rad(2, 6 * math.pi))


def dish_link(radius=0.03, distance=20.0):
    grid = UCAGrid(UCA(8, radius), 1, 1, 1.0)
    return LinkGeometry(grid, grid, Pose.from_angles(distance), wavelength_m=0.01)


def test_published_gains_of_the_converging_dish():
    link = dish_link()
    unit = 0.01 / (4 * math.pi * 20)
    noise = noise_variance(20.0, link=link)
    plain = blocks_of(link)
    dished = effective_ring(link, effective_ring_radii(link.tx.uca, link.wavelength_m, focal_length_m=1.0))

    def gains_db(blocks):
        return [20 * math.log10(float(blocks[mode, 0, mode, 0].abs()) / unit) for mode in range(5)]

    assert gains_db(plain) == pytest.approx([18.1, -18.9, -62, -109, -152], abs=0.6)
    assert gains_db(dished) == pytest.approx([18.1, 1.5, -3.6, -4.7, -3.4], abs=0.06)
    assert float(oem_spectral_efficiency(plain, noise, detector="svd", power="waterfill")) == pytest.approx(
        12.67, abs=0.006
    )
    assert float(oem_spectral_efficiency(dished, noise, detector="svd", power="waterfill")) == pytest.approx(
        31.01, abs=0.006
    )


def test_effective_rings_of_plain_radius_and_count_are_the_plain_model(make_grid_link):
    link = make_grid_link()
    blocks = effective_ring(link, torch.full((5,), 0.1, dtype=torch.float64), num_samples=8)
    plain = blocks_of(link)
    assert float((blocks - plain).norm() / plain.norm()) < 1e-12


def test_dish_needs_a_ring_that_radiates_the_mode():
    with pytest.raises(ValueError, match=r"kR.*mode 4"):
        effective_ring_radii(UCA(8, 0.008), 0.01, focal_length_m=1.0)
    with pytest.raises(ValueError, match="`kr` must exceed"):
        divergence_rad(3, 4.0)


def test_dish_smaller_than_a_modes_ring_truncates_it():
    with pytest.warns(UserWarning, match="truncates modes 3, 4"):
        effective_ring_radii(UCA(8, 0.03), 0.01, focal_length_m=1.0, dish_radius_m=0.2)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda b: mode_blocks(torch.zeros(10, 8), 3, 2), "num_rx_ucas"),
        (lambda b: oem_spectral_efficiency(b, 0.1, detector="sic"), "detector"),
        (lambda b: oem_spectral_efficiency(b, 0.1, assume="ideal"), "assume"),
        (lambda b: oem_spectral_efficiency(b, 0.1, power="random"), "power"),
        (lambda b: oem_spectral_efficiency(b, 0.1, total_power=0.0), "total_power"),
        (lambda b: oem_spectral_efficiency(b[0], 0.1), "blocks"),
        (lambda b: effective_ring_radii(UCA(8, 0.03), 0.01, focal_length_m=-1.0), "focal_length_m"),
        (lambda b: effective_ring(dish_link(), torch.full((5,), 0.1), num_samples=4), "num_samples"),
        (lambda b: effective_ring(dish_link(), torch.full((3,), 0.1)), "radii_m"),
    ],
)
def test_bad_arguments_are_refused_by_name(call, match, make_grid_link):
    with pytest.raises((ValueError, TypeError), match=match):
        call(blocks_of(make_grid_link(num=4)))


def test_sinr_of_flat_blocks_is_finite(make_grid_link):
    link = make_grid_link()
    values = sinr(flatten_blocks(blocks_of(link)), equal_power(32), noise_variance(20.0, link=link), "mmse")
    assert bool(torch.isfinite(values).all())
