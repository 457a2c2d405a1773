"""
Small programs to be written stage by stage: a problem whose tests differ in difficulty by construction.

A problem names four operations on a list by cue words, and the program that solves it is the pipeline of those operations. A test
gives a list and a depth: how many stages of the pipeline act on it. So a test of depth k needs the first k stages only.
"""

import random
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "held_out")
STAGES = 4
OPERATIONS: dict[str, Callable[[list[int]], list[int]]] = {
    "sort": sorted,
    "reverse": lambda values: values[::-1],
    "double": lambda values: [2 * value for value in values],
    "increment": lambda values: [value + 1 for value in values],
    "negate": lambda values: [-value for value in values],
    "rest": lambda values: values[1:],
    "unique": lambda values: list(dict.fromkeys(values)),
    "rotate": lambda values: values[1:] + values[:1],
}
CUES = dict(
    zip(("order", "flip", "twice", "more", "minus", "later", "set", "turn"), OPERATIONS, strict=True)
)  # the problem's word of each operation
WORDS = ("<pad>", "<eos>", ":", *CUES, *OPERATIONS)

# One expression of `v` for each operation: the same program in Python, for a sandbox.
_PYTHON = {
    "sort": "sorted(v)",
    "reverse": "v[::-1]",
    "double": "[2 * x for x in v]",
    "increment": "[x + 1 for x in v]",
    "negate": "[-x for x in v]",
    "rest": "v[1:]",
    "unique": "list(dict.fromkeys(v))",
    "rotate": "v[1:] + v[:1]",
}


def run_program(program: str, stdin: str) -> str | None:
    """
    What a pipeline answers to a test's input, as text; None if it is no pipeline of four operations.

    Args:
        program: operations, separated by blanks.
        stdin: numbers on one line, the depth on the next.
    """
    words = program.split()
    if len(words) != STAGES or not set(words) <= OPERATIONS.keys():
        return None
    numbers, depth = stdin.splitlines()
    values = [int(number) for number in numbers.split()]
    for word in words[: int(depth)]:
        values = OPERATIONS[word](values)
    return " ".join(map(str, values))


def as_python(program: str) -> str:
    """The pipeline as a Python program over standard streams."""
    steps = ", ".join(f"lambda v: {_PYTHON[word]}" for word in program.split())
    return (
        f"v = [int(x) for x in input().split()]\nfor step in [{steps}][:int(input())]:\n    v = step(v)\nprint(*v)\n"
    )


def staged_programs(count: int, split: str = "train", tests_per_depth: int = 2, seed: int = 0) -> "Dataset":
    """
    Problems with their tests. A pipeline is in one split only (one in five is held out), whatever the seed.

    Args:
        count: problems, all different.
        tests_per_depth: tests of each depth from 1 to 4.

    Returns:
        A `datasets.Dataset` with the columns `prompt` (cue words), `solution` (the pipeline), `tests` (each `input` and `output`, as code
        rewards take them; the easiest first) and `test_depths`.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}; got {split!r}.")
    rng = random.Random(f"{seed} {split}")
    cues = list(CUES)
    problems: dict[str, dict] = {}
    pipelines = len(cues) ** STAGES
    if not 0 < count <= pipelines // 8:
        raise ValueError(f"`count` must lie in 1..{pipelines // 8}; got {count}.")
    while len(problems) < count:
        chosen = rng.choices(cues, k=STAGES)
        prompt = " ".join(chosen)
        if (zlib.crc32(prompt.encode()) % 5 == 0) == (split == "held_out") and prompt not in problems:
            problems[prompt] = _problem(prompt, tests_per_depth, rng)
    from datasets import Dataset

    return Dataset.from_list(list(problems.values()))


def _problem(prompt: str, tests_per_depth: int, rng: random.Random) -> dict:
    solution = " ".join(CUES[cue] for cue in prompt.split())
    depths = [depth for depth in range(1, STAGES + 1) for _ in range(tests_per_depth)]
    tests = []
    for depth in depths:
        values = rng.sample(range(-9, 10), 5)
        values.insert(rng.randrange(6), rng.choice(values))  # "unique" must have something to do
        stdin = f"{' '.join(map(str, values))}\n{depth}\n"
        tests.append({"input": stdin, "output": run_program(solution, stdin)})
    return {"prompt": f"{prompt} :", "solution": solution, "tests": tests, "test_depths": depths}


def demonstrations(
    problems: "Dataset", right: Sequence[float] = (0.8, 0.55, 0.2, 0.12), seed: int = 0
) -> list[dict[str, str]]:
    """
    Pairs of `prompt` and `completion` that teach the form, and each stage with its own reliability.

    Args:
        right: for each stage, the probability that its operation is the right one; otherwise it is a random other one.
    """
    rng = random.Random(f"{seed} demonstrations")
    pairs = []
    for problem in problems:
        words = []
        for word, chance in zip(problem["solution"].split(), right, strict=True):
            others = [other for other in OPERATIONS if other != word]
            words.append(word if rng.random() < chance else rng.choice(others))
        pairs.append({"prompt": problem["prompt"], "completion": " ".join(words)})
    return pairs
