"""MiMo-V2-Flash (arXiv 2601.02780): configuration, model with MTP heads, routing tools."""

from typing import TYPE_CHECKING

from mimo_hf.lazy import lazy_names

if TYPE_CHECKING:
    from .configuration_mimo_v2_flash import MiMoV2Config, MiMoV2FlashConfig
    from .modeling_mimo_v2_flash import MiMoV2FlashForCausalLM, MiMoV2FlashModel, MiMoV2FlashPreTrainedModel
    from .router_bias import RouterBiasUpdateCallback
    from .routing import record_routing, replay_routing, sequence_balance_loss

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "configuration_mimo_v2_flash": "MiMoV2Config MiMoV2FlashConfig",
        "modeling_mimo_v2_flash": "MiMoV2FlashForCausalLM MiMoV2FlashModel MiMoV2FlashPreTrainedModel",
        "router_bias": "RouterBiasUpdateCallback",
        "routing": "record_routing replay_routing sequence_balance_loss",
    },
)


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
