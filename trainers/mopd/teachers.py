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

    path: str | os.PathLike[str]
    base: "str | os.PathLike[str] | PreTrainedModel" = STUDENT


def check_teachers(teachers: Any, student: Any) -> Mapping[str, Any]:
    """The teachers, if that is what they are; `student` as the trainer was given it."""
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
        model = spec.base if isinstance(spec, LoraTeacher) else spec
        of_student = [student, student.get_base_model()] if has_adapters(student) else [student]
        if not isinstance(student, str) and any(model is part for part in of_student):
            raise ValueError(
                f"`teachers[{name!r}]` must be another model than `model`, which is trained; got the same {type(model).__name__}. Give "
                "'self' for the student as it is at the start, or LoraTeacher(path) for an adapter on its base."
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
    if isinstance(spec, LoraTeacher):
        base = os.fspath(spec.base) if isinstance(spec.base, os.PathLike) else spec.base
        return LoraTeacher(os.fspath(spec.path), base)
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
    return any(is_self(spec) or is_on_student(spec) for spec in map(as_spec, teachers.values()))


def initial_copy(model: PreTrainedModel) -> PreTrainedModel:
    copied = copy.deepcopy(model)
    # A forward that a trainer put on the object is bound to the weights of the model that it was copied from.
    copied.__dict__.pop("forward", None)
    return copied


def is_self(spec: Any) -> bool:
    return isinstance(spec, str) and spec == SELF


def is_on_student(spec: Any) -> bool:
    """Whether it is an adapter on the student's base."""
    return isinstance(spec, LoraTeacher) and isinstance(spec.base, str) and spec.base == STUDENT
