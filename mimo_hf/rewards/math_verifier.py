"""Rewards for mathematics: the final answer against the gold answer, in processes that are killed when they take too long."""

import asyncio
import atexit
import importlib.util
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..processes.program_pool import Limits, ProgramPool, ServerLost
from ..processes.program_server import NO_UID
from .completions import after_thinking, completion_text, same_length

logger = logging.getLogger(__name__)
MODULE = "mimo_hf.rewards.verify_answer"
PROGRAM = f"from {MODULE} import main; main()"


class MathReward:
    """
    A TRL reward function: 1 if the completion's final answer, which must be in LaTeX (boxed or between dollar signs), equals the
    row's `solution` by math-verify, else 0. Only what follows the last `</think>` counts. As in `trl.rewards.accuracy_reward`, but
    completions may be plain strings, a gold answer needs no dollar signs, it may be called from any thread, and a sample that takes
    longer than its limit is ended without holding up the others.

    A row is None, never 0, where nothing can be said of any answer: its gold answer can't be read, alone takes too long, or the
    verifier fails on it (the row is named in the log, once for each answer). An answer that makes the comparison slow or fail
    where the gold answer alone does not is wrong: else a policy could choose not to be counted.

    Args:
        plain_answers: an answer has to be one, not only of the gold answer's value: no operation that is left to evaluate, unless
            the gold answer has it too (a sum, product, integral, derivative, limit, binomial coefficient, gcd, remainder,
            determinant, factorial, or plain numbers to add or multiply), no equation between numbers that does not hold,
            no set for a tuple, no `a` for `A`. Fractions, roots, powers and 3 * 10^5 are answers. False: as TRL's reward.
        timeout_s: wall-clock time for one sample.
        workers: samples that are compared at once.
        memory_bytes: address space of one comparison.

    Logs, as shares of the rows, `reward/gold_unparsable`, `reward/verifier_timeout` and `reward/verifier_error`, and with `log_extra`
    the columns `gold_parsed` and `answer_parsed`.
    """

    def __init__(
        self, timeout_s: float = 5.0, workers: int = 2, memory_bytes: int = 2 << 30, plain_answers: bool = True
    ):
        self.plain_answers = plain_answers
        self.limits = Limits(timeout_s, memory_bytes, output_bytes=1 << 20)
        self.workers = workers
        self._pool: ProgramPool | None = None
        self._lock = threading.Lock()
        self._named: set[str] = set()
        self.__name__ = "math_verify_reward"

    def __getstate__(self) -> dict[str, Any]:
        return {
            "timeout_s": self.limits.timeout_s, "workers": self.workers, "memory_bytes": self.limits.memory_bytes,
            "plain_answers": self.plain_answers,
        }  # fmt: skip

    def __setstate__(self, state: dict[str, Any]):
        self.__init__(**state)  # type: ignore[misc]

    async def __call__(
        self,
        completions: Sequence[Any],
        solution: Sequence[str] | None = None,
        log_extra: Callable[[str, list], None] | None = None,
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        same_length(completions=completions, solution=solution)
        golds = list(solution)  # type: ignore[arg-type]  # None was refused
        texts = [after_thinking(completion_text(completion)) for completion in completions]
        pairs = [(text, gold if isinstance(gold, str) else "") for text, gold in zip(texts, golds, strict=True)]
        pool = await asyncio.to_thread(self._ready)
        wanted = dict.fromkeys(pairs)  # each pair once
        slots = asyncio.Semaphore(self.workers)

        async def one(text: str, gold: str) -> dict[str, Any]:
            async with slots:
                return await asyncio.to_thread(self._compare, pool, text, gold)

        answers = dict(zip(wanted, await asyncio.gather(*(one(*pair) for pair in wanted)), strict=True))
        found = [answers[pair] for pair in pairs]
        self._name_unreadable(found, golds)
        if log_metric is not None and found:
            for name, problem in (
                ("gold_unparsable", "gold"),
                ("verifier_timeout", "timeout"),
                ("verifier_error", "error"),
            ):
                log_metric(f"reward/{name}", sum(answer["problem"] == problem for answer in found) / len(found))
            refused = sum(bool(answer.get("objection")) for answer in found)
            log_metric("reward/not_plain", refused / len(found))
        if log_extra is not None:
            log_extra("gold_parsed", [answer["gold"] or "[unparsable]" for answer in found])
            log_extra(
                "answer_parsed",
                [
                    f"{answer['answer'] or '[' + (answer['problem'] or 'unparsable') + ']'}"
                    + (f" [{answer['objection']}]" if answer.get("objection") else "")
                    for answer in found
                ],
            )
        return [None if answer["right"] is None else float(answer["right"]) for answer in found]

    def close(self):
        """Ends the processes; the next call starts new ones."""
        if self._pool is not None:
            self._pool.close()

    def _ready(self) -> ProgramPool:
        with self._lock:
            if self._pool is None:
                if importlib.util.find_spec("math_verify") is None:
                    raise ImportError("math_verify_reward needs math-verify: pip install 'mimo-hf[math]'")
                places = [os.path.abspath(place) for place in sys.path]
                root = str(Path(__file__).parents[2])
                environment = {"PYTHONPATH": os.pathsep.join(dict.fromkeys([*places, root]))}
                pool = ProgramPool(_command, self.workers, environment)
                try:
                    pool.check()
                except ServerLost as error:
                    pool.close()
                    raise RuntimeError(f"the verifier of mathematics could not be started: {error}") from error
                atexit.register(pool.close)
                self._pool = pool
            return self._pool

    def _compare(self, pool: ProgramPool, text: str, gold: str) -> dict[str, Any]:
        nothing: dict[str, Any] = {"gold": None, "answer": None, "right": None}
        if not gold.strip():
            return {**nothing, "problem": "gold"}
        status, answer = self._verify(pool, text, gold)
        if answer is not None:
            return {**answer, "problem": "gold" if answer["right"] is None else None}
        problem = "timeout" if status == "timeout" else "error"
        # Whose doing is it? Without an answer, only the gold answer is left.
        _, alone = self._verify(pool, "", gold)
        if alone is None:
            return {**nothing, "problem": problem}
        return {**alone, "problem": "gold" if alone["right"] is None else problem}

    def _verify(self, pool: ProgramPool, text: str, gold: str) -> tuple[str, dict[str, Any] | None]:
        """How the comparison ended, and what it found, if it did."""
        asked = {"text": text, "gold": gold, "plain": self.plain_answers}
        result = pool.run(PROGRAM, json.dumps(asked), self.limits)
        if result.status != "ok":
            logger.info("A comparison with %r ended as %s: %s", gold, result.status, result.stderr[-500:])
            return result.status, None
        return result.status, json.loads(result.stdout.strip().rpartition("\n")[2])

    def _name_unreadable(self, found: Sequence[dict[str, Any]], golds: Sequence[str]):
        for index, (answer, gold) in enumerate(zip(found, golds, strict=True)):
            if answer["problem"] == "gold" and str(gold) not in self._named:
                self._named.add(str(gold))
                logger.warning(
                    "`solution` of row %d can't be read by math-verify, its reward is None: %r", index, gold
                )


def _command(channel: int) -> tuple[list[str], str]:
    folder = tempfile.mkdtemp(prefix="mimo-program-")
    words = [sys.executable, "-m", "mimo_hf.processes.program_server", str(channel), folder, str(NO_UID)]
    return [*words, "none", "", MODULE], folder  # its programs are ours


# 1 where an answer equals the solution, 0 where not: `MathReward` with its defaults.
math_verify_reward = MathReward()
