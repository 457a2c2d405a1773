"""
The text to continue: given, the beginning of a file, or a place in a file that no training has seen.

A prompt from a file ends before a line break. Tokenizers put the break and the next line's indentation into one token, so
that after a lone break a model expects no indentation.
"""

import platform
import random
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from ..data.stdlib_code import held_out_files

# Enough text for that many tokens; longer tokens are rare, and the prompt then is a little shorter than allowed.
CHARACTERS_PER_TOKEN = 64

# The text of the demo, with the usual prompt of 128 tokens: of 120 held-out places, the one whose greedy continuation repeats
# least. 98 of the others end in a loop, which is easy to draft and flatters the heads.
DEMO_FILE, DEMO_LINE = "venv/__init__.py", "    def setup_python(self, context):"


@dataclass
class Prompt:
    text: str
    source: str


def read_beginning(path: str | Path, num_tokens: int) -> str:
    """As much of a text file as `num_tokens` tokens can need. Raises ValueError where there is no text."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(CHARACTERS_PER_TOKEN * num_tokens)
    except OSError as error:
        raise ValueError(f"--file must be a file that can be read; got {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--file must be UTF-8 text; got {path}: {error.reason}.") from error
    if not text.strip():
        raise ValueError(f"--file must have text to continue; got {path}, which has no text in it.")
    return text


def first_tokens(text: str, tokenizer, num_tokens: int) -> str:
    """The first `num_tokens` tokens, or the whole lines among them where the text is longer than that."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if len(ids) > num_tokens:
        text = _decode(tokenizer, ids[:num_tokens]).rstrip("\N{REPLACEMENT CHARACTER}")
        text = text.rpartition("\n")[0] or text
    return text.rstrip("\n")


def held_out_prompt(tokenizer, num_tokens: int, seed: int) -> Prompt:
    """
    `num_tokens` or a little less from a file of the standard library that no training sees; ends with a `def` line.

    Args:
        seed: chooses file and function; the same ones wherever the library has the same files. 0 is the demo's own choice.
    """
    prompt = _demo_prompt(tokenizer, num_tokens) if seed == 0 else None
    if prompt is not None:
        return prompt
    chance = random.Random(seed)  # noqa: S311  a seeded choice of text, no secret
    files = held_out_files()
    chance.shuffle(files)
    for file in files:
        text = file.read_text(encoding="utf-8")
        ends = [match.end() for match in re.finditer(r"^ *def .*:$", text, flags=re.MULTILINE)]
        chance.shuffle(ends)
        for end in ends:
            prompt = _prompt_up_to(file, text, end, tokenizer, num_tokens)
            if prompt is not None:
                return prompt
    raise ValueError(
        f"--prompt-tokens must be so few that a held-out file has them before a function; got {num_tokens}. Lower it."
    )


def _demo_prompt(tokenizer, num_tokens: int) -> Prompt | None:
    """None where this Python's library has no such place."""
    file = Path(sysconfig.get_path("stdlib"), DEMO_FILE)
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    start = text.find(f"\n{DEMO_LINE}\n")
    return None if start < 0 else _prompt_up_to(file, text, start + 1 + len(DEMO_LINE), tokenizer, num_tokens)


def _prompt_up_to(file: Path, text: str, end: int, tokenizer, num_tokens: int) -> Prompt | None:
    """The last tokens of `text[:end]`, in whole lines; None where it has fewer."""
    before = text[max(0, end - CHARACTERS_PER_TOKEN * num_tokens) : end]
    ids = tokenizer(before, add_special_tokens=False).input_ids
    if len(ids) < num_tokens:
        return None
    last = _decode(tokenizer, ids[-num_tokens:])
    last = last.partition("\n")[2] or last
    first_line, last_line = (text.count("\n", 0, place) + 1 for place in (end - len(last), end))
    name = file.relative_to(sysconfig.get_path("stdlib")).as_posix()
    python = ".".join(platform.python_version_tuple()[:2])
    return Prompt(last, f"{name} of Python {python}, lines {first_line} to {last_line}")


def _decode(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


__all__ = ["Prompt", "first_tokens", "held_out_prompt", "read_beginning"]
