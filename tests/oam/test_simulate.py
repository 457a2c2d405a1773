"""The one-call comparison: equal to the pieces it is made of, whatever the batch and the chunks."""

import math

import pytest
import torch

from mimo_hf.oam import (
    SCHEMES,
    UCA,
    ULA,
    LinkGeometry,
    Pose,
    bepre,
    capacity_equal,
    capacity_waterfill,
    equal_power,
    los_channel,
    modal_channel,
    noise_variance,
    simulate_link,
    spectral_efficiency,
)


@pytest.fixture(scope="module")
def batch():
    tilts = torch.linspace(0, 0.5, 7, dtype=torch.float64)[:, None]
    distances = torch.tensor([20.0, 50.0, 80.0], dtype=torch.float64)
    return LinkGeometry(UCA(8, 0.5), UCA(8, 0.5), Pose.from_angles(distances, tilt_rad=tilts), wavelength_m=0.01)


def one(tilt, distance, snr_db):
    """The schemes of one link, from the pieces."""
    link = LinkGeometry(UCA(8, 0.5), UCA(8, 0.5), Pose.from_angles(distance, tilt_rad=tilt), wavelength_m=0.01)
    h, noise, share = los_channel(link), noise_variance(snr_db, link=link), equal_power(8)
    found = {
        f"bepre_{method}": spectral_efficiency(modal_channel(bepre(source, method).apply(h)), share, noise)
        for method, source in (("angle", link), ("geom", link), ("svd", h))
    }
    found["plain"] = spectral_efficiency(modal_channel(h), share, noise)
    found["mmse"] = spectral_efficiency(modal_channel(h), share, noise, "mmse")
    found["capacity_equal"], found["capacity_waterfill"] = capacity_equal(h, noise), capacity_waterfill(h, noise)
    return found


def test_batch_equals_one_link_at_a_time(batch):
    results = simulate_link(batch, 17.0)
    assert set(results) == set(SCHEMES)
    for i, tilt in enumerate(torch.linspace(0, 0.5, 7, dtype=torch.float64).tolist()):
        for j, distance in enumerate((20.0, 50.0, 80.0)):
            for scheme, value in one(tilt, distance, 17.0).items():
                assert float(results[scheme][i, j]) == pytest.approx(float(value), rel=1e-7)


def test_snr_broadcasts_with_the_links(batch):
    results = simulate_link(batch, torch.tensor([0.0, 10.0])[:, None, None], ("plain", "capacity_equal"))
    assert results["plain"].shape == (2, 7, 3)
    torch.testing.assert_close(results["plain"][1], simulate_link(batch, 10.0, ("plain",))["plain"])


def test_small_memory_splits_the_batch_and_reports_progress(batch):
    seen = []
    parts = simulate_link(batch, 17.0, max_bytes=5 * 16 * 12 * 64, progress=lambda *step: seen.append(step))
    assert len(seen) > 4
    assert seen[-1] == (21, 21)
    for scheme, whole in simulate_link(batch, 17.0).items():
        torch.testing.assert_close(parts[scheme], whole, rtol=1e-9, atol=1e-9)


def test_a_large_batch_runs_in_little_memory():
    tilts = torch.linspace(0, 0.5, 50_000, dtype=torch.float64)
    link = LinkGeometry(UCA(8, 0.5), UCA(8, 0.5), Pose.from_angles(50.0, tilt_rad=tilts), wavelength_m=0.01)
    result = simulate_link(link, 20.0, ("plain", "bepre_angle"), max_bytes=2**22)
    assert result["plain"].shape == (50_000,)
    assert bool((result["bepre_angle"] > 0).all())


def test_single_link_gives_scalars(make_link):
    results = simulate_link(make_link(), 20.0)
    assert results["plain"].shape == ()
    assert float(results["plain"]) == pytest.approx(51.76, abs=0.006)


def test_water_filling_over_modes_reaches_the_capacity_when_aligned(make_link):
    results = simulate_link(make_link(distance=100.0), torch.tensor([0.0, 20.0]), power="waterfill")
    torch.testing.assert_close(results["plain"], results["capacity_waterfill"], rtol=1e-8, atol=0)


def test_wrong_belief_costs_spectral_efficiency(make_link):
    true, believed = make_link(tilt=10, tilt_azimuth=25), make_link(tilt=10.05, tilt_azimuth=25)
    assert float(simulate_link(true, 20.0, believed=believed)["bepre_angle"]) == pytest.approx(34.6, abs=0.06)


def test_unequal_counts_use_the_matched_modes(make_link):
    results = simulate_link(make_link(num=8, num_rx=16), 20.0)
    assert bool(torch.isfinite(torch.stack(list(results.values()))).all())
    assert float(results["plain"]) <= float(results["capacity_waterfill"])


def test_complex64_is_close(make_link):
    double, single = (
        simulate_link(make_link(tilt=3, tilt_azimuth=10, distance=20.0), 20.0, dtype=dtype)
        for dtype in (torch.complex128, torch.complex64)
    )
    for scheme in SCHEMES:
        assert float(single[scheme]) == pytest.approx(float(double[scheme]), rel=1e-3)


def test_gradients_reach_angles_and_lengths():
    values = torch.tensor([0.0, 0.0, 50.0, 0.5], dtype=torch.float64, requires_grad=True)
    off_axis, tilt, distance, radius = values
    link = LinkGeometry(
        UCA(8, radius), UCA(8, 0.5), Pose.from_angles(distance, off_axis, 0.0, tilt), wavelength_m=0.01
    )
    schemes = tuple(scheme for scheme in SCHEMES if scheme != "bepre_svd")
    sum(simulate_link(link, 20.0, schemes).values()).backward()
    assert bool(torch.isfinite(values.grad).all())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"schemes": ("plain", "magic")}, "schemes"),
        ({"snr_db": math.nan}, "snr_db"),
        ({"power": "none"}, "power"),
        ({"snr_reference": "db"}, "reference"),
        ({"max_bytes": 0}, "max_bytes"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, match, make_link):
    with pytest.raises(ValueError, match=match):
        simulate_link(make_link(), **{"snr_db": 20.0, **arguments})


def test_batches_that_do_not_broadcast_are_told_by_shape(make_link):
    with pytest.raises(ValueError, match=r"`snr_db` \[3\]"):
        simulate_link(make_link(distance=torch.tensor([20.0, 30.0])), torch.zeros(3))


def test_other_arrays_have_no_modes():
    with pytest.raises(TypeError, match="UCA"):
        simulate_link(LinkGeometry(ULA(8, 1.0), ULA(8, 1.0), Pose.from_angles(20.0), wavelength_m=0.01), 20.0)


@pytest.mark.gpu
def test_cpu_and_cuda_agree(batch):
    on_cpu, on_gpu = simulate_link(batch, 20.0), simulate_link(batch.to("cuda"), 20.0)
    for scheme in SCHEMES:
        assert float((on_gpu[scheme].cpu() - on_cpu[scheme]).abs().max()) < 1e-9 * float(on_cpu[scheme].max())
