"""Options of the code reward, for a script's command line."""

from dataclasses import dataclass, field

from .difficulty import SCHEMES
from .sandbox import BACKENDS


@dataclass
class CodeRewardOptions:
    r"""
    What `CodeReward.from_args` makes a reward of: the scheme, and the sandbox that programs run in.

    Using [`~transformers.HfArgumentParser`] we can turn this class into
    [argparse](https://docs.python.org/3/library/argparse#module-argparse) arguments that can be specified on the
    command line, beside those of a trainer: `TrlParser((MiMoRLConfig, CodeRewardOptions))`.

    Parameters:
        code_reward_scheme (`str`, *optional*, defaults to `"strict"`):
            What passed tests are worth: `"strict"`, `"soft"` or `"vanilla"` (see [`~mimo_hf.rewards.score`]).
        sandbox (`str`, *optional*, defaults to `"auto"`):
            Backend of the sandbox that programs run in: `"bwrap"`; `"subprocess"`, which is no security boundary; or `"auto"`:
            bubblewrap, and an error that says what to do where it does not work.
        sandbox_timeout_s (`float`, *optional*, defaults to `6.0`):
            Seconds of wall-clock time for a program.
        sandbox_memory_mb (`int`, *optional*, defaults to `512`):
            Memory of a program, in MiB.
        sandbox_workers (`int`, *optional*, defaults to `2`):
            Programs that run at once.
    """

    code_reward_scheme: str = field(
        default="strict",
        metadata={
            "help": "What passed tests are worth: 'strict', 'soft' or 'vanilla' (see [~mimo_hf.rewards.score]).",
            "choices": SCHEMES,
        },
    )
    sandbox: str = field(
        default="auto",
        metadata={
            "help": "Backend of the sandbox that programs run in: 'bwrap'; 'subprocess', which is no security boundary; or "
            "'auto': bubblewrap, and an error that says what to do where it does not work.",
            "choices": BACKENDS,
        },
    )
    sandbox_timeout_s: float = field(default=6.0, metadata={"help": "Seconds of wall-clock time for a program."})
    sandbox_memory_mb: int = field(default=512, metadata={"help": "Memory of a program, in MiB."})
    sandbox_workers: int = field(default=2, metadata={"help": "Programs that run at once."})

    def __post_init__(self):
        for name, allowed in (("code_reward_scheme", SCHEMES), ("sandbox", BACKENDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}; got {getattr(self, name)!r}.")
        for name in ("sandbox_timeout_s", "sandbox_memory_mb", "sandbox_workers"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be above 0; got {getattr(self, name)}.")
