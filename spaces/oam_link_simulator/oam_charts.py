"""Charts as SVG text: curves, bars, heat maps, scatter plots, maps. Each carries a table and a CSV file to download."""

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from oam_colors import ticks

BACKGROUND, TEXT, MUTED, GRID, SHADE = "#ffffff", "#1a1a1a", "#4a4a4a", "#e2e2e2", "#ececec"
# At least 3:1 on white. A marker and a dash stand for each colour as well.
COLORS = ("#0072b2", "#c2410c", "#007a5a", "#9d3c85", "#7a5c00", "#1f78a8", "#5b5b5b")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 4", "1 2")
MARKERS = ("circle", "square", "triangle", "diamond", "cross", "plus", "circle")
HALO = "stroke='#ffffff' stroke-width='5' paint-order='stroke'"  # keeps a number readable on a line
FONT = "font-family='system-ui, sans-serif'"


@dataclass(frozen=True)
class Curve:
    """One curve; `bound` draws it thick and black, and shades what lies above it."""

    name: str
    values: Sequence[float]
    bound: bool = False


def text(
    x: float, y: float, content: object, anchor: str = "start", size: int = 13, color: str = TEXT, more: str = ""
):
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-size='{size}' fill='{color}' {FONT} {more}>"
        f"{escape(str(content))}</text>"
    )


def svg(width: int, height: int, body: str, label: str) -> str:
    name = escape(label, quote=True)
    return (
        f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{name}' style='width:100%;max-width:{width}px;"
        f"height:auto;background:{BACKGROUND};border-radius:6px;display:block'>{body}</svg>"
    )


def figure(picture: str, caption: str, rows: Sequence[dict] = (), csv: str | None = None, name: str = "data") -> str:
    """A picture with its caption, the download of its numbers, and the same numbers as a table."""
    extras = ""
    if csv is not None:
        data = base64.b64encode(csv.encode()).decode()
        extras += f"<a class='oam-csv' download='{name}.csv' href='data:text/csv;base64,{data}'>Download CSV</a>"
    if rows:
        extras += f"<details><summary>Show as table</summary>{table(rows)}</details>"
    return (
        f"<figure class='oam-figure' data-testid='{name}'>{picture}<figcaption>{escape(caption)}</figcaption>"
        f"<div class='oam-extras'>{extras}</div></figure>"
    )


def table(rows: Sequence[dict], limit: int = 100) -> str:
    head = "".join(f"<th scope='col'>{escape(str(name))}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell(value))}</td>" for value in row.values()) + "</tr>" for row in rows[:limit]
    )
    more = f"<p>{len(rows) - limit} more rows in the CSV file.</p>" if len(rows) > limit else ""
    return f"<div class='oam-table' tabindex='0'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}"


def cell(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def marker(kind: str, x: float, y: float, color: str, size: float = 4.0, title: str = "") -> str:
    if kind == "circle":
        shape = f"<circle cx='{x:.1f}' cy='{y:.1f}' r='{size}' fill='{color}'"
    elif kind == "square":
        shape = f"<rect x='{x - size:.1f}' y='{y - size:.1f}' width='{2 * size}' height='{2 * size}' fill='{color}'"
    else:
        paths = {
            "triangle": f"M{x:.1f} {y - size - 1:.1f} l{size + 1} {2 * size} h-{2 * size + 2} z",
            "diamond": f"M{x:.1f} {y - size - 1:.1f} l{size + 1} {size + 1} l-{size + 1} {size + 1} l-{size + 1} -{size + 1} z",
            "cross": f"M{x - size:.1f} {y - size:.1f} l{2 * size} {2 * size} m0 -{2 * size} l-{2 * size} {2 * size}",
            "plus": f"M{x - size:.1f} {y:.1f} h{2 * size} m-{size} -{size} v{2 * size}",
        }
        ink = f"stroke='{color}' stroke-width='2' fill='{color if kind in ('triangle', 'diamond') else 'none'}'"
        shape = f"<path d='{paths[kind]}' {ink}"
    return f"{shape}><title>{escape(title)}</title></path>".replace(
        "</path>", "</circle>" if kind == "circle" else "</rect>" if kind == "square" else "</path>"
    )


def span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low - 0.5, high + 0.5) if high - low < 1e-9 * max(1.0, abs(high)) else (low, high)


class Axes:
    """Axes from data to pixels, with grid, ticks and labels. With `log_y`, y is a decimal logarithm already."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        box: tuple[float, float, float, float],
        log_x: bool = False,
        log_y: bool = False,
    ):
        self.x, self.y, self.box, self.log_x, self.log_y = x, y, box, log_x, log_y

    def at(self, x: float, y: float) -> tuple[float, float]:
        left, top, right, bottom = self.box
        low, high, x = (math.log10(v) for v in (*self.x, x)) if self.log_x else (*self.x, x)
        return (
            left + (x - low) / (high - low) * (right - left),
            bottom - (y - self.y[0]) / (self.y[1] - self.y[0]) * (bottom - top),
        )

    def _x_ticks(self) -> list[float]:
        if not self.log_x:
            return ticks(*self.x)
        powers = range(math.floor(math.log10(self.x[0])), math.ceil(math.log10(self.x[1])) + 1)
        found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        return [value for value in found if self.x[0] * 0.999 <= value <= self.x[1] * 1.001]

    def draw(self, x_label: str, y_label: str) -> str:
        left, top, right, bottom = self.box
        parts = []
        for value in self._x_ticks():
            column, _ = self.at(value, self.y[0])
            parts.append(f"<line x1='{column:.1f}' y1='{top}' x2='{column:.1f}' y2='{bottom}' stroke='{GRID}'/>")
            parts.append(text(column, bottom + 18, f"{value:g}", "middle", 12, MUTED))
        marks = range(math.ceil(self.y[0]), math.floor(self.y[1]) + 1) if self.log_y else ticks(*self.y)
        for value in marks:
            _, row = self.at(self.x[0], value)
            parts.append(f"<line x1='{left}' y1='{row:.1f}' x2='{right}' y2='{row:.1f}' stroke='{GRID}'/>")
            label = f"1e{value}" if self.log_y else f"{value:g}"
            parts.append(text(left - 8, row + 4, label, "end", 12, MUTED))
        parts.append(f"<path d='M{left} {top} V{bottom} H{right}' fill='none' stroke='{MUTED}'/>")
        parts.append(text((left + right) / 2, bottom + 40, x_label, "middle"))
        turn = f"transform='rotate(-90 18 {(top + bottom) / 2})'"
        parts.append(text(18, (top + bottom) / 2, y_label, "middle", more=turn))
        return "".join(parts)


def curves(
    x: Sequence[float],
    lines: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    y_label: str = "Spectral efficiency (bit/s/Hz)",
    log_x: bool = False,
    log_y: bool = False,
    at: float | None = None,
    height: int = 400,
) -> str:
    """Curves over a common axis, legend at the right, a vertical mark at the value `at` that is set now."""
    width = 860
    shown = [c.values for c in lines]
    if log_y:
        shown = [[math.log10(v) if v > 0 else math.nan for v in values] for values in shown]
    finite = [v for values in shown for v in values if math.isfinite(v)] or [-1.0 if log_y else 0.0]
    legend = 60 + 7.2 * max(len(c.name) for c in lines)
    box = (66.0, 44.0, width - legend - 12, height - 56.0)
    axes = Axes(span(x), _decades(finite) if log_y else _from_zero(finite), box, log_x, log_y)
    left, top, right, bottom = axes.box
    body = text(left, 22, title, size=15, more="font-weight='600'") + axes.draw(x_label, y_label)
    for curve, values in zip(lines, shown, strict=True):
        if curve.bound:
            body += _beyond(axes, x, values)
    if at is not None and axes.x[0] <= at <= axes.x[1]:
        column, _ = axes.at(at, axes.y[0])
        ends = f"x1='{column:.1f}' y1='{top}' x2='{column:.1f}' y2='{bottom}'"
        body += f"<line {ends} stroke='{MUTED}' stroke-dasharray='3 3'/>"
        body += text(column, top - 5, "now", "middle", 12, MUTED)
    schemes = [curve for curve in lines if not curve.bound]
    for i, (curve, values) in enumerate(zip(lines, shown, strict=True)):
        style = -1 if curve.bound else schemes.index(curve)
        body += _line(axes, curve, list(zip(x, values, strict=True)), style, x_label)
        body += _legend_entry(curve, style, right, top + 12 + 24 * i)
    return svg(width, height, body, f"{title}. {x_label} against {y_label}.")


def _decades(values: Sequence[float]) -> tuple[float, float]:
    high = math.ceil(max(values))
    return max(-7, min(math.floor(min(values)), high - 1)), high


def _from_zero(values: Sequence[float]) -> tuple[float, float]:
    low, high = span([min(0.0, *values), max(values)])
    return low, high + 0.16 * (high - low)


def _beyond(axes: Axes, x: Sequence[float], bound: Sequence[float]) -> str:
    """The shade above the capacity, named where the capacity leaves more room."""
    left, top, right, _ = axes.box
    edge = " ".join(f"{a:.1f},{b:.1f}" for a, b in (axes.at(*point) for point in zip(x, bound, strict=True)))
    third = max(1, len(bound) // 3)
    place, anchor = (left + 8, "start") if max(bound[:third]) <= max(bound[-third:]) else (right - 8, "end")
    name = text(place, top + 16, "beyond the capacity", anchor, 12, MUTED)
    return f"<polygon points='{left},{top} {edge} {right},{top}' fill='{SHADE}'/>{name}"


def _look(style: int) -> tuple[str, str, str, float]:
    """Colour, dash, marker and width of a scheme's curve; -1 is the bound."""
    if style < 0:
        return "#000000", "", "", 3.0
    return COLORS[style % len(COLORS)], DASHES[style % len(DASHES)], MARKERS[style % len(MARKERS)], 2.0


def _line(axes: Axes, curve: Curve, points: Sequence[tuple[float, float]], style: int, x_label: str) -> str:
    color, dash, kind, width = _look(style)
    body = _polyline(axes, points, color, dash, width)
    step = max(1, len(points) // 10)
    for k, (a, b) in enumerate(points):
        if kind and math.isfinite(b) and b >= axes.y[0] and (k + style * step // 4) % step == 0:
            value = 10**b if axes.log_y else b
            body += marker(kind, *axes.at(a, b), color, title=f"{curve.name}: {x_label} {a:.4g}, {value:.4g}")
    return body


def _legend_entry(curve: Curve, style: int, x: float, y: float) -> str:
    color, dash, kind, width = _look(style)
    ink = f"stroke='{color}' stroke-width='{width}' stroke-dasharray='{dash}'"
    line = f"<line x1='{x + 14}' y1='{y}' x2='{x + 46}' y2='{y}' {ink}/>"
    return line + (marker(kind, x + 30, y, color, title=curve.name) if kind else "") + text(x + 52, y + 4, curve.name)


def _polyline(axes: Axes, points: Sequence[tuple[float, float]], color: str, dash: str, width: float) -> str:
    path, pen = "", "M"
    for a, b in points:
        if not math.isfinite(b) or b < axes.y[0] - 1e-9:
            pen = "M"
            continue
        column, row = axes.at(a, b)
        path += f"{pen}{column:.1f} {row:.1f} "
        pen = "L"
    return f"<path d='{path}' fill='none' stroke='{color}' stroke-width='{width}' stroke-dasharray='{dash}'/>"


def bars(entries: Sequence[tuple[str, float, str]], *, title: str, unit: str, limit: float | None = None) -> str:
    """Horizontal bars (name, value, kind); kinds are told by colour and hatching. `limit` draws the capacity."""
    kinds = list(dict.fromkeys(kind for _, _, kind in entries))
    left = 30 + 7.0 * max(len(name) for name, _, _ in entries)
    width, top = 860, 76
    height = top + 32 * len(entries) + 30
    largest = max([value for _, value, _ in entries] + [limit or 0.0, 1e-12]) * 1.02
    room = width - left - 110
    edge = None if limit is None else limit / largest * room
    body = text(20, 26, title, size=15, more="font-weight='600'")
    # Unlike any other picture's on the page: the first of a name counts, and it may be hidden in another tab.
    own = f"bars-{zlib.crc32(repr((title, entries, limit)).encode()):x}"
    hatch = "".join(
        f"<pattern id='{own}-{i}' width='8' height='8' patternUnits='userSpaceOnUse' patternTransform='rotate({45 * i})'>"
        f"<rect width='8' height='8' fill='{COLORS[i]}'/><line y2='8' stroke='#fff' stroke-width='{1.6 if i else 0}'/></pattern>"
        for i in range(len(kinds))
    )
    body += f"<defs>{hatch}</defs>"
    column = 20.0
    for i, kind in enumerate(kinds):
        body += f"<rect x='{column}' y='42' width='16' height='14' fill='url(#{own}-{i})'/>" + text(
            column + 22, 54, kind
        )
        column += 48 + 7.4 * len(kind)
    numbers = ""
    for i, (name, value, kind) in enumerate(entries):
        row, size = top + 32 * i, max(0.0, value) / largest * room
        fill = f"fill='url(#{own}-{kinds.index(kind)})'"
        body += text(left - 10, row + 16, name, "end")
        body += f"<rect x='{left}' y='{row}' width='{size:.1f}' height='22' {fill}/>"
        shown = f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
        behind = edge if edge is not None and size < edge < size + 44 else size
        numbers += text(left + behind + 8, row + 16, shown, more=HALO)
    if edge is not None:
        column = left + edge
        ends = f"x1='{column:.1f}' y1='{top - 8}' x2='{column:.1f}' y2='{height - 26}'"
        body += f"<line {ends} stroke='#000000' stroke-width='2' stroke-dasharray='6 3'/>"
        anchor = "middle" if column < width - 110 else "end"
        body += text(column, height - 10, f"capacity {limit:.1f} {unit}", anchor)
    body += numbers
    return svg(width, height, body, f"{title}, in {unit}")


def columns(
    groups: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], *, title: str, x_label: str, y_label: str
) -> str:
    """Dots over named positions, one series beside the other: gains of modes, powers of modes."""
    width, height = 860, 330
    finite = [v for _, values in series for v in values if math.isfinite(v)] or [0.0]
    low, high = span([*finite, 0.0])
    pad = 0.08 * (high - low)
    legend = 60 + 7.2 * max(len(name) for name, _ in series)
    axes = Axes((0, len(groups)), (low - pad, high + pad), (66, 44, width - legend - 12, height - 56))
    left, top, right, bottom = axes.box
    body = text(left, 24, title, size=15, more="font-weight='600'")
    for value in ticks(*axes.y):
        _, row = axes.at(0, value)
        body += f"<line x1='{left}' y1='{row:.1f}' x2='{right}' y2='{row:.1f}' stroke='{GRID}'/>"
        body += text(left - 8, row + 4, f"{value:g}", "end", 12, MUTED)
    every = max(1, len(groups) // 24 + 1) if len(groups) > 24 else 1
    for i, group in enumerate(groups):
        column, _ = axes.at(i + 0.5, 0)
        if i % every == 0:
            body += text(column, bottom + 18, group, "middle", 12, MUTED)
    for k, (name, values) in enumerate(series):
        for i, value in enumerate(values):
            if math.isfinite(value):
                place = i + 0.5 + (k - (len(series) - 1) / 2) * 0.6 / len(series)
                column, row = axes.at(place, value)
                _, zero = axes.at(place, max(low - pad, min(high + pad, 0.0)))
                body += f"<line x1='{column:.1f}' y1='{zero:.1f}' x2='{column:.1f}' y2='{row:.1f}' stroke='{COLORS[k]}' stroke-width='2'/>"
                body += marker(MARKERS[k], column, row, COLORS[k], title=f"{name}, {groups[i]}: {value:.4g}")
        body += marker(MARKERS[k], right + 24, top + 8 + 24 * k, COLORS[k], title=name) + text(
            right + 38, top + 12 + 24 * k, name
        )
    body += f"<path d='M{left} {top} V{bottom} H{right}' fill='none' stroke='{MUTED}'/>"
    body += text((left + right) / 2, bottom + 40, x_label, "middle")
    body += text(18, (top + bottom) / 2, y_label, "middle", more=f"transform='rotate(-90 18 {(top + bottom) / 2})'")
    return svg(width, height, body, f"{title}. {y_label} for each {x_label}.")


def rgb(color: Sequence[int]) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in color)


def luminance(color: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def ink_on(color: str) -> str:
    return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, color))


def heat_map(
    levels: Sequence[Sequence[float]],
    colors: Sequence[Sequence[Sequence[int]]],
    row_names: Sequence[object],
    column_names: Sequence[object],
    *,
    title: str,
    x_label: str,
    y_label: str,
    left: int = 0,
) -> str:
    """A matrix of coloured cells, with numbers where there are at most 16 rows and columns. A group, 420 wide."""
    size = 340 / max(len(row_names), len(column_names))
    x0, y0 = left + 62, 52
    body = text(x0, 26, title, size=14, more="font-weight='600'")
    numbers = max(len(row_names), len(column_names)) <= 16
    for i, row in enumerate(levels):
        for k, level in enumerate(row):
            fill = rgb(colors[i][k])
            x, y = x0 + k * size, y0 + i * size
            note = f"mode {column_names[k]} to {row_names[i]}: {level:.1f} dB"
            body += f"<rect x='{x:.1f}' y='{y:.1f}' width='{size:.1f}' height='{size:.1f}' fill='{fill}'><title>{note}</title></rect>"
            if numbers:
                shown = str(round(level)) if level > -100 else "·"
                body += text(x + size / 2, y + size / 2 + 4, shown, "middle", 11 if size > 24 else 9, ink_on(fill))
    every = 1 if numbers else 4
    for k in range(0, len(column_names), every):
        body += text(x0 + (k + 0.5) * size, y0 + size * len(row_names) + 16, column_names[k], "middle", 11, MUTED)
    for i in range(0, len(row_names), every):
        body += text(x0 - 6, y0 + (i + 0.5) * size + 4, row_names[i], "end", 11, MUTED)
    body += text(x0 + size * len(column_names) / 2, y0 + size * len(row_names) + 38, x_label, "middle")
    middle = y0 + size * len(row_names) / 2
    return body + text(left + 18, middle, y_label, "middle", more=f"transform='rotate(-90 {left + 18} {middle})'")


def scatter(
    points: Sequence[tuple[float, float]], ideal: Sequence[tuple[float, float]], title: str, x0: float, y0: float
) -> str:
    """Received points around the ideal ones, -2..2, in a box of 190 pixels."""
    size, reach = 190, 2.0

    def place(a: float, b: float) -> tuple[float, float]:
        return x0 + (a / reach + 1) * size / 2, y0 + (1 - b / reach) * size / 2

    body = text(x0 + size / 2, y0 - 8, title, "middle", 12)
    body += f"<rect x='{x0}' y='{y0}' width='{size}' height='{size}' fill='none' stroke='{GRID}'/>"
    body += f"<path d='M{x0} {y0 + size / 2} h{size} M{x0 + size / 2} {y0} v{size}' stroke='{GRID}'/>"
    for a, b in points:
        if abs(a) <= reach and abs(b) <= reach:
            column, row = place(a, b)
            body += f"<circle cx='{column:.1f}' cy='{row:.1f}' r='1.6' fill='{COLORS[0]}' fill-opacity='.55'/>"
    return body + "".join(marker("plus", *place(a, b), "#c2410c", 5, "sent") for a, b in ideal)
