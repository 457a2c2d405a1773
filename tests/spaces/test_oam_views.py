"""Views of the OAM link simulator: every tab draws every setting, and says what is impossible."""

import base64
import csv
import re

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mimo-hf[spaces]'")
from mimo_hf.hub import spaces

app = spaces.load("oam")
from oam_charts import Page  # noqa: E402  found by the Space's own folder, which loading it adds to the path
from oam_settings import SCHEMES, Settings  # noqa: E402  as above
from oam_views import received_symbols  # noqa: E402  as above


def picture(page, name):
    return next(found for found in page.pictures if found.name == name)


def csv_of(page, name):
    """The rows of the CSV file that a picture offers, as dicts of text."""
    data = re.search(
        rf"download='{name}\.csv' href='data:text/csv;base64,([^']+)'", picture(page, name).below()
    ).group(1)
    content = base64.b64decode(data).decode()
    assert content == picture(page, name).csv
    return list(csv.DictReader(line for line in content.splitlines() if not line.startswith("#")))


@pytest.mark.parametrize("tab", app.VIEWS)
@pytest.mark.parametrize("preset", ["claim-bepre-tilt", "claim-oem-dish", "counter-ula-wins"])
def test_every_tab_draws_every_kind_of_preset(preset, tab):
    page = app.VIEWS[tab](Settings.from_preset(preset))
    assert [len(found.plots) for found in page.pictures] == list(app.PLOTS[tab])
    for chart in (chart for found in page.pictures for chart in found.plots):
        assert chart.data
        assert chart.layout.title.text
        assert re.search(r"\b(NaN|Infinity)\b", chart.to_json()) is None
    html = "".join(part for part in page.parts() if isinstance(part, str))
    assert re.search(r"[='\" ]nan\b", html) is None
    assert "http" not in re.sub(r"base64,[^']*", "", html)


@pytest.mark.parametrize("tab", app.VIEWS)
def test_axes_have_names_and_where_there_is_one_a_unit(tab):
    for found in app.VIEWS[tab](Settings.from_preset("claim-oem-dish")).pictures:
        for chart in found.plots:
            for axis in (*chart.select_xaxes(), *chart.select_yaxes()):
                named = (
                    axis.title.text or axis.visible is False or axis.type == "category" or chart.data[0].type == "bar"
                )
                assert named, (tab, chart.layout.title.text)


@pytest.mark.parametrize("tab", ["link", "modes", "interference", "detection", "efficiency", "mimo"])
@pytest.mark.parametrize(
    "changes",
    [
        {"num_tx": 4, "num_rx": 7},
        {"num_tx": 32, "num_rx": 32},
        {"num_tx": 2, "num_rx": 2, "mode": -1},
        {"radius_tx_wl": 0.2, "radius_rx_wl": 0.2, "distance_m": 0.1},
        {"precoding": "svd", "pilot_snr_db": 10.0, "detector": "zf", "modulation": "64"},
        {"snr_reference": "frobenius", "power": "waterfill", "schemes": ()},
        {"off_axis_deg": 60.0, "tilt_deg": 80.0, "spin_deg": 45.0, "snr_db": -20.0},
    ],
    ids=str,
)
def test_every_tab_draws_the_corners(changes, tab):
    page = app.VIEWS[tab](Settings(**changes))
    assert isinstance(page, Page)
    assert [len(found.plots) for found in page.pictures] == list(app.PLOTS[tab])


def test_the_sweep_never_crosses_the_capacity():
    rows = csv_of(app.VIEWS["efficiency"](Settings.from_preset("claim-bepre-tilt")), "sweep")
    assert len(rows) == 61
    for row in rows:
        assert all(float(row[scheme]) <= float(row["capacity_waterfill"]) + 1e-6 for scheme in SCHEMES)


def test_the_csv_says_what_it_depends_on():
    header = picture(app.VIEWS["efficiency"](Settings.from_preset("claim-bepre-tilt")), "sweep").csv
    for key in ("param", "distance_m", "snr_reference", "versions", "freq_ghz"):
        assert f"# {key}=" in header


@pytest.mark.parametrize(("preset", "warned"), [("counter-oem-intermode", True), ("claim-oem-multiplicative", False)])
def test_oem_warns_exactly_where_the_ideal_exceeds_the_capacity(preset, warned):
    page = app.VIEWS["oem"](Settings.from_preset(preset))
    rows = csv_of(page, "oem")
    promised = max(float(row["bit_s_hz"]) for row in rows if row["assume"] == "block_circulant")
    capacity = next(float(row["bit_s_hz"]) for row in rows if "water-filling" in row["scheme"])
    assert (promised > capacity) is warned
    assert ("oam-warning" in page.head) is warned


def test_the_near_field_is_announced():
    assert "Near field" in app.VIEWS["link"](Settings(distance_m=3.0)).head
    assert "Near field" not in app.VIEWS["link"](Settings(distance_m=50.0)).head


def test_the_nyquist_mode_is_announced():
    assert "Nyquist" in app.VIEWS["modes"](Settings(mode=4)).head
    assert "turns +1 times" in app.VIEWS["modes"](Settings(mode=1)).head


@pytest.mark.parametrize(
    ("tab", "changes", "message"),
    [
        ("modes", {"mode": 7, "num_tx": 4}, "mode"),
        ("link", {"distance_m": 0.001}, "at least one wavelength"),
        ("oem", {"oem_focal_m": 1.0, "oem_radius_wl": 0.4}, "kR of `radius_m` must exceed"),
        ("oem", {"oem_pitch_wl": 5.0}, "twice the radius"),
        ("efficiency", {"sweep_start": 3.0, "sweep_stop": 3.0}, "From and To of the sweep must differ; got 3 twice"),
        (
            "mimo",
            {"mimo_start_m": 3.0, "mimo_stop_m": 3.0},
            r"Least distance \(m\) and Greatest distance \(m\) must differ; got 3 twice",
        ),
    ],
)
def test_what_is_impossible_is_said(tab, changes, message):
    with pytest.raises(ValueError, match=message):
        app.VIEWS[tab](Settings(**changes))


def test_symbols_arrive_where_they_were_sent_without_noise():
    received, sent, modes = received_symbols(Settings(tilt_deg=0.0, snr_db=60.0, modulation="16"))
    assert sorted(modes) == list(range(-4, 4))
    assert float((received - sent).abs().max()) < 0.02


def test_symbols_depend_on_the_seed_alone():
    first, again, other = (received_symbols(Settings(seed=seed))[0] for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)
