"""
How text and audio stand beside each other in the language model's input (arXiv 2512.23808, section 2.2).

A *frame* is one code for each of C channels, 40 ms; a *patch* is G frames. Each position of a row is a text token or a patch: a
row of length T is `input_ids [T]` and `audio_codes [T, G, C]`. A patch has the id `<|empty|>`; a text token has zero ids for codes.
"""

import torch

from .configuration_mimo_audio import MARKERS, MiMoAudioConfig

TEXT_CHUNK = 5  # tokens, and
AUDIO_CHUNK = 5  # patches, that alternate in interleaved speech
IGNORED = -100  # fills the text row of the official layout between patches

Layout = tuple[torch.Tensor, torch.Tensor]


def layout_text(text_ids: torch.Tensor, config: MiMoAudioConfig) -> Layout:
    """
    Text as positions of the model.

    Args:
        text_ids: token ids, `[T]`.

    Returns:
        `input_ids [T]` and `audio_codes [T, G, C]`, zero ids.
    """
    text_ids = _check_text(text_ids)
    zeros = torch.tensor(config.speech_zero_ids, device=text_ids.device)
    return text_ids, zeros.expand(len(text_ids), config.group_size, -1).clone()


def layout_audio(codes: torch.Tensor, config: MiMoAudioConfig) -> Layout:
    """
    A clip as positions of the model: `<|sosp|>`, one `<|empty|>` a patch, `<|eosp|>`.

    Args:
        codes: frames of the codec, `[frames, C]`, with whole patches: `frames` is a multiple of G.

    Returns:
        `input_ids [2 + frames / G]` and `audio_codes [2 + frames / G, G, C]`.

    Raises:
        ValueError: another shape, no frames, frames that fill no whole patch, or codes that the channels do not have.
    """
    patches = _patches(codes, config)
    if len(patches) == 0:
        raise ValueError("`codes` must have at least one patch; got none. Leave the clip out.")
    return _join(
        [
            _text([config.sosp_token_id], patches, config),
            _speech(patches, config),
            _text([config.eosp_token_id], patches, config),
        ]
    )


def interleave_text_and_audio(text_ids: torch.Tensor, codes: torch.Tensor, config: MiMoAudioConfig) -> Layout:
    """
    What the model says, as it says it: `<|sostm|>`, then 5 tokens of the text and 5 patches of its speech in turn, then what the
    longer one has left, then `<|eostm|>`. The last chunk of text ends with `<|eot|>` in addition.

    Args:
        text_ids: what is said, `[tokens]`; none for speech without a text.
        codes: how it sounds, `[frames, C]`, with whole patches; none for a text without speech.

    Returns:
        `input_ids [T]` and `audio_codes [T, G, C]`; `parse_interleaved` is the way back.

    Raises:
        ValueError: as `layout_audio`, and markers of the layout within the text.
    """
    text_ids, patches = _check_text(text_ids), _patches(codes, config)
    markers = [name for name in MARKERS if (text_ids == getattr(config, name)).any()]
    if markers:
        raise ValueError(
            f"`text_ids` must be text without markers of the layout; got {getattr(config, markers[0])}, the `{markers[0]}`."
        )
    words = text_ids.tolist()
    texts = [words[i : i + TEXT_CHUNK] for i in range(0, len(words), TEXT_CHUNK)] or [[]]
    texts[-1] = [*texts[-1], config.eot_token_id]
    clips = patches.split(AUDIO_CHUNK) if len(patches) > 0 else ()
    parts = [_text([config.sostm_token_id], patches, config)]
    for turn in range(max(len(texts), len(clips))):
        if turn < len(texts):
            parts.append(_text(texts[turn], patches, config))
        if turn < len(clips):
            parts.append(_speech(clips[turn], config))
    return _join([*parts, _text([config.eostm_token_id], patches, config)])


def parse_interleaved(
    input_ids: torch.Tensor, audio_codes: torch.Tensor, config: MiMoAudioConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Text and speech of a row, from its first `<|sostm|>` (or its start) to the first `<|eostm|>` after it (or its end).

    Args:
        input_ids: `[T]`.
        audio_codes: `[T, G, C]`.

    Returns:
        The text's ids without the layout's markers, `[tokens]`; and the frames of all patches that hold any, `[frames, C]`.
    """
    begins = (input_ids == config.sostm_token_id).nonzero().flatten().tolist()
    start = begins[0] + 1 if begins else 0
    ends = (input_ids[start:] == config.eostm_token_id).nonzero().flatten().tolist()
    stop = start + ends[0] if ends else len(input_ids)
    input_ids, audio_codes = input_ids[start:stop], audio_codes[start:stop]
    markers = torch.tensor(config.marker_token_ids, device=input_ids.device)
    is_patch = (input_ids == config.empty_token_id) & (audio_codes[:, 0, 0] != config.speech_zero_ids[0])
    return input_ids[~torch.isin(input_ids, markers)], audio_codes[is_patch].flatten(0, 1)


def pad_codes_to_group(codes: torch.Tensor, group_size: int) -> torch.Tensor:
    """
    Repeats the last frame until the frames fill whole patches.

    Args:
        codes: `[frames, C]`.

    Returns:
        `[ceil(frames / group_size) * group_size, C]`.
    """
    if codes.dim() != 2:
        raise ValueError(f"`codes` must be [frames, channels]; got the shape {list(codes.shape)}.")
    missing = -len(codes) % group_size
    return torch.cat([codes, codes[-1:].expand(missing, -1)]) if missing else codes


def to_official_layout(input_ids: torch.Tensor, audio_codes: torch.Tensor) -> torch.Tensor:
    """
    Our two tensors as the one of the official code.

    Args:
        input_ids: `[batch, T]`.
        audio_codes: `[batch, T, G, C]`.

    Returns:
        The tensor of the official code, `[batch, 1 + C, T * G]`: text ids in row 0, at every G-th column, -100 between them; the
        codes in rows 1 to C.
    """
    if audio_codes.dim() != 4 or audio_codes.shape[:2] != input_ids.shape:
        raise ValueError(
            f"`audio_codes` must be [batch, T, group_size, channels] with [batch, T] = {list(input_ids.shape)}; got the shape "
            f"{list(audio_codes.shape)}."
        )
    text = input_ids.new_full((*input_ids.shape, audio_codes.shape[2]), IGNORED)
    text[..., 0] = input_ids
    return torch.cat([text.flatten(1)[:, None], audio_codes.flatten(1, 2).transpose(1, 2)], dim=1)


def from_official_layout(tensor: torch.Tensor, config: MiMoAudioConfig) -> Layout:
    """
    The one tensor of the official code as our two.

    Args:
        tensor: `[batch, 1 + C, T * G]`, as `to_official_layout` returns it.

    Returns:
        `input_ids [batch, T]` and `audio_codes [batch, T, G, C]`.
    """
    rows, group = 1 + config.audio_channels, config.group_size
    if tensor.dim() != 3 or tensor.shape[1] != rows or tensor.shape[2] % group:
        raise ValueError(
            f"`tensor` must be [batch, {rows}, T * {group}], a row of text ids and one a channel; got the shape "
            f"{list(tensor.shape)}."
        )
    codes = tensor[:, 1:].transpose(1, 2)
    return tensor[:, 0, ::group].clone(), codes.reshape(len(tensor), codes.shape[1] // group, group, rows - 1)


def check_codes(codes: torch.Tensor, config: MiMoAudioConfig, name: str, ignored: int | None = None):
    """
    Args:
        codes: `[..., C]`.
        name: what the caller calls them.
        ignored: a number that stands where there is none; None: zero ids may.

    Raises:
        ValueError: a code that its channel does not have.
    """
    if codes.numel() == 0:
        return
    limits = torch.tensor(config.speech_vocab_sizes, device=codes.device) - (0 if ignored is None else 1)
    wrong = ((codes < 0) & (codes != ignored if ignored is not None else True)) | (codes >= limits)
    if wrong.any():
        place = wrong.nonzero()[0].tolist()
        allowed = f"0 to {limits[place[-1]].item() - 1}" + ("" if ignored is None else f" or {ignored}")
        raise ValueError(
            f"`{name}` must be {allowed} in channel {place[-1]}; got {codes[tuple(place)].item()} at {place}. Take the "
            f"first {config.audio_channels} codebooks of MiMo-Audio's codec."
        )


def _check_text(text_ids: torch.Tensor) -> torch.Tensor:
    if text_ids.dim() != 1:
        raise ValueError(f"`text_ids` must be [tokens], of one row; got the shape {list(text_ids.shape)}.")
    return text_ids.long()


def _patches(codes: torch.Tensor, config: MiMoAudioConfig) -> torch.Tensor:
    """`[frames, C]` as `[patches, G, C]`."""
    if codes.dim() != 2 or codes.shape[1] != config.audio_channels:
        raise ValueError(
            f"`codes` must be [frames, {config.audio_channels}], a code for each channel; got the shape {list(codes.shape)}. The "
            f"codec gives [batch, codebooks, frames]: take `audio_codes[row, :{config.audio_channels}].T`."
        )
    if len(codes) % config.group_size:
        raise ValueError(
            f"`codes` must have whole patches of {config.group_size} frames; got {len(codes)} frames. Use "
            "`pad_codes_to_group`."
        )
    check_codes(codes, config, "codes")
    return codes.long().reshape(len(codes) // config.group_size, config.group_size, config.audio_channels)


def _text(ids: list[int], like: torch.Tensor, config: MiMoAudioConfig) -> Layout:
    return layout_text(torch.tensor(ids, dtype=torch.long, device=like.device), config)


def _speech(patches: torch.Tensor, config: MiMoAudioConfig) -> Layout:
    return patches.new_full((len(patches),), config.empty_token_id), patches


def _join(parts: list[Layout]) -> Layout:
    ids, codes = zip(*parts, strict=True)
    return torch.cat(ids), torch.cat(codes)


__all__ = [
    "AUDIO_CHUNK",
    "TEXT_CHUNK",
    "check_codes",
    "from_official_layout",
    "interleave_text_and_audio",
    "layout_audio",
    "layout_text",
    "pad_codes_to_group",
    "parse_interleaved",
    "to_official_layout",
]
