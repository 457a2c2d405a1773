"""
MiMo-Audio's language model (arXiv 2512.23808, section 2.2): Qwen2 over text tokens and patches of audio, with a patch encoder
before it and a patch decoder after it.

B rows of T positions; a patch has G frames of C channels; N patches, wherever they stand.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Cache, DynamicCache, Qwen2Config
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model, Qwen2PreTrainedModel
from transformers.utils import can_return_tuple

from ..transformers_versions import cache_argument, cache_of, either_cache_name
from .audio_layout import IGNORED, check_codes
from .configuration_mimo_audio import MiMoAudioConfig
from .generation_mimo_audio import MiMoAudioGenerationMixin, Sampler


@dataclass
class MiMoAudioOutput(CausalLMOutputWithPast):
    """
    What MiMo-Audio's language model puts out.

    Args:
        loss: the weighted sum of what follows (section 3.2 of arXiv 2512.23808).
        logits: of the next text id, `[B, kept, vocab]`.
        text_loss: weighted mean cross-entropy of the text ids.
        audio_loss: mean of `audio_loss_per_channel`, weighted by `config.audio_loss_weights`; None: there are no targets.
        audio_loss_per_channel: mean cross-entropy of the codes, `[C]`.
        patch_hidden_states: what the patch decoder starts from, `[B, kept, local_dim]`.
    """

    text_loss: torch.FloatTensor | None = None
    audio_loss: torch.FloatTensor | None = None
    audio_loss_per_channel: torch.FloatTensor | None = None
    patch_hidden_states: torch.FloatTensor | None = None


class MiMoAudioPatchModel(Qwen2Model):
    """
    The transformer inside a patch: Qwen2 without token embeddings.

    Args:
        is_causal: whether a place sees only itself and earlier ones.
    """

    def __init__(self, config: Qwen2Config, is_causal: bool):
        super().__init__(config)
        self.embed_tokens = None
        self.is_causal = is_causal
        for layer in self.layers:
            cast(Any, layer).self_attn.is_causal = is_causal  # what attention does where the mask is None

    def forward(self, inputs_embeds: torch.Tensor, past_key_values: Cache | None = None) -> torch.Tensor:
        """`[N, places, width]` to the same, at positions from 0, or from where the cache ends."""
        masks = None
        if not self.is_causal:
            masks = {
                "full_attention": create_bidirectional_mask(
                    config=self.config, inputs_embeds=inputs_embeds, attention_mask=None
                )
            }
        outputs = super().forward(
            inputs_embeds=inputs_embeds,
            attention_mask=masks,
            use_cache=past_key_values is not None,
            **cache_argument(past_key_values),
        )
        return outputs.last_hidden_state


class MiMoAudioPreTrainedModel(Qwen2PreTrainedModel):
    """What MiMo-Audio's models of text and patches have in common."""

    config: MiMoAudioConfig
    config_class = MiMoAudioConfig
    _can_compile_fullgraph = False  # how many patches there are depends on the data
    input_modalities = ("audio", "text")
    output_modalities = ("audio", "text")


class MiMoAudioForConditionalGeneration(MiMoAudioPreTrainedModel, MiMoAudioGenerationMixin):
    r"""
    MiMo-Audio's language model (arXiv 2512.23808): it reads and writes text and patches of audio codes, by turns and in batches.

    ```python
    model = MiMoAudioForConditionalGeneration.from_pretrained(folder)
    ids, codes = layout_audio(clip_codes, model.config)               # [frames, 8] -> one position a patch
    output = model.generate(input_ids=ids[None], audio_codes=codes[None], **model.generation_presets["spoken_dialogue"])
    output.sequences, output.audio_codes                              # [1, length] and [1, length, 4, 8]
    ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    accepts_loss_kwargs = False  # the losses are means of their own targets: a Trainer averages over micro-batches

    def __init__(self, config: MiMoAudioConfig):
        config.check_values()  # once more: `from_pretrained(..., group_size=2)` sets fields of a finished config
        super().__init__(config)
        encoder, decoder = config.patch_encoder_config, config.patch_decoder_config
        sizes, zeros = config.speech_vocab_sizes, config.speech_zero_ids
        self.model = Qwen2Model(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.input_local_transformer = MiMoAudioPatchModel(encoder, is_causal=not config.input_full_attention)
        self.speech_group_downcast = nn.Linear(config.group_size * encoder.hidden_size, config.hidden_size, bias=False)
        self.speech_embeddings = nn.ModuleList(
            nn.Embedding(size, encoder.hidden_size, padding_idx=zero) for size, zero in zip(sizes, zeros, strict=True)
        )
        self.hidden_states_downcast = nn.Linear(config.hidden_size, decoder.hidden_size, bias=False)
        self.local_transformer = MiMoAudioPatchModel(decoder, is_causal=True)
        self.local_transformer_lm_heads = nn.ModuleList(
            nn.Linear(decoder.hidden_size, size, bias=False) for size in sizes
        )
        if encoder.hidden_size != decoder.hidden_size:
            self.speech_embeddings_to_local = nn.Linear(encoder.hidden_size, decoder.hidden_size, bias=False)
        self.post_init()
        self.set_generation_defaults()

    @can_return_tuple
    @either_cache_name
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        audio_codes: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor | None] | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        audio_labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> MiMoAudioOutput:
        """
        Args:
            input_ids: text ids, `[B, T]`, `<|empty|>` where there is a patch.
            audio_codes: `[B, T, G, C]`; read where there is a patch. None: there is none.
            attention_mask: `[B, T]` or `[B, cached + T]`, 0 for padding.
            inputs_embeds: `[B, T, hidden]`, in place of `input_ids`; with labels, the patches to learn are `audio_labels`.
            labels: text ids to learn, `[B, T]`, shifted inside; -100 where there is nothing to learn.
            audio_labels: codes to learn, `[B, T, G, C]`, shifted inside; read where `labels` is `<|empty|>`; -100 where there is
                nothing to learn. None: `audio_codes`.
            logits_to_keep: how many last positions get `logits` and `patch_hidden_states`, or which; 0: all.

        Raises:
            ValueError: inputs of other shapes, patches without codes, or codes that a channel does not have.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("One of `input_ids` and `inputs_embeds` must be given; got both or none of them.")
        is_new = past_key_values is None or past_key_values.get_seq_length() == 0
        if inputs_embeds is None:
            inputs_embeds = self.embed(cast(torch.Tensor, input_ids), audio_codes, check=is_new)
        if labels is not None and logits_to_keep != 0:
            raise ValueError(f"`logits_to_keep` must be 0 with `labels`; got {logits_to_keep}.")
        outputs = self.model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **cache_argument(past_key_values),
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = outputs.last_hidden_state[:, kept]
        output = MiMoAudioOutput(
            logits=self.lm_head(hidden),
            patch_hidden_states=self.hidden_states_downcast(hidden),
            **cache_argument(cache_of(outputs)),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        if labels is not None:
            self._add_losses(output, labels, audio_codes, audio_labels)
        return output

    def embed(
        self, input_ids: torch.Tensor, audio_codes: torch.Tensor | None = None, check: bool = True
    ) -> torch.Tensor:
        """
        What the trunk reads: token embeddings, and encoded patches in place of `<|empty|>`.

        Args:
            input_ids: `[B, T]`.
            audio_codes: `[B, T, G, C]`.
            check: that every code is one of its channel's.

        Returns:
            `[B, T, hidden]`.
        """
        is_patch = input_ids == self.config.empty_token_id
        embeds = self.model.embed_tokens(input_ids)
        if audio_codes is None:
            if is_patch.any():
                raise ValueError(
                    f"`audio_codes` must be given, as `input_ids` has {int(is_patch.sum())} `<|empty|>`, each the place of a "
                    "patch. Use `layout_audio`."
                )
            return embeds
        self._check_shape("audio_codes", audio_codes, input_ids)
        codes = audio_codes[is_patch]
        if len(codes) == 0:
            return embeds
        if check:
            check_codes(codes, self.config, "audio_codes")
        patches = self.encode_patches(codes).to(embeds.dtype)
        return embeds.masked_scatter(is_patch[..., None], patches)

    def encode_patches(self, codes: torch.Tensor) -> torch.Tensor:
        """
        Patches as the trunk reads them (section 2.2.1). No patch sees another.

        Args:
            codes: `[N, G, C]`; zero ids count for nothing.

        Returns:
            `[N, hidden]`.
        """
        frames = self._embed_codes({c: codes[..., c] for c in range(self.config.audio_channels)})
        return self.speech_group_downcast(self.input_local_transformer(frames).flatten(1))

    def patch_logits(self, patch_hidden_states: torch.Tensor, codes: torch.Tensor) -> list[torch.Tensor]:
        """
        Logits of all codes of patches, each given those that the patch decoder writes in earlier steps (section 2.2.3).

        Args:
            patch_hidden_states: `[N, local_dim]`.
            codes: `[N, G, C]`.

        Returns:
            For each channel `[N, G, K_c + 1]`.
        """
        group, delays = self.config.group_size, self.config.delays
        steps = [patch_hidden_states]
        steps += [self._step_input(codes, step) for step in range(self.config.num_patch_steps - 1)]
        states = self.local_transformer(torch.stack(steps, dim=1))
        heads = self.local_transformer_lm_heads
        return [head(states[:, delay : delay + group]) for head, delay in zip(heads, delays, strict=True)]

    @torch.no_grad()
    def write_patches(self, patch_hidden_states: torch.Tensor, sampler: Sampler) -> torch.Tensor:
        """
        The codes of new patches, step by step.

        Args:
            patch_hidden_states: `[N, local_dim]`.
            sampler: `[N, K_c + 1]` logits to codes, `[N]`. The zero id's logit is -inf.

        Returns:
            `[N, G, C]`.
        """
        zeros = self.config.speech_zero_ids
        codes = torch.tensor(zeros, device=patch_hidden_states.device).repeat(
            len(patch_hidden_states), self.config.group_size, 1
        )
        cache = DynamicCache(config=self.local_transformer.config)
        step_input = patch_hidden_states
        for step in range(self.config.num_patch_steps):
            state = self.local_transformer(step_input[:, None], past_key_values=cache)[:, -1]
            for channel, frame in self._written_in(step):
                logits = self.local_transformer_lm_heads[channel](state).float()
                logits[:, zeros[channel]] = float("-inf")
                codes[:, frame, channel] = sampler(logits)
            step_input = self._step_input(codes, step)
        return codes

    def _written_in(self, step: int) -> list[tuple[int, int]]:
        """(channel, frame) of each code that is written in this step."""
        frames = [(channel, step - delay) for channel, delay in enumerate(self.config.delays)]
        return [(channel, frame) for channel, frame in frames if 0 <= frame < self.config.group_size]

    def _step_input(self, codes: torch.Tensor, step: int) -> torch.Tensor:
        """What the patch decoder reads after this step: the sum of what it wrote there, `[N, local_dim]`."""
        written = {channel: codes[:, frame, channel] for channel, frame in self._written_in(step)}
        if not written:
            return self.local_transformer.norm.weight.new_zeros(len(codes), self.config.local_dim)
        embeds = self._embed_codes(written)
        return self.speech_embeddings_to_local(embeds) if hasattr(self, "speech_embeddings_to_local") else embeds

    def _embed_codes(self, codes: dict[int, torch.Tensor]) -> torch.Tensor:
        """Codes by channel, each of one shape, to the sum of their embeddings; zero ids give zero whatever the table holds."""
        zeros = self.config.speech_zero_ids
        embeds = [
            self.speech_embeddings[channel](ids).masked_fill((ids == zeros[channel])[..., None], 0)
            for channel, ids in codes.items()
        ]
        return torch.stack(embeds).sum(dim=0)

    def _add_losses(
        self,
        output: MiMoAudioOutput,
        labels: torch.Tensor,
        audio_codes: torch.Tensor | None,
        audio_labels: torch.Tensor | None,
    ):
        config = self.config
        logits, targets = cast(torch.Tensor, output.logits)[:, :-1].float(), labels[:, 1:]
        losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED)
        is_patch = targets == config.empty_token_id
        weights = (targets != IGNORED).float().masked_fill(is_patch, config.empty_loss_weight)
        output.text_loss = (losses.view_as(weights) * weights).sum() / weights.sum().clamp(min=1e-9)

        loss = config.text_loss_weight * output.text_loss
        total = config.text_loss_weight
        channel_weights = loss.new_tensor(config.audio_loss_weights)
        if is_patch.any() and channel_weights.any():
            if audio_codes is None and audio_labels is None:
                raise ValueError(
                    f"`audio_labels` must be given, as `labels` has {int(is_patch.sum())} `<|empty|>` to learn and there are no "
                    "`audio_codes`."
                )
            output.audio_loss_per_channel = self._audio_losses(output, is_patch, audio_codes, audio_labels)
            loss = loss + (channel_weights * output.audio_loss_per_channel).sum()
            output.audio_loss = (channel_weights * output.audio_loss_per_channel).sum() / channel_weights.sum()
            total = total + channel_weights.sum()
        output.loss = loss / total if config.normalize_loss_weights and total > 0 else loss

    def _audio_losses(
        self,
        output: MiMoAudioOutput,
        is_patch: torch.Tensor,
        audio_codes: torch.Tensor | None,
        audio_labels: torch.Tensor | None,
    ) -> torch.Tensor:
        """`[C]`."""
        targets = audio_codes if audio_labels is None else audio_labels
        self._check_shape("audio_labels", cast(torch.Tensor, targets), cast(torch.Tensor, output.logits)[..., 0])
        targets = cast(torch.Tensor, targets)[:, 1:][is_patch]
        check_codes(targets, self.config, "audio_codes" if audio_labels is None else "audio_labels", IGNORED)
        zeros = torch.tensor(self.config.speech_zero_ids, device=targets.device)
        known = targets.where(targets != IGNORED, zeros) if audio_codes is None else audio_codes[:, 1:][is_patch]
        states = cast(torch.Tensor, output.patch_hidden_states)[:, :-1][is_patch]
        losses = []
        for channel, logits in enumerate(self.patch_logits(states, known)):
            ids = targets[..., channel].flatten()
            summed = cross_entropy(logits.float().flatten(0, 1), ids, reduction="sum", ignore_index=IGNORED)
            losses.append(summed / (ids != IGNORED).sum().clamp(min=1))
        return torch.stack(losses)

    def _check_shape(self, name: str, codes: torch.Tensor, positions: torch.Tensor):
        expected = [*positions.shape, self.config.group_size, self.config.audio_channels]
        if list(codes.shape) != expected:
            raise ValueError(
                f"`{name}` must be [batch, length, group_size, audio_channels] = {expected}; got the shape "
                f"{list(codes.shape)}. Use `layout_audio`, or `from_official_layout` for the official code's tensors."
            )


__all__ = ["MiMoAudioForConditionalGeneration", "MiMoAudioOutput", "MiMoAudioPatchModel", "MiMoAudioPreTrainedModel"]
