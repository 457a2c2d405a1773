"""examples/distill_hysparse.py: its pieces, and one short run."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainingArguments

import mimo_hf
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.modeling.hysparse import convert_dense

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples/distill_hysparse.py"
SPARSE = {"sliding_window": 4, "sparse_block_size": 4, "sparse_topk_tokens": 8}


@pytest.fixture(scope="module")
def run_script(warm_python):
    return lambda *options: warm_python.run(SCRIPT, *options)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("distill_hysparse", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["distill_hysparse"] = module  # dataclasses look their module up by name
    path = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = path
    del sys.modules["distill_hysparse"]


@pytest.fixture
def teacher():
    """Sharp enough that its students differ from it."""
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def rows():
    ids = torch.randint(0, 40, (16, 32), generator=torch.Generator().manual_seed(0))
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()}).with_format("torch")


def test_divergence_is_the_mean_over_tokens(script):
    teacher, student = torch.randn(2, 2, 3, 5, dtype=torch.float64)
    total = 0.0
    for row in range(2):
        for place in range(3):
            p, q = teacher[row, place].softmax(0), student[row, place].softmax(0)
            total += sum(p[token] * (p[token] / q[token]).log() for token in range(5)) / 6
    assert_close(script.divergence(teacher, student).double(), total, atol=1e-6, rtol=0)


def test_a_comparison_with_itself_finds_no_difference(script, teacher, rows):
    figures = script.compare(teacher, teacher, rows, batch_size=5)
    ids = rows[:]["input_ids"]
    logits = teacher(ids).logits[:, :-1]
    expected = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()
    assert figures == {"kl": 0.0, "same_top_token": 1.0, "cross_entropy": pytest.approx(expected, rel=1e-5)}


@pytest.mark.parametrize("layer_loss_weight", [0.0, 1.0])
def test_distillation_brings_the_student_nearer_and_leaves_the_teacher(
    script, teacher, rows, layer_loss_weight, tmp_path
):
    weights = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = convert_dense(teacher, **SPARSE)
    arguments = script.ScriptArguments(
        output_dir=str(tmp_path),
        distill_steps=12,
        learning_rate=3e-3,
        layer_loss_weight=layer_loss_weight,
    )
    figures = script.distil(teacher, student, "student", rows, rows, arguments)
    assert figures["kl_before"] > 0.05
    assert figures["kl_after"] < 0.9 * figures["kl_before"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in teacher.state_dict().items())
    mimo_hf.register()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert script.compare(teacher, loaded, rows, 4)["kl"] == pytest.approx(figures["kl_after"], rel=1e-4)


def layer_outputs(model, ids):
    """Of each layer; of the last one, after the final norm."""
    states = []
    modules = [*model.model.layers[:-1], model.model.norm]
    hooks = [
        module.register_forward_hook(
            lambda m, a, output: states.append(output[0] if isinstance(output, tuple) else output)
        )
        for module in modules
    ]
    model(ids)
    for hook in hooks:
        hook.remove()
    return states


def test_the_layer_loss_is_the_relative_error_of_every_layers_output(script, teacher, rows, tmp_path):
    student = convert_dense(teacher, **SPARSE)
    losses = []
    for weight in (0.0, 2.0):
        trainer = script.DistillationTrainer(
            model=student,
            args=TrainingArguments(output_dir=str(tmp_path), report_to="none"),
            teacher=teacher,
            layer_loss_weight=weight,
        )
        losses.append(trainer.compute_loss(student, {"input_ids": rows[:4]["input_ids"]}))
    outputs = [layer_outputs(model, rows[:4]["input_ids"]) for model in (teacher, student)]
    errors = [((a - b) ** 2).mean() / (a**2).mean() for a, b in zip(*outputs, strict=True)]
    assert_close(losses[1] - losses[0], 2 * sum(errors) / 4, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("copies", [1, 2, 4])
def test_rows_hold_the_text_in_order_each_piece_as_often_as_asked(script, copies):
    tokenizer = AutoTokenizer.from_pretrained(bundled("mimo-v2-flash"))
    texts = ["x = 1\ny = [2]\n" * 7, "y = [2]\n" * 9]
    rows = script.rows_of(Dataset.from_dict({"path": ["a", "b"], "text": texts}), tokenizer, length=8, copies=copies)
    pieces = rows[:]["input_ids"].unflatten(1, (copies, -1))
    assert (pieces == pieces[:, :1]).all()
    flat = tokenizer.decode(pieces[:, 0].flatten())
    assert len(flat) > 100
    assert tokenizer.eos_token.join([*texts, ""]).startswith(flat)


def test_the_help_names_every_argument(run_script, script):
    shown = run_script("--help")
    assert shown.returncode == 0
    assert all(f"--{name}" in shown.stdout for name in script.ScriptArguments.__dataclass_fields__)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"length": 16}, "length=16.*sparse_topk_tokens=16"),
        ({"length": 50, "copies": 4}, "length=50.*copies=4"),
        ({"sparse_layers_per_full": 0}, "sparse_layers_per_full"),
    ],
)
def test_arguments_that_cannot_work_are_refused(script, options, named):
    with pytest.raises(ValueError, match=named):
        script.ScriptArguments(**options)


@pytest.mark.slow
def test_a_short_run_with_a_given_teacher_is_on_record(run_script, teacher, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(bundled("mimo-v2-flash"))
    teacher.resize_token_embeddings(len(tokenizer))
    for part in (teacher, tokenizer):
        part.save_pretrained(tmp_path / "teacher")
    lengths = ("--length", 64, "--copies", 1, "--distill_steps", 2, "--eval_rows", 3, "--agreement_rows", 2)
    run = run_script("--teacher", tmp_path / "teacher", "--output_dir", tmp_path / "result", *lengths)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads((tmp_path / "result/distill_hysparse.json").read_text())
    assert found["teacher"]["kl"] == 0
    assert found["full_layers"]["period"] == [0, 3]
    assert [row["blocks_of_layer"] for row in found["layer_agreement"]] == [0, 1, 2, 3]
    assert found["students"][0]["agreement"] == pytest.approx(
        (found["layer_agreement"][0]["1"] + found["layer_agreement"][0]["2"]) / 2, abs=1e-3
    )
    assert [(arm["full_layers"], arm["gates_start"]) for arm in found["students"]] == [
        ("period", "equal"),
        ("agreement", "equal"),
        ("period", "window"),
        ("agreement", "window"),
        ("period", "none"),
    ]
    assert all(arm["kl_before"] >= 0 and arm["kl_after"] >= 0 for arm in found["students"])
    assert "hybrid sliding window" in run.stdout
