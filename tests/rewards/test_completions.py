"""Text and code of completions."""

import time

import pytest

from mimo_hf.rewards.completions import completion_text, last_code_block


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("```\na\n```\nand\n```py\nb\n```\nbye", "b\n"),
        ("a\n```python\nprint(1)", "print(1)"),
        ("```python\na\n```\nrather\n```python\nb", "b"),
        ("~~~\na\n~~~", "a\n"),
        ("````\n```\na\n```\n````", "```\na\n```\n"),
        ("  ```python\n  a\n  ```", "  a\n"),
        ("<think>```\na\n```</think>\n```\nb\n```", "b\n"),
        ("<think>```\na\n```</think> none", None),
        ("no code", None),
        ("`print(1)`", None),
        ("```python\n", ""),
        ("", None),
    ],
)
def test_the_last_fenced_block_after_the_thinking_is_the_program(text, code):
    assert last_code_block(text) == code


@pytest.mark.parametrize(
    "text", ["```\n" * 250_000, "`" * 1_000_000, "```" + " " * 1_000_000 + "`", "~~~ a\n" * 160_000]
)
def test_a_megabyte_is_read_at_once(text):
    begin = time.perf_counter()
    last_code_block(text)
    assert time.perf_counter() - begin < 2


def test_a_conversation_says_what_its_last_assistant_message_says():
    messages = [
        {"role": "assistant", "content": "first"},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "last"}]},
    ]
    assert completion_text(messages) == "the last"
    assert completion_text([{"role": "assistant", "content": None}]) == ""
    assert completion_text([]) == ""
    assert completion_text("plain") == "plain"
    with pytest.raises(TypeError, match="completion"):
        completion_text(None)
