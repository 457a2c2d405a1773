"""Configuration of MiMo-Audio's language model: Qwen2's, and the transformers inside a patch of audio."""

from .. import transformers_versions  # noqa: F401  it refuses a version that is too old

# isort: split

from typing import Any

from transformers import Qwen2Config

SPECIAL_TOKENS = {
    "eos_token_id": "<|endoftext|>",
    "im_end_token_id": "<|im_end|>",
    "sosp_token_id": "<|sosp|>",
    "eosp_token_id": "<|eosp|>",
    "empty_token_id": "<|empty|>",
    "sostm_token_id": "<|sostm|>",
    "eostm_token_id": "<|eostm|>",
    "eot_token_id": "<|eot|>",
}
MARKERS = tuple(name for name in SPECIAL_TOKENS if name not in ("eos_token_id", "im_end_token_id"))


class MiMoAudioConfig(Qwen2Config):
    r"""
    transformers' `Qwen2Config` with the fields of the official `config.json` of MiMo-Audio. The audio fields' defaults are those
    of the released models (arXiv 2512.23808, table 2); `rms_norm_eps` and the sizes of the trunk are read from the file.

    Args:
        speech_vocab_size (`str`, `int` or list, defaults to `"1025-1025-129-129-129-129-129-129"`):
            K_c + 1 for each channel c: its codes and the zero id. Dash-separated, a list, or one number for all channels.
        speech_zeroemb_idx (`str`, `int` or list, defaults to `"1024-1024-128-128-128-128-128-128"`):
            The zero id of each channel, its last: it stands where there is no code, and its embedding is zero.
        delay_pattern (`str`, `int` or list, defaults to `"0-1-2-3-4-5-6-7"`):
            d_c: the patch decoder writes channel c of frame f in its step f + d_c (section 2.2.3).
        group_size (`int`, defaults to 4):
            G, frames of 40 ms in a patch.
        audio_channels (`int`, defaults to 8):
            C, codebooks in a frame.
        local_dim, local_layers, local_attn_heads, local_ffn_dim, local_attn_dropout:
            The patch decoder's width, depth, heads (of the patch encoder too), MLP width and attention dropout (of both).
        input_local_dim (`int`, *optional*), input_local_layers (`int`, defaults to 6):
            The patch encoder's width (None: `local_dim`) and depth. Its MLP is four times as wide.
        input_full_attention (`bool`, defaults to `True`):
            Frames of a patch see each other both ways; False: only earlier ones.
        text_loss_weight (`float`, defaults to 100), audio_loss_weights (list, defaults to 12-8-6-4-2-2-1-1):
            Weights of the losses of text and of each channel (section 3.2). Zeros for all channels: no audio loss (stage 1).
        empty_loss_weight (`float`, defaults to 0.01):
            Weight of `<|empty|>` among the targets of the text loss.
        normalize_loss_weights (`bool`, defaults to `True`):
            Divide by the sum of the weights (136).
        sosp_token_id, eosp_token_id, empty_token_id, sostm_token_id, eostm_token_id, eot_token_id, im_end_token_id (`int`):
            `<|sosp|>` and `<|eosp|>` enclose a clip, `<|sostm|>` and `<|eostm|>` interleaved text and speech; `<|empty|>` is the
            text id of a patch, `<|eot|>` ends interleaved text, `<|im_end|>` a turn.

    Raises:
        ValueError: a field has a value from which no model can be built. The message names the field and the value.
    """

    model_type = "mimo_audio"

    vocab_size: int = 151680
    intermediate_size: int = 11008
    num_hidden_layers: int = 36
    num_key_value_heads: int | None = 8
    head_dim: int | None = None
    attention_bias: bool = True
    max_position_embeddings: int = 8192
    eos_token_id: int | list[int] | None = 151643
    default_theta = 640_000.0

    speech_vocab_size: str | int | list[int] = "1025-1025-129-129-129-129-129-129"
    speech_zeroemb_idx: str | int | list[int] = "1024-1024-128-128-128-128-128-128"
    delay_pattern: str | int | list[int] = "0-1-2-3-4-5-6-7"
    group_size: int = 4
    audio_channels: int = 8
    local_dim: int = 1024
    local_layers: int = 16
    local_attn_heads: int = 64
    local_ffn_dim: int = 4096
    local_attn_dropout: float | int = 0.1
    input_local_layers: int = 6
    input_local_dim: int | None = None
    input_full_attention: bool = True
    text_loss_weight: float | int = 100.0
    audio_loss_weights: list[float | int] | None = None
    empty_loss_weight: float | int = 0.01
    normalize_loss_weights: bool = True
    im_end_token_id: int = 151645
    sosp_token_id: int = 151665
    eosp_token_id: int = 151666
    empty_token_id: int = 151667
    sostm_token_id: int = 151670
    eostm_token_id: int = 151671
    eot_token_id: int = 151672

    def __post_init__(self, **kwargs: Any):
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.input_local_dim is None:
            self.input_local_dim = self.local_dim
        if self.audio_loss_weights is None and self.audio_channels == 8:
            self.audio_loss_weights = [12.0, 8.0, 6.0, 4.0, 2.0, 2.0, 1.0, 1.0]
        super().__post_init__(**kwargs)
        self.check_values()

    @property
    def speech_vocab_sizes(self) -> list[int]:
        """K_c + 1 of each channel."""
        return self._per_channel("speech_vocab_size")

    @property
    def speech_zero_ids(self) -> list[int]:
        """The zero id of each channel."""
        return self._per_channel("speech_zeroemb_idx")

    @property
    def delays(self) -> list[int]:
        """d_c of each channel, in steps of the patch decoder."""
        return self._per_channel("delay_pattern")

    @property
    def num_patch_steps(self) -> int:
        """Steps of the patch decoder for one patch: `group_size` + the longest delay."""
        return self.group_size + max(self.delays)

    @property
    def marker_token_ids(self) -> list[int]:
        """The ids of the layout's markers, which are no text."""
        return [getattr(self, name) for name in MARKERS]

    @property
    def stop_token_ids(self) -> list[int]:
        """What ends a turn: `eos_token_id` and `<|im_end|>`."""
        eos = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        return list(dict.fromkeys([*(token for token in eos if token is not None), self.im_end_token_id]))

    @property
    def patch_encoder_config(self) -> Qwen2Config:
        """The patch encoder as a Qwen2 of its own."""
        width = self.input_local_dim or self.local_dim
        return self._local_config(width, self.input_local_layers, 4 * width)

    @property
    def patch_decoder_config(self) -> Qwen2Config:
        """The patch decoder as a Qwen2 of its own."""
        return self._local_config(self.local_dim, self.local_layers, self.local_ffn_dim)

    def _local_config(self, width: int, layers: int, mlp_width: int) -> Qwen2Config:
        config = Qwen2Config(
            vocab_size=1,  # neither has token embeddings
            hidden_size=width,
            intermediate_size=mlp_width,
            num_hidden_layers=layers,
            num_attention_heads=self.local_attn_heads,
            num_key_value_heads=self.local_attn_heads,
            hidden_act=self.hidden_act,
            max_position_embeddings=self.max_position_embeddings,
            initializer_range=self.initializer_range,
            rms_norm_eps=self.rms_norm_eps,
            rope_parameters=dict(self.rope_parameters or {}),
            attention_dropout=self.local_attn_dropout,
            dtype=self.dtype,
        )
        config._attn_implementation = self._attn_implementation
        return config

    def _per_channel(self, field: str) -> list[int]:
        value = getattr(self, field)
        try:
            numbers = [int(part) for part in value.split("-")] if isinstance(value, str) else value
        except ValueError:
            raise ValueError(
                f"`{field}` must be whole numbers separated by dashes, such as '0-1-2-3'; got {value!r}."
            ) from None
        if isinstance(numbers, int):
            return [numbers] * self.audio_channels
        return list(numbers) * self.audio_channels if len(numbers) == 1 else list(numbers)

    def check_values(self):
        """
        Raises:
            ValueError: a field has a value from which no model can be built.
        """
        for field in ("group_size", "audio_channels", "local_layers", "input_local_layers", "local_attn_heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"`{field}` must be at least 1; got {getattr(self, field)}.")
        for field in ("speech_vocab_size", "speech_zeroemb_idx", "delay_pattern"):
            if len(self._per_channel(field)) != self.audio_channels:
                raise ValueError(
                    f"`{field}` must have one number for each of the `audio_channels={self.audio_channels}`, or one for all; "
                    f"got {getattr(self, field)!r}."
                )
        if min(self.delays) < 0:
            raise ValueError(f"`delay_pattern` must not be negative; got {self.delay_pattern!r}.")
        for channel, (size, zero) in enumerate(zip(self.speech_vocab_sizes, self.speech_zero_ids, strict=True)):
            if size < 2 or zero != size - 1:
                raise ValueError(
                    f"`speech_zeroemb_idx` must be the last id of each channel, `speech_vocab_size` - 1, after at least one "
                    f"code; got {zero} of {size} in channel {channel}."
                )
        for field in ("local_dim", "input_local_dim"):
            width = getattr(self, field)
            if width % (2 * self.local_attn_heads):
                raise ValueError(
                    f"`{field}` must be a multiple of 2 * `local_attn_heads={self.local_attn_heads}`, as rotary positions turn "
                    f"pairs of a head's channels; got {width}."
                )
        if not self.attention_bias:
            raise ValueError(
                "`attention_bias` must be True, as queries, keys and values of MiMo-Audio have a bias; got "
                f"{self.attention_bias}."
            )
        self._check_loss_weights()
        self._check_token_ids()

    def _check_loss_weights(self):
        weights = self.audio_loss_weights
        if weights is None or len(weights) != self.audio_channels or min(weights) < 0:
            raise ValueError(
                f"`audio_loss_weights` must be {self.audio_channels} numbers of at least 0, one for each of the "
                f"`audio_channels`; got {weights}."
            )
        for field in ("text_loss_weight", "empty_loss_weight"):
            if getattr(self, field) < 0:
                raise ValueError(f"`{field}` must be at least 0; got {getattr(self, field)}.")
        if self.normalize_loss_weights and self.text_loss_weight + sum(weights) == 0:
            raise ValueError(
                "`text_loss_weight` and `audio_loss_weights` must not all be 0 with `normalize_loss_weights=True`."
            )

    def _check_token_ids(self):
        ids: dict[int, str] = {}
        for field in (*MARKERS, "im_end_token_id"):
            token = getattr(self, field)
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"`{field}` must be an id of {SPECIAL_TOKENS[field]} below `vocab_size={self.vocab_size}`; got {token}. "
                    "Read it from the tokenizer."
                )
            if token in ids:
                raise ValueError(f"`{field}` must differ from `{ids[token]}`; got {token} for both.")
            ids[token] = field


__all__ = ["MARKERS", "SPECIAL_TOKENS", "MiMoAudioConfig"]
