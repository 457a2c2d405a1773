"""
The versions of transformers that the models run on, and what it has renamed between them.

transformers 5.24 calls the key-value cache `cache` where it was `past_key_values`: as argument and output of models, layers
and mask helpers, and in the keyword arguments of its decoding loops. It takes the old name until 5.40, with a warning. Here

- a `forward` is written with the parameter `past_key_values` under `@either_cache_name`, and is called by either name;
- transformers' own functions and outputs get the cache as `**cache_argument(cache)`;
- `cache_of(outputs)` and `cache_of(kwargs)` read it, whatever its name.

A configuration imports this file before it imports names that an old transformers lacks, so that the error below comes first.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import transformers

# Oldest to newest, on one line, which the Makefile reads; tests/test_versions.py runs on both ends. setup.cfg has the bound.
TESTED = ("5.19.0", "5.22.2", "5.23.0", "5.24.0")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def _check_version(version: str):
    """
    Raises:
        ImportError: transformers is older than the oldest tested one. Newer than the newest: a warning.
    """
    oldest, newest = TESTED[0], TESTED[-1]
    if _numbers(version) < _numbers(oldest):
        raise ImportError(
            f"The MiMo models need transformers {oldest} or newer; {version} is installed. "
            f"Run `pip install 'transformers>={oldest},<={newest}'`."
        )
    if _numbers(version) > _numbers(newest):
        transformers.utils.logging.get_logger(__name__).warning(
            f"The MiMo models are tested with transformers {', '.join(TESTED)}; {version} is newer. If anything fails or "
            f"looks wrong, run `pip install 'transformers=={newest}'`."
        )


_check_version(transformers.__version__)

from transformers import Cache  # noqa: E402  after the check
from transformers.masking_utils import create_causal_mask  # noqa: E402  after the check
from transformers.utils import ModelOutput  # noqa: E402  after the check

OLD_NAME, NEW_NAME = "past_key_values", "cache"
CACHE = NEW_NAME if NEW_NAME in inspect.signature(create_causal_mask).parameters else OLD_NAME
NEVER_READ = ("past_key_value", "cache_params", "layer_past", "past")  # of other models and times


def cache_argument(cache) -> dict[str, Any]:
    """The cache under the name that this transformers gives it, for its functions and outputs."""
    return {CACHE: cache}


def cache_of(given: ModelOutput | Mapping[str, Any]):
    """The cache in a model's output or in the keyword arguments of a call; None: there is none."""
    if isinstance(given, ModelOutput):
        return getattr(given, CACHE, None)
    caches = (given.get(name) for name in (OLD_NAME, NEW_NAME))
    return next((cache for cache in caches if isinstance(cache, Cache)), None)


def either_cache_name(forward: Callable) -> Callable:
    """
    Lets `forward`, which has the parameter `past_key_values`, be called with `cache` as well, on every transformers. Its
    signature shows the name that this transformers uses.

    Raises:
        ValueError: two caches, a cache under a name that nothing reads, or the tuple of tensors that caches once were.
    """

    @functools.wraps(forward)
    def with_either_name(*args, **kwargs):
        if kwargs:
            kwargs = _with_old_name(kwargs)
        return forward(*args, **kwargs)

    signature = inspect.signature(forward)
    renamed = [p.replace(name=CACHE) if p.name == OLD_NAME else p for p in signature.parameters.values()]
    vars(with_either_name)["__signature__"] = signature.replace(parameters=renamed)
    return with_either_name


def _with_old_name(kwargs: dict[str, Any]) -> dict[str, Any]:
    old, new = kwargs.get(OLD_NAME), kwargs.get(NEW_NAME)
    for name in (OLD_NAME, NEW_NAME):
        if isinstance(kwargs.get(name), (tuple, list)):
            raise ValueError(f"`{name}` must be a cache, such as `DynamicCache(config=model.config)`; got a tuple.")
    for name, value in kwargs.items():
        if name not in (OLD_NAME, NEW_NAME) and (
            isinstance(value, Cache) or (name in NEVER_READ and value is not None)
        ):
            raise ValueError(f"`{name}` must be called `{CACHE}` to be read as a cache.")
    # Before 5.24 `cache` is also what continuous batching calls its paged cache, which the attention itself takes.
    if NEW_NAME not in kwargs or not (CACHE == NEW_NAME or new is None or isinstance(new, Cache)):
        return kwargs
    if old is not None and new is not None and old is not new:
        raise ValueError(f"`{OLD_NAME}` must not go with `{NEW_NAME}`, another name of it; leave one of them out.")
    kwargs = {name: value for name, value in kwargs.items() if name != NEW_NAME}
    if new is not None:
        kwargs[OLD_NAME] = new
    return kwargs


__all__ = ["CACHE", "TESTED", "cache_argument", "cache_of", "either_cache_name"]
