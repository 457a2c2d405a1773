"""A result as JSON, as CSV and as text."""

import csv
import io
import json
import math
from typing import Any

from .config import Result

MAX_TEXT_ROWS = 100


def _plain(value: Any) -> Any:
    """The value without NaN and infinity, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def as_json(result: Result) -> str:
    return json.dumps(_plain(result.to_dict()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_csv(result: Result) -> str:
    """The table under header lines `# key=value`."""
    out = io.StringIO()
    out.write(f"# experiment={result.experiment}\n")
    for key, value in {**result.parameters, **result.summary}.items():
        out.write(f"# {key}={json.dumps(_plain(value), ensure_ascii=False)}\n")
    for note in result.notes:
        out.write(f"# {note}\n")
    writer = csv.DictWriter(out, list(result.rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(result.rows)
    return out.getvalue()


def as_text(result: Result) -> str:
    """The table in aligned columns, then the summary and the notes."""
    shown = result.rows[:MAX_TEXT_ROWS]
    table = [list(result.rows[0]), *([cell(value) for value in row.values()] for row in shown)]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    if len(result.rows) > len(shown):
        lines.append(f"({len(result.rows) - len(shown)} more rows: use --csv)")
    lines.append("")
    for key, value in result.summary.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        for name, entry in entries:
            cells = ", ".join(cell(part) for part in entry) if isinstance(entry, list) else cell(entry)
            lines.append(f"{key} {name}".strip() + f": {cells}")
    return "\n".join([*lines, *result.notes]) + "\n"


def cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
