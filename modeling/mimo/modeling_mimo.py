"""MiMo-7B: Qwen2's trunk with the multi-token-prediction (MTP) layers of the official checkpoints."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.qwen2 import modeling_qwen2 as trunk
from transformers.utils import can_return_tuple

from ..mtp.mtp import MTPMixin, MTPTrunkMixin
from ..parallel import ParallelMixin
from ..transformers_versions import cache_argument, cache_of, either_cache_name
from .configuration_mimo import MiMoConfig


@dataclass
class MiMoModelOutput(BaseModelOutputWithPast):
    """`mtp_hidden_states`: the trunk states that the MTP layers read, `[batch, length, hidden]`."""

    mtp_hidden_states: torch.FloatTensor | None = None


@dataclass
class MiMoCausalLMOutput(CausalLMOutputWithPast):
    """`mtp_loss`: mean cross-entropy of the heads; `mtp_hidden_states`: what they read, `[batch, length, hidden]`."""

    mtp_loss: torch.FloatTensor | None = None
    mtp_hidden_states: torch.FloatTensor | None = None


class MiMoMTPLayer(trunk.Qwen2DecoderLayer):
    """One MTP head: a layer like the trunk's on the projected pair (trunk state, token embedding)."""

    def __init__(self, config: MiMoConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.zero_first_embedding = config.mtp_zero_first_embedding
        self.token_layernorm = trunk.Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hidden_layernorm = trunk.Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.input_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.final_layernorm = trunk.Qwen2RMSNorm(config.hidden_size, config.rms_norm_eps)

    @either_cache_name
    def forward(
        self,
        inputs_embeds: torch.Tensor,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: Cache | None = None,
    ) -> torch.Tensor:
        """
        Args:
            inputs_embeds: embeddings of t_{i+1+k}, `[batch, rows, hidden]`.
            hidden_states: trunk states h_i, `[batch, rows, hidden]`.
            position_ids: place of each row in its text, `[batch, rows]`.

        Returns:
            `[batch, rows, hidden]`, normed for the LM head.
        """
        if self.zero_first_embedding and position_ids is not None:
            inputs_embeds = inputs_embeds.masked_fill(position_ids[..., None] == 0, 0.0)
        # The trunk state comes first (MiMo-V2-Flash has it the other way round).
        states = self.input_proj(
            torch.cat([self.hidden_layernorm(hidden_states), self.token_layernorm(inputs_embeds)], dim=-1)
        )
        states = super().forward(
            states,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **cache_argument(past_key_values),
            use_cache=past_key_values is not None,
            position_embeddings=position_embeddings,
        )
        return self.final_layernorm(states)


class MiMoPreTrainedModel(ParallelMixin, trunk.Qwen2PreTrainedModel):
    """What the MiMo-7B models have in common: initial weights, saving and loading."""

    config: MiMoConfig
    config_class = MiMoConfig
    _no_split_modules = ["Qwen2DecoderLayer", "MiMoMTPLayer"]


class MiMoModel(MTPTrunkMixin, MiMoPreTrainedModel, trunk.Qwen2Model):
    """Qwen2's trunk, with the MTP layers as `mtp_layers` where the configuration asks for any."""

    mtp_output_class = MiMoModelOutput

    def __init__(self, config: MiMoConfig):
        config.check_values()  # once more: `from_pretrained(..., num_mtp_layers=K)` sets fields of a finished config
        super().__init__(config)
        self.watch_pre_norm_states()
        if config.num_nextn_predict_layers > 0:
            self.make_mtp_layers()
        self.post_init()

    def make_mtp_layers(self):
        mtp_config = self.config.get_mtp_config()
        self.mtp_layers = nn.ModuleList(
            MiMoMTPLayer(mtp_config, k) for k in range(self.config.num_nextn_predict_layers)
        )
        for layer in self.mtp_layers:
            layer.self_attn.config = self.config  # follows `set_attn_implementation` of the model


class MiMoForCausalLM(MTPMixin, MiMoPreTrainedModel, trunk.Qwen2ForCausalLM, GenerationMixin):
    r"""
    MiMo-7B with its MTP layers (arXiv 2505.07608).

    ```python
    model = AutoModelForCausalLM.from_pretrained("XiaomiMiMo/MiMo-7B-RL")     # after mimo_hf.register()
    model.generate(**inputs, use_mtp=True)                  # the same tokens, in fewer passes of the trunk
    ```

    The loss is CE + `mtp_loss_weight` * mean_k CE_k; `config.mtp_train_mode` says what is trained. Published checkpoints
    have one MTP layer. For more, `replicate_mtp_heads(3)`, `freeze_mtp_heads([0])` and train the others: layer k pairs h_i
    with the embedding of t_{i+1+k} and predicts t_{i+2+k} (figure 2 of the paper).
    """

    mtp_prefix = "model.mtp_layers."

    def __init__(self, config: MiMoConfig):
        # Skips the trunk class's constructor, which would build a model without MTP layers.
        super(trunk.Qwen2ForCausalLM, self).__init__(config)
        self.model = MiMoModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @either_cache_name
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        output_mtp_hidden_states: bool = False,
        **kwargs,
    ) -> MiMoCausalLMOutput:
        """
        Args:
            input_ids: `[batch, length]`.
            labels: `[batch, length]`, -100 where there is nothing to learn; shifted inside. `shift_labels` take their place.
            output_mtp_hidden_states: return the states that the MTP layers read.
        """
        trains_mtp = self.trains_mtp(input_ids, labels)
        with self.trunk_gradients(trains_mtp):
            outputs = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                **cache_argument(past_key_values),
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                output_mtp_hidden_states=output_mtp_hidden_states or trains_mtp,
                **kwargs,
            )
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
            loss = None
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)

        mtp_loss = None
        if trains_mtp and loss is not None:
            if isinstance(attention_mask, dict):
                attention_mask = attention_mask["full_attention"]
            mtp_loss = self.mtp_loss(
                input_ids,
                labels,
                outputs.mtp_hidden_states,
                attention_mask=attention_mask,
                position_ids=position_ids,
                num_items_in_batch=kwargs.get("num_items_in_batch"),
                shift_labels=kwargs.get("shift_labels"),
            )
            loss = loss + self.config.mtp_loss_weight * mtp_loss.to(loss.device)

        return MiMoCausalLMOutput(
            loss=loss,
            logits=logits,
            **cache_argument(cache_of(outputs)),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            mtp_loss=mtp_loss,
            mtp_hidden_states=outputs.mtp_hidden_states if output_mtp_hidden_states else None,
        )

    # What MTPMixin asks of a model.

    mtp_window = None

    @property
    def mtp_heads(self) -> nn.ModuleList:
        return self.model.mtp_layers if self.config.num_nextn_predict_layers > 0 else nn.ModuleList()

    def mtp_cache(self) -> DynamicCache:
        return DynamicCache(config=self.config.get_mtp_config())

    def mtp_position_embeddings(self, hidden_states: torch.Tensor, position_ids: torch.LongTensor):
        return self.model.rotary_emb(hidden_states, position_ids)

    def mtp_mask(self, hidden_states, attention_mask, position_ids, cache: Cache | None, layer_idx: int):
        return create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            **cache_argument(cache),
            position_ids=position_ids,
            layer_idx=layer_idx,
        )

    def set_num_mtp_heads(self, num_heads: int):
        """Replaces the MTP layers by `num_heads` new, untrained ones."""
        self.config.num_nextn_predict_layers = num_heads
        self.model.make_mtp_layers()
        self.model.mtp_layers.apply(self._init_weights)


__all__ = ["MiMoForCausalLM", "MiMoModel", "MiMoPreTrainedModel"]
