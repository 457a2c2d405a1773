"""What encoder, decoder and vocoder of the codec share: transformer layers with windows, and transposed convolutions that know lengths."""

from typing import overload

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_mimo_audio_tokenizer import MiMoAudioTokenizerConfig

BLOCK = 64  # least number of queries that read a window's keys together


@overload
def below(lengths: None, size: int) -> None: ...
@overload
def below(lengths: torch.Tensor, size: int) -> torch.Tensor: ...
def below(lengths: torch.Tensor | None, size: int) -> torch.Tensor | None:
    """`[batch, size]`, true in front of each length; None where all rows are whole."""
    return None if lengths is None else torch.arange(size, device=lengths.device) < lengths[:, None]


def cleared(states: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """`states` `[batch, frames, ...]` with zeros, not NaN times zero, where no frame is."""
    return states if valid is None else torch.where(valid[..., None], states, 0.0)


def rotary(length: int, head_dim: int, theta: float, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of positions 0 to length - 1, `[length, head_dim]`, in the dtype of `states`."""
    powers = torch.arange(0, head_dim, 2, device=states.device, dtype=torch.float32) / head_dim
    angles = torch.arange(length, device=states.device, dtype=torch.float32)[:, None] * theta**-powers
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(states.dtype), angles.sin().to(states.dtype)


def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def eager_attention(module, query, key, value, attention_mask, scaling, **kwargs):
    """Softmax over all keys; `attention_mask`: true where a query sees a key."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class MiMoAudioTokenizerAttention(nn.Module):
    """
    Attention with rotary positions; queries and values have biases, keys have none.

    Padding stands behind the frames, so a causal layer needs no mask for it, and one that sees both ways a mask of one row. Windows are read
    block by block: the memory of a mask grows with the length, not with its square.
    """

    def __init__(self, config: MiMoAudioTokenizerConfig, width: int, num_heads: int, window: tuple[int, int]):
        super().__init__()
        self.config = config
        self.head_dim = width // num_heads
        self.scaling = self.head_dim**-0.5
        self.num_key_value_groups = 1
        self.window = window
        self.is_causal = window == (-1, 0)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        hidden_states: torch.Tensor,
        valid: torch.Tensor | None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        shape = (*hidden_states.shape[:2], -1, self.head_dim)
        query, key, value = (
            projection(hidden_states).view(shape).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotated(query, *position_embeddings), rotated(key, *position_embeddings)
        if min(self.window) >= 0:
            attended = self._in_blocks(query, key, value, valid)
        elif self.is_causal:
            length = query.shape[2]
            is_eager = self.config._attn_implementation == "eager"
            mask = query.new_ones(length, length, dtype=torch.bool).tril() if is_eager else None
            attended = self._attend(query, key, value, mask)
        else:
            attended = self._attend(query, key, value, None if valid is None else valid[:, None, None, :])
        return self.out_proj(attended.flatten(2))

    def _attend(self, query, key, value, mask):
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        return interface(self, query, key, value, mask, dropout=0.0, scaling=self.scaling)[0]

    def _in_blocks(self, query, key, value, valid):
        """Blocks of queries as rows of a batch, each with the keys from `left` before its first to `right` behind its last."""
        left, right = self.window
        rows, heads, length, width = query.shape
        size = min(max(BLOCK, left + right), length)
        span = size + left + right
        count = -(-length // size)
        behind = count * size - length

        blocks = F.pad(query, (0, 0, 0, behind)).view(rows, heads, count, size, width).transpose(1, 2).flatten(0, 1)
        keys, values = (
            F.pad(states, (0, 0, left, right + behind)).unfold(2, span, size).permute(0, 2, 1, 4, 3).flatten(0, 1)
            for states in (key, value)
        )
        if valid is None:
            valid = query.new_ones(1, length, dtype=torch.bool)
        there = F.pad(valid, (left, right + behind)).unfold(1, span, size).expand(rows, -1, -1).flatten(0, 1)
        distance = torch.arange(span, device=query.device) - torch.arange(size, device=query.device)[:, None]
        seen = there[:, None, :] & (distance >= 0) & (distance <= left + right)
        seen = seen | (distance == left)  # a query that is padding sees itself: no row of the softmax is empty
        attended = self._attend(blocks, keys, values, seen[:, None])
        return attended.reshape(rows, count * size, heads, width)[:, :length]


class MiMoAudioTokenizerLayer(GradientCheckpointingLayer):
    """x += attention(norm(x)); x += fc2(gelu(fc1(norm(x))))."""

    def __init__(
        self, config: MiMoAudioTokenizerConfig, width: int, num_heads: int, ffn_dim: int, window: tuple[int, int]
    ):
        super().__init__()
        self.self_attn = MiMoAudioTokenizerAttention(config, width, num_heads, window)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.activation = ACT2FN[config.activation_function]
        self.fc1 = nn.Linear(width, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(
        self,
        hidden_states: torch.Tensor,
        valid: torch.Tensor | None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        hidden_states = hidden_states + self.self_attn(
            self.self_attn_layer_norm(hidden_states), valid, position_embeddings
        )
        hidden_states = hidden_states + self.fc2(self.activation(self.fc1(self.final_layer_norm(hidden_states))))
        if hidden_states.dtype in (torch.float16, torch.bfloat16):
            largest = torch.finfo(hidden_states.dtype).max
            hidden_states = hidden_states.clamp(-largest, largest)
        return hidden_states


def run_layers(
    layers: nn.ModuleList,
    hidden_states: torch.Tensor,
    valid: torch.Tensor | None,
    theta: float,
    skip: int | None = None,
) -> torch.Tensor:
    """`hidden_states` `[batch, frames, width]` through all layers; the output of layer `skip`, counted from 1, is added to the last."""
    head_dim = layers[0].self_attn.head_dim
    positions = rotary(hidden_states.shape[1], head_dim, theta, hidden_states)
    kept = None
    for number, layer in enumerate(layers, 1):
        hidden_states = layer(hidden_states, valid, positions)
        if number == skip:
            kept = hidden_states
    return hidden_states if kept is None else hidden_states + kept


class MaskedGroupNorm(nn.GroupNorm):
    """One group of all channels and of those frames of the time axis that a clip has; statistics in float32."""

    def forward(self, states: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            states: `[batch, channels, frames]`. lengths: frames of each clip; None: all.
        """
        x = states.float()
        if lengths is None:
            variance, mean = torch.var_mean(x, dim=(1, 2), correction=0, keepdim=True)
        else:
            inside = below(lengths, x.shape[2])[:, None]
            count = (lengths * x.shape[1])[:, None, None]
            mean = torch.where(inside, x, 0.0).sum(dim=(1, 2), keepdim=True) / count
            variance = torch.where(inside, x - mean, 0.0).square().sum(dim=(1, 2), keepdim=True) / count
        x = (x - mean) * torch.rsqrt(variance + self.eps)
        return (x * self.weight[:, None] + self.bias[:, None]).to(states.dtype)


class NormedTransposedConv(nn.Module):
    """`stride` frames for each of the input: transposed convolution, norm over all frames that it makes, then the last ones dropped."""

    def __init__(self, channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.conv = nn.ConvTranspose1d(channels, out_channels, kernel_size, stride)
        self.norm = MaskedGroupNorm(1, out_channels)
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, hidden_states: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        """`[batch, frames, channels]`, zeros behind the end of each clip, to `[batch, frames * stride, out_channels]`, likewise."""
        frames = hidden_states.shape[1] * self.stride
        made = None if lengths is None else (lengths - 1) * self.stride + self.kernel_size
        states = self.norm(self.conv(hidden_states.transpose(1, 2)), made)[..., :frames].transpose(1, 2)
        return cleared(states, below(None if lengths is None else lengths * self.stride, frames))


__all__ = ["MiMoAudioTokenizerLayer", "NormedTransposedConv", "below", "cleared", "run_layers"]
