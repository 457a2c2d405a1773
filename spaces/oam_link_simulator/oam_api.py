"""The Space's typed API: the experiments of `mimo-hf oam` with plain numbers in and JSON out, within bounds."""

import inspect
import json
import math
from collections.abc import Callable
from functools import wraps
from types import NoneType
from typing import Any, get_args, get_type_hints

import gradio as gr
from oam_turns import in_turn

from mimo_hf.oam.comparisons import run_dof, run_oem
from mimo_hf.oam.config import LinkConfig, OEMConfig, Result
from mimo_hf.oam.experiments import run_ber, run_field, run_simulate, run_sweep
from mimo_hf.oam.forms import as_json

MAX_ELEMENTS, MAX_STEPS, MAX_PIXELS, MAX_BITS, MAX_OEM_ELEMENTS = 32, 1001, 128, 4_000_000, 128
# What an integer may be, whatever the endpoint; experiments ask for more, such as at least two elements.
INTEGERS = {
    "num_tx": (1, MAX_ELEMENTS), "num_rx": (1, MAX_ELEMENTS), "num_elements": (1, MAX_ELEMENTS), "num": (2, MAX_STEPS),
    "mode": (-MAX_ELEMENTS, MAX_ELEMENTS), "num_pixels": (2, MAX_PIXELS), "rows": (1, 16), "columns": (1, 16),
    "num_draws": (2, 500), "order": (2, 64), "num_symbols": (1, MAX_BITS), "seed": (0, 2**31 - 1),
}  # fmt: skip
MAX_CHARACTERS = 40


def bounded(endpoint: Callable[..., dict]) -> Callable[..., dict]:
    """`endpoint`, whose arguments are looked at before anything is computed: their types, finite numbers, integers in bounds."""
    signature, hints = inspect.signature(endpoint), get_type_hints(endpoint)

    @wraps(endpoint)
    def looked_at(*args: Any, **kwargs: Any) -> dict:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        try:
            values = {name: _typed(name, hints[name], value) for name, value in given.arguments.items()}
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return endpoint(**values)

    return looked_at


def _typed(name: str, hint: Any, value: Any) -> Any:
    kinds = get_args(hint) or (hint,)
    if value is None and NoneType in kinds:
        return None
    if str in kinds:
        if not isinstance(value, str):
            raise ValueError(f"`{name}` must be a text; got {_shown(value)}.")
        if len(value) > MAX_CHARACTERS:
            raise ValueError(f"`{name}` must be one of a few words; got {len(value)} characters.")
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"`{name}` must be a number; got {_shown(value)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite; got {value}.")
    if int not in kinds:
        if abs(value) > 1e15:
            raise ValueError(f"`{name}` must be a length, an angle or a level; got a number above 1e15.")
        return float(value)
    if value != int(value):
        raise ValueError(f"`{name}` must be a whole number; got {value:g}.")
    least, most = INTEGERS[name]
    if value > most:
        raise ValueError(f"`{name}` is capped at {most} here; got {_shown(value)}. Use `mimo-hf oam` for more.")
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}; got {_shown(value)}.")
    return int(value)


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**15 else "a number of more than 15 digits"
    return f"{value:g}" if isinstance(value, float) else f"a {type(value).__name__}"


def _within(name: str, value: float, most: float):
    if value > most:
        raise ValueError(f"`{name}` is capped at {most:g} here; got {value:g}. Use `mimo-hf oam` for more.")


def _answer(run: Callable[[], Result]) -> dict:
    """The result as JSON; what is out of range becomes a message to the caller."""
    try:
        return json.loads(as_json(run()))
    except (ValueError, TypeError) as error:
        raise gr.Error(str(error), print_exception=False) from error


def simulate(
    freq_ghz: float | None = None,
    wavelength_m: float | None = None,
    num_tx: int = 8,
    num_rx: int = 8,
    radius_tx_m: float = 0.5,
    radius_rx_m: float = 0.5,
    distance_m: float = 50.0,
    off_axis_deg: float = 0.0,
    azimuth_deg: float = 0.0,
    tilt_deg: float = 0.0,
    tilt_azimuth_deg: float = 0.0,
    spin_deg: float = 0.0,
    angle_error_deg: float = 0.0,
    snr_db: float = 20.0,
    snr_reference: str = "siso",
    power: str = "equal",
) -> dict:
    """Spectral efficiency of every scheme on one OAM link, its capacity, and every mode before and after BePre.

    Args:
        freq_ghz: carrier in GHz; or give wavelength_m, not both. Without either the wavelength is 1 cm.
        wavelength_m: wavelength in m.
        num_tx: elements of the transmit ring, 2 to 32.
        num_rx: elements of the receive ring, 2 to 32.
        radius_tx_m: radius of the transmit ring in m.
        radius_rx_m: radius of the receive ring in m.
        distance_m: distance of the centres in m.
        off_axis_deg: angle of the receiver off the transmit axis in degrees.
        azimuth_deg: azimuth of that angle in degrees.
        tilt_deg: tilt of the receiver in degrees.
        tilt_azimuth_deg: azimuth towards which it is tilted in degrees.
        spin_deg: spin of the receiver about its normal in degrees.
        angle_error_deg: error of the tilt that BePre by angle and geom believe, in degrees.
        snr_db: SNR in dB.
        snr_reference: what the SNR refers to: siso, tx or frobenius.
        power: over the modes: equal or waterfill.
    """
    settings = dict(locals())
    return _answer(lambda: run_simulate(LinkConfig(**settings)))


def sweep(
    param: str = "tilt_deg",
    start: float = 0.0,
    stop: float = 60.0,
    num: int = 61,
    distance_m: float = 50.0,
    tilt_deg: float = 0.0,
    snr_db: float = 20.0,
    num_elements: int = 8,
    radius_m: float = 0.5,
    snr_reference: str = "siso",
    power: str = "equal",
) -> dict:
    """Spectral efficiency of every scheme and the capacity while one number of the link changes. Wavelength 1 cm.

    Args:
        param: what changes, for example tilt_deg, off_axis_deg, distance_m, snr_db, angle_error_deg or freq_ghz.
        start: first value.
        stop: last value.
        num: number of values, 2 to 1001.
        distance_m: distance in m.
        tilt_deg: tilt of the receiver in degrees.
        snr_db: SNR in dB.
        num_elements: elements of both rings, 2 to 32.
        radius_m: radius of both rings in m.
        snr_reference: siso, tx or frobenius.
        power: over the modes: equal or waterfill.
    """

    def run() -> Result:
        link = _ring_link(num_elements, radius_m, distance_m, tilt_deg)
        return run_sweep(
            LinkConfig(**link, snr_db=snr_db, snr_reference=snr_reference, power=power), param, start, stop, num
        )

    return _answer(run)


def _ring_link(num_elements: int, radius_m: float, distance_m: float, tilt_deg: float = 0.0) -> dict[str, Any]:
    rings = {"num_tx": num_elements, "num_rx": num_elements, "radius_tx_m": radius_m, "radius_rx_m": radius_m}
    return {**rings, "distance_m": distance_m, "tilt_deg": tilt_deg}


def field(
    mode: int = 1,
    num_elements: int = 8,
    radius_m: float = 0.5,
    distance_m: float = 50.0,
    extent_m: float = 2.0,
    num_pixels: int = 48,
) -> dict:
    """Amplitude and phase of one mode on a square across the axis, and its winding number. Wavelength 1 cm.

    Args:
        mode: signed, or as FFT index 0..N-1.
        num_elements: elements of the ring, 2 to 32.
        radius_m: radius of the ring in m.
        distance_m: distance of the plane in m.
        extent_m: side of the square in m.
        num_pixels: pixels along a side, 2 to 128.
    """

    def run() -> Result:
        return run_field(LinkConfig(**_ring_link(num_elements, radius_m, distance_m)), mode, extent_m, num_pixels)

    return _answer(run)


def oem(
    rows: int = 2,
    columns: int = 2,
    num_elements: int = 8,
    radius_m: float = 0.1,
    pitch_m: float = 0.3,
    distance_m: float = 5.0,
    tilt_deg: float = 0.0,
    focal_length_m: float | None = None,
    snr_db: float = 20.0,
    snr_reference: str = "siso",
) -> dict:
    """OAM-embedded MIMO: what its algebra promises, what detectors get, and the capacity. Wavelength 1 cm.

    Args:
        rows: of UCAs at each end.
        columns: of UCAs at each end.
        num_elements: of each UCA; rows x columns x elements is capped at 128.
        radius_m: of each UCA in m.
        pitch_m: spacing of neighbouring UCAs in m, at least twice the radius.
        distance_m: of the grids in m.
        tilt_deg: of the receiver in degrees.
        focal_length_m: of a dish at every UCA in m; no dish without it.
        snr_db: SNR in dB.
        snr_reference: siso, tx or frobenius.
    """
    settings = dict(locals())

    def run() -> Result:
        _within("rows x columns x num_elements", rows * columns * num_elements, MAX_OEM_ELEMENTS)
        return run_oem(OEMConfig(**settings))

    return _answer(run)


def dof(
    distance_m: float = 50.0,
    snr_db: float = 20.0,
    num_elements: int = 8,
    radius_m: float = 0.5,
    num_draws: int = 100,
    seed: int = 0,
) -> dict:
    """Capacity and degrees of freedom of OAM against MIMO of its rings, line arrays and fading. Wavelength 1 cm.

    Args:
        distance_m: in m.
        snr_db: SNR of one antenna pair in dB.
        num_elements: of every array, 2 to 32.
        radius_m: of both rings in m; the line arrays have the same aperture.
        num_draws: fading channels to average over, 2 to 500.
        seed: of these channels.
    """

    def run() -> Result:
        link = LinkConfig(**_ring_link(num_elements, radius_m, distance_m))
        return run_dof(link, (distance_m,), (snr_db,), num_draws=num_draws, seed=seed)

    return _answer(run)


def ber(
    snr_db: float = 10.0,
    order: int = 4,
    num_symbols: int = 2000,
    precoding: str = "plain",
    detector: str = "mode",
    pilot_snr_db: float | None = None,
    num_elements: int = 8,
    radius_m: float = 0.5,
    distance_m: float = 50.0,
    tilt_deg: float = 0.0,
    seed: int = 0,
) -> dict:
    """Bit error rate of every mode with 95 % intervals and its closed form. Wavelength 1 cm.

    Args:
        snr_db: SNR of one antenna pair in dB.
        order: points of the constellation: 4, 16 or 64.
        num_symbols: on each mode; all bits together are capped at 4 million.
        precoding: plain, angle, geom or svd.
        detector: mode, zf or mmse.
        pilot_snr_db: energy of the pilots in dB; without it the channel is known.
        num_elements: of both rings, 2 to 32.
        radius_m: of both rings in m.
        distance_m: in m.
        tilt_deg: of the receiver in degrees.
        seed: of symbols and noise.
    """

    def run() -> Result:
        link = LinkConfig(**_ring_link(num_elements, radius_m, distance_m, tilt_deg))
        _within("bits", num_symbols * num_elements * max(1, order.bit_length() - 1), MAX_BITS)
        return run_ber(
            link,
            (snr_db,),
            order,
            num_symbols,
            precoding=precoding,
            detector=detector,
            pilot_snr_db=pilot_snr_db,
            seed=seed,
        )

    return _answer(run)


ENDPOINTS = tuple(bounded(in_turn(endpoint)) for endpoint in (simulate, sweep, field, oem, dof, ber))
