"""examples/pretrain_mimo_audio.py: a few steps write a folder that loads, with a card made of what was measured."""

import json
from pathlib import Path

import pytest

from mimo_hf.data.speech import ASTERISK
from mimo_hf.modeling.mimo_audio import MiMoAudioForConditionalGeneration, MiMoAudioProcessor

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow  # two scripts that read half an hour of recordings
@pytest.mark.needs(str(ASTERISK), "espeak-ng")
def test_a_few_steps_write_a_model_that_speaks_and_transcribes(warm_python, tmp_path):
    codec, folder = tmp_path / "codec", tmp_path / "lm"
    made = warm_python.run(
        EXAMPLES / "train_mimo_audio_codec.py", "--quick", "--numbers", "5", "--use_cpu", "--output_dir", codec
    )
    assert made.returncode == 0, made.stderr[-3000:]
    arguments = [
        "--codec",
        codec,
        "--numbers",
        "12",
        "--first_steps",
        "2",
        "--max_steps",
        "2",
        "--logging_steps",
        "1",
        "--test",
        "3",
        "--use_cpu",
        "--output_dir",
        folder,
    ]
    result = warm_python.run(EXAMPLES / "pretrain_mimo_audio.py", *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    run = json.loads((folder / "training_run.json").read_text())
    assert run["rows"] == {"asr": run["clips"], "tts": run["clips"], "continuation": -(-run["clips"] // 4)}
    assert [(entry["stage"], entry["step"]) for entry in run["history"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert set(run["transcribed"]) == {
        "numbers, voices of the training", "numbers, voices never heard", "prompts of the training", "prompts never heard",
    }  # fmt: skip
    assert set(run["codec"]["errors"]) == {"0", "1", "2", "4", "8"}
    assert f"{run['parameters']:,} parameters" in (folder / "README.md").read_text()
    model = MiMoAudioForConditionalGeneration.from_pretrained(folder)
    processor = MiMoAudioProcessor.from_pretrained(folder)
    assert processor.audio_tokenizer.config.codebook_sizes == [8] * 8
    inputs = processor.apply_chat_template([{"role": "user", "content": "one"}], task="tts")
    output = model.generate(**inputs, **model.generation_presets["tts"], max_new_tokens=3)
    assert len(processor.parse_response(output)) == 1
