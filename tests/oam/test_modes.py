"""Mode generation and decomposition, Bessel functions, and what the aligned channel's eigenvalues are."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, strategies as st

from mimo_hf.oam import (
    UCA,
    LinkGeometry,
    Pose,
    aligned_eigenvalues,
    bessel_first_maximum,
    bessel_j,
    circulant_part,
    decompose,
    dft_matrix,
    generate,
    isr_db,
    los_channel,
    matched_channel,
    modal_channel,
    mode_purity,
    noncirculance,
    nyquist_mode,
    signed_modes,
)


def test_dft_matrix_is_unitary_and_has_the_stated_sign():
    f = dft_matrix(8)
    torch.testing.assert_close(f @ f.mH, torch.eye(8, dtype=torch.complex128), atol=1e-15, rtol=0)
    assert complex(f[1, 1]) == pytest.approx(complex(math.cos(math.pi / 4), -math.sin(math.pi / 4)) / math.sqrt(8))


def test_generation_and_decomposition_are_the_dft_matrix(random_complex):
    s, y = random_complex(0, 5, 8), random_complex(1, 5, 8)
    torch.testing.assert_close(generate(s), s @ dft_matrix(8).conj())
    torch.testing.assert_close(decompose(y), y @ dft_matrix(8))
    torch.testing.assert_close(decompose(generate(s)), s)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 1000))
def test_modal_channel_is_the_two_sided_dft_and_keeps_energy(num_rx, num_tx, seed):
    h = torch.randn(3, num_rx, num_tx, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    g = modal_channel(h)
    torch.testing.assert_close(g, dft_matrix(num_rx) @ h @ dft_matrix(num_tx).mH)
    torch.testing.assert_close(g.norm(), h.norm())


def test_signed_and_nyquist_modes():
    assert signed_modes(8).tolist() == [0, 1, 2, 3, -4, -3, -2, -1]
    assert signed_modes(5).tolist() == [0, 1, 2, -2, -1]
    assert nyquist_mode(8) == 4
    assert nyquist_mode(5) is None


@given(st.integers(-12, 12), st.floats(0, 40))
def test_bessel_j_satisfies_its_recurrence(order, x):
    value = torch.tensor(x, dtype=torch.float64)
    left = x * (bessel_j(order - 1, value) + bessel_j(order + 1, value))
    assert float(left) == pytest.approx(2 * order * float(bessel_j(order, value)), abs=1e-12)


def test_bessel_j_agrees_with_mpmath_and_has_gradients():
    x = torch.linspace(0, 30, 61, dtype=torch.float64)
    for order in (0, 1, 5, -3):
        exact = torch.tensor([float(mpmath.besselj(order, value)) for value in x.tolist()], dtype=torch.float64)
        torch.testing.assert_close(bessel_j(order, x), exact, atol=1e-14, rtol=0)
    points = torch.tensor([0.0, 0.7, 9.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: bessel_j(3, x), points)


def test_first_maxima_of_bessel_functions():
    found = [round(bessel_first_maximum(order), 4) for order in (1, 2, 3, 4)]
    assert found == [1.8412, 3.0542, 4.2012, 5.3176]


@given(data=st.data())
def test_aligned_eigenvalues_of_the_far_field_are_the_alias_summed_series(data, links):
    link = data.draw(links(aligned=True, min_distance_radii=12.0))
    found = modal_channel(los_channel(link, model="far_field")).diagonal(dim1=-2, dim2=-1)
    series = aligned_eigenvalues(link)
    assert float((found - series).norm() / found.norm()) < 1e-8


def test_alias_terms_make_the_gain_depend_on_spin(make_link):
    gains = []
    for spin in (0.0, 0.2):
        link = make_link(spin=spin)
        assert float(link.bessel_argument) == pytest.approx(math.pi, rel=1e-3)
        gain = aligned_eigenvalues(link)[3].abs() * 4 * math.pi * link.distance_m / link.wavelength_m
        gains.append(round(20 * math.log10(float(gain)), 2))
    assert gains == [7.04, 8.66]


def test_single_bessel_term_holds_below_half_the_number_of_elements(make_link):
    link = make_link(num=16, distance=500.0)
    full, single = aligned_eigenvalues(link), aligned_eigenvalues(link, aliases=False)
    torch.testing.assert_close(full[:5], single[:5], rtol=1e-9, atol=0)
    with pytest.warns(UserWarning, match="single Bessel"):
        aligned_eigenvalues(make_link(num=8, distance=20.0), aliases=False)


@pytest.mark.parametrize(("num_rx", "num_tx"), [(8, 16), (12, 8), (6, 9), (5, 7)])
def test_unequal_counts_couple_modes_equal_modulo_their_common_divisor(make_link, num_rx, num_tx):
    g = modal_channel(los_channel(make_link(num_tx, num_rx=num_rx, spin=0.3)))
    rows, columns = torch.arange(num_rx)[:, None], torch.arange(num_tx)[None, :]
    coupled = (rows - columns) % math.gcd(num_rx, num_tx) == 0
    assert g[~coupled].abs().max() <= 1e-10 * g.abs().max() if (~coupled).any() else True


def test_matched_channel_pairs_equal_signed_modes():
    g = torch.arange(8 * 5).view(8, 5).to(torch.complex128)
    matched = matched_channel(g)
    tx_modes, rx_modes = signed_modes(5).tolist(), signed_modes(8).tolist()
    for row, l_rx in enumerate(tx_modes):
        for column in range(5):
            assert matched[row, column] == g[rx_modes.index(l_rx), column]


def test_purity_isr_and_noncirculance_on_a_known_matrix():
    g = torch.tensor([[2.0, 1.0], [0.0, 1.0]], dtype=torch.complex128)
    assert mode_purity(g).tolist() == [1.0, 0.5]
    assert float(isr_db(g)) == pytest.approx(10 * math.log10(1 / 5))
    h = dft_matrix(2).mH @ g @ dft_matrix(2)
    assert float(noncirculance(h)) == pytest.approx(math.sqrt(1 / 6))
    torch.testing.assert_close(modal_channel(circulant_part(h)), torch.diag(g.diagonal()))


def test_weak_interference_is_not_lost_in_rounding_and_its_gradient_is_finite_when_aligned():
    g = torch.eye(4, dtype=torch.complex128)
    g[0, 1] = 1e-12
    assert float(isr_db(g)) == pytest.approx(-240 - 10 * math.log10(4))
    tilt = torch.zeros((), dtype=torch.float64, requires_grad=True)
    pose = Pose.from_angles(50.0, tilt_rad=tilt)
    link = LinkGeometry(UCA(8, 0.5), UCA(8, 0.5), pose, wavelength_m=0.01)
    isr_db(modal_channel(los_channel(link))).backward()
    assert bool(torch.isfinite(tilt.grad))


def test_wrong_shapes_are_refused(random_complex):
    with pytest.raises(ValueError, match="square"):
        noncirculance(random_complex(0, 3, 4))
    with pytest.raises(ValueError, match="num_elements"):
        dft_matrix(0)
    with pytest.raises(TypeError, match="order"):
        bessel_j(1.5, torch.tensor(1.0))
