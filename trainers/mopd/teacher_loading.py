"""Loads a teacher's checkpoint whole, or says what is missing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import find_adapter_config_file, logging


def load_teacher(
    path: str,
    *,
    dtype: str = "auto",
    device: str = "cpu",
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """
    (model, tokenizer or None)

    Args:
        path: a checkpoint or adapter folder, or a model of the Hub.
        dtype, attn_implementation, trust_remote_code: as of `from_pretrained`.

    Raises:
        ValueError: where it can't be loaded, or weights are missing, which transformers would fill with random numbers.
    """
    place = str(Path(path).expanduser()) if Path(path).expanduser().exists() else path
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` must be one that can be used here; got {device}: {first_line(error)}") from None
    chosen = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    common = {"trust_remote_code": trust_remote_code}
    try:
        with _no_bars():
            adapter = find_adapter_config_file(place) is not None
            base = _base_of(place) if adapter else place
            # Whatever the Hub has now is what was asked for; code beside the weights runs only if that was asked for, too.
            model, info = AutoModelForCausalLM.from_pretrained(  # nosec B615  # as said above
                base, dtype=dtype, output_loading_info=True, **chosen, **common
            )
            if adapter:
                from .adapters import loaded_onto

                model = loaded_onto(model, place)
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        raise ValueError(f"{path} must be a model that can be loaded; got {first_line(error)}") from error
    check_whole(model, info, path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **common)  # nosec B615  # as said above
    except (ValueError, OSError):
        tokenizer = None
    return model.to(device), tokenizer


def _base_of(adapter: str) -> str:
    from .adapters import PeftConfig

    base = PeftConfig.from_pretrained(adapter).base_model_name_or_path
    if not base:
        raise ValueError(
            f"`base_model_name_or_path` in {adapter}'s adapter_config.json must be the model that the adapter is for; got {base!r}."
        )
    return base


def check_whole(model: Any, info: Mapping[str, Any], shown: str) -> None:
    """
    Args:
        info: what `from_pretrained(output_loading_info=True)` says.
        shown: what the user gave.

    Raises:
        ValueError: tensors are missing.
    """
    if missing := sorted(info["missing_keys"]):
        listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"{shown} must have all tensors of {type(model).__name__}, or they would be random; it lacks {len(missing)}: {listed}."
        )


@contextmanager
def _no_bars() -> Iterator[None]:
    were_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_shown:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
