"""The bundled tiny MiMo-Audio: small, complete, told of honestly, and able to do what its card says."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForAudioTokenization, AutoModelForMultimodalLM, AutoProcessor

import mimo_hf
from mimo_hf.data import number_sentences, spoken_numbers
from mimo_hf.hub.checkpoints import bundled

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "mimo_hf/hub/tiny/mimo-audio"
CODEC = FOLDER / "audio_tokenizer"


@pytest.fixture(scope="module")
def model():
    mimo_hf.register()
    return AutoModelForMultimodalLM.from_pretrained(bundled("mimo-audio"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor():
    mimo_hf.register()
    return AutoProcessor.from_pretrained(bundled("mimo-audio"))


@pytest.fixture(scope="module")
def script():
    import pretrain_mimo_audio

    return pretrain_mimo_audio


def texts():
    return [
        file.read_text(encoding="utf-8")
        for file in FOLDER.rglob("*")
        if file.is_file() and file.suffix != ".safetensors"
    ]


def test_the_folder_is_complete_and_takes_at_most_eight_megabytes():
    files = {str(file.relative_to(FOLDER)): file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()}
    assert set(files) == {
        "README.md", "audio_tokenizer/config.json", "audio_tokenizer/model.safetensors", "chat_template.jinja", "config.json",
        "generation_config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
        "training_run.json",
    }  # fmt: skip
    assert sum(files.values()) <= 8_000_000
    assert {tensor.dtype for tensor in load_file(FOLDER / "model.safetensors").values()} == {torch.bfloat16}
    widest = {
        name for name, tensor in load_file(CODEC / "model.safetensors").items() if tensor.dtype != torch.bfloat16
    }
    assert all("_codebook." in name or name.endswith("istft.window") for name in widest)  # as in the official codec


def test_no_file_names_a_folder_of_the_machine_it_was_made_on():
    assert [
        found for text in texts() for found in re.findall(r"[\"' ]/(?:home|root|tmp|Users|work|opt)\b", text)
    ] == []


def test_the_card_is_written_from_the_training_run(script):
    run = json.loads((FOLDER / "training_run.json").read_text(encoding="utf-8"))
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == script.card(run)
    result = ROOT / "benchmarks/results/pretrain_mimo_audio.json"
    assert json.loads(result.read_text(encoding="utf-8")) == run


def test_the_codec_loads_by_itself_with_its_features():
    mimo_hf.register()
    codec = AutoModelForAudioTokenization.from_pretrained(CODEC)
    tone = torch.sin(torch.arange(24_000) / 20)[None] / 4
    with torch.no_grad():
        codes = codec.encode(input_values=tone).audio_codes
        assert codes.shape == (1, 8, 26)
        assert codec.decode(codes).audio_values.shape == (1, 1, 26 * 960)


@pytest.mark.needs("espeak-ng")
def test_it_writes_down_numbers_that_are_said(model, processor, script):
    """Near what the training's own test has measured."""
    run = json.loads((FOLDER / "training_run.json").read_text(encoding="utf-8"))
    speech = spoken_numbers("test", 40, seed=11)
    heard = script.transcriptions(model, processor, script.codes_of(processor, speech))
    found = script.word_errors(heard, speech["text"][:])["word_error_rate"]
    assert found < run["transcribed"]["numbers, voices of the training"]["word_error_rate"] + 0.1 < 0.5


def test_each_clip_is_a_lesson_in_every_task_and_a_fourth_is_gone_on_with(processor, script):
    clips = [torch.full((32, 8), number) for number in range(5)]
    rows = script.lessons(processor, ["one", "two", "three", "four", "five"], clips)
    assert {task: len(own) for task, own in rows.items()} == {"asr": 5, "tts": 5, "continuation": 2}
    row = rows["continuation"][1]
    assert (row["audio_codes"][1] == 4).all()  # the fifth clip
    given = row["labels"] == -100
    assert given.tolist() == [True] * 6 + [False] * 4  # <|sosp|> and 0.8 s; three patches and <|eosp|> are learned
    assert (row["audio_labels"][:, 0, 0] != -100).tolist() == [False] * 6 + [True] * 3 + [False]


def test_it_reads_numbers_aloud_so_that_it_hears_them(model, processor, script):
    run = json.loads((FOLDER / "training_run.json").read_text(encoding="utf-8"))
    found = script.heard_again(model, processor, number_sentences("test", 25, seed=11), seed=1)
    assert found["word_error_rate"] < run["read_aloud_and_transcribed_by_itself"]["word_error_rate"] + 0.15


def test_what_it_hears_depends_on_what_is_said(model, processor, script):
    """Two texts are not heard as one."""
    torch.manual_seed(0)
    chats = [[{"role": "user", "content": text}] for text in ("seventeen", "forty two nine")]
    spoken = [row["audio_codes"] for row in script.answers(model, processor, chats, "tts")]
    assert all(len(codes) % processor.group_size == 0 and len(codes) > 0 for codes in spoken)
    first, second = script.transcriptions(model, processor, spoken)
    assert first != second
