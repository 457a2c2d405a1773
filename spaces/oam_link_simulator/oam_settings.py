"""Everything a user can set: one table of settings with their query keys, labels and limits. Presets map onto it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import urlencode

from mimo_hf.oam.config import LinkConfig, OEMConfig
from mimo_hf.oam.presets import PRESETS

VERSION = 1  # of the query string
SPEED_OF_LIGHT_M_GHZ = 0.299792458
TABS = ("link", "modes", "interference", "detection", "efficiency", "mimo", "oem", "docs")
SCHEMES = ("plain", "bepre_angle", "bepre_geom", "bepre_svd", "mmse")
# What can be swept: label with unit, start, stop.
SWEEPS = {
    "snr_db": ("SNR (dB)", -10.0, 40.0),
    "tilt_deg": ("Tilt α (°)", 0.0, 60.0),
    "off_axis_deg": ("Off-axis angle θ (°)", 0.0, 30.0),
    "distance_m": ("Distance D (m)", 5.0, 200.0),
    "angle_error_deg": ("Angle error (°)", 0.0, 0.2),
    "spin_deg": ("Spin ψ₀ (°)", 0.0, 45.0),
    "freq_ghz": ("Frequency (GHz)", 10.0, 60.0),
}


def _setting(
    default: Any,
    key: str,
    label: str,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] | None = None,
    many: bool = False,
    info: str | None = None,
) -> Any:
    names = {"key": key, "label": label, "low": low, "high": high, "step": step}
    return field(default=default, metadata={**names, "choices": choices, "many": many, "info": info})


@dataclass(frozen=True)
class Settings:
    """One user's settings. Lengths of arrays in wavelengths, distances in metres, angles in degrees."""

    preset: str = _setting("claim-bepre-tilt", "p", "Preset", choices=tuple(PRESETS))
    tab: str = _setting("link", "t", "Tab", choices=TABS)

    freq_ghz: float = _setting(29.9792458, "f", "Frequency (GHz)", 0.1, 1000)
    num_tx: int = _setting(8, "nt", "Transmit elements Nₜ", 2, 32, 1)
    num_rx: int = _setting(8, "nr", "Receive elements Nᵣ", 2, 32, 1)
    radius_tx_wl: float = _setting(50.0, "rt", "Transmit radius Rₜ (λ)", 0.05, 10_000)
    radius_rx_wl: float = _setting(50.0, "rr", "Receive radius Rᵣ (λ)", 0.05, 10_000)
    distance_m: float = _setting(50.0, "d", "Distance D (m)", 0.001, 100_000)
    off_axis_deg: float = _setting(0.0, "th", "Off-axis angle θ (°)", 0, 60, 0.5)
    azimuth_deg: float = _setting(0.0, "az", "Azimuth ϑ of the offset (°)", -180, 180, 5)
    tilt_deg: float = _setting(10.0, "al", "Tilt α (°)", 0, 80, 0.5)
    tilt_azimuth_deg: float = _setting(25.0, "ga", "Azimuth γ of the tilt (°)", -180, 180, 5)
    spin_deg: float = _setting(0.0, "sp", "Spin ψ₀ (°)", -180, 180, 1)

    snr_db: float = _setting(20.0, "snr", "SNR (dB)", -20, 60, 1)
    snr_reference: str = _setting(
        "siso",
        "ref",
        "SNR refers to",
        choices=("siso", "tx", "frobenius"),
        info="siso: one antenna pair · tx: power over noise · frobenius: the whole channel",
    )
    power: str = _setting("equal", "pw", "Power over modes", choices=("equal", "waterfill"))
    precoding: str = _setting(
        "geom",
        "bp",
        "BePre",
        choices=("plain", "angle", "geom", "svd"),
        info="plain: none. Used in maps and detection",
    )
    angle_error_deg: float = _setting(0.0, "ea", "Tilt error that BePre believes (°)", 0, 5, 0.01)
    schemes: tuple[str, ...] = _setting(
        SCHEMES, "sch", "Schemes in the curves (capacity is always drawn)", choices=SCHEMES, many=True
    )
    modulation: str = _setting("4", "mod", "QAM order", choices=("4", "16", "64"))
    detector: str = _setting("mode", "det", "Detector", choices=("mode", "zf", "mmse"))
    pilot_snr_db: float | None = _setting(None, "pe", "Pilot SNR (dB), empty: known channel", -20, 80)
    seed: int = _setting(0, "seed", "Seed", 0, 1_000_000, 1)

    mode: int = _setting(1, "m", "Mode l", -16, 16, 1)
    sweep: str = _setting("tilt_deg", "sx", "Sweep", choices=tuple(SWEEPS))
    sweep_start: float = _setting(0.0, "s0", "From", -100_000, 100_000)
    sweep_stop: float = _setting(60.0, "s1", "To", -100_000, 100_000)
    sweep_num: int = _setting(61, "sn", "Points", 2, 401, 1)
    mimo_start_m: float = _setting(5.0, "m0", "Distances from (m)", 0.001, 100_000)
    mimo_stop_m: float = _setting(200.0, "m1", "to (m)", 0.001, 100_000)

    oem_rows: int = _setting(2, "or", "Rows of UCAs", 1, 4, 1)
    oem_columns: int = _setting(2, "oc", "Columns of UCAs", 1, 4, 1)
    oem_elements: int = _setting(8, "ol", "Elements of each UCA", 2, 16, 1)
    oem_radius_wl: float = _setting(10.0, "ora", "Radius of each UCA (λ)", 0.05, 1000)
    oem_pitch_wl: float = _setting(30.0, "op", "Pitch (λ)", 0.1, 10_000)
    oem_distance_m: float = _setting(5.0, "od", "Distance of the grids (m)", 0.001, 100_000)
    oem_tilt_deg: float = _setting(0.0, "ot", "Tilt of the receiver (°)", 0, 60, 0.5)
    oem_focal_m: float | None = _setting(None, "of", "Focal length of dishes (m), empty: no dish", 0.001, 1000)

    @property
    def wavelength_m(self) -> float:
        if not self.freq_ghz > 0:
            raise ValueError(f"Frequency must be above 0 GHz; got {self.freq_ghz}.")
        return SPEED_OF_LIGHT_M_GHZ / self.freq_ghz

    def link_config(self) -> LinkConfig:
        return LinkConfig(
            freq_ghz=self.freq_ghz,
            num_tx=self.num_tx,
            num_rx=self.num_rx,
            radius_tx_m=self.radius_tx_wl * self.wavelength_m,
            radius_rx_m=self.radius_rx_wl * self.wavelength_m,
            distance_m=self.distance_m,
            off_axis_deg=self.off_axis_deg,
            azimuth_deg=self.azimuth_deg,
            tilt_deg=self.tilt_deg,
            tilt_azimuth_deg=self.tilt_azimuth_deg,
            spin_deg=self.spin_deg,
            angle_error_deg=self.angle_error_deg,
            snr_db=self.snr_db,
            snr_reference=self.snr_reference,
            power=self.power,
        )

    def oem_config(self) -> OEMConfig:
        return OEMConfig(
            freq_ghz=self.freq_ghz,
            rows=self.oem_rows,
            columns=self.oem_columns,
            num_elements=self.oem_elements,
            radius_m=self.oem_radius_wl * self.wavelength_m,
            pitch_m=self.oem_pitch_wl * self.wavelength_m,
            distance_m=self.oem_distance_m,
            tilt_deg=self.oem_tilt_deg,
            focal_length_m=self.oem_focal_m,
            snr_db=self.snr_db,
            snr_reference=self.snr_reference,
        )

    def to_query(self) -> str:
        """The query string of a link to these settings: `?v=1`, the preset, and what differs from it."""
        base = Settings.from_preset(self.preset)
        pairs: dict[str, Any] = {"v": VERSION, "p": self.preset}
        for name, meta in CONTROLS.items():
            value = getattr(self, name)
            if value != getattr(base, name):
                pairs[meta["key"]] = ",".join(value) if meta["many"] else "" if value is None else value
        return "?" + urlencode(pairs)

    @classmethod
    def from_query(cls, query: Mapping[str, str]) -> tuple["Settings", list[str]]:
        """Settings of a link, and what was wrong with it. Bad values fall back to the preset's; unknown keys do nothing."""
        problems = []
        if query.get("v", str(VERSION)) != str(VERSION):
            problems.append(
                f"This link was made for version {query['v'][:20]!r} of the simulator; reading what it can."
            )
        preset = query.get("p", cls.preset)
        if preset not in PRESETS:
            problems.append(f"There is no preset {preset[:40]!r}; using {cls.preset!r}.")
            preset = cls.preset
        settings = cls.from_preset(preset)
        for name, meta in CONTROLS.items():
            if name != "preset" and meta["key"] in query:
                try:
                    settings = replace(settings, **{name: parse(name, query[meta["key"]])})
                except ValueError as error:
                    problems.append(f"{error} Using {getattr(settings, name)}.")
        return settings, problems

    @classmethod
    def from_preset(cls, name: str) -> "Settings":
        preset = PRESETS[name]
        start = cls(preset=name, tilt_deg=0.0, tilt_azimuth_deg=0.0)
        return replace(start, **_OF_COMMAND[preset.command](preset.settings))


CONTROLS: dict[str, Mapping[str, Any]] = {f.name: f.metadata for f in fields(Settings)}
_KINDS = {f.name: f.type for f in fields(Settings)}


def parse(name: str, text: str) -> Any:
    """The value of one setting from its text in a link. Raises ValueError naming the setting and what is allowed."""
    meta, kind = CONTROLS[name], _KINDS[name]
    label = f"{meta['label']} ({meta['key']})"
    if meta["many"]:
        return tuple(parse_choice(label, part, meta["choices"]) for part in text.split(",") if part)
    if meta["choices"]:
        return parse_choice(label, text, meta["choices"])
    if kind == float | None and not text.strip():
        return None
    try:
        value = int(text) if kind is int else float(text)
    except ValueError:
        raise ValueError(
            f"{label} must be {'a whole number' if kind is int else 'a number'}; got {text[:20]!r}."
        ) from None
    if not math.isfinite(value) or not meta["low"] <= value <= meta["high"]:
        raise ValueError(f"{label} must lie between {meta['low']:g} and {meta['high']:g}; got {text[:20]}.")
    return value


def parse_choice(label: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise ValueError(f"{label} must be one of {', '.join(choices)}; got {text[:20]!r}.")
    return text


def from_values(values: Mapping[str, Any]) -> Settings:
    """Settings from the values of the controls. Raises ValueError for what is empty, not finite or out of range."""
    return Settings(**{name: parse(name, _as_text(name, value)) for name, value in values.items()})


def _as_text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if CONTROLS[name]["many"]:
        return ",".join(value)
    # Sliders deliver 8 as 8.0.
    return str(int(value)) if _KINDS[name] is int and isinstance(value, float) and value.is_integer() else str(value)


def _sweep_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    names = {"param": "sweep", "start": "sweep_start", "stop": "sweep_stop", "num": "sweep_num"}
    own = {names.get(name, name): value for name, value in settings.items()}
    shown = {"tilt_deg": 10.0} if settings["param"] == "tilt_deg" else {}
    return {**shown, **own, "tab": "efficiency"}


def _dof_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"distance_m": settings["distances_m"][-1], "tab": "mimo"}


def _oem_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    names = {"rows": "oem_rows", "columns": "oem_columns", "num_elements": "oem_elements", "tilt_deg": "oem_tilt_deg"}
    names |= {"distance_m": "oem_distance_m", "focal_length_m": "oem_focal_m"}
    own = {names[name]: value for name, value in settings.items() if name in names}
    if "radius_m" in settings:
        own["oem_radius_wl"] = round(settings["radius_m"] / OEM_WAVELENGTH_M, 6)
    return {**own, "tab": "oem"}


OEM_WAVELENGTH_M = 0.01
_OF_COMMAND = {"sweep": _sweep_preset, "dof": _dof_preset, "oem": _oem_preset}
