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
        ("  ```python\n  if a:\n      b\n  ```", "if a:\n    b\n"),
        ("```python\na\n\nSo:\n```python\nb\n```", "b\n"),
        ("````\n```python\na\n````", "```python\na\n"),
        ("So it is ```python\na\n```\nThat is all.", "a\n"),
        ("```\na\n```\nI put it between ``` and ```.", "a\n"),
        ("```python\r\na\r\n```\r\n", "a\r\n"),
        ("```python\na = '```'\nb = 1 # ```\n```", "a = '```'\nb = 1 # ```\n"),
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
    begin = time.process_time()
    last_code_block(text)
    assert time.process_time() - begin < 2


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


@pytest.mark.parametrize(
    "text", ["~" * 5_000_000 + "`", "`" * 5_000_000 + "x`", "```\n" * 1_000_000, " " * 5_000_000 + "```"]
)
def test_megabytes_of_marks_are_read_at_once(text):
    assert last_code_block(text) in (None, "")


def test_parts_without_a_text_are_passed_over():
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image", "text": None},
        {"type": "image"},
        {"type": "text", "text": "b"},
    ]
    assert completion_text([{"role": "assistant", "content": parts}]) == "ab"
