"""Configuration of HySparse: full attention that selects blocks of keys, and sparse layers that read them."""

from .. import transformers_versions  # noqa: F401  it refuses a version that is too old

# isort: split

from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import MiMoV2FlashConfig, PreTrainedConfig

ORACLES = ("max", "sum", "logit_max", "random", "recent")
GATES = ("headwise", "elementwise")
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 640_000.0}

FOREIGN_FIELDS = {
    "hybrid_layer_pattern": "MiMo-V2-Flash",
    "index_topk": "DeepSeek Sparse Attention",
    "kv_lora_rank": "multi-head latent attention",
    "kv_sharing_modes": "a model whose key-value sharing transformers arranges",
    "num_nextn_predict_layers": "a model with multi-token prediction",
}


@strict
class HySparseConfig(PreTrainedConfig):
    r"""
    Hybrid blocks of one full-attention layer and N sparse layers (HySparse, arXiv 2602.03560).

    Args:
        head_dim (`int`, *optional*):
            Width of a query or key head; None: `hidden_size // num_attention_heads`.
        v_head_dim (`int`, *optional*):
            Width of a value head; None: `head_dim`.
        swa_num_key_value_heads (`int`, *optional*):
            Key-value heads of the window branch; None: `num_key_value_heads`.
        sliding_window (`int`, defaults to 128):
            Positions that the window branch of a query sees, itself among them.
        sparse_block_size (`int`, defaults to 64):
            Keys a block; 1: selection of single tokens.
        sparse_topk_tokens (`int`, defaults to 1024):
            Keys that a query of a sparse layer reads, a multiple of `sparse_block_size`.
        sparse_layers_per_full (`int`, defaults to 3):
            N. Layer i is full where i is a multiple of N + 1, and the last one always; 0: all layers are full.
        layer_types (`list[str]`, *optional*):
            `"full_attention"` or `"sliding_attention"` (= sparse) a layer, in place of the rule above; layer 0 is full.
        gate_type (`str`, defaults to `"headwise"`):
            Width of the two sigmoid gates: one number a head, or one a channel (`"elementwise"`).
        gate_bias (`bool`, defaults to `False`):
            Whether the gates have a bias (the paper names none; `convert_dense` starts from it).
        use_sparse_sink, use_swa_sink (`bool`, default to `True`):
            A learned logit per head in the softmax of the branch.
        use_swa_branch (`bool`, defaults to `True`):
            Ablation. False: sparse layers read selected blocks only; no window, no gates.
        use_sparse_branch (`bool`, defaults to `True`):
            Ablation. False: sparse layers have the window only, no gates (hybrid sliding-window attention).
        swa_shares_kv (`bool`, defaults to `False`):
            Ablation. True: the window branch reads the full layer's keys and values; no `k_proj`, no `v_proj`.
        oracle_reduce (`str`, defaults to `"max"`):
            Score of a block: its largest probability, its `"sum"`, its largest logit (`"logit_max"`); or blocks at
            `"random"`, or the most `"recent"` ones.
        forced_local_blocks, forced_initial_blocks (`int`, default to 0):
            Blocks that are always selected: the last ones, the query's own among them, and the first ones.
        qk_norm (`bool`, defaults to `False`):
            RMS norm on each head of queries and keys, before the rotation.
        attention_bias (`bool`, defaults to `False`):
            Biases of `q_proj`, `k_proj` and `v_proj`, as in Qwen2 and MiMo-7B.
        rope_parameters (`dict`, *optional*):
            One description, or one each under `full_attention` and `sliding_attention`. Keys of a full layer are shared
            after their rotation: the queries of the sparse branch turn as the full layers' do.
        float32_norm_and_rope (`bool`, defaults to `False`):
            Norms and angles in float32 even in a float64 model, as transformers' dense models compute them;
            `convert_dense` sets it.
        mlp_layer_types (`list[str]`, *optional*):
            `"dense"` or `"sparse"` (a mixture of experts, as in MiMo-V2-Flash) a layer; None: all dense.

    `selection_granularity="token"` and `forced_local_tokens=n` are read as `sparse_block_size=1` and
    `forced_local_blocks=n`.

    Raises:
        ValueError: a value from which no model can be built, or a field of another architecture. The message names the
            field, the value and the remedy.
    """

    model_type = "hysparse"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]
    attribute_map = {"num_local_experts": "n_routed_experts", "num_experts": "n_routed_experts"}

    # Blocks are selected within a group of heads, so that a process which has the group selects as all of them would.
    base_model_tp_plan = {
        "layers.*.self_attn": "local_params",  # of the sinks
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.q_norm": "mimo_head_norm",
        "layers.*.self_attn.k_norm": "mimo_head_norm",
        "layers.*.self_attn.sparse_gate": "colwise",
        "layers.*.self_attn.swa_gate": "colwise",
        "layers.*.self_attn.sparse_sinks": "colwise",
        "layers.*.self_attn.swa_sinks": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
        "layers.*.mlp.experts.gate_up_proj": "packed_colwise",
        "layers.*.mlp.experts.down_proj": "rowwise",
        "layers.*.mlp.experts": "moe_tp_experts",
    }
    base_model_ep_plan = (
        MiMoV2FlashConfig.base_model_ep_plan
    )  # of the same experts; transformers 5.23 has other styles

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    if TYPE_CHECKING:  # what they are once the configuration is made
        head_dim: int
        v_head_dim: int
        swa_num_key_value_heads: int
        rope_parameters: dict[str, Any]
        layer_types: list[str]
        mlp_layer_types: list[str]
    else:
        head_dim: int | None = None
        v_head_dim: int | None = None
        swa_num_key_value_heads: int | None = None
        rope_parameters: dict | None = None
        layer_types: list[str] | None = None
        mlp_layer_types: list[str] | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    tie_word_embeddings: bool = False
    float32_norm_and_rope: bool = False
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    sliding_window: int = 128
    sparse_block_size: int = 64
    sparse_topk_tokens: int = 1024
    sparse_layers_per_full: int = 3
    gate_type: str = "headwise"
    gate_bias: bool = False
    use_sparse_sink: bool = True
    use_swa_sink: bool = True
    use_swa_branch: bool = True
    use_sparse_branch: bool = True
    swa_shares_kv: bool = False
    oracle_reduce: str = "max"
    forced_local_blocks: int = 0
    forced_initial_blocks: int = 0
    qk_norm: bool = False

    n_routed_experts: int = 0
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 512
    routed_scaling_factor: float = 1.0
    n_group: int = 1
    topk_group: int = 1
    norm_topk_prob: bool = True

    def __post_init__(self, **kwargs):
        self._refuse_foreign_fields(kwargs)
        self._translate_token_selection(kwargs)
        if self.head_dim is None:
            self.head_dim = self.hidden_size // max(self.num_attention_heads, 1)
        if self.v_head_dim is None:
            self.v_head_dim = self.head_dim
        if self.swa_num_key_value_heads is None:
            self.swa_num_key_value_heads = self.num_key_value_heads
        if self.layer_types is None and self.sparse_layers_per_full >= 0:
            self.layer_types = default_layer_types(self.num_hidden_layers, self.sparse_layers_per_full)
        if self.mlp_layer_types is None:
            self.mlp_layer_types = ["dense"] * self.num_hidden_layers
        if self.rope_parameters is None:
            self.rope_parameters = dict(DEFAULT_ROPE)
            if kwargs.get("rope_theta") is not None:
                self.rope_parameters["rope_theta"] = float(kwargs.pop("rope_theta"))
        super().__post_init__(**kwargs)
        self.check_values()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """
        Raises:
            ValueError: the dictionary describes a model of another type.
        """
        model_type = config_dict.get("model_type", cls.model_type)
        if model_type != cls.model_type:
            raise ValueError(
                f"`model_type` must be 'hysparse'; got {model_type!r}. Load it with `AutoConfig`, or turn a dense checkpoint "
                "into HySparse with `mimo_hf.modeling.hysparse.convert_dense`."
            )
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "HySparseConfig":
        """
        The shape of a model of the paper (table 1; what it does not print is ours, see the model card).

        Args:
            name: `"hysparse-7b"` or `"hysparse-80b-a3b"`.
            overrides: fields that differ.

        Raises:
            ValueError: there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"`name` must be one of {', '.join(PRESETS)}; got {name!r}.")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def topk_blocks(self) -> int:
        """k, the blocks that a query of a sparse layer reads."""
        return self.sparse_topk_tokens // self.sparse_block_size

    @property
    def kv_source_layers(self) -> list[int]:
        """For each layer the full layer whose keys and values its attention over the whole context reads."""
        sources: list[int] = []
        for layer, layer_type in enumerate(self.layer_types):
            sources.append(layer if layer_type == "full_attention" else sources[-1])
        return sources

    def serves_sparse_layers(self, layer: int) -> bool:
        """Whether a sparse layer reads what the full layer `layer` selects."""
        return self.use_sparse_branch and self.kv_source_layers.count(layer) > 1

    def rope_of(self, layer_type: str) -> dict[str, Any]:
        """The rotary embedding of a layer type."""
        return self.rope_parameters.get(layer_type, self.rope_parameters)

    @property
    def rope_differs(self) -> bool:
        """Whether window branches rotate otherwise than full layers."""
        return self.rope_of("full_attention") != self.rope_of("sliding_attention")

    def check_values(self):
        """
        Raises:
            ValueError: a field has a value from which no model can be built.
        """
        for field in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"):
            if getattr(self, field) < 1:
                raise ValueError(f"`{field}` must be at least 1; got {getattr(self, field)}.")
        for field in ("num_key_value_heads", "swa_num_key_value_heads"):
            heads = getattr(self, field)
            if heads < 1 or self.num_attention_heads % heads:
                raise ValueError(
                    f"`num_attention_heads={self.num_attention_heads}` must be a multiple of `{field}={heads}`."
                )
        if self.attention_dropout:
            raise ValueError(
                "`attention_dropout` must be 0.0, as selection reads the probabilities themselves; got "
                f"{self.attention_dropout}."
            )
        self._check_layers()
        self._check_selection()
        self._check_switches()

    def _check_layers(self):
        if self.sparse_layers_per_full < 0:
            raise ValueError(f"`sparse_layers_per_full` must be 0 or more; got {self.sparse_layers_per_full}.")
        for field, names in (
            ("layer_types", {"full_attention", "sliding_attention"}),
            ("mlp_layer_types", {"dense", "sparse"}),
        ):
            types = getattr(self, field)
            if len(types) != self.num_hidden_layers or not set(types) <= names:
                raise ValueError(
                    f"`{field}` must name each of the {self.num_hidden_layers} layers one of {sorted(names)}; got {types}."
                )
        if self.layer_types[0] != "full_attention":
            raise ValueError(
                "`layer_types[0]` must be 'full_attention': a sparse layer reads the keys and the selection of a full layer "
                f"before it; got {self.layer_types[0]!r}."
            )
        if "sparse" in self.mlp_layer_types and not 0 < self.num_experts_per_tok <= self.n_routed_experts:
            raise ValueError(
                f"`num_experts_per_tok={self.num_experts_per_tok}` must lie between 1 and "
                f"`n_routed_experts={self.n_routed_experts}`."
            )

    def _check_selection(self):
        if self.sliding_window < 2:
            raise ValueError(
                f"`sliding_window` must be at least 2, as it counts the query itself; got {self.sliding_window}. The caches "
                "of transformers keep the last `sliding_window - 1` positions, and all of them instead of none."
            )
        block, topk = self.sparse_block_size, self.sparse_topk_tokens
        if block < 1 or topk < block or topk % block:
            raise ValueError(
                f"`sparse_topk_tokens={topk}` must be a positive multiple of `sparse_block_size={block}`: whole blocks are "
                "selected."
            )
        forced = (self.forced_local_blocks, self.forced_initial_blocks)
        if min(forced) < 0 or sum(forced) > self.topk_blocks:
            raise ValueError(
                f"`forced_local_blocks={forced[0]}` and `forced_initial_blocks={forced[1]}` must be 0 or more, and together "
                f"at most the {self.topk_blocks} blocks of `sparse_topk_tokens={topk}`."
            )
        if self.oracle_reduce not in ORACLES:
            raise ValueError(f"`oracle_reduce` must be one of {', '.join(ORACLES)}; got {self.oracle_reduce!r}.")

    def _check_switches(self):
        if self.gate_type not in GATES:
            raise ValueError(f"`gate_type` must be one of {', '.join(GATES)}; got {self.gate_type!r}.")
        if not (self.use_swa_branch or self.use_sparse_branch):
            raise ValueError(
                "`use_swa_branch` and `use_sparse_branch` must not both be False: sparse layers need a branch to attend with."
            )
        if self.swa_shares_kv and not self.use_swa_branch:
            raise ValueError("`swa_shares_kv=True` must go with the window branch; got `use_swa_branch=False`.")
        if self.swa_shares_kv and self.swa_num_key_value_heads != self.num_key_value_heads:
            raise ValueError(
                f"`swa_num_key_value_heads={self.swa_num_key_value_heads}` must be "
                f"`num_key_value_heads={self.num_key_value_heads}` where `swa_shares_kv` is True."
            )

    def _refuse_foreign_fields(self, fields: dict[str, Any]):
        for field, system in FOREIGN_FIELDS.items():
            if fields.get(field) is not None:
                raise ValueError(
                    f"`{field}` must not be given to HySparse, as it belongs to {system}; got {fields[field]!r}. Remove it, "
                    "or load the model with the class that it was made for."
                )

    def _translate_token_selection(self, fields: dict[str, Any]):
        granularity = fields.pop("selection_granularity", None)
        if granularity not in (None, "block", "token"):
            raise ValueError(f"`selection_granularity` must be 'block' or 'token'; got {granularity!r}.")
        if granularity == "token":
            self.sparse_block_size = 1
        tokens = fields.pop("forced_local_tokens", None)
        if tokens:
            if self.sparse_block_size != 1:
                raise ValueError(
                    f"`forced_local_tokens` must go with `selection_granularity='token'`; got {tokens} with blocks of "
                    f"{self.sparse_block_size} tokens. For these give `forced_local_blocks`."
                )
            self.forced_local_blocks = tokens


def default_layer_types(num_hidden_layers: int, sparse_layers_per_full: int) -> list[str]:
    """Layer i is full where i is a multiple of N + 1, and the last one always."""
    return [
        "full_attention"
        if i % (sparse_layers_per_full + 1) == 0 or i == num_hidden_layers - 1
        else "sliding_attention"
        for i in range(num_hidden_layers)
    ]


PRESETS: dict[str, dict[str, Any]] = {
    "hysparse-7b": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "sparse_layers_per_full": 3,
    },
    "hysparse-80b-a3b": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "num_hidden_layers": 49,
        "num_attention_heads": 64,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "sparse_layers_per_full": 11,
        "mlp_layer_types": ["sparse"] * 49,
        "n_routed_experts": 512,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
    },
}


__all__ = ["HySparseConfig"]
