"""The bias update of MiMo-V2-Flash's routers, apart from the model: transformers' callbacks bring half the Trainer along."""

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.models.mimo_v2_flash.modeling_mimo_v2_flash import MiMoV2FlashTopkRouter

from .routing import ForwardPasses, routers_of


class RouterBiasUpdateCallback(TrainerCallback):
    r"""
    Moves each router's `e_score_correction_bias` towards even load after every optimizer step, without gradients:
    \\(b_e \mathrel{+}= u \cdot sign(\bar{n} - n_e)\\), n_e the tokens routed to expert e since the last step over all
    micro-batches and data-parallel ranks (arXiv 2601.02780, section 3.2; form of DeepSeek-V3). Padding is not counted.

    Args:
        update_rate: u. The paper: 1e-3 in the first two stages of pre-training, 1e-5 in the third, 1e-4 in SFT.
    """

    def __init__(self, update_rate: float = 1e-3):
        if update_rate < 0:
            raise ValueError(f"`update_rate` must not be negative; got {update_rate}.")
        self.update_rate = update_rate
        self.loads: dict[MiMoV2FlashTopkRouter, torch.Tensor] = {}
        self.handles: list = []
        self._tokens: torch.Tensor | None = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.attach(model)

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.update()

    def on_train_end(self, args, state, control, **kwargs):
        self.detach()

    def attach(self, model: nn.Module):
        """Starts counting in the forward passes of `model` that run in training mode."""
        self.detach()
        for router in routers_of(model):
            self.loads[router] = torch.zeros(router.num_experts, device=router.weight.device)
            self.handles.append(router.register_forward_hook(self._count))
        self._passes = ForwardPasses(model)
        self.handles += [*self._passes.handles, model.register_forward_pre_hook(self._begin, with_kwargs=True)]

    def detach(self):
        for handle in self.handles:
            handle.remove()
        self.handles, self.loads = [], {}

    def _begin(self, model, args, kwargs):
        mask = kwargs.get("attention_mask")
        self._tokens = mask.reshape(-1).bool() if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None

    def _count(self, router, args, output):
        if not (self._passes.running and router.training):
            return
        indices = output[2]
        if self._tokens is not None and len(self._tokens) == len(indices):
            indices = indices[self._tokens.to(indices.device)]
        load = torch.bincount(indices.reshape(-1), minlength=router.num_experts)
        self.loads[router] += load.to(self.loads[router].device)

    @torch.no_grad()
    def update(self):
        """One bias step from the loads counted so far, which start again from zero."""
        for router, load in self.loads.items():
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(load)
            step = self.update_rate * torch.sign(load.mean() - load)
            router.e_score_correction_bias += step.to(router.e_score_correction_bias.device)
            load.zero_()
