"""What SALE is told: how tiles are chosen, from which layer and length on, and a threshold for all heads or for each."""

from .. import transformers_versions  # noqa: F401  it refuses a version that is too old

# isort: split

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

CONFIG_NAME = "sale_config.json"
THRESHOLDS_NAME = "sale_thresholds.safetensors"
THRESHOLDS_KEY = "sale_thresholds"
QUANTS = ("thread", "token", "block")
COMPUTES = ("native", "int8")


@dataclass(frozen=True)
class SaleConfig:
    """
    SALE (arXiv 2505.24179) with its published settings as defaults.

    Attributes:
        tau: a tile is kept if a pair in it has a relative attention score above this threshold: one number, or one for each layer and
            head, `[layers][heads]`, as `calibrate` finds them. Below 1e-5 a head stays dense.
        block_q, block_k: queries and keys of a tile.
        local_window: last keys that are always kept, at least so many.
        block_seg: what lies before them comes in whole segments of so many keys.
        sink_tokens: first keys that are always kept.
        quant: rows that share the scale of their 4-bit codes: "thread", "token" or "block".
        smooth: whether queries and keys lose their mean before they become codes.
        share_group: whether the heads of a group keep what any of them does. The paper's choose by themselves.
        min_seq_len: up to so many queries attention is dense.
        start_layer: layers before it stay dense.
        compute: scores over kept tiles in the model's precision ("native"), or from 8-bit codes ("int8").
        theta: mean L1 error of a token's output that calibration allows a head.
        tau_init, tau_floor: where calibration starts halving, and where it makes a head dense instead.
    """

    tau: float | tuple[tuple[float, ...], ...] = 0.004
    block_q: int = 64
    block_k: int = 32
    local_window: int = 128
    block_seg: int = 128
    sink_tokens: int = 32
    quant: str = "thread"
    smooth: bool = True
    share_group: bool = False
    min_seq_len: int = 1024
    start_layer: int = 0
    compute: str = "native"
    theta: float = 0.4
    tau_init: float = 0.008
    tau_floor: float = 1e-4

    def __post_init__(self):
        object.__setattr__(self, "tau", _checked_tau(self.tau))
        for name, unit in (("block_q", 16), ("block_k", 8)):
            _check_whole(name, getattr(self, name), unit, unit)
        for name in ("local_window", "block_seg", "sink_tokens"):
            _check_whole(name, getattr(self, name), self.block_k, self.block_k)
        for name in ("min_seq_len", "start_layer"):
            _check_whole(name, getattr(self, name), 0, 1)
        for name, known in (("quant", QUANTS), ("compute", COMPUTES)):
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` must be {' or '.join(map(repr, known))}; got {getattr(self, name)!r}.")
        for name in ("theta", "tau_init", "tau_floor"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"`{name}` must be a positive number; got {value!r}.")

    @property
    def thresholds(self) -> torch.Tensor | None:
        """`[layers, heads]`, float32; None: one threshold for all."""
        return None if isinstance(self.tau, float) else torch.tensor(self.tau, dtype=torch.float32)

    def with_thresholds(self, thresholds: torch.Tensor) -> "SaleConfig":
        """With one threshold for each layer and head, `[layers, heads]`."""
        return replace(self, tau=thresholds.tolist())

    def tau_of(self, layer: int, heads: int) -> float | torch.Tensor:
        """
        The threshold of a layer's heads: one, or `[heads]`.

        Raises:
            ValueError: the thresholds are of another model.
        """
        if isinstance(self.tau, float):
            return self.tau
        if layer >= len(self.tau) or len(self.tau[layer]) != heads:
            raise ValueError(
                f"`tau` must have a threshold for each layer and head of this model, layer {layer} with {heads} heads; got "
                f"[{len(self.tau)}, {len(self.tau[0])}]. Calibrate this model, or give one number."
            )
        return torch.tensor(self.tau[layer])

    def check_model(self, layers: int, heads: int) -> None:
        """
        Raises:
            ValueError: the thresholds are of another model.
        """
        if not isinstance(self.tau, float) and (len(self.tau), len(self.tau[0])) != (layers, heads):
            raise ValueError(
                f"`tau` must be one number or [{layers}, {heads}], a threshold for each layer and head of this model; got "
                f"[{len(self.tau)}, {len(self.tau[0])}]. Calibrate this model, or give one number."
            )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        if not isinstance(self.tau, float):
            values["tau"] = [list(row) for row in self.tau]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SaleConfig":
        """
        Raises:
            ValueError: a value that can't be, or a name that SALE does not have.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"`sale` must have settings of SaleConfig, {', '.join(known)}; got {', '.join(unknown)}.")
        return cls(**values)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Writes `sale_config.json`, and `sale_thresholds.safetensors` where heads have thresholds of their own."""
        from safetensors.torch import save_file

        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        values = self.to_dict()
        if self.thresholds is not None:
            values["tau"] = THRESHOLDS_NAME
            save_file({THRESHOLDS_KEY: self.thresholds}, folder / THRESHOLDS_NAME)
        else:
            (folder / THRESHOLDS_NAME).unlink(missing_ok=True)
        (folder / CONFIG_NAME).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub_options: Any) -> "SaleConfig":
        """
        From a folder, or from a repository of the Hub.

        Args:
            hub_options: of `huggingface_hub.hf_hub_download`, as `revision`.

        Raises:
            FileNotFoundError: the folder has no `sale_config.json`.
            ValueError: a file is not as `save_pretrained` writes it.
        """
        path = _file(pretrained_model_name_or_path, CONFIG_NAME, hub_options)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} must be JSON, as save_pretrained writes it; got {error}. Save it again."
            ) from None
        if not isinstance(values, dict):
            raise ValueError(
                f"{path} must hold SaleConfig's settings, as save_pretrained writes them; got {values!r}."
            )
        if values.get("tau") == THRESHOLDS_NAME:
            values["tau"] = read_thresholds(
                _file(pretrained_model_name_or_path, THRESHOLDS_NAME, hub_options)
            ).tolist()
        return cls.from_dict(values)


def read_thresholds(path: str | Path) -> torch.Tensor:
    """
    `[layers, heads]`, float32, from a file that `SaleConfig.save_pretrained` or `calibrate` wrote.

    Raises:
        ValueError: it is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} must be a file of safetensors; got {error}. Calibrate again.") from None
    if THRESHOLDS_KEY not in tensors:
        raise ValueError(
            f"{path} must hold `{THRESHOLDS_KEY}`; got {', '.join(tensors) or 'nothing'}. Calibrate again."
        )
    return tensors[THRESHOLDS_KEY].float()


def _file(source: str | Path, name: str, hub_options: dict[str, Any]) -> Path:
    if Path(source).is_dir():
        path = Path(source) / name
        if not path.is_file():
            raise FileNotFoundError(
                f"`pretrained_model_name_or_path` must be a folder with {name}; {source} has none. Save a SaleConfig there."
            )
        return path
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(str(source), name, **hub_options))  # nosec B615  # settings and numbers; `revision` may be given


def _check_whole(name: str, value: Any, least: int, unit: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least or value % unit:
        kind = "a whole number" if unit == 1 else f"a multiple of {unit}"
        raise ValueError(f"`{name}` must be {kind} of at least {least}; got {value!r}.")


def _checked_tau(tau: Any) -> float | tuple[tuple[float, ...], ...]:
    shaped: float | tuple[tuple[float, ...], ...]
    if isinstance(tau, int | float) and not isinstance(tau, bool):
        shaped = float(tau)
        values = [shaped]
    else:
        rows = tau.tolist() if isinstance(tau, torch.Tensor) else tau
        if not isinstance(rows, list | tuple) or not rows or not all(isinstance(row, list | tuple) for row in rows):
            raise ValueError(f"`tau` must be a number, or numbers [layers][heads]; got {tau!r}.")
        if len({len(row) for row in rows}) != 1 or not rows[0]:
            raise ValueError(f"`tau` must have as many heads in each layer; got {[len(row) for row in rows]}.")
        values = [float(value) for row in rows for value in row]
        shaped = tuple(tuple(map(float, row)) for row in rows)
    wrong = [value for value in values if not value >= 0]
    if wrong:
        raise ValueError(f"`tau` must be 0 or more; got {wrong[0]}.")
    return shaped
