"""
Writes the page of claims, benchmarks/results/README.md, from benchmarks/results/claims.yaml and the JSON files beside it.

    python benchmarks/report.py                   # write the page
    python benchmarks/report.py --check           # write nothing; exit 1 if the page is not up to date
    python benchmarks/report.py --full seamless   # all figures of one result, as Markdown

A claim is a sentence, the file, and where in it the figure stands; no figure is typed:

    - says: MTP continues held-out code faster than plain decoding.
      figure: "{speed_ratio:.2f} times"
      where: "{decoding.max_new_tokens} tokens, greedy"
      file: demo

benchmarks/_figures.py tells what a path may hold. A result that nothing is claimed of must stand under `raw_only`, with the reason.
"""

import argparse
import difflib
import json
import os
import sys
from pathlib import Path

import _claims
from _tables import full

RESULTS = Path(__file__).parent / "results"
PAGE = RESULTS / "README.md"


def page(folder: Path = RESULTS) -> str:
    return _claims.page(_claims.read(folder / "claims.yaml"), _claims.results(folder))


def result(name: str) -> Path:
    """The file of a result, named as on the page or by its path. Raises ArgumentTypeError naming what is there."""
    names = sorted(file.stem for file in RESULTS.glob("*.json"))
    stem = Path(name).name.removesuffix(".json")
    if stem not in names:
        near = difflib.get_close_matches(stem, names, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise argparse.ArgumentTypeError(f"no result is named {name!r}: {remedy}")
    return RESULTS / f"{stem}.json"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page differs")
    way.add_argument("--full", metavar="NAME", type=result, help="print all figures of one result as Markdown")
    args = parser.parse_args(argv)
    if args.full:
        try:
            print("\n\n".join(full(args.full.stem, json.loads(args.full.read_text(encoding="utf-8")))), flush=True)
        except BrokenPipeError:  # of `| head`; Python would write to it once more at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    try:
        text = page()
    except _claims.ClaimError as error:
        print(error, file=sys.stderr)
        return 1
    if args.check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            print(
                "benchmarks/results/README.md is not up to date: run `python benchmarks/report.py`.", file=sys.stderr
            )
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(RESULTS.parent.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
