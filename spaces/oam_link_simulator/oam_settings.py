"""Everything a user can set: one table of settings with their query keys, labels and limits. Presets map onto it."""

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any
from urllib.parse import urlencode

from mimo_hf.oam.presets import PRESETS
from mimo_hf.oam.settings import BEROptions, FieldOptions, LinkConfig, OEMConfig, SweepOptions, shown_unit

VERSION = 1  # of the query string
SPEED_OF_LIGHT_M_GHZ = 0.299792458
TABS = ("link", "modes", "interference", "detection", "efficiency", "mimo", "oem", "docs")
SCHEMES = ("plain", "bepre_angle", "bepre_geom", "bepre_svd", "mmse")
# What can be swept, from where to where.
SWEEPS = {
    "snr_db": (-10.0, 40.0),
    "tilt_deg": (0.0, 60.0),
    "off_axis_deg": (0.0, 30.0),
    "distance_m": (5.0, 200.0),
    "angle_error_deg": (0.0, 0.2),
    "spin_deg": (0.0, 45.0),
    "freq_ghz": (10.0, 60.0),
}


@dataclass(frozen=True)
class Control:
    """
    How the page shows a setting: as it is declared in `mimo_hf.oam.settings`, but for what is the page's own.

    Attributes:
        key: in the query string.
        declared: the setting's declaration; None: only the page has it.
        unit, prefix, own: the page's own unit, words before its label, and other properties.
    """

    key: str
    declared: Field | None = None
    unit: str | None = None
    prefix: str = ""
    own: Mapping[str, Any] = field(default_factory=dict)

    def _of(self, name: str) -> Any:
        return self.own[name] if name in self.own else self.declared.metadata[name] if self.declared else None

    @property
    def label(self) -> str:
        words = f"{self.prefix} {self._of('label')} {self._of('symbol') or ''}".strip()
        unit = self.unit if self.unit is not None or self.declared is None else shown_unit(self.declared)
        return words[0].upper() + words[1:] + (f" ({unit})" if unit else "")

    @property
    def info(self) -> str | None:
        meaning = self._of("help")
        return None if meaning is None or self._of("label") == meaning[0].lower() + meaning[1:-1] else meaning

    @property
    def choices(self) -> tuple[str, ...] | None:
        found = self._of("choices")
        return None if found is None else tuple(map(str, found))

    @property
    def many(self) -> bool:
        return "many" in self.own

    @property
    def range(self) -> tuple[float, float]:
        return self._of("slider")[:2]

    @property
    def step(self) -> float | None:
        ends = self._of("slider")
        return ends[2] if ends is not None and len(ends) > 2 else None


def _setting(key: str, declared: Field | None = None, default: Any = None, unit=None, prefix="", **own: Any) -> Any:
    control = Control(key, declared, unit, prefix, own)
    return field(default=declared.default if default is None and declared else default, metadata={"control": control})


LINK, OEM, BER, FIELD, SWEEP = (
    {f.name: f for f in fields(of)} for of in (LinkConfig, OEMConfig, BEROptions, FieldOptions, SweepOptions)
)
RING, UCA, PITCH = (0.05, 10_000), (0.05, 1000), (0.1, 10_000)  # in wavelengths


@dataclass(frozen=True)
class Settings:
    """One user's settings. Lengths of arrays in wavelengths, distances in metres, angles in degrees."""

    preset: str = _setting("p", default="claim-bepre-tilt", label="preset", choices=tuple(PRESETS))
    tab: str = _setting("t", default="link", label="tab", choices=TABS)

    freq_ghz: float = _setting("f", LINK["freq_ghz"], 29.9792458, help="1 cm at 29.979 GHz.")
    num_tx: int = _setting("nt", LINK["num_tx"])
    num_rx: int = _setting("nr", LINK["num_rx"])
    radius_tx_wl: float = _setting("rt", LINK["radius_tx_m"], 50.0, "λ", slider=RING)
    radius_rx_wl: float = _setting("rr", LINK["radius_rx_m"], 50.0, "λ", slider=RING)
    distance_m: float = _setting("d", LINK["distance_m"])
    off_axis_deg: float = _setting("th", LINK["off_axis_deg"])
    azimuth_deg: float = _setting("az", LINK["azimuth_deg"])
    tilt_deg: float = _setting("al", LINK["tilt_deg"], 10.0)
    tilt_azimuth_deg: float = _setting("ga", LINK["tilt_azimuth_deg"], 25.0)
    spin_deg: float = _setting("sp", LINK["spin_deg"])

    snr_db: float = _setting("snr", LINK["snr_db"])
    snr_reference: str = _setting("ref", LINK["snr_reference"])
    power: str = _setting("pw", LINK["power"])
    precoding: str = _setting("bp", BER["precoding"], "geom")
    angle_error_deg: float = _setting("ea", LINK["angle_error_deg"])
    schemes: tuple[str, ...] = _setting(
        "sch", default=SCHEMES, label="schemes", help="The capacity is always drawn.", choices=SCHEMES, many=True
    )
    modulation: str = _setting("mod", BER["order"], "4")
    detector: str = _setting("det", BER["detector"])
    pilot_snr_db: float | None = _setting("pe", BER["pilot_snr_db"])
    seed: int = _setting("seed", BER["seed"])

    mode: int = _setting("m", FIELD["mode"])
    sweep: str = _setting("sx", SWEEP["param"], "tilt_deg", choices=tuple(SWEEPS), help=None)
    sweep_start: float = _setting("s0", SWEEP["start"], 0.0)
    sweep_stop: float = _setting("s1", SWEEP["stop"], 60.0)
    sweep_num: int = _setting("sn", SWEEP["num"])
    mimo_start_m: float = _setting("m0", LINK["distance_m"], 5.0, prefix="least", symbol="", help=None)
    mimo_stop_m: float = _setting("m1", LINK["distance_m"], 200.0, prefix="greatest", symbol="", help=None)

    oem_rows: int = _setting("or", OEM["rows"])
    oem_columns: int = _setting("oc", OEM["columns"])
    oem_elements: int = _setting("ol", OEM["num_elements"])
    oem_radius_wl: float = _setting("ora", OEM["radius_m"], 10.0, "λ", slider=UCA)
    oem_pitch_wl: float = _setting("op", OEM["pitch_m"], 30.0, "λ", slider=PITCH)
    oem_distance_m: float = _setting("od", OEM["distance_m"])
    oem_tilt_deg: float = _setting("ot", OEM["tilt_deg"])
    oem_focal_m: float | None = _setting("of", OEM["focal_length_m"])

    @property
    def wavelength_m(self) -> float:
        if not self.freq_ghz > 0:
            raise ValueError(f"{CONTROLS['freq_ghz'].label} must be above 0; got {self.freq_ghz}.")
        return SPEED_OF_LIGHT_M_GHZ / self.freq_ghz

    def _length_m(self, wavelengths: float) -> float:
        return wavelengths * self.wavelength_m

    def link_config(self) -> LinkConfig:
        same: dict[str, Any] = {
            name: getattr(self, name) for name in LINK if hasattr(self, name) and name != "wavelength_m"
        }
        radii: dict[str, Any] = {
            f"radius_{end}_m": self._length_m(getattr(self, f"radius_{end}_wl")) for end in ("tx", "rx")
        }
        return LinkConfig(**same, **radii)

    def oem_config(self) -> OEMConfig:
        own: dict[str, Any] = {name: getattr(self, at) for name, at in OEM_CONTROLS.items()}
        lengths: dict[str, Any] = {
            f"{name}_m": self._length_m(getattr(self, f"oem_{name}_wl")) for name in ("radius", "pitch")
        }
        same = {name: getattr(self, name) for name in ("freq_ghz", "snr_db", "snr_reference")}
        return OEMConfig(**own, **lengths, **same)

    def to_query(self) -> str:
        """The query string of a link to these settings: `?v=1`, the preset, and what differs from it."""
        base = Settings.from_preset(self.preset)
        pairs: dict[str, Any] = {"v": VERSION, "p": self.preset}
        for name, meta in CONTROLS.items():
            value = getattr(self, name)
            if value != getattr(base, name):
                pairs[meta.key] = ",".join(value) if meta.many else "" if value is None else value
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
            if name != "preset" and meta.key in query:
                try:
                    settings = replace(settings, **{name: parse(name, query[meta.key])})
                except ValueError as error:
                    problems.append(f"{error} Using {getattr(settings, name)}.")
        return settings, problems

    @classmethod
    def from_preset(cls, name: str) -> "Settings":
        preset = PRESETS[name]
        start = cls(preset=name, tilt_deg=0.0, tilt_azimuth_deg=0.0)
        return replace(start, **_OF_COMMAND[preset.command](preset.settings))


CONTROLS: dict[str, Control] = {f.name: f.metadata["control"] for f in fields(Settings)}
_KINDS = {f.name: f.type for f in fields(Settings)}


def parse(name: str, text: str) -> Any:
    """The value of one setting from its text in a link. Raises ValueError naming the setting and what is allowed."""
    meta, kind = CONTROLS[name], _KINDS[name]
    label = f"{meta.label} ({meta.key})"
    if meta.many and meta.choices:
        return tuple(parse_choice(label, part, meta.choices) for part in text.split(",") if part)
    if meta.choices:
        return parse_choice(label, text, meta.choices)
    if kind == float | None and not text.strip():
        return None
    try:
        value = int(text) if kind is int else float(text)
    except ValueError:
        raise ValueError(
            f"{label} must be {'a whole number' if kind is int else 'a number'}; got {text[:20]!r}."
        ) from None
    low, high = meta.range
    if not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{label} must lie between {low:g} and {high:g}; got {text[:20]}.")
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
    if CONTROLS[name].many:
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
    own = {OEM_CONTROLS[name]: value for name, value in settings.items() if name in OEM_CONTROLS}
    if "radius_m" in settings:
        own["oem_radius_wl"] = round(settings["radius_m"] / OEM_WAVELENGTH_M, 6)
    return {**own, "tab": "oem"}


OEM_WAVELENGTH_M = 0.01
OEM_CONTROLS = {
    "rows": "oem_rows",
    "columns": "oem_columns",
    "num_elements": "oem_elements",
    "tilt_deg": "oem_tilt_deg",
    "distance_m": "oem_distance_m",
    "focal_length_m": "oem_focal_m",
}
_OF_COMMAND = {"sweep": _sweep_preset, "dof": _dof_preset, "oem": _oem_preset}
