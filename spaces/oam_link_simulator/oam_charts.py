"""Plotly's figures with one look, to zoom and to read with the mouse; and what stands below each: caption, CSV, table."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

# At least 3:1 on white and on the dark theme's panels. A marker and a dash, or a hatching, stand for each colour as well.
COLORS = ("#0a7dc2", "#d55e00", "#009e73", "#c46d9e", "#a6761d", "#8a6fc9", "#787878")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
MARKERS = ("circle", "square", "triangle-up", "diamond", "x", "cross", "star")
HATCHES = ("", "/", "x", ".", "\\")
BOUND, FAINT = "#7f7f7f", "rgba(128, 128, 128, 0.25)"
MOST_MARKS, MOST_NUMBERS, MOST_ROWS = 12, 16, 100
BESIDE = "\u00a0" * 4  # a number keeps clear of the line that a long bar nearly reaches
LEVELS, PHASES = "Magma", "Twilight"


@dataclass(frozen=True)
class Curve:
    """One curve; `bound` draws it thick and grey, and shades what lies above it."""

    name: str
    values: Sequence[float]
    bound: bool = False


@dataclass(frozen=True)
class Picture:
    """Plots beside each other, with a caption, the same numbers as a table, and as a file to download."""

    plots: Sequence[go.Figure]
    caption: str
    rows: Sequence[dict] = ()
    csv: str | None = None
    name: str = "data"

    def below(self) -> str:
        extras = ""
        if self.csv is not None:
            data = base64.b64encode(self.csv.encode()).decode()
            link = f"download='{self.name}.csv' href='data:text/csv;base64,{data}'"
            extras += f"<a class='oam-csv' {link}>Download CSV</a>"
        if self.rows:
            extras += f"<details><summary>Show as table</summary>{table(self.rows)}</details>"
        return f"<p class='oam-caption'>{escape(self.caption)}</p><div class='oam-extras'>{extras}</div>"


@dataclass(frozen=True)
class Page:
    """What a tab shows: paragraphs, then pictures."""

    head: str
    pictures: Sequence[Picture] = field(default_factory=tuple)

    def parts(self) -> list[Any]:
        """In the order of the tab's components."""
        return [self.head, *(part for picture in self.pictures for part in (*picture.plots, picture.below()))]


def table(rows: Sequence[dict]) -> str:
    head = "".join(f"<th scope='col'>{escape(str(name))}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell(value))}</td>" for value in row.values()) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = f"<p>{len(rows) - MOST_ROWS} more rows in the CSV file.</p>" if len(rows) > MOST_ROWS else ""
    return f"<div class='oam-table' tabindex='0'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}"


def cell(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def shown(values: Sequence[float], digits: int = 6) -> list[float | None]:
    """The values as short as a picture needs them, with a gap for what is not finite."""
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in values]


def figure(title: str, x_label: str = "", y_label: str = "", height: int = 400) -> go.Figure:
    axis = {"gridcolor": FAINT, "zerolinecolor": FAINT, "linecolor": BOUND, "automargin": True}
    return go.Figure(
        layout={
            # Below the buttons, which a touch screen always shows.
            "title": {
                "text": escape(title),
                "x": 0,
                "y": 1,
                "yanchor": "top",
                "pad": {"t": 32, "l": 8},
                "font": {"size": 15},
            },
            "template": "none",
            "height": height,
            "margin": {"l": 20, "r": 12, "t": 64, "b": 20},
            "paper_bgcolor": "rgba(0, 0, 0, 0)",
            "plot_bgcolor": "rgba(0, 0, 0, 0)",
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": BOUND},
            "xaxis": {"title": {"text": escape(x_label)}, **axis},
            "yaxis": {"title": {"text": escape(y_label)}, **axis},
            "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "traceorder": "normal"},
            "modebar": {"remove": ["lasso2d", "select2d"], "bgcolor": "rgba(0, 0, 0, 0)", "color": BOUND},
        }
    )


def curves(
    x: Sequence[float],
    lines: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str = "spectral efficiency (bit/s/Hz)",
    log_x: bool = False,
    log_y: bool = False,
    at: float | None = None,
) -> go.Figure:
    """Curves over a common axis, and a vertical mark at the value `at` that is set now."""
    chart = figure(title, x_label, y_label, 460)
    finite = [v for line in lines for v in line.values if math.isfinite(v) and (v > 0 or not log_y)] or [1.0]
    low, high = _decades(finite) if log_y else (min(0.0, *finite), max(*finite, 0.0) * 1.16 or 1.0)
    chart.update_xaxes(type="log" if log_x else "linear")
    chart.update_yaxes(type="log" if log_y else "linear", range=[low, high], exponentformat="power")
    if log_y:
        low, high = 10.0**low, 10.0**high
    schemes = 0
    for line in lines:
        values = shown([v if v > 0 or not log_y else math.nan for v in line.values])
        look: dict[str, Any] = {"line": {"color": BOUND, "width": 4}, "mode": "lines"}
        if not line.bound:
            i, schemes = schemes % len(COLORS), schemes + 1
            stroke = {"color": COLORS[i], "dash": DASHES[i], "width": 2}
            look = {"line": stroke, "marker": {"symbol": MARKERS[i], "size": 8, "maxdisplayed": MOST_MARKS}}
            look["mode"] = "lines+markers"
        chart.add_scatter(x=shown(x), y=values, name=escape(line.name), **look)
        if line.bound:
            beyond = {
                "mode": "lines",
                "line": {"width": 0},
                "fill": "tonexty",
                "fillcolor": FAINT,
                "hoverinfo": "skip",
            }
            chart.add_scatter(x=shown(x), y=[high] * len(x), name="beyond the capacity", **beyond)
    if at is not None and min(x) <= at <= max(x):
        mark = {"mode": "lines", "line": {"color": BOUND, "dash": "dot", "width": 1.5}, "hoverinfo": "skip"}
        chart.add_scatter(x=[at, at], y=[low, high], name=f"now: {at:g}", **mark)
    return chart.update_layout(hovermode="x unified")


def _decades(values: Sequence[float]) -> tuple[int, int]:
    high = math.ceil(math.log10(max(values)))
    return max(-7, min(math.floor(math.log10(min(values))), high - 1)), max(high, -6)


def bars(entries: Sequence[tuple[str, float, str]], *, title: str, unit: str, limit: float) -> go.Figure:
    """Horizontal bars (name, value, kind); kinds are told by colour and hatching, and a line is the capacity."""
    names = [escape(name) for name, _, _ in entries]
    chart = figure(title, f"spectral efficiency ({unit})", height=170 + 34 * len(entries))
    for i, kind in enumerate(dict.fromkeys(kind for _, _, kind in entries)):
        own = [(name, value) for name, value, of in entries if of == kind]
        chart.add_bar(
            y=[escape(name) for name, _ in own],
            x=shown([max(0.0, value) for _, value in own]),
            text=[BESIDE + (f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}") for _, value in own],
            textposition="outside",
            cliponaxis=False,
            orientation="h",
            name=escape(kind),
            marker=_hatched(i),
        )
    ends = {"y": [names[0], names[-1]], "x": [limit, limit], "name": f"capacity {limit:.1f} {unit}"}
    chart.add_scatter(**ends, mode="lines+markers", line={"color": BOUND, "dash": "dash", "width": 3})
    largest = max(limit, *(value for _, value, _ in entries))
    chart.update_xaxes(range=[0, 1.12 * largest or 1.0])
    order = list(dict.fromkeys(names))
    return chart.update_yaxes(categoryorder="array", categoryarray=order[::-1]).update_layout(barmode="group")


def _hatched(i: int) -> dict[str, Any]:
    pattern = {"shape": HATCHES[i], "bgcolor": COLORS[i], "fgcolor": "#ffffff", "solidity": 0.15}
    return {"color": COLORS[i], "pattern": pattern}


def columns(
    groups: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], *, title: str, x_label: str, y_label: str
) -> go.Figure:
    """Bars over named positions, one series beside the other: gains of modes, powers of modes."""
    chart = figure(title, x_label, y_label, 360)
    for i, (name, values) in enumerate(series):
        chart.add_bar(x=list(groups), y=shown(values), name=escape(name), marker=_hatched(i))
    return chart.update_xaxes(type="category")


def heat_map(
    levels: Sequence[Sequence[float]],
    row_names: Sequence[object],
    column_names: Sequence[object],
    *,
    title: str,
    low: float,
    high: float,
) -> go.Figure:
    """Power from each mode to each other one, with numbers where there are few enough to be read."""
    chart = figure(title, "sent mode", "received mode", 430)
    few = max(len(row_names), len(column_names)) <= MOST_NUMBERS
    chart.add_heatmap(
        z=[shown(row, 4) for row in levels],
        x=[str(name) for name in column_names],
        y=[str(name) for name in row_names],
        text=[[f"{level:.0f}" if level > -100 else "·" for level in row] for row in levels] if few else None,
        texttemplate="%{text}" if few else None,
        zmin=low,
        zmax=high,
        colorscale=LEVELS,
        colorbar={"title": {"text": "dB"}, "thickness": 14},
        hovertemplate="mode %{x} to %{y}: %{z:.1f} dB<extra></extra>",
    )
    chart.update_xaxes(type="category", constrain="domain")
    return chart.update_yaxes(type="category", autorange="reversed", scaleanchor="x", constrain="domain")


def plane(
    values: Sequence[Sequence[float]], extent_m: float, *, title: str, phase: bool, ring_m: float | None = None
) -> go.Figure:
    """Phases, or levels in dB below the peak, on a plane across the axis; dashed: a ring."""
    chart = figure(title, "x (m)", "y (m)", 430)
    chart.add_trace(_map(values, extent_m, phase))
    chart.update_xaxes(constrain="domain", showgrid=False).update_yaxes(
        scaleanchor="x", constrain="domain", showgrid=False
    )
    if ring_m is not None and ring_m < extent_m / 2:
        ends = {"x0": -ring_m, "x1": ring_m, "y0": -ring_m, "y1": ring_m}
        chart.add_shape(type="circle", **ends, line={"color": "#ffffff", "dash": "dash", "width": 2})
    return chart


def _map(values: Sequence[Sequence[float]], extent_m: float, phase: bool, scale: bool = True) -> go.Heatmap:
    places = shown([extent_m * (i / (len(values) - 1) - 0.5) for i in range(len(values))], 4)
    ends, colors, unit = ((-math.pi, math.pi), PHASES, "rad") if phase else ((-40, 0), LEVELS, "dB")
    ticks = {
        "tickvals": [-math.pi, -math.pi / 2, 0, math.pi / 2, math.pi],
        "ticktext": ["−π", "−π/2", "0", "π/2", "π"],
    }
    return go.Heatmap(
        z=[shown(row, 3) for row in values],
        x=places,
        y=places,
        zmin=ends[0],
        zmax=ends[1],
        colorscale=colors,
        showscale=scale,
        colorbar={"title": {"text": unit}, "thickness": 14, **(ticks if phase else {})},
        hovertemplate="x %{x} m, y %{y} m: %{z} " + unit + "<extra></extra>",
    )


def small_maps(phases: Sequence[Any], names: Sequence[str], extent_m: float, *, title: str) -> go.Figure:
    """Phases of many modes in small."""
    chart = grid(names, 8, title=title, cell_px=120, spacing=0.012)
    for i, values in enumerate(phases):
        chart.add_trace(_map(values, extent_m, True, scale=False), row=i // 8 + 1, col=i % 8 + 1)
    return chart.update_xaxes(visible=False).update_yaxes(visible=False)


def clouds(
    points: Sequence[Sequence[complex]], ideal: Sequence[complex], names: Sequence[str], *, title: str
) -> go.Figure:
    """Received points of every mode around those sent."""
    chart = grid(names, 4, title=title, cell_px=220, spacing=0.06)
    for i, own in enumerate(points):
        for values, name, look in (
            (own, "received", {"color": COLORS[0], "size": 3, "opacity": 0.55}),
            (ideal, "sent", {"color": COLORS[1], "size": 9, "symbol": "cross-thin-open", "line": {"width": 2}}),
        ):
            at = {"x": shown([p.real for p in values], 4), "y": shown([p.imag for p in values], 4)}
            once = {"name": name, "legendgroup": name, "showlegend": i == 0}
            chart.add_scatter(**at, **once, mode="markers", marker=look, row=i // 4 + 1, col=i % 4 + 1)
    chart.update_xaxes(range=[-2, 2], title_text="in phase", title_standoff=2)
    return chart.update_yaxes(range=[-2, 2], title_text="quadrature", title_standoff=2)


def grid(names: Sequence[str], per_row: int, *, title: str, cell_px: int, spacing: float) -> go.Figure:
    """Empty square plots, so many a row."""
    rows = math.ceil(len(names) / per_row)
    chart = make_subplots(rows, per_row, subplot_titles=list(names), horizontal_spacing=spacing)
    chart.update_layout(figure(title).layout, height=cell_px * rows + 140, margin_t=92)
    chart.update_annotations(font_size=12)
    look = {"gridcolor": FAINT, "zerolinecolor": FAINT, "constrain": "domain"}
    chart.update_xaxes(**look, title_text="")
    chart.update_yaxes(**look, title_text="", scaleratio=1)
    for number in range(1, len(names) + 1):
        tail = "" if number == 1 else str(number)
        chart.layout[f"yaxis{tail}"].scaleanchor = f"x{tail}"
    return chart


def outline(chart: go.Figure, points: Sequence[Sequence[float]], name: str, color: str, size: int = 9) -> None:
    """A closed ring of numbered elements; the first is larger."""
    x, y = zip(*[*points, points[0]], strict=True)
    number = [f"element {n}" for n in range(len(points))] + ["element 0"]
    sizes = [size + 5, *[size] * (len(points) - 1), size + 5]
    marks = {"color": color, "size": sizes}
    chart.add_scatter(
        x=shown(x), y=shown(y), name=escape(name), mode="lines+markers", line={"color": color, "width": 1},
        marker=marks, text=number, hovertemplate="%{text}<extra>" + escape(name) + "</extra>",
    )  # fmt: skip
