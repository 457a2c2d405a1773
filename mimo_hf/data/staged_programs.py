"""
Programs of one to four stages with tests in three levels: a toy of code problems whose easy tests need only some stages.

A program is a line of stages, applied in turn to an integer. `small` lets its stage act on inputs above 9 only, `large` on
inputs above 99 only; so inputs up to 9 need the first stages, inputs up to 99 some more, and larger ones all.
"""

import random
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "test")
TEST_SHARE = 5
MODULUS = 1000
OPERATIONS = {
    "add": lambda value, operand: value + operand,
    "mul": lambda value, operand: value * operand,
    "sub": lambda value, operand: value - operand,
    "xor": lambda value, operand: value ^ operand,
}
GUARDS = {"all": -1, "small": 9, "large": 99}  # a stage acts on inputs above this
LEVELS = ("easy", "medium", "hard")
INPUTS = {"easy": range(10), "medium": range(10, 100), "hard": range(100, MODULUS)}
NUM_OPERANDS = 10

Stage = tuple[str, str, int]


def words() -> list[str]:
    """Every word of a prompt or a program."""
    return [*map(str, range(NUM_OPERANDS)), *OPERATIONS, *GUARDS, ";", ":", "?"]


def run_program(program: str, value: int) -> int | None:
    """
    The program's result on an input of 0 to 999, itself 0 to 999; None if the program can't be read.

    A program is stages separated by `;`, each `guard operation operand`, such as `all add 3 ; small mul 2`.
    """
    given = value
    for stage in program.split(";"):
        parts = stage.split()
        if len(parts) != 3 or parts[0] not in GUARDS or parts[1] not in OPERATIONS:
            return None
        if not (parts[2].isdecimal() and len(parts[2]) == 1):
            return None
        if given > GUARDS[parts[0]]:
            value = OPERATIONS[parts[1]](value, int(parts[2])) % MODULUS
    return value


def staged_programs(split: str, num_problems: int, tests_per_level: int = 3, seed: int = 0) -> "Dataset":
    """
    Distinct programs of 1 to 4 stages: one or two for all inputs, then at most one `small` and one `large`.

    The prompt names operations and guards; operands are what a solver has to find.

    Args:
        split: `"train"` or `"test"`, by crc32 of the program: no program is in both.

    Returns:
        `problem_id` and `solution` (the program), `prompt`, `num_stages`, and per test, easy ones first: `inputs`,
        `outputs` (int) and `levels` (0 easy, 1 medium, 2 hard).
    """
    from datasets import Dataset

    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}; got {split!r}.")
    if not 1 <= tests_per_level <= 10:
        raise ValueError(f"`tests_per_level` must be 1 to 10, the number of easy inputs; got {tests_per_level}.")
    rng = random.Random(f"staged:{split}:{seed}")
    rows: dict[str, dict[str, Any]] = {}
    misses = 0
    while len(rows) < num_problems:
        stages = _random_stages(rng)
        program = " ; ".join(f"{guard} {operation} {operand}" for guard, operation, operand in stages)
        is_test = zlib.crc32(program.encode()) % TEST_SHARE == 0
        if program in rows or is_test != (split == "test"):
            misses += 1
            if misses > 1000 * num_problems:
                raise ValueError(f"Only {len(rows)} distinct programs were found; num_problems={num_problems}.")
            continue
        inputs, levels = [], []
        for level, name in enumerate(LEVELS):
            inputs += rng.sample(INPUTS[name], tests_per_level)
            levels += [level] * tests_per_level
        outputs = [run_program(program, value) for value in inputs]
        rows[program] = {
            "problem_id": program,
            "solution": program,
            "prompt": " ; ".join(f"{guard} {operation} ?" for guard, operation, _ in stages) + " :",
            "num_stages": len(stages),
            "inputs": inputs,
            "outputs": outputs,
            "levels": levels,
        }
    return Dataset.from_list(list(rows.values()))


def passed_tests(program: str, inputs: Sequence[int], outputs: Sequence[int]) -> list[bool]:
    """Whether the program gives each output."""
    return [run_program(program, given) == expected for given, expected in zip(inputs, outputs, strict=True)]


def _random_stages(rng: random.Random) -> list[Stage]:
    guards = ["all"] * rng.randint(1, 2) + [guard for guard in ("small", "large") if rng.random() < 0.7]
    stages = []
    for guard in guards:
        operation = rng.choice(list(OPERATIONS))
        # Operands that would leave every value as it is are no stage.
        lowest = 2 if operation == "mul" else 1
        stages.append((guard, operation, rng.randint(lowest, NUM_OPERANDS - 1)))
    return stages
