"""
`attn_implementation="sale"`: a long prompt's attention through 4-bit estimates and the tiles that they keep; all else is dense.

Dense, and said once in the log, with the reason: few queries, decoding, layers with a window or a sink, gradients, masks that are
not causal with padding at the ends, and whatever else the estimate does not know.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..sink_attention import sink_attention_forward
from .configuration_sale import SaleConfig
from .masks import Content, content_of, pairs_of, sale_mask

NAME = "sale"
logger = logging.getLogger(__name__)
DENSE_BELOW = 1e-5


def sale_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """
    Args:
        module: an attention layer; its `config.sale` holds the settings of `SaleConfig`, its `layer_idx` chooses the thresholds.
        query: `[B, H, n, d]`.
        key: `[B, K, T, d]`.
        value: `[B, K, T, dv]`.
        attention_mask: as `sale_mask` makes it, or any that `sdpa` takes.

    Returns:
        `[B, n, H, dv]` and None (attention weights are not handed out). Queries in the padding get zeros or anything finite.

    Raises:
        ValueError: `softcap`, which no implementation here has; thresholds of another model.
    """
    if kwargs.get("softcap") is not None:
        raise ValueError(
            f"`softcap` must be None with attn_implementation='sale'; got {kwargs['softcap']}. Take 'eager'."
        )
    reason: str | None = "decoding"
    config = _DEFAULTS
    if query.shape[2] > 1:  # a decoding step is often compiled, and asks for no settings
        config = config_of(module)
        reason = why_dense(module, query, key, value, attention_mask, dropout, is_causal, config, kwargs)
    rows = None if reason else _content(attention_mask, query, key)
    if reason is None and rows is None:
        reason = "a mask with holes"
    if reason is not None:
        if not torch.compiler.is_compiling():
            _say_once(reason)
            if not _continues(query, key, attention_mask, config):
                _RECORDS.pop(module, None)
        return dense(module, query, key, value, attention_mask, dropout, scaling, is_causal, kwargs), None
    return _sparse(module, query, key, value, rows, scaling, config), None


def config_of(module: nn.Module) -> SaleConfig:
    """The settings of a layer's model: `config.sale`, a dict as `SaleConfig.to_dict` gives it, or the defaults."""
    return _parsed(getattr(getattr(module, "config", None), "sale", None))


_DEFAULTS = SaleConfig()
_PARSED: dict[int, tuple[dict, SaleConfig]] = {}


def _parsed(values: dict | None) -> SaleConfig:
    if values is None:
        return _DEFAULTS
    if not isinstance(values, dict):
        raise TypeError(
            f"`config.sale` must be a dict, as SaleConfig.to_dict() gives it; got {values!r}. Call use_sale(model, SaleConfig(...))."
        )
    known = _PARSED.get(id(values))
    if known is None or known[0] != values:
        _PARSED.clear()  # one model at a time is the usual case
        known = _PARSED[id(values)] = deepcopy(values), SaleConfig.from_dict(values)
    return known[1]


# Which way


def why_dense(module, query, key, value, mask, dropout, is_causal, config: SaleConfig, kwargs) -> str | None:
    """Why a call is not for SALE, in words for the log; None: it is."""
    queries, keys = query.shape[2], key.shape[2]
    if queries <= config.min_seq_len:
        return f"at most {config.min_seq_len} queries"
    if kwargs.get("s_aux") is not None:
        return "a layer with sinks"
    if kwargs.get("sliding_window") is not None or getattr(module, "sliding_window", None) is not None:
        return "a layer with a sliding window"
    if is_causal is False or (is_causal is None and not getattr(module, "is_causal", True)):
        return "attention that is not causal"
    for name in ("position_bias", "cache"):
        if kwargs.get(name) is not None:
            return f"`{name}`"
    if getattr(module, "training", False) or dropout:
        return "training"
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        return "gradients: call the model under torch.no_grad()"
    if mask is not None and mask.dim() != 2:
        return "a mask that says more than causal and padding, or a static cache"
    if mask is None and queries != keys:
        return "a static cache"
    layer = _layer_of(module, config)
    if layer < config.start_layer:
        return f"a layer before {config.start_layer}"
    if query.is_cuda and (lack := kernel_lacks(query, value, config)):
        return lack
    tau = config.tau_of(layer, query.shape[1])
    if bool((torch.as_tensor(tau) < DENSE_BELOW).all()):
        return f"a layer whose thresholds are below {DENSE_BELOW}"
    return None


def _layer_of(module: nn.Module, config: SaleConfig) -> int:
    layer = getattr(module, "layer_idx", None)
    if layer is None and (config.start_layer or config.thresholds is not None):
        raise ValueError(
            "`tau` must be one number, and `start_layer` 0, where layers don't know their index; got "
            f"{type(module).__name__} without `layer_idx`."
        )
    return layer or 0


def kernel_lacks(query, value, config: SaleConfig) -> str | None:
    lack = kernel().triton_lacks((query.shape[-1], value.shape[-1]), query.dtype, _tiling(config))
    return lack and f"{lack}, which the kernel does not have on a GPU"


def _continues(query, key, mask, config: SaleConfig) -> bool:
    """Whether a call adds to a prompt: a step of decoding, drafts that are verified, the short rest of a prompt in parts."""
    queries = query.shape[2]
    return queries == 1 or (
        queries <= config.min_seq_len and queries < key.shape[2] and mask is not None and mask.dim() == 2
    )


def _content(mask, query, key) -> list[Content] | None:
    return content_of(mask, query.shape[0], query.shape[2], key.shape[2])


@cache
def _say_once(reason: str) -> None:
    usual = reason == "decoding" or reason.startswith("at most")
    logger.log(
        logging.INFO if usual else logging.WARNING, "attn_implementation='sale': dense attention for %s", reason
    )


def dense(module, query, key, value, mask, dropout, scaling, is_causal, kwargs) -> torch.Tensor:
    if mask is not None and mask.dim() == 2:
        mask = pairs_of(mask, query.shape[2])
    if kwargs.get("s_aux") is not None:
        return sink_attention_forward(module, query, key, value, mask, scaling, dropout, **kwargs)[0]
    return sdpa_attention_forward(
        module, query, key, value, mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
    )[0]


# Sparse


@cache
def kernel() -> ModuleType:
    """
    The kernel sale-attn.

    Raises:
        ImportError: the `kernels` library is not installed.
    """
    from ...hub.kernels import load

    return load("sale-attn")


@torch.compiler.disable
def _sparse(module, query, key, value, rows: list[Content], scaling, config: SaleConfig) -> torch.Tensor:
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    record = _RECORDS[module] = Record(_layer_of(module, config), query.shape[1], _WATCHED.get(module))
    tau = config.tau_of(record.layer, query.shape[1])
    if all(row == rows[0] for row in rows):
        parts = [slice(0, len(rows))]
    else:
        parts = [slice(row, row + 1) for row in range(len(rows))]
    output = query.new_zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])
    for part in parts:
        content = rows[part.start]
        q = query[part, :, content.queries]
        if q.shape[2] == 0:
            continue
        k, v = key[part, :, content.keys], value[part, :, content.keys]
        if q.shape[2] <= config.min_seq_len:
            mask = None if q.shape[2] in (1, k.shape[2]) else pairs_of(_all_real(k), q.shape[2])
            out = sdpa_attention_forward(module, q, k, v, mask, scaling=scaling, is_causal=True)[0]
        else:
            out = attend(q, k, v, tau, scaling, config, record).transpose(1, 2)
        output[part, content.queries] = out
    return output


def _all_real(key: torch.Tensor) -> torch.Tensor:
    return torch.ones(key.shape[0], key.shape[2], dtype=torch.bool, device=key.device)


def _tiling(config: SaleConfig) -> Any:
    return kernel().Tiling(config.block_q, config.block_k, config.local_window, config.block_seg, config.sink_tokens)


class Notes(Protocol):
    """Whoever wants to know what was kept."""

    def add(self, q: torch.Tensor, layout: Any, kept: torch.Tensor, select_time: Any, attend_time: Any) -> None:
        """`kept`: bool `[B, H, tiles of queries, tiles of keys]`; the times are functions that tell seconds."""


def attend(q, k, v, tau, scaling: float, config: SaleConfig, notes: Notes | None = None) -> torch.Tensor:
    """
    SALE's two passes over rows without padding.

    Args:
        q: `[B, H, n, d]`; k: `[B, K, T, d]`; v: `[B, K, T, dv]`.
        tau: one threshold, or `[H]`.
        notes: told what was done.

    Returns:
        `[B, H, n, dv]`.
    """
    sale, tiling = kernel(), _tiling(config)
    with torch.no_grad():
        clock = _Clock(q)
        kept = sale.select_blocks(
            q,
            k,
            tau,
            scale=scaling,
            quant=config.quant,
            smooth=config.smooth,
            share_group=config.share_group,
            tiling=tiling,
        )
        selected = clock.lap()
        out = sale.attend_blocks(q, k, v, kept, scale=scaling, compute=config.compute, tiling=tiling)
        if notes is not None:
            layout = sale.Layout(q.shape[2], k.shape[2], tiling)
            notes.add(q, layout, sale.unpack_tiles(kept, layout.key_tiles), selected, clock.lap())
    return out


# What was done


class _Clock:
    """Seconds between calls, by CUDA's events where tensors are there: asked for afterwards, so that nothing waits."""

    def __init__(self, tensor: torch.Tensor):
        self.on_gpu = tensor.is_cuda
        self.last = self._now()

    def _now(self):
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self):
        """A function that tells the seconds since the last lap."""
        before, self.last = self.last, self._now()
        after = self.last
        if not self.on_gpu:
            return lambda: after - before

        def seconds() -> float:
            after.synchronize()
            return before.elapsed_time(after) / 1000

        return seconds


@dataclass
class Record:
    """What SALE did in a layer's last prefill, summed over the rows of the batch that were long enough."""

    layer: int
    heads: int
    seen: dict[int, torch.Tensor] | None = None  # gets the tiles of the batch's first row, where somebody looks

    def __post_init__(self):
        self.rows = self.queries = self.keys = self.causal = self.estimated = 0
        self.kept: torch.Tensor | None = None
        self.select_times: list = []
        self.attend_times: list = []

    def add(self, q, layout, kept: torch.Tensor, select_time, attend_time) -> None:
        rows = q.shape[0]
        self.rows += rows
        self.queries, self.keys = max(self.queries, layout.queries), max(self.keys, layout.keys)
        self.causal += rows * layout.causal_tiles()
        self.estimated += rows * layout.estimated_tiles()
        tiles = kept.sum(dim=(0, 2, 3))
        self.kept = tiles if self.kept is None else self.kept + tiles
        if self.seen is not None:
            self.seen.setdefault(self.layer, kept[0].cpu())
        self.select_times.append(select_time)
        self.attend_times.append(attend_time)


_RECORDS: "WeakKeyDictionary[nn.Module, Record]" = WeakKeyDictionary()
_WATCHED: "WeakKeyDictionary[nn.Module, dict[int, torch.Tensor]]" = WeakKeyDictionary()


def record_of(module: nn.Module) -> Record | None:
    return _RECORDS.get(module)


@contextmanager
def watch_tiles(model: nn.Module) -> Iterator[dict[int, torch.Tensor]]:
    """
    The tiles that each layer keeps of a prefill, for pictures: they are not held otherwise.

    ```python
    with watch_tiles(model) as tiles:
        model(ids)
    tiles[3].float().mean(0)  # of layer 3, the share of heads that kept each tile
    ```

    Yields:
        By layer: bool `[H, tiles of queries, tiles of keys]` of the first prefill inside and its first row.
    """
    seen: dict[int, torch.Tensor] = {}
    modules = list(model.modules())
    for module in modules:
        _WATCHED[module] = seen
    try:
        yield seen
    finally:
        for module in modules:
            _WATCHED.pop(module, None)


AttentionInterface.register(NAME, sale_attention_forward)
AttentionMaskInterface.register(NAME, sale_mask)
