"""What a training must have before it starts: problems that can be drawn, answers that rewards need, an engine that fits."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset
from torch import nn
from trl.trainer.utils import get_config_model_id

from .mimo_rl_config import MiMoRLConfig

# What TRL passes to reward functions beside the data set's columns.
NOT_COLUMNS = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments"}


def config_of(args: Any, model: Any, default: type[MiMoRLConfig], name: str) -> MiMoRLConfig:
    """What the trainer was given; without anything, its defaults, with a folder called after model and method."""
    if args is None:
        model_id = model if isinstance(model, str) else get_config_model_id(model.config)
        return default(f"{model_id.split('/')[-1]}-{name}")
    if not isinstance(args, MiMoRLConfig):
        raise TypeError(
            f"`args` must be a {default.__name__}; got {type(args).__name__}. It takes every option of GRPOConfig."
        )
    return args


def check_engine(args: MiMoRLConfig, **replaced: Any):
    if not args.dynamic_sampling:
        raise ValueError("`dynamic_sampling` must be True with `generate_fn`, which fills batches by it; got False.")
    if args.carry_surplus:
        raise ValueError(
            "`carry_surplus` must be False with `generate_fn`, which starts only as many problems as a batch "
            "needs; got True."
        )
    if args.world_size > 1:
        raise NotImplementedError(
            f"`generate_fn` works on one process; there are {args.world_size}. Leave it out: rounds work on several."
        )
    for name, value in replaced.items():
        if value is not None:
            raise ValueError(
                f"`generate_fn` must not be given together with `{name}`, whose place it takes; got both."
            )


def check_rows_can_be_drawn(train_dataset: Any, environment_factory: Any):
    if not isinstance(train_dataset, Dataset):
        raise TypeError(
            "`dynamic_sampling` and `easy_pool_alpha` draw problems by index: `train_dataset` must be a "
            f"datasets.Dataset; got {type(train_dataset).__name__}. Load it without streaming."
        )
    images = {"image", "images"} & set(train_dataset.column_names)
    if images:
        raise NotImplementedError(
            f"`train_dataset` has the column {min(images)!r}. Images are not one row a completion, so batches of "
            "several rounds can't be put together: set dynamic_sampling=False and easy_pool_alpha=0."
        )
    if isinstance(environment_factory, Mapping):
        raise NotImplementedError(
            "`environment_factory` names several environments, whose state is tied to a whole batch: pass a single "
            "factory, or set dynamic_sampling=False and easy_pool_alpha=0."
        )


def check_answers(reward_funcs: Any, train_dataset: Any):
    """Every column that a reward function can't do without is there, and not empty."""
    columns = getattr(train_dataset, "column_names", None)
    if columns is None:
        return
    functions = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
    for function in functions:
        if not callable(function) or isinstance(function, nn.Module):
            continue
        for name in _required_columns(function):
            title = getattr(function, "__name__", type(function).__name__)
            if name not in columns:
                raise ValueError(
                    f"`train_dataset` must have the column {name!r}, which the reward function {title!r} needs; got "
                    f"{', '.join(map(repr, columns))}. Add or rename the column, or give the parameter a default."
                )
            if isinstance(train_dataset, Dataset) and all(value in (None, "") for value in train_dataset[name]):
                raise ValueError(
                    f"`train_dataset` must have answers in the column {name!r}, which the reward function {title!r} "
                    f"needs; got {len(train_dataset)} empty rows. Fill in the answers."
                )


def _required_columns(function: Callable) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some callables written in C have none
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind in named
        and parameter.default is inspect.Parameter.empty
        and parameter.name not in NOT_COLUMNS
    ]
