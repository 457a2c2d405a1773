"""Official folders to ours: made here of tiny models, with the official files' names, types and lack of a processor."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMultimodalLM, AutoProcessor

import mimo_hf
from mimo_hf.modeling.mimo_audio.convert_mimo_audio_checkpoint import convert_mimo_audio_checkpoint


def test_a_converted_folder_is_the_same_model(official, speech_rows, tmp_path):
    mimo_hf.register()
    lm, codec, model = official
    folder = convert_mimo_audio_checkpoint(lm, codec, tmp_path / "out", progress=False)
    loaded = AutoModelForMultimodalLM.from_pretrained(folder).eval()
    assert type(loaded) is type(model)
    assert loaded.config.empty_token_id == model.config.empty_token_id
    assert loaded.config.stop_token_ids == model.config.stop_token_ids == loaded.generation_config.eos_token_id
    ids, codes = speech_rows(model.config, 1, 9)
    with torch.no_grad():
        assert torch.equal(loaded(ids, audio_codes=codes).logits, model(ids, audio_codes=codes).logits)
    for file in lm.glob("*.safetensors"):
        assert file.read_bytes() == (folder / file.name).read_bytes()
    processor = AutoProcessor.from_pretrained(folder)
    assert processor.max_length == model.config.max_position_embeddings
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio", "array": torch.randn(9600).numpy()}]}], task="asr"
    )
    assert (inputs["input_ids"] == model.config.empty_token_id).sum() == 6  # 41 mel frames, 11 of codes, two a patch
    output = loaded.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert output.sequences.shape[1] == inputs["input_ids"].shape[1] + 2


def test_without_a_codec(official, tmp_path):
    lm, _, _ = official
    folder = convert_mimo_audio_checkpoint(lm, None, tmp_path / "out", progress=False)
    assert not (folder / "audio_tokenizer").exists()
    assert getattr(AutoProcessor.from_pretrained(folder), "audio_tokenizer", None) is None


def edit(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("encoder.conv1.bias"), "1 are missing, such as encoder.conv1.bias"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "1 are unknown, such as extra"),
        (
            lambda tensors: tensors.update({"encoder.conv1.bias": torch.zeros(3)}),
            r"got \[3\] for \[32\] of encoder.conv1.bias",
        ),
    ],
)
def test_other_tensors_are_refused_before_anything_is_written(official, tmp_path, change, message):
    lm, codec, _ = official
    edit(codec / "model.safetensors", change)
    with pytest.raises(ValueError, match=f"`codec_dir` must hold .*{message}"):
        convert_mimo_audio_checkpoint(lm, codec, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_folders_that_lack_files_or_have_some(official, tmp_path):
    lm, codec, _ = official
    with pytest.raises(FileNotFoundError, match=r"`lm_dir` must be a folder with config.json; got .*nowhere"):
        convert_mimo_audio_checkpoint(tmp_path / "nowhere", codec, tmp_path / "out")
    with pytest.raises(ValueError, match=r"`out_dir` must be new or empty; got .*codec"):
        convert_mimo_audio_checkpoint(lm, codec, codec)
    next(iter(lm.glob("model-00001*"))).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"`lm_dir` must have .*all files that it lists; got .*without model-00001"
    ):
        convert_mimo_audio_checkpoint(lm, codec, tmp_path / "out")
    assert not (tmp_path / "out").exists()
