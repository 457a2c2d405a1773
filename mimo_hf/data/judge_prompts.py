"""What a judge is asked: is this solution of the problem right? After JudgeRLVR (arXiv 2601.08468); the wording is our choice."""

import re

# What a judge is asked, with places for the problem and a solution.
JUDGE_PROMPT_TEMPLATE = """\
Here are a problem and a solution that somebody proposes. Decide whether the solution's final answer is correct.

Problem:
{problem}

<solution>
{solution}
</solution>

Check the solution step by step. Then end with a line of its own: "Verdict: 1" if the final answer is correct, or "Verdict: 0" if it \
is not."""

_MARKERS = re.compile(r"\{problem\}|\{solution\}")
_CLOSING_TAG = re.compile(r"<\s*/(\s*solution\s*>)", re.IGNORECASE)


def judge_prompt(problem: str, solution: str, template: str = JUDGE_PROMPT_TEMPLATE) -> str:
    r"""
    The prompt for a verdict on a solution.

    Args:
        problem: its statement.
        solution: the solution response to be judged, without its chain of thought. A closing `</solution>` in it becomes
            `<\/solution>`, so that it can't end its own quotation.
        template: a text with the markers `{problem}` and `{solution}`. Both are replaced in one pass: braces and markers inside
            the problem or the solution are harmless.

    Raises:
        ValueError: `template` lacks a marker.
    """
    missing = [marker for marker in ("{problem}", "{solution}") if marker not in template]
    if missing:
        raise ValueError(f"`template` must contain {{problem}} and {{solution}}; it lacks {' and '.join(missing)}.")
    parts = {"{problem}": problem, "{solution}": _CLOSING_TAG.sub(r"<\\/\1", solution)}
    return _MARKERS.sub(lambda marker: parts[marker.group()], template)
