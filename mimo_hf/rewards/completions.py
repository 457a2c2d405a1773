"""What a completion says: its text, and its last block of code."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})([^\n`]*)$", re.MULTILINE)


def completion_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """
    The text of a plain completion, or of the last assistant message of a conversational one (text parts joined).

    Raises:
        TypeError: it is neither.
    """
    if isinstance(completion, str):
        return completion
    messages = (
        [message for message in completion if isinstance(message, Mapping)]
        if isinstance(completion, Sequence)
        else None
    )
    if messages is not None and len(messages) == len(completion):
        said = [message for message in messages if message.get("role", "assistant") == "assistant"]
        content = said[-1].get("content") if said else ""
        if isinstance(content, str) or content is None:
            return content or ""
        if isinstance(content, Sequence):
            return "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    raise TypeError(f"a completion must be a string or a list of messages with `content`, not {completion!r:.200}.")


def after_thinking(text: str) -> str:
    """The text after the last `</think>`; all of it where there is none."""
    return text.rpartition("</think>")[2]


def last_code_block(text: str) -> str | None:
    """
    The content of the last fenced block after the last `</think>`; a block that is never closed goes to the end of the text.
    None where there is no fence.
    """
    text = after_thinking(text)
    span, opening = None, None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
            span = (fence.end() + 1, len(text))
        elif fence[1].startswith(opening[1]) and not fence[2].strip():
            span = (opening.end() + 1, fence.start())
            opening = None
    return None if span is None else text[slice(*span)]


def same_length(**columns: Sequence[Any] | None):
    """ValueError unless all columns have as many rows as the first; a missing one (None) is named."""
    count = None
    for name, column in columns.items():
        if column is None:
            raise ValueError(f"the reward needs a column `{name}`, which the dataset does not have: add or rename it.")
        count = len(column) if count is None else count
        if len(column) != count:
            raise ValueError(f"`{name}` has {len(column)} rows where `{next(iter(columns))}` has {count}.")
