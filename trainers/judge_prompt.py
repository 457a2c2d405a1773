"""The prompt that asks for a verdict on a solution response (arXiv 2601.08468; the paper's own wording is not published)."""

import re

JUDGE_PROMPT_TEMPLATE = """\
Below are a problem and a proposed solution. Check every step of the solution, then decide whether its final answer is \
correct. End with a line that says "Verdict: 1" if it is correct, or "Verdict: 0" if it is not.

Problem:
{problem}

<solution>
{solution}
</solution>"""


def check_template(template: str) -> None:
    """Raises ValueError unless both markers occur exactly once."""
    for marker in ("{problem}", "{solution}"):
        if template.count(marker) != 1:
            raise ValueError(
                f"`judge_prompt_template` must contain {marker} exactly once; it occurs {template.count(marker)} times."
            )


def format_judge_prompt(problem: str, solution: str, template: str = JUDGE_PROMPT_TEMPLATE) -> str:
    """
    The template with its two markers replaced, in one pass: braces and markers in the texts stay what they are.

    A closing tag `</solution>` in the solution is escaped, so that a candidate can't end its own quotation.
    """
    check_template(template)
    texts = {"problem": problem, "solution": re.sub(r"</(\s*solution\s*)>", r"<\\/\1>", solution, flags=re.IGNORECASE)}
    return re.sub(r"\{(problem|solution)\}", lambda marker: texts[marker.group(1)], template)
