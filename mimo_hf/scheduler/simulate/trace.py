"""
Traces: one JSON object a line. What a run records is what the simulator reads.

The first line is the header, {"format": "mimo-trace", "version": 1, "nodes": {...}, ...}. Every other line is an action;
README.md lists its fields.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..core.numbers import (
    MOST_AMOUNT,
    MOST_COUNT,
    MOST_LETTERS,
    MOST_SECONDS,
    MOST_SHOWN,
    MOST_UNITS,
    is_name,
    is_number,
    is_whole,
    shown,
)
from ..core.types import Amdahl, ElasticRange, PowerLaw, Shape, TableCurve

FORMAT = "mimo-trace"
TIMES = ("t1_s", "gap_s", "est_s", "submit_s", "start_s", "end_s", "release_s", "restore_s")
MOST_TOLD, MOST_PROBLEMS = 10, 1000
MOST_LINE = 1 << 20
SAMPLE = """\
{"format": "mimo-trace", "version": 1, "nodes": {"local": {"cpu": 4}}}
{"id": 0, "kind": "tests", "cost": {"cpu": 1}, "t1_s": 2.5, "trajectory": "a"}
{"id": 1, "kind": "reward", "cost": {"cpu": {"min": 1, "max": 4}}, "t1_s": 8, "trajectory": "a", "gap_s": 1.5}
{"id": 2, "kind": "tests", "cost": {"cpu": 1}, "start_s": 0.5, "end_s": 3.25}
"""


class TraceError(ValueError):
    """
    A trace is not as it should be. The message names file and line of the first ten problems.

    Attributes:
        problems: each as `file:line: what is wrong`; after a thousand, the rest of the file is not read.
    """

    def __init__(self, problems: list[str]):
        self.problems = problems
        more = [f"and {len(problems) - MOST_TOLD} more."] if len(problems) > MOST_TOLD else []
        super().__init__("\n".join([*problems[:MOST_TOLD], *more]))


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
    line: int = field(default=0, compare=False)  # of its file; 0: of no file


@dataclass
class Trace:
    """
    Attributes:
        name: of its file, for messages.
        records: actions without a `trajectory` are released at `submit_s` (or `gap_s`); those of one trajectory one after
            another, in this order.
        nodes: capacity by node and resource, as recorded or generated; a run may use another.
    """

    records: list[Record]
    nodes: dict[str, dict[str, float]] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    name: str = field(default="trace", compare=False)

    def place(self, record: Record) -> str:
        """Where a record stands: `file:line`."""
        return f"{self.name}:{record.line}" if record.line else f"{self.name}, action {record.id}"

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
    if unknown := found.keys() - {"min", "max", "allowed", "curve"}:
        raise ValueError(f"`cost` must have ranges of min, max, allowed and curve; got {_listed(unknown)}.")
    if missing := {"min", "max"} - found.keys():
        raise ValueError(f"`cost` must have a range with min and max; got one without {', '.join(sorted(missing))}.")
    curve: Any = found.get("curve", {"amdahl": 0.05})
    if curve is not None:
        if not isinstance(curve, dict) or len(curve) != 1 or not curve.keys() <= {"amdahl", "power", "table"}:
            raise ValueError(
                f'`curve` must be {{"amdahl": s}}, {{"power": a}} or {{"table": [...]}}; got {shown(curve)}'
            )
        ((name, value),) = curve.items()
        try:
            given = tuple((m, float(share)) for m, share in value) if name == "table" else value
            curve = {"amdahl": Amdahl, "power": PowerLaw, "table": TableCurve}[name](given)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"`curve` must be one that can be made; got {name} {shown(value)}: {error}") from None
    allowed = found.get("allowed")
    if allowed is not None and not (isinstance(allowed, list) and all(map(is_whole, allowed))):
        raise ValueError(f"`allowed` must be a list of whole numbers; got {shown(allowed)}")
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
    """Raises TraceError (a ValueError) that names file and line of everything that is wrong."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_trace(iter(partial(file.readline, MOST_LINE + 1), ""), str(path))
    except UnicodeDecodeError as error:
        raise TraceError([f"{path} is not UTF-8 text ({error.reason}); is it a trace?"]) from None


def parse_trace(lines: Iterable[str], name: str = "trace") -> Trace:
    trace = Trace([], name=name)
    ends: dict[str, float] = {}
    costs: dict[str, Mapping[str, Any]] = {}
    seen: dict[int, int] = {}  # line by id
    problems: list[str] = []
    number = 0
    for number, line in enumerate(lines, 1):
        if len(problems) >= MOST_PROBLEMS:
            problems.append(f"{name}:{number}: {MOST_PROBLEMS} lines can't be used; the rest was not read.")
            break
        if len(line) > MOST_LINE:
            problems.append(f"{name}:{number}: the line is longer than {MOST_LINE} characters; is it a trace?")
            break
        if not line.strip():
            continue
        try:
            found = _object(line)
            if number == 1:
                _read_header(trace, found)
                continue
            record = _record(found, ends, costs)
            record.line = number
            if (first := seen.setdefault(record.id, number)) != number:
                raise ValueError(f"`id` must be another one for each action; got {record.id}, that of line {first}.")
            trace.records.append(record)
        except (ValueError, RecursionError) as error:
            problems.append(f"{name}:{number}: {str(error).removesuffix('.')}.")
            if number == 1:
                break
    if not number:
        raise TraceError([f"{name}: the file is empty; a trace starts with a header line."])
    if problems:
        raise TraceError(problems)
    return trace


def _object(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"`line` must be JSON: {error}; got {shown(line.strip())}.") from None
    except ValueError:
        raise ValueError(f"`line` must have no number of thousands of digits; got {shown(line.strip())}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"`line` must be a JSON object; got {shown(line.strip())}.")
    return found


def _read_header(trace: Trace, found: dict[str, Any]):
    if found.get("format") != FORMAT or found.get("version") != 1:
        raise ValueError(
            f'`format` must be "{FORMAT}" and `version` 1 in the first line, as in '
            f'{{"format": "{FORMAT}", "version": 1, "nodes": ...}}; got {shown(found)}.'
        )
    nodes = found.pop("nodes", {})
    wrong = nodes
    if isinstance(nodes, dict):
        wrong = {name: node for name, node in nodes.items() if not (is_name(name) and _is_node(node))}
    if wrong or not isinstance(nodes, dict):
        raise ValueError(
            f'`nodes` must be like {{"local": {{"cpu": 4}}}}, amounts by node and resource from 0 to {MOST_AMOUNT:g}; got {shown(wrong)}'
        )
    for name, (fits, words) in HEADER_FIELDS.items():
        if found.get(name) is not None and not fits(found[name]):
            raise ValueError(f"`{name}` of the header must be {words}; got {shown(found[name])}")
    trace.nodes = nodes
    trace.header = {key: value for key, value in found.items() if key not in ("format", "version")}


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and all(is_name(name) and is_number(amount) for name, amount in value.items())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name if is_name(name) and len(name) <= MOST_SHOWN else shown(name) for name in sorted(names)[:5])


_is_units = partial(is_whole, most=MOST_UNITS)
_TEXT = (is_name, f"a word of at most {MOST_LETTERS} letters, without control characters")
_TIME = (partial(is_number, most=MOST_SECONDS), f"a number of seconds from 0 to {MOST_SECONDS:g}")
HEADER_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {"policy": _TEXT, "overhead_s": _TIME}
# What a field must be, where it is not null, which is as good as absent.
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": (is_whole, f"a whole number from 0 to {MOST_COUNT}"),
    "kind": _TEXT,
    "cost": (
        lambda value: isinstance(value, dict) and all(map(is_name, value)),
        'an amount by resource, such as {"cpu": 1}',
    ),
    **dict.fromkeys(("trajectory", "task", "env", "node", "outcome"), _TEXT),
    **dict.fromkeys(TIMES, _TIME),
    "priority": (partial(is_whole, least=-MOST_COUNT), f"a whole number from {-MOST_COUNT} to {MOST_COUNT}"),
    **dict.fromkeys(("units", "attempt"), (_is_units, f"a whole number from 0 to {MOST_UNITS}")),
    "cores": (
        lambda value: isinstance(value, list) and all(map(_is_units, value)),
        f"a list of core numbers up to {MOST_UNITS}",
    ),
}


def _record(found: dict[str, Any], ends: dict[str, float], costs: dict[str, Mapping[str, Any]]) -> Record:
    for name, value in found.items():
        if name not in FIELDS:
            near = difflib.get_close_matches(name[:MOST_SHOWN], FIELDS, 1)
            raise ValueError(
                f"`{_listed([name])}` must be a field of a trace; {f'is {near[0]} meant?' if near else 'leave it out.'}"
            )
        fits, words = FIELDS[name]
        if value is not None and not fits(value):
            raise ValueError(f"`{name}` must be {words}; got {shown(value)}")
    found = {name: value for name, value in found.items() if value is not None}
    if missing := [name for name in ("id", "kind", "cost") if name not in found]:
        raise ValueError(f"{', '.join(f'`{name}`' for name in missing)} must be given.")
    spelled = json.dumps(found["cost"])
    cost = costs.get(spelled)
    if cost is None:
        ranges = {n: _range_from_json(a) if isinstance(a, dict) else a for n, a in found["cost"].items()}
        Shape(ranges)  # raises for a cost that is none
        cost = costs[spelled] = ranges
    trajectory, submit, start, end = (found.get(name) for name in ("trajectory", "submit_s", "start_s", "end_s"))
    if start is not None and end is not None and end < start:
        raise ValueError(f"`end_s` must not be before `start_s`, {start!r}; got {end!r}")
    t1 = found.get("t1_s")
    if t1 is None:
        if start is None or end is None:
            raise ValueError("`t1_s`, or `start_s` and `end_s`, must be given.")
        shape = Shape(cost)
        t1 = (end - start) / (shape.curve.share(found.get("units") or 1) if shape.key else 1.0)
    gap = found.get("gap_s")
    if gap is None:
        gap = 0.0 if submit is None else max(0.0, submit - (ends.get(trajectory, 0.0) if trajectory else 0.0))
    if trajectory is not None:
        ends[trajectory] = found.get("release_s") or end or 0.0
    values = {**found, "cost": cost, "t1_s": t1, "gap_s": gap, "cores": tuple(found.get("cores", ()))}
    return Record(**values)
