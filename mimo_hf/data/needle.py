"""
Needles in real text: records hidden among the bytes of Python's standard library, and questions for them at the end.

Token ids: a byte b is b; then come the records (key k has value v), the questions (which value has k?) and the answers (v).
"""

from typing import TYPE_CHECKING

import numpy as np

from .stdlib_code import stdlib_code

if TYPE_CHECKING:
    from datasets import Dataset

BYTES = 256


def record_token(key, value, values: int):
    return BYTES + key * values + value


def question_token(key, keys: int, values: int):
    return BYTES + keys * values + key


def answer_token(value, keys: int, values: int):
    return BYTES + keys * values + keys + value


def needle_vocabulary(keys: int = 16, values: int = 16) -> list[str]:
    """How the tokens after the bytes are written, in the order of their ids: `<k3=7>`, `<k3?>`, `<7>`."""
    records = [f"<k{key}={value}>" for key in range(keys) for value in range(values)]
    return [*records, *(f"<k{key}?>" for key in range(keys)), *(f"<{value}>" for value in range(values))]


def needles_in_code(
    num_rows: int,
    *,
    length: int = 256,
    keys: int = 16,
    values: int = 16,
    needles: int = 4,
    depth: float | None = None,
    split: str = "train",
    seed: int = 0,
) -> "Dataset":
    """
    Rows of text with `needles` records of different keys in it, then each of them asked for and answered, in any order.

    Args:
        length: tokens a row, questions and answers included.
        depth: where the record of the first question lies, from 0 (the row's first token) to 1 (the last one of the text);
            None: anywhere, as the others.
        split: of the standard library, as in `stdlib_code`.
        seed: of all rows.

    Returns:
        A `datasets.Dataset` with the columns `input_ids` (`[length]`), `questions` and `needles` (`[needles]`: the positions
        of a question, whose answer is the next token, and of its record).

    Raises:
        ValueError: a row has no room for what is asked, fewer keys than needles, or a depth outside of 0 to 1.
    """
    text_length = length - 2 * needles
    for name, number in {"num_rows": num_rows, "values": values, "needles": needles}.items():
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1; got {number}.")
    if needles > keys:
        raise ValueError(f"`needles={needles}` must be at most `keys={keys}`: a key has one record in a row.")
    if text_length < needles:
        raise ValueError(f"`length` must leave text for {needles} records, {3 * needles} at least; got {length}.")
    if depth is not None and not 0 <= depth <= 1:
        raise ValueError(f"`depth` must lie between 0 and 1; got {depth}.")
    from datasets import Dataset

    text = np.frombuffer("\n".join(stdlib_code(split)["text"]).encode(), dtype=np.uint8)
    if len(text) <= text_length:
        raise ValueError(f"`length` must not be more than the {len(text)} bytes of the split {split!r}; got {length}.")
    rng = np.random.default_rng(seed)
    first_byte = rng.integers(len(text) - text_length, size=num_rows)
    ids = np.empty((num_rows, length), dtype=np.int32)
    ids[:, :text_length] = text[first_byte[:, None] + np.arange(text_length)]

    asked = rng.permuted(np.broadcast_to(np.arange(keys), (num_rows, keys)), axis=1)[:, :needles]
    value = rng.integers(values, size=(num_rows, needles))
    places = rng.permuted(np.broadcast_to(np.arange(text_length), (num_rows, text_length)), axis=1)[:, :needles]
    if depth is not None:
        # The one that may lie there already makes room.
        wanted = round(depth * (text_length - 1))
        places = np.where(places == wanted, places[:, :1], places)
        places[:, 0] = wanted
    questions = np.broadcast_to(text_length + 2 * np.arange(needles), places.shape)
    rows = np.arange(num_rows)[:, None]
    ids[rows, places] = record_token(asked, value, values)
    ids[rows, questions] = question_token(asked, keys, values)
    ids[rows, questions + 1] = answer_token(value, keys, values)
    return Dataset.from_dict(
        {"input_ids": ids, "questions": questions.astype(np.int32), "needles": places.astype(np.int32)}
    )
