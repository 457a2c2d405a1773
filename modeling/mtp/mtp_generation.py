"""`generate(use_mtp=True)`: the model's own MTP heads draft, one pass of the trunk verifies (arXiv 2601.02780, section 5)."""

import copy
import time
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation import GenerationMode
from transformers.generation.candidate_generator import CandidateGenerator

from ..transformers_versions import CACHE, cache_argument, cache_of
from .mtp_batch import decode_batch
from .mtp_statistics import MTPStatistics
from .mtp_stopping import HoldingStreamer, PrefixStoppingCriteria, Rewind, cut

if TYPE_CHECKING:
    from transformers import PreTrainedModel as Host

    from .mtp import MTPMixin
else:
    Host = object


class MTPCandidateGenerator(CandidateGenerator):
    """
    Drafts K tokens with the model's own heads for transformers' assisted decoding, batch 1.

    After a round that ends with the verified tokens t_0..t_n (t_n has not been through the trunk), row i of head k is
    final iff its token t_{i+1+k} is verified. Later rows used rejected drafts: they are cropped and run again together
    with the rows of the newly verified tokens, so that every cache stays equal to one computed from the verified text.
    """

    requires_model_outputs = True
    model_kwargs_overrides = {"output_mtp_hidden_states": True}

    def __init__(self, model: "MTPMixin", generation_config, logits_processor, attention_mask: torch.Tensor | None):
        self.model = model
        self.heads = model.mtp_heads
        self.cache = model.mtp_cache()
        self.window = model.mtp_window
        self.max_length = generation_config.max_length
        self.do_sample = generation_config.do_sample
        self.keep_logits = self.do_sample or generation_config.assistant_ensemble_weight is not None
        self.logits_processor = logits_processor
        self.num_padding = 0 if attention_mask is None else int(attention_mask[0].long().argmax())
        self.statistics = MTPStatistics(num_heads=len(self.heads))

        self.hidden: torch.Tensor | None = None  # trunk states of the rows from `hidden_start` on
        self.hidden_start = 0
        self.row_ends = [0] * len(self.heads)  # one past the last row in each head's cache
        self.num_drafts = 0
        self.masks: dict[int, torch.Tensor] = {}  # by number of queries, once the window is full
        self.verify_started = 0.0

    def get_candidates(
        self,
        input_ids: torch.LongTensor,
        model_kwargs: dict[str, Any],
        model_outputs,
        is_first_iteration: bool,
        n_last_matches: int,
        **kwargs,
    ) -> tuple[torch.LongTensor, torch.FloatTensor | None]:
        """
        Args:
            input_ids: `[1, n + 1]`, the verified tokens.
            model_outputs: the trunk's last output, whose `mtp_hidden_states` are `[1, rows, hidden]`.

        Returns:
            `[1, n + 1 + drafts]`, and the drafts' processed logits `[1, drafts, vocab]` where sampling needs them.
        """
        started = time.perf_counter()
        self.num_drafts = 0
        logits = None
        if not is_first_iteration:
            self._take_hidden_states(model_outputs.mtp_hidden_states, input_ids.shape[1] - 1, n_last_matches)
            # The trunk adds a token of its own to every round.
            self.num_drafts = min(len(self.heads), self.max_length - input_ids.shape[1] - 1)
            if self.num_drafts > 0:
                input_ids, logits = self._draft(input_ids)
            else:
                self.num_drafts = 0
        self.verify_started = time.perf_counter()
        self.statistics.draft_time_s += self.verify_started - started
        return input_ids, logits

    def update_candidate_strategy(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, num_matches: int):
        statistics = self.statistics
        statistics.verify_time_s += time.perf_counter() - self.verify_started
        statistics.forward_passes += 1
        if self.num_drafts:
            statistics.drafted.append(self.num_drafts)
            statistics.accepted.append(int(num_matches))
        self.model.on_drafts_rejected([self.num_drafts - int(num_matches)])

    def _take_hidden_states(self, states: torch.Tensor, num_rows: int, num_matches: int):
        """Appends the trunk states of newly verified rows, and drops those that no head will ask for again."""
        if self.hidden is None:
            start = max(num_rows - states.shape[1], self.num_padding)
            if self.window is not None:
                # A head is one layer deep: its last row sees the rows of one window, whatever came before. The K rows
                # more stay behind when rejected ones are cropped.
                start = max(start, num_rows - self.window - len(self.heads))
            self.hidden = states[:, states.shape[1] - (num_rows - start) :]
            self.hidden_start = start
            self.row_ends = [start] * len(self.heads)
            return
        self.hidden = torch.cat([self.hidden, states[:, : num_matches + 1]], dim=1)
        oldest = min(min(end, num_rows - 1 - k) for k, end in enumerate(self.row_ends))
        self.hidden = self.hidden[:, max(oldest - self.hidden_start, 0) :]
        self.hidden_start = max(oldest, self.hidden_start)

    def _draft(self, input_ids: torch.LongTensor) -> tuple[torch.LongTensor, torch.FloatTensor | None]:
        num_rows = input_ids.shape[1] - 1
        model, embed, lm_head = self.model, self.model.get_input_embeddings(), self.model.get_output_embeddings()
        first, states = self.hidden_start, self.hidden
        assert states is not None  # noqa: S101  for type checkers: taken from the prefill
        position_ids = torch.arange(first, num_rows, device=input_ids.device).unsqueeze(0) - self.num_padding
        cos, sin = model.mtp_position_embeddings(states, position_ids)

        logits_of_drafts = []
        for k in range(self.num_drafts):
            start = max(min(self.row_ends[k], num_rows - 1 - k), first)
            if self.cache.layers[k].is_initialized:
                self.cache.layers[k].crop(start - self.row_ends[k])
            self.row_ends[k] = num_rows
            rows = slice(start - first, None)
            hidden = self.heads[k](
                embed(input_ids[:, start + 1 + k :]),
                states[:, rows],
                attention_mask=self._mask(k, states[:, rows], position_ids[:, rows]),
                position_ids=position_ids[:, rows],
                position_embeddings=(cos[:, rows], sin[:, rows]),
                **cache_argument(self.cache),
            )
            logits = lm_head(hidden[:, -1])
            if self.logits_processor or self.keep_logits:
                logits = self.logits_processor(input_ids, logits.float())
            if self.keep_logits:
                logits_of_drafts.append(logits)
            input_ids = torch.cat([input_ids, self._choose(logits)], dim=-1)
        return input_ids, torch.stack(logits_of_drafts, dim=1) if logits_of_drafts else None

    def _choose(self, logits: torch.Tensor) -> torch.LongTensor:
        """The next draft, `[1, 1]`, from its processed logits, `[1, vocab]`."""
        if self.do_sample:
            return torch.multinomial(logits.softmax(dim=-1), num_samples=1)
        return logits.argmax(dim=-1, keepdim=True)

    def _mask(self, k: int, states: torch.Tensor, position_ids: torch.Tensor):
        """Mask of the rows of head k that are run now over its cache and themselves; None: nothing is hidden."""
        num_queries = states.shape[1]
        if num_queries == 1:
            return None
        window_is_full = self.window is not None and self.cache.get_seq_length(k) >= self.window - 1
        if window_is_full and num_queries in self.masks:
            return self.masks[num_queries]
        mask = self.model.mtp_mask(states, None, position_ids, self.cache, layer_idx=k)
        if window_is_full:
            self.masks[num_queries] = mask
        return mask


class MTPGenerationMixin(Host):
    """What `generate` needs of a model whose heads draft; `MTPMixin` says what the model provides."""

    mtp_statistics: MTPStatistics | None = None  # of the last generate(use_mtp=True)
    mtp_candidate_generator_class = MTPCandidateGenerator

    def _prepare_generation_config(self, generation_config, **kwargs):
        generation_config, model_kwargs = super()._prepare_generation_config(generation_config, **kwargs)
        if generation_config.use_mtp and (generation_config.num_beams or 1) > 1:
            raise ValueError(  # here, before transformers logs that it ignores one of the two
                "`num_beams` must be 1 with `use_mtp=True`, which drafts for greedy decoding and sampling; got "
                f"{generation_config.num_beams}. Set it to 1, or leave `use_mtp` out."
            )
        return generation_config, model_kwargs

    def _validate_generation_mode(self, generation_mode, generation_config, generation_mode_kwargs):
        if generation_config.use_mtp and generation_mode != GenerationMode.ASSISTED_GENERATION:
            raise ValueError(
                f"`use_mtp=True` must go with greedy decoding or sampling; got {generation_mode.value}. Leave one of them out."
            )
        if generation_config.use_mtp:
            self._refuse_beside_mtp(generation_config, generation_mode_kwargs)
        if generation_config.use_mtp and generation_config.num_return_sequences > 1:
            # transformers refuses several samples of a prompt in assisted decoding; here they are a batch like any other.
            generation_config = copy.copy(generation_config)
            generation_config.num_return_sequences = 1
        super()._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)

    def _refuse_beside_mtp(self, generation_config, generation_mode_kwargs):
        """What `use_mtp=True` would pass over in silence, or decode wrongly."""
        drafters = ("prompt_lookup_num_tokens", "assistant_early_exit")
        given = [name for name in drafters if getattr(generation_config, name) is not None]
        given += ["assistant_model"] if generation_mode_kwargs.get("assistant_model") is not None else []
        if given:
            raise ValueError(f"`use_mtp=True` must not go with `{given[0]}`, another way to draft; leave one out.")
        if generation_config.dola_layers is not None:
            raise ValueError("`use_mtp=True` must not go with `dola_layers`; leave one of them out.")
        if generation_config.guidance_scale not in (None, 1.0):
            raise ValueError(
                "`use_mtp=True` must not go with `guidance_scale`, whose second text transformers advances token by token and "
                "can't take back with a rejected draft; leave one of them out."
            )
        if generation_config.output_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                f"`output_attentions` must go with the attention 'eager'; got '{self.config._attn_implementation}'. Call "
                "`model.set_attn_implementation('eager')` first."
            )
        if self.training and any(getattr(module, "gradient_checkpointing", False) for module in self.modules()):
            raise ValueError(
                "`use_mtp=True` must go with the cache, which transformers leaves out under gradient checkpointing in "
                "training mode; call `model.eval()` or `model.gradient_checkpointing_disable()` before `generate`."
            )

    def prepare_inputs_for_generation(
        self,
        input_ids,
        next_sequence_length=None,
        inputs_embeds=None,
        is_first_iteration=False,
        num_cached_tokens=0,
        **kwargs,
    ):
        if is_first_iteration and num_cached_tokens > 0:
            next_sequence_length = input_ids.shape[1] - num_cached_tokens
        return super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    def _assisted_decoding(self, input_ids, *, stopping_criteria, generation_config, streamer=None, **kwargs):
        if generation_config.use_mtp and input_ids.shape[0] > 1:
            self._require_trained_heads("use_mtp=True")
            return decode_batch(
                self,
                input_ids,
                cache=kwargs.pop(CACHE, None),
                stopping_criteria=stopping_criteria,
                generation_config=generation_config,
                streamer=streamer,
                **kwargs,
            )
        cache = cache_of(kwargs)
        if generation_config.use_mtp and cache is None:
            raise ValueError("`use_mtp=True` must go with `use_cache=True`, to take rejected drafts back.")
        num_cached_tokens = 0 if cache is None else int(cache.get_seq_length())
        if generation_config.use_mtp and num_cached_tokens > 0:
            mask = kwargs.get("attention_mask")
            # `generate` leaves out a mask of ones and notes its length.
            mask_length = (
                getattr(generation_config, "_mask_length", input_ids.shape[1]) if mask is None else mask.shape[1]
            )
            if not num_cached_tokens < input_ids.shape[1] == mask_length:
                raise ValueError(
                    f"`input_ids` must be the whole text with `use_mtp=True`, also if `{CACHE}` holds its beginning; got "
                    f"{input_ids.shape[1]} tokens, a mask for {mask_length} and a cache of {num_cached_tokens}."
                )
            # Assisted decoding in transformers would run the whole text again, behind what the cache holds.
            kwargs["num_cached_tokens"] = num_cached_tokens
        if not generation_config.use_mtp or not PrefixStoppingCriteria.needed(stopping_criteria):
            return super()._assisted_decoding(
                input_ids,
                stopping_criteria=stopping_criteria,
                generation_config=generation_config,
                streamer=streamer,
                **kwargs,
            )
        streamer = HoldingStreamer(streamer) if streamer is not None else None
        prefixes = PrefixStoppingCriteria(stopping_criteria, input_ids.shape[1], streamer)
        rewind = Rewind(cache)
        try:
            outputs = super()._assisted_decoding(
                input_ids, stopping_criteria=prefixes, generation_config=generation_config, streamer=streamer, **kwargs
            )
            surplus = 0 if prefixes.length is None else prefixes.total_length - prefixes.length
            if surplus > 0 and self.mtp_statistics is not None:
                self.mtp_statistics.accepted[-1] -= surplus
                self.on_drafts_rejected([surplus])
                rewind.back(surplus)
        finally:
            rewind.release()
        return outputs if prefixes.length is None else cut(outputs, prefixes.length)

    def _get_candidate_generator(
        self, generation_config, input_ids, inputs_tensor, logits_processor, model_kwargs, **kw
    ):
        if not generation_config.use_mtp:
            return super()._get_candidate_generator(
                generation_config=generation_config,
                input_ids=input_ids,
                inputs_tensor=inputs_tensor,
                logits_processor=logits_processor,
                model_kwargs=model_kwargs,
                **kw,
            )
        self._require_trained_heads("use_mtp=True")
        if input_ids.shape[1] == 0 or model_kwargs.get("inputs_embeds") is not None:
            raise ValueError("`use_mtp=True` must go with the prompt as `input_ids`: the heads read its tokens.")
        generator = self.mtp_candidate_generator_class(
            self, generation_config, logits_processor, attention_mask=model_kwargs.get("attention_mask")
        )
        self.mtp_statistics = generator.statistics
        return generator


__all__ = ["MTPCandidateGenerator", "MTPGenerationMixin"]
