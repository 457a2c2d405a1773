"""Adapters as frozen teachers inside one model (PEFT)."""

import contextlib
import copy
import logging
from collections.abc import Iterator
from typing import Any

try:
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
    from peft.tuners.tuners_utils import check_target_module_exists
except ImportError as error:
    raise ImportError("Teachers that are adapters need PEFT: pip install 'mimo-hf[peft]'") from error

logger = logging.getLogger(__name__)

PREFIX = "teacher_"  # of what teachers are called in the model
# Ways of making an adapter that leave the base's weights as they are; others, such as PiSSA's, take the adapter's start out of them.
KEEPS_BASE = ("True", "False", "None", "gaussian", "eva", "mica", "orthogonal")


def add_adapter(model: Any, path: str, name: str) -> tuple[Any, str]:
    """
    Loads an adapter as a frozen teacher.

    Returns:
        The model, wrapped where it was not, and what the adapter is called in it.

    Raises:
        ValueError: the adapter is not for this model, or changes what the fused projection of the head does not read.
    """
    called = free_name(model, name)
    config = PeftConfig.from_pretrained(path)
    causal_lm = model.get_base_model() if isinstance(model, PeftModel) else model
    _check_adapter(config, path, name, causal_lm)
    remedy = f"which says that it is for {config.base_model_name_or_path!r}. Pass its own base: LoraTeacher({path!r}, base=...)."
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(path, called, is_trainable=False)
        else:
            model = PeftModel.from_pretrained(model, path, called, is_trainable=False)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"`teachers[{name!r}]` must be an adapter that fits the model it is loaded into, {_shape(causal_lm)}; got {path!r}, "
            f"{remedy} PEFT says: {error}"
        ) from error
    if lost := _without_a_place(model, path, called):
        raise ValueError(
            f"`teachers[{name!r}]` must be an adapter whose weights all have a place in the model it is loaded into, where "
            f"{lost[0]!r} has none; got {path!r}, {remedy}"
        )
    return model, called


def loaded_onto(model: Any, path: str) -> PeftModel:
    """
    The model with this adapter. By PEFT: transformers' own way loses DoRA's magnitudes.

    Raises:
        ValueError: the adapter is not for this model.
    """
    adapted = PeftModel.from_pretrained(model, path)
    if lost := _without_a_place(adapted, path, adapted.active_adapter):
        raise ValueError(
            f"{path} must be an adapter whose weights all have a place in {_shape(model)}; got {lost[0]!r}, which has none."
        )
    return adapted


def _without_a_place(model: PeftModel, path: str, called: str) -> list[str]:
    """Weights of an adapter's file of which PEFT only warns."""
    return sorted(
        set(load_peft_weights(path, device="cpu")) - set(get_peft_model_state_dict(model, adapter_name=called))
    )


def free_name(model: Any, domain: str) -> str:
    """What the adapter of a domain is called in the model: PyTorch allows no dots, and the name may be the student's own."""
    called = PREFIX + domain.replace(".", "_")
    while called in getattr(model, "peft_config", {}):
        called += "_"
    return called


def check_student_keeps_its_base(model: PeftModel, has_adapter_teachers: bool) -> None:
    """
    Raises:
        ValueError: the base that teachers share with this student changes while it is trained, or is not the one that it was loaded with.
    """
    active = model.active_adapter
    remedy = "or give these teachers a model of their own: a path, or LoraTeacher(path, base=...)"
    saved = getattr(model.peft_config[active], "modules_to_save", None)
    if saved:
        raise ValueError(
            "`modules_to_save` of the student's adapter must be empty where teachers share its base, as they would score with "
            f"these modules; got {saved}. Leave it out, {remedy}."
        )
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and active not in name.split("."):
            raise ValueError(
                "`model` must be trained in its adapter alone where teachers share its base, as they would change with it; got "
                f"{name!r}, which is of the base and is trained. Freeze it (`bias='none'` in `peft_config`), {remedy}."
            )
    start = getattr(model.peft_config[active], "init_lora_weights", True)
    if has_adapter_teachers and not _keeps_base(start):
        raise ValueError(
            "`init_lora_weights` of the student's adapter must leave the base as it is where adapters of teachers share it; got "
            f"{start!r}, which takes the adapter's start out of its weights. Leave it out, {remedy}."
        )


def _keeps_base(start: Any) -> bool:
    return str(start) in KEEPS_BASE or str(start).lower() in KEEPS_BASE


def copy_active(model: PeftModel, name: str) -> str:
    """A frozen copy of the active adapter as it is now; returns what it is called."""
    called, active = free_name(model, name), model.active_adapter
    weights = {key: value.clone() for key, value in get_peft_model_state_dict(model, adapter_name=active).items()}
    config = copy.deepcopy(model.peft_config[active])
    if getattr(config, "init_lora_weights", True) is not True:
        config.init_lora_weights = True  # others, such as PiSSA's, change the base model
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.add_adapter(called, config)
    set_peft_model_state_dict(model, weights, called)
    model.set_adapter(active)
    for key, parameter in model.named_parameters():
        if f".{called}." in key:
            parameter.requires_grad_(False)
    for parameter, required in flags:
        parameter.requires_grad_(required)
    return called


@contextlib.contextmanager
def only(model: PeftModel, adapter: str | None) -> Iterator[None]:
    """This adapter alone, or none. It may change which parameters require a gradient."""
    if adapter is None:
        with model.disable_adapter():
            yield
        return
    active = model.active_adapter
    model.set_adapter(adapter, inference_mode=True)
    try:
        yield
    finally:
        model.set_adapter(active)


def active_changes_nothing(model: PeftModel) -> bool:
    """Whether the active adapter is as good as none: LoRA's second factors are all 0."""
    weights = get_peft_model_state_dict(model, adapter_name=model.active_adapter)
    second = [value for key, value in weights.items() if "lora_B" in key or "lora_embedding_B" in key]
    return bool(second) and not any(bool(value.any()) for value in second)


def weights_of(model: PeftModel, adapter: str) -> dict[str, Any]:
    return get_peft_model_state_dict(model, adapter_name=adapter)


def _check_adapter(config: Any, path: str, name: str, model: Any) -> None:
    if config.is_prompt_learning:
        raise ValueError(
            f"`teachers[{name!r}]` must be an adapter that changes weights, as LoRA does; got {path!r} of {config.peft_type}, "
            "which puts tokens in front of the prompt. Merge it into a model of its own."
        )
    head = next((key for key, module in model.named_modules() if module is model.get_output_embeddings()), "lm_head")
    # "all-linear" leaves the head out.
    on_head = config.target_modules != "all-linear" and bool(check_target_module_exists(config, head))
    biases = getattr(config, "bias", "none")
    if getattr(config, "modules_to_save", None) or on_head:
        what = f"modules_to_save={config.modules_to_save}" if config.modules_to_save else f"an adapter on {head!r}"
        raise ValueError(
            f"`teachers[{name!r}]` must be an adapter without modules_to_save that leaves the head as it is; got {path!r} with "
            f"{what}, which scoring by the shared model would pass over. Merge it (merge_and_unload) and give the merged model "
            "as the teacher."
        )
    start = getattr(config, "init_lora_weights", True)
    if not _keeps_base(start):
        raise ValueError(
            f"`init_lora_weights` of the adapter {path!r} of the teacher {name!r} must leave the base as it is, which other teachers "
            f"share; got {start!r}, for which PEFT changes the base's weights. Merge it (merge_and_unload) and give the merged model as "
            "the teacher."
        )
    if getattr(config, "trainable_token_indices", None):
        raise ValueError(
            f"`trainable_token_indices` of the adapter {path!r} of the teacher {name!r} must be None, as PEFT has no place for tokens of "
            f"one adapter beside another; got {config.trainable_token_indices}. Merge it (merge_and_unload) and give the merged model "
            "as the teacher."
        )
    if biases != "none":
        raise ValueError(
            f"`bias` of the adapter {path!r} of the teacher {name!r} must be 'none', as PEFT writes biases into the base, which other "
            f"teachers share; got {biases!r}. Merge it (merge_and_unload) and give the merged model as the teacher."
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
