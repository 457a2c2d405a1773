"""Fine-tuning of MiMo-Audio (arXiv 2512.23808, sections 3.2 and 4.2): batches, the two stages, a learning rate for each of three parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .prompt_rows import pad_rows

# By the first name of a parameter; whatever else there is belongs to the language model.
PATCH_ENCODER = ("input_local_transformer", "speech_group_downcast", "speech_embeddings")
PATCH_DECODER = (
    "local_transformer", "local_transformer_lm_heads", "hidden_states_downcast", "speech_embeddings_to_local",
)  # fmt: skip
COLUMNS = ("input_ids", "audio_codes", "labels", "audio_labels")
ATTENTION = r"self_attn\.(q|k|v|o)_proj"


@dataclass
class MiMoAudioDataCollator:
    """
    Rows of `processor.apply_chat_template(..., output_labels=True)`, one conversation each, as a batch padded on the right.

    Args:
        processor: the one that made the rows.
        pad_to_multiple_of: a number that the length of batches is a multiple of.

    Returns of a call:
        `input_ids` `[B, T]`, `audio_codes` `[B, T, G, C]`, `attention_mask` `[B, T]`, `labels` `[B, T]` and `audio_labels`
        `[B, T, G, C]`, -100 where there is nothing to learn.
    """

    processor: Any
    pad_to_multiple_of: int | None = None

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        rows = [self._row(row, number) for number, row in enumerate(features)]
        zeros = self.processor.speech_zero_ids
        return pad_rows(rows, self.processor.pad_token_id, zeros, "right", self.pad_to_multiple_of)

    def _row(self, given: Any, number: int) -> dict[str, torch.Tensor]:
        missing = [name for name in COLUMNS if name not in given]
        if missing:
            raise ValueError(
                f"`features[{number}]` must have {', '.join(COLUMNS)}; got none of {missing}. Make rows with "
                "`processor.apply_chat_template(conversation, output_labels=True)`, and keep their columns: "
                "`remove_unused_columns=False`."
            )
        row = {
            name: torch.as_tensor(given[name])
            for name in (*COLUMNS, *(["attention_mask"] if "attention_mask" in given else []))
        }
        if row["input_ids"].ndim == 2:
            if len(row["input_ids"]) != 1:
                raise ValueError(f"`features[{number}]` must be one row; got a batch of {len(row['input_ids'])}.")
            row = {name: values[0] for name, values in row.items()}
        mask = row.pop("attention_mask", None)
        return row if mask is None else {name: values[mask.bool()] for name, values in row.items()}


def part_of(name: str) -> str:
    """`"patch_encoder"`, `"patch_decoder"` or `"llm"`, by the name of a parameter; names of a PEFT model are taken too."""
    first = name.removeprefix("base_model.model.").partition(".")[0]
    if first in PATCH_ENCODER:
        return "patch_encoder"
    return "patch_decoder" if first in PATCH_DECODER else "llm"


def set_training_stage(model: Any, stage: int, audio_loss_weights: Sequence[float] | None = None):
    """
    Stage 1 (understanding): the patch decoder is frozen and there is no audio loss. Stage 2: everything is trained, with all losses.

    To be called before a model is wrapped for LoRA.

    Args:
        model: a `MiMoAudioForConditionalGeneration`.
        stage: 1 or 2.
        audio_loss_weights: of each channel, for stage 2; None: those of the configuration, or the paper's 12-8-6-4-2-2-1-1 for eight channels
            where these are zeros.

    Raises:
        ValueError: another stage; a stage 2 without weights.
    """
    if stage not in (1, 2):
        raise ValueError(f"`stage` must be 1 or 2; got {stage!r}.")
    config = model.config
    if stage == 1:
        config.audio_loss_weights = [0.0] * config.audio_channels
    else:
        weights = audio_loss_weights or config.audio_loss_weights
        if not any(weights) and config.audio_channels == 8:
            weights = [12.0, 8.0, 6.0, 4.0, 2.0, 2.0, 1.0, 1.0]
        if not any(weights) or len(weights) != config.audio_channels:
            raise ValueError(
                f"`audio_loss_weights` must be given for stage 2, {config.audio_channels} numbers that are not all 0; got {weights}."
            )
        config.audio_loss_weights = [float(weight) for weight in weights]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(stage == 2 or part_of(name) != "patch_decoder")


def learning_rate_groups(
    model: nn.Module,
    patch_encoder: float = 5e-5,
    llm: float = 1e-5,
    patch_decoder: float = 5e-5,
    weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """
    Groups of parameters for an optimizer, each with its learning rate; the defaults are those of the paper's fine-tuning (section 4.2).

    Args:
        model: a model, or a PEFT model around it; only what is trained gets into a group.
        patch_encoder, llm, patch_decoder: learning rates; the speech embeddings belong to the encoder.
        weight_decay: not for biases and norms.

    Returns:
        Up to six groups with `name`, `params`, `lr` and `weight_decay`.

    Raises:
        ValueError: a learning rate that is negative, or a model of which nothing is trained.
    """
    rates = {"patch_encoder": patch_encoder, "llm": llm, "patch_decoder": patch_decoder}
    for name, rate in rates.items():
        if not rate >= 0:
            raise ValueError(f"`{name}` must be a learning rate of at least 0; got {rate}.")
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part, decays = part_of(name), parameter.ndim > 1
            key = part if decays else f"{part}, no decay"
            made = {"name": key, "params": [], "lr": rates[part], "weight_decay": weight_decay if decays else 0.0}
            groups.setdefault(key, made)["params"].append(parameter)
    if not groups:
        raise ValueError("`model` must have parameters that are trained; got none with `requires_grad`.")
    return list(groups.values())


def lora_target_modules(include_patch_models: bool = False) -> str:
    """
    For `LoraConfig(target_modules=...)`: the language model's q, k, v and o projections; without this limit the same names match the patch
    encoder's and decoder's as well.

    Args:
        include_patch_models: those too.
    """
    where = r"(model|local_transformer|input_local_transformer)" if include_patch_models else "model"
    return rf"{where}\.layers\.\d+\.{ATTENTION}"


__all__ = ["MiMoAudioDataCollator", "learning_rate_groups", "lora_target_modules", "part_of", "set_training_stage"]
