"""
Named settings: `claim-*` show what a paper claims, `counter-*` where it does not hold.

Only the abstracts of the papers give anything to compare with, so the numbers here are settings of this library and
stand for no figure of a paper.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """
    Attributes:
        command: sub-command of `mimo-hf oam` that the settings belong to.
        settings: values of its options.
        about: what to look for.
    """

    command: str
    settings: dict[str, Any]
    about: str


PRESETS = {
    "claim-bepre-tilt": Preset(
        "sweep",
        {"param": "tilt_deg", "start": 0.0, "stop": 60.0, "num": 61, "tilt_azimuth_deg": 25.0},
        "A tilted receiver ruins plain OAM; BePre restores it, exactly with channel knowledge, by angles up to about 20°.",
    ),
    "claim-oem-multiplicative": Preset(
        "oem",
        {"distance_m": 5.0},
        "With blocks taken as circulant, the gains of modes and of UCAs multiply; in exact line of sight they do not.",
    ),
    "claim-oem-dish": Preset(
        "oem",
        {"rows": 1, "columns": 1, "radius_m": 0.03, "distance_m": 20.0, "focal_length_m": 1.0},
        "A dish that converges the beams carries the higher modes over a long link. Compare without a focal length.",
    ),
    "claim-dof-vs-kronecker": Preset(
        "dof",
        {"distances_m": (50.0,), "snrs_db": (0.0, 10.0, 20.0, 30.0)},
        "Aligned and at high SNR, OAM has more capacity than strongly correlated MIMO (rho = 0.9).",
    ),
    "counter-edfors": Preset(
        "sweep",
        {"param": "distance_m", "start": 5.0, "stop": 200.0, "num": 79, "power": "waterfill"},
        "Aligned and water-filled, OAM equals SVD-MIMO of the same rings: a subset of MIMO, never more.",
    ),
    "counter-ula-wins": Preset(
        "dof",
        {"distances_m": (5.0, 20.0), "snrs_db": (0.0, 10.0, 20.0, 30.0)},
        "Two plain lines of antennas of the same aperture beat the rings at these distances.",
    ),
    "counter-oem-intermode": Preset(
        "oem",
        {"distance_m": 50.0},
        "Energy between modes of different UCAs is left out by the scheme's algebra, whose promise here exceeds capacity.",
    ),
    "counter-pointing-tolerance": Preset(
        "sweep",
        {
            "param": "angle_error_deg",
            "start": 0.0,
            "stop": 0.2,
            "num": 41,
            "tilt_deg": 10.0,
            "tilt_azimuth_deg": 25.0,
        },
        "Angles must be known far better than wavelength / (2 pi R), 0.18° here.",
    ),
}


def presets_of(command: str) -> dict[str, Preset]:
    """The presets of one sub-command."""
    return {name: preset for name, preset in PRESETS.items() if preset.command == command}


def preset(name: str, command: str) -> Preset:
    """
    One preset of a sub-command.

    Raises:
        ValueError: there is no such preset, or it belongs to another sub-command.
    """
    own = presets_of(command)
    if name in own:
        return own[name]
    elsewhere = f", which belongs to `mimo-hf oam {PRESETS[name].command}`" if name in PRESETS else ""
    raise ValueError(f"--preset must be one of {', '.join(own)}; got {name!r}{elsewhere}.")
