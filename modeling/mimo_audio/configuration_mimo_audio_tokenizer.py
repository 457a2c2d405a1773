"""Configuration of MiMo-Audio-Tokenizer, the codec of MiMo-Audio: the official field names, the released values."""

from .. import transformers_versions  # noqa: F401  it refuses a version that is too old

# isort: split

from typing import TYPE_CHECKING

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

# Fields of which the released model has one value, and no other is built here.
FIXED = {
    "kernel_size": 3,
    "ln_type": "LayerNorm",
    "position_embedding_type": "rope",
    "rope_type": "default",
    "vocoder_padding": "same",
}
POSITIVE = [
    "sampling_rate",
    "n_mels",
    "nfft",
    "window_size",
    "hop_length",
    "d_model",
    "encoder_layers",
    "encoder_attention_heads",
    "encoder_ffn_dim",
    "stride_size",
    "decoder_layers",
    "decoder_attention_heads",
    "decoder_ffn_dim",
    "decoder_stride_size",
    "vocoder_dim",
    "vocoder_num_layers",
    "vocoder_attention_heads",
    "vocoder_intermediate_dim",
    "num_quantizers",
    "kmeans_iterations",
]


@strict
class MiMoAudioTokenizerConfig(PreTrainedConfig):
    r"""
    The codec of MiMo-Audio (arXiv 2512.23808, section 2.1). The defaults are the released model's: 24 kHz, 25 frames a second, 20
    codebooks of which the language model uses 8.

    Args:
        sampling_rate (`int`, defaults to 24000):
            Samples a second, of input and output.
        n_mels, nfft, window_size, hop_length (`int`, default to 128, 960, 960, 240):
            Mel bins; samples of a Fourier transform, of its Hann window, and from one to the next.
        fmin, fmax (`float`, default to 0 and `None`):
            Range of the mel bins in Hz; None: half the sampling rate.
        d_model (`int`, defaults to 1280):
            Width of encoder, codebooks and decoder.
        encoder_layers, encoder_attention_heads, encoder_ffn_dim (`int`, default to 32, 20, 5120):
            The encoder's transformer, at `sampling_rate / (hop_length * stride_size)` frames a second.
        encoder_skip_layer_id (`int`, *optional*, defaults to 3):
            The output of this layer, counted from 1, is added to that of the last; None: of none.
        encoder_causal, decoder_causal (`bool`, default to `False` and `True`):
            Whether a frame sees no later ones in attention.
        encoder_attn_window_size, decoder_attn_window_size (`list[int]`, default to `[-1, -1]`):
            Frames that attention sees to the left and to the right; -1: all. With `*_causal` the right side is 0.
        stride_size, avg_pooler (`int`, default to 2 and 2):
            Mel frames a frame of the encoder, and frames of the encoder a frame of codes.
        decoder_kernel_size, decoder_stride_size (`int`, default to 3 and 2):
            Of the transposed convolution that returns to mel frames.
        vocoder_dim, vocoder_num_layers, vocoder_attention_heads, vocoder_intermediate_dim (`int`, default to 256, 16, 16, 1024):
            The transformer that turns mel frames into spectra.
        vocoder_attn_window_size (`list[int]`, defaults to `[40, 10]`):
            As above, in each of its layers.
        num_quantizers (`int`, defaults to 20):
            Residual codebooks.
        codebook_size (`list[int]`, defaults to `[1024, 1024, 128, ...]`):
            Entries of each; the last is repeated where there are fewer than codebooks.
        threshold_ema_dead_code (`int`, defaults to 2):
            In training, an entry that fewer frames than this choose (moving average) is replaced by a frame; 0: never.
        ema_decay (`float`, defaults to 0.99), kmeans_iterations (`int`, defaults to 50):
            How codebooks follow the encoder in training.
        reconstruction_loss_weight, commitment_loss_weight (`float`, default to 1.0):
            `loss` is their weighted sum (arXiv 2512.23808, section 2.1.2).
        max_audio_seconds, scale_embedding:
            Official fields that nothing reads.

    `kernel_size=3`, `ln_type="LayerNorm"`, `position_embedding_type="rope"`, `rope_type="default"` and `vocoder_padding="same"`
    are official fields with one admitted value.

    Raises:
        ValueError: a value from which no codec can be built. The message names the field, the value and the remedy.
    """

    model_type = "mimo_audio_tokenizer"
    attribute_map = {"hidden_size": "d_model", "num_mel_bins": "n_mels"}

    sampling_rate: int = 24000
    n_mels: int = 128
    nfft: int = 960
    window_size: int = 960
    hop_length: int = 240
    fmin: float | int = 0
    fmax: float | int | None = None
    max_audio_seconds: int = 1800
    scale_embedding: bool = False
    activation_function: str = "gelu"
    ln_type: str = "LayerNorm"
    position_embedding_type: str = "rope"
    rope_theta: float | int = 10000
    rope_type: str = "default"
    d_model: int = 1280

    encoder_layers: int = 32
    encoder_attention_heads: int = 20
    encoder_ffn_dim: int = 5120
    encoder_skip_layer_id: int | None = 3
    encoder_causal: bool = False
    kernel_size: int = 3
    stride_size: int = 2
    avg_pooler: int = 2

    decoder_layers: int = 32
    decoder_attention_heads: int = 20
    decoder_ffn_dim: int = 5120
    decoder_kernel_size: int = 3
    decoder_stride_size: int = 2
    decoder_causal: bool = True

    vocoder_dim: int = 256
    vocoder_num_layers: int = 16
    vocoder_attention_heads: int = 16
    vocoder_intermediate_dim: int = 1024
    vocoder_padding: str = "same"

    num_quantizers: int = 20
    threshold_ema_dead_code: int = 2
    ema_decay: float = 0.99
    kmeans_iterations: int = 50
    reconstruction_loss_weight: float | int = 1.0
    commitment_loss_weight: float | int = 1.0
    initializer_range: float = 0.02
    if TYPE_CHECKING:  # what they are once the configuration is made
        encoder_attn_window_size: list[int]
        decoder_attn_window_size: list[int]
        vocoder_attn_window_size: list[int]
        codebook_size: list[int]
    else:
        encoder_attn_window_size: list[int] | tuple[int, ...] = (-1, -1)
        decoder_attn_window_size: list[int] | tuple[int, ...] = (-1, -1)
        vocoder_attn_window_size: list[int] | tuple[int, ...] = (40, 10)
        codebook_size: list[int] | tuple[int, ...] = (1024, 1024, *[128] * 18)

    def __post_init__(self, **kwargs):
        for field in (
            "encoder_attn_window_size",
            "decoder_attn_window_size",
            "vocoder_attn_window_size",
            "codebook_size",
        ):
            setattr(self, field, list(getattr(self, field)))
        super().__post_init__(**kwargs)
        self.check_values()

    @property
    def codebook_sizes(self) -> list[int]:
        """Entries of each of the `num_quantizers` codebooks."""
        given = self.codebook_size[: self.num_quantizers]
        return given + given[-1:] * (self.num_quantizers - len(given))

    @property
    def mel_frames_per_code(self) -> int:
        """Mel frames a frame of codes: 4."""
        return self.stride_size * self.avg_pooler

    @property
    def samples_per_code(self) -> int:
        """Samples a frame of codes: 960."""
        return self.hop_length * self.mel_frames_per_code

    @property
    def frame_rate(self) -> float:
        """Frames of codes a second: 25."""
        return self.sampling_rate / self.samples_per_code

    def code_length(self, mel_frames):
        """Frames of codes that `mel_frames`, a number or a tensor of them, become: M = ceil(ceil(L / 2) / 2)."""
        encoded = (mel_frames - 1) // self.stride_size + 1
        return (encoded - 1) // self.avg_pooler + 1

    def window(self, part: str) -> tuple[int, int]:
        """Frames to the left and right that the attention of `"encoder"`, `"decoder"` or `"vocoder"` sees; -1: all."""
        left, right = getattr(self, f"{part}_attn_window_size")
        return left, 0 if getattr(self, f"{part}_causal", False) else right

    def check_values(self):
        """
        Raises:
            ValueError: a field has a value from which no codec can be built.
        """
        for field, built in FIXED.items():
            if getattr(self, field) != built:
                raise ValueError(
                    f"`{field}` must be {built!r}, as in the released codec; got {getattr(self, field)!r}."
                )
        for field in POSITIVE:
            if getattr(self, field) < 1:
                raise ValueError(f"`{field}` must be at least 1; got {getattr(self, field)}.")
        if self.activation_function not in ACT2FN:
            raise ValueError(
                f"`activation_function` must be a name in transformers' ACT2FN; got {self.activation_function!r}. "
                "The released codec has 'gelu'."
            )
        self._check_rates()
        self._check_widths()
        self._check_codebooks()

    def _check_rates(self):
        if self.avg_pooler < 2:
            raise ValueError(f"`avg_pooler` must be at least 2; got {self.avg_pooler}. The released codec has 2.")
        if self.decoder_stride_size != self.stride_size:
            raise ValueError(
                f"`decoder_stride_size` must be `stride_size`, {self.stride_size}, so that decoded audio is as long as the encoded; "
                f"got {self.decoder_stride_size}."
            )
        if self.decoder_kernel_size < self.decoder_stride_size:
            raise ValueError(
                f"`decoder_kernel_size` must be at least `decoder_stride_size`, {self.decoder_stride_size}; got "
                f"{self.decoder_kernel_size}."
            )
        if self.window_size != self.nfft or not self.hop_length <= self.nfft or (self.nfft - self.hop_length) % 2:
            raise ValueError(
                "`window_size` must be `nfft`, at least `hop_length` and longer by an even number; got window_size="
                f"{self.window_size}, nfft={self.nfft}, hop_length={self.hop_length}."
            )
        top = self.sampling_rate / 2 if self.fmax is None else self.fmax
        if not 0 <= self.fmin < top <= self.sampling_rate / 2:
            raise ValueError(
                f"`fmin` and `fmax` must be rising frequencies from 0 to {self.sampling_rate / 2:g} Hz; got {self.fmin} and {self.fmax}."
            )

    def _check_widths(self):
        for part, width in (("encoder", "d_model"), ("decoder", "d_model"), ("vocoder", "vocoder_dim")):
            heads = getattr(self, f"{part}_attention_heads")
            if getattr(self, width) % (2 * heads):
                raise ValueError(
                    f"`{part}_attention_heads` must divide `{width}`, {getattr(self, width)}, into even widths; got {heads}."
                )
            field = f"{part}_attn_window_size"
            given = getattr(self, field)
            if len(given) != 2 or (self.window(part) not in ((-1, -1), (-1, 0)) and min(self.window(part)) < 0):
                raise ValueError(
                    f"`{field}` must be two numbers of frames, left and right, or [-1, -1] for all frames; got {given}."
                )
        skip = self.encoder_skip_layer_id
        if skip is not None and not 1 <= skip <= self.encoder_layers:
            raise ValueError(
                f"`encoder_skip_layer_id` must be None or the number of a layer, 1 to {self.encoder_layers}; got {skip}."
            )

    def _check_codebooks(self):
        if not self.codebook_size or min(self.codebook_size) < 2:
            raise ValueError(
                f"`codebook_size` must be a list of numbers of entries, each at least 2; got {self.codebook_size}."
            )
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be at least 0 and less than 1; got {self.ema_decay}.")
        if self.threshold_ema_dead_code < 0:
            raise ValueError(
                f"`threshold_ema_dead_code` must be at least 0, which replaces nothing; got {self.threshold_ema_dead_code}."
            )


__all__ = ["MiMoAudioTokenizerConfig"]
