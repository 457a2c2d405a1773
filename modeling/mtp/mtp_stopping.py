"""
Stopping criteria inside an accepted draft.

transformers' assisted decoding cuts a round at an end-of-sequence token and at the length limit. Any other criterion, such
as a stop string, sees only the whole round: the text runs on behind the place where plain decoding stops, or the stop is
missed. Here each criterion sees every prefix, as it would without drafts.
"""

import torch
from transformers import Cache, EosTokenCriteria, MaxLengthCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

CUT_BY_TRANSFORMERS = (EosTokenCriteria, MaxLengthCriteria)


class PrefixStoppingCriteria(StoppingCriteriaList):
    """
    Applies criteria to every prefix that ends in the newest round.

    Attributes:
        length (`int | None`): tokens of the text where a criterion held first, prompt included.
        total_length (`int`): tokens of the text with the whole of the newest round.
    """

    def __init__(self, criteria: StoppingCriteriaList, prompt_length: int, streamer: "HoldingStreamer | None"):
        super().__init__(criteria)
        self.seen = prompt_length
        self.streamer = streamer
        self.length: int | None = None
        self.total_length = prompt_length

    @staticmethod
    def needed(criteria: StoppingCriteriaList) -> bool:
        return any(not isinstance(criterion, CUT_BY_TRANSFORMERS) for criterion in criteria)

    def __call__(self, input_ids: torch.LongTensor, scores, **kwargs) -> torch.BoolTensor:
        start, self.total_length = self.seen, input_ids.shape[1]
        done = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        while self.seen < self.total_length and not done.all():
            self.seen += 1
            done = super().__call__(input_ids[:, : self.seen], scores, **kwargs)
        if done.all():
            self.length = self.seen
        if self.streamer is not None:
            self.streamer.release(self.seen - start)
        return done


class HoldingStreamer(BaseStreamer):
    """Keeps a round back until it is known how much of it belongs to the output."""

    def __init__(self, streamer: BaseStreamer):
        self.streamer = streamer
        self.held: torch.Tensor | None = None

    def put(self, value: torch.Tensor):
        self.held = value

    def release(self, count: int):
        if self.held is not None and count > 0:
            self.streamer.put(self.held[..., :count])
        self.held = None

    def end(self):
        self.streamer.end()


class Rewind:
    """
    Takes a cache further back than its last crop.

    A crop leaves a sliding-window layer one window and nothing before it, so what was there is kept until the next crop.
    """

    def __init__(self, cache: Cache):
        self.cache = cache
        self.before: list[dict] = []
        self.removed = 0
        cache.crop = self._crop

    def _crop(self, tokens_to_remove: int):
        names = ("keys", "values", "cumulative_length")
        self.before = [{name: getattr(layer, name, None) for name in names} for layer in self.cache.layers]
        self.removed = tokens_to_remove
        type(self.cache).crop(self.cache, tokens_to_remove)

    def back(self, count: int):
        """Removes `count` more tokens than the last crop did."""
        for layer, states in zip(self.cache.layers, self.before, strict=True):
            vars(layer).update(states)
        type(self.cache).crop(self.cache, self.removed - count)

    def release(self):
        del self.cache.crop


def cut(outputs, length: int):
    """The output of `generate` without what follows the first `length` tokens."""
    if isinstance(outputs, torch.Tensor):
        return outputs[:, :length]
    surplus = outputs.sequences.shape[1] - length
    if surplus > 0:
        outputs.sequences = outputs.sequences[:, :length]
        for name in ("scores", "logits", "attentions", "hidden_states"):
            if outputs.get(name) is not None:
                outputs[name] = outputs[name][:-surplus]
    return outputs


__all__ = ["HoldingStreamer", "PrefixStoppingCriteria", "Rewind", "cut"]
