"""The picture of every experiment holds the numbers of its table, with units on its axes."""

import math

import numpy as np
import pytest

from mimo_hf import drawing
from mimo_hf.oam.comparisons import run_dof, run_oem
from mimo_hf.oam.experiments import run_ber, run_field, run_simulate, run_sweep
from mimo_hf.oam.settings import SWEEPABLE, LinkConfig, OEMConfig, axis_label


def column(result, name, **where):
    return [row[name] for row in result.rows if all(row[key] == value for key, value in where.items())]


def curves(picture):
    names = [text.get_text() for text in picture.legends[0].get_texts()]
    return dict(zip(names, (line.get_xydata() for line in picture.axes[0].lines), strict=True))


def test_a_sweep_draws_a_curve_for_each_scheme():
    result = run_sweep(LinkConfig(), "tilt_deg", 0, 30, num=4)
    picture = result.draw(drawing)
    found = curves(picture)
    assert [*result.rows[0]][1:] == [*found]
    for scheme, points in found.items():
        np.testing.assert_array_equal(points.T, [column(result, "tilt_deg"), column(result, scheme)])
    axes = picture.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("tilt (°)", "spectral efficiency (bit/s/Hz)")


@pytest.mark.parametrize(
    ("distances", "x_label", "x"), [((10.0, 20.0), "distance (m)", [10, 20]), ((10.0,), "SNR (dB)", [0, 5])]
)
def test_degrees_of_freedom_are_drawn_over_what_was_asked_for(distances, x_label, x):
    result = run_dof(LinkConfig(), distances, (0.0, 5.0), (0.5,), num_draws=3)
    picture = result.draw(drawing)
    assert (picture.axes[0].get_xlabel(), picture.axes[0].get_ylabel()) == (x_label, "capacity (bit/s/Hz)")
    where = {"snr_db": 5.0} if len(distances) > 1 else {}
    for name, points in curves(picture).items():
        np.testing.assert_array_equal(points.T, [x, column(result, name, **where)])


def test_error_rates_are_drawn_as_they_are_on_a_logarithmic_axis():
    result = run_ber(LinkConfig(tilt_deg=2.0), (0.0, 20.0, 60.0), num_symbols=200)
    picture = result.draw(drawing)
    assert picture.axes[0].get_yscale() == "log"
    assert picture.axes[0].get_xlabel() == "SNR (dB)"
    found = curves(picture)
    for mode in (0, 1, -1):
        rates = [rate or math.nan for rate in column(result, "ber", mode=mode)]
        np.testing.assert_array_equal(found[f"mode {mode:+d}"][:, 1], rates)
    closed = np.mean([column(result, "ber_closed_form", mode=mode) for mode in range(-4, 4)], axis=0)
    np.testing.assert_allclose(found["closed form, mean"][:, 1], np.maximum(closed, 1e-7))


def test_oem_draws_a_bar_for_each_row():
    result = run_oem(OEMConfig())
    (axes,) = result.draw(drawing).axes
    assert [bar.get_width() for bar in axes.patches] == column(result, "bit_s_hz")
    assert len({label.get_text() for label in axes.get_yticklabels()}) == len(result.rows)
    assert axes.get_xlabel() == "spectral efficiency (bit/s/Hz)"


def test_power_between_modes_has_the_gains_of_the_table_on_its_diagonal():
    result = run_simulate(LinkConfig(tilt_deg=3.0, num_rx=6))
    for axes, when in zip(result.draw(drawing).axes, ("plain", "bepre_geom"), strict=False):
        shown = axes.images[0].get_array()
        np.testing.assert_allclose(np.diagonal(shown), column(result, f"gain_db_{when}"), rtol=1e-9)
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(m) for m in column(result, "mode")]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("sent mode", "received mode")


def test_a_field_is_drawn_pixel_by_pixel_where_it_lies():
    result = run_field(LinkConfig(), mode=2, num_pixels=5)
    picture = result.draw(drawing)
    phase, intensity = (axes.images[0] for axes in picture.axes[:2])
    np.testing.assert_allclose(phase.get_array().ravel(), column(result, "phase_rad"))
    amplitude = np.array(column(result, "amplitude"))
    power = 20 * np.log10(np.maximum(amplitude / amplitude.max(), 1e-150))
    np.testing.assert_allclose(intensity.get_array().ravel(), power, atol=1e-9)
    # Five pixels whose centres run from -1 to 1 m are 0.5 m wide; y points up.
    assert intensity.get_extent() == pytest.approx([-1.25, 1.25, -1.25, 1.25])
    assert intensity.origin == "lower"
    assert [axes.get_ylabel() for axes in picture.axes] == ["y (m)", "y (m)", "phase (rad)", "dB below the peak"]


def test_every_number_of_the_link_has_a_label_with_its_unit():
    labels = {name: axis_label(name) for name in SWEEPABLE}
    assert labels["freq_ghz"] == "carrier frequency (GHz)"
    assert labels["wavelength_m"] == "wavelength (m)"
    assert labels["radius_rx_m"] == "radius of the receive ring (m)"
    assert labels["tilt_azimuth_deg"] == "tilt azimuth (°)"
    assert len(set(labels.values())) == len(SWEEPABLE)
