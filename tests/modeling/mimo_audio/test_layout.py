"""Text and audio beside each other: the order of markers, tokens and patches, and the ways back."""

import pytest
import torch

from mimo_hf.modeling.mimo_audio.audio_layout import (
    from_official_layout,
    interleave_text_and_audio,
    layout_audio,
    layout_text,
    pad_codes_to_group,
    parse_interleaved,
    to_official_layout,
)

STM, ETM, EOT, EMPTY = 33, 34, 35, 32


def draw(config, tokens, patches, seed=0):
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(0, 30, (tokens,), generator=generator)
    frames = patches * config.group_size
    codes = [torch.randint(0, zero, (frames,), generator=generator) for zero in config.speech_zero_ids]
    return text, torch.stack(codes, dim=-1)


# How many tokens (t) and patches (a) stand where.
ORDERS = {
    (12, 7): "t5 a5 t5 a2 t2 .",
    (3, 17): "t3 . a5 a5 a5 a2",
    (10, 10): "t5 a5 t5 . a5",
    (5, 1): "t5 . a1",
    (0, 3): ". a3",
    (1, 0): "t1 .",
    (11, 5): "t5 a5 t5 t1 .",
    (0, 0): ".",
}


@pytest.mark.parametrize("counts", ORDERS, ids=str)
def test_interleaved_speech_has_chunks_of_five_and_eot_after_the_text(speech_config, counts):
    config = speech_config()
    text, codes = draw(config, *counts)
    words, patches = iter(text.tolist()), iter(codes.reshape(-1, config.group_size, config.audio_channels).tolist())
    ids, rows = [STM], [None]
    for chunk in ORDERS[counts].split():
        if chunk == ".":
            ids, rows = [*ids, EOT], [*rows, None]
        for _ in range(int(chunk[1:] or 0)):
            ids.append(next(words) if chunk[0] == "t" else EMPTY)
            rows.append(None if chunk[0] == "t" else next(patches))
    ids, rows = [*ids, ETM], [*rows, None]
    assert next(words, None) is None
    assert next(patches, None) is None

    found_ids, found_codes = interleave_text_and_audio(text, codes, config)
    silence = [config.speech_zero_ids] * config.group_size
    assert found_ids.tolist() == ids
    assert found_codes.tolist() == [silence if row is None else row for row in rows]


@pytest.mark.parametrize("counts", ORDERS, ids=str)
def test_parsing_gives_text_and_codes_back(speech_config, counts):
    config = speech_config()
    text, codes = draw(config, *counts, seed=1)
    before, after = layout_text(torch.tensor([1, 2]), config), layout_text(torch.tensor([3]), config)
    parts = [before, interleave_text_and_audio(text, codes, config), after]
    ids, rows = (torch.cat(part) for part in zip(*parts, strict=True))
    found_text, found_codes = parse_interleaved(ids, rows, config)
    assert torch.equal(found_text, text)
    assert torch.equal(found_codes, codes)


def test_parsing_begins_and_ends_where_there_are_no_markers(speech_config):
    config = speech_config()
    text, codes = draw(config, 3, 2)
    ids, rows = interleave_text_and_audio(text, codes, config)
    found_text, found_codes = parse_interleaved(ids[1:-1], rows[1:-1], config)
    assert torch.equal(found_text, text)
    assert torch.equal(found_codes, codes)


def test_a_patch_without_a_code_is_no_speech(speech_config):
    config = speech_config()
    text, codes = draw(config, 2, 3)
    ids, rows = interleave_text_and_audio(text, codes, config)
    place = (ids == EMPTY).nonzero()[1]
    rows[place] = torch.tensor(config.speech_zero_ids)
    kept = torch.cat([codes[:2], codes[4:]])
    assert torch.equal(parse_interleaved(ids, rows, config)[1], kept)


def test_a_clip_stands_between_its_markers(speech_config):
    config = speech_config()
    _, codes = draw(config, 0, 3)
    ids, rows = layout_audio(codes, config)
    assert ids.tolist() == [30, EMPTY, EMPTY, EMPTY, 31]
    assert torch.equal(rows[1:4].flatten(0, 1), codes)
    assert (rows[[0, 4]] == torch.tensor(config.speech_zero_ids)).all()


@pytest.mark.parametrize(("frames", "padded"), [(0, 0), (1, 4), (4, 4), (5, 8), (7, 8)])
def test_padding_repeats_the_last_frame(frames, padded):
    codes = torch.arange(frames * 3).view(frames, 3)
    result = pad_codes_to_group(codes, 4)
    expected = codes.tolist() + [codes[-1].tolist() for _ in range(padded - frames)]
    assert result.tolist() == expected


def test_the_official_layout_has_text_at_every_gth_column_and_a_row_a_channel(speech_config, speech_rows):
    config = speech_config()
    ids, codes = speech_rows(config, 2, 5)
    official = to_official_layout(ids, codes)
    assert list(official.shape) == [2, 4, 10]
    for row in range(2):
        for column in range(10):
            position, frame = divmod(column, 2)
            assert official[row, 0, column] == (ids[row, position] if frame == 0 else -100)
            assert official[row, 1:, column].tolist() == codes[row, position, frame].tolist()
    found_ids, found_codes = from_official_layout(official, config)
    assert torch.equal(found_ids, ids)
    assert torch.equal(found_codes, codes)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((5, 3), "`codes` must have whole patches of 2 frames; got 5 frames. Use `pad_codes_to_group`"),
        ((3, 4), r"`codes` must be \[frames, 3\], .* got the shape \[3, 4\]"),
        ((1, 3, 4), r"got the shape \[1, 3, 4\]. The codec gives"),
        ((0, 3), "`codes` must have at least one patch; got none"),
    ],
)
def test_codes_of_another_shape_are_refused(speech_config, shape, says):
    with pytest.raises(ValueError, match=says):
        layout_audio(torch.zeros(shape, dtype=torch.long), speech_config())


@pytest.mark.parametrize(("channel", "code"), [(0, 7), (2, 5), (1, -1)])
def test_a_code_that_its_channel_does_not_have_is_refused(speech_config, channel, code):
    codes = torch.zeros(4, 3, dtype=torch.long)
    codes[1, channel] = code
    with pytest.raises(
        ValueError, match=rf"`codes` must be 0 to \d in channel {channel}; got {code} at \[1, {channel}\]"
    ):
        layout_audio(codes, speech_config())


def test_other_misuse_is_refused(speech_config):
    config, codes = speech_config(), torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"`text_ids` must be text without markers .* got 32, the `empty_token_id`"):
        interleave_text_and_audio(torch.tensor([1, EMPTY]), codes, config)
    with pytest.raises(ValueError, match=r"`text_ids` must be \[tokens\]"):
        layout_text(torch.zeros(1, 2), config)
    with pytest.raises(ValueError, match=r"`tensor` must be \[batch, 4, T \* 2\]"):
        from_official_layout(torch.zeros(1, 4, 5), config)
    with pytest.raises(ValueError, match=r"`audio_codes` must be \[batch, T, group_size, channels\]"):
        to_official_layout(torch.zeros(1, 4), torch.zeros(1, 5, 2, 3))
    with pytest.raises(ValueError, match=r"`codes` must be \[frames, channels\]"):
        pad_codes_to_group(torch.zeros(4), 4)
