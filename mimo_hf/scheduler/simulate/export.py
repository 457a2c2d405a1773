"""Traces for other eyes: Chrome's trace format (Perfetto), and a page with a Gantt chart."""

import heapq
import html
import math
from collections.abc import Callable, Sequence
from typing import Any

from ..core.numbers import MOST_UNITS
from ..core.types import ElasticRange
from .trace import Record, Trace

COLOURS = ("#4878a8", "#e08214", "#5aae61", "#b2568f", "#8c6bb1", "#d1495b", "#3d8b8b", "#8d7b4b")
MAX_LANES = 64
MOST_DRAWN = 10**7  # units of all actions


def _ran(trace: Trace) -> list[Record]:
    ran = [record for record in trace.records if record.start_s is not None and record.end_s is not None]
    if not ran:
        raise ValueError(
            "the trace has no start_s and end_s: run it first, with `mimo-hf schedule simulate TRACE --out RUN`."
        )
    return ran


def width(record: Record) -> int:
    """Lanes an action fills: its cores, else the units of its first resource, at least one; bytes are no units."""
    if record.cores:
        return len(record.cores)
    if record.units:
        return record.units
    amount = record.cost.get("cpu", next(iter(record.cost.values()), 1))
    return 1 if isinstance(amount, ElasticRange) or amount > MOST_UNITS else max(1, math.ceil(amount))


def lanes(records: list[Record], place: Callable[[Record], str] | None = None) -> dict[int, tuple[int, ...]]:
    """
    Lanes of each record (by id): its cores where recorded, else the lowest that are free from its start to its end.

    Raises:
        ValueError: they are more than a picture can show.
    """
    total = sum(map(width, records))
    if total > MOST_DRAWN:
        widest = max(records, key=width)
        where = "" if place is None else f"{place(widest)}: "
        raise ValueError(
            f"{where}the actions run on {total} units, this one on {width(widest)} units; at most {MOST_DRAWN} in all can be drawn."
        )
    placed: dict[int, tuple[int, ...]] = {}
    for node in {record.node for record in records}:
        free: list[int] = []
        busy: list[tuple[float, tuple[int, ...]]] = []
        opened = 0
        for record in sorted((r for r in records if r.node == node), key=lambda r: (r.start_s, r.id)):
            if record.cores:
                placed[record.id] = record.cores
                continue
            while busy and busy[0][0] <= (record.start_s or 0.0):
                for lane in heapq.heappop(busy)[1]:
                    heapq.heappush(free, lane)
            while len(free) < width(record):
                heapq.heappush(free, opened)
                opened += 1
            taken = tuple(heapq.heappop(free) for _ in range(width(record)))
            heapq.heappush(busy, (record.end_s or 0.0, taken))
            placed[record.id] = taken
    return placed


def chrome_trace(trace: Trace) -> dict[str, Any]:
    """Complete events (`ph: "X"`, microseconds; pid = node, tid = core), with a flow along each trajectory."""
    ran = _ran(trace)
    placed = lanes(ran, trace.place)
    pids = {node: pid for pid, node in enumerate(sorted({record.node or "local" for record in ran}), 1)}
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": node}} for node, pid in pids.items()
    ]
    names = {(pids[record.node or "local"], lane) for record in ran for lane in placed[record.id]}
    events += [
        {"ph": "M", "name": "thread_name", "pid": pid, "tid": lane, "args": {"name": f"core {lane}"}}
        for pid, lane in sorted(names)
    ]
    before: dict[str, Record] = {}
    flow = 0
    for record in sorted(ran, key=lambda r: (r.start_s, r.id)):
        pid, start, end = pids[record.node or "local"], record.start_s or 0.0, record.end_s or 0.0
        args = {
            "id": record.id,
            "trajectory": record.trajectory,
            "units": record.units or width(record),
            "wait_s": None if record.submit_s is None else start - record.submit_s,
            "attempt": record.attempt,
            "outcome": record.outcome,
        }
        for lane in placed[record.id]:
            shape = {"ph": "X", "name": record.kind, "cat": record.kind, "pid": pid, "tid": lane, "args": args}
            events.append({**shape, "ts": start * 1e6, "dur": (end - start) * 1e6})
        if record.trajectory is None:
            continue
        last = before.get(record.trajectory)
        if last is not None:
            flow += 1
            link = {"name": "trajectory", "cat": "trajectory", "id": flow}
            where = {"pid": pids[last.node or "local"], "tid": placed[last.id][0]}
            events.append({**link, **where, "ph": "s", "ts": (last.end_s or 0.0) * 1e6})
            events.append({**link, "pid": pid, "tid": placed[record.id][0], "ph": "f", "bp": "e", "ts": start * 1e6})
        before[record.trajectory] = record
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def run_summary(trace: Trace) -> dict[str, dict[str, float]]:
    """By kind: actions, their mean, median and 99th percentile ACT, mean wait and execution, in seconds."""
    ran = _ran(trace)
    found: dict[str, dict[str, float]] = {}
    for kind in ["all", *sorted({record.kind for record in ran})]:
        mine = [record for record in ran if kind in ("all", record.kind)]
        waits = [(r.start_s or 0.0) - (r.start_s if r.submit_s is None else r.submit_s) for r in mine]  # type: ignore[operator]
        runs = [(r.end_s or 0.0) - (r.start_s or 0.0) for r in mine]
        acts = sorted(wait + run for wait, run in zip(waits, runs, strict=True))
        found[kind] = {
            "actions": len(mine),
            "act_mean_s": math.fsum(acts) / len(acts),
            "act_p50_s": acts[(len(acts) - 1) // 2],
            "act_p99_s": acts[math.ceil(0.99 * len(acts)) - 1],
            "queue_s": math.fsum(waits) / len(waits),
            "exec_s": math.fsum(runs) / len(runs),
        }
    return found


def gantt_svg(trace: Trace, width_px: int = 1100) -> str:
    """Cores in use and waiting actions over time, and below them each core's actions (the first 64 cores)."""
    ran = _ran(trace)
    placed = lanes(ran, trace.place)
    kinds = sorted({record.kind for record in ran})
    colour = {kind: COLOURS[index % len(COLOURS)] for index, kind in enumerate(kinds)}
    rows = sorted({(record.node or "local", lane) for record in ran for lane in placed[record.id]})
    shown = {row: index for index, row in enumerate(rows[:MAX_LANES])}
    left, top, curve, row_px = 90, 34, 110, 11
    end = max(record.end_s or 0.0 for record in ran)
    end = end if end > 1e-9 else 1.0
    scale = (width_px - left - 20) / end
    chart_top = top + curve + 40
    height = chart_top + row_px * len(shown) + 30
    size = f'width="{width_px}" height="{height}"'
    about = f'font-family="sans-serif" font-size="11" role="img" aria-label="Gantt chart of {len(ran)} actions"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {width_px} {height}" {about}>',
        f'<rect {size} fill="white"/>',
    ]
    for index, kind in enumerate(kinds):
        x = left + 130 * index
        out.append(f'<rect x="{x}" y="8" width="12" height="12" fill="{colour[kind]}"/>')
        out.append(f'<text x="{x + 17}" y="18">{html.escape(kind)}</text>')

    in_use = _steps([(r.start_s or 0.0, width(r)) for r in ran] + [(r.end_s or 0.0, -width(r)) for r in ran])
    queued = [r for r in ran if r.submit_s is not None]
    waiting = _steps([(r.submit_s or 0.0, 1) for r in queued] + [(r.start_s or 0.0, -1) for r in queued])
    most = max((value for _, value in in_use), default=1) or 1
    deepest = max((value for _, value in waiting), default=0)
    peak = max(most, deepest)
    for points, stroke, label, y in (
        (in_use, "#4878a8", f"units in use (at most {most:g})", 12),
        (waiting, "#d1495b", f"waiting (at most {deepest:g})", 26),
    ):
        path = _path(points, left, top + curve, scale, (curve - 10) / peak)
        out.append(f'<path d="{path}" fill="none" stroke="{stroke}" stroke-width="1.2"/>')
        out.append(f'<text x="{width_px - 20}" y="{top + y}" text-anchor="end" fill="{stroke}">{label}</text>')
    for tick in _ticks(end):
        at = left + tick * scale
        out.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{height - 24}" stroke="#ddd" stroke-width="0.6"/>'
        )
        out.append(f'<text x="{at:.1f}" y="{height - 8}" text-anchor="middle" fill="#555">{tick:g} s</text>')

    for (node, lane), index in shown.items():
        y = chart_top + row_px * index + row_px - 2
        out.append(f'<text x="{left - 6}" y="{y}" text-anchor="end" fill="#555">{html.escape(node)} {lane}</text>')
    for record in ran:
        start, length = record.start_s or 0.0, max((record.end_s or 0.0) - (record.start_s or 0.0), 0.4 / scale)
        tip = f"{record.kind} {record.id}, {record.trajectory or 'alone'}: {start:.3f} to {record.end_s:.3f} s, {width(record)} units"
        for lane in placed[record.id]:
            index = shown.get((record.node or "local", lane), -1)
            if index >= 0:
                y = chart_top + row_px * index
                out.append(
                    f'<rect x="{left + start * scale:.2f}" y="{y}" width="{length * scale:.2f}" height="{row_px - 2}" '
                    f'fill="{colour[record.kind]}"><title>{html.escape(tip)}</title></rect>'
                )
    if len(rows) > MAX_LANES:
        out.append(
            f'<text x="{left}" y="{chart_top - 8}" fill="#555">the first {MAX_LANES} of {len(rows)} units</text>'
        )
    return "\n".join([*out, "</svg>"])


def report_html(trace: Trace, title: str) -> str:
    """A page of its own: the table by kind and the chart."""
    summary = run_summary(trace)
    columns = list(summary["all"])
    head = "".join(f"<th>{html.escape(column.replace('_', ' '))}</th>" for column in ["kind", *columns])
    body = "".join(
        f"<tr><td>{html.escape(kind)}</td>" + "".join(f"<td>{row[c]:.4g}</td>" for c in columns) + "</tr>"
        for kind, row in summary.items()
    )
    style = (
        "body{font-family:sans-serif;margin:2em auto;max-width:1140px;color:#222}table{border-collapse:collapse}"
        "td,th{padding:4px 12px;text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{style}</style>'
        f"<h1>{html.escape(title)}</h1><table><tr>{head}</tr>{body}</table>\n{gantt_svg(trace)}</html>\n"
    )


def _steps(changes: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    points: list[tuple[float, float]] = []
    level = 0.0
    for at, change in sorted(changes):
        level += change
        if points and points[-1][0] == at:
            points[-1] = (at, level)
        else:
            points.append((at, level))
    return points


def _path(points, x0, y0, x_scale, y_scale) -> str:
    """A step curve; of the points that fall on one pixel, the highest."""
    best: dict[int, float] = {}
    for at, level in points:
        x = round(x0 + at * x_scale)
        best[x] = max(best.get(x, 0.0), level)
    path, y = [f"M{x0},{y0}"], float(y0)
    for x, level in best.items():
        path.append(f"L{x},{y:.1f}")
        y = y0 - level * y_scale
        path.append(f"L{x},{y:.1f}")
    return " ".join(path)


def _ticks(end: float) -> list[float]:
    step = 10 ** math.floor(math.log10(end / 4))
    step *= next((factor for factor in (1, 2, 5) if end / (step * factor) <= 8), 10)
    return [step * index for index in range(int(end / step) + 1)]
