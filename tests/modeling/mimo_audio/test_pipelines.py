"""transformers' pipelines on a tiny folder."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor, pipeline
from transformers.pipelines.text_to_audio import TextToAudioPipeline

import mimo_hf
from mimo_hf.modeling.mimo_audio import MiMoAudioForConditionalGeneration

SAMPLING = {"do_sample": False, "audio_do_sample": False, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, byte_tokenizer, speech_lm, speech_codec):
    from mimo_hf.modeling.mimo_audio import MiMoAudioFeatureExtractor, MiMoAudioProcessor

    mimo_hf.register()
    path = tmp_path_factory.mktemp("speech")
    sizes = {"group_size": 2, "audio_channels": 3, "speech_vocab_size": "7-7-5", "max_length": 250}
    processor = MiMoAudioProcessor(MiMoAudioFeatureExtractor(feature_size=16), byte_tokenizer(), speech_codec, **sizes)
    processor.save_pretrained(path)
    model = speech_lm(vocab_size=300, **processor.token_ids)
    model.save_pretrained(path)
    return path


def spoken(folder, chat, task):
    """The same without a pipeline."""
    model, processor = AutoModelForMultimodalLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    assert type(model) is MiMoAudioForConditionalGeneration
    inputs = processor.apply_chat_template(chat, task=task)
    with torch.no_grad():
        output = model.generate(**inputs, **(model.generation_presets[task] | SAMPLING))
    (answer,) = processor.parse_response(output)
    return processor.decode_audio(answer["audio_codes"]).numpy(), answer


def test_text_to_audio_speaks_a_text_and_answers_a_chat(folder):
    speak = pipeline("text-to-audio", model=str(folder))
    expected, _ = spoken(folder, [{"role": "user", "content": "Hello."}], "tts")
    found = speak("Hello.", generate_kwargs=dict(SAMPLING))
    assert found["sampling_rate"] == 24_000
    assert len(expected) > 0
    np.testing.assert_allclose(found["audio"], expected, atol=1e-5)
    chat = [{"role": "user", "content": [{"type": "audio", "codes": [[1, 2, 3], [2, 1, 0]]}]}]
    expected, _ = spoken(folder, chat, "spoken_dialogue")
    np.testing.assert_allclose(speak(chat, generate_kwargs=dict(SAMPLING))["audio"], expected, atol=1e-5)
    both = speak(["Hello.", "No."], generate_kwargs=dict(SAMPLING))
    assert len(both) == 2


def test_any_to_any_gives_audio_and_text(folder):
    answer = pipeline("any-to-any", model=str(folder))
    chat = [{"role": "user", "content": [{"type": "text", "text": "Hello."}]}]
    found = answer(text=chat, generation_mode="audio", task="spoken_dialogue", generate_kwargs=dict(SAMPLING))
    expected, _ = spoken(folder, chat, "spoken_dialogue")
    assert found[0]["input_text"] == chat
    np.testing.assert_allclose(found[0]["generated_audio"], expected, atol=1e-5)
    texts = answer(text=chat, return_full_text=False, generate_kwargs=dict(SAMPLING))
    model, processor = AutoModelForMultimodalLM.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    inputs = processor.apply_chat_template(chat)
    output = model.generate(**inputs, **SAMPLING)
    assert texts[0]["generated_text"] == processor.decode(output.sequences[0, output.prompt_length :])


def test_a_folder_without_a_codec_is_refused(folder, tmp_path):
    AutoModelForMultimodalLM.from_pretrained(folder).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(folder, audio_tokenizer=None).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`processor` must be a MiMoAudioProcessor with its codec"):
        pipeline("text-to-audio", model=str(tmp_path))("Hello.")


def test_other_models_go_through_the_pipeline_of_transformers(folder, monkeypatch):
    from mimo_hf.modeling.mimo_audio.pipelines import SpeechTextToAudioPipeline

    made = pipeline("text-to-audio", model=str(folder))
    assert type(made) is SpeechTextToAudioPipeline
    monkeypatch.setattr(made, "model", torch.nn.Linear(1, 1))
    for name in ("preprocess", "_forward"):
        monkeypatch.setattr(TextToAudioPipeline, name, lambda self, *args, given=name, **kwargs: given)
    assert made.preprocess("Hello.") == "preprocess"
    assert made._forward({}, forward_params={}, generate_kwargs={}) == "_forward"
