"""What transformers calls for `attn_implementation="mimo-hf/sink-swa-attn"`: both names make a kernel an attention."""

import torch

from .attention import sink_swa_attention
from .masks import kv_start_of

supports_flash_attn = True
FROM_MODULE = object()


def flash_attn_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = FROM_MODULE,  # type: ignore[assignment]
    s_aux: torch.Tensor | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """
    Args:
        query: `[B, H, n, d]`; key and value not repeated, `[B, K, T, d]` and `[B, K, T, dv]`.
        attention_mask: as `masks.kv_start_of` says.
        sliding_window: left out: `module.sliding_window` where there is one.
        s_aux: sink logits, `[H]`; None: `module.sinks` where there is one.

    Returns:
        `[B, n, H, dv]` and None (attention weights are not handed out).

    Raises:
        ValueError: a sink is missing where the configuration wants one, or an argument is not represented.
    """
    if dropout:
        raise ValueError(f"`dropout` must be 0; got {dropout}. Set attention_dropout=0.0 in the configuration.")
    if softcap is not None:
        raise ValueError(f"`softcap` must be None; got {softcap}.")
    if is_causal is False or (is_causal is None and getattr(module, "is_causal", True) is False):
        raise ValueError("`is_causal` must not be False: this attention is causal.")
    if sliding_window is FROM_MODULE:
        sliding_window = getattr(module, "sliding_window", None)
    if s_aux is None:
        s_aux = getattr(module, "sinks", None)
    if s_aux is None and _wants_sinks(module, sliding_window is not None):
        raise ValueError(
            f"`s_aux` must not be None where the configuration wants sinks; layer {getattr(module, 'layer_idx', '?')} has "
            "none. Load the checkpoint's `attention_sink_bias` (in transformers `self_attn.sinks`), or pass them."
        )
    kv_start = kv_start_of(attention_mask, query.shape[2], key.shape[2], sliding_window)
    if kv_start is not None and kv_start.shape[0] != query.shape[0]:
        kv_start = kv_start.expand(query.shape[0])
    output = sink_swa_attention(query, key, value, s_aux, sliding_window, scaling, kv_start)
    return output.transpose(1, 2).contiguous(), None


def _wants_sinks(module, sliding: bool) -> bool:
    """The official flag, or a sliding layer that has a place for sinks and nothing in it."""
    flag = "add_swa_attention_sink_bias" if sliding else "add_full_attention_sink_bias"
    wanted = getattr(getattr(module, "config", None), flag, None)
    return bool(wanted) if wanted is not None else sliding and hasattr(module, "sinks")
