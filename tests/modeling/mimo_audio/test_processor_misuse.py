"""What the processor refuses, and audio files."""

import re
import struct
import sys
import wave
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mimo_hf.modeling.mimo_audio import MiMoAudioFeatureExtractor, MiMoAudioProcessor

PLACE = "<|sosp|><|empty|><|eosp|>"
CODES = torch.zeros(4, 3, dtype=torch.long)
NOISE = torch.randn(2_000, generator=torch.Generator().manual_seed(0)) * 0.1


def with_code(value, channel):
    codes = CODES.clone()
    codes[1, channel] = value
    return codes


@pytest.mark.parametrize(
    ("text", "audio", "options", "says"),
    [
        (PLACE, None, {}, "`audio` must have a clip for each of the 1 places in `text`; got 0"),
        (PLACE, [CODES, CODES], {}, "`audio` must have a clip for each of the 1 places in `text`; got 2"),
        (
            ["Hi", PLACE],
            [[CODES], []],
            {},
            r"`audio\[0\]` must have a clip for each of the 0 places in its text; got 1",
        ),
        ("a <|empty|> b", CODES, {}, r"`text` must have '<\|empty\|>' once a clip"),
        ("<|sosp|><|empty|><|empty|><|eosp|>", CODES, {}, "once a clip"),
        ("", None, {}, "`text` must not be empty"),
        (None, CODES, {}, "`text` must be given"),
        (
            PLACE,
            torch.zeros(3, 3, dtype=torch.long),
            {},
            "`audio` must have whole patches of 2 frames, .* got 3 frames",
        ),
        (PLACE, CODES[:0], {}, "at least one; got 0 frames"),
        (PLACE, [CODES[:, :2]], {}, r"`audio\[0\]` must be codes \[frames, 3\], .* got the shape \[4, 2\]"),
        (PLACE, [CODES.T], {}, r"got the shape \[3, 4\]"),
        (PLACE, with_code(6, 0), {}, "`audio` must be codes of 0 to 5 in channel 0; got 6 in frame 1"),
        (PLACE, with_code(-1, 2), {}, "0 to 3 in channel 2; got -1 in frame 1"),
        (PLACE, torch.zeros(0), {}, "`audio` must have at least one sample"),
        (PLACE, [torch.tensor([0.0, float("nan")])], {}, "`audio` must be finite; got nan at sample 1"),
        (PLACE, [torch.zeros(2, 50)], {}, "must have one channel"),
        (PLACE, [NOISE], {"sampling_rate": 16_000}, "`sampling_rate` must be 24000 for a waveform; got 16000"),
        (PLACE, [torch.zeros(24_000 * 161)], {}, "must be at most 160 s, which fill the model's context; got 161 s"),
        ("x" * 2_001, None, {}, "must fit into the context of `max_length=2000` positions; got 2001 in row 0"),
        ("x", None, {"images": 3}, "`images` and `videos` must not be given"),
        ("x", None, {"truncation": True}, "`truncation` must not be given"),
        ("x", None, {"padding": "max_length"}, "`padding` must be True"),
        (["x", "yy"], None, {"padding": False}, r"`padding` must be True for rows of \[1, 2\] positions"),
        ("x", None, {"padding_side": "up"}, "`padding_side` must be 'left' or 'right'; got 'up'"),
        (PLACE, [{"path": "a", "codes": CODES}], {}, "must have one of 'path', 'array' and 'codes'"),
        (PLACE, [{"codes": [[0.5]]}], {}, "must be whole numbers"),
    ],
)
def test_prompts_and_clips_that_do_not_fit_are_refused(speech_processor, text, audio, options, says):
    with pytest.raises(ValueError, match=says):
        speech_processor()(text, audio, return_tensors="pt", **options)


def user(*content, **more):
    return {"role": "user", "content": list(content)} | more


AUDIO = {"type": "audio", "codes": CODES}
TEXT = {"type": "text", "text": "Hi"}
ANSWER = {"role": "assistant", "content": "Yo"}


@pytest.mark.parametrize(
    ("chat", "options", "says"),
    [
        ([user(TEXT)], {"task": "sing"}, "`task` must be one of asr, .* got 'sing'"),
        ([user(TEXT)], {"task": "asr"}, "`conversation` must have audio in each message of the user for task 'asr'"),
        ([user(AUDIO, TEXT)], {"task": "tts"}, "must have text in each message of the user for task 'tts'"),
        ([ANSWER], {"task": "tts"}, "must have a message of the user"),
        ([user({"type": "text", "text": " "})], {"task": "tts"}, "must have a text to speak"),
        ([user(AUDIO)], {"task": "asr", "thinking": True}, "`thinking` must be False for task 'asr'"),
        ([user({"type": "image"})], {}, r"`conversation\[0\]\['content'\]\[0\]` must have the type 'text' or 'audio'"),
        ([user()], {}, "must be a text or a list of parts"),
        ([user({"type": "text", "text": "a<|eosp|>"})], {}, "must be text without markers of audio; got '<|eosp|>'"),
        ([user({"type": "text"})], {}, "must be a text; got None"),
        ([user({"type": "audio"})], {}, "must have one of 'path', 'array' and 'codes'"),
        ([{"role": "tool", "content": "a"}], {}, r"`conversation\[0\]\['role'\]` must be user or assistant"),
        ([user(TEXT), {"role": "system", "content": "a"}], {}, "or system in the first message"),
        ([], {}, "`conversation` must be a list of messages"),
        ([{"role": "system", "content": "a"}, ANSWER], {"task": "spoken_dialogue"}, "behind that of the system"),
        ([user(TEXT), {"role": "assistant", "content": [AUDIO, AUDIO]}], {}, "must have one clip"),
        (
            [user(TEXT)],
            {"output_labels": True},
            "`output_labels` must go with conversations that end with .* ends with user",
        ),
        ([user(TEXT)], {"continue_final_message": True}, "`continue_final_message` must go with a last message"),
        ([[user(TEXT)], [user(TEXT), ANSWER]], {}, "`add_generation_prompt` must be given"),
        ([user(AUDIO)], {"return_dict": False}, "`return_dict` must be True for conversations with audio"),
        ([user(TEXT)], {"tools": [1]}, "`tools` must not be given"),
        (
            [user({"type": "audio", "array": NOISE, "sampling_rate": 8_000})],
            {},
            "must be 24000 for a waveform; got 8000",
        ),
    ],
)
def test_conversations_that_do_not_fit_are_refused(speech_processor, chat, options, says):
    with pytest.raises(ValueError, match=says):
        speech_processor(codec=False).apply_chat_template(chat, **options)


def test_examples_that_do_not_fit_are_refused(speech_processor):
    few_shot = speech_processor(codec=False).few_shot
    shot, question = (CODES, "a", CODES), {"question": "a", "answer": "b"}
    with pytest.raises(ValueError, match="`examples` must be all of one kind"):
        few_shot("Go", [shot, question], CODES)
    with pytest.raises(ValueError, match=r"`examples\[0\]` must have the keys input, transcript, output"):
        few_shot("Go", [{"input": CODES}], CODES)
    with pytest.raises(ValueError, match=r"`examples\[0\]\['transcript'\]` must be a text; got int"):
        few_shot("Go", [(CODES, 3, CODES)], CODES)
    with pytest.raises(ValueError, match="`instruction` must be text without markers"):
        few_shot("Go<|eot|>", [shot], CODES)
    with pytest.raises(ValueError, match="`query` must have at least one input"):
        few_shot("Go", [shot], [])


def test_a_processor_without_its_codec_says_so(speech_processor):
    processor = speech_processor(codec=False)
    with pytest.raises(
        ValueError, match=r"`audio_tokenizer` must be given to turn `audio` into codes, .* without its codec"
    ):
        processor(PLACE, NOISE)
    with pytest.raises(ValueError, match="to turn codes into samples"):
        processor.decode_audio(CODES)
    assert processor(PLACE, CODES, return_tensors="pt")["input_ids"].shape == (1, 4)


def test_codecs_and_tokenizers_of_another_kind_are_refused(speech_processor, speech_codec, byte_tokenizer):
    with pytest.raises(TypeError, match="`audio_tokenizer` must be a MiMoAudioTokenizerModel or None; got Linear"):
        MiMoAudioProcessor(MiMoAudioFeatureExtractor(), byte_tokenizer(), torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"must have codebooks of `speech_vocab_size` - 1 .* got \[6, 6, 4\]"):
        speech_processor(speech_vocab_size="7-7-7")
    tokenizer = byte_tokenizer()
    bare = type(tokenizer)(vocab={"a": 0, "<|endoftext|>": 1}, merges=[])
    with pytest.raises(ValueError, match=r"`tokenizer` must have <\|im_start\|> and <\|im_end\|>"):
        MiMoAudioProcessor(MiMoAudioFeatureExtractor(), bare)


def test_outputs_that_hold_no_speech_are_refused(speech_processor):
    processor = speech_processor()
    with pytest.raises(ValueError, match="`generation_mode` must be 'text' or 'audio'; got 'image'"):
        processor.post_process_multimodal_output(torch.zeros(1, 2), generation_mode="image")
    with pytest.raises(ValueError, match="`generated_outputs` must be the whole output of `generate`"):
        processor.post_process_multimodal_output(torch.zeros(1, 2), generation_mode="audio")
    with pytest.raises(ValueError, match=r"`audio_codes` must be \[frames, channels\]"):
        processor.decode_audio(CODES[None])


def as_wav(path, samples, rate, claimed=None):
    """16-bit samples `[frames]` or `[frames, channels]`; `claimed`: bytes that the header says it has."""
    samples = np.asarray(samples, dtype="<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    if claimed:
        data = bytearray(path.read_bytes())
        data[4:8], data[40:44] = struct.pack("<I", claimed), struct.pack("<I", claimed - 36)
        path.write_bytes(bytes(data))


def from_wav(path):
    with wave.open(str(path)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()


def test_files_are_read_at_the_rate_and_with_the_channels_that_the_codec_takes(speech_processor, tmp_path):
    pytest.importorskip("soundfile")
    processor = speech_processor()
    mono = (NOISE.numpy() * 20_000).round()
    as_wav(tmp_path / "mono.wav", mono, 24_000)
    chat = [user({"type": "audio", "path": str(tmp_path / "mono.wav")})]
    read = processor.apply_chat_template(chat)
    given = processor.apply_chat_template([user({"type": "audio", "array": torch.tensor(mono / 32_768).float()})])
    assert all(torch.equal(read[name], given[name]) for name in given)

    as_wav(tmp_path / "both.wav", np.stack([mono, mono], axis=1), 24_000)
    both = processor.encode_audio(tmp_path / "both.wav")
    assert torch.equal(both[0], processor.encode_audio(tmp_path / "mono.wav")[0])
    as_wav(tmp_path / "slow.wav", mono, 8_000)
    assert len(processor.encode_audio(tmp_path / "slow.wav")[0]) == 8  # 250 ms of 40 ms frames, and whole patches
    as_wav(tmp_path / "lies.wav", mono, 24_000, claimed=2**31)
    assert torch.equal(processor.encode_audio(tmp_path / "lies.wav")[0], both[0])


def test_files_that_are_no_audio_are_refused(speech_processor, tmp_path):
    pytest.importorskip("soundfile")
    processor = speech_processor()
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.wav"))):
        processor.encode_audio(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(ValueError, match="must be a file of audio that soundfile reads"):
        processor.encode_audio(tmp_path / "text.wav")
    as_wav(tmp_path / "empty.wav", np.zeros(0), 24_000)
    with pytest.raises(ValueError, match="must have at least one sample; got none"):
        processor.encode_audio(tmp_path / "empty.wav")
    as_wav(tmp_path / "hours.wav", np.zeros(8_000 * 161), 8_000)
    with pytest.raises(ValueError, match=r"hours.wav` must be at most 160 s"):
        processor(PLACE, tmp_path / "hours.wav")


def test_samples_are_rounded_to_the_nearest_step(speech_processor, tmp_path):
    pytest.importorskip("soundfile")
    processor = speech_processor(codec=False)
    steps = np.array([0.4, 0.6, -0.4, -0.6, 1000.49, -32_768.0, 32_767.4, 40_000.0])
    processor.save_audio(torch.tensor(steps / 32_768), tmp_path / "a.wav")
    written, rate = from_wav(tmp_path / "a.wav")
    assert rate == 24_000
    assert written.tolist() == [0, 1, 0, -1, 1000, -32_768, 32_767, 32_767]
    processor.save_audio([NOISE[None], NOISE], [tmp_path / "b.flac", tmp_path / "c.wav"], sampling_rate=16_000)
    assert torch.equal(_read(tmp_path / "b.flac"), _read(tmp_path / "c.wav"))
    assert from_wav(tmp_path / "c.wav")[1] == 16_000


def _read(path):
    from mimo_hf.modeling.mimo_audio.audio_clips import read_audio

    return read_audio(path)


def test_what_can_not_be_written_is_refused(speech_processor, tmp_path):
    save = speech_processor(codec=False).save_audio
    with pytest.raises(ValueError, match=r"`path` must end with \.wav, \.flac or \.ogg; got"):
        save(NOISE, tmp_path / "a.mp3")
    with pytest.raises(ValueError, match=r"`audio` must be `\[samples\]` of one clip"):
        save(torch.zeros(2, 10), tmp_path / "a.wav")
    with pytest.raises(ValueError, match="must have at least one sample"):
        save(NOISE[:0], tmp_path / "a.wav")
    with pytest.raises(ValueError, match="must be finite"):
        save(torch.tensor([float("inf")]), tmp_path / "a.wav")
    with pytest.raises(ValueError, match="`path` must be a list of 2"):
        save([NOISE, NOISE], tmp_path / "a.wav")


def test_without_soundfile_files_are_refused_by_name_and_codes_are_not(speech_processor, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    processor = speech_processor()
    for call in (
        lambda: processor.save_audio(NOISE, tmp_path / "a.wav"),
        lambda: processor.encode_audio(tmp_path / "a.wav"),
    ):
        with pytest.raises(ImportError, match=r"audio files need soundfile: pip install 'mimo-hf\[audio\]'"):
            call()
    assert len(processor.encode_audio(NOISE)[0]) == 4


def test_what_is_written_is_16_bit_whole_numbers(speech_processor, tmp_path, monkeypatch):
    seen = []
    fake = SimpleNamespace(write=lambda path, samples, rate, subtype: seen.append((samples, rate, subtype)))
    monkeypatch.setitem(sys.modules, "soundfile", fake)
    speech_processor(codec=False).save_audio(NOISE, tmp_path / "a.flac")
    ((samples, rate, subtype),) = seen
    assert (samples.dtype, rate, subtype) == (np.dtype("int16"), 24_000, "PCM_16")
    assert samples.tolist() == [int(np.rint(value)) for value in NOISE.double().numpy() * 32_768]
