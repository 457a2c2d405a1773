"""
`generate(use_mtp=True)` for several sequences: in each round every row accepts its own number of drafts.

Rows keep one common right edge. After a round in which the fastest row took `step` tokens, a row that took fewer is moved
right by the difference: its left padding grows, and caches, masks and positions stay those of an ordinary left-padded
batch, which every attention implementation can read. Rows that are done leave the batch, and padding that all rows share
is cut off.

Places are counted in columns that never move: column c of a row holds the token `c - offset` of its text, prompt padding
included. The trunk's cache ends at column `end`; the newest token of each row stands at `end` and is not cached yet.
"""

import copy
import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache
from transformers.generation import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    GenerateDecoderOnlyOutput,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    LogitsProcessorList,
    MinPLogitsWarper,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from ..transformers_versions import cache_argument
from .mtp_rows import check_cache, columns, left_padding, moved, positions, realign
from .mtp_statistics import MTPStatistics
from .mtp_stopping import CUT_BY_TRANSFORMERS

if TYPE_CHECKING:
    from .mtp import MTPMixin

# These look at the scores only, so that rows with texts of different lengths can share a call.
READ_SCORES_ONLY = {
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    MinPLogitsWarper,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
}


def decode_batch(
    model: "MTPMixin",
    input_ids: torch.LongTensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config,
    cache: DynamicCache | None = None,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.LongTensor | None = None,
    synced_gpus: bool = False,
    streamer=None,
    use_cache: bool = True,
    inputs_embeds: torch.Tensor | None = None,
    inputs_tensor=None,
    tokenizer=None,
    logits_to_keep=None,
    **model_kwargs,
) -> torch.LongTensor | GenerateDecoderOnlyOutput:
    """
    The decoding loop of `generate` for two rows and more, greedy or sampling, exact for each row.

    Args:
        input_ids: `[batch, length]`, padded on the left.
        logits_processor, stopping_criteria: called as in plain decoding of one row, for each prefix of its text.
        cache: an empty cache of dynamic layers.

    Returns:
        `[batch, length + new]`, rows that ended earlier filled up with the padding token; or the object that holds them as
        `sequences`, with `scores` and `logits` (zeros behind the end of a row) where they are asked for.

    Raises:
        ValueError: something asked for has no meaning for rows of different lengths, or the cache can't be rolled back.
    """
    if streamer is not None:
        raise ValueError("`streamer` with `use_mtp=True` must go with a batch of 1: rows advance unevenly.")
    if synced_gpus:
        raise ValueError(
            f"`synced_gpus` must be False for a batch with `use_mtp=True`; got {synced_gpus}. Ranks run different numbers of "
            "rounds: gather the weights, or leave `use_mtp` out."
        )
    if not use_cache:
        raise ValueError("`use_mtp=True` must go with `use_cache=True`.")
    if generation_config.assistant_ensemble_weight is not None:
        raise ValueError("`assistant_ensemble_weight` with `use_mtp=True` must go with a batch of 1.")
    if generation_config.return_dict_in_generate and (
        generation_config.output_attentions or generation_config.output_hidden_states
    ):
        raise ValueError(
            "`output_attentions` and `output_hidden_states` with `use_mtp=True` must go with a batch of 1: the states of rows "
            "that accept different numbers of drafts don't share a shape."
        )
    if any(isinstance(processor, PrefixConstrainedLogitsProcessor) for processor in logits_processor):
        raise ValueError(
            "`prefix_allowed_tokens_fn` with `use_mtp=True` must go with a batch of 1: it is told the number of the row, "
            "which changes when rows end."
        )
    if input_ids.shape[1] == 0 or inputs_embeds is not None:
        raise ValueError("`use_mtp=True` must go with the prompt as `input_ids`: the heads read its tokens.")
    check_cache(cache)
    padding = left_padding(input_ids, attention_mask)
    if position_ids is not None and not torch.equal(
        position_ids.expand_as(input_ids).where(columns(input_ids) >= padding, 0), positions(input_ids, padding)
    ):
        raise ValueError(
            "`position_ids` with `use_mtp=True` must count each row's tokens from 0; got another count. Leave them out."
        )

    decoder = _BatchDecoder(model, input_ids, padding, logits_processor, generation_config, cache)
    decoder.criteria = StoppingCriteriaList(c for c in stopping_criteria if not isinstance(c, CUT_BY_TRANSFORMERS))
    decoder.model_kwargs = model_kwargs
    model.mtp_statistics = decoder.statistics
    decoder.prefill()
    while decoder.rows:
        drafts, draft_logits = decoder.draft()
        decoder.verify(drafts, draft_logits)
    return decoder.output(generation_config)


def _of_row(processor, row: int):
    """The processor for one row of the batch: from 5.23 on, transformers tells one of them the padding of every row."""
    ignored = getattr(processor, "prompt_ignore_length", None)
    if not isinstance(processor, RepetitionPenaltyLogitsProcessor) or not isinstance(ignored, torch.Tensor):
        return processor
    processor = copy.copy(processor)
    processor.prompt_ignore_length = ignored[row : row + 1]
    return processor


class _BatchDecoder:
    """The rows that still grow, and the caches of trunk and heads, which end at one column for all of them."""

    criteria: StoppingCriteriaList
    model_kwargs: dict[str, Any]

    def __init__(self, model, input_ids, padding, logits_processor, generation_config, cache):
        batch, length = input_ids.shape
        self.model = model
        self.heads = model.mtp_heads
        self.window = model.mtp_window
        self.device = input_ids.device
        self.cache = cache
        cache.activate_past_recording()
        self.head_cache = model.mtp_cache()
        self.logits_processor = logits_processor
        self.processors_of_row = [
            LogitsProcessorList(_of_row(processor, row) for processor in logits_processor) for row in range(batch)
        ]
        self.shared_processing = all(type(processor) in READ_SCORES_ONLY for processor in logits_processor)
        self.do_sample = generation_config.do_sample
        self.max_length = generation_config.max_length
        eos = getattr(generation_config, "_eos_token_tensor", None)
        self.eos = set() if eos is None else set(eos.reshape(-1).tolist())
        pad = getattr(generation_config, "_pad_token_tensor", None)
        self.pad = 0 if pad is None else int(pad)
        self.statistics = MTPStatistics(num_heads=len(self.heads))

        # Drafts stand behind the text; rows that are too short for the others read up to K columns more.
        width = self.max_length + 2 * len(self.heads) + 1
        self.tokens = input_ids.new_full((batch, width), self.pad)
        self.tokens[:, :length] = input_ids
        self.lengths = [length] * batch  # of the text of each row of `tokens`
        self.kept_scores: list[tuple[list[int], list[int], torch.Tensor]] = []
        self.kept_logits: list[tuple[list[int], list[int], torch.Tensor]] = []
        self.keeps_scores = generation_config.return_dict_in_generate and generation_config.output_scores
        self.keeps_logits = generation_config.return_dict_in_generate and generation_config.output_logits

        self.rows = list(range(batch))  # of `tokens`, for each row of the batch as it is now
        self.offsets = [0] * batch
        self.paddings = padding.reshape(-1).tolist()
        self.end = 0
        self.first = 0  # the first column that a cache of the trunk may hold
        self.run_end = length  # behind the columns of the trunk's last run
        self.head_first = 0
        self.head_end = 0
        self.step = length  # columns by which `end` grows when the last run is settled
        self.shifts = [0] * batch
        self.hidden: torch.Tensor  # states of the columns that end at `end + step`

    def prefill(self):
        started = time.perf_counter()
        length = self.run_end
        outputs = self._run(self.tokens[:, :length], 0)
        # A head is one layer deep: its last row sees one window of rows, whatever came before.
        self.head_first = min(self.paddings)
        if self.window is not None:
            self.head_first = max(self.head_first, length - self.window - len(self.heads))
        self.head_end = self.head_first
        self.hidden = outputs.mtp_hidden_states[:, self.head_first :]
        self._choose(self.tokens.new_zeros(len(self.rows), 0), None, outputs.logits)
        self.statistics.verify_time_s += time.perf_counter() - started

    def draft(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Up to K drafts for every row, `[rows, drafts]`, and their processed logits where sampling needs them."""
        started = time.perf_counter()
        # The trunk adds a token of its own.
        room = self.max_length - min(self.lengths[row] for row in self.rows) - 1
        count = max(min(len(self.heads), room), 0)
        logits = self._run_heads(count)
        lengths = self._tensor([self.lengths[row] for row in self.rows])
        rows = self._tensor(self.rows)
        drafts = self.tokens[rows[:, None], lengths[:, None] + torch.arange(count, device=self.device)]
        self._settle(count)
        self.statistics.draft_time_s += time.perf_counter() - started
        return drafts, torch.stack(logits, dim=1) if logits else None

    def _run_heads(self, count: int) -> list[torch.Tensor]:
        model, end = self.model, self.end + self.step
        rows, offsets = self._tensor(self.rows), self._tensor(self.offsets)[:, None]
        paddings = self._tensor([self.paddings[row] for row in self.rows])[:, None]
        columns = torch.arange(end - self.hidden.shape[1], end, device=self.device)
        texts = columns - offsets  # places in the text
        positions = (texts - paddings).clamp(min=0)
        cos, sin = model.mtp_position_embeddings(self.hidden, positions)
        mask = torch.arange(self.head_first, end, device=self.device) >= offsets + paddings
        newest = self._tensor([end - 1 - shift for shift in self.shifts])
        everyone = torch.arange(len(self.rows), device=self.device)
        embed, lm_head = model.get_input_embeddings(), model.get_output_embeddings()

        logits_of_drafts = []
        for k in range(count):
            layer = self.head_cache.layers[k]
            num_stale = min(k, self.head_end - self.head_first)  # rows whose tokens were drafts
            if num_stale > 0:
                layer.crop(-num_stale)
            start = self.head_end - num_stale
            run = slice(start - end, None)
            states = self.hidden[:, run]
            hidden = self.heads[k](
                embed(self.tokens[rows[:, None], texts[:, run] + 1 + k]),
                states,
                attention_mask=model.mtp_mask(states, mask, None, self.head_cache, layer_idx=k),
                position_ids=positions[:, run],
                position_embeddings=(cos[:, run], sin[:, run]),
                **cache_argument(self.head_cache),
            )
            logits = self._process(lm_head(hidden[everyone, newest - start]), k)
            if self.do_sample:
                logits_of_drafts.append(logits)
            places = self._tensor([self.lengths[row] + k for row in self.rows])
            self.tokens[rows, places] = self._choose_drafts(logits, k)
        return logits_of_drafts

    def _choose_drafts(self, logits: torch.Tensor, k: int) -> torch.Tensor:
        """Head k's draft for every row, `[rows]`."""
        if self.do_sample:
            return torch.multinomial(logits.softmax(dim=-1), num_samples=1)[:, 0]
        return logits.argmax(dim=-1)

    def verify(self, drafts: torch.Tensor, draft_logits: torch.Tensor | None):
        """Runs the trunk over each row's newest token and its drafts, and takes over what holds."""
        started = time.perf_counter()
        lengths = self._tensor([self.lengths[row] for row in self.rows])
        places = lengths[:, None] - 1 + torch.arange(drafts.shape[1] + 1, device=self.device)
        self.run_end = self.end + places.shape[1]
        outputs = self._run(self.tokens[self._tensor(self.rows)[:, None], places], self.end)
        self.hidden = torch.cat([self.hidden, outputs.mtp_hidden_states], dim=1)
        self._choose(drafts, draft_logits, outputs.logits)
        self.statistics.verify_time_s += time.perf_counter() - started

    def _run(self, input_ids: torch.Tensor, start: int):
        """The trunk over the columns from `start` on; logits of the last tokens: one after the prompt, all later."""
        starts = self._tensor(self.offsets) + self._tensor([self.paddings[row] for row in self.rows])
        columns = torch.arange(self.first, start + input_ids.shape[1], device=self.device)
        mask = columns >= starts[:, None]
        positions = (columns[start - self.first :] - starts[:, None]).clamp(min=0)
        self.statistics.forward_passes += 1
        return self.model(
            input_ids=input_ids,
            attention_mask=mask.long(),
            position_ids=positions,
            **cache_argument(self.cache),
            use_cache=True,
            logits_to_keep=1 if start == 0 else input_ids.shape[1],
            output_mtp_hidden_states=True,
            **self.model_kwargs,
        )

    def _process(self, logits: torch.Tensor, extra: int) -> torch.Tensor:
        """Scores of each row's next token, `[rows, vocab]`, `extra` tokens behind its text."""
        logits = logits.float()
        if not self.logits_processor:
            return logits
        if self.shared_processing:
            return self.logits_processor(self.tokens[self._tensor(self.rows)], logits)
        scores = [
            self.processors_of_row[row](self.tokens[row : row + 1, : self.lengths[row] + extra], logits[i : i + 1])
            for i, row in enumerate(self.rows)
        ]
        return torch.cat(scores)

    def _choose(self, drafts: torch.Tensor, draft_logits: torch.Tensor | None, logits: torch.Tensor):
        """Appends to every row its accepted drafts and the trunk's own token; rows that are done leave the batch."""
        count = drafts.shape[1]
        raw = logits.float()
        scores = torch.stack([self._process(raw[:, j].clone(), j) for j in range(count + 1)], dim=1)
        if self.do_sample:
            matches, own = accept_samples(drafts, draft_logits, scores)
        else:
            best = scores.argmax(dim=-1)
            matches = (drafts == best[:, :-1]).long().cumprod(dim=1).sum(dim=1)
            own = best.gather(1, matches[:, None])[:, 0]
        emitted = torch.cat([drafts, drafts.new_zeros(len(self.rows), 1)], dim=1).scatter(
            1, matches[:, None], own[:, None]
        )
        lengths = self._tensor([self.lengths[row] for row in self.rows])
        places = lengths[:, None] + torch.arange(count + 1, device=self.device)
        self.tokens[self._tensor(self.rows)[:, None], places] = emitted

        taken, done = [], []
        for row, tokens, match in zip(self.rows, emitted.tolist(), matches.tolist(), strict=True):
            number, is_done = self._cut(row, tokens[: match + 1])
            taken.append(number)
            done.append(is_done)
            if count > 0:
                self.statistics.drafted.append(count)
                self.statistics.accepted.append(number - 1)
        if self.keeps_scores:
            self.kept_scores.append((list(self.rows), taken, scores))
        if self.keeps_logits:
            self.kept_logits.append((list(self.rows), taken, raw))
        for row, number in zip(self.rows, taken, strict=True):
            self.lengths[row] += number
        self.model.on_drafts_rejected([count + 1 - number for number in taken])
        self._keep([i for i, is_done in enumerate(done) if not is_done], taken, is_prefill=self.end == 0)

    def _cut(self, row: int, tokens: list[int]) -> tuple[int, bool]:
        """How many of a row's new tokens belong to its text, and whether it ends with them."""
        length = self.lengths[row]
        for number, token in enumerate(tokens, start=1):
            if token in self.eos or length + number >= self.max_length:
                return number, True
            if self.criteria and self.criteria(self.tokens[row : row + 1, : length + number], None).all():
                return number, True
        return len(tokens), False

    def _keep(self, kept: list[int], taken: list[int], is_prefill: bool):
        """Reduces the batch to the rows `kept`, and notes how far each of them has to move right."""
        if is_prefill:  # every column of the prompt is final
            self.shifts = [0] * len(kept)
        else:
            self.step = max((taken[i] for i in kept), default=0)
            self.shifts = [self.step - taken[i] for i in kept]
            self.hidden = self.hidden[:, : self.hidden.shape[1] - (self.run_end - self.end - self.step)]
        if len(kept) == len(self.rows):
            return
        self.model.on_rows_finished(kept)
        indices = self._tensor(kept)
        self.rows = [self.rows[i] for i in kept]
        self.offsets = [self.offsets[i] for i in kept]
        self.hidden = self.hidden[indices]
        for layer in (*self.cache.layers, *self.head_cache.layers):
            layer.batch_select_indices(indices)

    def _settle(self, num_drafts: int):
        """Aligns every row at the new common end."""
        end = self.end + self.step
        starts = [self.offsets[i] + self.paddings[row] + self.shifts[i] for i, row in enumerate(self.rows)]
        self.first = min(starts)
        self.head_first = max(self.head_first, self.first)
        shifts = self._tensor(self.shifts)[:, None] if any(self.shifts) else None
        for layer in self.cache.layers:
            realign(layer, shifts, self.run_end, end, self.first)
        for k in range(num_drafts):
            realign(self.head_cache.layers[k], shifts, end, end, self.head_first, extra=k)
        # Head k runs its last k rows again, with verified tokens.
        stale = min(len(self.heads) - 1, self.hidden.shape[1])
        self.hidden = moved(self.hidden, shifts, end, end - stale, end)
        self.offsets = [offset + shift for offset, shift in zip(self.offsets, self.shifts, strict=True)]
        self.end = self.head_end = end
        self.step, self.shifts = 0, [0] * len(self.rows)

    def output(self, generation_config) -> torch.LongTensor | GenerateDecoderOnlyOutput:
        longest = max(self.lengths)
        sequences = self.tokens[:, :longest].clone()
        ends = self._tensor(self.lengths)[:, None]
        sequences[torch.arange(longest, device=self.device) >= ends] = self.pad
        if not generation_config.return_dict_in_generate:
            return sequences
        return GenerateDecoderOnlyOutput(
            sequences=sequences,
            scores=self._by_token(self.kept_scores) if self.keeps_scores else None,
            logits=self._by_token(self.kept_logits) if self.keeps_logits else None,
        )

    def _by_token(self, kept: list[tuple[list[int], list[int], torch.Tensor]]) -> tuple[torch.Tensor, ...]:
        """One `[batch, vocab]` for each new token."""
        scores: list[list[torch.Tensor]] = [[] for _ in self.lengths]
        for rows, taken, values in kept:
            for row, number, of_row in zip(rows, taken, values, strict=True):
                scores[row] += of_row[:number].unbind()
        nothing = torch.zeros_like(scores[0][0])
        longest = max(map(len, scores))
        filled = [of_row + [nothing] * (longest - len(of_row)) for of_row in scores]
        return tuple(torch.stack(step) for step in zip(*filled, strict=True))

    def _tensor(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)


def accept_samples(
    drafts: torch.Tensor, draft_logits: torch.Tensor | None, logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    Speculative sampling (arXiv 2211.17192, algorithm 1) for each row: draft d is accepted with probability
    \\(\min(1, p(d) / q(d))\\); the token behind the accepted ones is drawn from \\((p - q)_+\\), or from p after the last draft.

    Args:
        drafts: `[rows, drafts]`.
        draft_logits: `[rows, drafts, vocab]`, of q; None where `drafts` is empty.
        logits: `[rows, drafts + 1, vocab]`, of p.

    Returns:
        number of accepted drafts, `[rows]`, and the token that follows them, `[rows]`.
    """
    p = logits.softmax(dim=-1)
    if draft_logits is None:
        return drafts.new_zeros(len(drafts)), torch.multinomial(p[:, 0], num_samples=1)[:, 0]
    q = draft_logits.softmax(dim=-1)
    p_of_draft, q_of_draft = (x.gather(2, drafts[..., None])[..., 0] for x in (p[:, :-1], q))
    accepted = torch.rand_like(q_of_draft) * q_of_draft < p_of_draft
    matches = accepted.long().cumprod(dim=1).sum(dim=1)

    rest = torch.cat([(p[:, :-1] - q).clamp(min=0), p[:, -1:]], dim=1)
    everyone = torch.arange(len(drafts), device=drafts.device)
    rest = rest[everyone, matches]
    # Where p and q are equal but for rounding, nothing is left over and p itself is right.
    rest = torch.where(rest.sum(dim=-1, keepdim=True) > 0, rest, p[everyone, matches])
    return matches, torch.multinomial(rest, num_samples=1)[:, 0]


__all__ = ["accept_samples", "decode_batch"]
