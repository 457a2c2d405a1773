"""What TRL passes to reward functions: columns with a value for each completion, and things that are no columns."""

from collections.abc import Mapping, Sequence
from typing import Any


def take_rows(columns: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """
    The arguments of a reward function for some of the rows.

    A column is a sequence (list, tuple, array, tensor; no text) with as many entries as `columns["completions"]`: it comes as the list
    of these rows, in their order. Everything else, such as `trainer_state`, `log_metric` or a column that is None, is passed on
    as it is.
    """
    num_rows = len(columns["completions"])
    return {
        name: [value[row] for row in rows] if _length(value) == num_rows else value for name, value in columns.items()
    }


def _length(value: Any) -> int | None:
    """Of a sequence; None of anything else."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__getitem__"):
        return None
    try:
        return len(value)
    except TypeError:  # of an array without dimensions
        return None
