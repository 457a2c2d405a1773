"""Charts of the OAM link simulator: readable by everyone, to scale, and with the numbers they are given."""

import math
import re

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mimo-hf[spaces]'")
from mimo_hf.hub import spaces

spaces.load("oam")
from oam_charts import (  # noqa: E402  found by the Space's own folder, which loading it adds to the path
    BOUND,
    COLORS,
    DASHES,
    HATCHES,
    MARKERS,
    Curve,
    Picture,
    bars,
    columns,
    curves,
    heat_map,
    plane,
    table,
)
from oam_geometry import along_the_axis, from_the_side  # noqa: E402  as above
from oam_settings import Settings  # noqa: E402  as above

FOLDER = spaces.space_path("oam")


def trace(chart, name):
    return next(found for found in chart.data if found.name == name)


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
