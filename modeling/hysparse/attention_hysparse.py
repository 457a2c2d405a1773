"""
The attention modules of HySparse. Operators are named by what they do (attend all, attend blocks), layers by what they are: a full
layer attends all keys and selects blocks of them; a sparse one attends these blocks, and a window of its own.
"""

import copy

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as v2_flash

from ..sink_attention import sink_attention_forward
from .attend import attend_all, attend_blocks, attend_window
from .block_selection import Selection
from .cache_hysparse import HySparseCache, release_past
from .configuration_hysparse import HySparseConfig
from .row_layout import Rows

try:
    from kernels import use_kernel_forward_from_hub
except ImportError:  # without the kernels library there is nothing to replace a layer with

    def use_kernel_forward_from_hub(layer_name: str):
        return lambda layer: layer


NAME = "hysparse_chunked"
AttentionInterface.register(NAME, sink_attention_forward)
AttentionMaskInterface.register(NAME, flash_attention_mask)  # the 2-D mask as it is: only its padding is read

Rotation = tuple[torch.Tensor, torch.Tensor]


class HySparseRMSNorm(v2_flash.MiMoV2FlashRMSNorm):
    """Exact in a float64 model."""

    def __init__(self, config: HySparseConfig, width: int):
        super().__init__(width, eps=config.rms_norm_eps)
        self.in_float32 = config.float32_norm_and_rope

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[..., width]`, normed over the last dimension."""
        if hidden_states.dtype != torch.float64 or self.in_float32:
            return super().forward(hidden_states)
        variance = hidden_states.square().mean(-1, keepdim=True)
        return self.weight * (hidden_states * torch.rsqrt(variance + self.variance_epsilon))


class HySparseRotaryEmbedding(v2_flash.MiMoV2FlashRotaryEmbedding):
    """Angles by layer type; exact ones in a float64 model."""

    def __init__(self, config: HySparseConfig):
        by_type = copy.copy(config)
        by_type.layer_types = ["full_attention", "sliding_attention"]  # angles for both, whatever layers there are
        by_type.rope_parameters = {
            layer_type: {"partial_rotary_factor": 1.0, **config.rope_of(layer_type)}
            for layer_type in ("full_attention", "sliding_attention")
        }
        super().__init__(by_type)

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.LongTensor, layer_type: str) -> Rotation:
        """cos and sin, `[batch, length, rotary width]`."""
        exact = x.dtype == torch.float64 and not self.config.float32_norm_and_rope
        if not exact or self.rope_type[layer_type] != "default":
            return super().forward(x, position_ids, layer_type)
        rope = self.config.rope_parameters[layer_type]
        width = int(self.config.head_dim * rope["partial_rotary_factor"])
        exponents = torch.arange(0, width, 2, dtype=x.dtype, device=x.device) / width
        angles = position_ids[..., None].to(x.dtype) * rope["rope_theta"] ** -exponents
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


# Operators, with the settings of a configuration. A kernel may replace their forward, under the name in the decorator: its
# signature is the kernel's, and `Rows` goes no further.


@use_kernel_forward_from_hub("HySparseFullAttention")
class AttendAll(nn.Module):
    """`attend_all` with the paper's oracle; ablated oracles have no kernel."""

    def __init__(self, config: HySparseConfig):
        super().__init__()
        self.scaling = config.head_dim**-0.5
        self.block_size = config.sparse_block_size
        self.topk_blocks = config.topk_blocks
        self.forced_local_blocks = config.forced_local_blocks
        self.forced_initial_blocks = config.forced_initial_blocks

    def forward(self, query, key, value, kv_start, q_offset: int, need_selection: bool):
        """
        Returns:
            `[batch, heads, queries, v_head_dim]`, and `[batch, key_value_heads, queries, topk_blocks]` or None.
        """
        forced = self.forced_local_blocks, self.forced_initial_blocks
        selection = Selection(self.block_size, self.topk_blocks, "max", *forced) if need_selection else None
        return attend_all(query, key, value, Rows(kv_start, q_offset), scaling=self.scaling, selection=selection)[:2]


@use_kernel_forward_from_hub("HySparseSparseAttention")
class AttendBlocks(nn.Module):
    """`attend_blocks` without weights."""

    def __init__(self, config: HySparseConfig):
        super().__init__()
        self.scaling = config.head_dim**-0.5
        self.block_size = config.sparse_block_size

    def forward(self, query, key, value, block_indices, sinks, kv_start, q_offset: int) -> torch.Tensor:
        """`[batch, heads, queries, v_head_dim]`."""
        rows, options = Rows(kv_start, q_offset), {"scaling": self.scaling, "block_size": self.block_size}
        return attend_blocks(query, key, value, block_indices, rows, sinks=sinks, **options)[0]


# Layers


class HySparseAttention(nn.Module):
    """What full and sparse layers share: the projections of queries and outputs."""

    def __init__(self, config: HySparseConfig, layer_idx: int, num_key_value_heads: int | None):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.v_head_dim = config.v_head_dim
        self.scaling = config.head_dim**-0.5
        self.is_causal = True
        heads, bias = config.num_attention_heads, config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, heads * config.head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * config.v_head_dim, config.hidden_size, bias=False)
        self.q_norm = self._head_norm()
        if num_key_value_heads is not None:
            self.num_key_value_groups = heads // num_key_value_heads
            self.k_proj = nn.Linear(config.hidden_size, num_key_value_heads * config.head_dim, bias=bias)
            self.v_proj = nn.Linear(config.hidden_size, num_key_value_heads * config.v_head_dim, bias=bias)
            self.k_norm = self._head_norm()

    def _head_norm(self) -> nn.Module:
        return HySparseRMSNorm(self.config, self.head_dim) if self.config.qk_norm else nn.Identity()

    def queries(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[batch, heads, length, head_dim]`, not rotated."""
        return self.q_norm(self.q_proj(hidden_states).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)

    def keys_and_values(self, hidden_states: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor, torch.Tensor]:
        """`[batch, key_value_heads, length, head_dim]`, rotated, and `[..., v_head_dim]`."""
        keys = self.k_norm(self.k_proj(hidden_states).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        values = self.v_proj(hidden_states).unflatten(-1, (-1, self.v_head_dim)).transpose(1, 2)
        return rotate(keys, rotation), values

    def output(self, attended: torch.Tensor) -> torch.Tensor:
        """`[batch, heads, length, v_head_dim]` to `[batch, length, hidden]`."""
        return self.o_proj(attended.transpose(1, 2).flatten(2))


class FullLayerAttention(HySparseAttention):
    """A full layer: its queries see all keys. The last one before sparse layers selects their blocks."""

    def __init__(self, config: HySparseConfig, layer_idx: int):
        super().__init__(config, layer_idx, config.num_key_value_heads)
        self.selection = Selection.of(config) if config.serves_sparse_layers(layer_idx) else None
        self.attend_all = AttendAll(config) if config.oracle_reduce == "max" else None

    def forward(self, hidden_states, shared, rotations, rows: Rows, sliding_mask, past_key_values):
        """
        Args:
            hidden_states: `[batch, length, hidden]`.
            rotations: of full and of sliding layers.

        Returns:
            `[batch, length, hidden]`, attention weights where the implementation is `"eager"`, and what sparse layers
            share: keys, values and block indices.
        """
        query = rotate(self.queries(hidden_states), rotations[0])
        key, value = self.keys_and_values(hidden_states, rotations[0])
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        eager, weights = self.config._attn_implementation == "eager", None
        if eager or self.attend_all is None:
            options = {"scaling": self.scaling, "selection": self.selection, "materialise": eager}
            attended, blocks, weights = attend_all(query, key, value, rows, **options)
        else:
            place = rows.kv_start, rows.q_offset
            attended, blocks = self.attend_all(query, key, value, *place, self.selection is not None)
        if isinstance(past_key_values, HySparseCache) and past_key_values.record_selection and blocks is not None:
            past_key_values.last_selection[self.layer_idx] = blocks
        return self.output(attended), weights, (key, value, blocks)


class SparseLayerAttention(HySparseAttention):
    """A sparse layer: selected blocks of the full layer's keys, and a window of its own, mixed by two gates."""

    def __init__(self, config: HySparseConfig, layer_idx: int):
        has_kv = config.use_swa_branch and not config.swa_shares_kv
        super().__init__(config, layer_idx, config.swa_num_key_value_heads if has_kv else None)
        self.has_kv = has_kv
        self.sliding_window = config.sliding_window
        heads = config.num_attention_heads
        if config.use_sparse_branch:
            self.attend_blocks = AttendBlocks(config)
            self.sparse_sinks = nn.Parameter(torch.zeros(heads)) if config.use_sparse_sink else None
        if config.use_swa_branch:
            self.swa_sinks = nn.Parameter(torch.zeros(heads)) if config.use_swa_sink else None
        if config.use_sparse_branch and config.use_swa_branch:
            width = heads if config.gate_type == "headwise" else heads * config.v_head_dim
            self.sparse_gate = nn.Linear(config.hidden_size, width, bias=config.gate_bias)
            self.swa_gate = nn.Linear(config.hidden_size, width, bias=config.gate_bias)

    def forward(self, hidden_states, shared, rotations, rows: Rows, sliding_mask, past_key_values):
        """
        Args:
            shared: keys, values and block indices of the full layer before.
            sliding_mask: as the attention implementation wants it; None for our own.

        The rest, and what is returned, is as in `FullLayerAttention`; the attention weights are those of the
        sparse branch, where there is one.
        """
        query = self.queries(hidden_states)
        global_query = local_query = rotate(query, rotations[0])
        if self.has_kv and self.config.rope_differs:
            local_query = rotate(query, rotations[1])

        if not self.has_kv and past_key_values is not None:
            past_key_values.update(query[:, :0], query[:, :0], self.layer_idx)  # of no heads: it counts tokens only

        outputs, weights = [], None
        if self.config.use_swa_branch:
            local, weights = self._attend_window(
                local_query, hidden_states, shared, rotations[1], rows, sliding_mask, past_key_values
            )
            outputs.append(local)
        if self.config.use_sparse_branch:
            selected, weights = self._attend_blocks(global_query, shared, rows)
            outputs.append(selected)
        if len(outputs) == 2:
            gates = [self._gate(linear, hidden_states) for linear in (self.swa_gate, self.sparse_gate)]
            outputs = [gate * output for gate, output in zip(gates, outputs, strict=True)]
        return self.output(sum(outputs[1:], outputs[0])), weights, shared

    def _gate(self, linear: nn.Linear, hidden_states: torch.Tensor) -> torch.Tensor:
        gate = linear(hidden_states).sigmoid()
        width = 1 if self.config.gate_type == "headwise" else self.v_head_dim
        return gate.unflatten(-1, (-1, width)).transpose(1, 2)

    def _attend_blocks(self, query, shared, rows):
        key, value, blocks = shared
        if self.config._attn_implementation != "eager":
            place = rows.kv_start, rows.q_offset
            return self.attend_blocks(query, key, value, blocks, self.sparse_sinks, *place), None
        options = {"scaling": self.scaling, "block_size": self.config.sparse_block_size, "materialise": True}
        return attend_blocks(query, key, value, blocks, rows, sinks=self.sparse_sinks, **options)

    def _attend_window(self, query, hidden_states, shared, rotation, rows, sliding_mask, past_key_values):
        implementation = self.config._attn_implementation
        if self.has_kv:
            key, value = self.keys_and_values(hidden_states, rotation)
            if past_key_values is not None:
                rows = rows._replace(k_offset=past_key_values.get_mask_sizes(query.shape[2], self.layer_idx)[1])
                key, value = past_key_values.update(key, value, self.layer_idx)
                release_past(past_key_values, self.layer_idx)
            if implementation not in (NAME, "eager"):
                attend = v2_flash.ALL_ATTENTION_FUNCTIONS[implementation]
                attended, _ = attend(
                    self,
                    query,
                    key,
                    value,
                    sliding_mask,
                    scaling=self.scaling,
                    sliding_window=self.sliding_window,
                    s_aux=self.swa_sinks,
                )
                return attended.transpose(1, 2), None
        else:
            key, value, _ = shared
        return attend_window(
            query,
            key,
            value,
            rows,
            scaling=self.scaling,
            window=self.sliding_window,
            sinks=self.swa_sinks,
            materialise=implementation == "eager",
        )


def rotate(states: torch.Tensor, rotation: Rotation) -> torch.Tensor:
    """`[batch, heads, length, width]` by cos and sin, `[batch or 1, length, rotary width]`."""
    cos, sin = (table.unsqueeze(1) for table in rotation)
    turned, kept = states[..., : cos.shape[-1]], states[..., cos.shape[-1] :]
    return torch.cat([turned * cos + v2_flash.rotate_half(turned) * sin, kept], dim=-1)


__all__ = [
    "NAME",
    "FullLayerAttention",
    "HySparseAttention",
    "HySparseRMSNorm",
    "HySparseRotaryEmbedding",
    "SparseLayerAttention",
]
