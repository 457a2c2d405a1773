"""
Every setting of the experiments, declared once: name, type, range, default, unit, label, help. No torch here: the command
line reads the declarations to parse and to explain, and the functions, the Space's controls and its API read the same ones.

Numbers are plain, angles in degrees, frequencies in GHz. A value out of range is refused when the settings are made.
"""

import math
import types
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, get_args, get_origin

if TYPE_CHECKING:
    from .geometry import LinkGeometry, Pose

DEFAULT_WAVELENGTH_M = 0.01
SNR_REFERENCES = ("siso", "tx", "frobenius")
POWERS = ("equal", "waterfill")
BEPRE_METHODS = ("angle", "geom", "svd")  # how the precoder learns the misalignment
PRECODINGS = ("plain", *BEPRE_METHODS)
DETECTORS = ("mode", "zf", "mmse")
ORDERS = (4, 16, 64)
MAX_STEPS = 1_000_000
MAX_PIXELS = 4096  # along one side of a map
MAX_SEED = 2**63 - 1


def setting(
    default: Any,
    help: str,
    unit: str = "",
    *,
    label: str = "",
    symbol: str = "",
    slider: tuple[float, float] | tuple[float, float, float] | None = None,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """
    A declaration.

    Args:
        label, symbol: what a control or an axis calls it, and papers.
        slider: ends of what the Space lets one set, and the step of a slider; a field to type into without a step.
        above, least, below, most, choices: what is allowed at all.
    """
    bounds = {"above": above, "least": least, "below": below, "most": most}
    named = {"help": help, "unit": unit, "label": label, "symbol": symbol, "slider": slider}
    return field(default=default, metadata={**named, "choices": choices, **bounds})


def kind(declared: Field) -> type:
    """int, float or str: of the value, or of its entries where it is a list."""
    annotated: Any = declared.type
    if isinstance(annotated, types.UnionType):
        annotated = next(part for part in get_args(annotated) if part is not types.NoneType)
    return get_args(annotated)[0] if is_list(declared) else annotated


def is_list(declared: Field) -> bool:
    return get_origin(declared.type) is tuple


def allowed(declared: Field) -> str:
    """What a value, or each entry of a list, may be, in words."""
    limits = declared.metadata
    if limits["choices"] is not None:
        return "one of " + ", ".join(map(str, limits["choices"]))
    words = {"above": "above", "least": "at least", "below": "below", "most": "at most"}
    bounds = [f"{word} {limits[name]:.15g}" for name, word in words.items() if limits[name] is not None]
    what = "a whole number" if kind(declared) is int else "a finite number"
    return f"{what} {' and '.join(bounds)}".strip()


def shown_unit(declared: Field) -> str:
    return declared.metadata["unit"].replace("deg", "°")


def labelled(declared: Field) -> str:
    """As an axis of a picture names it, with its unit: `tilt (°)`."""
    unit = shown_unit(declared)
    return declared.metadata["label"] + (f" ({unit})" if unit else "")


def described(declared: Field) -> str:
    """Its meaning, its unit, and what it may be, as the API says it."""
    unit = f" in {declared.metadata['unit']}" if declared.metadata["unit"] else ""
    return f"{declared.metadata['help'].removesuffix('.')}{unit}: {allowed(declared)}."


def fits(declared: Field, value: Any) -> bool:
    """Whether a number or word is allowed."""
    limits = declared.metadata
    if limits["choices"] is not None:
        return value in limits["choices"]
    return (
        math.isfinite(value)
        and (limits["above"] is None or value > limits["above"])
        and (limits["least"] is None or value >= limits["least"])
        and (limits["below"] is None or value < limits["below"])
        and (limits["most"] is None or value <= limits["most"])
    )


class _Checked:
    """
    Raises:
        TypeError, ValueError: a setting has the wrong type, or lies out of its range.
    """

    def __post_init__(self):
        for declared in getattr(self, "__dataclass_fields__").values():  # noqa: B009  every heir is a dataclass
            value = getattr(self, declared.name)
            if value is None and declared.default is None:
                continue
            for entry in value if is_list(declared) else [value]:
                _check(declared, entry)


def _check(declared: Field, value: Any) -> None:
    name, wanted = declared.name, kind(declared)
    if wanted is not str and not isinstance(value, int | float):
        if hasattr(value, "shape"):
            return  # a tensor, with which a sweep runs: geometry checks it
        raise TypeError(f"`{name}` must be {allowed(declared)}; got {value!r}.")
    if isinstance(value, bool) or (wanted is int and not isinstance(value, int)):
        raise TypeError(f"`{name}` must be {allowed(declared)}; got {value!r}.")
    if not fits(declared, value):
        raise ValueError(f"`{name}` must be {allowed(declared)}; got {value!r}.")


SNR_REFERENCE = (
    "What the SNR refers to: one pair of elements (siso), the transmit power (tx), the mean energy (frobenius)."
)


def _freq_ghz() -> Any:
    help = "Carrier frequency, instead of the wavelength."
    return setting(None, help, "GHz", label="carrier frequency", slider=(0.1, 1000), above=0)


def _wavelength_m() -> Any:
    help = f"Wavelength; {DEFAULT_WAVELENGTH_M} where no frequency is given."
    return setting(None, help, "m", label="wavelength", symbol="λ", above=0)


def _distance_m(default: float) -> Any:
    help = "Distance between the centres of both ends."
    return setting(default, help, "m", label="distance", symbol="D", slider=(0.001, 100_000), above=0)


def _tilt_deg(most: float) -> Any:
    return setting(0.0, "Tilt of the receiver.", "deg", label="tilt", symbol="α", slider=(0, most, 0.5))


def _snr_db() -> Any:
    return setting(20.0, "Signal-to-noise ratio.", "dB", label="SNR", slider=(-20, 60, 1))


def _snr_reference() -> Any:
    return setting("siso", SNR_REFERENCE, label="SNR refers to", choices=SNR_REFERENCES)


def _seed(of: str) -> Any:
    return setting(0, f"Here: {of}.", label="seed", slider=(0, 1_000_000, 1), least=0, most=MAX_SEED)


@dataclass(frozen=True)
class LinkConfig(_Checked):
    """One link between two UCAs. Lengths in metres, angles in degrees as in `Pose.from_angles`."""

    freq_ghz: float | None = _freq_ghz()
    wavelength_m: float | None = _wavelength_m()
    num_tx: int = setting(
        8, "Elements of the transmit ring.", label="transmit elements", symbol="Nₜ", slider=(2, 32, 1), least=2
    )
    num_rx: int = setting(
        8, "Elements of the receive ring.", label="receive elements", symbol="Nᵣ", slider=(2, 32, 1), least=2
    )
    radius_tx_m: float = setting(
        0.5, "Radius of the transmit ring.", "m", label="radius of the transmit ring", symbol="Rₜ", above=0
    )
    radius_rx_m: float = setting(
        0.5, "Radius of the receive ring.", "m", label="radius of the receive ring", symbol="Rᵣ", above=0
    )
    distance_m: float = _distance_m(50.0)
    off_axis_deg: float = setting(
        0.0,
        "Angle of the receiver off the transmit axis.",
        "deg",
        label="off-axis angle",
        symbol="θ",
        slider=(0, 60, 0.5),
    )
    azimuth_deg: float = setting(
        0.0, "Azimuth of that angle.", "deg", label="azimuth", symbol="ϑ", slider=(-180, 180, 5)
    )
    tilt_deg: float = _tilt_deg(80)
    tilt_azimuth_deg: float = setting(
        0.0, "Azimuth towards which it is tilted.", "deg", label="tilt azimuth", symbol="γ", slider=(-180, 180, 5)
    )
    spin_deg: float = setting(
        0.0,
        "Spin of the receiver about its own normal.",
        "deg",
        label="spin",
        symbol="ψ₀",
        slider=(-180, 180, 1),
    )
    angle_error_deg: float = setting(
        0.0,
        "Error of the tilt that BePre by angle and geom believe.",
        "deg",
        label="angle error",
        slider=(0, 5, 0.01),
    )
    snr_db: float = _snr_db()
    snr_reference: str = _snr_reference()
    power: str = setting("equal", "Power over the modes.", label="power over the modes", choices=POWERS)

    def link(self) -> "LinkGeometry":
        from .geometry import UCA, LinkGeometry

        return LinkGeometry(
            UCA(self.num_tx, self.radius_tx_m), UCA(self.num_rx, self.radius_rx_m), self._pose(0.0), **wave(self)
        )

    def believed(self, link: "LinkGeometry") -> "LinkGeometry":
        """The link, with `angle_error_deg` added to the tilt, as the transmitter and receiver take it."""
        from .geometry import altered

        if isinstance(self.angle_error_deg, int | float) and not self.angle_error_deg:
            return link
        pose = self._pose(self.angle_error_deg).map_tensors(lambda tensor, _: tensor.to(link.wavelength_m.device))
        return altered(link, pose=pose)

    def _pose(self, error_deg: float) -> "Pose":
        from .geometry import Pose

        angles = (
            self.off_axis_deg,
            self.azimuth_deg,
            self.tilt_deg + error_deg,
            self.tilt_azimuth_deg,
            self.spin_deg,
        )
        return Pose.from_angles(self.distance_m, *(angle * (math.pi / 180) for angle in angles))


@dataclass(frozen=True)
class OEMConfig(_Checked):
    """Two equal grids of UCAs. A focal length puts every UCA into a dish."""

    freq_ghz: float | None = _freq_ghz()
    wavelength_m: float | None = _wavelength_m()
    rows: int = setting(2, "Rows of UCAs at each end.", label="rows of UCAs", slider=(1, 4, 1), least=1)
    columns: int = setting(2, "Columns of UCAs at each end.", label="columns of UCAs", slider=(1, 4, 1), least=1)
    num_elements: int = setting(
        8, "Elements of each UCA.", label="elements of each UCA", symbol="N", slider=(2, 16, 1), least=2
    )
    radius_m: float = setting(0.1, "Radius of each UCA.", "m", label="radius of each UCA", symbol="R", above=0)
    pitch_m: float = setting(
        0.3, "Spacing of neighbouring UCAs, at least twice the radius.", "m", label="pitch", above=0
    )
    distance_m: float = _distance_m(5.0)
    tilt_deg: float = _tilt_deg(60)
    focal_length_m: float | None = setting(
        None,
        "Focal length of a dish at every UCA; no dish without it.",
        "m",
        label="focal length of dishes",
        slider=(0.001, 1000),
        above=0,
    )
    dish_radius_m: float | None = setting(
        None, "Radius of the dish, to be warned of truncated modes.", "m", label="radius of the dish", above=0
    )
    snr_db: float = _snr_db()
    snr_reference: str = _snr_reference()

    def link(self) -> "LinkGeometry":
        from .geometry import UCA, LinkGeometry, Pose, UCAGrid

        grid = UCAGrid(UCA(self.num_elements, self.radius_m), self.rows, self.columns, self.pitch_m)
        pose = Pose.from_angles(self.distance_m, tilt_rad=self.tilt_deg * (math.pi / 180))
        return LinkGeometry(grid, grid, pose, **wave(self))


def wave(config: LinkConfig | OEMConfig) -> dict[str, Any]:
    """Wavelength and frequency as `LinkGeometry` takes them; 1 cm where none is given. ValueError where both are."""
    if config.wavelength_m is None and config.freq_ghz is None:
        return {"wavelength_m": DEFAULT_WAVELENGTH_M}
    if config.wavelength_m is not None and config.freq_ghz is not None:
        raise ValueError(
            "`freq_ghz` must not be given together with `wavelength_m`, from which it follows. Leave one of them out."
        )
    return {
        "wavelength_m": config.wavelength_m,
        "freq_hz": None if config.freq_ghz is None else config.freq_ghz * 1e9,
    }


def axis_label(name: str) -> str:
    """A number of the link as an axis of a picture names it, with its unit: `SNR (dB)`."""
    return labelled(LinkConfig.__dataclass_fields__[name])


ANY = (-100_000.0, 100_000.0)
SWEEPABLE = tuple(f.name for f in fields(LinkConfig) if f.type in (float, float | None))


@dataclass(frozen=True)
class NoOptions:
    """An experiment that has the settings of its link only."""


@dataclass(frozen=True)
class SweepOptions(_Checked):
    """`param` runs from `start` to `stop` in `num` steps. All three must be given, by a preset or one by one."""

    param: str = setting(None, f"What changes: {', '.join(SWEEPABLE)}.", label="sweep", choices=SWEEPABLE)
    start: float = setting(None, "First value, in the unit of what changes.", label="from", slider=ANY)
    stop: float = setting(None, "Last value, in the unit of what changes.", label="to", slider=ANY)
    num: int = setting(61, "Number of values.", label="points", slider=(2, 401, 1), least=2, most=MAX_STEPS)

    def __post_init__(self):
        super().__post_init__()
        swept = next((f for f in fields(LinkConfig) if f.name == self.param), None)
        for name in ("start", "stop"):
            value = getattr(self, name)
            if swept is not None and value is not None and not fits(swept, value):
                raise ValueError(f"`{name}` must be {allowed(swept)}, as it is a {self.param}; got {value!r}.")


@dataclass(frozen=True)
class DofOptions(_Checked):
    distances_m: tuple[float, ...] = setting((10.0, 20.0, 50.0, 100.0, 200.0), "Distances, with commas.", "m", above=0)
    snrs_db: tuple[float, ...] = setting((0.0, 10.0, 20.0, 30.0), "Signal-to-noise ratios, with commas.", "dB")
    rhos: tuple[float, ...] = setting(
        (0.0, 0.5, 0.9), "Correlations of neighbours in the Kronecker channels, with commas.", least=0, below=1
    )
    num_draws: int = setting(500, "Kronecker channels to average over.", least=2)
    seed: int = _seed("the Kronecker channels")


@dataclass(frozen=True)
class BEROptions(_Checked):
    snrs_db: tuple[float, ...] = setting(
        (0.0, 4.0, 8.0, 12.0, 16.0, 20.0), "Signal-to-noise ratios, with commas.", "dB"
    )
    order: int = setting(4, "Points of the constellation: QPSK, 16-QAM or 64-QAM.", label="QAM order", choices=ORDERS)
    num_symbols: int = setting(10_000, "Symbols on each mode for each channel estimate.", least=1)
    precoding: str = setting("plain", "BePre at the transmitter; plain: none.", label="BePre", choices=PRECODINGS)
    detector: str = setting(
        "mode", "Detection of each mode by itself, or of all together.", label="detector", choices=DETECTORS
    )
    pilot_snr_db: float | None = setting(
        None, "Energy of the pilots; without it the channel is known.", "dB", label="pilot SNR", slider=(-20, 80)
    )
    num_channels: int = setting(1, "Independent channel estimates.", least=1)
    seed: int = _seed("symbols, noise and estimates")


@dataclass(frozen=True)
class FieldOptions(_Checked):
    mode: int = setting(1, "Mode, signed or as index 0..N-1.", label="mode", symbol="l", slider=(-16, 16, 1))
    extent_m: float | None = setting(None, "Side of the plane; four radii without it.", "m", above=0)
    num_pixels: int = setting(128, "Pixels along a side.", least=2, most=MAX_PIXELS)


@dataclass(frozen=True)
class Experiment:
    """
    Attributes:
        about: what it shows.
        config, options: where its settings are declared.
        unused: settings of `config` that it does not use, or takes as a list.
    """

    about: str
    config: type[LinkConfig] | type[OEMConfig]
    options: type
    unused: frozenset[str] = frozenset()


EXPERIMENTS = {
    "simulate": Experiment("All schemes on one link, mode by mode.", LinkConfig, NoOptions),
    "sweep": Experiment("All schemes while one number of the link changes.", LinkConfig, SweepOptions),
    "dof": Experiment(
        "Capacity and degrees of freedom against lines of antennas and Kronecker MIMO.",
        LinkConfig,
        DofOptions,
        frozenset({"distance_m", "snr_db", "snr_reference", "power", "angle_error_deg"}),
    ),
    "oem": Experiment("OAM-embedded MIMO: the promise, the detectors, the bounds.", OEMConfig, NoOptions),
    "ber": Experiment(
        "Bit error rates of every mode, with their closed form.",
        LinkConfig,
        BEROptions,
        frozenset({"snr_db", "power"}),
    ),
    "field": Experiment(
        "Phase and intensity of one mode on a plane.",
        LinkConfig,
        FieldOptions,
        frozenset({f.name for f in fields(LinkConfig)})
        - {"freq_ghz", "wavelength_m", "num_tx", "radius_tx_m", "distance_m"},
    ),
}


def settings_of(experiment: str) -> list[Field]:
    """What can be set, the experiment's own settings first."""
    entry = EXPERIMENTS[experiment]
    return [*fields(entry.options), *(f for f in fields(entry.config) if f.name not in entry.unused)]
