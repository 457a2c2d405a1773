"""Reward functions that raise: the rows at fault are left out, the others keep their rewards."""

from collections.abc import Callable
from typing import Any

from trl.trainer.utils import get_callable_name, is_async_callable


def guard_reward(function: Callable, on_error: Callable[[Exception], None]) -> Callable:
    """
    A TRL reward function that scores row by row where `function` raises on a batch, and gives `None` for rows that
    still raise: TRL leaves these out of their group's baseline.

    What a call logs by `log_extra` and `log_metric` counts only if the call returns; a left-out row has `None` in the
    extra columns.

    Args:
        function: a reward function, or an async one (the result is async then).
        on_error: gets the exception of every left-out row.
    """
    guarded: Callable
    if is_async_callable(function):

        async def score_later(**columns: Any) -> list[float | None]:
            return await _score(function, columns, on_error)

        guarded = score_later

    else:

        async def call(**columns: Any) -> list[float | None]:
            return function(**columns)

        def score(**columns: Any) -> list[float | None]:
            # Nothing in this coroutine waits, so it ends in its first step.
            try:
                _score(call, columns, on_error).send(None)
            except StopIteration as end:
                return end.value
            raise RuntimeError(f"The reward function {function!r} returned an awaitable but is not async.")

        guarded = score

    guarded.__name__ = get_callable_name(function)
    return guarded


async def _score(
    function: Callable, columns: dict[str, Any], on_error: Callable[[Exception], None]
) -> list[float | None]:
    num_rows = len(columns["completions"])
    log = _Log()
    try:
        rewards = await function(**(columns | log.functions()))
    except Exception:  # noqa: BLE001 - a reward may raise anything; each row is asked again below
        log = _Log()
    else:
        log.pass_on(columns)
        return rewards

    rewards, logs = [], []
    for index in range(num_rows):
        row = {
            name: [column[index]] if isinstance(column, list) and len(column) == num_rows else column
            for name, column in columns.items()
        }
        row_log = _Log()
        try:
            (reward,) = await function(**(row | row_log.functions()))
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

    def functions(self) -> dict[str, Callable]:
        return {
            "log_extra": lambda column, values: self.extra.setdefault(column, []).extend(values),
            "log_metric": lambda name, value: self.metrics.append((name, value)),
        }

    def pass_on(self, columns: dict[str, Any]) -> None:
        for column, values in self.extra.items():
            columns["log_extra"](column, values)
        for name, value in self.metrics:
            columns["log_metric"](name, value)
