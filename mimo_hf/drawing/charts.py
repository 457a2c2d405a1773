"""Curves, bars and points."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from .look import MARKERS, PALETTE, Picture, finite, house_style, legend, plain

MOST_MARKS = 12  # on one curve


def _axes(picture: Picture, x_label: str, y_label: str) -> Axes:
    return picture.add_subplot(title=plain(picture.title), xlabel=x_label, ylabel=y_label)


def _check(series: Mapping[str, Sequence[float]], other: str, count: int) -> None:
    if not series:
        raise ValueError("`series` must have at least one entry; got none.")
    for name, values in series.items():
        if len(values) != count:
            raise ValueError(
                f"`series` must have {count} values an entry, as `{other}`; got {len(values)} for {name!r}."
            )


@house_style()
def line_chart(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
) -> Picture:
    """
    Curves over a common axis. Values that are not finite leave a gap, and so do those that a logarithm does not have.

    Raises:
        ValueError: no value can be shown, or a curve has more or fewer values than `x`.
    """
    _check(series, "x", len(x))
    shown = [
        value for values in series.values() for value in values if math.isfinite(value) and (value > 0 or not log_y)
    ]
    if not shown:
        where = " above zero, as its axis is logarithmic" if log_y else ""
        raise ValueError(f"`series` must have a finite value{where}; got none.")
    picture = Picture(title, 4.8)
    axes = _axes(picture, x_label, y_label)
    stride = max(1, len(x) // MOST_MARKS)
    lines = {}
    for i, (name, values) in enumerate(series.items()):
        values = [value if value > 0 or not log_y else math.nan for value in finite(values)]
        # Later curves are thinner and their marks are out of step, so that of several that lie on one another all can be seen.
        under = 1 - i / max(1, len(series) - 1)
        (lines[name],) = axes.plot(
            list(x),
            values,
            color=PALETTE[i % len(PALETTE)],
            linewidth=1.5 + 1.1 * under,
            marker=MARKERS[i % len(MARKERS)],
            markersize=4.5 + 2.5 * under,
            markevery=(i % stride, stride),
        )
    if log_y:
        decades = math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown)))
        axes.set(yscale="log", ylim=(10.0 ** decades[0], 10.0 ** max(decades[1], decades[0] + 1)))
    elif 0 < min(shown) < 0.5 * max(shown):
        axes.set_ylim(bottom=0)
    legend(picture, lines)
    return picture


@house_style()
def bar_chart(names: Sequence[str], series: Mapping[str, Sequence[float]], *, title: str, x_label: str) -> Picture:
    """Horizontal bars from zero, a group for each name and a bar in it for each of the series; NaN has no bar."""
    _check(series, "names", len(names))
    picture = Picture(title, 1.2 + len(names) * (0.16 + 0.24 * len(series)))
    axes = _axes(picture, x_label, "")
    thickness = 0.8 / len(series)
    drawn = {}
    for i, (name, values) in enumerate(series.items()):
        rows = [row + (i - (len(series) - 1) / 2) * thickness for row in range(len(names))]
        drawn[name] = axes.barh(rows, finite(values), height=thickness, color=PALETTE[i % len(PALETTE)])
        labels = ["" if math.isnan(value) else f"{value:.4g}" for value in finite(values)]
        axes.bar_label(drawn[name], labels, padding=4)
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.1)
    axes.invert_yaxis()
    if len(series) > 1:
        legend(picture, drawn)
    return picture


@house_style()
def point_chart(
    points: Mapping[str, tuple[float, float]],
    joined: Sequence[str] = (),
    *,
    title: str,
    x_label: str,
    y_label: str,
    joined_label: str = "",
) -> Picture:
    """Named points; a line joins those of `joined`, in that order."""
    picture = Picture(title, max(4.8, 1 + 0.22 * len(points)))
    axes = _axes(picture, x_label, y_label)
    drawn = {}
    if joined:
        (drawn[joined_label],) = axes.plot(
            *zip(*(points[name] for name in joined), strict=True), color="#bbbbbb", zorder=1
        )
    for i, (name, (x, y)) in enumerate(points.items()):
        (drawn[name],) = axes.plot(
            [x], [y], color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)], markersize=7, linestyle="none"
        )
    legend(picture, drawn)
    return picture
