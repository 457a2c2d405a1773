"""examples/pretrain_mimo.py: its pieces, and one short run from the corpus to the folder that others load."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import mimo_hf
from mimo_hf.data import held_out_files

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples/pretrain_mimo.py"
STEPS = {"--stage1_steps": 6, "--stage2_steps": 4, "--eval_steps": 4}
SHORT = {"--batch_size": 2, "--block_size": 64, "--prompt_tokens": 32, "--num_prompts": 3, "--new_tokens": 16}


@pytest.fixture(scope="module")
def run_script(warm_python):
    arguments = [part for option in (STEPS | SHORT).items() for part in option]
    return lambda folder, *options: warm_python.run(SCRIPT, "--tiny", "--output_dir", folder, *arguments, *options)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pretrain_mimo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pretrain_mimo"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    yield module
    del sys.modules["pretrain_mimo"]


@pytest.fixture(scope="module")
def folder(run_script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "result"
    run = run_script(folder)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return json.loads((folder / "training_run.json").read_text())


@pytest.mark.slow
def test_the_folder_is_complete_and_small(folder):
    files = {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()}
    expected = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {*expected, "training_run.json", "README.md"} <= set(files)
    assert sum(files.values()) < 1_000_000


@pytest.mark.slow
def test_weights_are_bfloat16(folder):
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.slow
def test_the_result_loads_with_three_different_heads(folder):
    mimo_hf.register()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.num_mtp_layers == len(model.mtp_heads) == 3
    assert model.config.mtp_train_mode == "joint"
    assert not model.config.output_router_logits
    projections = [head.eh_proj.weight for head in model.mtp_heads]
    assert not torch.equal(projections[0], projections[1])
    assert not torch.equal(projections[1], projections[2])


@pytest.mark.slow
def test_the_tokenizer_gives_every_text_back(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "def f(x):\n\treturn {'é': x}  # 漢字 \r\n    \n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"


@pytest.mark.slow
def test_the_run_is_on_record(run):
    assert run["command"].startswith("python examples/pretrain_mimo.py --tiny")
    assert run["seed"] == run["arguments"]["seed"] == 0
    assert run["versions"]["torch"] == torch.__version__
    assert set(run["wall_s"]) == {"corpus", "stage1", "stage2", "measurements"}
    assert set(run["held_out_losses"]) == {"trunk", "head_0", "head_1", "head_2", "unigram"}
    assert all(0 < loss < 10 for loss in run["held_out_losses"].values())
    assert len(run["expert_load_max_over_mean"]) == 5
    assert all(1 <= ratio <= 8 for ratio in run["expert_load_max_over_mean"])
    for decoding in run["acceptance"].values():
        assert 1 <= decoding["acceptance_length"] <= 4
        assert decoding["prompts"] == SHORT["--num_prompts"]


@pytest.mark.slow
def test_both_stages_log_the_trunk_apart_from_the_heads(run):
    for stage, heads in {"stage1": 1, "stage2": 3}.items():
        logged = run["history"][stage]
        assert any({"loss", "mtp_loss"} <= set(row) for row in logged)
        assert any({"eval_trunk", *(f"eval_head_{k}" for k in range(heads))} <= set(row) for row in logged)


@pytest.mark.slow
def test_the_trunk_stays_as_it_is_in_the_second_stage(run):
    trunk = {row["eval_trunk"] for row in run["history"]["stage2"] if "eval_trunk" in row}
    last_of_stage1 = [row["eval_trunk"] for row in run["history"]["stage1"] if "eval_trunk" in row][-1]
    assert trunk == {last_of_stage1}


@pytest.mark.slow
def test_resume_continues_with_the_finished_stages(run_script, folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for stage in ("stage1", "stage2"):
        (copy / stage).symlink_to(folder / stage)
    resumed = run_script(copy, "--resume", "True")
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    before, after = (load_file(path / "model.safetensors") for path in (folder, copy))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_packing_keeps_the_text_in_order(script):
    tokenizer = script.train_tokenizer(["x = 1\n" * 50, "y = [2]\n" * 50], vocab_size=270)
    texts = ["x = 1\ny = [2]\n" * 7, "y = [2]\n" * 9]
    blocks = script.pack(Dataset.from_dict({"path": ["a", "b"], "text": texts}), tokenizer, block_size=8)
    flat = tokenizer.decode(blocks[:]["input_ids"].flatten())
    assert len(flat) > 100
    assert "<|endoftext|>".join([*texts, ""]).startswith(flat)
    assert torch.equal(blocks[:]["input_ids"], blocks[:]["labels"])


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [
        ([5, 1, 2, 1, 2, 1, 2], True),
        ([1, 2, 1, 2, 1, 2, 5], False),
        ([4, 7, 7, 7], True),
        ([1, 2, 3, 1, 2, 3], False),
        ([1, 2, 3] * 3, True),
        ([], False),
    ],
)
def test_a_loop_is_the_same_piece_three_times_at_the_end(script, tokens, loops):
    assert script.ends_in_a_loop(tokens) is loops


def test_unigram_cross_entropy_is_that_of_the_counts(script):
    train = Dataset.from_dict({"input_ids": [[0, 0], [0, 1]]}).with_format("torch")
    held_out = Dataset.from_dict({"input_ids": [[0, 1], [1, 2]]}).with_format("torch")
    expected = -torch.tensor([4 / 7, 2 / 7, 2 / 7, 1 / 7]).log().mean()  # counts 3, 1, 0, and one more each
    assert script.unigram_cross_entropy(train, held_out, vocab_size=3) == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("options", "named"),
    [({"vocab_size": 256}, "vocab_size"), ({"prompt_tokens": 256, "block_size": 256}, "prompt_tokens")],
)
def test_arguments_that_cannot_work_are_refused(script, options, named):
    with pytest.raises(ValueError, match=f"`{named}.*256"):
        script.ScriptArguments(**options)


def test_no_held_out_file_is_trained_on(script):
    trained = {*script.stdlib_code("train")["text"]}
    assert not [path.name for path in held_out_files() if path.read_text(encoding="utf-8") in trained]
