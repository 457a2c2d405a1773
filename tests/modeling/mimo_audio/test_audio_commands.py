"""`mimo-hf audio ...` on tiny checkpoints: the same numbers as the classes give, and files that others read."""

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from mimo_hf import cli
from mimo_hf.modeling.mimo_audio import MiMoAudioForConditionalGeneration, MiMoAudioTokenizerModel, resample_to_mono


@pytest.fixture(scope="module")
def codec_folder(speech_codec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("codec")
    speech_codec.save_pretrained(folder)
    return folder


@pytest.fixture
def recording(tmp_path):
    """Half a second of stereo at 16 kHz."""
    samples = np.random.default_rng(0).normal(scale=0.1, size=(8000, 2))
    soundfile.write(tmp_path / "in.wav", samples, 16_000, subtype="FLOAT")
    return tmp_path / "in.wav", torch.tensor(samples.T, dtype=torch.float32)


def run(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_codes_and_sound_are_those_of_the_codec(codec_folder, recording, tmp_path, capsys):
    path, samples = recording
    codes, sound = tmp_path / "codes.safetensors", tmp_path / "out.wav"
    arguments = ["--quantizers", 3, "--plot", tmp_path / "picture.svg"]
    code, out, _ = run(capsys, "audio", "encode", "--model", codec_folder, path, codes, *arguments)
    assert code == 0
    assert "3 codebooks, 13 frames of 0.50 s" in out
    codec = MiMoAudioTokenizerModel.from_pretrained(codec_folder).eval()
    mono = resample_to_mono(samples, 16_000)
    expected = codec.encode(input_values=mono[None], num_quantizers=3).audio_codes[0]
    assert torch.equal(load_file(codes)["audio_codes"], expected.int())
    assert "Codes" in (tmp_path / "picture.svg").read_text()

    code, out, _ = run(capsys, "audio", "decode", "--model", codec_folder, codes, sound)
    assert code == 0
    assert "0.50 s at 24000 Hz" in out
    heard, rate = soundfile.read(sound)
    assert (len(heard), rate) == (12_000, 24_000)
    audio = codec.decode(expected[None]).audio_values[0, 0, :12_000].detach().double().numpy()
    np.testing.assert_allclose(heard, np.clip(np.round(audio * 32_768), -32_768, 32_767) / 32_768, atol=2 / 32_768)


def test_without_a_model_the_bundled_one_is_taken_and_a_folder_of_mimo_audio_has_a_codec(recording, tmp_path, capsys):
    from mimo_hf.hub.checkpoints import bundled

    path, samples = recording
    folder = bundled("mimo-audio")
    made = []
    for number, model in enumerate(((), ("--model", folder), ("--model", folder / "audio_tokenizer"))):
        codes = tmp_path / f"{number}.safetensors"
        assert run(capsys, "audio", "encode", *model, path, codes)[0] == 0
        made.append(load_file(codes)["audio_codes"])
    codec = MiMoAudioTokenizerModel.from_pretrained(folder / "audio_tokenizer").eval()
    expected = codec.encode(input_values=resample_to_mono(samples, 16_000)[None]).audio_codes[0]
    assert all(torch.equal(codes, expected.int()) for codes in made)
    code, out, err = run(capsys, "audio", "transcribe", path, "--max-new-tokens", 3)
    assert code == 0, err
    assert out == run(capsys, "audio", "transcribe", "--model", folder, path, "--max-new-tokens", 3)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("encode", "{wav}", "{folder}/x.wav"), "must end in .safetensors"),
        (("encode", "{wav}", "{folder}/x.safetensors", "--quantizers", "9"), "--quantizers must be at most 4"),
        (("encode", "{text}", "{folder}/x.safetensors"), "must be a file of audio that soundfile reads"),
        (("decode", "{text}", "{folder}/x.wav"), "must be a file of `audio encode`"),
        (("decode", "{codes}", "{folder}/x.mp3"), "must end in .wav or .flac or .ogg"),
        (("decode", "{codes}", "{folder}/x.wav"), "got 99"),
        (("decode", "{folder}/none", "{folder}/x.wav"), "does not exist"),
    ],
)
def test_what_is_no_input_is_named(codec_folder, recording, tmp_path, capsys, arguments, said):
    (tmp_path / "text.txt").write_text("no sound")
    save_file({"audio_codes": torch.full((3, 4), 99)}, tmp_path / "codes.safetensors")
    names = {
        "wav": recording[0],
        "folder": tmp_path,
        "text": tmp_path / "text.txt",
        "codes": tmp_path / "codes.safetensors",
    }
    command, *rest = (argument.format(**names) for argument in arguments)
    code, _, err = run(capsys, "audio", command, "--model", codec_folder, *rest)
    assert code != 0
    assert said in err
    assert not list(tmp_path.glob("x.*"))


def test_a_folder_of_another_model_is_named(recording, tmp_path, capsys):
    code, _, err = run(capsys, "audio", "encode", "--model", tmp_path, recording[0], tmp_path / "x.safetensors")
    assert code != 0
    assert "--model must be a folder or a model of the Hub of MiMo-Audio" in err


def test_a_folder_of_another_type_is_refused_before_a_model_of_defaults_is_made(
    official, codec_folder, recording, tmp_path, capsys, monkeypatch
):
    def made(*_, **__):
        raise AssertionError("a model was made")

    monkeypatch.setattr(MiMoAudioTokenizerModel, "__init__", made)
    monkeypatch.setattr(MiMoAudioForConditionalGeneration, "__init__", made)
    calls = {
        ("transcribe", codec_folder): "says 'mimo_audio_tokenizer', not 'mimo_audio'.",
        ("transcribe", official[0]): "says 'qwen2', not 'mimo_audio'. Convert the official folders",
        ("encode", official[0]): "says 'qwen2', not 'mimo_audio_tokenizer'.",
    }
    for (command, folder), said in calls.items():
        out = tmp_path / "x.safetensors"
        code, _, err = run(capsys, "audio", command, "--model", folder, recording[0], out)
        assert code != 0
        assert said in err
        assert not out.exists()


def test_one_codebook_is_drawn(codec_folder, recording, tmp_path, capsys):
    arguments = ["--quantizers", 1, "--plot", tmp_path / "x.png"]
    code, _, err = run(
        capsys, "audio", "encode", "--model", codec_folder, recording[0], tmp_path / "x.safetensors", *arguments
    )
    assert code == 0, err
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_official_folders_transcribe_and_speak(official, recording, tmp_path, capsys):
    lm, codec, _ = official
    folder = tmp_path / "one"
    assert run(capsys, "audio", "convert", lm, codec, folder)[0] == 0
    code, out, err = run(capsys, "audio", "transcribe", "--model", folder, recording[0], "--max-new-tokens", 4)
    assert code == 0, err
    code, _, _ = run(
        capsys, "audio", "transcribe", "--model", folder, recording[0], tmp_path / "said.txt", "--max-new-tokens", 4
    )
    assert code == 0
    assert (tmp_path / "said.txt").read_text() == out
    spoken = {}
    for seed in (1, 1, 2, 3):
        arguments = ["--seed", seed, "--max-new-tokens", 12]
        code, out, err = run(capsys, "audio", "speak", "--model", folder, "Hello.", tmp_path / "x.wav", *arguments)
        assert code == 0 or "Try another --seed" in err
        heard = (tmp_path / "x.wav").read_bytes() if code == 0 else b""
        assert spoken.setdefault(seed, heard) == heard  # the same seed, the same speech
    assert len(set(spoken.values())) > 1
