"""
A threshold for each head from prompts (SALE, arXiv 2505.24179): halved until the head's output is near enough to dense attention's.

Each head begins at `tau_init`. On each prompt its threshold falls by halves until the mean L1 error of a token's output is at most theta;
where it gets to `tau_floor`, the head is dense from then on. What goes on to the next layer is dense attention's output, so that
errors do not add up while thresholds are sought.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import AttentionInterface, AttentionMaskInterface

from .attention_sale import DENSE_BELOW, attend, dense, why_dense
from .configuration_sale import SaleConfig
from .masks import sale_mask

PROGRESS_NAME = "sale_calibration.json"
_NAME = "sale_calibration"


@dataclass
class Calibration:
    """
    Thresholds, and how they came to be.

    Attributes:
        thresholds: `[layers, heads]`, float32.
        densities: of each head at its threshold, on the last prompt, `[layers, heads]`.
        errors: mean L1 error of a token's output there, `[layers, heads]`; 0 for dense heads.
        prompts: so many are done.
    """

    thresholds: torch.Tensor
    densities: torch.Tensor
    errors: torch.Tensor
    prompts: int = 0
    lengths: list[int] = field(default_factory=list)

    @classmethod
    def begin(cls, layers: int, heads: int, tau: float) -> "Calibration":
        return cls(torch.full((layers, heads), tau), torch.ones(layers, heads), torch.zeros(layers, heads))

    def save(self, folder: Path, settings: dict[str, Any]) -> None:
        """One file, which is whole or not there."""
        values = {name: getattr(self, name).tolist() for name in ("thresholds", "densities", "errors")}
        values |= {"prompts": self.prompts, "lengths": self.lengths, "settings": settings}
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{PROGRESS_NAME}.new"
        temporary.write_text(json.dumps(values) + "\n", encoding="utf-8")
        temporary.replace(folder / PROGRESS_NAME)

    @classmethod
    def resume(cls, folder: Path, settings: dict[str, Any]) -> "Calibration | None":
        """
        What `save` wrote; None: nothing is there.

        Raises:
            ValueError: it was begun with other settings.
        """
        path = folder / PROGRESS_NAME
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} must be JSON, as `calibrate` writes it; got {error}. Begin in a new folder."
            ) from None
        differs = sorted(key for key in settings if values["settings"].get(key) != settings[key])
        if differs:
            told = ", ".join(f"{key} {values['settings'].get(key)!r}, not {settings[key]!r}" for key in differs)
            raise ValueError(f"`out` must be a new folder, or one begun alike; got {folder}, begun with {told}.")
        tensors = {name: torch.tensor(values[name]) for name in ("thresholds", "densities", "errors")}
        return cls(**tensors, prompts=values["prompts"], lengths=values["lengths"])


def calibrate(
    model: Any,
    prompts: Sequence[torch.Tensor],
    config: SaleConfig | None = None,
    *,
    out: str | Path | None = None,
    settings: dict[str, Any] | None = None,
    progress: bool = True,
    on_prompt: Callable[[Calibration], None] | None = None,
) -> Calibration:
    """
    Finds a threshold for each head; `config.with_thresholds(calibration.thresholds)` takes them.

    Args:
        model: any causal language model of transformers. Its attention is as before afterwards.
        prompts: token ids `[n]` or `[1, n]`, each longer than `config.min_seq_len`.
        config: theta, where to begin and to stop, and how tiles are chosen; None: the defaults.
        out: folder of the thresholds, and of what is done after each prompt: a call with the same folder goes on from there.
        settings: what a resumed calibration has to share with the one that began.
        progress: whether to show a bar.
        on_prompt: called after each prompt.

    Raises:
        ValueError: a prompt is too short; the folder holds another calibration; no layer of the model can be sparse.
    """
    config = config or SaleConfig()
    text = model.config.get_text_config()
    shape = (text.num_hidden_layers, text.num_attention_heads)
    prompts = [torch.as_tensor(prompt).reshape(1, -1) for prompt in prompts]
    if not prompts:
        raise ValueError("`prompts` must be at least one prompt; got none.")
    for number, prompt in enumerate(prompts):
        if prompt.shape[1] <= config.min_seq_len:
            raise ValueError(
                f"`prompts` must be longer than `min_seq_len`={config.min_seq_len}; got {prompt.shape[1]} tokens in prompt "
                f"{number}. Give longer ones, or lower `min_seq_len`."
            )
    told = (
        {key: value for key, value in config.to_dict().items() if key != "tau"}
        | {"shape": list(shape)}
        | (settings or {})
    )
    folder = None if out is None else Path(out)
    if folder:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"`out` must be a folder; got {folder}, a file.")
        folder.mkdir(parents=True, exist_ok=True)  # what can't be written is told before hours of work
    found = (Calibration.resume(folder, told) if folder else None) or Calibration.begin(*shape, config.tau_init)
    bar = tqdm(total=len(prompts) * shape[0], initial=found.prompts * shape[0], disable=not progress, unit="layer")
    with _calibrating(model, found, config, bar) as seen, torch.no_grad(), bar:
        for prompt in prompts[found.prompts :]:
            seen.clear()
            bar.set_description(f"prompt {found.prompts + 1} of {len(prompts)}, {prompt.shape[1]:,} tokens")
            model(prompt.to(model.device), use_cache=False, logits_to_keep=1)
            if not seen:
                raise ValueError(
                    "`model` must have layers of plain causal attention with transformers' attention interface; got "
                    f"{type(model).__name__}, none of whose layers could be sparse."
                )
            found.prompts += 1
            found.lengths.append(prompt.shape[1])
            if folder:
                found.save(folder, told)
            if on_prompt:
                on_prompt(found)
    if folder:
        config.with_thresholds(found.thresholds).save_pretrained(folder)
    return found


@contextmanager
def _calibrating(model, found: Calibration, config: SaleConfig, bar):
    """The model's attention looks for thresholds inside; yields the set of layers that it saw."""
    seen: set[int] = set()
    begun = replace(config, tau=config.tau_init)

    def forward(module: nn.Module, query, key, value, attention_mask, dropout=0.0, scaling=None, **kwargs):
        is_causal = kwargs.pop("is_causal", None)
        out = dense(module, query, key, value, attention_mask, 0.0, scaling, is_causal, kwargs)
        layer = getattr(module, "layer_idx", None) or 0
        if why_dense(module, query, key, value, attention_mask, dropout, is_causal, begun, kwargs) is None:
            seen.add(layer)
            _calibrate_layer(found, layer, query, key, value, out.transpose(1, 2), scaling, config)
        bar.update()
        return out, None

    before = model.config._attn_implementation
    AttentionInterface.register(_NAME, forward)
    AttentionMaskInterface.register(_NAME, sale_mask)
    training = model.training
    model.eval()
    try:
        model.set_attn_implementation(_NAME)
        yield seen
    finally:
        model.set_attn_implementation(before)
        model.train(training)


def _calibrate_layer(found: Calibration, layer: int, query, key, value, dense, scaling, config: SaleConfig) -> None:
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    group = query.shape[1] // key.shape[1]
    taus = found.thresholds[layer]
    open_heads = [head for head in range(query.shape[1]) if taus[head] >= DENSE_BELOW]
    found.densities[layer], found.errors[layer] = 1.0, 0.0
    settings = replace(config, tau=0.0, share_group=False)
    while open_heads:
        kv_heads = [head // group for head in open_heads]
        record = _Density()
        part = query[:, open_heads], key[:, kv_heads], value[:, kv_heads]
        out = attend(*part, taus[open_heads], scaling, settings, record)
        error = (out.float() - dense[:, open_heads].float()).abs().sum(dim=(0, 2, 3)) / (
            query.shape[0] * query.shape[2]
        )
        still = []
        for place, head in enumerate(open_heads):
            if error[place] <= config.theta:
                found.errors[layer, head] = error[place]
                found.densities[layer, head] = record.density[place]
                continue
            taus[head] = taus[head] / 2 if taus[head] / 2 > config.tau_floor else 0.0
            if taus[head]:
                still.append(head)
        open_heads = still


class _Density:
    def add(self, q, layout, kept, select_time, attend_time) -> None:
        self.density = kept.sum(dim=(0, 2, 3)).double() / (q.shape[0] * layout.causal_tiles())
