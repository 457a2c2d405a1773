"""MiMo-V2-Flash (arXiv 2601.02780): configuration, model with MTP heads, routing tools."""

from .configuration_mimo_v2_flash import MiMoV2Config, MiMoV2FlashConfig
from .modeling_mimo_v2_flash import MiMoV2FlashForCausalLM, MiMoV2FlashModel, MiMoV2FlashPreTrainedModel
from .routing import RouterBiasUpdateCallback, record_routing, replay_routing, sequence_balance_loss

__all__ = [
    "MiMoV2Config",
    "MiMoV2FlashConfig",
    "MiMoV2FlashForCausalLM",
    "MiMoV2FlashModel",
    "MiMoV2FlashPreTrainedModel",
    "RouterBiasUpdateCallback",
    "record_routing",
    "replay_routing",
    "sequence_balance_loss",
]
