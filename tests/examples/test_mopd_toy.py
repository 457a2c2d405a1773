"""examples/mopd_toy.py: shares of the gap, training on answers, and a first look with a picture."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "examples" / "mopd_toy.py"


@pytest.fixture(scope="module")
def toy():
    spec = importlib.util.spec_from_file_location("mopd_toy", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_gap_is_closed_where_the_student_is_its_teacher(toy):
    assert toy.gap_closed(0.5, 0.9, 0.9) == 1
    assert toy.gap_closed(0.5, 0.9, 0.6) == pytest.approx(0.25)
    assert toy.gap_closed(0.5, 0.9, 0.4) == pytest.approx(-0.25)
    assert math.isnan(toy.gap_closed(0.9, 0.9, 0.9))


def test_a_copy_has_weights_of_its_own(toy):
    model = toy.make_model(toy.word_tokenizer(toy.symbol_tasks.words()))
    copied = toy.copy_of(model)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert copied.lm_head.weight.any()


def test_training_problems_are_of_all_domains_alike_and_none_is_a_test_problem(toy):
    domains = ("add", "sort", "reverse")
    rows = toy.problems(domains, 900, seed=0)
    assert [rows["domain"].count(domain) for domain in domains] == [300] * 3
    assert rows["domain"][:300].count("add") < 150  # in random order
    test = {prompt for domain in domains for prompt in toy.symbol_task(domain, "test", 1000)["prompt"]}
    assert not test & set(rows["prompt"])


def test_training_on_answers_counts_the_answers_alone(toy, monkeypatch):
    seen = {}

    class Trainer:
        def __init__(self, model, config, train_dataset, **options):
            seen["rows"] = train_dataset.to_list()

        def remove_callback(self, callback):
            pass

        def train(self):
            pass

    monkeypatch.setattr(toy, "SFTTrainer", Trainer)
    tokenizer = toy.word_tokenizer(toy.symbol_tasks.words())
    rows = toy.Dataset.from_list([{"prompt": "A 1 2 =", "answer": "4 5"}])
    toy.supervise(None, tokenizer, rows, steps=1, learning_rate=1e-3, seed=0)
    (row,) = seen["rows"]
    assert tokenizer.decode(row["input_ids"]) == "A 1 2 = 4 5 <eos>"
    assert row["completion_mask"] == [0, 0, 0, 0, 1, 1, 1]


@pytest.mark.slow
def test_the_first_look_prints_all_models_and_draws_the_way(warm_python, tmp_path):
    pytest.importorskip("matplotlib")
    result = warm_python.run(SCRIPT, "--quick", "--plot", tmp_path / "way.svg")
    assert result.returncode == 0, result.stderr[-3000:]
    for name in ("start", "teacher of add", "teacher of sort", "teacher of reverse", "student", "gap closed"):
        assert name in result.stdout
    assert "teacher of reverse" in (tmp_path / "way.svg").read_text()


def test_a_picture_of_another_kind_is_refused_before_anything_is_trained(toy):
    with pytest.raises(ValueError, match="`--plot` must end in"):
        toy.main(toy.ScriptArguments(plot="way.bmp"))
