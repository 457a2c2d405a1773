"""`mimo-hf oam simulate|sweep|dof|oem|ber|field`: the experiments from the command line, as text, JSON, CSV and pictures."""

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any

from .presets import preset, presets_of
from .settings import EXPERIMENTS, allowed, fits, is_list, kind, settings_of

if TYPE_CHECKING:
    from .config import Result

EXAMPLES = {
    "simulate": "  mimo-hf oam simulate --freq-ghz 60 --distance-m 30 --tilt-deg 3\n"
    "  mimo-hf oam simulate --num-tx 16 --num-rx 16 --json",
    "sweep": "  mimo-hf oam sweep --preset claim-bepre-tilt --plot tilt.png\n"
    "  mimo-hf oam sweep --param snr_db --start -10 --stop 30 --num 41 --out snr.csv",
    "dof": "  mimo-hf oam dof --preset claim-dof-vs-kronecker\n  mimo-hf oam dof --distances-m 20,50 --snrs-db -10,0,10 --csv",
    "oem": "  mimo-hf oam oem --preset counter-oem-intermode\n  mimo-hf oam oem --distance-m 20 --focal-length-m 1 --json",
    "ber": "  mimo-hf oam ber --snrs-db 0,5,10,15 --order 16 --num-symbols 100000\n"
    "  mimo-hf oam ber --tilt-deg 5 --precoding geom --plot ber.png",
    "field": "  mimo-hf oam field --mode 2 --plot field.png\n  mimo-hf oam field --mode -1 --num-pixels 64 --out field.csv",
}


def add_commands(kit: Any) -> None:
    """Adds `oam` with its sub-commands. The options are the declared settings."""
    experiments = kit.group("oam", "Simulate OAM radio links between circular arrays.", "EXPERIMENT")
    for name, experiment in EXPERIMENTS.items():
        presets = presets_of(name)
        about = "\n".join(f"  {title}: {entry.about}" for title, entry in presets.items())
        examples = EXAMPLES[name] + (f"\n\npresets:\n{about}" if presets else "")
        parser = experiments.command(name, run, experiment.about, examples)
        parser.set_defaults(experiment=name)
        for declared in settings_of(name):
            _add_setting(parser, declared, kit)
        if presets:
            text = f"Start from named settings. Options override them: {', '.join(presets)}."
            parser.add_argument("--preset", metavar="NAME", help=text)
        kit.shared(parser, "--device")
        form = parser.add_mutually_exclusive_group()
        kit.shared(form, "--json")
        form.add_argument("--csv", action="store_true", help="Print the result as CSV.")
        kit.shared(parser, "--out", endings=(".json", ".csv", ".txt"))
        kit.renamed(parser, "--output", "--out")
        kit.shared(parser, "--plot")


def _add_setting(parser: argparse.ArgumentParser, declared: Field, kit: Any) -> None:
    given: Any = declared.default
    default = (
        ""
        if given is None
        else f" (default: {','.join(f'{entry:g}' for entry in given) if is_list(declared) else given})"
    )
    text = declared.metadata["help"]
    if declared.name == "seed":
        kit.shared(parser, "--seed", text.removesuffix(".") + default + ".", default=argparse.SUPPRESS)
        return
    unit, choices = declared.metadata["unit"], declared.metadata["choices"]
    metavar: str | None = unit.upper() or {int: "N", float: "X"}.get(kind(declared), "NAME")
    if choices is not None and len(choices) < 8:
        metavar = None  # argparse shows the choices
    parser.add_argument(
        _flag(declared.name),
        type=_Reader(declared.name, declared),
        choices=choices,
        metavar=f"{metavar},..." if is_list(declared) else metavar,
        default=argparse.SUPPRESS,
        help=f"{text.removesuffix('.')}{default}.",
    )


class _Reader:
    """Reads what was typed for a setting, and refuses what is out of its range."""

    def __init__(self, name: str, declared: Field):
        self.name, self.declared = name, declared

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Reader):
            return NotImplemented
        return self._reads() == other._reads()

    def _reads(self) -> tuple[Any, ...]:
        # What a page draws for the setting may differ from one experiment to another.
        read = {key: value for key, value in self.declared.metadata.items() if key != "slider"}
        return self.name, self.declared.type, read

    def __hash__(self) -> int:
        return hash(self.name)

    def __call__(self, text: str) -> Any:
        values = [self._entry(part, text) for part in (text.split(",") if is_list(self.declared) else [text])]
        return tuple(values) if is_list(self.declared) else values[0]

    def _entry(self, part: str, text: str) -> Any:
        try:
            value = kind(self.declared)(part)
            if fits(self.declared, value):
                return value
        except (ValueError, OverflowError):
            pass
        many = "numbers with commas between, each " if is_list(self.declared) else ""
        raise argparse.ArgumentTypeError(f"must be {many}{allowed(self.declared)}; got {text!r}.")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def run(kit: Any, args: argparse.Namespace) -> int:
    """Runs the experiment that the parsed arguments ask for. Raises ValueError for what the user can put right."""
    link, options = _settings(args)
    drawing = None if args.plot is None else kit.drawing()
    with kit.stage("importing torch"):
        from . import comparisons, experiments
        from .checks import usable_device
        from .forms import as_csv, as_json, as_text

        usable_device(args.device)
    functions: dict[str, Callable[..., Result]] = {
        "simulate": experiments.run_simulate,
        "sweep": experiments.run_sweep,
        "dof": comparisons.run_dof,
        "oem": comparisons.run_oem,
        "ber": experiments.run_ber,
        "field": experiments.run_field,
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with kit.progress(args.experiment) as moved:
                if moved is not None and args.experiment in ("sweep", "ber", "field"):
                    options["progress"] = moved
                result = functions[args.experiment](link, **options, device=args.device)
            if drawing is not None:
                drawing.save(result.draw(drawing), args.plot)
        except TypeError as error:
            raise ValueError(str(error)) from error
        finally:
            for message in dict.fromkeys(str(warning.message) for warning in caught):
                kit.say(f"{args.prog}: warning: {message}")
    if args.out is not None:
        written = {".json": as_json, ".csv": as_csv, ".txt": as_text}[args.out.suffix.lower()](result)
        args.out.write_text(written, encoding="utf-8")
    sys.stdout.write((as_json if args.json else as_csv if args.csv else as_text)(result))
    return 0


def _settings(args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """The configuration of the link, and the experiment's own options."""
    entry = EXPERIMENTS[args.experiment]
    known = {declared.name for declared in settings_of(args.experiment)}
    chosen = {name: value for name, value in vars(args).items() if name in known}
    if getattr(args, "preset", None) is not None:
        chosen = {**preset(args.preset, args.experiment).settings, **chosen}
    own = {declared.name for declared in fields(entry.options)}
    missing = [_flag(name) for name in ("param", "start", "stop") if name in own and name not in chosen]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be given, or a --preset.")
    options = {name: chosen[name] for name in own & chosen.keys()}
    entry.options(**options)  # raises for options that do not go together
    link = entry.config(**{name: value for name, value in chosen.items() if name not in own})
    if link.freq_ghz is not None and link.wavelength_m is not None:
        raise ValueError(
            "--freq-ghz must not be given together with --wavelength-m, from which it follows. Leave one of them out."
        )
    return link, options
