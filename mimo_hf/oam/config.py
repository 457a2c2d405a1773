"""The noise of a configuration, the parameters an experiment writes into its result, and the result."""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from .formulas import noise_variance
from .geometry import LinkGeometry
from .settings import DEFAULT_WAVELENGTH_M, EXPERIMENTS, SWEEPABLE, LinkConfig, OEMConfig, wave


def noise_of(config: LinkConfig | OEMConfig, link: LinkGeometry, h: Tensor, snr_db: Tensor | None = None) -> Tensor:
    """Of the SNR that is configured, or of `snr_db`, `[...]`."""
    snr_db = torch.tensor(config.snr_db, dtype=torch.float64) if snr_db is None else snr_db
    return noise_variance(snr_db, config.snr_reference, link, h)


def parameters_of(experiment: str, config: LinkConfig | OEMConfig, **more: Any) -> dict[str, Any]:
    """Everything a result depends on, with versions. What is None in `more` is left out, and its setting too."""
    unused = EXPERIMENTS[experiment].unused | {name for name, value in more.items() if value is None}
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
        draw: makes the picture with the module it is given, `mimo_hf.drawing`, which this room does not import.
    """

    experiment: str
    parameters: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    notes: list[str]
    draw: Callable[[Any], Any] = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        names = ("experiment", "parameters", "summary", "rows", "notes")
        return {name: getattr(self, name) for name in names}


__all__ = ["SWEEPABLE", "LinkConfig", "OEMConfig", "Result", "parameters_of", "wave"]
