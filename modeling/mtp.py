"""Multi-token prediction (MTP) shared by the MiMo models: training losses, and self-speculative decoding.

Head k (k = 0..K-1) reads the trunk state h_i and the embedding of token t_{i+1+k} and predicts t_{i+2+k}. Heads are not
chained: all of them read the same h_i (arXiv 2601.02780, section 2.3.2). Each head keeps its own key-value cache whose
entries are called rows; row i belongs to the trunk state h_i.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.func import functional_call
from transformers.generation import GenerationMode
from transformers.generation.candidate_generator import CandidateGenerator
from transformers.utils import logging

from .mtp_stopping import HoldingStreamer, PrefixStoppingCriteria, Rewind, cut

if TYPE_CHECKING:
    from transformers import PreTrainedModel as Host
else:
    Host = object

logger = logging.get_logger(__name__)

IGNORE_INDEX = -100


@dataclass
class MTPStatistics:
    """
    What one `generate(use_mtp=True)` call drafted and accepted.

    Attributes:
        drafted (`list[int]`): drafts proposed in each round of draft and verification.
        accepted (`list[int]`): drafts of that round that ended up in the output.
        forward_passes (`int`): runs of the trunk, the prefill and rounds without drafts included.
        draft_time_s, verify_time_s (`float`): host seconds in the heads, and in the trunk with the choice of tokens.
    """

    num_heads: int
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    forward_passes: int = 0
    draft_time_s: float = 0.0
    verify_time_s: float = 0.0

    @property
    def rounds(self) -> int:
        return len(self.drafted)

    @property
    def acceptance_length(self) -> float:
        """Tokens emitted by a round: accepted drafts and the trunk's own token, between 1 and K+1. NaN without rounds."""
        return (sum(self.accepted) + self.rounds) / self.rounds if self.rounds else float("nan")

    @property
    def acceptance_by_position(self) -> list[float]:
        """Share of the drafts at each position that were accepted, position 1 first. NaN where none was drafted."""
        rates = []
        for position in range(1, self.num_heads + 1):
            proposed = sum(drafts >= position for drafts in self.drafted)
            kept = sum(matches >= position for matches in self.accepted)
            rates.append(kept / proposed if proposed else float("nan"))
        return rates

    def to_dict(self) -> dict[str, Any]:
        return {
            "rounds": self.rounds,
            "forward_passes": self.forward_passes,
            "acceptance_length": self.acceptance_length,
            "acceptance_by_position": self.acceptance_by_position,
            "draft_time_s": self.draft_time_s,
            "verify_time_s": self.verify_time_s,
        }


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
        self.model.on_drafts_rejected(self.num_drafts - int(num_matches))

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
        assert states is not None  # taken from the prefill
        position_ids = torch.arange(first, num_rows, device=input_ids.device).unsqueeze(0)
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
                past_key_values=self.cache,
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


class MTPMixin(Host):
    """
    Losses, logits and decoding of a causal language model with MTP heads.

    The model provides `mtp_heads` (a `ModuleList` of modules called with the signature used below), `mtp_window`,
    `mtp_cache()`, `mtp_position_embeddings(hidden, position_ids)`, `mtp_mask(...)`, and outputs with
    `mtp_hidden_states` when called with `output_mtp_hidden_states=True`.
    """

    mtp_statistics: MTPStatistics | None = None  # of the last generate(use_mtp=True)
    mtp_candidate_generator_class = MTPCandidateGenerator

    def mtp_logits(
        self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """
        The heads' predictions for a known text (teacher forcing).

        Args:
            input_ids: `[batch, length]`.
            attention_mask: `[batch, length]`, 1 for tokens and 0 for padding.

        Returns:
            K tensors `[batch, max(length - 1 - k, 0), vocab]`: row i of the k-th is the distribution of token i + 2 + k.
        """
        self._require_heads("mtp_logits")
        outputs = self(input_ids, attention_mask=attention_mask, output_mtp_hidden_states=True, use_cache=False)
        return self._mtp_logits(input_ids, outputs.mtp_hidden_states, attention_mask)

    def _mtp_logits(
        self,
        input_ids: torch.LongTensor,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.LongTensor | None = None,
        trunk_is_constant: bool = False,
    ) -> list[torch.Tensor]:
        embeddings = self.get_input_embeddings()(input_ids)
        lm_head: Callable = self.get_output_embeddings()
        if trunk_is_constant:
            embeddings, hidden_states = embeddings.detach(), hidden_states.detach()
            lm_head = _without_gradients(lm_head)
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
            known_positions = None
        else:
            known_positions = position_ids

        logits = []
        for k, head in enumerate(self.mtp_heads):
            num_rows = input_ids.shape[1] - 1 - k
            if num_rows <= 0:
                logits.append(hidden_states.new_zeros(input_ids.shape[0], 0, self.config.vocab_size))
                continue
            rows = hidden_states[:, :num_rows]
            positions = position_ids[:, :num_rows]
            mask_of_rows = _first_rows(attention_mask, num_rows)
            packed_positions = None if known_positions is None else known_positions[:, :num_rows]
            states = head(
                embeddings[:, 1 + k :],
                rows,
                attention_mask=self.mtp_mask(rows, mask_of_rows, packed_positions, None, layer_idx=k),
                position_ids=positions,
                position_embeddings=self.mtp_position_embeddings(rows, positions),
            )
            logits.append(lm_head(states))
        return logits

    def mtp_loss(
        self,
        input_ids: torch.LongTensor,
        labels: torch.LongTensor,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        trunk_is_constant: bool = False,
    ) -> torch.Tensor:
        """
        Mean over the heads of the cross-entropy of t_{i+2+k} (arXiv 2601.02780, section 2.3.2).

        Rows whose tokens i..i+2+k touch padding or two packed documents, and labels of -100, are left out.
        """
        segments = _segments(input_ids, attention_mask, position_ids)
        losses = []
        all_logits = self._mtp_logits(input_ids, hidden_states, attention_mask, position_ids, trunk_is_constant)
        for k, logits in enumerate(all_logits):
            targets = labels.new_full(logits.shape[:2], IGNORE_INDEX)
            labelled = labels[:, 2 + k :]
            inside = (segments[:, 2 + k :] == segments[:, : labelled.shape[1]]) & (segments[:, 2 + k :] >= 0)
            targets[:, : labelled.shape[1]] = labelled.masked_fill(~inside, IGNORE_INDEX)
            if num_items_in_batch is None:
                count = (targets != IGNORE_INDEX).sum().clamp(min=1)
            else:
                count = num_items_in_batch
            losses.append(
                self.loss_function(
                    logits=logits,
                    labels=None,
                    vocab_size=self.config.vocab_size,
                    shift_labels=targets,
                    num_items_in_batch=count,
                )
            )
        return torch.stack(losses).mean()

    def replicate_mtp_heads(self, num_heads: int, train_mode: str = "heads"):
        """
        Makes `num_heads` heads that all equal head 0, the start of post-training (arXiv 2601.02780, section 2.3.2).

        Args:
            num_heads: K, at least 1. Trained heads beyond head 0 are discarded.
            train_mode: the `mtp_train_mode` from here on; `"heads"` keeps the trunk as it is.
        """
        self._require_heads("replicate_mtp_heads")
        if isinstance(num_heads, bool) or not isinstance(num_heads, int) or num_heads < 1:
            raise ValueError(f"`num_heads` must be a positive integer; got {num_heads!r}.")
        first = self.mtp_heads[0]
        state = {name: tensor.detach().clone() for name, tensor in first.state_dict().items()}
        reference = next(first.parameters())
        self.set_num_mtp_heads(num_heads)
        for head in self.mtp_heads:
            head.to(device=reference.device, dtype=reference.dtype)
            head.load_state_dict(state)
            head.train(self.training)
        self.config.mtp_train_mode = train_mode

    def on_drafts_rejected(self, count: int):
        """Called after each verification with the number of tokens that the trunk saw in vain."""

    def _require_heads(self, what: str):
        if len(self.mtp_heads) == 0:
            raise ValueError(
                f"`{what}` needs MTP heads, but this model has none (`num_mtp_layers=0`). If the checkpoint has tensors "
                "`model.mtp.*`, load it with `from_pretrained(..., num_mtp_layers=K)`. Otherwise build the model with "
                "`num_mtp_layers=1`, train it, then `replicate_mtp_heads(K)` and train the heads."
            )

    def _validate_generation_mode(self, generation_mode, generation_config, generation_mode_kwargs):
        if generation_config.use_mtp and generation_mode != GenerationMode.ASSISTED_GENERATION:
            raise ValueError(
                f"`use_mtp=True` drafts for greedy decoding and sampling, not for {generation_mode.value}; set "
                "`num_beams=1`, or leave `use_mtp` out."
            )
        super()._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)

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
        cache = kwargs.get("past_key_values")
        num_cached_tokens = 0 if cache is None else int(cache.get_seq_length())
        if generation_config.use_mtp and num_cached_tokens > 0:
            mask = kwargs.get("attention_mask")
            # `generate` leaves out a mask of ones and notes its length.
            mask_length = (
                getattr(generation_config, "_mask_length", input_ids.shape[1]) if mask is None else mask.shape[1]
            )
            if not num_cached_tokens < input_ids.shape[1] == mask_length:
                raise ValueError(
                    "`use_mtp=True` needs the whole text as `input_ids`, also where `past_key_values` holds the beginning "
                    f"of it; got {input_ids.shape[1]} tokens, a mask for {mask_length} and a cache of {num_cached_tokens}."
                )
            # Assisted decoding in transformers would run the whole text again, behind what the cache holds.
            kwargs["num_cached_tokens"] = num_cached_tokens
        if not generation_config.use_mtp or cache is None or not PrefixStoppingCriteria.needed(stopping_criteria):
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
                self.on_drafts_rejected(surplus)
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
        self._require_heads("use_mtp=True")
        if input_ids.shape[0] != 1:
            raise ValueError(
                f"`use_mtp=True` decodes one sequence at a time; got a batch of {input_ids.shape[0]}. Call `generate` "
                "once for each prompt, or leave `use_mtp` out."
            )
        if input_ids.shape[1] == 0 or model_kwargs.get("inputs_embeds") is not None:
            raise ValueError("`use_mtp=True` needs the prompt as `input_ids`: the heads read its tokens.")
        generator = self.mtp_candidate_generator_class(
            self, generation_config, logits_processor, attention_mask=model_kwargs.get("attention_mask")
        )
        self.mtp_statistics = generator.statistics
        return generator


def _without_gradients(module: nn.Module) -> Callable:
    constants = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return lambda states: functional_call(module, constants, (states,))


def _first_rows(attention_mask, num_rows: int):
    """A mask of the whole text cut to its first rows: 2-D `[batch, length]` or 4-D `[batch, heads, query, key]`."""
    if attention_mask is None or attention_mask.dim() == 2:
        return None if attention_mask is None else attention_mask[:, :num_rows]
    return attention_mask[:, :, :num_rows, :num_rows]


def _segments(input_ids, attention_mask, position_ids) -> torch.Tensor:
    """Number of the document of each token, `[batch, length]`; -1 for padding. Positions restart with a document."""
    segments = torch.zeros_like(input_ids)
    if position_ids is not None:
        restarts = position_ids[:, 1:] != position_ids[:, :-1] + 1
        segments[:, 1:] = restarts.long().cumsum(dim=1)
    if attention_mask is not None and attention_mask.dim() == 2:
        segments = segments.masked_fill(attention_mask == 0, -1)
    return segments


__all__ = ["MTPCandidateGenerator", "MTPMixin", "MTPStatistics"]
