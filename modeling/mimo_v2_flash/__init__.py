"""MiMo-V2-Flash (arXiv 2601.02780): configuration, model with MTP heads, routing tools."""

from typing import TYPE_CHECKING

from .configuration_mimo_v2_flash import MiMoV2Config, MiMoV2FlashConfig
from .modeling_mimo_v2_flash import MiMoV2FlashForCausalLM, MiMoV2FlashModel, MiMoV2FlashPreTrainedModel
from .routing import record_routing, replay_routing, sequence_balance_loss

if TYPE_CHECKING:
    from .router_bias import RouterBiasUpdateCallback


def __getattr__(name: str):
    if name == "RouterBiasUpdateCallback":
        from .router_bias import RouterBiasUpdateCallback

        return RouterBiasUpdateCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
