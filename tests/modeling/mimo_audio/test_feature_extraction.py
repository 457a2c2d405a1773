"""Log-mel spectrograms against loops in NumPy float64; resampling against sums of sincs; what is no clip of speech is refused."""

import math

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from mimo_hf.modeling.mimo_audio import MiMoAudioFeatureExtractor, resample_to_mono
from mimo_hf.modeling.mimo_audio.mel import log_mel, mel_filters

MEL = {"n_fft": 960, "hop_length": 240, "n_mels": 128, "sampling_rate": 24_000}


def mel_by_loops(samples, n_fft=960, hop=240, bins=128, rate=24_000):
    """`[frames, bins]` magnitudes: frame by frame and filter by filter, in float64."""
    frames = 1 + len(samples) // hop
    reach = n_fft // 2
    samples = np.concatenate([samples, np.zeros(max(0, reach + 1 - len(samples)))]).astype(np.float64)
    mirrored = np.concatenate([samples[reach:0:-1], samples, samples[-2 : -reach - 2 : -1]])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = [700 * (10 ** (top * i / (bins + 1) / 2595) - 1) for i in range(bins + 2)]
    frequencies = np.arange(n_fft // 2 + 1) * rate / n_fft
    filters = np.zeros((bins, n_fft // 2 + 1))
    for b, (low, peak, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for i, f in enumerate(frequencies):
            filters[b, i] = max(0.0, min((f - low) / (peak - low), (high - f) / (high - peak)))
    out = np.zeros((frames, bins))
    for t in range(frames):
        spectrum = np.abs(np.fft.rfft(mirrored[t * hop : t * hop + n_fft] * window))
        for b in range(bins):
            out[t, b] = spectrum @ filters[b]
    return out


def signals():
    rng = np.random.default_rng(0)
    time = np.arange(2500) / 24_000
    return {
        "noise": rng.normal(size=2500) * 0.1,
        "sine and noise": 0.5 * np.sin(2 * np.pi * 440 * time) + rng.normal(size=2500) * 0.01,
        "silence": np.zeros(1200),
        "one sample": np.array([0.3]),
        "479 samples": rng.normal(size=479) * 0.1,
        "480 samples": rng.normal(size=480) * 0.1,
        "481 samples": rng.normal(size=481) * 0.1,
    }


@pytest.mark.parametrize("name", signals())
def test_spectrograms_are_those_of_loops(name):
    samples = signals()[name].astype(np.float32)
    features = MiMoAudioFeatureExtractor()(samples, sampling_rate=24_000, return_tensors="np").input_features
    expected = np.log(np.maximum(mel_by_loops(samples), 1e-7))
    assert features.shape == (1, 1 + len(samples) // 240, 128)
    np.testing.assert_allclose(features[0], expected, atol=1e-4)


def test_a_pure_sine_agrees_in_magnitude():
    """Its logarithm is ill-conditioned: bins without sound hold rounding errors."""
    samples = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(2400) / 24_000)).astype(np.float32)
    features = MiMoAudioFeatureExtractor()(samples, sampling_rate=24_000, return_tensors="np").input_features
    np.testing.assert_allclose(np.exp(features[0]), np.maximum(mel_by_loops(samples), 1e-7), atol=2e-4)


def test_the_filters_are_transformers_and_none_is_empty():
    theirs = mel_filter_bank(481, 128, 0, 12_000, 24_000, norm=None, mel_scale="htk")
    ours = mel_filters(960, 128, 0.0, 12_000.0, 24_000).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert ours.max(axis=0).min() > 0


def test_a_clip_in_a_batch_is_the_clip_alone():
    rng = np.random.default_rng(1)
    clips = [rng.normal(size=n).astype(np.float32) for n in (1, 239, 240, 479, 480, 961, 1199, 1200, 2401)]
    extractor = MiMoAudioFeatureExtractor()
    batch = extractor(clips, sampling_rate=24_000, return_tensors="pt")
    assert batch.input_features_mask.sum(dim=1).tolist() == [1 + len(clip) // 240 for clip in clips]
    for row, mask, clip in zip(batch.input_features, batch.input_features_mask, clips, strict=True):
        alone = extractor(clip, sampling_rate=24_000, return_tensors="pt").input_features[0]
        assert torch.equal(row[: len(alone)], alone)
        assert mask[: len(alone)].all()
        assert not mask[len(alone) :].any()
        assert not row[len(alone) :].any()


def test_samples_padded_with_nan_give_the_spectrograms_of_the_clips_alone():
    rng = torch.Generator().manual_seed(2)
    lengths = torch.tensor([1, 480, 481, 719, 1500])
    waveform = torch.full((5, 1500), torch.nan)
    for row, length in zip(waveform, lengths, strict=True):
        row[:length] = torch.randn(length, generator=rng)
    batch = log_mel(waveform, lengths, **MEL)
    for row, clip, length in zip(batch, waveform, lengths, strict=True):
        alone = log_mel(clip[None, :length], length[None], **MEL)[0]
        torch.testing.assert_close(row[: len(alone)], alone, atol=1e-5, rtol=0)


def test_blocks_of_frames_make_no_difference(monkeypatch):
    waveform = torch.randn(2, 3000, generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([3000, 1700])
    whole = log_mel(waveform, lengths, **MEL)
    monkeypatch.setattr("mimo_hf.modeling.mimo_audio.mel.BLOCK", 4)
    torch.testing.assert_close(log_mel(waveform, lengths, **MEL), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_resampling_is_a_sum_of_sincs(rate):
    samples = np.random.default_rng(4).normal(size=300)
    made = resample_to_mono(samples, rate)
    cutoff = min(1.0, 24_000 / rate) * 0.95
    assert len(made) == math.ceil(300 * 24_000 / rate)
    for m in range(0, len(made), 7):
        weights = np.array([m * rate / 24_000 - n for n in range(-200, 500)]) * cutoff
        weights = np.where(abs(weights) < 24, np.sinc(weights) * np.cos(weights * np.pi / 48) ** 2, 0.0)
        expected = weights[200:500] @ samples / weights.sum()
        assert made[m] == pytest.approx(expected, abs=1e-5)


def test_a_tone_keeps_its_frequency_and_what_is_too_high_goes():
    time = torch.arange(44_100, dtype=torch.float64) / 44_100
    tones = torch.sin(2 * torch.pi * 1000 * time) + torch.sin(2 * torch.pi * 15_000 * time)
    made = resample_to_mono(tones, 44_100)
    expected = torch.sin(2 * torch.pi * 1000 * torch.arange(24_000, dtype=torch.float64) / 24_000).float()
    torch.testing.assert_close(made[200:-200], expected[200:-200], atol=2e-3, rtol=0)


def test_stereo_at_44100_hz_is_read_after_resampling():
    rng = np.random.default_rng(5)
    stereo = rng.normal(size=(2, 4410)) * 0.1
    mono = resample_to_mono(stereo, 44_100)
    torch.testing.assert_close(mono, resample_to_mono(stereo.mean(axis=0), 44_100), atol=1e-6, rtol=0)
    features = MiMoAudioFeatureExtractor()(mono, sampling_rate=24_000, return_tensors="np").input_features[0]
    np.testing.assert_allclose(features, np.log(np.maximum(mel_by_loops(mono.numpy()), 1e-7)), atol=1e-4)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (
            np.zeros(100),
            16_000,
            r"`sampling_rate` must be 24000; got 16000\. Resample each clip: `resample_to_mono\(clip, 16000",
        ),
        (np.zeros(0), 24_000, r"`audio` must have at least one sample; got shape \(0,\)"),
        ([], 24_000, r"`audio` must have at least one sample"),
        ([np.zeros(5), np.zeros(0)], 24_000, r"`audio` must have at least one sample"),
        (np.array([0.0, np.nan]), 24_000, r"`audio` must be finite; got nan at sample 1\."),
        (np.array([np.inf, 0.0]), 24_000, r"`audio` must be finite; got inf at sample 0\."),
        (np.zeros((2, 100)), 24_000, r"`audio` must be `\[samples\]`, or a list of such clips; got shape \(2, 100\)"),
        ([np.zeros((2, 100))], 24_000, r"`audio\[0\]` must have one channel, `\[samples\]`; got shape \(2, 100\)"),
        (np.zeros((1, 2, 100)), 24_000, r"`audio` must be `\[samples\]`"),
    ],
)
def test_what_is_no_clip_is_refused(audio, rate, message):
    with pytest.raises(ValueError, match=message):
        MiMoAudioFeatureExtractor()(audio, sampling_rate=rate)


def test_whole_numbers_are_refused():
    with pytest.raises(
        TypeError, match=r"`audio` must be floats in -1 to 1; got torch\.int16\. Divide 16-bit samples"
    ):
        MiMoAudioFeatureExtractor()(np.zeros(100, dtype=np.int16), sampling_rate=24_000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(9, 100), 16_000), r"`audio` must have at most 8 channels in front, .* got shape \(9, 100\)"),
        ((torch.zeros(100), 0), r"`sampling_rate` must be a whole number of samples a second; got 0"),
        ((torch.zeros(100), 16e3), r"`sampling_rate` must be a whole number of samples a second; got 16000\.0"),
        (
            (torch.zeros(100), 44_101),
            r"`sampling_rate` must have a larger divisor in common with 24000 than 1; got 44101",
        ),
    ],
)
def test_what_can_not_be_resampled_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        resample_to_mono(*arguments)


def test_clips_can_be_tensors_arrays_or_lists_and_stay_apart_without_padding():
    samples = np.random.default_rng(6).normal(size=500).astype(np.float32)
    extractor = MiMoAudioFeatureExtractor()
    first, *others = (
        extractor(clip, sampling_rate=24_000, return_tensors="np").input_features
        for clip in (samples, samples.tolist(), torch.tensor(samples), [samples], [samples.tolist()])
    )
    assert all(np.array_equal(first, other) for other in others)
    apart = extractor([samples, samples[:300]], sampling_rate=24_000, padding=False)
    assert [len(clip) for clip in apart.input_features] == [3, 2]
    assert "input_features_mask" not in apart


def test_an_extractor_is_loaded_as_it_was_saved(tmp_path):
    MiMoAudioFeatureExtractor(feature_size=20, f_max=8000.0).save_pretrained(tmp_path)
    loaded = MiMoAudioFeatureExtractor.from_pretrained(tmp_path)
    assert (loaded.feature_size, loaded.f_max, loaded.n_fft) == (20, 8000.0, 960)
