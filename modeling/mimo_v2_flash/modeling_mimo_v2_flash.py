"""MiMo-V2-Flash: transformers' trunk with the MTP heads, the losses and the decoding that it leaves out."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as trunk
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import OutputRecorder

from .. import sink_attention
from ..mtp.mtp import MTPMixin, MTPTrunkMixin
from ..parallel import ParallelMixin
from ..transformers_versions import cache_argument, cache_of, either_cache_name
from .configuration_mimo_v2_flash import MiMoV2FlashConfig
from .routing import RoutingRecorder, sequence_balance_loss

# transformers translates checkpoint names for classes outside its own package only where a mapping is registered.
register_checkpoint_conversion_mapping(
    "mimo_v2_flash", get_checkpoint_conversion_mapping("mimo_v2_flash"), overwrite=True
)


@dataclass
class MiMoV2FlashModelOutput(MoeModelOutputWithPast):
    """`mtp_hidden_states`: the trunk states that the heads read, `[batch, length, hidden]`."""

    mtp_hidden_states: torch.FloatTensor | None = None
    router_indices: tuple[torch.LongTensor, ...] | None = None


@dataclass
class MiMoV2FlashCausalLMOutput(MoeCausalLMOutputWithPast):
    """`mtp_loss`: mean cross-entropy of the heads; `mtp_hidden_states`: what they read, `[batch, length, hidden]`."""

    mtp_loss: torch.FloatTensor | None = None
    mtp_hidden_states: torch.FloatTensor | None = None


class MiMoV2FlashMTPLayer(GradientCheckpointingLayer):
    """One MTP head: a dense sliding-window layer on the projected pair (token embedding, trunk state)."""

    def __init__(self, config: MiMoV2FlashConfig, layer_idx: int):
        super().__init__()
        norm = lambda: trunk.MiMoV2FlashRMSNorm(config.hidden_size, config.rms_norm_eps)  # noqa: E731  five of them follow
        self.enorm = norm()
        self.hnorm = norm()
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.input_layernorm = norm()
        self.self_attn = trunk.MiMoV2FlashAttention(config, layer_idx)
        self.pre_mlp_layernorm = norm()
        self.mlp = trunk.MiMoV2FlashMLP(config)
        self.final_layernorm = norm()

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

        Returns:
            `[batch, rows, hidden]`, normed for the LM head.
        """
        # The embedding comes first (arXiv 2601.02780's released weights; MiMo-7B has it the other way round).
        states = self.eh_proj(torch.cat([self.enorm(inputs_embeds), self.hnorm(hidden_states)], dim=-1))
        attended, _ = self.self_attn(
            hidden_states=self.input_layernorm(states),
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
            **cache_argument(past_key_values),
            position_ids=position_ids,
        )
        states = states + attended
        states = states + self.mlp(self.pre_mlp_layernorm(states))
        return self.final_layernorm(states)


class MiMoV2FlashMTP(nn.Module):
    """The heads, `model.mtp.layers.{k}`, and the rotary embedding of their sliding-window attention."""

    def __init__(self, config: MiMoV2FlashConfig):
        super().__init__()
        mtp_config = config.get_mtp_config()
        self.layers = nn.ModuleList(MiMoV2FlashMTPLayer(mtp_config, k) for k in range(config.num_mtp_layers))
        self.rotary_emb = trunk.MiMoV2FlashRotaryEmbedding(mtp_config)
        for layer in self.layers:
            layer.self_attn.config = config  # follows `set_attn_implementation` of the model


class MiMoV2FlashPreTrainedModel(ParallelMixin, trunk.MiMoV2FlashPreTrainedModel):
    """What the MiMo-V2-Flash models have in common: initial weights, saving and loading."""

    config: MiMoV2FlashConfig
    config_class = MiMoV2FlashConfig
    _no_split_modules = ["MiMoV2FlashDecoderLayer", "MiMoV2FlashMTPLayer"]
    _keys_to_ignore_on_load_unexpected: list[str] = []
    _can_record_outputs = trunk.MiMoV2FlashPreTrainedModel._can_record_outputs | {
        "router_indices": OutputRecorder(trunk.MiMoV2FlashTopkRouter, index=2),
    }

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        if requested_attention is None:
            return sink_attention.NAME
        if requested_attention == "sdpa":
            raise ValueError(
                "`attn_implementation` must not be 'sdpa', which has no attention sinks; 'mimo_sink' is the same with them."
            )
        return super().get_correct_attn_implementation(requested_attention, is_init_check)

    # transformers looks for these two abilities in the source file of the class; the layers live in its own.
    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True


class MiMoV2FlashModel(MTPTrunkMixin, MiMoV2FlashPreTrainedModel, trunk.MiMoV2FlashModel):
    """The trunk, with the heads as `mtp` where the configuration asks for any."""

    mtp_output_class = MiMoV2FlashModelOutput

    def __init__(self, config: MiMoV2FlashConfig):
        config.check_values()  # once more: `from_pretrained(..., num_mtp_layers=K)` sets fields of a finished config
        super().__init__(config)
        self.watch_pre_norm_states()
        if config.num_mtp_layers > 0:
            self.mtp = MiMoV2FlashMTP(config)
        self.post_init()


class MiMoV2FlashForCausalLM(MTPMixin, MiMoV2FlashPreTrainedModel, trunk.MiMoV2FlashForCausalLM, GenerationMixin):
    r"""
    MiMo-V2-Flash with its MTP heads (arXiv 2601.02780).

    ```python
    model = AutoModelForCausalLM.from_pretrained(path)      # after mimo_hf.register()
    model.generate(**inputs, use_mtp=True)                  # the same tokens, in fewer passes of the trunk
    model.mtp_statistics.acceptance_length
    ```

    The loss is CE + `mtp_loss_weight` * mean_k CE_k, plus `router_aux_loss_coef` * `aux_loss` where router logits are
    asked for. `config.mtp_train_mode="heads"` trains the heads alone.
    """

    mtp_prefix = "model.mtp."

    def __init__(self, config: MiMoV2FlashConfig):
        # Skips the trunk class's constructor, which would build a model without heads.
        super(trunk.MiMoV2FlashForCausalLM, self).__init__(config)
        self.model = MiMoV2FlashModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.routing_recorder: RoutingRecorder | None = None
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
        output_router_logits: bool | None = None,
        output_mtp_hidden_states: bool = False,
        **kwargs,
    ) -> MiMoV2FlashCausalLMOutput:
        """
        Args:
            input_ids: `[batch, length]`.
            labels: `[batch, length]`, -100 where there is nothing to learn; shifted inside. `shift_labels` take their place.
            output_router_logits: return `router_logits` and `aux_loss`; None: as the configuration says.
            output_mtp_hidden_states: return the states that the heads read.
        """
        if output_router_logits is None:
            output_router_logits = self.config.output_router_logits
        trains_mtp = self.trains_mtp(input_ids, labels)
        with self.trunk_gradients(trains_mtp):
            outputs = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                **cache_argument(past_key_values),
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                output_router_logits=output_router_logits,
                output_router_indices=output_router_logits,
                output_mtp_hidden_states=output_mtp_hidden_states or trains_mtp,
                **kwargs,
            )
            states = outputs.last_hidden_state
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(states[:, kept, :])
            loss = None
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
            aux_loss = None
            if output_router_logits:
                aux_loss = states.new_zeros(())  # a model of dense layers has nothing to balance
                if outputs.router_logits:
                    aux_loss = sequence_balance_loss(
                        outputs.router_logits, outputs.router_indices, states.shape[0], attention_mask
                    )
                if loss is not None:
                    loss = loss + self.config.router_aux_loss_coef * aux_loss.to(loss.device)

        mtp_loss = None
        if trains_mtp and loss is not None:
            mtp_loss = self.mtp_loss(
                input_ids,
                labels,
                outputs.mtp_hidden_states,
                attention_mask=attention_mask["sliding_attention"]
                if isinstance(attention_mask, dict)
                else attention_mask,
                position_ids=position_ids,
                num_items_in_batch=kwargs.get("num_items_in_batch"),
                shift_labels=kwargs.get("shift_labels"),
            )
            loss = loss + self.config.mtp_loss_weight * mtp_loss.to(loss.device)

        return MiMoV2FlashCausalLMOutput(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            **cache_argument(cache_of(outputs)),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
            mtp_loss=mtp_loss,
            mtp_hidden_states=outputs.mtp_hidden_states if output_mtp_hidden_states else None,
        )

    # What MTPMixin asks of a model.

    @property
    def mtp_heads(self) -> nn.ModuleList:
        return self.model.mtp.layers if self.config.num_mtp_layers > 0 else nn.ModuleList()

    @property
    def mtp_window(self) -> int | None:
        return self.config.sliding_window

    def mtp_cache(self) -> DynamicCache:
        cache = DynamicCache(config=self.config.get_mtp_config())
        cache.activate_past_recording()
        return cache

    def mtp_position_embeddings(self, hidden_states: torch.Tensor, position_ids: torch.LongTensor):
        return self.model.mtp.rotary_emb(hidden_states, position_ids, "sliding_attention")

    def mtp_mask(self, hidden_states, attention_mask, position_ids, cache: Cache | None, layer_idx: int):
        return create_sliding_window_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            **cache_argument(cache),
            position_ids=position_ids,
            layer_idx=layer_idx,
        )

    def set_num_mtp_heads(self, num_heads: int):
        """Replaces the heads by `num_heads` new, untrained ones."""
        self.config.num_mtp_layers = num_heads
        self.model.mtp = MiMoV2FlashMTP(self.config)
        self.model.mtp.apply(self._init_weights)

    def on_drafts_rejected(self, counts: list[int]):
        if self.routing_recorder is not None:
            self.routing_recorder.drop_last(counts)

    def on_rows_finished(self, kept: list[int]):
        if self.routing_recorder is not None:
            self.routing_recorder.keep_rows(kept)


__all__ = ["MiMoV2FlashForCausalLM", "MiMoV2FlashModel", "MiMoV2FlashPreTrainedModel"]
