"""Numbers that espeak-ng reads: a small language with many voices, for models that are too small for more."""

import random
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .speech import read_aloud, speech_dataset, speech_row

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "test")
TEST_SHARE = 10
UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb+m3", "en-gb-x-rp+f2", "en-029+m7")
UNHEARD = ("en-gb-scotland+f4", "en-us+m2")  # voices for tests
SPEEDS = (130, 170)  # words a minute, from and to


def number_sentences(split: str, num_sentences: int, most: int = 4, seed: int = 0) -> list[str]:
    """
    Distinct sentences of one to `most` numbers from 0 to 99, in words: `"twenty three seven"`.

    Args:
        split: `"train"` or `"test"`, by crc32 of the sentence: none is in both.
        num_sentences: how many.
        most: numbers of a sentence.

    Raises:
        ValueError: another split, or more sentences than there are.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}; got {split!r}.")
    if most < 1:
        raise ValueError(f"`most` must be at least 1; got {most}.")
    rng = random.Random(f"spoken_numbers:{split}:{seed}")
    found: dict[str, None] = {}
    misses = 0
    while len(found) < num_sentences:
        sentence = " ".join(in_words(rng.randrange(100)) for _ in range(rng.randint(1, most)))
        is_test = zlib.crc32(sentence.encode()) % TEST_SHARE == 0
        if sentence in found or is_test != (split == "test"):
            misses += 1
            if misses > 1000 * num_sentences:
                raise ValueError(
                    f"`num_sentences` must not be more than there are of at most {most} numbers; got {num_sentences}, and {len(found)} "
                    "were found. Ask for fewer, or for longer ones."
                )
            continue
        found[sentence] = None
    return list(found)


def spoken_numbers(
    split: str, num_sentences: int, voices: Sequence[str] = VOICES, most: int = 4, seed: int = 0
) -> "Dataset":
    """
    `number_sentences`, each read by a voice and at a speed (130 to 170 words a minute) that are drawn.

    Returns:
        Rows as of `espeak_speech`.

    Raises:
        FileNotFoundError: espeak-ng is not installed. ImportError: soundfile is not. ValueError: as `number_sentences`; an unknown voice.
    """
    if isinstance(voices, str) or not voices:
        raise ValueError(f"`voices` must be a list with at least one; got {voices!r}.")
    rng = random.Random(f"spoken_numbers:voices:{split}:{seed}")
    rows = []
    for number, sentence in enumerate(number_sentences(split, num_sentences, most, seed)):
        voice, speed = rng.choice(voices), rng.randint(*SPEEDS)
        rows.append(
            speech_row(read_aloud(sentence, voice, speed), sentence, f"{split}/{number}", f"{voice} at {speed}")
        )
    return speech_dataset(rows)


def in_words(number: int) -> str:
    """A number from 0 to 99: `"twenty three"`."""
    if number < len(UNITS):
        return UNITS[number]
    tens, units = divmod(number, 10)
    return TENS[tens - 2] + (f" {UNITS[units]}" if units else "")
