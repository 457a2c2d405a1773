"""What a completion says: its text, and its last block of code."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

PYTHON = ("python", "python3", "py")


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
            return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    raise TypeError(f"a completion must be a string or a list of messages with `content`, not {completion!r:.200}.")


def after_thinking(text: str) -> str:
    """The text after the last `</think>`; all of it where there is none."""
    return text.rpartition("</think>")[2]


def last_code_block(text: str) -> str | None:
    """
    The content of the last fenced block after the last `</think>`, less the fence's own indentation. A block that is never closed goes
    to the next fence that names a language, or to the end of the text. None where there is no fence.
    """
    block: list[str] | None = None
    opening = indentation = ""
    for line in io.StringIO(after_thinking(text), newline="\n"):
        fence, language = _fence(line)
        if fence and (not opening or (language and fence.startswith(opening))):
            block, opening, indentation = [], fence, line[: len(line) - len(line.lstrip())]
        elif block is not None and opening and fence.startswith(opening):
            opening = ""
        elif block is not None and opening:
            block.append(line.removeprefix(indentation))
    return None if block is None else "".join(block)


def _fence(line: str) -> tuple[str, str]:
    """The marks of a line that opens or closes a block of code, and its words; after a text, of one that opens a block of Python."""
    line = line.strip()
    if not line.startswith(("```", "~~~")):
        language = line.rpartition("```")[2].strip()
        return ("```", language) if "```" in line and language.lower() in PYTHON else ("", "")
    words = line.lstrip(line[0])
    return ("", "") if "`" in words else (line[: len(line) - len(words)], words.strip())


def same_length(**columns: Sequence[Any] | None):
    """ValueError unless all columns have as many rows as the first; a missing one (None) is named."""
    count = None
    for name, column in columns.items():
        if column is None:
            raise ValueError(
                f"`{name}` must be a column of the dataset, as the reward needs it; it is not there. Add or rename it."
            )
        count = len(column) if count is None else count
        if len(column) != count:
            raise ValueError(
                f"`{name}` must have as many rows as `{next(iter(columns))}`, {count}; got {len(column)}."
            )
