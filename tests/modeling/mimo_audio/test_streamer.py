"""The streamer: its pieces together are what `generate` returns at once, in order, and nobody is left waiting."""

import itertools
import threading

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mimo_hf.modeling.mimo_audio import MiMoAudioStreamer, parse_interleaved

from ._codec_loops import CodecLoops, small_codec

UNIT = 64  # samples a frame of codes
EMPTY, EOSTM = 32, 34


@pytest.fixture(scope="module")
def codec():
    return small_codec()


@pytest.fixture(scope="module")
def tokenizer():
    words = {f"w{number}": number for number in range(40)}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="w37", additional_special_tokens=["w36"])


@pytest.fixture
def talk(speech_lm, speech_rows):
    """A model, its prompt, and what it says to it greedily: some words, some patches."""
    model = speech_lm(seed=43)
    ids, codes = speech_rows(model.config, 1, 9, seed=2)
    options = {"input_ids": ids, "audio_codes": codes, "max_new_tokens": 14, "do_sample": False}
    options |= {"eos_token_id": 39, "pad_token_id": 39}
    output = model.generate(**options)
    new = output.sequences[0, 9:]
    assert 0 < int((new == EMPTY).sum()) < len(new)
    return model, options, new, output.audio_codes[0, 9:]


def frames_by_loops(new, codes, zero):
    """Frames of the patches before the first `<|eostm|>`."""
    frames = []
    for token, patch in zip(new.tolist(), codes.tolist(), strict=True):
        if token == EOSTM:
            break
        if token == EMPTY and patch[0][0] != zero:
            frames += patch
    return frames


def test_pieces_are_what_comes_at_once(talk, tokenizer):
    model, options, new, codes = talk
    found = list(MiMoAudioStreamer(tokenizer, model.config).run(model.generate, **options))
    words = "".join(piece for kind, piece in found if kind == "text")
    assert words.split() == [f"w{token}" for token in new.tolist() if token < 30 or token > 37]
    frames = torch.cat([piece for kind, piece in found if kind == "codes"]).tolist()
    assert frames == frames_by_loops(new, codes, model.config.speech_zero_ids[0])
    assert frames == parse_interleaved(new, codes, model.config)[1].tolist()
    kinds = [kind for kind, _ in found]
    assert len(set(itertools.pairwise(kinds))) > 2  # words and sound in turn


@pytest.mark.parametrize(("chunk", "left", "right"), [(1, 250, 4), (3, 8, 2), (2, 6, 0)])
def test_sound_is_decoded_as_the_stream_of_the_codec(talk, tokenizer, codec, chunk, left, right):
    model, options, new, codes = talk
    streamer = MiMoAudioStreamer(
        tokenizer, model.config, codec, chunk_patches=chunk, left_context=left, right_context=right
    )
    audio = [piece for kind, piece in streamer.run(model.generate, **options) if kind == "audio"]
    frames = frames_by_loops(new, codes, model.config.speech_zero_ids[0])
    loops, expected, processed, kept = CodecLoops(codec), [], 0, []
    group = model.config.group_size * chunk
    arrived = [frames[first : first + group] for first in range(0, len(frames), group)]
    if len(arrived[-1]) < group:  # too few patches for a chunk come with the end
        *arrived, last = arrived
    else:
        last = []
    for number, piece in enumerate([*arrived, last]):
        is_last = number == len(arrived)
        kept = kept + piece
        settled = len(kept) if is_last else max(processed, len(kept) - right)
        if settled > processed:
            expected.append(loops.decode(np.array(kept).T)[processed * UNIT : settled * UNIT])
        dropped = max(0, len(kept) - left)
        kept, processed = kept[dropped:], settled - dropped
    assert [len(piece) for piece in audio] == [len(piece) for piece in expected]
    assert sum(map(len, audio)) == len(frames) * UNIT
    for piece, samples in zip(audio, expected, strict=True):
        np.testing.assert_allclose(piece.numpy(), samples, atol=1e-3)


def test_the_first_sound_needs_two_patches(speech_lm, tokenizer, codec):
    """Patches of four frames, as the released model has."""
    model = speech_lm(group_size=4)
    patch = torch.ones(1, 4, 3, dtype=torch.long)
    streamer = MiMoAudioStreamer(tokenizer, model.config, codec, timeout=0.01)
    streamer.put(torch.tensor([[1, 2]]))
    for number in range(2):
        with pytest.raises(TimeoutError, match="`timeout` must be longer than the model takes for a piece; got 0"):
            next(streamer)
        streamer.put_codes(patch + number)
        streamer.put(torch.tensor([EMPTY]))
    kind, audio = next(streamer)
    assert kind == "audio"
    assert len(audio) == 4 * UNIT


def test_speech_ends_with_its_marker_and_silence_is_none(speech_lm, tokenizer):
    config = speech_lm().config
    streamer = MiMoAudioStreamer(tokenizer, config, skip_prompt=False)
    silence = torch.tensor([[config.speech_zero_ids] * config.group_size])
    streamer.put(torch.tensor([[1, 2]]))
    for token, codes in [(EMPTY, silence), (EMPTY, silence * 0), (EOSTM, silence), (EMPTY, silence * 0), (5, silence)]:
        streamer.put_codes(codes)
        streamer.put(torch.tensor([token]))
    streamer.end()
    found = list(streamer)
    assert list(streamer) == []
    assert [kind for kind, _ in found].count("codes") == 1
    assert "".join(piece for kind, piece in found if kind == "text").split() == ["w1", "w2", "w5"]


def test_two_streams_at_once_do_not_mix(talk, tokenizer, codec):
    model, options, _, _ = talk
    alone = [piece for kind, piece in MiMoAudioStreamer(tokenizer, model.config, codec).run(model.generate, **options)]
    both = [MiMoAudioStreamer(tokenizer, model.config, codec).run(model.generate, **options) for _ in range(2)]
    for one, other, expected in zip(*both, alone, strict=True):
        for _, piece in (one, other):
            assert np.array_equal(piece, expected) if isinstance(expected, torch.Tensor) else piece == expected


def test_what_generate_raises_is_raised_where_the_pieces_are_read(talk, tokenizer):
    model, options, _, _ = talk
    with pytest.raises(ValueError, match="`num_beams` must not be given"):
        list(MiMoAudioStreamer(tokenizer, model.config).run(model.generate, **options, num_beams=2))
    rows = options | {
        name: options[name].repeat(2, *[1] * (options[name].dim() - 1)) for name in ("input_ids", "audio_codes")
    }
    with pytest.raises(ValueError, match="`streamer` must be left out for a batch: it follows one row; got 2 rows"):
        list(MiMoAudioStreamer(tokenizer, model.config).run(model.generate, **rows))
    with pytest.raises(ValueError, match="`chunk_patches` must be at least 1; got 0"):
        MiMoAudioStreamer(tokenizer, model.config, chunk_patches=0)


def test_leaving_the_loop_stops_the_model(talk, tokenizer, monkeypatch):
    model, options, _, _ = talk
    closed, after = threading.Event(), []
    forward = model.forward

    def step(*args, **kwargs):
        if closed.is_set():
            after.append(1)
        return forward(*args, **kwargs)

    monkeypatch.setattr(model, "forward", step)
    streamer = MiMoAudioStreamer(tokenizer, model.config)
    pieces = streamer.run(model.generate, **(options | {"max_new_tokens": 200, "min_new_tokens": 200}))
    next(pieces)
    monkeypatch.setattr(streamer, "close", lambda: (closed.set(), MiMoAudioStreamer.close(streamer)))
    pieces.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "MiMoAudioStreamer"]
    assert len(after) < 4  # not the 200 that were asked for
