"""MiMo-Audio-Tokenizer: speech to codes and back, one frame of residual codes for 40 ms."""

from .. import transformers_versions  # noqa: F401  it refuses a version that is too old

# isort: split

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils import ModelOutput, can_return_tuple

from .codec_inputs import check_codes, check_features, check_quantizers, check_samples
from .codec_layers import MiMoAudioTokenizerLayer, NormedTransposedConv, below, cleared, run_layers
from .codec_long import LongAudioMixin
from .codec_losses import multi_mel_loss
from .codec_quantizer import Codebook, ResidualVectorQuantizer
from .codec_vocoder import InverseSpectrogram, MiMoAudioTokenizerVocoder
from .configuration_mimo_audio_tokenizer import MiMoAudioTokenizerConfig
from .mel import log_mel


@dataclass
class MiMoAudioTokenizerEncoderOutput(ModelOutput):
    """`audio_codes` `[batch, quantizers, frames]`, 0 behind the end of a clip; `audio_codes_mask` `[batch, frames]`, 1 on its own frames."""

    audio_codes: torch.LongTensor | None = None
    audio_codes_mask: torch.LongTensor | None = None


@dataclass
class MiMoAudioTokenizerDecoderOutput(ModelOutput):
    """`audio_values` float32 `[batch, 1, samples]`, 960 samples for a frame of codes, 0 behind the end of a clip."""

    audio_values: torch.FloatTensor | None = None


@dataclass
class MiMoAudioTokenizerOutput(ModelOutput):
    """`loss` is the weighted sum of `reconstruction_loss` and `commitment_loss`; the rest as from `encode` and `decode`."""

    loss: torch.FloatTensor | None = None
    reconstruction_loss: torch.FloatTensor | None = None
    commitment_loss: torch.FloatTensor | None = None
    audio_codes: torch.LongTensor | None = None
    audio_codes_mask: torch.LongTensor | None = None
    audio_values: torch.FloatTensor | None = None


class MiMoAudioTokenizerEncoder(nn.Module):
    """Mel frames `[batch, frames, n_mels]` to states `[batch, code frames, d_model]`, and the codebooks as `quantizer`."""

    def __init__(self, config: MiMoAudioTokenizerConfig):
        super().__init__()
        self.config = config
        width = config.d_model
        self.conv1 = nn.Conv1d(config.n_mels, width, config.kernel_size, padding=1)
        self.conv2 = nn.Conv1d(width, width, config.kernel_size, stride=config.stride_size, padding=1)
        self.layers = nn.ModuleList(
            MiMoAudioTokenizerLayer(
                config, width, config.encoder_attention_heads, config.encoder_ffn_dim, config.window("encoder")
            )
            for _ in range(config.encoder_layers)
        )
        self.layer_norm = nn.LayerNorm(width)
        pool = config.avg_pooler
        self.down_sample_layer = nn.Sequential(nn.Conv1d(width, width, pool, pool, bias=False), nn.GELU())
        self.down_sample_norm = nn.LayerNorm(width)
        self.quantizer = ResidualVectorQuantizer(config)

    def forward(self, mel: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        config = self.config
        inside = below(lengths, mel.shape[1])
        states = cleared(mel.to(self.conv1.weight.dtype), inside)
        # A bias of conv1 in padded frames would reach the last frame through conv2: cleared again.
        states = cleared(F.gelu(self.conv1(states.transpose(1, 2))).transpose(1, 2), inside)
        states = F.gelu(self.conv2(states.transpose(1, 2))).transpose(1, 2)
        lengths = None if lengths is None else (lengths - 1) // config.stride_size + 1
        inside = below(lengths, states.shape[1])
        states = run_layers(self.layers, states, inside, config.rope_theta, config.encoder_skip_layer_id)
        states = cleared(self.layer_norm(states), inside)
        states = F.pad(states, (0, 0, 0, -states.shape[1] % config.avg_pooler))
        return self.down_sample_norm(self.down_sample_layer(states.transpose(1, 2)).transpose(1, 2))


class MiMoAudioTokenizerDecoder(nn.Module):
    """Sums of codebook entries `[batch, code frames, d_model]` to float32 samples `[batch, code frames * 960]`."""

    def __init__(self, config: MiMoAudioTokenizerConfig):
        super().__init__()
        self.config = config
        width = config.d_model
        self.dconv1 = NormedTransposedConv(width, width, config.avg_pooler, config.avg_pooler)
        self.layers = nn.ModuleList(
            MiMoAudioTokenizerLayer(
                config, width, config.decoder_attention_heads, config.decoder_ffn_dim, config.window("decoder")
            )
            for _ in range(config.decoder_layers)
        )
        self.layer_norm = nn.LayerNorm(width)
        self.dconv2 = NormedTransposedConv(
            width, config.n_mels, config.decoder_kernel_size, config.decoder_stride_size
        )
        self.vocoder = MiMoAudioTokenizerVocoder(config)

    def forward(self, states: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        config = self.config
        states = cleared(states.to(self.layer_norm.weight.dtype), below(lengths, states.shape[1]))
        states = self.dconv1(states, lengths)
        lengths = None if lengths is None else lengths * config.avg_pooler
        inside = below(lengths, states.shape[1])
        states = cleared(self.layer_norm(run_layers(self.layers, states, inside, config.rope_theta)), inside)
        mel = self.dconv2(states, lengths)
        return self.vocoder(mel, None if lengths is None else lengths * config.decoder_stride_size)


class MiMoAudioTokenizerPreTrainedModel(PreTrainedAudioTokenizerBase):
    """Initial weights, saving and loading of the codec."""

    config: MiMoAudioTokenizerConfig
    config_class = MiMoAudioTokenizerConfig
    main_input_name = "input_features"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["MiMoAudioTokenizerLayer"]
    _keep_in_fp32_modules_strict = ["quantizer", "istft"]

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, Codebook):
            init.normal_(module.embed, std=0.1)
            for buffer in (module.inited, module.cluster_size, module.embed_avg):
                init.zeros_(buffer)
        elif isinstance(module, InverseSpectrogram):
            init.copy_(module.window, torch.hann_window(module.n_fft, dtype=torch.float32))

    # transformers looks for this ability in the source file of the class; the attention lives in codec_layers.py.
    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True


class MiMoAudioTokenizerModel(LongAudioMixin, MiMoAudioTokenizerPreTrainedModel):
    r"""
    The codec of MiMo-Audio (arXiv 2512.23808, section 2.1): 24 kHz speech to 25 frames of residual codes a second, and back.

    ```python
    codes = codec.encode(**extractor(clips, sampling_rate=24_000, return_tensors="pt"))
    audio = codec.decode(codes.audio_codes[:, :8], codes.audio_codes_mask).audio_values
    ```

    A clip in a batch gets the codes and the samples that it gets alone: what stands behind its end is never read. Codebooks and the inverse
    Fourier transform work in float32 in a model of any dtype. In training (`model.train()`, gradients in the encoder) the codebooks follow
    the encoder; with a frozen encoder they stay, as in the second stage of section 2.1.2.
    """

    def __init__(self, config: MiMoAudioTokenizerConfig):
        config.check_values()
        super().__init__(config)
        self.encoder = MiMoAudioTokenizerEncoder(config)
        self.decoder = MiMoAudioTokenizerDecoder(config)
        self.post_init()

    @can_return_tuple
    def encode(
        self,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        *,
        input_values: torch.Tensor | None = None,
        input_values_mask: torch.Tensor | None = None,
    ) -> MiMoAudioTokenizerEncoderOutput:
        """
        Codes of clips, given as log-mel frames or as samples.

        Args:
            input_features: `[batch, mel frames, n_mels]`, as from MiMoAudioFeatureExtractor.
            input_features_mask: `[batch, mel frames]`, 1 on a clip's own frames, which come first; None: all are.
            num_quantizers: codebooks to use, the first ones; None: all.
            input_values: `[batch, samples]` or `[batch, 1, samples]` at `config.sampling_rate`, in place of `input_features`; their
                log-mel is computed where they are.
            input_values_mask: `[batch, samples]`, likewise.

        Returns:
            `audio_codes` `[batch, num_quantizers, frames]` and `audio_codes_mask` `[batch, frames]`; L mel frames become
            ceil(ceil(L / 2) / 2).

        Raises:
            ValueError: neither or both inputs, another shape, no frames, values that are not finite, or more codebooks than there are.
        """
        number = check_quantizers(self.config, num_quantizers)
        features, lengths = self._features(input_features, input_features_mask, input_values, input_values_mask)
        codes, _, _, valid = self._quantize(features, lengths, number)
        return MiMoAudioTokenizerEncoderOutput(audio_codes=codes, audio_codes_mask=valid.long())

    @can_return_tuple
    def decode(
        self, audio_codes: torch.Tensor, audio_codes_mask: torch.Tensor | None = None
    ) -> MiMoAudioTokenizerDecoderOutput:
        """
        Samples of codes.

        Args:
            audio_codes: whole numbers `[batch, quantizers, frames]`, of the first codebooks, all or fewer.
            audio_codes_mask: `[batch, frames]`, 1 on a clip's own frames, which come first; None: all are.

        Returns:
            `audio_values` float32 `[batch, 1, frames * 960]`; a clip of n frames has n * 960 samples, then zeros.

        Raises:
            TypeError: codes that are no whole numbers. ValueError: another shape, too many codebooks, no frames, or a code that its codebook
                does not have.
        """
        codes, lengths = check_codes(self.config, audio_codes, audio_codes_mask)
        states = self.encoder.quantizer.decode(codes.transpose(0, 1))
        return MiMoAudioTokenizerDecoderOutput(audio_values=self.decoder(states, lengths)[:, None])

    @can_return_tuple
    def forward(
        self,
        input_features: torch.Tensor | None = None,
        input_features_mask: torch.Tensor | None = None,
        num_quantizers: int | None = None,
        input_values: torch.Tensor | None = None,
        input_values_mask: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> MiMoAudioTokenizerOutput:
        """
        Encodes, quantises with a straight-through gradient, and decodes. With `input_values` there is a loss: L1 between mel spectrograms of
        three resolutions, and the commitment to the codebooks (arXiv 2512.23808, section 2.1.2; the report's third term needs a language
        model, its second stage discriminators: neither is published).

        Args:
            input_features, input_features_mask, num_quantizers, input_values, input_values_mask: as for `encode`.
            return_loss: whether to compare with `input_values`.
        """
        number = check_quantizers(self.config, num_quantizers)
        samples = sample_lengths = None
        if input_values is not None and input_features is None:
            samples, sample_lengths = check_samples(input_values, input_values_mask)
            features, lengths = self._log_mel(samples, sample_lengths)
        else:
            features, lengths = check_features(self.config, input_features, input_features_mask, input_values)
        codes, states, commitment, valid = self._quantize(features, lengths, number, straight_through=True)
        audio = self.decoder(states, None if lengths is None else valid.sum(dim=1))
        loss = reconstruction = None
        if return_loss and samples is not None:
            reconstruction = multi_mel_loss(
                audio[:, : samples.shape[1]],
                samples,
                _as_lengths(samples, sample_lengths),
                self.config.sampling_rate,
            )
            weights = self.config.reconstruction_loss_weight, self.config.commitment_loss_weight
            loss = weights[0] * reconstruction + weights[1] * commitment
        return MiMoAudioTokenizerOutput(
            loss=loss,
            reconstruction_loss=reconstruction,
            commitment_loss=commitment,
            audio_codes=codes,
            audio_codes_mask=valid.long(),
            audio_values=audio[:, None],
        )

    def _features(self, features, features_mask, values, values_mask) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-mel frames, of samples where these are given, and lengths or None where every frame is a clip's own."""
        if values is not None and features is None:
            return self._log_mel(*check_samples(values, values_mask))
        return check_features(self.config, features, features_mask, values)

    def _log_mel(self, samples: torch.Tensor, lengths: torch.Tensor | None):
        config = self.config
        features = log_mel(
            samples,
            _as_lengths(samples, lengths),
            n_fft=config.nfft,
            hop_length=config.hop_length,
            n_mels=config.n_mels,
            sampling_rate=config.sampling_rate,
            f_min=config.fmin,
            f_max=config.fmax,
        )
        return features, None if lengths is None else 1 + lengths // config.hop_length

    def _quantize(self, features, lengths, num_quantizers: int, straight_through: bool = False):
        """Codes `[batch, quantizers, frames]`, sums of entries `[batch, frames, d_model]`, commitment loss, and which frames are a clip's own."""
        states = self.encoder(features, lengths)
        rows, frames = states.shape[:2]
        lengths = None if lengths is None else self.config.code_length(lengths)
        valid = states.new_ones(rows, frames, dtype=torch.bool) if lengths is None else below(lengths, frames)
        own = states[valid]
        update = straight_through and self.training and own.requires_grad
        chosen, entries, commitment = self.encoder.quantizer.encode(own, num_quantizers, update)
        codes = chosen.new_zeros(rows, frames, num_quantizers)
        codes[valid] = chosen.T
        sums = None
        if straight_through:
            sums = torch.zeros_like(states, dtype=torch.float32)
            sums = sums.masked_scatter(valid[..., None], own + (entries - own).detach())
        return codes.transpose(1, 2), sums, commitment, valid


def _as_lengths(samples: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    return samples.new_full((len(samples),), samples.shape[1], dtype=torch.long) if lengths is None else lengths


__all__ = ["MiMoAudioTokenizerModel", "MiMoAudioTokenizerPreTrainedModel"]
