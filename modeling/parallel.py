"""
Tensor and expert parallelism: what the plans of the models need beside transformers' own styles.

A plan splits attention by heads: a process holds whole key-value heads and the queries that read them. Whatever a number of
processes can't share out that way is refused before any weight is loaded.
"""

from contextlib import contextmanager
from itertools import chain
from math import gcd
from typing import TYPE_CHECKING, Any

import torch
from transformers.distributed.tensor_parallel import (
    ALL_PARALLEL_STYLES,
    TensorParallelLayer,
    replace_layer_number_by_wildcard,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel as Host
else:
    Host = object


class LocalParameters(TensorParallelLayer):
    """Runs a module with its own part of a split parameter that has no module of its own, such as attention sinks."""

    def should_use_local_tensors(self, module) -> bool:
        return True


class SumOfGradients(torch.autograd.Function):
    """The tensor as it is; its gradient is the sum over the processes."""

    @staticmethod
    def forward(ctx, tensor, group):
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous().clone()
        torch.distributed.all_reduce(gradient, group=ctx.group)
        return gradient, None


class HeadNorm(TensorParallelLayer):
    """
    A norm of each head, whose weight every process has whole, and of whose gradient its heads give a part.

    transformers' `replicated_with_grad_allreduce` sums `.grad` itself: what an earlier backward pass has left there is
    counted once a process, so that accumulated gradients come out too large.
    """

    @contextmanager
    def context_around_forward(self, module, mesh):
        own = dict(module._parameters)
        module._parameters.update({name: SumOfGradients.apply(own[name], mesh.get_group()) for name in own})
        try:
            yield
        finally:
            module._parameters.update(own)


ALL_PARALLEL_STYLES.register("mimo_head_norm", HeadNorm())
if "local_params" not in ALL_PARALLEL_STYLES:  # before transformers 5.23
    ALL_PARALLEL_STYLES.register("local_params", LocalParameters())


class ParallelMixin(Host):
    """Put before transformers' `PreTrainedModel`. `split_by_tp` names the fields that `tp_size` must divide."""

    split_by_tp: tuple[str, ...] = ("num_attention_heads", "num_key_value_heads")

    def init_parallel_plans(self):
        """Leaves out rules for what this configuration does not have, of which transformers would warn."""
        super().init_parallel_plans()
        names = {
            replace_layer_number_by_wildcard(name) for name, _ in chain(self.named_modules(), self.named_parameters())
        }
        for plan in ("_tp_plan", "_ep_plan"):
            setattr(self, plan, {name: style for name, style in getattr(self, plan).items() if name in names})

    @classmethod
    def maybe_distribute_model(cls, model, distributed_config, mesh_manager):
        """
        Raises:
            ValueError: the model can't be shared out like this. The message names the field, the value and the remedy.
        """
        model = super().maybe_distribute_model(model, distributed_config, mesh_manager)
        if mesh_manager is not None:  # no weight is loaded yet
            model.check_parallel(distributed_config)
        return model

    def check_parallel(self, distributed_config: Any):
        """
        Raises:
            ValueError: as in `maybe_distribute_model`.
        """
        stages, size = distributed_config.pp_size, distributed_config.tp_size
        num_mtp_heads = getattr(self.config, "num_mtp_layers", 0)
        if stages > 1 and num_mtp_heads > 0:
            raise ValueError(
                f"`pp_size` must be 1 with MTP heads (`num_mtp_layers={num_mtp_heads}`), which read the embeddings of the "
                f"first stage and the states of the last; got {stages}. Use `tp_size`, or load with `num_mtp_layers=0`."
            )
        values = {field: getattr(self.config, field) for field in self.split_by_tp}
        for field, value in values.items() if self.splits_heads(distributed_config) else ():
            if value % size:
                common = gcd(*values.values())
                allowed = [str(number) for number in range(1, common + 1) if common % number == 0]
                raise ValueError(
                    f"`tp_size` must divide `{field}={value}`, as each process needs whole heads; got {size}. For this model "
                    f"`tp_size`, the number of processes, can be {' or '.join(allowed)}."
                )

    def splits_heads(self, distributed_config: Any) -> bool:
        """Whether each process has some of the heads only."""
        styles = [style for name, style in self.tp_plan.items() if name.endswith(".k_proj")]
        return distributed_config.tp_size > 1 and "colwise" in styles


__all__ = ["HeadNorm", "LocalParameters", "ParallelMixin"]
