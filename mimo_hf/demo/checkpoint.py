"""Loads a checkpoint for the command line: everything that can be wrong with it becomes one clear message."""

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.utils import HFValidationError, logging as hub_logging, validate_repo_id
from safetensors import SafetensorError
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from ..hub.checkpoints import check_checkpoint, read_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What `register` has the Auto classes load, by model type: straight from its room, so that the others are not imported.
OWN_CLASSES = {
    "hysparse": "HySparseForCausalLM",
    "mimo": "MiMoForCausalLM",
    "mimo_v2_flash": "MiMoV2FlashForCausalLM",
}


@dataclass
class Checkpoint:
    """A loaded model; `missing_heads`, `extra_heads`: MTP tensors that the file lacks, or the model has no place for."""

    name: str
    model: "PreTrainedModel"
    tokenizer: Any
    missing_heads: list[str]
    extra_heads: list[str]

    @property
    def num_heads(self) -> int:
        return len(getattr(self.model, "mtp_heads", ()))

    def describe(self) -> str:
        millions = self.model.num_parameters() / 1e6
        dtype = str(self.model.dtype).removeprefix("torch.")
        return f"{millions:.3g} million parameters, {self.num_heads} MTP heads, {dtype} on {self.model.device}"


def load(name: str | Path, dtype: str = "float32", device: str = "cpu") -> Checkpoint:
    """
    Loads a folder, or a model of the Hub, with transformers' Auto classes.

    Raises:
        ValueError: what is wrong with the checkpoint, its place or the device.
    """
    target = _device(device)
    folder = Path(name).expanduser()
    if folder.exists():
        check_checkpoint(folder)
    elif not _may_be_on_hub(str(name)):
        raise ValueError(f"{name} must be a checkpoint folder or the id of a model on the Hub; it does not exist.")
    place = str(folder) if folder.exists() else str(name)

    with quiet():
        try:
            # Tensors of a wrong shape are told apart below; transformers refers to a report that is not shown here.
            model, info = _model_class(folder).from_pretrained(
                place, dtype=getattr(torch, dtype), output_loading_info=True, ignore_mismatched_sizes=True
            )
        except (ValueError, OSError, RuntimeError, SafetensorError) as error:
            where = "can't be loaded" if folder.exists() else "is no folder here, and can't be loaded from the Hub"
            raise ValueError(
                f"{name} must be a checkpoint that can be loaded; it {where}: {_first_line(error)}"
            ) from error
        try:
            # Whatever the Hub has now is what the user asked for, and neither weights nor tokenizer run code.
            tokenizer = AutoTokenizer.from_pretrained(place)  # nosec B615
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{name} must have a tokenizer that can be loaded; got no tokenizer. Save one beside the weights with "
                "`tokenizer.save_pretrained`."
            ) from error

    for key, in_file, in_model in sorted(info["mismatched_keys"]):
        raise ValueError(f"{name}: {key} must be {list(in_model)} by config.json; got {list(in_file)} in the weights.")
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    missing_trunk = [key for key in missing if not _is_of_heads(key)]
    if missing_trunk:
        raise ValueError(
            f"{name} must have all tensors of the model; it lacks {len(missing_trunk)}: {', '.join(missing_trunk)}."
        )
    return Checkpoint(
        name=folder.resolve().name if folder.exists() else str(name),
        model=model.to(target),
        tokenizer=tokenizer,
        missing_heads=missing,
        extra_heads=[key for key in unexpected if _is_of_heads(key)],
    )


def _model_class(folder: Path) -> Any:
    """What the Auto class would take, without importing the models that it would not."""
    model_type = read_config(folder).get("model_type") if folder.exists() else None
    if model_type in OWN_CLASSES:
        return getattr(importlib.import_module(f"mimo_hf.modeling.{model_type}"), OWN_CLASSES[model_type])
    from transformers import AutoModelForCausalLM

    from .. import register

    register()
    return AutoModelForCausalLM


def require_heads(checkpoint: Checkpoint):
    """Raises ValueError where MTP decoding has no heads, or only untrained ones."""
    name, missing = checkpoint.name, checkpoint.missing_heads
    if missing:
        raise ValueError(
            f"{name} must have values for all MTP tensors; it has none for {len(missing)}, so its heads are "
            f"untrained: {', '.join(missing)}. Lower `num_mtp_layers` in its config.json to the heads that it "
            "has, train the missing ones, or use --no-mtp."
        )
    if checkpoint.num_heads > 0:
        return
    if checkpoint.extra_heads:
        remedy = "Its weights hold some (`model.mtp.*`): set `num_mtp_layers` in its config.json to their number."
    elif hasattr(checkpoint.model, "replicate_mtp_heads"):
        remedy = (
            "To get heads, build the model with `num_mtp_layers=1`, train it, call `model.replicate_mtp_heads(3)` and "
            "train the heads."
        )
    else:
        remedy = f"It is a {checkpoint.model.config.model_type} model; only MiMo models have MTP heads here."
    raise ValueError(
        f"{name} must have MTP heads; got no MTP heads (`num_mtp_layers` is 0). {remedy} Or use --no-mtp."
    )


def _is_of_heads(key: str) -> bool:
    return ".mtp" in key


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        kind = torch.accelerator.current_accelerator()
        found = [f"{kind.type}:{index}" for index in range(torch.accelerator.device_count())] if kind else []
        raise ValueError(f"--device must be one of {', '.join(['cpu', *found])} here; got {name}.") from error
    return device


def _may_be_on_hub(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' warnings and bars: what matters of them is said here, in one place."""
    own = logging.getLogger("mimo_hf")
    level, verbosity, hub_verbosity = own.level, transformers_logging.get_verbosity(), hub_logging.get_verbosity()
    has_bar = transformers_logging.is_progress_bar_enabled()
    own.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        own.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if has_bar:
            transformers_logging.enable_progress_bar()


__all__ = ["Checkpoint", "load", "quiet", "require_heads"]
