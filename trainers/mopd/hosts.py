"""One model in memory, and the teachers that live in it: itself, or an adapter each."""

import contextlib
import copy
import logging
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from torch import Tensor, nn
from trl.trainer.utils import add_fused_lm_head

from .fingerprints import fingerprint, model_fingerprint
from .heads import Head, last_hidden_states

logger = logging.getLogger(__name__)

PREFIX = "teacher_"  # of adapters that are teachers: checkpoints are without them


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
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

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
        """
        Loads an adapter as a frozen teacher, and returns what it is called in the model.

        Raises:
            ValueError: it is not for this model, or changes what the head's fused projection does not read.
        """
        called = f"{PREFIX}{name}"
        config = PeftConfig.from_pretrained(path)
        _check_adapter(config, path, name, self.causal_lm)
        try:
            if isinstance(self.model, PeftModel):
                self.model.load_adapter(path, called, is_trainable=False)
            else:
                self.model = PeftModel.from_pretrained(self.model, path, called, is_trainable=False)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"The adapter {path!r} of the teacher {name!r} does not fit the model that it is loaded into "
                f"({_shape(self.causal_lm)}); it says that it is for {config.base_model_name_or_path!r}. Pass its own base: "
                f"LoraTeacher({path!r}, base=...). ({error})"
            ) from error
        missing = _missing(self.model, path, called)
        if missing:
            raise ValueError(
                f"The adapter {path!r} of the teacher {name!r} has weights that the model it is loaded into has no place "
                f"for, such as {missing[0]!r}; it says that it is for {config.base_model_name_or_path!r}. Pass its own base: "
                f"LoraTeacher({path!r}, base=...)."
            )
        return called

    def copy_adapter(self, source: str, name: str) -> str:
        """A frozen copy of an adapter as it is now."""
        called = f"{PREFIX}{name}"
        weights = {key: value.clone() for key, value in get_peft_model_state_dict(self.model, None, source).items()}
        active, flags = self.model.active_adapter, self._flags()
        config = copy.deepcopy(self.model.peft_config[source])
        if getattr(config, "init_lora_weights", True) is not True:
            config.init_lora_weights = True  # others, such as PiSSA's, change the base model
        self.model.add_adapter(called, config)
        set_peft_model_state_dict(self.model, weights, called)
        self.model.set_adapter(active)
        self._restore(flags)
        for key, parameter in self.model.named_parameters():
            if f".{called}." in key:
                parameter.requires_grad_(False)
        return called

    def fingerprint(self, adapter: str | None) -> str:
        own = model_fingerprint(self.causal_lm)
        if adapter is None:
            return own
        return f"{own} {fingerprint(get_peft_model_state_dict(self.model, adapter_name=adapter))}"

    def has_trained_adapter(self) -> bool:
        """Whether it is a student that leaving its own adapter out would change."""
        if not self.is_student:
            return False
        weights = get_peft_model_state_dict(self.model, adapter_name=self.model.active_adapter)
        closed = [value for key, value in weights.items() if "lora_B" in key or "lora_embedding_B" in key]
        return not closed or any(bool(value.any()) for value in closed)

    @contextlib.contextmanager
    def as_teacher(self, adapter: str | None, device: torch.device) -> Iterator[Any]:
        """
        The model with this adapter alone, or with none, in eval mode; afterwards all is as before.

        `set_adapter` and `disable_adapter` change which parameters require a gradient, so these are put back as well.
        """
        flags = self._flags()
        modes = [(module, module.training) for module in self.model.modules()]
        if self.rests_on is not None:
            self.model.to(device)
        try:
            self.model.eval()
            with self._adapted(adapter):
                yield self.model
        finally:
            for module, training in modes:
                module.training = training
            self._restore(flags)
            if self.rests_on is not None:
                self.model.to(self.rests_on)

    @contextlib.contextmanager
    def _adapted(self, adapter: str | None) -> Iterator[None]:
        if not isinstance(self.model, PeftModel):
            yield
        elif adapter is None:
            with self.model.disable_adapter():
                yield
        else:
            active = self.model.active_adapter
            self.model.set_adapter(adapter, inference_mode=True)
            try:
                yield
            finally:
                self.model.set_adapter(active)

    def _flags(self) -> list[tuple[nn.Parameter, bool]]:
        return [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]

    @staticmethod
    def _restore(flags: list[tuple[nn.Parameter, bool]]) -> None:
        for parameter, required in flags:
            parameter.requires_grad_(required)

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


def _missing(model: PeftModel, path: str, called: str) -> list[str]:
    """Weights of the adapter's file that found no place in the model: PEFT only warns of these."""
    placed = get_peft_model_state_dict(model, adapter_name=called)
    return sorted(set(load_peft_weights(path, device="cpu")) - set(placed))


def _check_adapter(config: Any, path: str, name: str, model: Any) -> None:
    if config.is_prompt_learning:
        raise ValueError(
            f"The adapter {path!r} of the teacher {name!r} must change weights, as LoRA does; got {config.peft_type}, which "
            "puts tokens in front of the prompt. Merge it into a model of its own."
        )
    head = next((key for key, module in model.named_modules() if module is model.get_output_embeddings()), "lm_head")
    targets = config.target_modules
    on_head = isinstance(targets, list | set | tuple) and any(
        head.split(".")[-1] == key.split(".")[-1] for key in targets
    )
    if getattr(config, "modules_to_save", None) or on_head:
        what = f"modules_to_save={config.modules_to_save}" if config.modules_to_save else f"an adapter on {head!r}"
        raise ValueError(
            f"The adapter {path!r} of the teacher {name!r} has {what}, which scoring by the shared model would pass over. Merge "
            "it (merge_and_unload) and give the merged model as the teacher."
        )
    base = getattr(model.config, "_name_or_path", "") or ""
    said = config.base_model_name_or_path or ""
    if base and said and base.rstrip("/").split("/")[-1] != said.rstrip("/").split("/")[-1]:
        logger.warning(
            "The adapter %s of the teacher %s says that it is for %s, and is loaded into %s.", path, name, said, base
        )


def _shape(model: Any) -> str:
    config = model.config.get_text_config()
    return f"{type(model).__name__}, hidden_size {config.hidden_size}, {config.num_hidden_layers} layers"
