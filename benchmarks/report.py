"""
Renders every JSON under benchmarks/results as one page of tables, benchmarks/results/README.md.

    python benchmarks/report.py            # write the page
    python benchmarks/report.py --check    # exit 1 if the page is not up to date
"""

import argparse
import json
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
MAX_ROWS = 24  # of a table; longer ones are thinned out evenly
MAX_ITEMS = 16  # of a list in a cell; of longer ones the ends are shown
PAGE = RESULTS / "README.md"
HEADER = """# Measured results

Made by `python benchmarks/report.py` from the JSON files beside it; don't edit. Timings on a CPU are ratios within one run.
What is not listed here is not measured. Tests of transformers and TRL on our classes: [docs/peer_tests.md](../../docs/peer_tests.md).
"""


def show(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if is_table(value):
        return f"{len(value)} rows"
    if isinstance(value, list) and len(value) > MAX_ITEMS:
        return f"{show(value[0])}, ... {show(value[-1])} ({len(value)} in all)"
    if isinstance(value, list):
        return ", ".join(show(item) for item in value)
    return "none" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def table(columns: list[str], rows: list[list]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(show(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def is_table(value) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(row, dict) for row in value)


def render(name: str, content: dict, level: int) -> list[str]:
    """A heading, one table of the plain figures, then a part for each nested object."""
    parts = [f"{'#' * level} {name.replace('_', ' ')}"]
    plain = [
        [key.replace("_", " "), value]
        for key, value in content.items()
        if not isinstance(value, dict) and not is_table(value)
    ]
    if plain:
        parts.append(table(["what", "value"], plain))
    for key, value in content.items():
        if is_table(value):
            columns = list(dict.fromkeys(column for row in value for column in row))
            shown = value[:: -(-len(value) // MAX_ROWS)]
            rows = [[row.get(column) for column in columns] for row in shown]
            parts += [
                f"{'#' * (level + 1)} {key.replace('_', ' ')}",
                table([c.replace("_", " ") for c in columns], rows),
            ]
        elif isinstance(value, dict):
            parts += render(key, value, min(level + 1, 6))
    return parts


def page(folder: Path = RESULTS) -> str:
    parts = [HEADER.rstrip()]
    for path in sorted(folder.glob("*.json")):
        if path.name.endswith(".busy.json"):  # refused by _record.py: not on record
            continue
        if path.name.startswith("peer_"):  # names of tests, told in docs/peer_tests.md
            continue
        parts += render(path.stem, json.loads(path.read_text()), level=2)
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page differs")
    args = parser.parse_args(argv)
    if args.check:
        if not PAGE.exists() or PAGE.read_text() != page():
            print(
                "benchmarks/results/README.md is not up to date: run `python benchmarks/report.py`.", file=sys.stderr
            )
            return 1
        return 0
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(RESULTS.parent.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
