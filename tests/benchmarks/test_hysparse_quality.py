"""benchmarks/hysparse_quality.py: arms of one size, diagnostics against loops, a study that resumes, and one that learns."""

import json
import math

import pytest
import torch

from mimo_hf import drawing


@pytest.fixture(scope="module")
def bench():
    import hysparse_quality

    return hysparse_quality


@pytest.fixture(scope="module")
def chain():
    import _hysparse_chain

    return _hysparse_chain


@pytest.fixture
def runs(bench, monkeypatch):
    """The runs that a study asks for, each with a made-up result; those of `no_swa_branch` fail."""
    asked = []

    def run_one(name, small, arm, role, seed, rate):
        asked.append((arm, role, seed, rate))
        row = {"arm": arm, "role": role, "seed": seed, "learning_rate": rate, "parameters": 10}
        if arm == "no_swa_branch" and role == "table":
            return {**row, "status": "failed: loss nan"}
        return {**row, "status": "ok", "accuracy": [1.0, 100 * rate + seed / 1000]}

    monkeypatch.setattr(bench, "run_one", run_one)
    return asked


def test_all_arms_of_an_experiment_have_nearly_the_same_number_of_parameters(bench):
    for experiment in bench.EXPERIMENTS.values():
        sizes = []
        for arm in experiment.arms:
            config = experiment.config(arm, bench.matched_width(arm, experiment, experiment.width))
            sizes.append(bench.num_parameters(experiment.build(config)))
        assert max(sizes) / min(sizes) < 1.005


def test_arms_differ_in_what_their_names_say(bench):
    configs = {arm: bench.EXPERIMENTS["chain"].config(arm, 128) for arm in bench.ARMS}
    assert configs["full"].layer_types == ["full_attention"] * 4
    assert {tuple(config.layer_types) for arm, config in configs.items() if arm != "full"} == {
        ("full_attention", "sliding_attention", "sliding_attention", "full_attention")
    }
    assert [arm for arm in configs if not configs[arm].use_sparse_branch] == ["hybrid_swa"]
    assert [arm for arm in configs if not configs[arm].use_swa_branch] == ["no_swa_branch"]
    assert [arm for arm in configs if configs[arm].swa_shares_kv] == ["swa_shares_kv"]
    assert [configs[f"{name}_blocks"].oracle_reduce for name in ("random", "recent")] == ["random", "recent"]


def test_tuning_rows_test_rows_and_training_rows_differ(bench):
    experiment = bench.EXPERIMENTS["chain"]
    seeds = [0, 1, 2, bench.TUNING_SEED, bench.TUNING_ROWS_SEED, bench.TEST_ROWS_SEED]
    contexts = {tuple(experiment.rows(1, seed)["key"][0].tolist()) for seed in seeds}
    assert len(contexts) == len(seeds)


# Diagnostics


def test_the_oracle_is_judged_as_loops_judge_it(bench, chain):
    from _hysparse_oracle import oracle_diagnostics, recorded_reads

    experiment = bench.EXPERIMENTS["chain"]
    torch.manual_seed(0)
    model = experiment.build(experiment.config("hysparse", 16)).eval()
    for layer in model.trunk.layers:
        layer.self_attn.q_proj.weight.data *= 4
    batch = experiment.rows(2, 0)
    queries = batch["labels"].shape[1]
    rows = oracle_diagnostics(model.trunk, lambda: model(batch), queries, batch["links"])
    reads = recorded_reads(model.trunk, lambda: model(batch))
    assert [(row["layer"], row["distance"]) for row in rows] == [(1, 1), (2, 2)]

    for row in rows:
        query, key, _, blocks = (tensor.double() for tensor in reads[row["layer"]])
        recall, missed, found = [], [], [[], [], []]
        for b in range(2):
            for t in range(64 - queries, 64):
                selected_of_groups = []
                for group in range(2):
                    selected = {int(block) for block in blocks[b, group, t] if block >= 0}
                    selected_of_groups.append(selected)
                    best = torch.zeros(32)
                    for head in (2 * group, 2 * group + 1):
                        logits = torch.stack(
                            [query[b, head, t] @ key[b, group, j] / math.sqrt(32) for j in range(t + 1)]
                        )
                        weights = logits.softmax(0)
                        outside = [float(weights[j]) for j in range(t + 1) if j // 2 not in selected]
                        missed.append(sum(outside))
                        for j in range(t + 1):
                            best[j // 2] = max(best[j // 2], weights[j])
                    wanted = set(best.argsort(descending=True)[:8].tolist())
                    recall.append(len(wanted & selected) / 8)
                for hop in range(3):
                    block = int(batch["links"][b, t - 64 + queries, hop]) // 2
                    found[hop].append(any(block in selected for selected in selected_of_groups))
        assert row["recall"] == pytest.approx(sum(recall) / len(recall))
        assert row["missed_mass"] == pytest.approx(sum(missed) / len(missed), abs=1e-5)
        assert row["link_selected"] == pytest.approx([sum(hits) / len(hits) for hits in found])


def test_a_selection_of_everything_misses_nothing(bench, chain):
    from _hysparse_oracle import oracle_diagnostics

    experiment = bench.EXPERIMENTS["chain"]
    model = chain.with_topk(experiment.build(experiment.config("hysparse", 16)), 64).eval()
    batch = experiment.rows(2, 0)
    for row in oracle_diagnostics(model.trunk, lambda: model(batch), 29, batch["links"]):
        assert row["recall"] == 1
        assert row["missed_mass"] == pytest.approx(0, abs=1e-6)
        assert row["link_selected"] == [1, 1, 1]


def test_another_number_of_selected_tokens_leaves_the_weights(bench, chain):
    experiment = bench.EXPERIMENTS["chain"]
    model = experiment.build(experiment.config("hysparse", 16)).eval()
    batch = experiment.rows(2, 0)
    same, fewer = (chain.with_topk(model, topk).eval()(batch) for topk in (16, 2))
    assert torch.equal(same, model(batch))
    assert not torch.allclose(fewer, same)
    assert model.trunk.config.sparse_topk_tokens == 16


# The study


def test_a_finished_run_is_not_repeated(bench, runs, tmp_path):
    arms = ["full", "hysparse"]
    bench.study("chain", arms, [0], small=False, jobs=1, folder=tmp_path)
    assert runs == [
        *[(arm, "tuning", bench.TUNING_SEED, rate) for arm in arms for rate in (4e-3, 8e-3)],
        *[(arm, "table", 0, 8e-3) for arm in arms],
    ]
    runs.clear()
    written = (tmp_path / "hysparse_quality_chain.json").stat()
    bench.study("chain", arms, [0], small=False, jobs=1, folder=tmp_path)
    assert runs == []
    assert (tmp_path / "hysparse_quality_chain.json").stat().st_mtime_ns == written.st_mtime_ns
    bench.study("chain", arms, [0, 1], small=False, jobs=1, folder=tmp_path)
    assert runs == [(arm, "table", 1, 8e-3) for arm in arms]


def test_runs_that_another_process_added_are_kept(bench, runs, tmp_path):
    bench.study("chain", ["full"], [0], small=False, jobs=1, folder=tmp_path)
    ours = bench.Study("chain", tmp_path).load()
    bench.study("chain", ["full"], [1], small=False, jobs=1, folder=tmp_path)
    ours.add(bench.run_one("chain", False, "full", "table", 2, 8e-3))
    assert [run["seed"] for run in bench.Study("chain", tmp_path).load().runs] == [0, 1, 2, 100, 100]


def test_the_table_is_made_from_the_runs_on_record(bench, runs, tmp_path):
    bench.study("chain", ["no_swa_branch", "full"], [0, 3], small=False, jobs=1, folder=tmp_path)
    written = json.loads((tmp_path / "hysparse_quality_chain.json").read_text())
    assert {"command", "date", "device", "versions", "seed"} <= written.keys()
    full, without = written["table"]
    assert (full["arm"], full["seeds"], full["failed"], full["hop_1"]) == ("full", 2, 0, 1.0)
    assert full["hop_2"] == pytest.approx(0.8015)
    assert (full["last_hop_min"], full["last_hop_max"]) == pytest.approx((0.8, 0.803))
    assert (without["seeds"], without["failed"]) == (0, 2)
    assert sum(run["status"] == "failed: loss nan" for run in written["runs"]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["hysparse_quality_chain.json"]


def test_rates_of_another_experiment_need_its_runs(bench, runs, tmp_path):
    with pytest.raises(ValueError, match="run `--experiment chain --arms full` first"):
        bench.study("chain_4", ["full"], [0], small=False, jobs=1, folder=tmp_path)
    bench.study("chain", ["full"], [0], small=False, jobs=1, folder=tmp_path)
    runs.clear()
    bench.study("chain_4", ["full"], [0], small=False, jobs=1, folder=tmp_path)
    assert runs == [("full", "table", 0, 8e-3)]


def test_a_run_that_diverges_is_on_record(bench, monkeypatch):
    def diverge(*args, **kwargs):
        raise FloatingPointError("loss nan at step 3")

    monkeypatch.setattr(bench, "run_chain", diverge)
    assert bench.run_one("chain", True, "full", "table", 0, 1.0)["status"] == "failed: loss nan at step 3"


def test_a_small_run_of_text_and_of_longer_contexts(bench):
    run = bench.run_one("text", True, "hysparse", "table", 0, 1e-3)
    assert run["status"] == "ok"
    assert 4 < run["bits_a_byte"] < 12
    model = bench.EXPERIMENTS["needle"].build(bench.EXPERIMENTS["needle"].config("hybrid_swa", 16))
    found = bench.longer_contexts(bench.EXPERIMENTS["needle"], model, 1)["by_context"]
    assert [(row["context"], row["topk_tokens"]) for row in found] == [(n, None) for n in (128, 256, 512, 1024)]


def test_a_study_over_contexts_is_drawn_with_a_curve_for_each_selection(bench, tmp_path, monkeypatch):
    drawn = {}

    def line_chart(x, series, **labels):
        drawn.update(x=x, series=series)
        return drawing.line_chart(x, series, **labels)

    monkeypatch.setattr(bench, "line_chart", line_chart)
    run = {"role": "table", "seed": 0, "learning_rate": 0.008, "parameters": 10, "status": "ok", "accuracy": [0.5]}
    found = {
        "full": [{"context": context, "topk_tokens": None, "last_hop": 0.5} for context in (256, 128)],
        "hysparse": [{"context": 128, "topk_tokens": topk, "last_hop": topk / 100} for topk in (8, 16)],
    }
    study = bench.Study("needle", tmp_path)
    monkeypatch.setattr(bench.Study, "tuned_rate", lambda self, arm: 0.008)
    for arm, by_context in found.items():
        study.add({**run, "arm": arm, "by_context": by_context})
    assert drawn["x"] == [128, 256]
    assert drawn["series"]["full"] == [0.5, 0.5]
    assert drawn["series"]["hysparse, 16 tokens"] == pytest.approx([0.16, math.nan], nan_ok=True)
    assert (tmp_path / "hysparse_quality_needle.png").exists()


def test_rates_warm_up_and_decay(chain):
    shares = [chain.learning_rate_at(step, 600) for step in range(600)]
    assert shares[:2] == [0.02, 0.04]
    assert shares[49:421] == [1.0] * 372
    assert shares[-1] == pytest.approx(1 / 180)
    assert shares == sorted(shares[:50]) + sorted(shares[50:], reverse=True)


@pytest.mark.slow
def test_hysparse_learns_a_hop_that_recent_blocks_do_not_show(bench, chain, monkeypatch):
    experiment = bench.Experiment(
        "two hops, 32 positions, a full layer and a sparse one",
        task={"tags": 3, "cycle": 7, "symbols": 7, "queries": 11, "hops": 2},
        shape={
            **bench.EXPERIMENTS["chain"].shape,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "layer_types": ["full_attention", "sliding_attention"],
            "head_dim": 16,
            "sparse_topk_tokens": 10,
        },
        width=32,
        steps=250,
        test_rows=64,
    )
    monkeypatch.setitem(bench.EXPERIMENTS, "tiny", experiment)
    oracle, recent = (
        bench.run_one("tiny", False, arm, "table", 0, 1e-2)["accuracy"] for arm in ("hysparse", "recent_blocks")
    )
    assert min(oracle[0], recent[0]) > 0.9
    assert oracle[1] > recent[1] + 0.1
