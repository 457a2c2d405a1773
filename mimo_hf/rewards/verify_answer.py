"""
One comparison of a final answer with the gold answer, by math-verify. It runs in a process that may be killed at any time, so it uses
no timer of its own.
"""

import json
import logging
import os
import sys
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from .plain_answer import objection

SHOWN = 200
ANSWER = [
    LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True), boxed_match_priority=0, try_extract_without_anchor=False
    )
]


def compare(text: str, gold: str, plain: bool = True) -> dict[str, Any]:
    """
    `gold` and `answer` as they were read (None: unreadable), `right`, None if the gold answer is unreadable, and `objection`: why an
    answer of the right value is wrong all the same, if `plain` ones are wanted.
    """
    if not any(mark in gold for mark in ("$", "\\boxed", "\\(", "\\[")):
        gold = f"${gold}$"  # bare, math-verify misses tuples, sets and letters
    expected = parse(gold, parsing_timeout=None)
    if all(isinstance(reading, str) for reading in expected):  # it keeps the text of what it can't parse
        return {"gold": None, "answer": None, "right": None, "objection": None}
    answer = parse(text, extraction_config=ANSWER, extraction_mode="first_match", parsing_timeout=None)
    right = bool(answer) and verify(expected, answer, timeout_seconds=None, raise_on_error=True)
    why = objection(expected[0], str(expected[-1]), answer[0], str(answer[-1])) if right and plain else None
    shown = _shown(answer) if answer else None
    return {"gold": _shown(expected), "answer": shown, "right": right and why is None, "objection": why}


def _shown(parsed: list[Any]) -> str:
    try:
        return str(parsed)[:SHOWN]
    except ValueError:  # an integer of thousands of digits
        return "[too long]"


def main():
    asked = json.load(sys.stdin)
    print("\n" + json.dumps(compare(asked["text"], asked["gold"], asked["plain"])), flush=True)
    os._exit(0)  # to take down an interpreter that has sympy loaded takes longer than a comparison


for _name in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_name).setLevel(logging.ERROR)  # they warn that their timers are off
# Comparisons build the parser's tables and import parts of sympy: forks begin with them.
for _answer in (
    r"\frac{1}{2}+\sqrt{3}",
    "(1,2)",
    r"\{1,x\}",
    "[0,1)",
    r"50\%",
    "x=2^{3}",
    "-1.5",
    r"\begin{pmatrix}1&2\end{pmatrix}",
):
    compare(rf"\boxed{{{_answer}}}", _answer)
    compare(rf"\boxed{{{_answer}}}", "7y")
compare(r"\boxed{5=5}", "5")
