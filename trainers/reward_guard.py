"""Reward functions that raise: the rows at fault are left out, the others keep their rewards."""

import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from trl.trainer.utils import get_callable_name, is_async_callable

from mimo_hf.data.reward_columns import take_rows

logger = logging.getLogger(__name__)


class RewardErrors:
    """
    Rows whose reward function raised.

    Attributes:
        count: rows on this process since the start.
        in_last_call: rows of the last batch that was scored, on all processes.
        first: the first error on this process.
    """

    def __init__(self):
        self.count = self.in_last_call = 0
        self.first: str | None = None

    def add(self, name: str, error: Exception) -> None:
        self.count += 1
        if self.first is None:
            self.first = f"{name}: {error!r}"
            logger.warning("The reward function %s raised; the row is left out.", name, exc_info=error)

    def said(self) -> str:
        """A sentence for an error message; empty if nothing raised."""
        return f" It raised for {self.count} rows on this process, first {self.first}." if self.count else ""

    def check_something_was_scored(self, rewards: Sequence[torch.Tensor]) -> None:
        if self.in_last_call and all(matrix.isnan().all() for matrix in rewards):
            raise RuntimeError(
                f"The reward functions raised for every row of a batch, first {self.first or 'on another process'}. "
                "A function that fails for some rows leaves these out; one that fails for all needs mending."
            )


def guard_reward(function: Callable, on_error: Callable[[Exception], None]) -> "GuardedReward":
    """
    A TRL reward function that scores row by row where `function` raises on a batch, and gives `None` for rows that
    still raise: TRL leaves these out of their group's baseline.

    What a call logs by `log_extra` and `log_metric` counts only if the call returns; a left-out row has `None` in the
    extra columns.

    Args:
        function: a reward function, or an async one (the result is async then).
        on_error: gets the exception of every left-out row.

    Returns:
        What looks like `function`: it has its signature and attributes, which are `function`'s own and not copies, and takes
        arguments by position, too. A call without `completions` is passed on as it is.
    """
    return (GuardedAsyncReward if is_async_callable(function) else GuardedReward)(function, on_error)


class GuardedReward:
    """See [`guard_reward`]."""

    __wrapped__: Callable
    _on_error: Callable[[Exception], None]

    def __init__(self, function: Callable, on_error: Callable[[Exception], None]):
        own: dict[str, Any] = {"__wrapped__": function, "_on_error": on_error}
        own |= {name: getattr(function, name, None) for name in ("__doc__", "__module__")}
        if not hasattr(function, "__name__"):
            own["__name__"] = get_callable_name(function)
        self.__dict__.update(own)

    def __call__(self, *arguments: Any, **columns: Any) -> Any:
        named = named_arguments(self.__wrapped__, arguments, columns)
        if "completions" not in named:
            return self.__wrapped__(*arguments, **columns)

        async def call(**columns: Any) -> list[float | None]:
            return self.__wrapped__(**columns)

        # Nothing in this coroutine waits, so it ends in its first step.
        try:
            _score(call, named, self._on_error).send(None)
        except StopIteration as end:
            return end.value
        raise RuntimeError(f"The reward function {self.__wrapped__!r} returned an awaitable but is not async.")

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":  # of a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__wrapped__, name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.__wrapped__!r})"


class GuardedAsyncReward(GuardedReward):
    async def __call__(self, *arguments: Any, **columns: Any) -> Any:
        named = named_arguments(self.__wrapped__, arguments, columns)
        if "completions" not in named:
            return await self.__wrapped__(*arguments, **columns)
        return await _score(self.__wrapped__, named, self._on_error)


def named_arguments(function: Callable, arguments: tuple[Any, ...], columns: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name; those given by position only where every one of them can be passed by name, too."""
    if not arguments:
        return columns
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # some callables written in C have none
        return columns
    given = parameters[: len(arguments)]
    if len(given) < len(arguments) or any(parameter.kind != parameter.POSITIONAL_OR_KEYWORD for parameter in given):
        return columns
    by_position = dict(zip((parameter.name for parameter in given), arguments, strict=True))
    if by_position.keys() & columns.keys():
        return columns
    return by_position | columns


async def _score(
    function: Callable, columns: dict[str, Any], on_error: Callable[[Exception], None]
) -> list[float | None]:
    num_rows = len(columns["completions"])
    log = _Log()
    try:
        rewards = await function(**(columns | log.functions(columns)))
    except Exception:  # noqa: BLE001 - a reward may raise anything; each row is asked again below
        log = _Log()
    else:
        log.pass_on(columns)
        return rewards

    rewards, logs = [], []
    for index in range(num_rows):
        row = take_rows(columns, [index])
        row_log = _Log()
        try:
            (reward,) = await function(**(row | row_log.functions(columns)))
        except Exception as error:  # noqa: BLE001 - as above
            on_error(error)
            reward, row_log = None, _Log()
        rewards.append(reward)
        logs.append(row_log)
    for name in sorted({name for row_log in logs for name in row_log.extra}):
        log.extra[name] = [row_log.extra.get(name, [None])[0] for row_log in logs]
    log.metrics = [metric for row_log in logs for metric in row_log.metrics]
    log.pass_on(columns)
    return rewards


class _Log:
    """What one call of a reward function logged."""

    def __init__(self):
        self.extra: dict[str, list[Any]] = {}
        self.metrics: list[tuple[str, float]] = []

    def functions(self, columns: dict[str, Any]) -> dict[str, Callable]:
        """What takes the place of the caller's `log_extra` and `log_metric`, where it gives them."""
        own: dict[str, Callable] = {
            "log_extra": lambda column, values: self.extra.setdefault(column, []).extend(values),
            "log_metric": lambda name, value: self.metrics.append((name, value)),
        }
        return {name: function for name, function in own.items() if columns.get(name) is not None}

    def pass_on(self, columns: dict[str, Any]) -> None:
        for column, values in self.extra.items():
            columns["log_extra"](column, values)
        for name, value in self.metrics:
            columns["log_metric"](name, value)
