"""One model in memory, and the teachers that live in it: itself, or an adapter each."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from .fingerprints import fingerprint, model_fingerprint
from .heads import Head, last_hidden_states


def has_adapters(model: Any) -> bool:
    """Whether it is a `PeftModel`, without importing PEFT."""
    return hasattr(model, "get_base_model") and hasattr(model, "peft_config")


class Host:
    """
    A causal LM in memory that scores as one teacher or as several.

    Args:
        model: a `PreTrainedModel` or `PeftModel`.
        temperature: of the sampling, which log-probabilities are at.
        is_student: whether it is the model that is trained: it is left as it was found after each use, and never moved.
        cast_lm_head_to_fp32: as in `GRPOConfig`.
        rests_on: where the model stays between uses; None: on the device that it computes on.
    """

    def __init__(
        self,
        model: Any,
        temperature: float,
        *,
        is_student: bool = False,
        cast_lm_head_to_fp32: bool = False,
        rests_on: torch.device | None = None,
    ):
        self.model = model
        self.is_student = is_student
        self.temperature = temperature
        self.rests_on = rests_on
        self._kept_head: Head | None = None
        outputs = ("log_probs", "entropy", "is_top1") if is_student else ("log_probs", "is_top1")
        add_fused_lm_head(self.causal_lm, temperature, cast_lm_head_to_fp32, outputs)
        if not is_student:
            model.requires_grad_(False).eval()

    @property
    def causal_lm(self) -> Any:
        """The model without its adapters' wrapper."""
        return self.model.get_base_model() if has_adapters(self.model) else self.model

    @property
    def vocab_size(self) -> int:
        return self.causal_lm.get_output_embeddings().weight.shape[0]

    def head(self, device: torch.device) -> Head:
        """On the device, also while the model is not."""
        if self.rests_on is None:
            return Head.of(self.causal_lm, self.temperature)
        if self._kept_head is None:
            self._kept_head = Head.of(self.causal_lm, self.temperature).to(device)
        return self._kept_head

    def add_adapter(self, path: str, name: str) -> str:
        """Loads an adapter as a frozen teacher, and returns what it is called in the model."""
        from .adapters import add_adapter

        self.model, called = add_adapter(self.model, path, name)
        return called

    def copy_of_own_adapter(self, name: str) -> str | None:
        """A frozen copy of the student's adapter as it is now, by name; None where leaving it out is as good."""
        if not self.is_student:
            return None
        from .adapters import active_changes_nothing, copy_active

        return None if active_changes_nothing(self.model) else copy_active(self.model, name)

    def fingerprint(self, adapter: str | None) -> str:
        own = model_fingerprint(self.causal_lm)
        if adapter is None:
            return own
        from .adapters import weights_of

        return f"{own} {fingerprint(weights_of(self.model, adapter))}"

    @contextlib.contextmanager
    def as_teacher(self, adapter: str | None, device: torch.device) -> Iterator[Any]:
        """
        The model with this adapter alone, or with none, in eval mode; afterwards all is as before.

        `set_adapter` and `disable_adapter` change which parameters require a gradient, so these are put back as well.
        """
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        modes = [(module, module.training) for module in self.model.modules()]
        if self.rests_on is not None:
            self.model.to(device)
        try:
            self.model.eval()
            if has_adapters(self.model):
                from .adapters import only

                with only(self.model, adapter):
                    yield self.model
            else:
                yield self.model
        finally:
            for module, training in modes:
                module.training = training
            for parameter, required in flags:
                parameter.requires_grad_(required)
            if self.rests_on is not None:
                self.model.to(self.rests_on)

    @torch.no_grad()
    def score(self, model: Any, ids: Tensor, mask: Tensor, keep: int, hidden: bool) -> dict[str, Tensor]:
        """
        Scores the last `keep` tokens of each row. `model` is what `as_teacher` gave.

        Args:
            ids, mask: `[B, L]`.
            hidden: whether the states that the head reads are wanted as well.

        Returns:
            `log_probs` and `is_top1`, `[B, keep]`, 0 where `mask` is; `hidden`, `[B, keep, H]`.
        """
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :-keep] = -100
        with last_hidden_states(self.causal_lm) as states:
            output = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        scores = {"log_probs": output.log_probs[:, -keep:], "is_top1": output.is_top1[:, -keep:].float()}
        if hidden:
            scores["hidden"] = states[-1][:, :-1][:, -keep:]
        return scores
