"""What the model has written, taken apart: thoughts, text, and the codes of what it says."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .audio_layout import parse_interleaved
from .configuration_mimo_audio import MiMoAudioConfig

THOUGHT = re.compile(r"\s*(?:<think>)?(?P<thought>.*?)</think>\s*", re.DOTALL)


@dataclass
class Response:
    """New positions: `input_ids` `[T]`, `audio_codes` `[T, G, C]` or None, and whether the prompt has begun the thoughts."""

    input_ids: torch.Tensor
    audio_codes: torch.Tensor | None
    opened: bool = False


def without_markers(token_ids: Sequence[int] | int, layout: MiMoAudioConfig) -> list[int]:
    """Text ids alone, so that a character whose bytes stand in two chunks is whole again."""
    markers = set(layout.marker_token_ids)
    ids = [token_ids] if isinstance(token_ids, int) else token_ids
    return [token for token in ids if token not in markers]


def split_thinking(text: str, opened: bool = False) -> tuple[str | None, str]:
    """
    Thoughts and the rest.

    Args:
        opened: whether `<think>` stands before the text.

    Returns:
        The thoughts (None: there are none) and the text behind them; thoughts that never end are all there is.
    """
    found = THOUGHT.match(text)
    if found:
        return found["thought"].strip() or None, text[found.end() :]
    if opened or text.lstrip().startswith("<think>"):
        return text.lstrip().removeprefix("<think>").strip() or None, ""
    return None, text


def opens_thought(prompt: Any) -> bool:
    """Whether a prompt, as text, ends where thoughts begin."""
    return isinstance(prompt, str) and prompt.rstrip().endswith("<think>")


def parse_new_positions(response: Response, tokenizer: Any, layout: MiMoAudioConfig) -> dict[str, Any]:
    """
    Returns:
        `thinking` (a text or None), `text`, and `audio_codes` `[frames, C]`, None where none were given.
    """
    ids = response.input_ids.tolist()
    ends = [place for place, token in enumerate(ids) if token in (*layout.stop_token_ids, layout.eostm_token_id)]
    ids = ids[: ends[0]] if ends else ids
    special = set(tokenizer.all_special_ids) - set(tokenizer.convert_tokens_to_ids(["<think>", "</think>"]))
    kept = [token for token in without_markers(ids, layout) if token not in special]
    thinking, text = split_thinking(tokenizer.decode(kept, skip_special_tokens=False), response.opened)
    codes = None
    if response.audio_codes is not None:
        codes = parse_interleaved(response.input_ids, response.audio_codes, layout)[1]
    return {"thinking": thinking, "text": text, "audio_codes": codes}


__all__ = ["Response", "opens_thought", "parse_new_positions", "split_thinking", "without_markers"]
