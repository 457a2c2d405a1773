"""The Space's typed API: the experiments of `mimo-hf oam` with plain numbers in and JSON out, within bounds."""

import inspect
import json
import math
from collections.abc import Callable
from dataclasses import Field, fields, is_dataclass
from types import NoneType
from typing import Any, get_args

import gradio as gr
from oam_turns import in_turn

from mimo_hf.oam import comparisons, experiments
from mimo_hf.oam.forms import as_json
from mimo_hf.oam.settings import EXPERIMENTS, LinkConfig, described, settings_of

MAX_CHARACTERS, MAX_BITS, MAX_OEM_ELEMENTS = 40, 4_000_000, 128
# What this machine computes at most, of what may be larger elsewhere.
CAPS = {
    "num_tx": 32, "num_rx": 32, "num_elements": 32, "num": 1001, "mode": 32, "num_pixels": 128, "rows": 16, "columns": 16,
    "num_draws": 500, "order": 64, "num_symbols": MAX_BITS, "seed": 2**31 - 1,
}  # fmt: skip
RINGS = {"num_elements": ("num_tx", "num_rx"), "radius_m": ("radius_tx_m", "radius_rx_m")}  # both alike
LISTS = {"distance_m": "distances_m", "snr_db": "snrs_db"}  # one value, of what an experiment takes several of
RUNS: dict[str, Callable[..., Any]] = {
    "simulate": experiments.run_simulate,
    "sweep": experiments.run_sweep,
    "field": experiments.run_field,
    "oem": comparisons.run_oem,
    "dof": comparisons.run_dof,
    "ber": experiments.run_ber,
}
# What each endpoint takes, with a default where it is not the declared one.
TAKES: dict[str, dict[str, Any]] = {
    "simulate": {},
    "sweep": {"param": "tilt_deg", "start": 0.0, "stop": 60.0, "num": ..., "distance_m": ..., "tilt_deg": ..., "snr_db": ...,
              "num_elements": ..., "radius_m": ..., "snr_reference": ..., "power": ...},
    "field": {"mode": ..., "num_elements": ..., "radius_m": ..., "distance_m": ..., "extent_m": 2.0, "num_pixels": 48},
    "oem": dict.fromkeys(("rows", "columns", "num_elements", "radius_m", "pitch_m", "distance_m", "tilt_deg", "focal_length_m",
                          "snr_db", "snr_reference"), ...),
    "dof": {"distance_m": ..., "snr_db": ..., "num_elements": ..., "radius_m": ..., "num_draws": 100, "seed": ...},
    "ber": {"snr_db": 10.0, "order": ..., "num_symbols": 2000, "precoding": ..., "detector": ..., "pilot_snr_db": ...,
            "num_elements": ..., "radius_m": ..., "distance_m": ..., "tilt_deg": ..., "seed": ...},
}  # fmt: skip


def endpoints() -> tuple[Callable[..., dict], ...]:
    """The functions of the API, with the signatures and descriptions of the settings as they are declared."""
    return tuple(_endpoint(name) for name in RUNS)


def _endpoint(name: str) -> Callable[..., dict]:
    taken = TAKES[name] or dict.fromkeys((declared.name for declared in settings_of(name)), ...)
    declared = {argument: _declared(name, argument) for argument in taken}
    signature = inspect.Signature(
        [
            inspect.Parameter(
                argument,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                annotation=declared[argument].type,
                default=declared[argument].default if default is ... else default,
            )
            for argument, default in taken.items()
        ],
        return_annotation=dict,
    )

    def endpoint(*args: Any, **kwargs: Any) -> dict:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        try:
            values = {key: _typed(key, declared[key], value) for key, value in given.arguments.items()}
            return json.loads(as_json(run(name, values)))
        except (ValueError, TypeError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    lines = [f"    {argument}: {_meaning(argument, field)}" for argument, field in declared.items()]
    waiting = in_turn(endpoint)
    waiting.__name__ = waiting.__qualname__ = name
    waiting.__doc__ = "\n".join([EXPERIMENTS[name].about, "", "Args:", *lines])
    waiting.__signature__ = signature
    waiting.__annotations__ = {key: field.type for key, field in declared.items()} | {"return": dict}
    return waiting


def _declared(name: str, argument: str) -> Field:
    own = {declared.name: declared for declared in settings_of(name)}
    if argument in RINGS and argument not in own:
        return own[RINGS[argument][0]]
    return own[argument] if argument in own else LinkConfig.__dataclass_fields__[argument]


def _meaning(argument: str, declared: Field) -> str:
    text = described(declared).replace("the transmit ring", "both rings") if argument in RINGS else described(declared)
    return text.removesuffix(".") + (f", here at most {CAPS[argument]}." if argument in CAPS else ".")


def run(name: str, values: dict[str, Any]) -> Any:
    """The result of an experiment. Raises ValueError for more than this machine computes."""
    entry, config, options = EXPERIMENTS[name], {}, {}
    own = {declared.name for declared in fields(entry.options)} if is_dataclass(entry.options) else set()
    known = entry.config.__dataclass_fields__
    for key, value in values.items():
        if key in own:
            options[key] = value
        for setting in (key,) if key in known else RINGS.get(key, ()):
            config[setting] = value
        if LISTS.get(key) in own:
            options[LISTS[key]] = (value,)
    if name == "oem":
        elements = config["rows"] * config["columns"] * config["num_elements"]
        _within("rows x columns x num_elements", elements, MAX_OEM_ELEMENTS)
    if name == "ber":
        bits = options["num_symbols"] * config["num_tx"] * max(1, options["order"].bit_length() - 1)
        _within("bits", bits, MAX_BITS)
    return RUNS[name](entry.config(**config), **options)


def _within(name: str, value: float, most: float):
    if value > most:
        raise ValueError(f"`{name}` must be at most {most:g} here; got {value:g}. Use `mimo-hf oam` for more.")


def _typed(name: str, declared: Field, value: Any) -> Any:
    """The value as the type that is declared: finite, and if whole within what this machine computes."""
    kinds = get_args(declared.type) or (declared.type,)
    if value is None and NoneType in kinds:
        return None
    if str in kinds:
        if not isinstance(value, str):
            raise ValueError(f"`{name}` must be a text; got {_shown(value)}.")
        if len(value) > MAX_CHARACTERS:
            raise ValueError(f"`{name}` must be one of a few words; got {len(value)} characters.")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"`{name}` must be a number; got {_shown(value)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite; got {value}.")
    if int not in kinds:
        if abs(value) > 1e15:
            raise ValueError(f"`{name}` must be a length, an angle or a level; got a number above 1e15.")
        return float(value)
    if value != int(value):
        raise ValueError(f"`{name}` must be a whole number; got {value:g}.")
    if value > CAPS[name]:
        raise ValueError(
            f"`{name}` must be at most {CAPS[name]} here; got {_shown(value)}. Use `mimo-hf oam` for more."
        )
    least = declared.metadata["least"]
    least = -CAPS[name] if least is None else least
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}; got {_shown(value)}.")
    return int(value)


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**15 else "a number of more than 15 digits"
    return f"{value:g}" if isinstance(value, float) else f"a {type(value).__name__}"
