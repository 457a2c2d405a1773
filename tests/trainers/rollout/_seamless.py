"""Rollouts in virtual time: what generates and scores, and settings drawn at random."""

import asyncio
import random


class Simulated:
    """Generation and scoring that take random times, with a log of what happened when. Prompts are 0, 1, 2, ..."""

    def __init__(self, seed, pass_rate=0.4):
        self.random = random.Random(seed)
        self.validity = random.Random(f"validity {seed}")
        self.pass_rate = pass_rate
        self.verdicts = {}
        self.started, self.generated, self.finished, self.cancelled = {}, {}, {}, []
        self.generating = self.scoring = self.peak_generating = self.peak_scoring = 0

    def valid(self, prompt):
        while len(self.verdicts) <= prompt:
            self.verdicts[len(self.verdicts)] = self.validity.random() < self.pass_rate
        return self.verdicts[prompt]

    async def generate(self, prompt):
        now = asyncio.get_running_loop().time
        self.started[prompt] = now()
        self.generating += 1
        self.peak_generating = max(self.peak_generating, self.generating)
        try:
            await asyncio.sleep(self.random.lognormvariate(0, 1))
        except asyncio.CancelledError:
            self.cancelled.append(prompt)
            raise
        finally:
            self.generating -= 1
        self.generated[prompt] = now()
        return f"answer {prompt}"

    async def score(self, prompt, output):
        assert output == f"answer {prompt}"
        self.scoring += 1
        self.peak_scoring = max(self.peak_scoring, self.scoring)
        try:
            await asyncio.sleep(self.random.expovariate(2))
        except asyncio.CancelledError:
            self.cancelled.append(prompt)
            raise
        finally:
            self.scoring -= 1
        self.finished[prompt] = asyncio.get_running_loop().time()
        return [1.0, 0.0] if self.valid(prompt) else [0.0, 0.0]


def random_setting(seed):
    draw = random.Random(f"setting {seed}")
    return {
        "needed": draw.randint(1, 9),
        "max_inflight": draw.randint(1, 14),
        "max_rewards": draw.choice([None, 1, 2, 5]),
        "prior": draw.choice([(1.0, 1.0), (4.0, 1.0), (0.5, 8.0)]),
    }


async def instantly(prompt):
    return prompt


async def always_valid(prompt, output):
    return [0.0, 1.0]
