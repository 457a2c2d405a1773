"""What a user may name as a teacher, and what is refused before anything is loaded."""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from .hosts import has_adapters
from .mopd_config import MOPDConfig

SELF = "self"
STUDENT = "student"


@dataclass(frozen=True)
class LoraTeacher:
    """
    An adapter as a teacher.

    Attributes:
        path: folder with `adapter_config.json`, or its id on the Hub.
        base: the model that the adapter is for. `"student"`: the student's own base, which all such teachers share; a student
            without adapters is copied once for them. Or a `PreTrainedModel`, or the path of one.
    """

    path: str
    base: "str | PreTrainedModel" = STUDENT


def check_teachers(teachers: Any) -> Mapping[str, Any]:
    """The teachers, if that is what they are."""
    if not isinstance(teachers, Mapping) or not teachers:
        raise ValueError(
            "`teachers` must map domains to teachers, such as {'math': 'org/math-model', 'chat': 'self'}; got "
            f"{teachers!r}."
        )
    for name, spec in teachers.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"A key of `teachers` must be the name of a domain; got {name!r}.")
        if has_adapters(spec):
            raise TypeError(
                f"`teachers[{name!r}]` must not be a PeftModel; give LoraTeacher(path, base), or merge it (merge_and_unload)."
            )
        known = isinstance(spec, os.PathLike | str | LoraTeacher | PreTrainedModel) or is_client(spec)
        if not known or (isinstance(spec, str) and not spec):
            raise TypeError(
                f"`teachers[{name!r}]` must be a model, the path of one, LoraTeacher(path), the address of a server "
                f"('http://...'), 'self', or have the methods of ServerTeacher; got {spec!r}."
            )
    return teachers


def check_estimator(teachers: Mapping[str, Any], args: MOPDConfig) -> None:
    servers = [name for name, spec in teachers.items() if is_address(spec) or is_client(spec)]
    if servers and args.kl_estimator in ("full", "topk"):
        raise ValueError(
            "`kl_estimator` must be 'sampled' or 'topk_teacher' for a teacher behind a server, which does not give its "
            f"probabilities of any token; got {args.kl_estimator!r} for {', '.join(map(repr, servers))}."
        )


def as_spec(spec: Any) -> Any:
    """Paths as text, and the path of an adapter as the adapter."""
    if isinstance(spec, os.PathLike):
        spec = os.fspath(spec)
    if isinstance(spec, str) and not is_address(spec) and Path(spec, "adapter_config.json").is_file():
        return LoraTeacher(spec)
    return spec


def is_address(spec: Any) -> bool:
    return isinstance(spec, str) and spec.startswith(("http://", "https://"))


def is_client(spec: Any) -> bool:
    """Whether it answers as `ServerTeacher` does, such as a scheduler's teacher."""
    return all(callable(getattr(spec, name, None)) for name in ("score", "check", "describe"))


def needs_a_copy(teachers: Mapping[str, Any], student: Any, peft_config: Any) -> bool:
    """Whether a teacher is the student as it was at the start, and no adapter of the student can be left out to have it."""
    if peft_config is not None or has_adapters(student):
        return False
    specs = [as_spec(spec) for spec in teachers.values()]
    return any(_is(spec, SELF) or (isinstance(spec, LoraTeacher) and _is(spec.base, STUDENT)) for spec in specs)


def initial_copy(model: PreTrainedModel) -> PreTrainedModel:
    copied = copy.deepcopy(model)
    # A forward that a trainer put on the object is bound to the weights of the model that it was copied from.
    copied.__dict__.pop("forward", None)
    return copied


def _is(spec: Any, word: str) -> bool:
    return isinstance(spec, str) and spec == word
