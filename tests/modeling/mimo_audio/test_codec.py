"""The codec against loops over single clips; batches, padding, windows, dtypes and kinds of attention change nothing."""

import math

import numpy as np
import pytest
import torch

from ._codec_loops import CodecLoops, small_codec

LENGTHS = [5, 61, 4, 1, 63, 22, 101, 64, 3, 2]


@pytest.fixture(scope="module")
def codec():
    return small_codec()


def mel(length, seed=0, bins=12):
    return torch.randn(length, bins, generator=torch.Generator().manual_seed(1000 * seed + length))


def padded(clips, value=torch.nan):
    """A batch and its mask; `value` stands where no clip is."""
    longest = max(len(clip) for clip in clips)
    batch = torch.full((len(clips), longest, *clips[0].shape[1:]), value, dtype=clips[0].dtype)
    mask = torch.zeros(len(clips), longest, dtype=torch.long)
    for row, clip in enumerate(clips):
        batch[row, : len(clip)] = clip
        mask[row, : len(clip)] = 1
    return batch, mask


def draw_codes(model, frames, seed=0, rows=1):
    generator = torch.Generator().manual_seed(1000 * seed + frames)
    sizes = model.config.codebook_sizes
    return torch.stack([torch.randint(size, (rows, frames), generator=generator) for size in sizes], dim=1)


VARIANTS = {
    "as released": {},
    "causal encoder": {"encoder_causal": True},
    "windows everywhere": {"encoder_attn_window_size": [7, 3], "decoder_attn_window_size": [6, -1]},
    "decoder sees both ways": {"decoder_causal": False, "encoder_skip_layer_id": None},
    "a window longer than a block": {"vocoder_attn_window_size": [70, 20]},
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_codes_and_samples_are_those_of_loops(variant, attention):
    model = small_codec(attn_implementation=attention, **VARIANTS[variant])
    loops = CodecLoops(model)
    for length in (1, 30, 61):
        clip = mel(length)
        codes = model.encode(clip[None]).audio_codes
        assert codes[0].tolist() == loops.encode(clip.numpy()).tolist()
        audio = model.decode(codes).audio_values
        assert audio.shape == (1, 1, 64 * codes.shape[2])
        np.testing.assert_allclose(audio[0, 0].numpy(), loops.decode(codes[0]), atol=1e-4 * audio.abs().max().item())
    assert len({tuple(frame) for frame in codes[0].T.tolist()}) > 8  # the frames differ


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_clip_in_a_batch_is_the_clip_alone_whatever_the_padding_holds(attention):
    model = small_codec(attn_implementation=attention)
    clips = [mel(length) for length in LENGTHS]
    batch = model.encode(*padded(clips))
    alone = [model.encode(clip[None]).audio_codes for clip in clips]
    for codes, mask, single in zip(batch.audio_codes, batch.audio_codes_mask, alone, strict=True):
        frames = single.shape[2]
        assert torch.equal(codes[:, :frames], single[0])
        assert not codes[:, frames:].any()
        assert mask.tolist() == [1] * frames + [0] * (len(mask) - frames)

    garbage = torch.where(batch.audio_codes_mask[:, None] == 1, batch.audio_codes, 10**9)
    audio = model.decode(garbage, batch.audio_codes_mask).audio_values
    for row, single in zip(audio, alone, strict=True):
        expected = model.decode(single).audio_values[0]
        torch.testing.assert_close(row[:, : expected.shape[1]], expected, atol=5e-4, rtol=0)
        assert not row[:, expected.shape[1] :].any()


@torch.no_grad()
def test_the_same_with_windows_in_encoder_and_decoder():
    model = small_codec(encoder_attn_window_size=[7, 3], decoder_attn_window_size=[6, -1])
    clips = [mel(length) for length in LENGTHS]
    batch = model.encode(*padded(clips))
    audio = model.decode(batch.audio_codes, batch.audio_codes_mask).audio_values
    for codes, row, clip in zip(batch.audio_codes, audio, clips, strict=True):
        single = model.encode(clip[None]).audio_codes
        assert torch.equal(codes[:, : single.shape[2]], single[0])
        expected = model.decode(single).audio_values[0]
        torch.testing.assert_close(row[:, : expected.shape[1]], expected, atol=5e-4, rtol=0)


@torch.no_grad()
def test_eager_and_sdpa_agree():
    clips = padded([mel(length) for length in LENGTHS])
    outcomes = []
    for attention in ("sdpa", "eager"):
        model = small_codec(attn_implementation=attention)
        codes = model.encode(*clips)
        outcomes.append((codes.audio_codes, model.decode(codes.audio_codes, codes.audio_codes_mask).audio_values))
    assert torch.equal(outcomes[0][0], outcomes[1][0])
    torch.testing.assert_close(outcomes[0][1], outcomes[1][1], atol=5e-4, rtol=0)


@torch.no_grad()
def test_every_length_becomes_a_quarter_rounded_up_and_960_samples_a_frame_at_the_released_rates(codec):
    for length in range(1, 41):
        frames = math.ceil(math.ceil(length / 2) / 2)
        codes = codec.encode(mel(length)[None]).audio_codes
        assert codes.shape == (1, 4, frames)
        assert codec.config.code_length(length) == frames
        assert codec.decode(codes).audio_values.shape == (1, 1, frames * 64)
    assert type(codec.config)().samples_per_code == 960
    assert type(codec.config)().frame_rate == 25


@torch.no_grad()
def test_fewer_quantizers_are_the_first_ones(codec):
    clip = mel(50)[None]
    codes = codec.encode(clip).audio_codes
    loops = CodecLoops(codec)
    for number in (1, 2, 3):
        assert torch.equal(codec.encode(clip, num_quantizers=number).audio_codes, codes[:, :number])
        audio = codec.decode(codes[:, :number]).audio_values[0, 0]
        np.testing.assert_allclose(audio.numpy(), loops.decode(codes[0, :number]), atol=1e-3)


@torch.no_grad()
def test_samples_are_encoded_as_their_log_mel(codec):
    from mimo_hf.modeling.mimo_audio import MiMoAudioFeatureExtractor

    rng = np.random.default_rng(0)
    clips = [rng.normal(size=n).astype(np.float32) * 0.1 for n in (1, 33, 500, 1000)]
    extractor = MiMoAudioFeatureExtractor(12, 24_000, n_fft=64, win_length=64, hop_length=16)
    features = extractor(clips, sampling_rate=24_000, return_tensors="pt")
    expected = codec.encode(**features)
    values, mask = padded([torch.tensor(clip) for clip in clips])
    for shaped in (values, values[:, None]):
        made = codec.encode(input_values=shaped, input_values_mask=mask)
        assert torch.equal(made.audio_codes, expected.audio_codes)
        assert torch.equal(made.audio_codes_mask, expected.audio_codes_mask)


@pytest.mark.parametrize("way", ["to", "from_pretrained"])
@torch.no_grad()
def test_a_model_in_16_bits_quantises_in_32(way, tmp_path):
    model = small_codec()
    before = {
        name: tensor.clone() for name, tensor in model.state_dict().items() if "_codebook" in name or "istft" in name
    }
    if way == "to":
        model = model.to(torch.bfloat16)
    else:
        model.save_pretrained(tmp_path)
        model = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.encoder.conv1.weight.dtype == torch.bfloat16
    after = model.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == torch.float32 for name, tensor in before.items()
    )

    codes = draw_codes(model, 9)
    sums = model.encoder.quantizer.decode(codes.transpose(0, 1))[0]
    books = model.encoder.quantizer.codebooks
    for frame in range(9):
        expected = sum(books[q].embed[codes[0, q, frame]].double() for q in range(4))
        torch.testing.assert_close(sums[frame].double(), expected, atol=1e-6, rtol=0)

    states = model.encoder(mel(40)[None], None)
    assert states.dtype == torch.bfloat16
    chosen = model.encode(mel(40)[None]).audio_codes[0]
    for frame, residual in enumerate(states[0].double()):
        for q in range(4):
            distances = (residual - books[q].embed.double()).square().sum(dim=1)
            assert distances[chosen[q, frame]] - distances.min() < 1e-5
            residual = residual - books[q].embed[chosen[q, frame]].double()
    audio = model.decode(codes).audio_values
    assert audio.dtype == torch.float32
    assert audio.isfinite().all()


@torch.no_grad()
def test_samples_depend_on_the_codes_of_the_whole_clip_through_the_norms(codec):
    """So decoding in pieces can't equal decoding at once, causal layers or not."""
    codes = draw_codes(codec, 60)
    other = codes.clone()
    other[:, :, 50:] = draw_codes(codec, 10, seed=1)
    change = (codec.decode(codes).audio_values - codec.decode(other).audio_values)[..., :64]
    assert change.abs().max() > 1e-4


@torch.no_grad()
def test_long_clips_make_no_mask_of_the_square_of_their_length(codec, monkeypatch):
    """Where every layer has a window, or sees all or all before it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    largest = []
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def watched(module, query, key, value, mask, **kwargs):
        largest.append((0 if mask is None else mask.numel()) / query.shape[0] / query.shape[2])
        return sdpa(module, query, key, value, mask, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", watched)
    clips = padded([mel(4000), mel(3000)])
    codes = codec.encode(*clips)
    codec.decode(codes.audio_codes, codes.audio_codes_mask)
    assert len(largest) == 4 + 3 + 2
    assert max(largest) < 80  # keys a query: a block and its window; the encoder has one row for all its queries
