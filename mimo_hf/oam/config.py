"""Settings of the experiments as plain numbers (degrees, GHz), and the results they give."""

import math
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from .geometry import UCA, LinkGeometry, Pose, UCAGrid
from .metrics import SNR_REFERENCES
from .simulate import POWERS

DEFAULT_WAVELENGTH_M = 0.01


def _setting(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class LinkConfig:
    """One link between two UCAs. Lengths in metres, angles in degrees as in `Pose.from_angles`."""

    freq_ghz: float | None = _setting(None, "carrier frequency in GHz, instead of the wavelength")
    wavelength_m: float | None = _setting(None, "wavelength in m; 0.01 where no frequency is given")
    num_tx: int = _setting(8, "elements of the transmit ring")
    num_rx: int = _setting(8, "elements of the receive ring")
    radius_tx_m: float = _setting(0.5, "radius of the transmit ring in m")
    radius_rx_m: float = _setting(0.5, "radius of the receive ring in m")
    distance_m: float = _setting(50.0, "distance of the centres in m")
    off_axis_deg: float = _setting(0.0, "angle of the receiver off the transmit axis in degrees")
    azimuth_deg: float = _setting(0.0, "azimuth of that angle in degrees")
    tilt_deg: float = _setting(0.0, "tilt of the receiver in degrees")
    tilt_azimuth_deg: float = _setting(0.0, "azimuth towards which it is tilted in degrees")
    spin_deg: float = _setting(0.0, "spin of the receiver about its own normal in degrees")
    angle_error_deg: float = _setting(0.0, "error of the tilt that BePre by angle and geom believe, in degrees")
    snr_db: float = _setting(20.0, "SNR in dB")
    snr_reference: str = _setting("siso", "what the SNR refers to", SNR_REFERENCES)
    power: str = _setting("equal", "power over the modes", POWERS)

    def link(self, believed: bool = False) -> LinkGeometry:
        """The link; `believed`: with `angle_error_deg` added to the tilt, as the transmitter and receiver take it."""
        tilt = self.tilt_deg + self.angle_error_deg if believed else self.tilt_deg
        angles = (self.off_axis_deg, self.azimuth_deg, tilt, self.tilt_azimuth_deg, self.spin_deg)
        return LinkGeometry(
            UCA(self.num_tx, self.radius_tx_m),
            UCA(self.num_rx, self.radius_rx_m),
            Pose.from_angles(self.distance_m, *(angle * (math.pi / 180) for angle in angles)),
            **wave(self),
        )


@dataclass(frozen=True)
class OEMConfig:
    """Two equal grids of UCAs. A focal length puts every UCA into a dish."""

    freq_ghz: float | None = _setting(None, "carrier frequency in GHz, instead of the wavelength")
    wavelength_m: float | None = _setting(None, "wavelength in m; 0.01 where no frequency is given")
    rows: int = _setting(2, "rows of UCAs at each end")
    columns: int = _setting(2, "columns of UCAs at each end")
    num_elements: int = _setting(8, "elements of each UCA")
    radius_m: float = _setting(0.1, "radius of each UCA in m")
    pitch_m: float = _setting(0.3, "spacing of neighbouring UCAs in m, at least twice the radius")
    distance_m: float = _setting(5.0, "distance of the grids in m")
    tilt_deg: float = _setting(0.0, "tilt of the receiver in degrees")
    focal_length_m: float | None = _setting(None, "focal length in m of a dish at every UCA; no dish without it")
    dish_radius_m: float | None = _setting(None, "radius of the dish in m, to be warned of truncated modes")
    snr_db: float = _setting(20.0, "SNR in dB")
    snr_reference: str = _setting("siso", "what the SNR refers to", SNR_REFERENCES)

    def link(self) -> LinkGeometry:
        grid = UCAGrid(UCA(self.num_elements, self.radius_m), self.rows, self.columns, self.pitch_m)
        pose = Pose.from_angles(self.distance_m, tilt_rad=self.tilt_deg * (math.pi / 180))
        return LinkGeometry(grid, grid, pose, **wave(self))


SWEEPABLE = tuple(f.name for f in fields(LinkConfig) if f.type in (float, float | None))

# Settings that an experiment does not use, or takes as a list.
UNUSED: dict[str, set[str]] = {
    "simulate": set(),
    "sweep": set(),
    "dof": {"distance_m", "snr_db", "snr_reference", "power", "angle_error_deg"},
    "oem": set(),
    "ber": {"snr_db", "power"},
    "field": {f.name for f in fields(LinkConfig)}
    - {"freq_ghz", "wavelength_m", "num_tx", "radius_tx_m", "distance_m"},
}


def wave(config: LinkConfig | OEMConfig) -> dict[str, Any]:
    """Wavelength and frequency as `LinkGeometry` takes them, which refuses both at once; 1 cm where none is given."""
    if config.wavelength_m is None and config.freq_ghz is None:
        return {"wavelength_m": DEFAULT_WAVELENGTH_M}
    return {
        "wavelength_m": config.wavelength_m,
        "freq_hz": None if config.freq_ghz is None else config.freq_ghz * 1e9,
    }


def parameters_of(experiment: str, config: LinkConfig | OEMConfig, **more: Any) -> dict[str, Any]:
    """Everything a result depends on, with versions. What is None in `more` is left out, and its setting too."""
    unused = UNUSED[experiment] | {name for name, value in more.items() if value is None}
    settings = {name: value for name, value in asdict(config).items() if value is not None and name not in unused}
    if not {"freq_ghz", "wavelength_m"} & (settings.keys() | unused):
        settings["wavelength_m"] = DEFAULT_WAVELENGTH_M
    more = {name: value for name, value in more.items() if value is not None}
    try:
        version = metadata.version("mimo_hf")
    except metadata.PackageNotFoundError:
        version = "not installed"
    versions = {"mimo_hf": version, "torch": torch.__version__, "python": platform.python_version()}
    return {**settings, **more, "versions": versions}


@dataclass(frozen=True)
class Result:
    """
    Attributes:
        parameters: everything the result depends on, with seed and versions.
        summary: numbers that are not a table.
        rows: the table, one dict a row, all with the same keys.
        notes: what the numbers show, and the warnings that came up.
        draw: makes the picture, a uint8 image.
    """

    experiment: str
    parameters: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    notes: list[str]
    draw: Callable[[], Tensor] = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        names = ("experiment", "parameters", "summary", "rows", "notes")
        return {name: getattr(self, name) for name in names}
