"""
Which problems are worth training on: neither hopeless nor solved, once each, unknown to the evaluation sets.

The rules are those of arXiv 2505.07608, section 3.2; the size of its n-grams is not published.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

DOMAINS = ("math", "code")
NGRAM_SIZE = 13
PROOF = re.compile(r"\b(?:prove|proof|show that)\b", re.IGNORECASE)
OPTIONS = re.compile(r"(?:\(A\)|\bA[.)]).+?(?:\(B\)|\bB[.)]).+?(?:\(C\)|\bC[.)])", re.DOTALL)
LETTER = re.compile(r"\(?[A-E]\)?\.?")


def keep_by_pass_rate(
    strong_passes: Sequence[Sequence[bool | None]],
    policy_passes: Sequence[Sequence[bool | None]],
    domain: str = "math",
    max_policy_pass_rate: float = 0.9,
) -> list[bool]:
    """
    Which problems stay, by the verdicts on the roll-outs of a strong model and of the policy to be trained.

    Mathematics: dropped if the strong model never passes, or if the policy passes more than `max_policy_pass_rate` (a rate
    of exactly this stays). Code: dropped if the strong model never passes, or if the policy always does.

    Args:
        strong_passes, policy_passes: a problem's verdicts each, None (not known) is left out; the paper uses 16 roll-outs. For
            code whose golden solution is known, give its verdict, alone, as `strong_passes`.
        max_policy_pass_rate: of the policy, in 0..1; for mathematics only.

    Raises:
        ValueError: for lists of unequal length, or a problem without a roll-out.
    """
    if not 0 <= max_policy_pass_rate <= 1:
        raise ValueError(f"`max_policy_pass_rate` must be in 0..1; got {max_policy_pass_rate!r}.")
    if domain not in DOMAINS:
        raise ValueError(f"`domain` must be one of {DOMAINS}; got {domain!r}.")
    if len(strong_passes) != len(policy_passes):
        raise ValueError(
            "`strong_passes` and `policy_passes` must be of the same problems in the same order; got "
            f"{len(strong_passes)} and {len(policy_passes)}."
        )
    kept = []
    for index, (strong, policy) in enumerate(zip(strong_passes, policy_passes, strict=True)):
        strong, policy = ([verdict for verdict in own if verdict is not None] for own in (strong, policy))
        if not strong or not policy:
            raise ValueError(
                "`strong_passes` and `policy_passes` must have roll-outs of every problem; got none of one model for "
                f"problem {index}. Sample some, or leave it out."
            )
        limit = max_policy_pass_rate * len(policy) if domain == "math" else len(policy) - 1
        kept.append(any(strong) and sum(map(bool, policy)) <= limit + 1e-9)
    return kept


def drop_unverifiable(
    dataset: "Dataset", domain: str = "math", column: str = "prompt", answer_column: str | None = None
) -> "Dataset":
    """
    The problems whose answers a rule can check. How the paper finds the others is not published; this is our choice.

    Mathematics: drops proofs (the problem says "prove" or "show that") and multiple choice (it has options (A), (B), (C) in this order,
    or its answer is one letter from A to E), and problems without an answer. Code: drops problems without tests.

    Args:
        column: of the problems' texts, for mathematics.
        answer_column: of the answers (mathematics) or of the lists of tests (code); None: `"solution"` or `"tests"`.
    """
    if domain not in DOMAINS:
        raise ValueError(f"`domain` must be one of {DOMAINS}; got {domain!r}.")
    answers = dataset[answer_column or ("solution" if domain == "math" else "tests")]
    if domain == "code":
        return dataset.select([index for index, tests in enumerate(answers) if tests is not None and len(tests)])
    return dataset.select(
        [
            index
            for index, (text, answer) in enumerate(zip(dataset[column], answers, strict=True))
            if str(answer or "").strip()
            and not PROOF.search(text)
            and not OPTIONS.search(text)
            and not LETTER.fullmatch(str(answer).strip())
        ]
    )


def word_ngrams(text: str, ngram_size: int = NGRAM_SIZE) -> set[tuple[str, ...]]:
    """N-grams of lower-case words and numbers; a shorter text is one n-gram by itself, an empty one has none."""
    if ngram_size < 1:
        raise ValueError(f"`ngram_size` must be at least 1; got {ngram_size!r}.")
    words = re.findall(r"\w+", text.lower())
    if not words:
        return set()
    size = min(ngram_size, len(words))
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def drop_duplicates(dataset: "Dataset", column: str = "prompt", ngram_size: int = NGRAM_SIZE) -> "Dataset":
    """The problems that share no n-gram with an earlier one that stays."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for index, text in enumerate(dataset[column]):
        ngrams = word_ngrams(text, ngram_size)
        if seen.isdisjoint(ngrams):
            kept.append(index)
            seen |= ngrams
    return dataset.select(kept)


def decontaminate(
    dataset: "Dataset", evaluation_texts: Iterable[str], column: str = "prompt", ngram_size: int = NGRAM_SIZE
) -> "Dataset":
    """The problems that share no n-gram with any evaluation text."""
    known: set[tuple[str, ...]] = set()
    for text in evaluation_texts:
        known |= word_ngrams(text, ngram_size)
    return dataset.select(
        [index for index, text in enumerate(dataset[column]) if known.isdisjoint(word_ngrams(text, ngram_size))]
    )
