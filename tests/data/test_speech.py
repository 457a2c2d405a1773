"""Speech without a download: recordings, a synthesiser, and audio columns that soundfile decodes."""

import io
import pickle
import wave

import numpy as np
import pytest
from datasets import Audio, Dataset

from mimo_hf.data import asterisk_prompts, espeak_speech, pocketsphinx_clips, with_decoded_audio
from mimo_hf.data.speech import ASTERISK, POCKETSPHINX, asterisk_transcripts


def tone(samples=800, rate=16_000, channels=1):
    """A file of 16-bit samples, as bytes, and its samples."""
    values = np.round(8000 * np.sin(np.arange(samples * channels) / 9)).astype("<i2")
    stored = io.BytesIO()
    with wave.open(stored, "wb") as file:
        file.setparams((channels, 2, rate, samples, "NONE", ""))
        file.writeframes(values.tobytes())
    return stored.getvalue(), values.reshape(samples, channels)


@pytest.mark.needs(str(ASTERISK))
def test_all_prompts_are_decoded_and_have_a_transcription():
    prompts = asterisk_prompts()
    assert len(prompts) == 551
    assert all(prompts["text"])
    row = prompts[prompts["name"].index("digits/h-3")]
    assert row["text"] == "third"
    audio = row["audio"]
    assert audio["sampling_rate"] == 16_000
    assert audio["array"].dtype == np.float32
    # a byte of G.722 is two samples
    assert len(audio["array"]) == 2 * (ASTERISK / "digits" / "h-3.g722").stat().st_size
    assert 0.03 < np.sqrt(np.mean(audio["array"] ** 2)) < 0.5


@pytest.mark.needs(str(ASTERISK))
def test_each_recording_is_known_and_silence_is_quiet():
    everything = asterisk_prompts(include_wordless=True)
    found = {path.relative_to(ASTERISK).with_suffix("").as_posix() for path in ASTERISK.rglob("*.g722")}
    assert set(everything["name"]) == found == set(asterisk_transcripts())
    quiet = [row for row in everything if row["name"].startswith("silence/")]
    assert len(quiet) == 10
    for row in quiet:
        assert row["text"] == ""
        assert np.abs(row["audio"]["array"]).max() < 0.01
    hours = sum(len(audio["array"]) for audio in everything["audio"]) / 16_000 / 3600
    assert hours == pytest.approx(0.43, abs=0.01)


def test_transcriptions_are_plain_words():
    texts = asterisk_transcripts()
    assert len(texts) == 568
    letters = {letter for text in texts.values() for letter in text}
    assert letters <= set("abcdefghijklmnopqrstuvwxyz' ")
    assert list(texts) == sorted(texts)


@pytest.mark.needs(str(POCKETSPHINX))
def test_clips_have_the_words_beside_them():
    clips = pocketsphinx_clips()
    assert len(clips) == 11
    texts = dict(zip(clips["name"], clips["text"], strict=True))
    assert texts["cards/001"] == "ten of clubs"
    assert texts["librivox/sense_and_sensibility_01_austen_64kb-0880"] == "he was not an ill disposed young man"
    for row in clips:
        seconds = len(row["audio"]["array"]) / row["audio"]["sampling_rate"]
        assert 0.05 < seconds / len(row["text"].split()) < 2, row["name"]


def test_absent_recordings_name_their_package(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"`folder` must hold `\.g722` files; got .*asterisk-core-sounds-en-g722"
    ):
        asterisk_prompts(tmp_path)
    (tmp_path / "other.g722").write_bytes(bytes(80))
    with pytest.raises(ValueError, match=r"`folder` must hold Asterisk's English prompts.*with other.g722"):
        asterisk_prompts(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`folder` must hold `librivox`; got .*pocketsphinx-testdata"):
        pocketsphinx_clips(tmp_path)


@pytest.mark.needs("espeak-ng")
def test_sentences_are_read_by_each_voice_at_each_speed():
    said = espeak_speech(
        ["Go forward ten meters.", "<break/> stop"], voices=("en-us", "en-gb+f3"), words_per_minute=(120, 240)
    )
    assert len(said) == 8
    assert set(said["speaker"]) == {"en-us at 120", "en-us at 240", "en-gb+f3 at 120", "en-gb+f3 at 240"}
    lengths = [len(audio["array"]) for audio in said["audio"]]
    assert lengths[0] > 1.5 * lengths[2]
    assert {audio["sampling_rate"] for audio in said["audio"]} == {22_050}
    assert max(lengths) / 22_050 < 10


@pytest.mark.needs("espeak-ng")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sentences": "hello"}, r"`sentences` must be a list of texts with words in them; got 'hello'"),
        ({"sentences": ["hello", " "]}, r"`sentences` must be a list"),
        ({"sentences": []}, r"`sentences` must be a list"),
        ({"voices": ()}, r"`voices` must be a list with at least one; got \(\)"),
        ({"voices": "en-us"}, r"`voices` must be a list with at least one; got 'en-us'"),
        ({"words_per_minute": []}, r"`words_per_minute` must be a list with at least one; got \[\]"),
        ({"sentences": ["..."]}, r"`sentences` must have words that 'en-us' can say; got '\.\.\.'"),
        ({"voices": ("xx-none",)}, r"`voices` must be known to espeak-ng; got 'xx-none'.*lists them"),
        ({"words_per_minute": (20,)}, r"`words_per_minute` must be from 80 to 450; got 20"),
    ],
)
def test_what_cannot_be_read_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        espeak_speech(**({"sentences": ["hello"]} | arguments))


@pytest.mark.parametrize("kind", ["Audio", "bytes", "paths"])
def test_audio_columns_are_read_by_soundfile(kind, tmp_path):
    files = [tone(samples, channels=channels) for samples, channels in ((800, 1), (300, 2))]
    paths = []
    for index, (stored, _) in enumerate(files):
        paths.append(str(tmp_path / f"{index}.wav"))
        (tmp_path / f"{index}.wav").write_bytes(stored)
    cells = paths if kind != "bytes" else [{"bytes": stored, "path": None} for stored, _ in files]
    dataset = Dataset.from_dict({"audio": cells, "text": ["one", "two"]})
    if kind == "Audio":
        dataset = dataset.cast_column("audio", Audio(decode=False)).cast_column("audio", Audio())
    dataset = with_decoded_audio(dataset)
    for row, (_, values) in zip(dataset, files, strict=True):
        assert row["audio"]["sampling_rate"] == 16_000
        np.testing.assert_array_equal(row["audio"]["array"], np.squeeze(values).astype(np.float32) / 32_768)
    assert dataset["text"][:] == ["one", "two"]
    with pytest.raises(ValueError, match=r"`column` must be one of \['audio', 'text'\]; got 'sound'"):
        with_decoded_audio(dataset, "sound")


def test_the_same_column_has_the_same_fingerprint_and_goes_to_other_processes():
    """A transform that can't be hashed is warned of, and nothing made from it is cached."""
    from datasets import Dataset
    from datasets.fingerprint import Hasher

    rows = Dataset.from_dict({"audio": ["a.wav"]})
    one, other = (with_decoded_audio(rows).format["format_kwargs"]["transform"] for _ in range(2))
    assert Hasher.hash(one) == Hasher.hash(other)
    assert pickle.loads(pickle.dumps(one)) == one
