"""examples/sft_mimo_audio.py: a tiny model, all weights and LoRA, and what it refuses."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from mimo_hf.modeling.mimo_audio import MiMoAudioForConditionalGeneration, MiMoAudioProcessor

SCRIPT = Path(__file__).parents[2] / "examples" / "sft_mimo_audio.py"
DECODER = ("local_transformer.", "local_transformer_lm_heads.", "hidden_states_downcast.")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("sft_mimo_audio", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stage_one_trains_all_but_the_patch_decoder(script, tmp_path):
    options = ["--quick", "--stage", "1", "--max_steps", "2", "--seed", "3", "--output_dir", str(tmp_path)]
    script.main([*options, "--weight_decay", "0.1", "--logging_steps", "1", "--disable_tqdm", "True"])
    start = dict(script.make_tiny(3)[0].named_parameters())
    trained = dict(MiMoAudioForConditionalGeneration.from_pretrained(tmp_path).named_parameters())
    kept = {name for name in start if torch.equal(start[name], trained[name])}
    assert kept >= {name for name in start if name.startswith(DECODER)}
    assert not any(name.startswith(("model.", "lm_head", "input_local_transformer")) for name in kept)
    assert MiMoAudioProcessor.from_pretrained(tmp_path).speech_vocab_size == 17


def test_lora_saves_and_merges_and_the_loss_falls(script, tmp_path, capsys):
    few = ["--max_steps", "10", "--logging_steps", "2", "--disable_tqdm", "True"]
    script.main(["--quick", "--lora_r", "4", "--output_dir", str(tmp_path / "out"), *few])
    words = capsys.readouterr().out.split("Loss ")[1].split()
    assert float(words[3]) < float(words[0])
    model, processor = script.make_tiny(42)
    adapted = PeftModel.from_pretrained(model, tmp_path / "out").eval()
    merged = MiMoAudioForConditionalGeneration.from_pretrained(tmp_path / "out" / "merged").eval()
    (chat,) = script.make_conversations(1, seed=9)
    batch = processor.apply_chat_template(chat, task="spoken_dialogue", output_labels=True)
    with torch.no_grad():
        torch.testing.assert_close(adapted(**batch).logits, merged(**batch).logits, rtol=1e-4, atol=1e-4)

    lines = [
        json.dumps({"messages": [turn_as_lists(turn) for turn in one]}) for one in script.make_conversations(4, seed=1)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    own = ["--model", str(tmp_path / "out" / "merged"), "--dataset", str(tmp_path / "rows.jsonl"), "--max_steps", "1"]
    more = [
        "--use_cpu",
        "True",
        "--bf16",
        "False",
        "--report_to",
        "none",
        "--logging_steps",
        "1",
        "--task",
        "spoken_dialogue",
    ]
    script.main([*own, *more, "--output_dir", str(tmp_path / "own")])
    assert (tmp_path / "own" / "model.safetensors").is_file()


def turn_as_lists(turn):
    parts = [part | ({"codes": part["codes"].tolist()} if "codes" in part else {}) for part in turn["content"]]
    return turn | {"content": parts}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "a"], "--model and --dataset go together"),
        (["--quick", "--model", "a", "--dataset", "b"], "--quick goes without --model and --dataset"),
        (["--model", "a", "--dataset", "none.jsonl"], "--dataset must be a file that exists; got 'none.jsonl'"),
    ],
)
def test_what_does_not_fit_is_refused(script, capsys, tmp_path, options, says):
    with pytest.raises(SystemExit):
        script.parse([*options, "--output_dir", str(tmp_path), "--use_cpu", "True"])
    assert says in " ".join(capsys.readouterr().err.split())


def test_help_teaches(script, capsys):
    with pytest.raises(SystemExit):
        script.parse(["--help"])
    shown = capsys.readouterr().out
    assert "leaves the patch decoder as it is" in shown
    assert "--lr_patch_encoder" in shown
