"""Prompts of examples for the pretrained model (arXiv 2512.23808, section 3.3): speech to speech, and questions."""

from collections.abc import Mapping, Sequence
from typing import Any

from .prompts import CLIP, MARKERS

SPEECH = ("input", "transcript", "output")
QUESTION = ("question", "answer")
Clips = list[tuple[str, Any]]


def few_shot_text(instruction: str, examples: Sequence[Any], query: Any) -> tuple[str, Clips]:
    """
    A prompt, and (what the caller calls it, clip) in the order of the places.

    Speech: `[Int]:` instruction, then input, transcript and output of each example, then the query's input; the answer begins with
    `<|sostm|>`. Questions: `Question: ... Answer: ...` of each, and an answer that begins behind `Answer:`.

    Raises:
        ValueError: examples of two kinds, or without their parts.
    """
    _text(instruction, "instruction")
    shots = [_as_example(example, number) for number, example in enumerate(examples)]
    kinds = {tuple(shot) for shot in shots}
    if len(kinds) > 1:
        raise ValueError(f"`examples` must be all of one kind; got {sorted(kinds)}.")
    return (_questions if kinds == {QUESTION} else _speech)(instruction, shots, query)


def _speech(instruction: str, shots: list[dict[str, Any]], query: Any) -> tuple[str, Clips]:
    parts = [f"[Int]:{instruction}\n"]
    clips: Clips = []
    for number, shot in enumerate(shots):
        said = _text(shot["transcript"], f"examples[{number}]['transcript']")
        parts.append(f"{CLIP}\n<|sostm|>{said}<|empty|><|eostm|> \n\n")
        clips += [(f"examples[{number}]['{name}']", shot[name]) for name in ("input", "output")]
    return "".join([*parts, f"{CLIP}\n<|sostm|>"]), [*clips, ("query", query)]


def _questions(instruction: str, shots: list[dict[str, Any]], query: Any) -> tuple[str, Clips]:
    parts = [f"[Int]:{instruction}\n"]
    clips: Clips = []
    for number, shot in enumerate(shots):
        place = f"examples[{number}]"
        asked = _text_or_clip(shot["question"], f"{place}['question']", clips)
        parts.append(f"Question: {asked}\nAnswer: {_text(shot['answer'], place + '[answer]')}\n\n")
    asked = _text_or_clip(query, "query", clips)
    return "".join([*parts, f"Question: {asked}\nAnswer:"]), clips


def _as_example(example: Any, number: int) -> dict[str, Any]:
    if isinstance(example, list | tuple) and len(example) == len(SPEECH):
        return dict(zip(SPEECH, example, strict=True))
    for names in (SPEECH, QUESTION):
        if isinstance(example, Mapping) and set(example) == set(names):
            return {name: example[name] for name in names}
    shown = sorted(example) if isinstance(example, Mapping) else type(example).__name__
    raise ValueError(
        f"`examples[{number}]` must have the keys {', '.join(SPEECH)} for speech, or {' and '.join(QUESTION)}; got {shown}."
    )


def _text_or_clip(given: Any, name: str, clips: Clips) -> str:
    if isinstance(given, str):
        return _text(given, name)
    clips.append((name, given))
    return CLIP


def _text(given: Any, name: str) -> str:
    if not isinstance(given, str):
        raise ValueError(f"`{name}` must be a text; got {type(given).__name__}.")
    found = [marker for marker in MARKERS if marker in given]
    if found:
        raise ValueError(f"`{name}` must be text without markers of audio; got {found[0]!r} in it.")
    return given


__all__ = ["few_shot_text"]
