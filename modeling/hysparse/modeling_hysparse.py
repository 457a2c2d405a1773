"""HySparse: full-attention layers select blocks of their keys, and the sparse layers after them read those."""

from typing import Any

import torch
from torch import nn
from transformers import Cache, GenerationMixin, initialization as init
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as v2_flash
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ..parallel import ParallelMixin
from ..transformers_versions import CACHE, cache_argument, cache_of, either_cache_name
from .attention_hysparse import (
    NAME,
    FullLayerAttention,
    HySparseAttention,
    HySparseRMSNorm,
    HySparseRotaryEmbedding,
    SparseLayerAttention,
)
from .cache_hysparse import HySparseCache
from .configuration_hysparse import HySparseConfig
from .row_layout import PackedDocuments, Rows, content_start, find_documents


class HySparseDecoderLayer(GradientCheckpointingLayer):
    """One layer, full or sparse as `config.layer_types` says."""

    def __init__(self, config: HySparseConfig, layer_idx: int):
        super().__init__()
        is_full = config.layer_types[layer_idx] == "full_attention"
        self.self_attn = (FullLayerAttention if is_full else SparseLayerAttention)(config, layer_idx)
        is_moe = config.mlp_layer_types[layer_idx] == "sparse"
        self.mlp = (v2_flash.MiMoV2FlashMoE if is_moe else v2_flash.MiMoV2FlashMLP)(config)
        self.input_layernorm = HySparseRMSNorm(config, config.hidden_size)
        self.post_attention_layernorm = HySparseRMSNorm(config, config.hidden_size)

    @either_cache_name
    def forward(
        self,
        hidden_states: torch.Tensor,
        shared_keys: torch.Tensor | None,
        shared_values: torch.Tensor | None,
        block_indices: torch.Tensor | None,
        rotations: tuple[tuple[torch.Tensor, torch.Tensor], ...],
        rows: Rows,
        sliding_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        What sparse layers share comes in and goes out as arguments: recomputation under gradient checkpointing must see
        what the first pass saw.

        Args:
            hidden_states: `[batch, length, hidden]`.
            shared_keys, shared_values, block_indices: of the last full layer; a full layer replaces them.

        Returns:
            The four again, after this layer.
        """
        shared = (shared_keys, shared_values, block_indices)
        attended, _, shared = self.self_attn(
            self.input_layernorm(hidden_states), shared, rotations, rows, sliding_mask, past_key_values
        )
        hidden_states = hidden_states + attended
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return (hidden_states, *shared)


class HySparsePreTrainedModel(ParallelMixin, v2_flash.MiMoV2FlashPreTrainedModel):
    """What the HySparse models have in common: initial weights, saving and loading."""

    config: HySparseConfig
    config_class = HySparseConfig
    _no_split_modules = ["HySparseDecoderLayer"]
    _supports_flash_attn = False
    _can_compile_fullgraph = False
    _compatible_flash_implementations = None
    _keys_to_ignore_on_load_unexpected: list[str] = []
    split_by_tp = ("num_attention_heads", "num_key_value_heads", "swa_num_key_value_heads")
    _can_record_outputs = {
        "hidden_states": HySparseDecoderLayer,
        "attentions": OutputRecorder(HySparseAttention, index=1),
        "router_logits": OutputRecorder(v2_flash.MiMoV2FlashTopkRouter, index=0),
    }

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        if requested_attention is None:
            return NAME
        if requested_attention == "sdpa":
            raise ValueError(
                f"`attn_implementation` must not be 'sdpa', which has no sinks; {NAME!r} is the same with them."
            )
        return super().get_correct_attn_implementation(requested_attention, is_init_check)

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args, **kwargs) -> str:
        # Before transformers looks for an attention in the kernel's repository.
        if attn_implementation is not None and attn_implementation.endswith("hysparse-attn"):
            raise ValueError(
                f"`attn_implementation` must be an attention; got {attn_implementation!r}, a kernel that replaces layers. "
                "Call `mimo_hf.hub.kernels.register_layers('hysparse-attn')` and `kernels.kernelize(model, mode=..., "
                "device='cuda')`."
            )
        return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)

    def check_parallel(self, distributed_config: Any):
        super().check_parallel(distributed_config)
        if distributed_config.pp_size > 1:
            raise ValueError(
                "`pp_size` must be 1, as sparse layers read the full layer's keys and selection and stages pass hidden states "
                f"only; got {distributed_config.pp_size}. Use `tp_size`, or `ep_size` for experts."
            )
        if self.config.oracle_reduce == "random" and self.splits_heads(distributed_config):
            raise ValueError(
                "`oracle_reduce` must not be 'random' under tensor parallelism: each process would draw the same blocks for "
                "its heads. Run it on one process."
            )

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, SparseLayerAttention):
            for name, parameter in module.named_parameters():
                if name.endswith("_sinks") or "_gate." in name:
                    init.zeros_(parameter)


class HySparseModel(HySparsePreTrainedModel):
    """The trunk of HySparse (arXiv 2602.03560)."""

    def __init__(self, config: HySparseConfig):
        config.check_values()  # once more: `from_pretrained(..., sliding_window=w)` sets fields of a finished config
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(HySparseDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = HySparseRMSNorm(config, config.hidden_size)
        self.rotary_emb = HySparseRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    @either_cache_name
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor | None] | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        """
        Args:
            input_ids: `[batch, length]`; or `inputs_embeds`, `[batch, length, hidden]`.
            attention_mask: `[batch, slots]`, 0 for padding on either side.
            position_ids: `[batch, length]`; where they start anew in a row, without a mask and a cache, a document
                begins, and documents do not see each other.

        Raises:
            ValueError: both or none of the inputs, padding between tokens, a mask of another shape, or packed documents
                together with what they can't be combined with.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("One of `input_ids` and `inputs_embeds` must be given; got both or none of them.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        documents = self._documents(attention_mask, position_ids, past_key_values, kwargs)
        if documents is not None:
            inputs_embeds, position_ids = documents.unpack(inputs_embeds), documents.unpack(position_ids)
            attention_mask, use_cache = None, False

        if use_cache and past_key_values is None:
            past_key_values = HySparseCache(self.config)
        batch, length = inputs_embeds.shape[:2]
        q_offset = 0 if past_key_values is None else int(past_key_values.get_seq_length())
        if position_ids is None:
            position_ids = torch.arange(q_offset, q_offset + length, device=inputs_embeds.device)[None]
        if isinstance(attention_mask, torch.Tensor) and attention_mask.shape != (batch, q_offset + length):
            raise ValueError(
                f"`attention_mask` must be [batch, slots] = [{batch}, {q_offset + length}], a number for each token in the "
                f"cache and each new one; got {list(attention_mask.shape)}. Masks of other forms can't be represented; pack "
                "documents by `position_ids`."
            )
        masks = attention_mask if isinstance(attention_mask, dict) else {"full_attention": attention_mask}
        rows = Rows(content_start(masks["full_attention"]), q_offset)
        sliding_mask = self._sliding_mask(masks, inputs_embeds, past_key_values, position_ids)

        rotations = (
            self.rotary_emb(inputs_embeds, position_ids, "full_attention"),
            self.rotary_emb(inputs_embeds, position_ids, "sliding_attention"),
        )
        states = (inputs_embeds, None, None, None)
        for layer in self.layers if length > 0 else ():  # of no tokens there is nothing to compute
            states = layer(
                *states,
                rotations=rotations,
                rows=rows,
                sliding_mask=sliding_mask,
                **cache_argument(past_key_values),
            )
        hidden_states = self.norm(states[0])
        if documents is not None:
            hidden_states = documents.pack(hidden_states)
        return MoeModelOutputWithPast(
            last_hidden_state=hidden_states, **cache_argument(past_key_values if use_cache else None)
        )

    def _documents(self, attention_mask, position_ids, past_key_values, kwargs) -> PackedDocuments | None:
        """Packed documents, where there are any; padding and caches say that each row is one."""
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            return None
        if isinstance(attention_mask, dict) or torch.compiler.is_compiling():
            return None
        if attention_mask is not None and not attention_mask.all():
            return None
        documents = find_documents(position_ids)
        if documents is None:
            return None
        refused = [
            name
            for name in ("output_hidden_states", "output_attentions", "output_router_logits")
            if kwargs.get(name, getattr(self.config, name, False))
        ]
        if past_key_values is not None:
            refused.append(CACHE)
        if refused:
            raise ValueError(
                f"`{refused[0]}` must not go with packed documents (`position_ids` start anew within a row). Pass them as a "
                "padded batch, one document a row."
            )
        return documents

    def _sliding_mask(self, masks, inputs_embeds, past_key_values, position_ids) -> torch.Tensor | None:
        """For attention implementations that are not ours."""
        if self.config._attn_implementation in (NAME, "eager") or "sliding_attention" not in self.config.layer_types:
            return None
        if "sliding_attention" in masks:
            return masks["sliding_attention"]
        return create_sliding_window_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=masks["full_attention"],
            position_ids=position_ids,
            **cache_argument(past_key_values),
        )


class HySparseForCausalLM(HySparsePreTrainedModel, GenerationMixin):
    r"""
    HySparse (arXiv 2602.03560) with a language-modelling head.

    ```python
    config = HySparseConfig(vocab_size=32000, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2)
    model = HySparseForCausalLM(config)
    cache = HySparseCache(config, record_selection=True)
    model(input_ids, past_key_values=cache)
    cache.nbytes_by_layer(), cache.last_selection[0]        # [batch, key_value_heads, length, blocks]
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = v2_flash.MiMoV2FlashForCausalLM._tp_plan

    def __init__(self, config: HySparseConfig):
        super().__init__(config)
        self.model = HySparseModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    @either_cache_name
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor | None] | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """
        Args:
            input_ids, attention_mask, position_ids, inputs_embeds: as in `HySparseModel`.
            labels: `[batch, length]`, -100 where there is nothing to learn; shifted inside.
            logits_to_keep: how many last positions get logits, or which; 0: all.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **cache_argument(past_key_values),
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return MoeCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **cache_argument(cache_of(outputs)),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
        )


__all__ = ["HySparseForCausalLM", "HySparseModel", "HySparsePreTrainedModel"]
