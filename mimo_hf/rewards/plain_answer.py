"""
What is equal to the gold answer and yet no answer: the question left unevaluated, another kind of object, a false equation.

math-verify compares values, as an examiner should not: `\\sum_{k=1}^{10} k` has the value 55, and whoever copies it from the
problem has solved nothing.
"""

import re

import sympy

# What is left to do, by its mark in LaTeX; some of it math-verify evaluates while it reads.
OPERATIONS = {
    "a sum": r"\\sum(?![a-zA-Z])",
    "a product": r"\\prod(?![a-zA-Z])",
    "an integral": r"\\i{1,3}nt(?![a-zA-Z])|\\oint(?![a-zA-Z])",
    "a derivative": r"\\[dt]?frac\s*\{\s*(?:d|\\partial|\\mathrm\{d\})\b[^{}]*\}\s*\{\s*(?:d|\\partial|\\mathrm\{d\})",
    "a limit": r"\\lim(?:sup|inf)?(?![a-zA-Z])",
    "a binomial coefficient": r"\\[dt]?binom(?![a-zA-Z])|\\choose(?![a-zA-Z])",
    "a greatest common divisor": r"\\gcd(?![a-zA-Z])|\b[gG][cC][dD]\b",
    "a least common multiple": r"\\lcm(?![a-zA-Z])|\b(?:lcm|LCM)\b",
    "a remainder": r"\\[bp]?mod(?![a-zA-Z])|\bmod\b",
    "a determinant": r"\\det(?![a-zA-Z])|\\begin\{vmatrix\}",
    "a factorial": r"!(?!=)",
}
_FOUND = {name: re.compile(mark) for name, mark in OPERATIONS.items()}


def objection(gold: sympy.Basic | str, gold_text: str, answer: sympy.Basic | str, answer_text: str) -> str | None:
    """
    Why an answer that has the gold answer's value is none; None: it is one.

    An operation that the gold answer has too may stay. Fractions, roots, powers, functions at a number, percentages and numbers as
    3 * 10^5 are answers.

    Args:
        gold, answer: as math-verify has read them.
        gold_text, answer_text: the LaTeX of each.
    """
    for name, mark in _FOUND.items():
        if mark.search(answer_text) and not mark.search(gold_text):
            return f"{name} is left to evaluate"
    left = arithmetic(answer) - arithmetic(gold)
    if left:
        return f"{min(left)} is left to evaluate"
    if false_equation(answer):
        return "a side of the equation is wrong"
    if is_set(answer, answer_text) and is_tuple(gold, gold_text):
        return "a set stands for a tuple"
    letters = [text.strip(" $") for text in (gold_text, answer_text)]
    if all(len(letter) == 1 and letter.isalpha() for letter in letters) and letters[0] != letters[1]:
        return "it is another letter"
    return None


def arithmetic(expression) -> set[str]:
    """Sums and products of plain numbers that are written out in an expression."""
    found: set[str] = set()
    if not isinstance(expression, sympy.Basic):
        return found
    for part in sympy.preorder_traversal(expression):
        numbers = [term for term in part.args if isinstance(term, sympy.Rational)]
        if isinstance(part, sympy.Add) and len(numbers) > 1:
            found.add("a sum of numbers")
        if isinstance(part, sympy.Mul) and len([number for number in numbers if number != -1]) > 1:
            found.add("a product of numbers")
    return found


def false_equation(expression) -> bool:
    """Whether it is a chain of equations of which one, between two numbers, does not hold."""
    if isinstance(expression, sympy.And):
        return any(map(false_equation, expression.args))
    if not isinstance(expression, sympy.Equality):
        return False
    left, right = expression.args
    return bool(left.is_number and right.is_number and not sympy.simplify(left - right).equals(0))


def is_set(expression, text: str) -> bool:
    return isinstance(expression, sympy.FiniteSet) and "\\{" in text


def is_tuple(expression, text: str) -> bool:
    return isinstance(expression, (sympy.Tuple, sympy.Interval)) and text.strip(" $").startswith(("(", "\\left("))
