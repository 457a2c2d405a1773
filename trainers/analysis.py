"""What a training did to responses: length, backtracking, style, and whether a difference is more than noise."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

# Words by which a text turns back on itself; the paper (arXiv 2601.08468) names "but" and "however".
BACKTRACKING = (
    "actually",
    "alternatively",
    "but",
    "check again",
    "hmm",
    "however",
    "let me check",
    "let me try",
    "on second thought",
    "try again",
    "wait",
)


def length_stats(
    lengths: Sequence[int], correct: Sequence[bool], truncated: Sequence[bool] | None = None
) -> dict[str, float]:
    """
    Accuracy and lengths of responses, one entry each.

    Returns:
        `accuracy`, `mean_length`, `median_length`, `mean_length_correct` (NaN if none is) and, if `truncated` is given,
        `truncation_rate`. Lengths are in the unit given.
    """
    length, right = np.asarray(lengths, dtype=float), np.asarray(correct, dtype=bool)
    if len(length) != len(right) or not len(length):
        raise ValueError(f"`lengths` and `correct` must be of the same responses; got {len(length)} and {len(right)}.")
    stats = {
        "accuracy": float(right.mean()),
        "mean_length": float(length.mean()),
        "median_length": float(np.median(length)),
        "mean_length_correct": float(length[right].mean()) if right.any() else float("nan"),
    }
    if truncated is not None:
        stats["truncation_rate"] = float(np.mean(truncated))
    return stats


def backtracking_rate(texts: Sequence[str], lexicon: Sequence[str] = BACKTRACKING) -> float:
    """Occurrences of the lexicon's entries in a thousand words, as whole words, in any case; 0 for texts without words."""
    alternatives = "|".join(
        re.escape(entry).replace(r"\ ", r"\s+") for entry in sorted(lexicon, key=len, reverse=True)
    )
    pattern = re.compile(rf"\b(?:{alternatives})\b", re.IGNORECASE)
    words = sum(len(re.findall(r"\w+", text)) for text in texts)
    return 1000 * sum(len(pattern.findall(text)) for text in texts) / words if words else 0.0


@torch.no_grad()
def style_perplexity(model, tokenizer, texts: Sequence[str], prompts: Sequence[str] | None = None) -> float:
    """
    Perplexity of responses under a reference model: how far a training has moved away from its style.

    Args:
        prompts: what each response answers; its tokens are conditioned on and not counted. None: responses alone, whose first
            token is not counted.

    Returns:
        exp of the mean negative log-likelihood over all counted tokens of all texts.
    """
    device = next(model.parameters()).device
    was_training, total, count = model.training, 0.0, 0
    model.eval()
    for index, text in enumerate(texts):
        before = tokenizer(prompts[index]).input_ids if prompts is not None else []
        response = tokenizer(text, add_special_tokens=not before).input_ids
        ids = torch.tensor([[*before, *response]], device=device)
        first = max(len(before), 1)
        if ids.size(1) <= first:
            continue
        log_probs = model(ids).logits[0, first - 1 : -1].float().log_softmax(-1)
        total -= float(log_probs.gather(1, ids[0, first:, None]).sum())
        count += ids.size(1) - first
    model.train(was_training)
    if not count:
        raise ValueError("`texts` must have tokens to count; got none.")
    return float(np.exp(total / count))


def paired_bootstrap(
    baseline: Sequence[float],
    treatment: Sequence[float],
    problem_ids: Sequence[str] | None = None,
    num_samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """
    Mean of treatment - baseline with a percentile interval, from resampling problems.

    Args:
        baseline, treatment: a value (accuracy, length, ...) each for the same response slots, in the same order.
        problem_ids: of each slot; responses to one problem are resampled together. None: every slot is a problem.

    Returns:
        `difference` (over slots), `low`, `high`, and `p_value`: two-sided, twice the smaller share of resampled differences
        on either side of 0, at least 1 / num_samples.
    """
    first, second = np.asarray(baseline, dtype=float), np.asarray(treatment, dtype=float)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(
            f"`baseline` and `treatment` must be of the same responses; got shapes {first.shape} and {second.shape}."
        )
    difference = second - first
    groups = np.arange(len(difference)) if problem_ids is None else np.unique(problem_ids, return_inverse=True)[1]
    if len(groups) != len(difference):
        raise ValueError(
            f"`problem_ids` must have an entry for each response; got {len(groups)} for {len(difference)}."
        )
    sums, counts = np.bincount(groups, difference), np.bincount(groups)
    rng = np.random.default_rng(seed)
    means = np.empty(num_samples)
    for sample in range(num_samples):
        drawn = rng.integers(len(sums), size=len(sums))
        means[sample] = sums[drawn].sum() / counts[drawn].sum()
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    p_value = 2 * min(float((means <= 0).mean()), float((means >= 0).mean()))
    return {
        "difference": float(difference.mean()),
        "low": float(low),
        "high": float(high),
        "p_value": min(1.0, max(p_value, 1 / num_samples)),
    }


def pareto_front(arms: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Names of the arms that no other beats in one of `accuracy` (more) and `mean_length` (less) without losing the other."""

    def beats(other: Mapping[str, float], arm: Mapping[str, float]) -> bool:
        gain, saving = other["accuracy"] - arm["accuracy"], arm["mean_length"] - other["mean_length"]
        return gain >= 0 and saving >= 0 and (gain > 0 or saving > 0)

    return [name for name, arm in arms.items() if not any(beats(other, arm) for other in arms.values())]


def pareto_table(arms: Mapping[str, Mapping[str, float]]) -> str:
    """A Markdown table of arms by falling accuracy, with their `length_stats`; the front is marked."""
    front = set(pareto_front(arms))
    lines = [
        "| arm | accuracy | mean length | length on correct | Pareto front |",
        "|---|---:|---:|---:|:---:|",
    ]
    for name, arm in sorted(arms.items(), key=lambda item: -item[1]["accuracy"]):
        mark = "yes" if name in front else ""
        lines.append(
            f"| {name} | {arm['accuracy']:.3f} | {arm['mean_length']:.1f} | {arm['mean_length_correct']:.1f} | {mark} |"
        )
    return "\n".join(lines)


def pareto_plot(arms: Mapping[str, Mapping[str, float]], path: str | Path) -> None:
    """Accuracy over mean length as a PNG, SVG or PDF file, by the suffix; the arms of the front are joined."""
    from mimo_hf import drawing

    drawing.check_target(path)
    picture = drawing.point_chart(
        {name: (arm["mean_length"], arm["accuracy"]) for name, arm in arms.items()},
        sorted(pareto_front(arms), key=lambda name: arms[name]["mean_length"]),
        title="Accuracy and length of the arms",
        x_label="mean length (tokens)",
        y_label="accuracy",
        joined_label="Pareto front",
    )
    drawing.save(picture, path)
