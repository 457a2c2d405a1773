"""benchmarks/mopd.py: what is averaged, who answers, what is summed up, and a study that resumes."""

import json
from dataclasses import replace

import pytest
import torch


@pytest.fixture(scope="module")
def bench():
    import mopd

    return mopd


@pytest.fixture(scope="module")
def methods():
    import _mopd_methods

    return _mopd_methods


@pytest.fixture
def study(bench):
    """Untrained models: nobody learns anything here."""
    from mopd_toy import make_model

    made = bench.Study(bench.reduced(bench.PLANS["near"]), 0, None, 8)
    torch.manual_seed(0)
    made.start = make_model(made.tokenizer)
    made.teachers = {domain: make_model(made.tokenizer) for domain in made.setup.domains}
    return made


def weights(model):
    return torch.cat([value.flatten() for value in model.parameters()])


def test_averages_are_sums_of_task_vectors(study, methods):
    start, teachers = weights(study.start), [weights(teacher) for teacher in study.teachers.values()]
    third = weights(methods.METHODS["average third"](study).model)
    assert torch.allclose(third, torch.stack(teachers).mean(0), atol=1e-6)
    whole = weights(methods.METHODS["average whole"](study).model)
    assert torch.allclose(whole, sum(teachers) - 2 * start, atol=1e-6)


def test_each_prompt_is_answered_by_its_own_teacher(study, methods, monkeypatch):
    names = {id(teacher): domain for domain, teacher in study.teachers.items()}
    monkeypatch.setattr(study, "fresh_teachers", lambda: study.teachers)

    def scripted(model, tokenizer, prompts, **options):
        number = list(study.setup.domains).index(names[id(model)])
        return [
            [[*tokenizer(f"{prompt.split()[1]} {number}").input_ids, tokenizer.eos_token_id]] for prompt in prompts
        ]

    monkeypatch.setattr(methods, "sample_responses", scripted)
    rows = methods.teachers_answers(study, study.prompts(12))
    assert len(set(rows["domain"])) == 3
    for row in rows:
        assert row["answer"] == f"{row['prompt'].split()[1]} {list(study.setup.domains).index(row['domain'])}"


def test_a_pool_is_the_beginning_of_the_same_prompts_in_every_method(study):
    pool = study.pool(5)
    assert [pool["domain"].count(domain) for domain in study.setup.domains] == [5, 5, 5]
    assert pool["prompt"] == study.pool(5)["prompt"]
    assert not set(pool["prompt"]) & set(bench_test_prompts(study))


def bench_test_prompts(study):
    from mimo_hf.data import symbol_task

    return [prompt for domain in study.setup.domains for prompt in symbol_task(domain, "test", 200)["prompt"]]


def rows_of(seed, start, teacher, student):
    domains = ("add", "sort")
    rows = [{"method": "start", "accuracy": dict(zip(domains, start, strict=True))}]
    rows += [
        {"method": f"teacher {d}", "accuracy": {"add": 0.0, "sort": 0.0} | {d: t}}
        for d, t in zip(domains, teacher, strict=True)
    ]
    costs = {"prompts": 9, "completions": 9, "tokens": 100, "processor_s": 10.0 + seed}
    rows.append({"method": "mopd full", "accuracy": dict(zip(domains, student, strict=True)), **costs})
    return [{"seed": seed, **row} for row in rows]


def test_shares_of_the_gap_are_of_each_seed_by_itself(bench):
    rows = rows_of(0, (0.5, 0.2), (1.0, 0.8), (0.9, 0.8)) + rows_of(1, (0.6, 0.4), (1.0, 0.8), (1.0, 0.5))
    line = bench.summary(rows)[-1]
    assert (line["method"], line["seeds"], line["add"], line["processor_s"]) == ("mopd full", 2, 0.95, 10.5)
    assert line["gap_closed"] == pytest.approx({"add": 0.9, "sort": 0.625})
    assert line["least_gap_closed_by_seed"] == pytest.approx([0.8, 0.25])
    assert line["least_over_teacher_by_seed"] == pytest.approx([-0.1, -0.3])
    assert line["sort_sd"] == pytest.approx(0.2121)


def test_only_what_is_not_on_record_is_run(bench, tmp_path, monkeypatch):
    asked = []

    def run_method(name, study):
        asked.append((study.seed, name))
        return rows_of(study.seed, (0.5, 0.2), (1.0, 0.8), (0.9, 0.8))[-1] | {"method": name}

    def reference_rows(study):
        study.folder.mkdir(parents=True)
        (study.folder / "start.pt").touch()
        return [
            {k: v for k, v in row.items() if k != "seed"}
            for row in rows_of(study.seed, (0.5, 0.2), (1.0, 0.8), (0, 0))[:-1]
        ]

    monkeypatch.setattr(bench, "run_method", run_method)
    monkeypatch.setattr(bench, "reference_rows", reference_rows)
    monkeypatch.setattr(bench, "CACHE", tmp_path / "models")
    bench.study("near", [0], ["sft"], folder=tmp_path)
    bench.study("near", [0, 1], ["mopd full", "sft"], folder=tmp_path)
    assert asked == [(0, "sft"), (0, "mopd full"), (1, "mopd full"), (1, "sft")]
    content = json.loads((tmp_path / "mopd_near.json").read_text())
    assert content["seeds"] == [0, 1]
    assert [line["seeds"] for line in content["table"]] == [2] * 5
    # Where the models are gone, rows of another start would not compare.
    (tmp_path / "models" / "near-0" / "start.pt").unlink()
    (tmp_path / "models" / "near-0").rmdir()
    asked.clear()
    bench.study("near", [0], ["sft"], folder=tmp_path)
    assert asked == [(0, "sft")]
    rows = json.loads((tmp_path / "mopd_near.json").read_text())["runs"]
    assert [row["method"] for row in rows if row["seed"] == 0] == ["start", "teacher add", "teacher sort", "sft"]
    assert len([row for row in rows if row["seed"] == 1]) == 5


def test_every_method_of_a_plan_is_there_and_reduced_plans_change_nothing_but_sizes(bench):
    for plan in bench.PLANS.values():
        assert set(plan.methods) <= set(bench.METHODS)
        small = bench.reduced(plan).setup
        sizes = {name: getattr(plan.setup, name) for name in ("start_steps", "teacher_steps", "steps", "prompts")}
        assert replace(small, **sizes) == plan.setup


@pytest.mark.slow
@pytest.mark.parametrize("name", ["near", "long", "rl"])
def test_all_methods_of_one_seed(bench, name):
    rows = bench.study(name, [0], small=True)
    plan = bench.PLANS[name]
    references = ["start", *(f"teacher {domain}" for domain in plan.setup.domains)]
    assert [row["method"] for row in rows] == [*references, *plan.methods]
    for row in rows[len(references) :]:
        assert all(0 <= value <= 1 for value in row["accuracy"].values())
        if not row["method"].startswith("average"):
            assert row["tokens"] > row["completions"] >= row["prompts"] > 0
