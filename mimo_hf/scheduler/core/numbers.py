"""What numbers and names may be that come from files, sockets and callers, what they are counted in, and how a wrong one is shown."""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

MOST_SHOWN = 80
MOST_UNITS = 10**6
MOST_AMOUNT = 1e18
MOST_SECONDS = 1e12
MOST_COUNT = 2**62
MOST_LETTERS = 500
PARTS = 10**12  # of one unit: what books, quotas and budgets count in


def is_whole(value: Any, least: int = 0, most: int = MOST_COUNT) -> bool:
    """A whole number within bounds; True and 2.0 are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any, least: float = 0, most: float = MOST_AMOUNT) -> bool:
    """A finite number within bounds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


@lru_cache(4096)
def counted(amount: float) -> int:
    """
    An amount as a whole number of `PARTS`, so that sums are exact and what was taken comes back whole. It is read as it is written
    (0.1 is a tenth) and cut after twelve decimals, so that k shares of 1/k fit into one; what is above 0 counts at least one part.
    """
    if amount < 0:
        return -counted(-amount)
    if amount == int(amount):
        return int(amount) * PARTS
    return max(1, int(Fraction(repr(float(amount))) * PARTS))


def is_name(value: Any) -> bool:
    """A word that can be printed: no control characters, no half of a surrogate pair."""
    return isinstance(value, str) and 0 < len(value) <= MOST_LETTERS and value.isprintable()


def shown(value: Any) -> str:
    """The value as Python writes it, cut to a length that fits into a message."""
    if isinstance(value, int) and value.bit_length() > 4 * MOST_SHOWN:
        return f"a whole number of {int(value.bit_length() * math.log10(2)) + 1} digits"
    try:
        text = repr(value[: MOST_SHOWN + 1] if isinstance(value, str | bytes) else value)
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits in it
        text = f"a {type(value).__name__}"
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."
