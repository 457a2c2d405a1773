"""Audio of any length: streams against the algorithm run by loops, segments against single clips."""

import numpy as np
import pytest
import torch

from mimo_hf.modeling.mimo_audio import MiMoAudioStreamState

from ._codec_loops import CodecLoops, small_codec

UNIT = 64  # samples a frame of codes


@pytest.fixture(scope="module")
def codec():
    return small_codec()


def draw_codes(model, frames, seed=0, rows=1):
    generator = torch.Generator().manual_seed(1000 * seed + frames)
    sizes = model.config.codebook_sizes
    return torch.stack([torch.randint(size, (rows, frames), generator=generator) for size in sizes], dim=1)


def pieces(codes, sizes):
    """`codes` in pieces of these numbers of frames, in turn."""
    first, number = 0, 0
    while first < codes.shape[2]:
        yield codes[:, :, first : first + sizes[number % len(sizes)]]
        first, number = first + sizes[number % len(sizes)], number + 1


def stream_by_loops(loops, codes, sizes, left, right):
    """The samples given out for each piece and at the end: everything that is kept is decoded again for each."""
    kept, processed, out = [], 0, []
    arrived = [piece[0].T.tolist() for piece in pieces(codes, sizes)]
    for number in range(len(arrived) + 1):
        is_last = number == len(arrived)
        kept = kept + ([] if is_last else arrived[number])
        settled = len(kept) if is_last else max(processed, len(kept) - right)
        if settled > processed:
            out.append(loops.decode(np.array(kept).T)[processed * UNIT : settled * UNIT])
        processed = settled
        dropped = max(0, len(kept) - left)
        kept, processed = kept[dropped:], processed - dropped
    return out


@pytest.mark.parametrize(("sizes", "left", "right"), [([4], 8, 3), ([1, 7, 2], 6, 6), ([20], 5, 0), ([3], 100, 40)])
def test_a_stream_is_the_algorithm_of_decoding_again(codec, sizes, left, right):
    codes = draw_codes(codec, 20)
    made = list(codec.stream_decode(pieces(codes, sizes), left, right))
    expected = stream_by_loops(CodecLoops(codec), codes, sizes, left, right)
    assert [audio.shape[2] for audio in made] == [len(audio) for audio in expected]
    assert sum(len(audio) for audio in expected) == 20 * UNIT
    for audio, samples in zip(made, expected, strict=True):
        np.testing.assert_allclose(audio[0, 0].numpy(), samples, atol=1e-3)


def test_a_stream_has_960_samples_a_frame_however_it_is_cut(codec):
    codes = draw_codes(codec, 33, rows=2)
    for sizes in ([1], [2, 9], [33], [32, 1], [50]):
        for left, right in ((1, 0), (7, 2), (40, 40)):
            made = torch.cat(list(codec.stream_decode(pieces(codes, sizes), left, right)), dim=2)
            assert made.shape == (2, 1, 33 * UNIT)


def test_with_all_frames_in_sight_a_stream_is_the_clip_at_once(codec):
    codes = draw_codes(codec, 12)
    made = list(codec.stream_decode(pieces(codes, [5]), left_context=100, right_context=100))
    assert len(made) == 1
    assert torch.equal(made[0], codec.decode(codes).audio_values)


def test_two_streams_side_by_side_do_not_disturb_each_other(codec):
    first, second = draw_codes(codec, 25), draw_codes(codec, 25, seed=1)
    alone = [list(codec.stream_decode(pieces(codes, [3]), 10, 4)) for codes in (first, second)]
    side_by_side = zip(*(codec.stream_decode(pieces(codes, [3]), 10, 4) for codes in (first, second)), strict=True)
    for number, both in enumerate(side_by_side):
        assert torch.equal(both[0], alone[0][number])
        assert torch.equal(both[1], alone[1][number])


def test_a_stream_keeps_no_more_than_its_left_context(codec):
    state = MiMoAudioStreamState(left_context=6, right_context=2)
    for piece in pieces(draw_codes(codec, 50), [4]):
        codec.decode_chunk(piece, state)
        assert state.codes.shape[2] <= 6
    assert codec.decode_chunk(state.codes[:, :, :0], state, is_last=True).shape == (1, 1, 2 * UNIT)
    with pytest.raises(ValueError, match=r"`state` must be that of a stream which goes on; got one that has ended"):
        codec.decode_chunk(draw_codes(codec, 1), state)


def test_the_last_codes_of_a_stream_can_be_told(codec):
    codes, state = draw_codes(codec, 10), MiMoAudioStreamState(20, 5)
    made = [codec.decode_chunk(codes[:, :, :6], state), codec.decode_chunk(codes[:, :, 6:], state, is_last=True)]
    assert [audio.shape[2] for audio in made] == [UNIT, 9 * UNIT]
    assert torch.equal(made[1], codec.decode(codes).audio_values[..., UNIT:])


def test_no_codes_are_no_samples(codec):
    assert list(codec.stream_decode([])) == []


@torch.no_grad()
def test_long_clips_are_encoded_in_segments_each_as_if_alone(codec):
    lengths = [100, 61, 16, 1]
    clips = [torch.randn(n, 12, generator=torch.Generator().manual_seed(n)) for n in lengths]
    batch = torch.full((4, 100, 12), torch.nan)
    mask = torch.zeros(4, 100)
    for row, clip in enumerate(clips):
        batch[row, : len(clip)], mask[row, : len(clip)] = clip, 1
    made = codec.encode_long(batch, mask, segment_frames=4)  # 16 mel frames
    for codes, own, clip in zip(made.audio_codes, made.audio_codes_mask, clips, strict=True):
        expected = torch.cat([codec.encode(piece[None]).audio_codes[0] for piece in clip.split(16)], dim=1)
        assert own.sum() == expected.shape[1] == codec.config.code_length(len(clip))
        assert torch.equal(codes[:, : expected.shape[1]], expected)
        assert not codes[:, expected.shape[1] :].any()


@torch.no_grad()
def test_a_clip_that_fits_into_a_segment_is_encoded_and_decoded_at_once(codec):
    clips = torch.randn(2, 40, 12, generator=torch.Generator().manual_seed(7))
    made = codec.encode(clips, num_quantizers=3)
    long = codec.encode_long(clips, num_quantizers=3)
    assert torch.equal(long.audio_codes, made.audio_codes)
    assert torch.equal(long.audio_codes_mask, made.audio_codes_mask)
    audio = codec.decode_long(made.audio_codes, crossfade_frames=5).audio_values
    torch.testing.assert_close(audio, codec.decode(made.audio_codes).audio_values, atol=1e-5, rtol=0)


@torch.no_grad()
def test_long_samples_are_encoded_as_their_log_mel(codec):
    samples = torch.randn(2, 900, generator=torch.Generator().manual_seed(8)) * 0.1
    mask = torch.ones(2, 900)
    mask[1, 500:] = 0
    features, lengths = codec._log_mel(samples, mask.sum(dim=1).long())
    inside = torch.arange(features.shape[1]) < lengths[:, None]
    expected = codec.encode_long(features, inside, segment_frames=3)
    made = codec.encode_long(input_values=samples, input_values_mask=mask, segment_frames=3)
    assert torch.equal(made.audio_codes, expected.audio_codes)


@pytest.mark.parametrize("fade", [0, 2, 4])
@torch.no_grad()
def test_long_codes_are_decoded_in_segments_with_linear_seams(codec, fade):
    codes, lengths = draw_codes(codec, 13, rows=3), [13, 9, 4]
    mask = torch.arange(13) < torch.tensor(lengths)[:, None]
    made = codec.decode_long(codes, mask, segment_frames=4, crossfade_frames=fade).audio_values
    assert made.shape == (3, 1, 13 * UNIT)
    for row, length in enumerate(lengths):
        expected = np.zeros(13 * UNIT)
        for first in range(0, length, 4):
            last = min(first + 4 + fade, length)
            segment = codec.decode(codes[row : row + 1, :, first:last]).audio_values[0, 0].numpy()
            for i, sample in enumerate(segment):
                share = min(1.0, (i + 0.5) / (fade * UNIT)) if fade and first else 1.0
                # Where a piece ends inside the seam, it goes over in as many frames as the longest row has there.
                width = min(fade, 13 - first) * UNIT
                share = min(1.0, (i + 0.5) / width) if fade and first else share
                place = first * UNIT + i
                expected[place] = (1 - share) * expected[place] + share * sample
        np.testing.assert_allclose(made[row, 0].numpy(), expected, atol=5e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, c: list(m.stream_decode([c], left_context=3, right_context=4)), r"`left_context` must be .* `right_context`, 4, .* got 3"),
        (lambda m, c: list(m.stream_decode([c], right_context=-1)), r"`right_context` must be at least 0 frames; got -1"),
        (lambda m, c: list(m.stream_decode([c, c[:, :2]])), r"`audio_codes` must have \(1, 4\) rows and quantizers"),
        (lambda m, c: list(m.stream_decode([c + 99])), r"`audio_codes\[0, 0, 0\]` must be 0 to 15"),
        (lambda m, c: m.decode_long(c, segment_frames=0), r"`segment_frames` must be at least 1 frame of codes; got 0"),
        (lambda m, c: m.decode_long(c, segment_frames=4, crossfade_frames=5), r"`crossfade_frames` must be 0 to `segment_frames`, 4; got 5"),
        (lambda m, c: m.encode_long(torch.zeros(1, 8, 12), num_quantizers=5), r"`num_quantizers` must be 1 to 4"),
    ],
)  # fmt: skip
def test_what_can_not_be_streamed_or_cut_is_refused(codec, call, message):
    with pytest.raises(ValueError, match=message):
        call(codec, draw_codes(codec, 6))
