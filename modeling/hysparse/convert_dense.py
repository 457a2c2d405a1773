"""
Dense checkpoints as HySparse: Llama, Qwen2, Qwen3 and MiMo-7B.

Not in the paper (arXiv 2602.03560), whose models are trained as HySparse from the start. A converted model needs training: the
queries of a sparse layer never learned to read another layer's keys.
"""

import copy
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen2ForCausalLM, Qwen3ForCausalLM
from transformers.initialization import no_init_weights
from transformers.utils import logging

from ..mimo import MiMoForCausalLM
from .configuration_hysparse import HySparseConfig, default_layer_types
from .modeling_hysparse import HySparseForCausalLM

logger = logging.get_logger(__name__)

FAMILIES = {
    "llama": LlamaForCausalLM,
    "qwen2": Qwen2ForCausalLM,
    "qwen3": Qwen3ForCausalLM,
    "mimo": MiMoForCausalLM,
}
SAME_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_dropout",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
SETTINGS = (
    "gate_type",
    "use_sparse_sink",
    "use_swa_sink",
    "use_swa_branch",
    "use_sparse_branch",
    "swa_shares_kv",
    "oracle_reduce",
    "forced_local_blocks",
    "forced_initial_blocks",
)
MTP_LAYERS = MiMoForCausalLM.mtp_prefix.rstrip(".")
INITIAL_SINK = -30.0  # far below the largest logit of a query, it leaves the softmax as it was
INITIAL_GATE_BIAS = 4.0  # sigmoid: 0.982 on the window, 0.018 on the selected blocks; both still have a gradient


def convert_dense(
    model: PreTrainedModel | str | os.PathLike,
    *,
    sparse_layers_per_full: int = 3,
    full_layers: Sequence[int] | None = None,
    sliding_window: int = 128,
    sparse_block_size: int = 64,
    sparse_topk_tokens: int = 1024,
    gate_bias: bool = False,
    **settings: Any,
) -> HySparseForCausalLM:
    """
    A HySparse model with the weights of a dense one, to be trained further.

    Every weight is copied to where it was. In a sparse layer, `k_proj` and `v_proj` serve the window; the keys over the whole
    context are the full layer's, and the layer's queries were never trained on them. **So this is not lossless** unless all
    layers are full. Sinks start at -30 and take no share, unless all logits of a query are as low (`use_sparse_sink=False` and
    `use_swa_sink=False` leave them out); both gates start at 0.5 for every input.

    With `sparse_layers_per_full=0` the logits are those of the dense model, bit for bit, in float32, bfloat16 and float64, where
    both attend as they do by default (`"sdpa"` there, `"hysparse_chunked"` here) and no cache is filled before; in float32 with
    `"eager"` in both, too. Steps on a filled cache add in another order, and round otherwise; and `dense.to(torch.bfloat16)` rounds the dense model's
    rotary frequencies too, where `from_pretrained(..., dtype=torch.bfloat16)` doesn't.

    Args:
        model: Llama, Qwen2, Qwen3 or MiMo-7B with its language-modelling head, which stays as it is; or the folder or Hub id
            of one. MTP layers and, where sparse layers have no keys of their own, their `k_proj` and `v_proj` are left out,
            with a warning that names them.
        sparse_layers_per_full: N; every (N + 1)-th layer stays full, and the last one.
        full_layers: the layers that stay full, in place of that rule, layer 0 among them; see `choose_full_layers`.
        sliding_window, sparse_block_size, sparse_topk_tokens: as in `HySparseConfig`.
        gate_bias: give the gates biases and start them near 1 on the window and near 0 on the selected blocks.
        settings: other fields of `HySparseConfig` that say how sparse layers attend, such as `gate_type`.

    Returns:
        A new model on the device and in the dtypes of `model`, in evaluation mode.

    Raises:
        TypeError: `model` is neither.
        ValueError: the model has what HySparse can't represent (biases of `o_proj` or the MLPs, sliding windows, quantised
            weights, another architecture), or a setting is wrong. The message names the field and the remedy.
    """
    if isinstance(model, str | os.PathLike):
        model = _load(model)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"`model` must be a transformers model, a folder or a Hub id; got {type(model).__name__}. Of a PEFT model, pass "
            "what `merge_and_unload()` returns."
        )
    _check_config(model.config)
    _check_weights(model)
    fields = {
        "sliding_window": sliding_window,
        "sparse_block_size": sparse_block_size,
        "sparse_topk_tokens": sparse_topk_tokens,
        "sparse_layers_per_full": sparse_layers_per_full,
        "gate_bias": gate_bias,
        "layer_types": _layer_types(model.config.num_hidden_layers, sparse_layers_per_full, full_layers),
    }
    config = _hysparse_config(model, fields | _checked_settings(settings))
    with no_init_weights(), torch.device(model.device):
        converted = HySparseForCausalLM._from_config(config, dtype=model.dtype)
    _copy_weights(model, converted)
    _start_sparse_layers(converted)
    converted.tie_weights()
    if model.generation_config is not None:
        converted.generation_config = copy.deepcopy(model.generation_config)
    return converted.eval()


def _load(path: str | os.PathLike) -> PreTrainedModel:
    fields, _ = PreTrainedConfig.get_config_dict(path)
    _check_family(fields.get("model_type"))
    _refuse_quantised(fields.get("quantization_config"))
    return FAMILIES[fields["model_type"]].from_pretrained(path)


def _check_family(model_type: str | None):
    if model_type not in FAMILIES:
        raise ValueError(
            f"`model_type` must be one of {', '.join(FAMILIES)}, whose layers HySparse has; got {model_type!r}."
        )


def _refuse_quantised(quantization_config):
    if quantization_config is not None:
        raise ValueError(
            "`quantization_config` must not be set: quantised weights can't be split over other layers. Convert the "
            "full-precision checkpoint, and quantise the result."
        )


def _check_config(config: PreTrainedConfig):
    _check_family(config.model_type)
    _refuse_quantised(getattr(config, "quantization_config", None))
    if getattr(config, "mlp_bias", False):
        raise ValueError(f"`mlp_bias` must be False, as the MLPs of HySparse have no bias; got {config.mlp_bias}.")
    windows = [i for i, kind in enumerate(getattr(config, "layer_types", None) or []) if kind != "full_attention"]
    if windows:
        raise ValueError(
            f"`layer_types` must all be 'full_attention' to be converted; got {config.layer_types[windows[0]]!r} in layer "
            f"{windows[0]}. If the window is longer than any input, set `use_sliding_window=False` and all `layer_types` to "
            "'full_attention'."
        )


def _check_weights(model: PreTrainedModel):
    if not isinstance(model.get_output_embeddings(), nn.Linear) or not hasattr(model, "model"):
        raise ValueError(
            f"`model` must be a {FAMILIES[model.config.model_type].__name__}, with its LM head; got {type(model).__name__}."
        )
    parameters = dict(model.named_parameters())
    biased = next((name for name in parameters if name.endswith("o_proj.bias")), None)
    if biased:
        raise ValueError(
            f"`o_proj` must have no bias; got `{biased}` (from `attention_bias={model.config.attention_bias}`)."
        )
    for name, parameter in parameters.items():
        if parameter.is_meta:
            raise ValueError(f"`{name}` must be in memory, not on 'meta'. Load the model without offloading.")
        if not parameter.is_floating_point():
            raise ValueError(
                f"`{name}` must be floating-point; got {parameter.dtype}. Convert the checkpoint before it was quantised."
            )


def _layer_types(num_layers: int, sparse_layers_per_full: int, full_layers: Sequence[int] | None) -> list[str]:
    if full_layers is None:
        if sparse_layers_per_full < 0:
            raise ValueError(f"`sparse_layers_per_full` must be 0 or more; got {sparse_layers_per_full}.")
        return default_layer_types(num_layers, sparse_layers_per_full)
    if 0 not in full_layers or not set(full_layers) <= set(range(num_layers)):
        raise ValueError(
            f"`full_layers` must hold 0 and else layers from 1 to {num_layers - 1}; got {list(full_layers)}."
        )
    return ["full_attention" if i in full_layers else "sliding_attention" for i in range(num_layers)]


def _checked_settings(settings: dict[str, Any]) -> dict[str, Any]:
    for name in settings:
        if name not in SETTINGS:
            raise ValueError(f"A setting of the conversion must be one of {', '.join(SETTINGS)}; got `{name}`.")
    return settings


def _hysparse_config(model: PreTrainedModel, fields: dict[str, Any]) -> HySparseConfig:
    dense = model.config
    attention = model.model.layers[0].self_attn
    rope = dict(dense.rope_parameters)
    if rope["rope_type"] == "default":
        rope.pop("partial_rotary_factor", None)  # without effect in these four families
    return HySparseConfig(
        **{name: getattr(dense, name) for name in SAME_FIELDS},
        head_dim=attention.head_dim,
        attention_bias=attention.q_proj.bias is not None,
        qk_norm=hasattr(attention, "q_norm"),
        rope_parameters=rope,
        float32_norm_and_rope=True,
        **fields,
    )


def _copy_weights(dense: PreTrainedModel, converted: HySparseForCausalLM):
    weights = {name: tensor.to(converted.device, copy=True) for name, tensor in dense.state_dict().items()}
    result = converted.load_state_dict(weights, strict=False, assign=True)
    missing = [name for name in result.missing_keys if not name.endswith(("_sinks", "_gate.weight", "_gate.bias"))]
    if missing:
        raise ValueError(
            f"`model` must have all weights under the names of its class; it lacks {len(missing)}, such as `{missing[0]}`. "
            "Merge adapters into it first (`merge_and_unload()`)."
        )
    left_out = Counter(MTP_LAYERS if name.startswith(f"{MTP_LAYERS}.") else name for name in result.unexpected_keys)
    if left_out:
        logger.warning(
            "convert_dense leaves out weights that HySparse has no place for: "
            + ", ".join(name if count == 1 else f"{name} ({count} weights)" for name, count in left_out.items())
        )


@torch.no_grad()
def _start_sparse_layers(converted: HySparseForCausalLM):
    """What the dense model has no weights for."""
    for name, parameter in converted.named_parameters():
        if name.endswith("_sinks"):
            parameter.fill_(INITIAL_SINK)
        elif name.endswith("_gate.weight"):
            parameter.zero_()
        elif name.endswith("_gate.bias"):
            parameter.fill_(INITIAL_GATE_BIAS if "swa_gate" in name else -INITIAL_GATE_BIAS)


__all__ = ["convert_dense"]
