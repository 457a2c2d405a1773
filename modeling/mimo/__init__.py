"""MiMo-7B (arXiv 2505.07608): configuration, and Qwen2's trunk with the multi-token-prediction layer."""

from .configuration_mimo import MiMoConfig
from .modeling_mimo import MiMoForCausalLM, MiMoModel, MiMoPreTrainedModel

__all__ = ["MiMoConfig", "MiMoForCausalLM", "MiMoModel", "MiMoPreTrainedModel"]


def __dir__() -> list[str]:
    return __all__
