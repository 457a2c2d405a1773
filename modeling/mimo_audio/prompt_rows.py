"""Rendered prompts and codes as rows of positions, and rows as padded batches."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .audio_layout import IGNORED, interleave_text_and_audio, layout_audio, layout_text
from .configuration_mimo_audio import MiMoAudioConfig
from .prompts import CLIP, PLACES

Span = tuple[int, int]


@dataclass
class Row:
    """`input_ids` `[T]`, `audio_codes` `[T, G, C]`, and `is_target` `[T]`, what there is to learn."""

    input_ids: torch.Tensor
    audio_codes: torch.Tensor
    is_target: torch.Tensor


def count_places(text: str) -> int:
    """
    How many clips a rendered prompt has places for.

    Raises:
        ValueError: `<|empty|>` outside of such a place.
    """
    places = list(PLACES.finditer(text))
    rest = PLACES.sub("", text)
    if "<|empty|>" in rest:
        where = rest.index("<|empty|>")
        raise ValueError(
            f"`text` must have '<|empty|>' once a clip, as {CLIP!r} or at the end of '<|sostm|>...<|eostm|>'; got "
            f"{rest[max(0, where - 20) : where + 30]!r}."
        )
    return len(places)


def build_row(
    text: str, codes: Sequence[torch.Tensor], targets: Sequence[Span], tokenizer: Any, layout: MiMoAudioConfig
) -> Row:
    """
    A rendered prompt as positions.

    Args:
        text: with a place for each clip.
        codes: of each clip, `[frames, C]`.
        targets: (start, end) in `text` of what there is to learn. Text is tokenized in pieces that end where one of these does.
    """
    layouts, marks = [], []
    waiting = iter(codes)
    for kind, piece, is_target, begins_as_target in _pieces(text, targets):
        if kind == "clip":
            ids, patches = layout_audio(next(waiting), layout)
            mark = torch.full((len(ids),), is_target)
        elif kind == "said":
            ids, patches = interleave_text_and_audio(_tokens(piece, tokenizer), next(waiting), layout)
            mark = torch.full((len(ids),), is_target)
            mark[0] = begins_as_target  # <|sostm|>: where nothing is thought before it, it ends the prompt
        else:
            ids, patches = layout_text(_tokens(piece, tokenizer), layout)
            mark = torch.full((len(ids),), is_target)
        layouts.append((ids, patches))
        marks.append(mark)
    if not layouts:
        raise ValueError("`text` must not be empty; got ''.")
    ids, patches = (torch.cat(part) for part in zip(*layouts, strict=True))
    return Row(ids, patches, torch.cat(marks))


def _pieces(text: str, targets: Sequence[Span]) -> Iterator[tuple[str, str, bool, bool]]:
    """(kind, text, whether it is learned, whether its first position is) in order."""
    at = 0
    for place in PLACES.finditer(text):
        yield from _texts(text, at, place.start(), targets)
        is_target = any(start < place.end() <= end for start, end in targets)
        begins = any(start <= place.start() < end for start, end in targets)
        yield ("clip" if place["clip"] else "said"), place["said"] or "", is_target, begins
        at = place.end()
    yield from _texts(text, at, len(text), targets)


def _texts(text: str, start: int, end: int, targets: Sequence[Span]) -> Iterator[tuple[str, str, bool, bool]]:
    cuts = sorted({start, end, *(min(max(cut, start), end) for span in targets for cut in span)})
    for first, last in itertools.pairwise(cuts):
        is_target = any(begin <= first and last <= stop for begin, stop in targets)
        yield "text", text[first:last], is_target, is_target


def _tokens(text: str, tokenizer: Any) -> torch.Tensor:
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)


def labels_of(row: Row, layout: MiMoAudioConfig) -> dict[str, torch.Tensor]:
    """`labels` `[T]` and `audio_labels` `[T, G, C]`, -100 where there is nothing to learn."""
    patches = row.is_target & (row.input_ids == layout.empty_token_id)
    return {
        "labels": row.input_ids.masked_fill(~row.is_target, IGNORED),
        "audio_labels": row.audio_codes.masked_fill(~patches[:, None, None], IGNORED),
    }


def pad_rows(
    rows: Sequence[dict[str, torch.Tensor]],
    pad_token_id: int,
    zero_ids: Sequence[int],
    padding_side: str,
    pad_to_multiple_of: int | None = None,
) -> dict[str, torch.Tensor]:
    """
    Rows of several lengths as a batch.

    Args:
        rows: each `input_ids` `[T]` and `audio_codes` `[T, G, C]`, all or none with `labels` and `audio_labels`.
        zero_ids: of each channel, the codes of padding.
        padding_side: `"left"` to generate, `"right"` to train.

    Returns:
        The same names, `[B, longest, ...]`, and `attention_mask` `[B, longest]`, 0 for padding.

    Raises:
        ValueError: another side, no rows, or rows of which only some have labels.
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"`padding_side` must be 'left' or 'right'; got {padding_side!r}.")
    if not rows:
        raise ValueError("`rows` must have at least one row; got none.")
    if len({tuple(sorted(row)) for row in rows}) > 1:
        raise ValueError(f"`rows` must have the same columns; got {[sorted(row) for row in rows]}.")
    longest = max(len(row["input_ids"]) for row in rows)
    if pad_to_multiple_of:
        longest += -longest % pad_to_multiple_of
    fill: dict[str, int | torch.Tensor] = {"input_ids": pad_token_id, "attention_mask": 0}
    fill |= {"audio_codes": torch.tensor(list(zero_ids)), "labels": IGNORED, "audio_labels": IGNORED}
    padded: dict[str, list[torch.Tensor]] = {}
    for given in rows:
        row = given | {"attention_mask": torch.ones_like(given["input_ids"])}
        missing = longest - len(row["input_ids"])
        for name, values in row.items():
            value = fill[name]
            filler = values.new_empty(missing, *values.shape[1:])
            filler[...] = value.to(filler) if isinstance(value, torch.Tensor) else value
            padded.setdefault(name, []).append(
                torch.cat([filler, values] if padding_side == "left" else [values, filler])
            )
    return {name: torch.stack(values) for name, values in padded.items()}


__all__ = ["Row", "build_row", "count_places", "labels_of", "pad_rows"]
