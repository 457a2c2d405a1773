"""Whatever subclasses a class of TRL or transformers is called as that class is: its order first, ours behind and by name."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest

import mimo_hf.trainers
from mimo_hf.trainers import DynamicSamplingGRPOTrainer, JudgeRLVRTrainer

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def subclasses():
    for module in pkgutil.walk_packages(mimo_hf.trainers.__path__, "mimo_hf.trainers."):
        for value in vars(importlib.import_module(module.name)).values():
            ours = isinstance(value, type) and value.__module__ == module.name
            if ours and upstream(value).__module__.split(".")[0] in ("trl", "transformers"):
                yield value


def upstream(cls):
    return next(base for base in cls.__mro__ if base.__module__.split(".")[0] != "mimo_hf")


def positional(function):
    return [
        (parameter.name, parameter.default)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in POSITIONAL
    ]


def overridden():
    for cls in subclasses():
        for base in cls.__mro__:
            if base.__module__.split(".")[0] == "mimo_hf":
                for name, own in vars(base).items():
                    theirs = getattr(upstream(cls), name, None)
                    if inspect.isfunction(own) and inspect.isfunction(theirs) and not dataclasses.is_dataclass(cls):
                        yield pytest.param(own, theirs, id=f"{base.__name__}.{name}")


CASES = list({case.id: case for case in overridden()}.values())


def test_the_trainers_are_among_the_cases():
    assert {"DynamicSamplingGRPOTrainer.__init__", "JudgeRLVRTrainer.__init__", "JudgeRLVRTrainer.train"} <= {
        case.id for case in CASES
    }


@pytest.mark.parametrize(("own", "theirs"), CASES)
def test_positional_arguments_are_the_parents(own, theirs):
    assert [name for name, _ in positional(own)] == [name for name, _ in positional(theirs)]
    for (name, default), (_, expected) in zip(positional(own)[1:], positional(theirs)[1:], strict=True):
        assert default == expected or default is None, name


@pytest.mark.parametrize(("own", "theirs"), CASES)
def test_no_argument_of_the_parent_is_missing(own, theirs):
    parameters = inspect.signature(own).parameters.values()
    if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
        missing = set(inspect.signature(theirs).parameters) - {parameter.name for parameter in parameters}
        assert missing == set()


@pytest.mark.parametrize("cls", [case for case in subclasses() if dataclasses.is_dataclass(case)])
def test_fields_of_a_configuration_begin_with_the_parents(cls):
    theirs = [field.name for field in dataclasses.fields(upstream(cls))]
    assert [field.name for field in dataclasses.fields(cls)][: len(theirs)] == theirs


@pytest.mark.parametrize("trainer", [DynamicSamplingGRPOTrainer, JudgeRLVRTrainer])
def test_a_tokenizer_by_position_is_the_processing_class(
    tmp_path, make_model, tokenizer, digit_reward, problems, trainer
):
    options = {"use_cpu": True, "bf16": False, "report_to": [], "num_generations": 4, "per_device_train_batch_size": 8}
    args = trainer._default_config(str(tmp_path), **options)
    made = trainer(make_model(), digit_reward, args, problems(("mixed",)), None, tokenizer)
    assert made.processing_class is tokenizer
    assert made.reward_funcs[0](prompts=[""], completions=["7 8"]) == [1.0]
    assert made.reward_funcs[0].__name__ == digit_reward.__name__
