"""Continuations that fall into a loop: they are easy to draft and must not be counted as evidence."""

from collections.abc import Sequence


def repetition_period(token_ids: Sequence[int], max_period: int = 48, repeats: int = 3) -> int | None:
    """
    Length of the shortest block that the text ends with `repeats` copies of, or None.

    Args:
        token_ids: the continuation.
        max_period: longest block looked for, in tokens.
        repeats: copies in a row that make a loop, at least 2. A block of one token must fill `4 * repeats` places.
    """
    if repeats < 2:
        raise ValueError(f"`repeats` must be at least 2; got {repeats}.")
    tokens = list(token_ids)
    for period in range(1, max_period + 1):
        length = max(period * repeats, 4 * repeats)
        tail = tokens[-length:]
        if len(tail) == length and all(a == b for a, b in zip(tail, tail[period:], strict=False)):
            return period
    return None
