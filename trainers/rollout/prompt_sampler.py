"""Which prompt comes next: a seeded permutation, and an easy pool for solved problems (arXiv 2505.07608, section 3.3.2)."""

import random
from typing import Any


class PromptSampler:
    """
    Draws indices of problems. The same calls give the same draws on every process and after `load_state_dict`.

    A problem is *active* at first. Active problems are drawn along a permutation of them, made anew when it ends. With
    an easy pool, a solved problem moves into the pool and returns when it is seen unsolved. A draw is uniform over the
    pool with probability `easy_pool_alpha`, if the pool holds anything; also where nothing is active any more.

    Args:
        num_problems: indices are 0 to `num_problems - 1`.
        easy_pool_alpha: in [0, 1]; 0: no pool, every problem stays active.
        seed: of the permutations and of the pool's draws.
    """

    def __init__(self, num_problems: int, easy_pool_alpha: float = 0.0, seed: int = 0):
        if num_problems < 1:
            raise ValueError(f"`num_problems` must be at least 1; got {num_problems}.")
        if not 0 <= easy_pool_alpha <= 1:
            raise ValueError(f"`easy_pool_alpha` must be a probability in [0, 1]; got {easy_pool_alpha}.")
        self.num_problems = num_problems
        self.easy_pool_alpha = easy_pool_alpha
        self._random = random.Random(seed)  # noqa: S311  a seeded order, no secret
        self._order: list[int] = []  # what is left of the permutation, next one last
        self._pool: list[int] = []
        self._solved: set[int] = set()

    @property
    def pool_size(self) -> int:
        return len(self._pool)

    def in_pool(self, index: int) -> bool:
        return index in self._solved

    def draw(self, count: int) -> list[int]:
        """The next `count` indices."""
        return [self._draw_one() for _ in range(count)]

    def _draw_one(self) -> int:
        if self._pool and (self._random.random() < self.easy_pool_alpha or len(self._pool) == self.num_problems):
            return self._random.choice(self._pool)
        while True:
            if not self._order:
                self._order = [index for index in range(self.num_problems) if index not in self._solved]
                self._random.shuffle(self._order)
            index = self._order.pop()
            if index not in self._solved:
                return index

    def update(self, index: int, solved: bool) -> None:
        """Tells what became of a group of problem `index`; without a pool, nothing changes."""
        if not self.easy_pool_alpha or solved == (index in self._solved):
            return
        if solved:
            self._pool.append(index)
            self._solved.add(index)
        else:
            self._pool.remove(index)
            self._solved.remove(index)

    def state_dict(self) -> dict[str, Any]:
        """All that determines the next draws, for JSON."""
        version, words, gauss = self._random.getstate()
        return {
            "num_problems": self.num_problems,
            "order": list(self._order),
            "pool": list(self._pool),
            "random": [version, list(words), gauss],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["num_problems"] != self.num_problems:
            raise ValueError(
                f"`train_dataset` must be the one that the checkpoint was trained on, of {state['num_problems']} "
                f"problems; got {self.num_problems}. Resume with that, or start anew."
            )
        version, words, gauss = state["random"]
        self._random.setstate((version, tuple(words), gauss))
        self._order, self._pool = list(state["order"]), list(state["pool"])
        self._solved = set(self._pool)
