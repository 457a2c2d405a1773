"""Configuration of MiMo-V2-Flash with its multi-token-prediction (MTP) heads."""

from .. import transformers_versions  # noqa: F401  it refuses a version that is too old

# isort: split

import copy
from typing import TYPE_CHECKING, Any

from transformers import MiMoV2FlashConfig as TrunkConfig, PreTrainedConfig

from ..mtp.mtp_config import check_mtp_fields

LATER_FAMILIES = (
    "MiMo-V2.5 (310B-A15B, vision and audio towers, fused qkv), MiMo-V2.5-Pro (1.02T-A42B, 70 layers, 384 experts) and "
    "MiMo-V2.6-Flash (MXFP4 experts, DFlash drafter)"
)
LATER_FAMILY_FIELDS = ("vision_config", "audio_config", "speech_config", "dflash_config")

LOST_HEADS = (
    "This checkpoint has MTP heads, and the class that was loaded, transformers' own MiMoV2Flash, has dropped them. Load it "
    "again with `trust_remote_code=True` (a folder that `mimo-hf publish` has written), or call `mimo_hf.register()` before "
    "`from_pretrained`."
)


def note_for_other_classes(num_mtp_layers: int) -> dict[str, Any]:
    """
    Fields of config.json that no class of ours reads. transformers' own class, which has no MTP heads of this kind, copies
    them into the configuration of its generic ones when asked to `generate(use_mtp=True)`; it refuses the second and prints it.
    """
    if num_mtp_layers == 0:
        return {}
    return {"mtp_layer_types": ["sliding_attention"] * num_mtp_layers, "mtp_mlp_layer_types": LOST_HEADS}


def refuse_later_family(seen: str):
    raise ValueError(
        f"`model_type` must be that of MiMo-V2-Flash; the checkpoint belongs to a later MiMo-V2 family ({seen}). "
        f"{LATER_FAMILIES} have another architecture and would be built wrongly here. Load them with the code of their own "
        "repository (`trust_remote_code=True`) or with SGLang or vLLM."
    )


class MiMoV2FlashConfig(TrunkConfig):
    r"""
    transformers' `MiMoV2FlashConfig` plus the MTP heads, the balance loss, and every field of the official `config.json`.

    Args:
        num_mtp_layers (`int`, defaults to 0):
            K, the number of MTP heads. Alias: `num_nextn_predict_layers`.
        mtp_hidden_source (`str`, defaults to `"pre_norm"`):
            Which trunk state the heads read: the last layer's output before (`"pre_norm"`, as SGLang does) or after
            (`"post_norm"`, as vLLM does) `model.norm`.
        mtp_loss_weight (`float`, defaults to 0.1):
            \\(\lambda\\) in `loss = CE + lambda * mean_k CE_k`. The paper uses 0.3 in the first stage of pre-training and
            0.1 afterwards (arXiv 2601.02780, section 3).
        mtp_train_mode (`str`, defaults to `"joint"`):
            `"joint"` trains trunk and heads. `"heads"` trains the heads only: the trunk runs without gradients and its
            states, embeddings and LM head are constants. `replicate_mtp_heads` switches to `"heads"`. `"trunk"` leaves
            the MTP loss out; `freeze_mtp_heads` switches to it.
        router_aux_loss_coef (`float`, defaults to 1e-5):
            Weight of the sequence balance loss where `output_router_logits=True` (arXiv 2601.02780, section 3).

    Official fields are translated on entry and are not written back: `hybrid_layer_pattern` (0 global, 1 sliding),
    `moe_layer_freq`, `rope_theta`, `swa_rope_theta`, `partial_rotary_factor`, `layernorm_epsilon`,
    `sliding_window_size` (previous positions; the window here counts the query too, so 128 becomes 129).

    Raises:
        ValueError: a field has a value that this architecture can't honour, two fields contradict each other, or the
            configuration belongs to MiMo-V2.5 or later. The message names the field, the value and the remedy.
    """

    attribute_map = TrunkConfig.attribute_map | {"num_experts": "n_routed_experts"}  # TRL's name
    base_model_tp_plan = TrunkConfig.base_model_tp_plan | {
        "layers.*.self_attn": "local_params",  # transformers' plan has it from 5.23 on; sinks can't be read without
    }

    if TYPE_CHECKING:
        rope_parameters: dict[str, Any] | None

    num_mtp_layers: int = 0
    mtp_hidden_source: str = "pre_norm"
    mtp_loss_weight: float = 0.1
    mtp_train_mode: str = "joint"
    router_aux_loss_coef: float = 1e-5

    def __post_init__(self, **kwargs):
        for field in note_for_other_classes(1):
            kwargs.pop(field, None)
        for field in LATER_FAMILY_FIELDS:
            if kwargs.get(field) is not None:
                refuse_later_family(f"it has `{field}`")
        if kwargs.pop("attention_projection_layout", None) == "fused_qkv":
            refuse_later_family("it has `attention_projection_layout='fused_qkv'`")

        kwargs = self._translate_official_fields(kwargs)
        super().__post_init__(**kwargs)
        self.check_values()

    def _translate_official_fields(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        pattern = kwargs.pop("hybrid_layer_pattern", None)
        block = kwargs.pop("hybrid_block_size", None)
        if block is not None and pattern is None:
            if block < 1:
                raise ValueError(f"`hybrid_block_size` must be a positive integer; got {block}.")
            pattern = [int((layer + 1) % block != 0) for layer in range(self.num_hidden_layers)]
        if pattern is not None:
            names = {0: "full_attention", 1: "sliding_attention"}
            self._take("layer_types", self._per_layer("hybrid_layer_pattern", pattern, names), "hybrid_layer_pattern")

        frequency = kwargs.pop("moe_layer_freq", None)
        if frequency is not None:
            names = {0: "dense", 1: "sparse"}
            self._take("mlp_layer_types", self._per_layer("moe_layer_freq", frequency, names), "moe_layer_freq")

        num_heads = kwargs.pop("num_nextn_predict_layers", None)
        if num_heads is not None:
            if self.num_mtp_layers not in (0, num_heads):
                raise ValueError(
                    f"`num_mtp_layers` and `num_nextn_predict_layers` must agree; got {self.num_mtp_layers} and {num_heads}. "
                    "Give one of them."
                )
            self.num_mtp_layers = num_heads

        epsilon = kwargs.pop("layernorm_epsilon", None)
        if epsilon is not None:
            self._take("rms_norm_eps", epsilon, "layernorm_epsilon", unset=(TrunkConfig.rms_norm_eps,))

        window = kwargs.pop("sliding_window_size", None)
        if window is not None:
            # The official file has `sliding_window` too, with the same number.
            self._take("sliding_window", window + 1, "sliding_window_size", unset=(TrunkConfig.sliding_window, window))

        self._translate_rope(kwargs)
        self._check_fixed_geometry(kwargs)
        return kwargs

    def _per_layer(self, field: str, values: list[int], names: dict[int, str]) -> list[str]:
        if not isinstance(values, (list, tuple)) or len(values) != self.num_hidden_layers or set(values) - {0, 1}:
            raise ValueError(
                f"`{field}` must hold one 0 or 1 for each of the {self.num_hidden_layers} layers "
                f"(0: {names[0]}, 1: {names[1]}); got {values}."
            )
        return [names[value] for value in values]

    def _take(self, field: str, value: Any, source: str, unset: tuple = (None,)):
        if getattr(self, field) not in (*unset, value):
            raise ValueError(
                f"`{field}` and `{source}` must agree; got {getattr(self, field)} and {value}. Give one of them."
            )
        setattr(self, field, value)

    def _translate_rope(self, kwargs: dict[str, Any]):
        if self.rope_parameters is not None and not set(self.rope_parameters) <= {
            "full_attention",
            "sliding_attention",
        }:
            raise ValueError(
                "`rope_parameters` must hold one entry a layer type, `full_attention` and `sliding_attention`; got "
                f"{self.rope_parameters}."
            )
        if kwargs.get("rope_scaling") is not None:
            raise ValueError(
                f"`rope_scaling` must not be given to MiMo-V2-Flash; got {kwargs['rope_scaling']}. Describe scaled rotary "
                "embeddings per layer type in `rope_parameters`."
            )
        kwargs.pop("rope_scaling", None)
        given = {
            ("full_attention", "rope_theta"): kwargs.pop("rope_theta", None),
            ("sliding_attention", "rope_theta"): kwargs.pop("swa_rope_theta", None),
        }
        factor = kwargs.pop("partial_rotary_factor", None)
        given |= {(name, "partial_rotary_factor"): factor for name in ("full_attention", "sliding_attention")}
        given = {place: value for place, value in given.items() if value is not None}
        if not given:
            return
        defaults = {
            "full_attention": {"rope_type": "default", "rope_theta": 5_000_000.0, "partial_rotary_factor": 0.334},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.334},
        }
        known = self.rope_parameters or {}
        for (layer_type, key), value in given.items():
            if known.get(layer_type, {}).get(key, value) != value:
                raise ValueError(
                    f"`rope_parameters[{layer_type!r}][{key!r}]` must agree with the official field; got "
                    f"{known[layer_type][key]} and {value}. Give one of them."
                )
            defaults[layer_type][key] = float(value)
        self.rope_parameters = {name: values | known.get(name, {}) for name, values in defaults.items()}

    def _check_fixed_geometry(self, kwargs: dict[str, Any]):
        """Fields whose other values would need another architecture: equal to what is built, or refused."""
        fixed = {
            "swa_num_attention_heads": self.num_attention_heads,
            "swa_num_key_value_heads": 2 * self.num_key_value_heads,
            "swa_head_dim": self.head_dim,
            "swa_v_head_dim": self.v_head_dim,
            "add_full_attention_sink_bias": False,
            "add_swa_attention_sink_bias": True,
            "n_shared_experts": 0,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
        }
        for field, built in fixed.items():
            value = kwargs.pop(field, None)
            if value is not None and value != built:
                raise ValueError(
                    f"`{field}` must be {built!r}, as in transformers' MiMo-V2-Flash layers; got {value!r}. Sliding layers "
                    "have twice the key-value heads and an attention sink, global layers have none, and experts are routed by "
                    "sigmoid scores without shared experts."
                )

    def check_values(self):
        """
        Raises:
            ValueError: a field has a value from which no model can be built.
        """
        check_mtp_fields(self, "num_mtp_layers")
        for field in ("layer_types", "mlp_layer_types"):
            if len(getattr(self, field)) != self.num_hidden_layers:
                raise ValueError(
                    f"`{field}` names {len(getattr(self, field))} layers, `num_hidden_layers` is "
                    f"{self.num_hidden_layers}; they must agree."
                )

        has_windows = self.num_mtp_layers > 0 or "sliding_attention" in self.layer_types
        if has_windows and (self.sliding_window is None or self.sliding_window < 2):
            raise ValueError(
                f"`sliding_window` counts the query itself and must be at least 2; got {self.sliding_window}. The "
                "official `sliding_window_size` counts previous positions only and is one less."
            )
        key_value_heads = self.num_key_value_heads * (2 if has_windows else 1)
        if key_value_heads < 1 or self.num_attention_heads % key_value_heads:
            raise ValueError(
                f"`num_attention_heads={self.num_attention_heads}` must be a multiple of the {key_value_heads} key-value "
                f"heads of a layer (`num_key_value_heads={self.num_key_value_heads}`, doubled in sliding layers)."
            )
        if "sparse" in self.mlp_layer_types and not 0 < self.num_experts_per_tok <= self.n_routed_experts:
            raise ValueError(
                f"`num_experts_per_tok={self.num_experts_per_tok}` must lie between 1 and "
                f"`n_routed_experts={self.n_routed_experts}`."
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as config.json has them, with a note for classes that would drop the heads."""
        return super().to_dict() | note_for_other_classes(self.num_mtp_layers)

    def get_mtp_config(self) -> "MiMoV2FlashConfig":
        """The configuration of the heads seen as a model of K dense sliding-window layers (for layers and caches)."""
        config = copy.deepcopy(self)
        config.num_hidden_layers = self.num_mtp_layers
        config.layer_types = ["sliding_attention"] * self.num_mtp_layers
        config.mlp_layer_types = ["dense"] * self.num_mtp_layers
        return config


class MiMoV2Config(PreTrainedConfig):
    """Stands for the model type of MiMo-V2.5 and later, only to refuse it with a message that says what it is."""

    model_type = "mimo_v2"

    def __post_init__(self, **kwargs):
        refuse_later_family(f"model_type 'mimo_v2', {kwargs.get('num_hidden_layers', 'unknown number of')} layers")


__all__ = ["MiMoV2Config", "MiMoV2FlashConfig"]
