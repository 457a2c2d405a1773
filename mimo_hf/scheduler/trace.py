"""
Traces: one JSON object a line. What a run records is what the simulator reads.

The first line is the header, {"format": "mimo-trace", "version": 1, "nodes": {...}, ...}. Every other line is an action:

    id, kind, trajectory, task, cost   a number, or {"min", "max", "allowed", "curve"} with curve {"amdahl": s} and the like
    t1_s                    its duration on one unit; without it, (end_s - start_s) T(1)/T(units)
    gap_s                   its wait, in generation, after the action before it in its trajectory; the first one's from time 0
    est_s                   the caller's estimate
    submit_s, start_s, end_s, release_s, units, node, cores, attempt, restore_s, outcome    as recorded
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .types import Amdahl, ElasticRange, PowerLaw, Shape, TableCurve

FORMAT = "mimo-trace"
TIMES = ("t1_s", "gap_s", "est_s", "submit_s", "start_s", "end_s", "release_s", "restore_s")


@dataclass(slots=True)
class Record:
    """An action of a trace; the simulator submits it as it is. Times in seconds since the trace began."""

    id: int
    kind: str
    cost: Mapping[str, int | float | ElasticRange]
    t1_s: float
    trajectory: str | None = None
    task: str | None = None
    gap_s: float = 0.0
    est_s: float | None = None
    priority: int = 0
    env: str | None = None
    submit_s: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    release_s: float | None = None
    units: int | None = None
    node: str | None = None
    cores: tuple[int, ...] = ()
    attempt: int = 1
    restore_s: float = 0.0
    outcome: str = "done"


@dataclass
class Trace:
    """
    Attributes:
        records: actions without a `trajectory` are released at `submit_s` (or `gap_s`); those of one trajectory one after
            another, in this order.
        nodes: capacity by node and resource, as recorded or generated; a run may use another.
    """

    records: list[Record]
    nodes: dict[str, dict[str, float]] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)

    def trajectories(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for record in self.records:
            if record.trajectory is not None:
                found.setdefault(record.trajectory, []).append(record)
        return found


def cost_as_json(cost: Mapping[str, int | float | ElasticRange]) -> dict[str, Any]:
    return {
        name: _range_as_json(amount) if isinstance(amount, ElasticRange) else amount for name, amount in cost.items()
    }


def _range_as_json(amount: ElasticRange) -> dict[str, Any]:
    curve = amount.curve
    shown: Any = None
    if isinstance(curve, Amdahl):
        shown = {"amdahl": curve.serial}
    elif isinstance(curve, PowerLaw):
        shown = {"power": curve.alpha}
    elif curve is not None:
        shown = {"table": [list(pair) for pair in curve.shares]}
    plain: dict[str, Any] = {"min": amount.min, "max": amount.max, "curve": shown}
    return plain if amount.allowed is None else {**plain, "allowed": list(amount.allowed)}


def _range_from_json(found: dict[str, Any]) -> ElasticRange:
    curve: Any = found.get("curve", {"amdahl": 0.05})
    if curve is not None:
        ((name, value),) = curve.items()
        if name not in ("amdahl", "power", "table"):
            raise ValueError(f"curve {name!r}: amdahl, power and table are known.")
        if name == "table":
            value = tuple((int(m), float(share)) for m, share in value)
        curve = {"amdahl": Amdahl, "power": PowerLaw, "table": TableCurve}[name](value)
    allowed = found.get("allowed")
    return ElasticRange(found["min"], found["max"], None if allowed is None else tuple(allowed), curve)


def record_as_json(record: Record) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": record.id, "kind": record.kind, "cost": cost_as_json(record.cost)}
    for name in ("trajectory", "task", "env", *TIMES, "units", "node"):
        value = getattr(record, name)
        if value is not None and not (name in ("gap_s", "restore_s") and value == 0):
            shown[name] = value
    if record.cores:
        shown["cores"] = list(record.cores)
    if record.priority:
        shown["priority"] = record.priority
    if record.start_s is not None:
        shown.update(attempt=record.attempt, outcome=record.outcome)
    return shown


def write_trace(path: Path | str, trace: Trace):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(trace_lines(trace))


def trace_lines(trace: Trace) -> Iterator[str]:
    header = {"format": FORMAT, "version": 1, "nodes": trace.nodes, **trace.header}
    yield json.dumps(header) + "\n"
    for record in trace.records:
        yield json.dumps(record_as_json(record)) + "\n"


def read_trace(path: Path | str) -> Trace:
    """Raises ValueError that names file and line where a line is malformed."""
    with open(path, encoding="utf-8") as file:
        return parse_trace(file, str(path))


def parse_trace(lines: Iterable[str], name: str = "trace") -> Trace:
    trace = Trace([])
    ends: dict[str, float] = {}
    costs: dict[str, Mapping[str, Any]] = {}
    number = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError("a JSON object is needed")
            if number == 1:
                if found.get("format") != FORMAT or found.get("version") != 1:
                    raise ValueError(f'the first line must be {{"format": "{FORMAT}", "version": 1, ...}}')
                trace.nodes = found.pop("nodes", {})
                trace.header = {key: value for key, value in found.items() if key not in ("format", "version")}
                continue
            trace.records.append(_record(found, ends, costs))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{name}:{number}: {what}; found {line.strip()[:120]}") from None
    if not number:
        raise ValueError(f"{name}: the file is empty; a trace starts with a header line.")
    return trace


def _record(found: dict[str, Any], ends: dict[str, float], costs: dict[str, Mapping[str, Any]]) -> Record:
    unknown = set(found) - set(Record.__dataclass_fields__)
    if unknown:
        raise ValueError(f"unknown field {', '.join(sorted(unknown))}")
    for name in TIMES:
        value = found.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf
        ):
            raise ValueError(f"{name} must be a number of seconds from 0, not {value!r}")
    spelled = json.dumps(found["cost"])
    cost = costs.get(spelled)
    if cost is None:
        ranges = {n: _range_from_json(a) if isinstance(a, dict) else a for n, a in found["cost"].items()}
        Shape(ranges)  # raises for a cost that is none
        cost = costs[spelled] = ranges
    trajectory, submit, start, end = (found.get(name) for name in ("trajectory", "submit_s", "start_s", "end_s"))
    t1 = found.get("t1_s")
    if t1 is None:
        if start is None or end is None or end < start:
            raise ValueError("either t1_s or start_s and end_s (not before start_s) must be given")
        shape = Shape(cost)
        t1 = (end - start) / (shape.curve.share(found.get("units") or 1) if shape.key else 1.0)
    gap = found.get("gap_s")
    if gap is None:
        gap = 0.0 if submit is None else max(0.0, submit - (ends.get(trajectory, 0.0) if trajectory else 0.0))
    if trajectory is not None:
        ends[trajectory] = found.get("release_s") or end or 0.0
    values = {**found, "cost": cost, "t1_s": t1, "gap_s": gap, "cores": tuple(found.get("cores", ()))}
    return Record(**values)
