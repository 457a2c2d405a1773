"""Pictures, by what was drawn: the labels, and the numbers that the lines, bars, points and colours stand for."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from mimo_hf import drawing

SVG = "{http://www.w3.org/2000/svg}"
LABELS = {"title": "t", "x_label": "SNR (dB)", "y_label": "bit/s/Hz"}


def lines_of(picture):
    """By name, the (x, y) of every line that the legend names."""
    (legend,) = picture.legends
    names = [text.get_text() for text in legend.get_texts()]
    return dict(zip(names, (np.array(line.get_data()) for line in picture.axes[0].lines), strict=True))


def svg_of(picture):
    return ElementTree.fromstring(drawing.svg_text(picture))  # noqa: S314  our own picture


def texts_of(root):
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def chart(**changes):
    return drawing.line_chart([0, 1, 2], {"a": [1, 2, 3], "b": [3, math.nan, math.inf]}, **LABELS | changes)


def test_curves_hold_their_numbers_and_leave_gaps():
    picture = chart()
    lines = lines_of(picture)
    np.testing.assert_array_equal(lines["a"], [[0, 1, 2], [1, 2, 3]])
    np.testing.assert_array_equal(lines["b"], [[0, 1, 2], [3, math.nan, math.nan]])
    (axes,) = picture.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("SNR (dB)", "bit/s/Hz", "t")
    assert len({line.get_color() for line in axes.lines}) == 2
    assert len({line.get_marker() for line in axes.lines}) == 2


def test_a_logarithmic_axis_has_no_zero():
    picture = drawing.line_chart([0, 1, 2], {"a": [0.1, 1e-3, 0.0]}, **LABELS, log_y=True)
    assert picture.axes[0].get_yscale() == "log"
    np.testing.assert_array_equal(lines_of(picture)["a"][1], [0.1, 1e-3, math.nan])
    with pytest.raises(ValueError, match="above zero"):
        drawing.line_chart([0], {"a": [0.0]}, **LABELS, log_y=True)


def test_positive_numbers_far_apart_are_shown_from_zero_and_near_ones_are_not():
    assert drawing.line_chart([0, 1], {"a": [1.0, 9.0]}, **LABELS).axes[0].get_ylim()[0] == 0
    assert drawing.line_chart([0, 1], {"a": [8.0, 9.0]}, **LABELS).axes[0].get_ylim()[0] > 7


def test_constant_curves_and_single_points_can_be_drawn(tmp_path):
    drawing.save(drawing.line_chart([5], {"a": [2.0]}, **LABELS), tmp_path / "a.png")
    drawing.save(drawing.line_chart([0, 1], {"a": [0.0, 0.0]}, **LABELS), tmp_path / "b.png")


def test_curves_without_a_number_are_refused():
    with pytest.raises(ValueError, match="finite"):
        drawing.line_chart([0, 1], {"a": [math.nan, math.inf]}, **LABELS)
    with pytest.raises(ValueError, match=r"`series` must have 2 values an entry, as `x`; got 1 for 'a'"):
        drawing.line_chart([0, 1], {"a": [1.0]}, **LABELS)


def test_what_is_empty_or_uneven_is_refused_by_name():
    for make, name in [
        (lambda: drawing.line_chart([], {}, **LABELS), "series"),
        (lambda: drawing.bar_chart([], {}, title="t", x_label="x"), "series"),
        (lambda: drawing.bar_chart(["x"], {"a": [1.0, 2.0]}, title="t", x_label="x"), "series"),
        (lambda: drawing.timeline([], [], {}, title="t"), "bars"),
    ]:
        with pytest.raises(ValueError, match=f"`{name}` must have .*; got "):
            make()


def test_bars_are_as_long_as_their_numbers_and_say_them():
    picture = drawing.bar_chart(["x", "y"], {"ours": [1.0, 2.5], "theirs": [math.nan, 12.345]}, title="t", x_label="s")
    (axes,) = picture.axes
    ours, theirs = axes.containers
    assert [bar.get_width() for bar in ours] == [1.0, 2.5]
    assert theirs[1].get_width() == 12.345
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]
    assert [text.get_text() for text in axes.texts] == ["1", "2.5", "", "12.35"]
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in picture.legends[0].get_texts()] == ["ours", "theirs"]
    assert drawing.bar_chart(["x"], {"ours": [1.0]}, title="t", x_label="s").legends == []


def test_points_stand_where_they_are_and_the_chosen_are_joined_in_order():
    points = {"a": (3.0, 1.0), "b": (1.0, 2.0), "c": (2.0, 5.0)}
    picture = drawing.point_chart(points, ["b", "a"], joined_label="front", **LABELS)
    lines = lines_of(picture)
    np.testing.assert_array_equal(lines.pop("front"), [[1, 3], [2, 1]])
    assert {name: tuple(line[:, 0]) for name, line in lines.items()} == points
    assert list(lines_of(drawing.point_chart(points, **LABELS))) == ["a", "b", "c"]


def test_names_stand_as_they_are_typed():
    name = "_a<b & $x$ \\$"
    root = svg_of(drawing.line_chart([0, 1], {name: [0.0, 1.0]}, **LABELS | {"title": "$1 & $2"}))
    assert name in texts_of(root)
    assert "$1 & $2" in texts_of(root)
    assert root.find(f"{SVG}title").text == "$1 & $2"


def heat_map(**changes):
    told = {"title": "m", "values": [[1.0, 2.0], [3.0, 4.0]], "x_label": "x", "y_label": "y", "scale_label": "dB"}
    return drawing.HeatMap(**told | changes)


def test_maps_hold_their_numbers_side_by_side_with_their_scales():
    names = {"columns": [0, 1], "rows": [-1, 1]}
    plane = {"values": np.arange(6.0).reshape(2, 3), "extent": (-2.0, 2.0, -1.0, 1.0)}
    picture = drawing.heat_maps([heat_map(**names, low=-40.0, high=20.0), heat_map(**plane)], title="t")
    matrix, field = picture.axes[:2]
    np.testing.assert_array_equal(matrix.images[0].get_array(), [[1, 2], [3, 4]])
    assert matrix.images[0].get_clim() == (-40, 20)
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["-1", "1"]
    assert matrix.yaxis_inverted()
    # The centres of 3 x 2 pixels lie from -2 to 2 and from -1 to 1: pixels are 2 wide and 2 high.
    assert field.images[0].get_extent() == [-3, 3, -2, 2]
    assert not field.yaxis_inverted()
    assert [axes.get_ylabel() for axes in picture.axes[2:]] == ["dB", "dB"]


def test_a_map_of_two_units_fills_its_place_and_may_have_one_row():
    plane = {
        "values": np.arange(3.0)[None],
        "extent": (0.0, 2.0, 1.0, 1.0),
        "x_label": "s",
        "y_label": "",
        "scale_label": "",
    }
    picture = drawing.heat_maps(
        [drawing.HeatMap("a", **plane), drawing.HeatMap("b", stretched=True, **plane)], title="t"
    )
    square, stretched = (axes for axes in picture.axes if axes.images)
    assert (square.get_aspect(), stretched.get_aspect()) == (1.0, "auto")
    assert stretched.images[0].get_extent() == [-0.5, 2.5, 0.5, 1.5]


def test_a_phase_has_the_same_colour_at_both_ends_and_many_names_are_thinned():
    picture = drawing.heat_maps([heat_map(cyclic=True, low=-math.pi, high=math.pi)], title="t")
    image = picture.axes[0].images[0]
    low, middle, high = image.to_rgba(np.array([-math.pi, 0.0, math.pi]))
    np.testing.assert_allclose(low, high, atol=0.02)
    assert np.abs(low - middle).max() > 0.3
    wide = drawing.heat_maps([heat_map(values=np.eye(40), columns=range(40))], title="t").axes[0]
    assert [label.get_text() for label in wide.get_xticklabels()][:3] == ["0", "4", "8"]


def timeline(**changes):
    bars = [drawing.Bar(0, 0.0, 2.0, "tool", "one"), drawing.Bar(1, 1.0, 1.0, "reward", "a < b")]
    curves = {"in use": [(0.0, 1.0), (2.0, 0.0)], "waiting": []}
    return drawing.timeline(["n 0", "n 1"], bars, curves, title="t", **changes)


def test_a_timeline_places_every_bar_and_steps_its_curves():
    over, under = timeline().axes
    boxes = [path.get_extents().bounds for path in under.collections[0].get_paths()]
    np.testing.assert_allclose(boxes, [(0.0, -0.4, 2.0, 0.8), (1.0, 0.6, 0.0, 0.8)])
    assert len({tuple(colour) for colour in under.collections[0].get_facecolor()}) == 2
    np.testing.assert_array_equal(over.lines[0].get_data(), [[0, 2], [1, 0]])
    assert over.lines[0].get_drawstyle() == "steps-post"
    assert under.get_xlabel() == "time (s)"
    assert [label.get_text() for label in under.get_yticklabels()] == ["n 0", "n 1"]


def test_a_bar_says_its_note_in_svg():
    root = svg_of(timeline())
    (group,) = [element for element in root.iter(f"{SVG}g") if element.get("id") == "bars"]
    assert [path.findtext(f"{SVG}title") for path in group.iter(f"{SVG}path")] == ["one", "a < b"]


@pytest.mark.parametrize("make", [chart, timeline, lambda: drawing.heat_maps([heat_map()], title="t")])
def test_the_same_numbers_give_the_same_file(make, tmp_path):
    for suffix, beginning in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")):
        first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
        drawing.save(make(), first)
        drawing.save(make(), second)
        assert first.read_bytes() == second.read_bytes()
        assert first.read_bytes().startswith(beginning)


def test_settings_of_the_user_change_nothing():
    import matplotlib

    mine = drawing.svg_text(chart())
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert drawing.svg_text(chart()) == mine
        assert matplotlib.rcParams["font.size"] == 30
