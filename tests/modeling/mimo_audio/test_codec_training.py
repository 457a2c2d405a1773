"""The codec's losses against loops; gradients through the quantiser; codebooks that follow the encoder."""

import numpy as np
import pytest
import torch

from mimo_hf.modeling.mimo_audio.codec_losses import multi_mel_loss
from mimo_hf.modeling.mimo_audio.codec_quantizer import Codebook

from ._codec_loops import CodecLoops, small_codec
from .test_feature_extraction import mel_by_loops


def waveforms(lengths=(900, 411, 65), seed=0, fill=0.0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.full((len(lengths), max(lengths)), fill)
    mask = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        values[row, :length] = torch.randn(length, generator=generator) * 0.1
        mask[row, :length] = 1
    return values, mask


def multi_mel_by_loops(audio, target, lengths):
    total = 0.0
    for i in (5, 6, 7):
        size, hop = 15 * 2 ** (i - 1), 15 * 2 ** (i - 2)
        differences = [
            abs(mel_by_loops(x[:n], size, hop, 2**i) - mel_by_loops(y[:n], size, hop, 2**i)) / size**0.5
            for x, y, n in zip(audio, target, lengths, strict=True)
        ]
        total += np.concatenate(differences).mean()
    return total


def test_the_reconstruction_loss_is_that_of_loops():
    lengths = torch.tensor([1500, 700, 100])
    audio, _ = waveforms(lengths.tolist(), seed=1, fill=torch.nan)
    target, _ = waveforms(lengths.tolist(), seed=2, fill=torch.nan)
    expected = multi_mel_by_loops(audio.numpy(), target.numpy(), lengths.tolist())
    assert multi_mel_loss(audio, target, lengths).item() == pytest.approx(expected, rel=1e-5)


def test_the_losses_of_a_padded_batch_are_those_of_its_clips():
    model = small_codec(commitment_loss_weight=3.0)
    values, mask = waveforms(fill=torch.nan)
    with torch.no_grad():
        made = model(input_values=values, input_values_mask=mask)
        loops, squares = CodecLoops(model), [[] for _ in range(4)]
        audio = []
        for row, length in zip(values, mask.sum(dim=1).long(), strict=True):
            features, _ = model._log_mel(row[None, :length], None)
            for residual in loops.states(features[0].numpy()):
                for q in range(4):
                    entry = loops.book(q)[np.argmin([((residual - e) ** 2).sum() for e in loops.book(q)])]
                    residual = residual - entry
                    squares[q].append((residual**2).mean())
            audio.append(model.decode(model.encode(features).audio_codes).audio_values[0, 0].numpy())
        expected = multi_mel_by_loops(audio, values.numpy(), mask.sum(dim=1).long().tolist())
    assert made.commitment_loss.item() == pytest.approx(np.mean(squares), rel=1e-4)
    assert made.reconstruction_loss.item() == pytest.approx(expected, rel=1e-3)
    assert made.loss.item() == pytest.approx(expected + 3 * np.mean(squares), rel=1e-3)
    assert model(input_values=values, input_values_mask=mask, return_loss=False).loss is None


def test_the_forward_pass_decodes_what_encode_finds():
    model = small_codec()
    values, mask = waveforms()
    with torch.no_grad():
        made = model(input_values=values, input_values_mask=mask, num_quantizers=2)
        codes = model.encode(input_values=values, input_values_mask=mask, num_quantizers=2)
        assert torch.equal(made.audio_codes, codes.audio_codes)
        expected = model.decode(codes.audio_codes, codes.audio_codes_mask).audio_values
    torch.testing.assert_close(made.audio_values, expected, atol=5e-4, rtol=0)


def keep_states(model, seen):
    """Puts what the encoder's last norm gives and what the decoder is given into `seen`, with gradients."""

    def encoded(module, given, out):
        out.retain_grad()
        seen["own"] = out

    def decoded(module, given):
        given[0].retain_grad()
        seen["sums"] = given[0]

    model.encoder.down_sample_norm.register_forward_hook(encoded)
    model.decoder.register_forward_pre_hook(decoded)


def test_the_gradient_passes_the_quantiser_unchanged_and_reaches_every_parameter():
    model = small_codec().train()
    seen = {}
    keep_states(model, seen)
    values, mask = waveforms(fill=torch.nan)
    model(input_values=values, input_values_mask=mask).reconstruction_loss.backward()
    inside = model.config.code_length(1 + mask.sum(dim=1).long() // 16)
    for row, frames in enumerate(inside):
        torch.testing.assert_close(seen["own"].grad[row, :frames], seen["sums"].grad[row, :frames])
        assert seen["own"].grad[row, :frames].abs().sum() > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_commitment_pulls_the_encoder_towards_the_entries():
    model = small_codec()
    states = torch.randn(5, 32, generator=torch.Generator().manual_seed(3)).requires_grad_()
    codes, total, loss = model.encoder.quantizer.encode(states, 4)
    loss.backward()
    expected, entries = torch.zeros_like(states), torch.zeros_like(states)
    for q, book in enumerate(model.encoder.quantizer.codebooks):
        entries = entries + book.embed[codes[q]]
        expected += 2 * (states.detach() - entries) / states.numel() / 4
    torch.testing.assert_close(states.grad, expected)
    torch.testing.assert_close(total, entries)


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = small_codec(threshold_ema_dead_code=0)
        for book in model.encoder.quantizer.codebooks:
            book.inited.fill_(1.0)
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        values, mask = waveforms()
        model(input_values=values, input_values_mask=mask).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def book_of(entries, **changes):
    config = small_codec(**changes).config
    book = Codebook(entries, 3, config)
    torch.nn.init.normal_(book.embed, generator=torch.Generator().manual_seed(0))
    return book


def test_a_new_codebook_is_found_by_k_means():
    generator = torch.Generator().manual_seed(4)
    centres = torch.tensor([[5.0, 0, 0], [0, 5.0, 0], [0, 0, 5.0], [-5.0, 0, 0]])
    frames = centres.repeat_interleave(25, dim=0) + 0.1 * torch.randn(100, 3, generator=generator)
    torch.manual_seed(5)
    book, found = book_of(4), []
    for _ in range(10):  # k-means may end with two entries in one cluster; one of ten starts does not
        book.start(frames)
        codes = torch.cdist(frames, book.embed).argmin(dim=1)
        for entry in codes.unique():
            torch.testing.assert_close(book.embed[entry], frames[codes == entry].mean(dim=0), atol=1e-4, rtol=0)
            assert book.cluster_size[entry] == (codes == entry).sum()
            torch.testing.assert_close(book.embed_avg[entry], frames[codes == entry].sum(dim=0), atol=1e-3, rtol=0)
        means = frames.view(4, 25, 3).mean(dim=1)
        found.append(torch.cdist(means, book.embed).min(dim=1).values.max().item())
    assert book.inited.item() == 1
    assert min(found) < 1e-3


def test_entries_are_moving_averages_of_the_frames_that_chose_them():
    book = book_of(4, ema_decay=0.9, threshold_ema_dead_code=0)
    book.cluster_size.copy_(torch.tensor([4.0, 2.0, 3.0, 1.0]))
    book.embed_avg.copy_(book.embed * book.cluster_size[:, None])
    counts, sums = book.cluster_size.double().numpy(), book.embed_avg.double().numpy()
    frames = torch.randn(10, 3, generator=torch.Generator().manual_seed(6))
    codes = book.nearest(frames)
    book.follow(frames, codes)
    for entry in range(4):
        own = frames[codes == entry].double().numpy()
        counts[entry] = 0.9 * counts[entry] + 0.1 * len(own)
        sums[entry] = 0.9 * sums[entry] + 0.1 * own.sum(axis=0)
    np.testing.assert_allclose(book.cluster_size.numpy(), counts, rtol=1e-5)
    smoothed = (counts + 1e-5) / (counts.sum() + 4e-5) * counts.sum()
    np.testing.assert_allclose(book.embed.numpy(), sums / smoothed[:, None], rtol=1e-4, atol=1e-6)


def test_an_entry_that_nothing_chooses_becomes_a_frame_and_stays_one():
    book = book_of(4, threshold_ema_dead_code=2)
    book.cluster_size.copy_(torch.tensor([50.0, 50.0, 1.0, 50.0]))
    book.embed[2] = 1000.0
    book.embed_avg.copy_(book.embed * book.cluster_size[:, None])
    frames = torch.randn(20, 3, generator=torch.Generator().manual_seed(7))
    book.follow(frames, book.nearest(frames))
    assert (frames == book.embed[2]).all(dim=1).any()
    drawn = book.embed[2].clone()
    book.follow(drawn.expand(5, 3), book.nearest(drawn.expand(5, 3)))
    torch.testing.assert_close(book.embed[2], drawn, atol=1e-3, rtol=1e-3)


def test_the_nearest_entry_is_the_lowest_of_equal_ones():
    book = book_of(6)
    book.embed[4] = book.embed[1]
    assert book.nearest(book.embed[[4, 1, 0]]).tolist() == [1, 1, 0]


@pytest.mark.parametrize("state", ["training", "evaluation", "no gradients", "frozen encoder"])
def test_codebooks_follow_an_encoder_that_is_trained_and_no_other(state):
    model = small_codec()
    before = [book.embed.clone() for book in model.encoder.quantizer.codebooks]
    model.train(state != "evaluation")
    if state == "frozen encoder":
        model.encoder.requires_grad_(False)
    values, mask = waveforms()
    with torch.set_grad_enabled(state != "no gradients"):
        model(input_values=values, input_values_mask=mask)
        model.encode(input_values=values, input_values_mask=mask)
    for book, embed in zip(model.encoder.quantizer.codebooks, before, strict=True):
        assert torch.equal(book.embed, embed) == (state != "training")
        assert book.inited.item() == (state == "training")
