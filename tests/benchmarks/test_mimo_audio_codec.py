"""benchmarks/mimo_audio_codec.py: what is counted, against loops; ears are made up, since the real ones are an extra."""

import json
import math

import numpy as np
import pytest
import torch

from mimo_hf.data.speech import ASTERISK, POCKETSPHINX


@pytest.fixture(scope="module")
def bench():
    import mimo_audio_codec

    return mimo_audio_codec


@pytest.fixture(scope="module")
def ears():
    """They hear one word more in what is loud, a voice by its loudness, and speech in the first half."""
    import _audio_ears

    def voice(samples):
        angle = float(np.abs(samples).mean())
        return np.array([math.cos(angle), math.sin(angle)], dtype=np.float32)

    return _audio_ears.Ears(
        words=lambda samples: "one two" if np.abs(samples).max() > 0.1 else "one",
        voice=voice,
        speech=lambda samples: [(0, len(samples) // 2)],
    )


@pytest.fixture(scope="module")
def codec(bench):
    from _audio_speaking import make_codec

    return make_codec(
        d_model=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, encoder_skip_layer_id=1, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=32, vocoder_dim=32, vocoder_num_layers=1, vocoder_attention_heads=2,
        vocoder_intermediate_dim=32, num_quantizers=3, codebook_size=[8],
    )  # fmt: skip


def test_rates_are_of_all_words_and_intervals_hold_them(bench):
    counts = np.array([[1, 4, 2, 10], [0, 3, 0, 9], [5, 5, 12, 12], [2, 6, 1, 20]])
    values = {"similarity": np.array([0.5, 0.7, np.nan, 0.9])}
    row = bench.summary(counts, values, seed=0)
    assert (row["clips"], row["words"]) == (4, 18)
    assert row["word_error_rate"] == pytest.approx(8 / 18)
    assert row["character_error_rate"] == pytest.approx(15 / 51)
    assert row["similarity"] == pytest.approx(0.7)
    low, high = row["word_error_rate_range"]
    assert 0 <= low < 8 / 18 < high <= 1
    low, high = row["similarity_range"]
    assert 0.5 <= low < 0.7 < high <= 0.9
    assert bench.summary(counts, values, seed=0) == row
    silent = bench.summary(counts, {"speech_added": np.full(4, np.nan)}, seed=0)
    assert (silent["speech_added"], silent["speech_added_range"]) == (None, None)


def test_words_that_are_wrong_are_those_of_the_edit_distance(bench):
    assert bench.mistakes("press it then the pound key", "press at the pound key now")[:2] == [3, 6]
    assert bench.mistakes("go on", "go in") == [1, 2, 1, 5]
    assert bench.mistakes("go", "go") == [0, 1, 0, 2]
    assert bench.mistakes("go", "")[:2] == [1, 1]


def test_shares_of_speech_are_counted_sample_by_sample(bench):
    ramp = torch.linspace(-0.5, 0.5, 4800)
    clip = bench.Clip("prompts", "her", "one", ramp)
    first = bench.Heard("", np.array([1.0, 0.0]), np.arange(100) < 60)
    second = bench.Heard("", np.array([0.6, 0.8]), (np.arange(100) >= 40) & (np.arange(100) < 80))
    found = bench.compare(clip, first, ramp, second)
    assert found["similarity"] == pytest.approx(0.6)
    assert found["speech_kept"] == pytest.approx(20 / 60)
    assert found["speech_added"] == pytest.approx(20 / 40)
    assert (found["mel_error"], found["log_mel_error"]) == (0, 0)
    silent = bench.Heard("", np.zeros(2), np.zeros(100, dtype=bool))
    assert math.isnan(bench.compare(clip, silent, ramp, second)["speech_kept"])


def test_two_recordings_of_one_voice_are_told_from_two_voices(bench):
    clips = [bench.Clip("prompts", who, "", torch.zeros(1)) for who in ("a", "a", "b")]
    vectors = [np.array([1.0, 0.0]), np.array([0.8, 0.6]), np.array([0.0, 1.0])]
    found = bench.references(clips, vectors)
    assert found["one voice, prompts"]["similarity"] == pytest.approx(0.8)
    assert found["two voices"]["similarity"] == pytest.approx(0.3)
    assert found["two voices"]["pairs"] == 2


def test_reconstructions_are_as_long_as_the_recording_and_bits_are_counted(bench, codec):
    samples = torch.sin(torch.arange(5000) / 20)
    assert len(bench.through(codec, samples, 2)) == 5000
    assert bench.bits_a_second(codec, 2) == pytest.approx(2 * 3 * 25)


@pytest.mark.needs(str(ASTERISK), str(POCKETSPHINX), "espeak-ng")
def test_the_small_form_hears_each_way_and_writes_nothing(bench, codec, ears, tmp_path, monkeypatch):
    folder, plot = tmp_path / "codec", tmp_path / "codec.svg"
    codec.save_pretrained(folder)
    monkeypatch.setattr(bench, "record", None)
    found = bench.main(["--small", "--codec", str(folder), "--plot", str(plot)], ears)
    ways = {(row["what"], row["codebooks"]) for row in found["rows"]}
    assert ways == {("recording", None), ("codec", 1), ("codec", 2), ("codec", 3), ("untrained", 3)}
    assert {row["source"] for row in found["rows"]} == {"all", "recorded", "prompts", "other voices", "synthesiser"}
    whole = next(row for row in found["rows"] if (row["what"], row["source"]) == ("codec", "all"))
    assert whole["clips"] == 8
    assert whole["speech_kept"] == 1
    assert [row["codebooks"] for row in found["error_by_codebooks"]] == [1, 2, 3]
    assert plot.read_text().startswith("<?xml")
    json.dumps(found)


def test_a_folder_without_a_codec_and_missing_ears_are_named(bench, tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        bench.main(["--codec", str(tmp_path)])
    assert "`--codec` must be the folder of a codec, with config.json" in capsys.readouterr().err

    import _audio_ears

    monkeypatch.setitem(__import__("sys").modules, "faster_whisper", None)
    with pytest.raises(ImportError, match=r"pip install 'mimo-hf\[audio-eval\]'"):
        _audio_ears.real_ears()
