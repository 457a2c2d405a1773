"""The attention modules of HySparse: full layers select, sparse layers read the selection beside a window of their own."""

import copy

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask
from transformers.models.mimo_v2_flash import modeling_mimo_v2_flash as v2_flash

from ..sink_attention import sink_attention_forward
from .block_attention import block_sparse_attention, full_attention, window_attention
from .cache_hysparse import HySparseCache, release_past
from .configuration_hysparse import HySparseConfig

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


class SelectingAttention(nn.Module):
    """`full_attention` with the settings of a configuration."""

    def __init__(self, config: HySparseConfig):
        super().__init__()
        self.scaling = config.head_dim**-0.5
        self.block_size = config.sparse_block_size
        self.topk_blocks = config.topk_blocks
        self.oracle_reduce = config.oracle_reduce
        self.forced_local_blocks = config.forced_local_blocks
        self.forced_initial_blocks = config.forced_initial_blocks

    def attend(self, query, key, value, kv_start, q_offset: int, need_selection: bool, materialise: bool = False):
        return full_attention(
            query,
            key,
            value,
            scaling=self.scaling,
            block_size=self.block_size,
            topk=self.topk_blocks,
            kv_start=kv_start,
            q_offset=q_offset,
            need_selection=need_selection,
            oracle_reduce=self.oracle_reduce,
            forced_local_blocks=self.forced_local_blocks,
            forced_initial_blocks=self.forced_initial_blocks,
            materialise=materialise,
        )

    def forward(self, query, key, value, kv_start, q_offset: int, need_selection: bool):
        """
        Returns:
            `[batch, heads, queries, v_head_dim]`, and `[batch, key_value_heads, queries, topk_blocks]` or None.
        """
        output, blocks, _ = self.attend(query, key, value, kv_start, q_offset, need_selection)
        return output, blocks


@use_kernel_forward_from_hub("HySparseFullAttention")
class HySparseFullAttention(SelectingAttention):
    """The oracle of the paper, which a kernel may replace; ablated oracles have none."""


@use_kernel_forward_from_hub("HySparseSparseAttention")
class HySparseSparseAttention(nn.Module):
    """`block_sparse_attention` with the settings of a configuration; a kernel may replace it."""

    def __init__(self, config: HySparseConfig):
        super().__init__()
        self.scaling = config.head_dim**-0.5
        self.block_size = config.sparse_block_size

    def forward(self, query, key, value, block_indices, sinks, kv_start, q_offset: int) -> torch.Tensor:
        """`[batch, heads, queries, v_head_dim]`."""
        output, _ = block_sparse_attention(
            query,
            key,
            value,
            block_indices,
            scaling=self.scaling,
            block_size=self.block_size,
            kv_start=kv_start,
            q_offset=q_offset,
            sinks=sinks,
        )
        return output


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


class HySparseSelectingAttention(HySparseAttention):
    """Full attention; the last one before sparse layers selects their blocks."""

    def __init__(self, config: HySparseConfig, layer_idx: int):
        super().__init__(config, layer_idx, config.num_key_value_heads)
        self.need_selection = config.serves_sparse_layers(layer_idx)
        self.full_attention = (HySparseFullAttention if config.oracle_reduce == "max" else SelectingAttention)(config)

    def forward(self, hidden_states, shared, rotations, kv_start, q_offset: int, sliding_mask, past_key_values):
        """
        Args:
            hidden_states: `[batch, length, hidden]`.
            rotations: of full and of sliding layers.
            kv_start: the first slot of each row, `[batch]`, or None.
            q_offset: the slot of the first query.

        Returns:
            `[batch, length, hidden]`, attention weights where the implementation is `"eager"`, and what sparse layers
            share: keys, values and block indices.
        """
        query = rotate(self.queries(hidden_states), rotations[0])
        key, value = self.keys_and_values(hidden_states, rotations[0])
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        arguments = (query, key, value, kv_start, q_offset, self.need_selection)
        weights = None
        if self.config._attn_implementation == "eager":
            attended, blocks, weights = self.full_attention.attend(*arguments, materialise=True)
        else:
            attended, blocks = self.full_attention(*arguments)
        if isinstance(past_key_values, HySparseCache) and past_key_values.record_selection and blocks is not None:
            past_key_values.last_selection[self.layer_idx] = blocks
        return self.output(attended), weights, (key, value, blocks)


class HySparseHybridAttention(HySparseAttention):
    """A sparse layer: selected blocks of the full layer's keys, and a window of its own, mixed by two gates."""

    def __init__(self, config: HySparseConfig, layer_idx: int):
        has_kv = config.use_swa_branch and not config.swa_shares_kv
        super().__init__(config, layer_idx, config.swa_num_key_value_heads if has_kv else None)
        self.has_kv = has_kv
        self.sliding_window = config.sliding_window
        heads = config.num_attention_heads
        if config.use_sparse_branch:
            self.sparse_attention = HySparseSparseAttention(config)
            self.sparse_sinks = nn.Parameter(torch.zeros(heads)) if config.use_sparse_sink else None
        if config.use_swa_branch:
            self.swa_sinks = nn.Parameter(torch.zeros(heads)) if config.use_swa_sink else None
        if config.use_sparse_branch and config.use_swa_branch:
            width = heads if config.gate_type == "headwise" else heads * config.v_head_dim
            self.sparse_gate = nn.Linear(config.hidden_size, width, bias=config.gate_bias)
            self.swa_gate = nn.Linear(config.hidden_size, width, bias=config.gate_bias)

    def forward(self, hidden_states, shared, rotations, kv_start, q_offset: int, sliding_mask, past_key_values):
        """
        Args:
            shared: keys, values and block indices of the full layer before.
            sliding_mask: as the attention implementation wants it; None for our own.

        The rest, and what is returned, is as in `HySparseSelectingAttention`; the attention weights are those of the
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
                local_query, hidden_states, shared, rotations[1], kv_start, q_offset, sliding_mask, past_key_values
            )
            outputs.append(local)
        if self.config.use_sparse_branch:
            selected, weights = self._attend_selected(global_query, shared, kv_start, q_offset)
            outputs.append(selected)
        if len(outputs) == 2:
            gates = [self._gate(linear, hidden_states) for linear in (self.swa_gate, self.sparse_gate)]
            outputs = [gate * output for gate, output in zip(gates, outputs, strict=True)]
        return self.output(sum(outputs[1:], outputs[0])), weights, shared

    def _gate(self, linear: nn.Linear, hidden_states: torch.Tensor) -> torch.Tensor:
        gate = linear(hidden_states).sigmoid()
        width = 1 if self.config.gate_type == "headwise" else self.v_head_dim
        return gate.unflatten(-1, (-1, width)).transpose(1, 2)

    def _attend_selected(self, query, shared, kv_start, q_offset):
        key, value, blocks = shared
        if self.config._attn_implementation == "eager":
            return block_sparse_attention(
                query,
                key,
                value,
                blocks,
                scaling=self.scaling,
                block_size=self.config.sparse_block_size,
                kv_start=kv_start,
                q_offset=q_offset,
                sinks=self.sparse_sinks,
                materialise=True,
            )
        return self.sparse_attention(query, key, value, blocks, self.sparse_sinks, kv_start, q_offset), None

    def _attend_window(
        self, query, hidden_states, shared, rotation, kv_start, q_offset, sliding_mask, past_key_values
    ):
        implementation = self.config._attn_implementation
        k_offset = 0
        if self.has_kv:
            key, value = self.keys_and_values(hidden_states, rotation)
            if past_key_values is not None:
                k_offset = past_key_values.get_mask_sizes(query.shape[2], self.layer_idx)[1]
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
        return window_attention(
            query,
            key,
            value,
            scaling=self.scaling,
            window=self.sliding_window,
            kv_start=kv_start,
            q_offset=q_offset,
            k_offset=k_offset,
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
    "HySparseAttention",
    "HySparseHybridAttention",
    "HySparseRMSNorm",
    "HySparseRotaryEmbedding",
    "HySparseSelectingAttention",
]
