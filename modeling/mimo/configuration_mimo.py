"""Configuration of MiMo-7B with its multi-token-prediction (MTP) layers."""

from .. import transformers_versions  # noqa: F401  it refuses a version that is too old

# isort: split

import copy
from typing import Any

from transformers import Qwen2Config

from ..mtp.mtp_config import check_mtp_fields


class MiMoConfig(Qwen2Config):
    r"""
    transformers' `Qwen2Config` with the MTP layers. The defaults are those of MiMo-7B.

    Args:
        num_nextn_predict_layers (`int`, defaults to 1):
            K, the number of MTP layers. Alias: `num_mtp_layers`.
        head_dim (`int`, *optional*):
            Channels of an attention head; None: `hidden_size // num_attention_heads`.
        attention_bias (`bool`, defaults to `True`):
            As in the official `config.json`. Queries, keys and values always have a bias, so that False is refused.
        mtp_hidden_source (`str`, defaults to `"pre_norm"`):
            Which trunk state the MTP layers read: the last layer's output before (`"pre_norm"`, as vLLM does) or after
            (`"post_norm"`, as SGLang does) `model.norm`.
        mtp_zero_first_embedding (`bool`, defaults to `True`):
            Put zeros in place of the token embedding in the row at position 0 of a text, as vLLM and SGLang do.
        mtp_loss_weight (`float`, defaults to 0.1):
            \\(\lambda\\) in `loss = CE + lambda * mean_k CE_k`. The paper uses 0.3 for the first 10.3T tokens and 0.1
            afterwards (arXiv 2505.07608, section 2.3).
        mtp_train_mode (`str`, defaults to `"joint"`):
            `"joint"` trains trunk and MTP layers. `"heads"` trains the MTP layers only: the trunk runs without gradients and
            its states, embeddings and LM head are constants. `replicate_mtp_heads` switches to `"heads"`. `"trunk"` leaves
            the MTP loss out; `freeze_mtp_heads` switches to it.

    Raises:
        ValueError: a field has a value from which no model can be built. The message names the field and the value.
    """

    model_type = "mimo"
    attribute_map = Qwen2Config.attribute_map | {"num_mtp_layers": "num_nextn_predict_layers"}

    vocab_size: int = 151680
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    head_dim: int | None = None
    attention_bias: bool = True
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-5
    bos_token_id: int | None = 151643
    eos_token_id: int | list[int] | None = 151645
    num_nextn_predict_layers: int = 1
    mtp_hidden_source: str = "pre_norm"
    mtp_zero_first_embedding: bool = True
    mtp_loss_weight: float = 0.1
    mtp_train_mode: str = "joint"
    default_theta = 640_000.0

    def __post_init__(self, **kwargs: Any):
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)
        self.check_values()

    def check_values(self):
        """
        Raises:
            ValueError: a field has a value from which no model can be built.
        """
        check_mtp_fields(self, "num_nextn_predict_layers")
        if not self.attention_bias:
            raise ValueError(
                "`attention_bias` must be True, as queries, keys and values of MiMo-7B have a bias; got "
                f"{self.attention_bias}. Use Qwen3 or Llama for a model without."
            )
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"`num_attention_heads={self.num_attention_heads}` must be a multiple of "
                f"`num_key_value_heads={self.num_key_value_heads}`."
            )
        if self.use_sliding_window and (self.sliding_window is None or self.sliding_window < 2):
            raise ValueError(
                "`sliding_window` must be at least 2 with `use_sliding_window=True`, as it counts the query itself; got "
                f"{self.sliding_window}. The caches of transformers keep all positions of a window of 1."
            )

    def get_mtp_config(self) -> "MiMoConfig":
        """The configuration of the MTP layers seen as a model of K layers with full attention (for layers and caches)."""
        config = copy.deepcopy(self)
        config.num_hidden_layers = self.num_nextn_predict_layers
        config.layer_types = ["full_attention"] * self.num_nextn_predict_layers
        config.use_sliding_window, config.sliding_window = False, None
        return config


__all__ = ["MiMoConfig"]
