"""The OAM link simulator without a browser: settings, charts, views, the API, the files of the Space."""

import base64
import csv
import json
import math
import re
import sys
import typing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
import yaml

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mimo-hf[spaces]'")
import gradio_client
import httpx
from gradio_client.exceptions import AppError

from mimo_hf.hub import spaces
from mimo_hf.oam.presets import PRESETS

app = spaces.load("oam")
import oam_api  # noqa: E402  found by the Space's own folder, which loading it adds to the path
from oam_charts import (  # noqa: E402  as above
    BOUND,
    COLORS,
    DASHES,
    HATCHES,
    MARKERS,
    Curve,
    Page,
    Picture,
    bars,
    columns,
    curves,
    heat_map,
    plane,
    table,
)
from oam_geometry import along_the_axis, from_the_side  # noqa: E402  as above
from oam_settings import CONTROLS, SCHEMES, TABS, Settings, from_values, parse  # noqa: E402  as above
from oam_views import received_symbols  # noqa: E402  as above

FOLDER = spaces.space_path("oam")


def query_of(settings):
    return dict(parse_qsl(settings.to_query()[1:], keep_blank_values=True))


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


def trace(chart, name):
    return next(found for found in chart.data if found.name == name)


# Settings


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_comes_back_from_its_link(preset):
    settings = Settings.from_preset(preset)
    assert settings.to_query() == f"?v=1&p={preset}"
    assert Settings.from_query(query_of(settings)) == (settings, [])


def test_every_setting_comes_back_from_its_link():
    changed = {}
    for name, meta in CONTROLS.items():
        if name == "preset":
            continue
        if meta.many:
            changed[name] = ("plain", "mmse")
        elif meta.choices:
            changed[name] = meta.choices[-2]
        else:
            changed[name] = 3 if meta.step == 1 else 2.25
    settings = Settings(preset="counter-edfors", **changed)
    assert Settings.from_query(query_of(settings)) == (settings, [])


def test_query_keys_are_unique():
    keys = [meta.key for meta in CONTROLS.values()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    "query",
    [
        {"al": "nan"},
        {"al": "1e309"},
        {"al": "-0.5"},
        {"al": "zehn"},
        {"d": "0"},
        {"nt": "8.5"},
        {"nt": "1000"},
        {"ref": "<img onerror=alert(1)>"},
        {"sch": "plain,magic"},
        {"p": "claim-everything"},
        {"v": "9"},
        {"seed": "1" * 10_000},
        {"f": "٣٠٠٠٠٠"},
    ],
)
def test_a_bad_value_in_a_link_is_named_and_replaced(query):
    settings, problems = Settings.from_query(query)
    assert settings == Settings.from_preset("claim-bepre-tilt")
    assert len(problems) == 1
    assert len(problems[0]) < 300


def test_unknown_keys_and_minus_zero_do_no_harm():
    settings, problems = Settings.from_query({"utm_source": "x", "al": "-0"})
    assert problems == []
    assert settings.tilt_deg == 0


def test_an_empty_field_is_refused_by_name():
    values = {name: getattr(Settings(), name) for name in CONTROLS}
    assert from_values(values) == Settings()
    with pytest.raises(ValueError, match=r"Distance D \(m\) \(d\) must be a number; got ''"):
        from_values(values | {"distance_m": None})


def test_optional_fields_may_be_empty():
    assert parse("pilot_snr_db", " ") is None
    assert parse("oem_focal_m", "1.5") == 1.5


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_means_here_what_it_means_on_the_command_line(preset):
    settings, entry = Settings.from_preset(preset), PRESETS[preset]
    config = settings.oem_config() if entry.command == "oem" else settings.link_config()
    swept = {"param", "start", "stop", "num", "distances_m", "snrs_db", "tilt_deg"}
    for name, value in entry.settings.items():
        if name not in swept or (name == "tilt_deg" and entry.settings["param"] != "tilt_deg"):
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-9)
            assert getattr(config, name) == expected
    if entry.command == "sweep":
        assert (settings.sweep, settings.sweep_start, settings.sweep_stop, settings.sweep_num) == tuple(
            entry.settings[name] for name in ("param", "start", "stop", "num")
        )


# Charts


def luminance(color):
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first, second):
    """Contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("color", [*COLORS, BOUND])
def test_curves_stand_out_from_light_and_dark_pages(color):
    assert contrast(color, "#ffffff") >= 3
    assert contrast(color, "#27272a") >= 3


def test_nothing_is_told_by_colour_alone():
    assert len(set(zip(DASHES, MARKERS, strict=True))) == len(COLORS) == len(set(MARKERS))
    assert len(set(HATCHES)) == len(HATCHES)


def test_text_of_notes_is_readable():
    css = (FOLDER / "style.css").read_text(encoding="utf-8")
    pairs = re.findall(r"background: (#\w{6}); color: (#\w{6})", css)
    assert len(pairs) >= 4
    assert all(contrast(*pair) >= 4.5 for pair in pairs)


def test_contrast_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_curves_leave_gaps_and_name_every_line():
    lines = [Curve("a<b", [1, math.nan, 3]), Curve("top", [4, 5, 6], bound=True)]
    chart = curves([1, 2, 3], lines, title="T", x_label="x (m)", at=2)
    assert trace(chart, "a&lt;b").y == (1, None, 3)
    assert trace(chart, "top").line.width > trace(chart, "a&lt;b").line.width
    assert trace(chart, "now: 2").x == (2, 2)
    assert (chart.layout.xaxis.title.text, chart.layout.yaxis.title.text) == (
        "x (m)",
        "spectral efficiency (bit/s/Hz)",
    )
    beyond = [found.name for found in chart.data].index("beyond the capacity")
    assert chart.data[beyond].fill == "tonexty"
    assert chart.data[beyond - 1].name == "top"
    assert min(chart.data[beyond].y) > 6


def test_a_logarithmic_chart_shows_what_is_above_zero():
    chart = curves([1, 2, 3], [Curve("rate", [0.1, 0.0, 3e-4])], title="T", x_label="x", log_x=True, log_y=True)
    assert (chart.layout.xaxis.type, chart.layout.yaxis.type) == ("log", "log")
    assert trace(chart, "rate").y == (0.1, None, 3e-4)
    assert list(chart.layout.yaxis.range) == [-4, -1]  # decades
    empty = curves([1, 2], [Curve("none", [0.0, 0.0])], title="T", x_label="x", log_y=True)
    assert trace(empty, "none").y == (None, None)


def test_bars_are_as_long_as_their_values_and_stand_in_the_order_given():
    chart = bars([("one", 10.0, "k"), ("two", 20.0, "other")], title="T", unit="u", limit=25.0)
    assert (trace(chart, "k").x, trace(chart, "other").x) == ((10,), (20,))
    assert (trace(chart, "k").text[0].strip(), trace(chart, "k").orientation) == ("10.0", "h")
    assert trace(chart, "capacity 25.0 u").x == (25, 25)
    assert chart.layout.yaxis.categoryarray == ("two", "one")
    assert trace(chart, "k").marker.pattern.shape != trace(chart, "other").marker.pattern.shape


def test_maps_hold_their_numbers_where_they_belong():
    chart = heat_map([[0.123456, -300], [1, 2]], [-1, 0], [-1, 0], title="T", low=-40, high=20)
    cells = chart.data[0]
    assert (list(cells.z[0]), cells.x, cells.y) == ([0.1235, -300], ("-1", "0"), ("-1", "0"))
    assert list(cells.text[0]) == ["0", "·"]
    assert chart.layout.yaxis.autorange == "reversed"  # as a matrix is written
    field = plane([[0.0, 1.0, 2.0]] * 3, 4.0, title="T", phase=True, ring_m=1.0)
    assert field.data[0].x == field.data[0].y == (-2, 0, 2)
    assert (field.data[0].zmin, field.data[0].zmax) == (-math.pi, math.pi)
    assert (field.layout.shapes[0].x0, field.layout.shapes[0].x1) == (-1, 1)
    assert plane([[0.0] * 3] * 3, 4.0, title="T", phase=False).data[0].zmax == 0


def test_columns_stand_beside_each_other():
    chart = columns(["0", "+1"], [("a", [1.0, math.inf]), ("b", [2.0, 3.0])], title="T", x_label="mode l", y_label="y")
    assert [found.y for found in chart.data] == [(1, None), (2, 3)]
    assert chart.layout.xaxis.type == "category"


def test_rings_are_drawn_to_scale_and_closed():
    link = Settings(num_tx=4, off_axis_deg=1.0, tilt_deg=0.0).link_config().link()
    transmit, receive = along_the_axis(link).data
    assert transmit.x == pytest.approx((0.5, 0, -0.5, 0, 0.5), abs=1e-6)
    assert receive.x[0] == pytest.approx(0.5 + 50 * math.sin(math.radians(1)), rel=1e-4)
    assert transmit.text[0] == transmit.text[-1] == "element 0"
    assert "D = 50 m" in [found.name for found in from_the_side(link).data]


def test_what_stands_below_a_picture_is_escaped():
    html = Picture([], "<script>", [{"<b>": "<i>"}], "a,b\n", "n").below()
    assert "<script>" not in html
    assert "<i>" not in html
    assert "3 more rows" in table([{"a": 1.0}] * 103)


# Views


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


# The app


def test_build_demo_gives_a_page_with_labels():
    config = app.build_demo().get_config_file()
    kinds = {"slider", "number", "radio", "dropdown", "checkboxgroup"}
    controls = [entry for entry in config["components"] if entry["type"] in kinds]
    assert len(controls) == len(CONTROLS) - 1
    assert all(entry["props"]["label"] for entry in controls)
    ids = [entry["props"]["elem_id"] for entry in config["components"] if entry["props"].get("elem_id")]
    assert len(ids) == len(set(ids))
    assert {entry["id"] for entry in [{"id": key} for key in app.TAB_NAMES]} == set(TABS)


def test_the_front_matter_configures_the_space():
    _, block, text = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front = yaml.safe_load(block)
    pinned = dict(line.split("==") for line in (Path(__file__).parents[2] / "constraints.txt").read_text().split())
    assert front["sdk"] == "gradio"
    assert front["sdk_version"] == pinned["gradio"]
    assert (FOLDER / front["app_file"]).is_file()
    assert isinstance(front["python_version"], str)
    assert front["title"]
    assert front["license"] == "apache-2.0"
    assert len(front["short_description"]) <= 60
    colors = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {front["colorFrom"], front["colorTo"]} <= colors
    for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text):
        assert (FOLDER / picture).stat().st_size < 300_000


def test_the_launcher_names_what_there_is():
    assert "oam_link_simulator" in spaces.names()
    with pytest.raises(ValueError, match=r"SPACE must be one of oam; got 'radar'\."):
        spaces.space_path("radar")


@pytest.mark.parametrize("package", ["gradio", "plotly"])
def test_the_launcher_names_the_extra_of_what_is_missing(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"need {package}: pip install 'mimo-hf\[spaces\]'"):
        spaces.load("oam")


# The API


@pytest.fixture(scope="module")
def client(oam_url):
    return gradio_client.Client(oam_url, verbose=False)


def test_the_api_is_typed_and_documented(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/simulate", "/sweep", "/field", "/oem", "/dof", "/ber"}
    for endpoint in endpoints.values():
        assert all(parameter["parameter_has_default"] for parameter in endpoint["parameters"])


@pytest.mark.parametrize("name", ["simulate", "sweep", "field", "oem", "dof", "ber"])
def test_an_endpoint_answers_its_defaults_in_plain_json(client, name):
    answer = client.predict(api_name=f"/{name}")
    assert answer["rows"]
    assert answer["parameters"]["versions"]
    json.dumps(answer, allow_nan=False)


def test_a_whole_number_may_be_written_with_a_point(client):
    assert client.predict(num_tx=4.0, num_rx=4, api_name="/simulate")["parameters"]["num_tx"] == 4


def test_every_integer_of_every_endpoint_has_bounds():
    for endpoint in oam_api.endpoints():
        hints = typing.get_type_hints(endpoint)
        integers = [name for name, hint in hints.items() if hint is int]
        assert set(integers) <= set(oam_api.CAPS), endpoint.__name__


def test_nothing_can_be_uploaded_and_the_queue_is_bounded(client, oam_url):
    answer = httpx.post(f"{oam_url.rstrip('/')}/gradio_api/upload", files={"files": ("a.txt", b"some text")})
    assert answer.status_code == 413
    assert app.build_demo()._queue.max_size == app.MAX_WAITING


def test_the_api_gives_the_numbers_of_the_library(client):
    answer = client.predict(tilt_deg=10, tilt_azimuth_deg=25, api_name="/simulate")
    found = answer["summary"]["spectral_efficiency_bit_s_hz"]
    assert found["plain"] == pytest.approx(2.37, abs=0.01)
    assert found["bepre_angle"] == pytest.approx(51.13, abs=0.01)
    assert found["capacity_waterfill"] == pytest.approx(51.77, abs=0.01)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "simulate",
            {"freq_ghz": 30.0, "wavelength_m": 0.01},
            "`freq_ghz` must not be given together with `wavelength_m`",
        ),
        ("simulate", {"distance_m": 0.001}, "at least one wavelength"),
        ("simulate", {"num_tx": 1}, "num_tx"),
        ("simulate", {"num_tx": 8.5}, "`num_tx` must be a whole number; got 8.5"),
        ("simulate", {"num_tx": "8"}, "`num_tx` must be a number; got a str"),
        ("simulate", {"num_tx": [8, 8]}, "`num_tx` must be a number; got a list"),
        ("simulate", {"num_tx": True}, "`num_tx` must be a number; got a bool"),
        ("simulate", {"num_tx": None}, "`num_tx` must be a number; got a NoneType"),
        ("simulate", {"snr_db": {"a": 1}}, "`snr_db` must be a number; got a dict"),
        ("simulate", {"snr_db": 1e300}, "`snr_db` must be .* got a number above 1e15"),
        ("simulate", {"power": 3}, "`power` must be a text; got 3"),
        ("simulate", {"power": "x" * 1000}, "`power` must be one of a few words; got 1000 characters"),
        ("oem", {"rows": -1}, "`rows` must be at least 1; got -1"),
        ("oem", {"rows": 10**30}, "`rows` must be at most 16 here; got a number of more than 15 digits"),
        ("ber", {"seed": -1}, "`seed` must be at least 0"),
        ("simulate", {"num_tx": 64}, "at most 32 here"),
        ("sweep", {"num": 10_000}, "at most 1001 here"),
        ("sweep", {"param": "colour"}, "param"),
        ("field", {"mode": 9}, "mode"),
        ("oem", {"focal_length_m": 1.0, "radius_m": 0.004}, "kR of `radius_m` must exceed"),
        ("oem", {"rows": 16, "columns": 16}, "at most 128 here"),
        ("ber", {"order": 5}, "order"),
        ("ber", {"num_symbols": 10_000_000}, "at most"),
    ],
)
def test_the_api_says_what_is_wrong(client, name, arguments, message):
    with pytest.raises(AppError, match=message):
        client.predict(api_name=f"/{name}", **arguments)


def test_two_clients_at_once_get_their_own_answers(oam_url):
    def ask(tilt):
        return gradio_client.Client(oam_url, verbose=False).predict(tilt_deg=tilt, api_name="/simulate")

    with ThreadPoolExecutor(2) as pool:
        for tilt, answer in zip([5, 30, 5, 30], pool.map(ask, [5, 30, 5, 30]), strict=True):
            assert answer["parameters"]["tilt_deg"] == tilt


def test_the_first_tab_of_a_page_that_has_not_been_drawn_yet_draws_nothing():
    # Its `select` may come after the answer to a link has made another tab the one in sight.
    functions = [f.fn for f in app.build_demo().fns.values()]
    selected = next(f for f in functions if getattr(f, "keywords", {}).get("key") == "efficiency")
    start = Settings.from_preset("claim-bepre-tilt")
    values = [getattr(start, name) for name in app.NAMES]
    assert list(selected("", "mimo", *values).values()) == ["mimo"]
    assert any(hasattr(update, "to_json") for update in selected("?v=1", "mimo", *values).values())
