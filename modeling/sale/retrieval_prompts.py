"""Prompts to calibrate on: a long JSON of random keys and values, and a question for one of them (SALE, arXiv 2505.24179)."""

import json
import random
import uuid
from typing import Any

import torch

QUESTION = "What value does the JSON below give for the key {key}?\n\n{records}\n\nThe value of {key} is"


def retrieval_text(records: int, seed: int) -> tuple[str, str]:
    """
    A prompt with so many records, and the value that answers it.

    The same for the same seed on every machine.
    """
    rng = random.Random(seed)  # noqa: S311  no secret
    pairs = {
        str(uuid.UUID(int=rng.getrandbits(128))): str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(records)
    }
    key = rng.choice(list(pairs))
    return QUESTION.format(key=f'"{key}"', records=json.dumps(pairs, indent=0)), pairs[key]


def retrieval_prompt(tokenizer: Any, length: int, seed: int) -> torch.Tensor:
    """
    Token ids `[n]` of a prompt with n at most `length`, and less than a record shorter.

    Args:
        tokenizer: of transformers.

    Raises:
        ValueError: not even one record fits.
    """
    counts: dict[int, int] = {}

    def size(records: int) -> int:
        if records not in counts:
            counts[records] = len(tokenizer(retrieval_text(records, seed)[0]).input_ids)
        return counts[records]

    if size(1) > length:
        raise ValueError(f"`length` must be at least {size(1)} tokens, for one record; got {length}.")
    low, high = 1, 2
    while size(high) <= length:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= length else (low, middle)
    return torch.tensor(tokenizer(retrieval_text(low, seed)[0]).input_ids)
