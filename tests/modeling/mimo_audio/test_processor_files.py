"""MiMoAudioProcessor in a folder: what is saved is what is loaded, the codec too, and no weights are copied."""

import json

import pytest
import torch
from transformers import AutoProcessor

import mimo_hf
from mimo_hf.modeling.mimo_audio import MiMoAudioProcessor

from .test_processor import A, says, user


def check_same(processor, loaded, clip):
    assert type(loaded) is MiMoAudioProcessor
    assert loaded.chat_template == processor.chat_template
    assert (loaded.group_size, loaded.audio_channels, loaded.max_length) == (2, 3, 2000)
    assert loaded.token_ids == processor.token_ids
    assert loaded.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
    chat = [{"role": "user", "content": [{"type": "audio", "array": clip}]}, says("Hi", A)]
    first, second = (
        one.apply_chat_template(chat, task="spoken_dialogue", output_labels=True) for one in (processor, loaded)
    )
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_saving_and_loading_keep_codec_template_and_all(speech_processor, speech_codec, tmp_path):
    mimo_hf.register()
    processor = speech_processor(chat_template=None)
    clip = torch.randn(4_000, generator=torch.Generator().manual_seed(0)) * 0.1
    processor.save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole" / "audio_tokenizer" / "model.safetensors").is_file()
    assert "<|sostm|>" in (tmp_path / "whole" / "chat_template.jinja").read_text()
    (tmp_path / "whole").rename(tmp_path / "moved")
    check_same(processor, MiMoAudioProcessor.from_pretrained(tmp_path / "moved"), clip)
    loaded = AutoProcessor.from_pretrained(tmp_path / "moved")
    check_same(processor, loaded, clip)
    state = loaded.audio_tokenizer.state_dict()
    assert all(torch.equal(state[name], value) for name, value in speech_codec.state_dict().items())

    loaded.save_pretrained(tmp_path / "light")
    assert not (tmp_path / "light" / "audio_tokenizer").exists()
    assert json.loads((tmp_path / "light" / "processor_config.json").read_text())["audio_tokenizer_path"].endswith(
        "moved/audio_tokenizer"
    )
    check_same(processor, AutoProcessor.from_pretrained(tmp_path / "light"), clip)
    assert not hasattr(MiMoAudioProcessor.from_pretrained(tmp_path / "light", audio_tokenizer=None), "audio_tokenizer")
    loaded.save_pretrained(tmp_path / "own", save_audio_tokenizer=True)
    (tmp_path / "moved").rename(tmp_path / "gone")
    check_same(processor, AutoProcessor.from_pretrained(tmp_path / "own"), clip)
    with pytest.raises(OSError, match="Give it as `audio_tokenizer=`"):
        MiMoAudioProcessor.from_pretrained(tmp_path / "light")
    given = MiMoAudioProcessor.from_pretrained(tmp_path / "light", audio_tokenizer=speech_codec)
    assert given.audio_tokenizer is speech_codec


def test_a_template_of_ones_own_is_saved_too(speech_processor, tmp_path):
    processor = speech_processor(codec=False, chat_template="{% for m in messages %}{{ m.role }}{% endfor %}")
    processor.save_pretrained(tmp_path)
    loaded = MiMoAudioProcessor.from_pretrained(tmp_path)
    assert loaded.apply_chat_template([user("Hi")], tokenize=False) == "user"


def test_saving_copies_no_weights_of_the_codec(speech_processor, speech_codec, monkeypatch):
    processor = speech_processor()
    monkeypatch.setattr(type(speech_codec), "__deepcopy__", lambda *_: pytest.fail("copied"), raising=False)
    assert "MiMoAudioProcessor" in repr(processor)
