"""A trunk that hands out the states which MTP heads read."""

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import Cache
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import CompileableContextVar

from ..transformers_versions import cache_argument, either_cache_name

if TYPE_CHECKING:
    from transformers import PreTrainedModel as Host
else:
    Host = object

_pre_norm_states = CompileableContextVar("mtp_pre_norm_states")


def _record_pre_norm_state(norm: nn.Module, args: tuple[torch.Tensor, ...]):
    recorded = _pre_norm_states.get()
    if recorded:
        recorded["pre_norm"].append(args[0])


class MTPTrunkMixin(Host):
    """
    Put before the trunk's class: `forward(output_mtp_hidden_states=True)` returns `mtp_hidden_states` as well, `[batch,
    length, hidden]`, the last layer's output before or after `norm` as `config.mtp_hidden_source` says.
    """

    mtp_output_class: type  # the trunk's output with a field `mtp_hidden_states`

    def watch_pre_norm_states(self):
        """Call it once the trunk is built."""
        self.norm.register_forward_pre_hook(_record_pre_norm_state)

    @either_cache_name
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        output_mtp_hidden_states: bool = False,
        **kwargs,
    ):
        # Set in every pass, as transformers sets its own: Dynamo can't trace the reading of a variable that nobody set. Lists by
        # name, also as transformers has it: its tests of recorded outputs read the keys of every variable of this class.
        token = _pre_norm_states.set({"pre_norm": []} if output_mtp_hidden_states else {})
        try:
            outputs = super().forward(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                return_dict=True,
                **cache_argument(past_key_values),
                **kwargs,
            )
            if not output_mtp_hidden_states:
                return outputs
            (pre_norm,) = _pre_norm_states.get()["pre_norm"]
        finally:
            _pre_norm_states.reset(token)
        source = pre_norm if self.config.mtp_hidden_source == "pre_norm" else outputs.last_hidden_state
        return self.mtp_output_class(**outputs, mtp_hidden_states=source)


__all__ = ["MTPTrunkMixin"]
