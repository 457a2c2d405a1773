"""Traces for other eyes: Chrome's trace format (Perfetto), and a page with a Gantt chart."""

import heapq
import html
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..core.numbers import MOST_UNITS
from ..core.types import ElasticRange
from .trace import Record, Trace

if TYPE_CHECKING:
    from ...drawing import Picture

MAX_LANES = 64
MOST_DRAWN = 10**7  # units of all actions


def _ran(trace: Trace) -> list[Record]:
    ran = [record for record in trace.records if record.start_s is not None and record.end_s is not None]
    if not ran:
        raise ValueError(
            "`trace` must be of a run; got one with no start_s and end_s. Run it first, with `mimo-hf schedule "
            "simulate TRACE --out RUN`."
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
            f"{where}the units of all actions must be {MOST_DRAWN} at most to be drawn; got {total}, "
            f"{width(widest)} of them this one's."
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


def gantt(trace: Trace) -> "Picture":
    """Units in use and waiting actions over time, and below them each unit's actions (the first 64 units)."""
    from ... import drawing

    ran = _ran(trace)
    placed = lanes(ran, trace.place)
    rows = sorted({(record.node or "local", lane) for record in ran for lane in placed[record.id]})
    shown = {row: index for index, row in enumerate(rows[:MAX_LANES])}
    in_use = _steps([(r.start_s or 0.0, width(r)) for r in ran] + [(r.end_s or 0.0, -width(r)) for r in ran])
    queued = [r for r in ran if r.submit_s is not None]
    waiting = _steps([(r.submit_s or 0.0, 1) for r in queued] + [(r.start_s or 0.0, -1) for r in queued])
    bars = [
        drawing.Bar(shown[row], record.start_s or 0.0, record.end_s or 0.0, record.kind, _note(record))
        for record in ran
        for lane in placed[record.id]
        if (row := (record.node or "local", lane)) in shown
    ]
    return drawing.timeline(
        [f"{node} {lane}" for node, lane in shown],
        bars,
        {
            f"{name} (at most {max((level for _, level in points), default=0):g})": points
            for name, points in (("units in use", in_use), ("waiting actions", waiting))
        },
        title=f"{len(ran)} actions"
        + (f", the first {MAX_LANES} of {len(rows)} units" if len(rows) > MAX_LANES else ""),
    )


def _note(record: Record) -> str:
    when = f"{record.start_s or 0.0:.3f} to {record.end_s:.3f} s"
    return f"{record.kind} {record.id}, {record.trajectory or 'alone'}: {when}, {width(record)} units"


def gantt_svg(trace: Trace) -> str:
    """The chart as an element of a page."""
    from ...drawing import svg_text

    return svg_text(gantt(trace))


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
