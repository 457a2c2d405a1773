"""Analysis of responses against counting, closed forms and loops."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from mimo_hf import drawing
from mimo_hf.trainers.analysis import (
    backtracking_rate,
    length_stats,
    paired_bootstrap,
    pareto_front,
    pareto_plot,
    pareto_table,
    style_perplexity,
)


def test_lengths_by_hand():
    stats = length_stats([10, 20, 60, 30], [True, False, False, True], [False, False, True, False])
    assert stats == {
        "accuracy": 0.5,
        "mean_length": 30,
        "median_length": 25,
        "mean_length_correct": 20,
        "truncation_rate": 0.25,
    }
    assert math.isnan(length_stats([3], [False])["mean_length_correct"])
    with pytest.raises(ValueError, match="got 2 and 1"):
        length_stats([1, 2], [True])


@pytest.mark.parametrize(
    ("text", "count", "words"),
    [
        ("But wait, however it is", 3, 5),
        ("butter awaits Hmmm", 0, 3),
        ("let  me try again", 1, 4),
        ("on second\nthought, no", 1, 4),
    ],
)
def test_backtracking_words_are_whole_words_in_any_case(text, count, words):
    assert backtracking_rate([text]) == pytest.approx(1000 * count / words)
    assert backtracking_rate([text, "one two three four"]) == pytest.approx(1000 * count / (words + 4))


def test_texts_without_words_have_no_rate():
    assert backtracking_rate(["", "--"]) == 0


def test_perplexity_is_that_of_a_loop_over_tokens(make_model, tokenizer):
    model, texts, prompts = make_model(initializer_range=0.5), ["1 2 3", "yes no"], ["solve 4", "maybe 5 6"]
    losses = []
    for text, prompt in zip(texts, prompts, strict=True):
        ids = tokenizer(f"{prompt} {text}").input_ids
        with torch.no_grad():
            losses += [
                -float(model(torch.tensor([ids[:end]])).logits[0, -1].log_softmax(-1)[ids[end]])
                for end in range(len(prompt.split()), len(ids))
            ]
    assert style_perplexity(model, tokenizer, texts, prompts) == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)


def test_a_uniform_model_has_the_vocabulary_as_its_perplexity(make_model, tokenizer):
    model = make_model()
    torch.nn.init.zeros_(model.lm_head.weight)
    assert style_perplexity(model, tokenizer, ["1 2 3 4", "5"]) == pytest.approx(18, rel=1e-5)
    with pytest.raises(ValueError, match="must have tokens to count"):
        style_perplexity(model, tokenizer, ["5"])


def test_the_interval_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    baseline = rng.normal(size=400)
    treatment = baseline + rng.normal(0.1, 1, size=400)
    result = paired_bootstrap(baseline, treatment, num_samples=4000)
    difference = treatment - baseline
    half_width = 1.96 * difference.std() / 20
    assert result["difference"] == pytest.approx(difference.mean())
    assert result["low"] == pytest.approx(difference.mean() - half_width, abs=0.02)
    assert result["high"] == pytest.approx(difference.mean() + half_width, abs=0.02)


def test_responses_to_one_problem_are_no_new_evidence():
    rng = np.random.default_rng(1)
    baseline, treatment = np.zeros(30), rng.normal(0.2, 1, size=30)
    once = paired_bootstrap(baseline, treatment, num_samples=2000)
    problem_ids = [f"p{index % 30}" for index in range(240)]
    repeated = paired_bootstrap(np.tile(baseline, 8), np.tile(treatment, 8), problem_ids, num_samples=2000)
    assert repeated["high"] - repeated["low"] == pytest.approx(once["high"] - once["low"], rel=0.1)
    as_if_new = paired_bootstrap(np.tile(baseline, 8), np.tile(treatment, 8), num_samples=2000)
    assert as_if_new["high"] - as_if_new["low"] < 0.5 * (once["high"] - once["low"])


def test_no_difference_has_a_large_p_value_and_a_clear_one_a_small():
    values = np.arange(50) % 7
    assert paired_bootstrap(values, values, num_samples=500)["p_value"] == 1
    assert paired_bootstrap(values, values + 1, num_samples=500)["p_value"] == 1 / 500


def test_the_same_seed_gives_the_same_interval():
    values = [0.0, 1.0, 0.0, 3.0], [1.0, 1.0, 0.0, 2.0]
    assert paired_bootstrap(*values, num_samples=100) == paired_bootstrap(*values, num_samples=100)
    with pytest.raises(ValueError, match="must be of the same responses"):
        paired_bootstrap([1.0], [1.0, 2.0])


ARMS = {
    "short": {"accuracy": 0.7, "mean_length": 10, "mean_length_correct": 9},
    "good": {"accuracy": 0.9, "mean_length": 30, "mean_length_correct": 28},
    "beaten": {"accuracy": 0.8, "mean_length": 31, "mean_length_correct": 30},
    "twin": {"accuracy": 0.9, "mean_length": 30, "mean_length_correct": 28},
}


def test_the_front_holds_what_nothing_beats():
    assert pareto_front(ARMS) == ["short", "good", "twin"]


def test_the_table_marks_the_front():
    lines = pareto_table(ARMS).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == ["good", "twin", "beaten", "short"]
    assert [line.endswith("| yes |") for line in lines[2:]] == [True, True, False, True]


def test_the_plot_names_every_arm_and_joins_the_front(tmp_path):
    pareto_plot(ARMS | {"a<b": {"accuracy": 0.75, "mean_length": 20}}, tmp_path / "front.svg")
    picture = ElementTree.parse(tmp_path / "front.svg").getroot()  # noqa: S314  our own chart
    texts = {"".join(text.itertext()) for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {*ARMS, "a<b", "Pareto front", "mean length (tokens)", "accuracy"} <= texts
    with pytest.raises(ValueError, match=r"`path` must end in \.png or \.svg or \.pdf; got 'front.txt'"):
        pareto_plot(ARMS, tmp_path / "front.txt")


def test_the_plot_places_arms_by_length_and_accuracy(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(drawing, "save", lambda picture, path: drawn.append(picture), raising=False)
    pareto_plot(ARMS, tmp_path / "front.svg")
    front, *arms = (line.get_xydata().tolist() for line in drawn[0].axes[0].lines)
    assert front == [[10, 0.7], [30, 0.9], [30, 0.9]]
    assert arms == [[[arm["mean_length"], arm["accuracy"]]] for arm in ARMS.values()]
