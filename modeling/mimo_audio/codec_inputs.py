"""What the codec is given, checked at its entrance: shapes, masks, finite values, codes that exist."""

import torch

from .configuration_mimo_audio_tokenizer import MiMoAudioTokenizerConfig


def check_quantizers(config: MiMoAudioTokenizerConfig, num_quantizers: int | None) -> int:
    if num_quantizers is None:
        return config.num_quantizers
    if not 1 <= num_quantizers <= config.num_quantizers:
        raise ValueError(
            f"`num_quantizers` must be 1 to {config.num_quantizers}, the codebooks of this codec; got {num_quantizers}."
        )
    return num_quantizers


def check_features(
    config: MiMoAudioTokenizerConfig, features, mask, values
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The features, and lengths `[batch]` or None where every frame is a clip's own."""
    if features is None or values is not None:
        seen = "neither" if features is None else "both"
        raise ValueError(f"Either `input_features` or `input_values` must be given; got {seen}.")
    if features.ndim != 3 or features.shape[2] != config.n_mels:
        raise ValueError(
            f"`input_features` must be `[batch, mel frames, {config.n_mels}]`; got shape {tuple(features.shape)}. "
            "MiMoAudioFeatureExtractor makes them; give a waveform as `input_values`."
        )
    lengths = check_mask("input_features_mask", mask, features.shape[0], features.shape[1])
    _check_finite("input_features", features, lengths)
    return features, lengths


def check_samples(values: torch.Tensor, mask) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`[batch, samples]`, and lengths or None."""
    if values.ndim == 3 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 2:
        raise ValueError(
            f"`input_values` must be `[batch, samples]` or `[batch, 1, samples]`; got shape {tuple(values.shape)}. Average channels, "
            "and put a batch dimension in front of a single clip."
        )
    if not values.is_floating_point():
        raise TypeError(
            f"`input_values` must be floats in -1 to 1; got {values.dtype}. Divide 16-bit samples by 32768 first."
        )
    lengths = check_mask("input_values_mask", mask, values.shape[0], values.shape[1])
    _check_finite("input_values", values[..., None], lengths)
    return values, lengths


def check_codes(config: MiMoAudioTokenizerConfig, codes, mask) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Codes with 0 behind the end of each clip, and lengths or None."""
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise TypeError(f"`audio_codes` must be whole numbers; got {codes.dtype}.")
    if codes.ndim != 3:
        raise ValueError(
            f"`audio_codes` must be `[batch, quantizers, frames]`; got shape {tuple(codes.shape)}. Put a batch dimension in front of "
            "the codes of a single clip: `codes[None]`."
        )
    if not 1 <= codes.shape[1] <= config.num_quantizers:
        raise ValueError(
            f"`audio_codes` must have 1 to {config.num_quantizers} quantizers in dimension 1; got shape {tuple(codes.shape)}."
        )
    lengths = check_mask("audio_codes_mask", mask, codes.shape[0], codes.shape[2])
    codes = codes.long()
    if lengths is not None:
        codes = torch.where(torch.arange(codes.shape[2], device=codes.device) < lengths[:, None, None], codes, 0)
    sizes = torch.tensor(config.codebook_sizes[: codes.shape[1]], device=codes.device)[:, None]
    wrong = (codes < 0) | (codes >= sizes)
    if bool(wrong.any()):
        row, quantizer, frame = wrong.nonzero()[0].tolist()
        size = config.codebook_sizes[quantizer]
        raise ValueError(
            f"`audio_codes[{row}, {quantizer}, {frame}]` must be 0 to {size - 1}, an entry of its codebook; got "
            f"{codes[row, quantizer, frame].item()}. The language model's id {size} stands for no audio: cut such frames."
        )
    return codes, lengths


def check_mask(name: str, mask: torch.Tensor | None, rows: int, length: int) -> torch.Tensor | None:
    """The number of ones in each row; None for no mask, and for one of ones, so that nothing is computed for padding."""
    if rows == 0 or length == 0:
        raise ValueError(
            f"`{name.removesuffix('_mask')}` must have at least one clip of at least one frame; got {rows} of {length}."
        )
    if mask is None:
        return None
    if mask.shape != (rows, length):
        raise ValueError(f"`{name}` must be `[{rows}, {length}]`; got shape {tuple(mask.shape)}.")
    mask = mask.bool()
    lengths = mask.sum(dim=1)
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError(
            f"`{name}` must have its ones in front and its zeros behind them; got a row with a gap or with padding on the left. Pad "
            "on the right."
        )
    if bool((lengths == 0).any()):
        raise ValueError(
            f"`{name}` must have a one in each row; got none in row {int((lengths == 0).nonzero()[0])}. Leave empty clips out."
        )
    return None if bool((lengths == length).all()) else lengths


def _check_finite(name: str, values: torch.Tensor, lengths: torch.Tensor | None):
    wrong = ~values.isfinite().all(dim=2)
    if lengths is not None:
        wrong &= torch.arange(values.shape[1], device=values.device) < lengths[:, None]
    if bool(wrong.any()):
        row, frame = wrong.nonzero()[0].tolist()
        raise ValueError(f"`{name}` must be finite; got NaN or infinity in row {row} at {frame}. Replace or cut it.")


__all__ = ["check_codes", "check_features", "check_mask", "check_quantizers", "check_samples"]
