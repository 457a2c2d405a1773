"""Going on with a clip: `processor.continuation`, the preset, and `mimo-hf audio continue`."""

import numpy as np
import pytest
import soundfile
import torch

from mimo_hf.cli import main
from mimo_hf.modeling.mimo_audio import MiMoAudioProcessor, layout_audio

RATE = 24_000


def codes(patches, seed=0):
    return torch.randint(0, 4, (2 * patches, 3), generator=torch.Generator().manual_seed(seed))


def test_a_clip_is_left_open(speech_processor):
    processor = speech_processor(codec=False)
    one, two = codes(3), codes(5, seed=1)
    batch = processor.continuation([one, {"codes": two}])
    sosp, eosp, empty = (processor.token_ids[f"{name}_token_id"] for name in ("sosp", "eosp", "empty"))
    assert batch["input_ids"].tolist() == [[processor.pad_token_id] * 2 + [sosp] + [empty] * 3, [sosp] + [empty] * 5]
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1], [1] * 6]
    assert batch["audio_codes"][0, 3:].flatten(0, 1).tolist() == one.tolist()
    assert batch["audio_codes"][1, 1:].flatten(0, 1).tolist() == two.tolist()
    assert batch["audio_codes"][0, 2].tolist() == [processor.speech_zero_ids] * 2
    whole, _ = layout_audio(one, processor._layout)
    assert whole.tolist() == [*batch["input_ids"][0, 2:].tolist(), eosp]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (codes(3)[:-1], "whole patches of 2 frames"),
        (codes(3) + 9, "must be codes of 0 to"),
        (codes(2000), "`max_length=2000` positions; got 2001 in row 0"),
        (torch.zeros(400), "without its codec"),
    ],
)
def test_what_is_no_clip_is_refused(speech_processor, given, said):
    with pytest.raises(ValueError, match=said):
        speech_processor(codec=False).continuation(given)


def test_it_ends_where_the_clip_would(official, tmp_path, capsys):
    """The model's `<|eosp|>` ends it, and what was written before that is given out."""
    folder = converted(official, tmp_path, capsys)
    model, processor = loaded(folder)
    with torch.no_grad():  # <|empty|> three times, then <|eosp|>
        model.lm_head.weight.zero_()
    inputs = processor.continuation(codes(3))
    wanted = [model.config.empty_token_id] * 3 + [model.config.eosp_token_id]
    places = iter(wanted)
    heads = model.lm_head.register_forward_hook(
        lambda _, __, logits: logits.index_fill(-1, torch.tensor(next(places)), 9.0)
    )
    output = model.generate(**inputs, **model.generation_presets["continuation"], max_new_tokens=20)
    heads.remove()
    assert output.sequences[0, 4:].tolist() == wanted
    (answer,) = processor.parse_response(output)
    assert answer["text"] == ""
    assert answer["audio_codes"].tolist() == output.audio_codes[0, 4:7].flatten(0, 1).tolist()


def test_a_recording_is_gone_on_with(official, tmp_path, capsys):
    folder = converted(official, tmp_path, capsys)
    samples = 0.3 * np.sin(np.arange(16_000) * 0.05)
    soundfile.write(tmp_path / "begun.wav", samples, 16_000)
    arguments = ["--max-new-tokens", "7", "--seed", "4"]
    whole, more = tmp_path / "whole.wav", tmp_path / "more.wav"
    model, _processor = loaded(folder)
    spoken = {model.config.empty_token_id, model.config.eosp_token_id}
    model.generation_config.suppress_tokens = [
        token for token in range(model.config.vocab_size) if token not in spoken
    ]
    model.generation_config.min_new_tokens = 3  # a random model may end at once
    model.generation_config.save_pretrained(folder)
    code, said, err = run(capsys, "audio", "continue", "--model", folder, tmp_path / "begun.wav", whole, *arguments)
    assert code == 0, err
    assert said.startswith(f"{whole}: ")
    assert (
        run(capsys, "audio", "continue", "--model", folder, tmp_path / "begun.wav", more, *arguments, "--only-new")[0]
        == 0
    )
    begun = -(-25 // 2) * 2 * 960  # 1 s, in whole patches
    assert soundfile.info(whole).samplerate == soundfile.info(more).samplerate == RATE
    assert soundfile.info(whole).frames == begun + soundfile.info(more).frames > begun
    # What was heard comes first: the beginning is nearer to the recording's own codes than to what comes after it.
    again, codes = tmp_path / "again.wav", tmp_path / "begun.safetensors"
    assert run(capsys, "audio", "encode", "--model", folder, tmp_path / "begun.wav", codes)[0] == 0
    assert run(capsys, "audio", "decode", "--model", folder, codes, again)[0] == 0
    sound, own, new = (soundfile.read(file)[0][: 12 * 960] for file in (whole, again, more))
    assert np.abs(sound - own).mean() < np.abs(sound[: len(new)] - new).mean()


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def converted(official, tmp_path, capsys):
    lm, codec, _ = official
    assert run(capsys, "audio", "convert", lm, codec, tmp_path / "one")[0] == 0
    return tmp_path / "one"


def loaded(folder):
    from mimo_hf.modeling.mimo_audio import MiMoAudioForConditionalGeneration

    return MiMoAudioForConditionalGeneration.from_pretrained(folder), MiMoAudioProcessor.from_pretrained(folder)


def test_a_recording_after_which_nothing_is_said_is_named(official, tmp_path, capsys):
    folder = converted(official, tmp_path, capsys)
    model, _ = loaded(folder)
    ends = model.config.eosp_token_id
    model.generation_config.suppress_tokens = [token for token in range(model.config.vocab_size) if token != ends]
    model.generation_config.save_pretrained(folder)
    soundfile.write(tmp_path / "begun.wav", np.zeros(4000), 16_000)
    out = tmp_path / "whole.wav"
    code, _, err = run(capsys, "audio", "continue", "--model", folder, tmp_path / "begun.wav", out)
    assert code != 0
    assert "after which the model says no more" in err
    assert not out.exists()
