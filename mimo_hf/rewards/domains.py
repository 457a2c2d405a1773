"""One reward for a dataset of several domains: each row goes to the verifier that its column names."""

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..data.reward_columns import take_rows
from .code_tests import test_difficulty_code_reward
from .completions import same_length
from .judge import judge_reward
from .math_verifier import math_verify_reward

logger = logging.getLogger(__name__)


class DomainReward:
    """See `by_domain`."""

    def __init__(self, rewards: Mapping[str, Callable[..., Any]], column: str):
        if not rewards:
            raise ValueError("`rewards` of by_domain must have a reward function for each domain; got none.")
        self.rewards, self.column = dict(rewards), column
        self.__name__ = "domain_reward"

    async def __call__(
        self, completions: Sequence[Any], prompts: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        domains: Any = columns.get(self.column)
        same_length(completions=completions, **{self.column: domains})
        rows: dict[str, list[int]] = {}
        for index, domain in enumerate(domains):
            if domain not in self.rewards:
                raise ValueError(
                    f"`{self.column}` of row {index} must be one of {', '.join(map(str, self.rewards))}, for which "
                    f"by_domain has rewards; got {domain!r}."
                )
            rows.setdefault(domain, []).append(index)
        columns = {"prompts": prompts, "completions": completions, **columns}
        answers = await asyncio.gather(
            *(self._one(domain, own, columns) for domain, own in rows.items()), return_exceptions=True
        )
        rewards: list[float | None] = [None] * len(completions)
        failures: list[tuple[str, BaseException]] = []
        for (domain, own), answer in zip(rows.items(), answers, strict=True):
            if isinstance(answer, BaseException):
                failures.append((domain, answer))
                continue
            for index, reward in zip(own, answer, strict=True):
                rewards[index] = reward
        for domain, error in failures:
            if len(failures) == len(rows) or not isinstance(error, Exception):
                raise error
            logger.error("The reward of domain %r failed; its rows are left out.", domain, exc_info=error)
        log_metric = columns.get("log_metric")
        if log_metric is not None and len(completions):
            failed = sum(len(rows[domain]) for domain, _ in failures)
            log_metric("reward/errors", failed / len(completions))
        return rewards

    async def _one(self, domain: str, own: Sequence[int], columns: Mapping[str, Any]) -> list[float | None]:
        given = take_rows(columns, own)
        given.pop("log_extra", None)  # it takes one value for each row of the batch
        answer = self.rewards[domain](**given)
        rewards = await answer if inspect.isawaitable(answer) else answer
        if len(rewards) != len(own):
            raise ValueError(f"{domain!r} must give a value for each of its {len(own)} rows; got {len(rewards)}.")
        return list(rewards)


def by_domain(rewards: Mapping[str, Callable[..., Any]], column: str = "domain") -> DomainReward:
    """
    A TRL reward function that sends each row to one of several.

    Args:
        rewards: reward function of each domain, synchronous or not; each is called once a batch, with its rows only.
        column: the dataset's column that names the domain.

    A row of another domain is an error. If a reward function raises, its rows get None, and `reward/errors` is their share; if all of
    them do, the error goes on: nothing could be learnt.
    """
    return DomainReward(rewards, column)


# Mathematics, programs and verdicts, each row by the reward of its column `domain`.
domain_reward = by_domain({"math": math_verify_reward, "code": test_difficulty_code_reward, "judge": judge_reward})
