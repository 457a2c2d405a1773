"""HySparse (arXiv 2602.03560): full-attention layers as oracles of the sparse layers that share their keys and values."""

from .cache_hysparse import HySparseCache
from .configuration_hysparse import HySparseConfig
from .convert_dense import convert_dense
from .layer_choice import choose_full_layers, layer_agreement
from .modeling_hysparse import HySparseForCausalLM, HySparseModel, HySparsePreTrainedModel

__all__ = [
    "HySparseCache",
    "HySparseConfig",
    "HySparseForCausalLM",
    "HySparseModel",
    "HySparsePreTrainedModel",
    "choose_full_layers",
    "convert_dense",
    "layer_agreement",
]


def __dir__() -> list[str]:
    return __all__
