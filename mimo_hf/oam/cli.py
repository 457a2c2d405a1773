"""`mimo-hf oam simulate|sweep|dof|oem|ber|field`: the experiments from the command line, as text, JSON, CSV and PNG."""

import argparse
import csv
import io
import json
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from .canvas import write_png
from .checks import usable_device
from .comparisons import run_dof, run_oem
from .config import SWEEPABLE, UNUSED, LinkConfig, OEMConfig, Result
from .experiments import run_ber, run_field, run_simulate, run_sweep
from .presets import PRESETS, preset, presets_of

EXPERIMENTS: dict[str, tuple[Callable[..., Result], type, str]] = {
    "simulate": (run_simulate, LinkConfig, "all schemes on one link, mode by mode"),
    "sweep": (run_sweep, LinkConfig, "all schemes while one number of the link changes"),
    "dof": (run_dof, LinkConfig, "capacity and degrees of freedom against lines of antennas and Kronecker MIMO"),
    "oem": (run_oem, OEMConfig, "OAM-embedded MIMO: the promise, the detectors, the bounds"),
    "ber": (run_ber, LinkConfig, "bit error rates of every mode, with their closed form"),
    "field": (run_field, LinkConfig, "phase and intensity of one mode on a plane"),
}
MAX_TEXT_ROWS = 100


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"give numbers separated by commas, not {text!r}") from None


# Options beyond the settings of the link: name, type, help.
OPTIONS: dict[str, list[tuple[str, Callable[[str], Any], str]]] = {
    "simulate": [],
    "sweep": [
        ("param", str, f"what changes: {', '.join(SWEEPABLE)}"),
        ("start", float, "first value"),
        ("stop", float, "last value"),
        ("num", int, "number of values"),
    ],
    "dof": [
        ("distances_m", _numbers, "distances in m, separated by commas"),
        ("snrs_db", _numbers, "SNRs in dB, separated by commas"),
        ("rhos", _numbers, "correlations of neighbours in the Kronecker channels, separated by commas"),
        ("num_draws", int, "Kronecker channels to average over"),
        ("seed", int, "seed of these channels"),
    ],
    "oem": [],
    "ber": [
        ("snrs_db", _numbers, "SNRs in dB, separated by commas"),
        ("order", int, "points of the constellation: 4 (QPSK), 16 or 64"),
        ("num_symbols", int, "symbols on each mode for each channel estimate"),
        ("precoding", str, "plain, angle, geom or svd"),
        ("detector", str, "mode, zf or mmse"),
        ("pilot_snr_db", float, "energy of the pilots in dB; without it the channel is known"),
        ("num_channels", int, "independent channel estimates"),
        ("seed", int, "seed of symbols, noise and estimates"),
    ],
    "field": [
        ("mode", int, "mode, signed or as index 0..N-1"),
        ("extent_m", float, "side of the plane in m; four radii without it"),
        ("num_pixels", int, "pixels along a side"),
    ],
}


def add_oam_commands(subparsers: Any) -> None:
    """Adds `oam` with its sub-commands to the subparsers of a command; `args.run(args)` then does the work."""
    oam = subparsers.add_parser(
        "oam",
        help="simulate OAM radio links",
        description="OAM radio links between circular arrays: text, JSON or CSV, and a picture with --plot.",
        epilog="presets:\n" + "\n".join(f"  {entry.command} --preset {name}" for name, entry in PRESETS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = oam.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    for name, (_, config, about) in EXPERIMENTS.items():
        presets = presets_of(name)
        epilog = "\n".join(f"{title}: {entry.about}" for title, entry in presets.items())
        parser = commands.add_parser(
            name,
            help=about,
            description=about,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
        )
        for option, kind, text in OPTIONS[name]:
            parser.add_argument(_flag(option), type=kind, help=text)
        for setting in fields(config):
            if setting.name in UNUSED[name]:
                continue
            kind = setting.type if setting.type in (int, str) else float
            text = setting.metadata["help"] + ("" if setting.default is None else f" (default {setting.default})")
            parser.add_argument(_flag(setting.name), type=kind, choices=setting.metadata["choices"], help=text)
        text = f"start from named settings; options override: {', '.join(presets)}" if presets else argparse.SUPPRESS
        parser.add_argument("--preset", metavar="NAME", help=text)
        parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", dest="form", action="store_const", const="json", default="text", help="print JSON")
        form.add_argument("--csv", dest="form", action="store_const", const="csv", help="print CSV with a header")
        parser.add_argument("--output", type=Path, default=None, help="write to this file instead of printing")
        parser.add_argument("--plot", type=Path, default=None, help="write a picture (PNG) to this file")
        parser.set_defaults(run=run)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def run(args: argparse.Namespace) -> int:
    """Runs the experiment that the parsed arguments ask for; 0, or 2 after an error has been printed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = _experiment(args)
            text = {"json": as_json, "csv": as_csv, "text": as_text}[args.form](result)
            if args.plot is not None:
                write_png(args.plot, result.draw())
            if args.output is not None:
                args.output.write_text(text, encoding="utf-8")
        except (ValueError, TypeError, OSError) as error:
            print(f"mimo-hf oam {args.experiment}: {error}", file=sys.stderr)
            return 2
        finally:
            for message in dict.fromkeys(str(warning.message) for warning in caught):
                print(f"warning: {message}", file=sys.stderr)
    if args.output is None:
        sys.stdout.write(text)
    return 0


def _experiment(args: argparse.Namespace) -> Result:
    function, config, _ = EXPERIMENTS[args.experiment]
    given = vars(args)
    known = {setting.name for setting in fields(config)} | {option for option, *_ in OPTIONS[args.experiment]}
    settings = {name: value for name, value in given.items() if name in known}
    if "preset" in given:
        settings = {**preset(args.preset, args.experiment).settings, **settings}
    if args.experiment == "sweep":
        missing = [_flag(name) for name in ("param", "start", "stop") if name not in settings]
        if missing:
            raise ValueError(f"give {', '.join(missing)}, or a --preset.")
    usable_device(args.device)
    own = {option for option, *_ in OPTIONS[args.experiment]}
    options: dict[str, Any] = {name: settings[name] for name in own & settings.keys()}
    if args.experiment in ("sweep", "ber", "field") and sys.stderr.isatty():
        options["progress"] = _show_progress
    link = config(**{name: value for name, value in settings.items() if name not in own})
    return function(link, **options, device=args.device)


def _show_progress(done: int, total: int):
    print(f"\r{done / total:4.0%}", end="\n" if done == total else "", file=sys.stderr, flush=True)


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
    table = [list(result.rows[0]), *([_cell(value) for value in row.values()] for row in shown)]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    if len(result.rows) > len(shown):
        lines.append(f"({len(result.rows) - len(shown)} more rows: use --csv)")
    lines.append("")
    for key, value in result.summary.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        for name, entry in entries:
            cells = ", ".join(_cell(part) for part in entry) if isinstance(entry, list) else _cell(entry)
            lines.append(f"{key} {name}".strip() + f": {cells}")
    return "\n".join([*lines, *result.notes]) + "\n"


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def main(argv: list[str] | None = None) -> int:
    """`python -m mimo_hf.oam simulate ...`, the same as `mimo-hf oam simulate ...`."""
    parser = argparse.ArgumentParser(prog="python -m mimo_hf")
    add_oam_commands(parser.add_subparsers())
    args = parser.parse_args(["oam", *(sys.argv[1:] if argv is None else argv)])
    return args.run(args)
