"""benchmarks/judge_rlvr.py: demonstrations, what is measured, arms, a study that resumes, and its summary."""

import itertools
import json
import math
import random
from dataclasses import replace

import pytest
import torch


@pytest.fixture(scope="module")
def bench():
    import judge_rlvr

    return judge_rlvr


@pytest.fixture(scope="module", params=["pair_sum", "doubt_search", "equations", "plans"])
def domain(request, bench):
    return bench.DOMAINS[request.param]


def test_demonstrations_without_noise_earn_the_reward(domain, bench):
    rows, rng = domain.load("train").to_list()[:40], random.Random(0)
    silent = dict.fromkeys(domain.warm_start[-1].noise, 0.0)
    solved = [domain.solve(row, rng, **silent) for row in rows]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert domain.reward(completions=[response for _, response in solved], **columns) == [1.0] * 40
    wanted = [row["prompt"] for row in domain.solve_rows(domain.load("train").select(range(40)))]
    assert [prompt for prompt, _ in solved] == wanted


def test_every_word_of_a_domain_has_a_token(domain, bench):
    tokenizer, rng = bench.word_tokenizer(domain.words), random.Random(1)
    noise = domain.warm_start[-1].noise
    for row in rng.sample(domain.load("train").to_list(), 50):
        for demonstrate in (domain.solve, domain.judge):
            for text in demonstrate(row, rng, **noise):
                assert 0 not in tokenizer(text).input_ids


def test_train_and_test_problems_differ(domain):
    splits = [set(domain.load(split)["problem_id"]) for split in ("train", "test")]
    assert min(map(len, splits)) > 0
    assert not splits[0] & splits[1]


def test_the_meter_counts_right_responses_and_is_the_same_each_time(bench, monkeypatch):
    domain = bench.DOMAINS["plans"]
    tokenizer = bench.word_tokenizer(domain.words)
    meter = bench.Meter(domain, tokenizer, seed=0, draws=6, judge_draws=4)
    answers = [f"- {row['b']} 1 / {row['a']} {row['x']} #" for row in meter.solve]
    answers[1:3] = ["1 1 1 y 99 #", "1 2 3 n"]
    verdicts = ["R" if label else "W" for label in meter.judge["label"]]
    verdicts[0] = "W" if verdicts[0] == "R" else "R"

    def scripted(model, tokenizer, prompts, **options):
        texts = answers if prompts[0].startswith("G") else verdicts
        ends = [] if prompts[0].startswith("G") else [tokenizer.eos_token_id]
        return [[tokenizer(text).input_ids + ends] for text in texts]

    monkeypatch.setattr(bench, "sample_responses", scripted)
    found = meter(None)
    assert found["right"] == [True, False, False, True, True, True]
    assert found["lengths"] == [7, 6, 4, 7, 7, 7]
    assert found["found"]["accuracy"] == round(4 / 6, 4)
    assert found["found"]["mean_length_correct"] == 7
    assert found["found"]["truncation_rate"] == 1
    assert found["found"]["planned"] == round(4 / 6, 4)
    assert found["found"]["judge_accuracy"] == 0.75


def test_a_penalty_is_taken_from_right_responses_alone(bench):
    reward = bench.DOMAINS["plans"].reward
    scores = bench.penalised(["6 #", "5 #"], [[0] * 32, [0] * 64], of=reward, penalty=0.3, limit=64, x=[6, 6])
    assert scores == pytest.approx([0.85, 0.0])


def test_a_stage_trains_the_model_that_is_measured_and_no_other(bench, monkeypatch):
    domain = bench.reduced(bench.DOMAINS["doubt_search"])
    tokenizer = bench.word_tokenizer(domain.words)
    start = domain.model(len(tokenizer))
    bench.imitate(start, tokenizer, domain, domain.warm_start[0], seed=0)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    model = domain.model(len(tokenizer))
    model.load_state_dict(before)
    measured = []

    def meter(model):
        measured.append(model.lm_head.weight.detach().clone())
        return {"found": {}}

    def alternating(completions, **columns):
        return [float(index % 2) for index in range(len(completions))]

    bench.train(model, tokenizer, domain, meter, "generate", (1, 2), 0, reward=alternating)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
    weights = [before["lm_head.weight"], *measured]
    assert all(not torch.equal(first, second) for first, second in itertools.pairwise(weights))
    assert torch.equal(measured[-1], model.lm_head.weight)


@pytest.mark.slow
def test_all_arms_of_one_seed(bench):
    rows = bench.study("doubt_search", [0], small=True)
    points = {(row["arm"], row["point"]): row for row in rows}
    assert set(points) == {
        ("warm start", 0), ("judge", 0), ("judge -> generate", 1), ("judge -> generate", 2), ("vanilla", 1), ("vanilla", 2),
        ("vanilla", 3), ("vanilla", bench.EQUAL_TOKENS), ("mixed", 2), ("length penalty", 1), ("length penalty", 2),
    }  # fmt: skip
    assert points["judge -> generate", 1]["steps"] == 3
    assert (
        points["judge -> generate", 2]["tokens"]
        > points["judge -> generate", 1]["tokens"]
        > points["judge", 0]["tokens"]
    )
    assert points["vanilla", bench.EQUAL_TOKENS]["tokens"] >= points["judge -> generate", 1]["tokens"]
    assert all(0 <= row["accuracy"] <= 1 and row["mean_length"] >= 1 for row in rows)
    gain = 100 * (points["judge -> generate", 2]["accuracy"] - points["vanilla", 2]["accuracy"])
    assert points["judge -> generate", 2]["points_over_vanilla"] == pytest.approx(gain, abs=0.02)


def test_a_study_runs_only_the_seeds_that_are_not_on_record(bench, tmp_path, monkeypatch):
    asked = []

    def run_seed(name, domain, seed, *draws):
        asked.append(seed)
        row = {"seed": seed, "steps": 5, "tokens": 10, "accuracy": 0.5 + 0.1 * seed, "mean_length": 20.0 - seed}
        gains = {"points_over_vanilla": 2.0 + seed, "length_over_vanilla": -0.1 * (1 + seed)}
        row["mean_length_correct"] = row["mean_length"]
        starts = [{"arm": arm, "point": 0, **row} for arm in ("warm start", "judge")]
        later = [{"arm": "vanilla", "point": 10, **row}, {"arm": "judge -> generate", "point": 10, **row, **gains}]
        return starts + later

    monkeypatch.setattr(bench, "run_seed", run_seed)
    for seeds in ([0], [0, 1], [1, 2]):
        bench.study("equations", seeds, folder=tmp_path)
    assert asked == [0, 1, 2]
    content = json.loads((tmp_path / "judge_rlvr_equations.json").read_text())
    vanilla = content["table"][2]
    assert (vanilla["seeds"], vanilla["accuracy"], vanilla["accuracy_range"]) == (3, 0.6, [0.5, 0.7])
    claim = content["judge_then_generate_over_vanilla"][0]
    assert claim["points_by_seed"] == [2.0, 3.0, 4.0]
    assert (claim["seeds_3_points_better"], claim["seeds_15_percent_shorter"]) == (2, 2)
    assert "judge -&gt; generate 10" in (tmp_path / "judge_rlvr_equations.svg").read_text()
    steps, series = bench.curves(content["table"], bench.DOMAINS["equations"], "mean_length")
    assert steps == [0, 10, 20, 40]
    assert series["vanilla"] == pytest.approx([19.0, 19.0, math.nan, math.nan], nan_ok=True)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "judge_rlvr_equations_accuracy.png", "judge_rlvr_equations_mean_length.png"
    }  # fmt: skip


def test_reduced_domains_change_nothing_but_sizes(bench, domain):
    small = bench.reduced(domain)
    assert (
        replace(
            small,
            **{
                name: getattr(domain, name)
                for name in ("warm_start", "prompts", "judge_steps", "generate_steps", "longer", "mixed_steps")
            },
        )
        == domain
    )
