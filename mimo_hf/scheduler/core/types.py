"""Actions: what they cost, and how much faster they run on more units."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import WorkerLost
from .numbers import (
    MOST_AMOUNT,
    MOST_COUNT,
    MOST_LETTERS,
    MOST_SECONDS,
    MOST_UNITS,
    counted,
    is_name,
    is_number,
    is_whole,
    shown,
)


@dataclass(frozen=True)
class Amdahl:
    """T(m) = T(1) (s + (1 - s)/m): a share `serial` of the work, 0 <= s <= 1, runs on one unit."""

    serial: float

    def __post_init__(self):
        if not is_number(self.serial, 0, 1):
            raise ValueError(f"`serial` of Amdahl must lie in 0..1, not {shown(self.serial)}.")

    def share(self, units: int) -> float:
        """T(m)/T(1)."""
        return self.serial + (1 - self.serial) / units

    convex = True


@dataclass(frozen=True)
class PowerLaw:
    """T(m) = T(1) m^-alpha, 0 <= alpha <= 1."""

    alpha: float

    def __post_init__(self):
        if not is_number(self.alpha, 0, 1):
            raise ValueError(f"`alpha` of PowerLaw must lie in 0..1, not {shown(self.alpha)}.")

    def share(self, units: int) -> float:
        """T(m)/T(1)."""
        return units**-self.alpha

    convex = True


@dataclass(frozen=True)
class TableCurve:
    """
    T(m)/T(1) as measured.

    Args:
        shares: pairs (m, T(m)/T(1)), rising in m; the first is (1, 1.0). Between two entries the lower one holds.
    """

    shares: tuple[tuple[int, float], ...]

    def __post_init__(self):
        units = [m for m, _ in self.shares]
        if not units or self.shares[0] != (1, 1.0) or units != sorted(set(units)):
            raise ValueError(
                f"`shares` of TableCurve must start with (1, 1.0) and rise in m, not {shown(self.shares)}."
            )
        if not all(is_whole(m, 1, MOST_UNITS) and is_number(share) and share > 0 for m, share in self.shares):
            raise ValueError(
                f"`shares` of TableCurve must be positive, for at most {MOST_UNITS} units, not {shown(self.shares)}."
            )

    def share(self, units: int) -> float:
        """T(m)/T(1)."""
        return next(share for m, share in reversed(self.shares) if m <= units)

    convex = False


Curve = Amdahl | PowerLaw | TableCurve


@dataclass(frozen=True)
class ElasticRange:
    """
    A cost the scheduler may choose when the action starts.

    Args:
        min, max: units, 1 <= min <= max <= 1,000,000.
        allowed: the only amounts that make sense, such as (1, 2, 4, 8); None: every whole number in the range.
        curve: how much faster more units are; None: fitted to what actions of this kind took on different units.
    """

    min: int
    max: int
    allowed: tuple[int, ...] | None = None
    curve: Curve | None = Amdahl(0.05)

    def __post_init__(self):
        if not (is_whole(self.max, 1, MOST_UNITS) and is_whole(self.min, 1, self.max)):
            raise ValueError(
                f"`ElasticRange` must have whole numbers with 1 <= min <= max <= {MOST_UNITS}; got "
                f"min={shown(self.min)}, max={shown(self.max)}."
            )
        if self.allowed is None:
            return
        outside = [units for units in self.allowed if not self.min <= units <= self.max]
        if not self.allowed or outside or list(self.allowed) != sorted(set(self.allowed)):
            raise ValueError(
                f"`allowed` of ElasticRange must be rising whole numbers in {self.min}..{self.max}, not {shown(self.allowed)}."
            )


OUTPUT_BYTES = 8 << 20
MOST_OUTPUT_BYTES = 1 << 36
PROCESSES = 4096
MOST_LIMIT = 2**63 - 1
LIMITS = (
    "AS", "CORE", "CPU", "DATA", "FSIZE", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "NPROC", "RSS", "RTPRIO", "RTTIME",
    "SIGPENDING", "STACK",
)  # fmt: skip


@dataclass(frozen=True)
class Command:
    """
    A program to run.

    Args:
        argv: program and arguments; no shell.
        stdin: bytes or text for its standard input.
        env: environment variables on top of the allowed ones.
        cwd: working directory; None: a fresh temporary one, removed afterwards.
        limits: rlimits by name without prefix, such as {"CPU": 10, "AS": 2**30, "FSIZE": 2**24} (seconds, bytes, bytes of a
            file). "NPROC", processes and threads, holds in containers, and in bubblewrap but for root; without a sandbox the kernel
            counts all that the user runs on the machine. Where it can't hold, the action raises ValueError.
        check: raise `subprocess.CalledProcessError` when it exits with anything but 0.
        output_bytes: how much is kept of its standard output, and of its standard error: all of it up to this size, else the
            first and the last half. The command goes on, and the result says how much was left out.

    ValueError for words that are none and for unknown limits.
    """

    argv: tuple[str, ...]
    stdin: bytes | str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    check: bool = False
    output_bytes: int = OUTPUT_BYTES

    def __post_init__(self):
        words = () if isinstance(self.argv, str | bytes) else self.argv
        if not words or not all(isinstance(word, str) and "\0" not in word for word in words):
            raise ValueError(
                f"`argv` of Command must be the program and its arguments, such as ('ls', '-l'), not {self.argv!r}; for a "
                f"shell, ('sh', '-c', ...)."
            )
        if unknown := [name for name in self.limits if name not in LIMITS]:
            raise ValueError(f"`limits` of Command must be of {', '.join(LIMITS)}; got {', '.join(unknown)}.")
        for name, value in self.limits.items():
            least = int(name == "NPROC")
            if not is_whole(value, least, MOST_LIMIT):
                raise ValueError(
                    f"`limits` of Command: {name} must be a whole number from {least} to {MOST_LIMIT}; got {shown(value)}."
                )
        if not is_whole(self.output_bytes, 0, MOST_OUTPUT_BYTES):
            raise ValueError(
                f"`output_bytes` of Command must be a whole number from 0 to {MOST_OUTPUT_BYTES}; got {shown(self.output_bytes)}."
            )
        for variable, text in self.env.items():
            texts = isinstance(variable, str) and isinstance(text, str)
            if not texts or not variable or "=" in variable or "\0" in variable + text:
                raise ValueError(
                    f'`env` of Command must be texts by name, such as {{"SEED": "1"}}; got {shown(variable)}: {shown(text)}.'
                )


@dataclass(frozen=True)
class CommandResult:
    """
    What a `Command` did: `returncode` (negative: the signal that killed it), `stdout`, `stderr`.

    Attributes:
        stdout_dropped, stderr_dropped: bytes left out of the middle, where a line in brackets says so; 0: nothing.
    """

    returncode: int
    stdout: str
    stderr: str
    stdout_dropped: int = 0
    stderr_dropped: int = 0

    @property
    def truncated(self) -> bool:
        """Whether bytes of its output were left out."""
        return bool(self.stdout_dropped or self.stderr_dropped)


@dataclass(frozen=True)
class ServiceCall:
    """One batch for a `ModelService` registered under `service`."""

    service: str
    batch: Any
    tokens: int = 1


@dataclass(slots=True)
class Action:
    """
    One tool call, test run, reward or teacher call.

    Args:
        kind: name of the group whose durations are alike.
        fn: what to do: a picklable callable without arguments, a `Command`, or a `ServiceCall`.
        cost: amount of each resource; at most one may be an `ElasticRange`, the key resource.
        trajectory, task: whose action it is. Resources held by a trajectory are given back when it is closed.
        priority: larger goes first.
        timeout_s, queue_timeout_s: longest time to run and to wait; None: the scheduler's default and no limit.
        retries, retry_on: how often to try again, after which errors. An exception of `fn` itself is a result.
        idempotent: running it twice does no harm: it may be tried again after it may have started.
        dedup_key: a repetition with the same key on the same worker returns the stored result.
        est_s: the caller's guess of its duration on one unit, in seconds.
        env: name of a sticky environment: all its actions run on one node.
    """

    kind: str
    fn: Callable[[], Any] | Command | ServiceCall | None
    cost: Mapping[str, int | float | ElasticRange]
    trajectory: str | None = None
    task: str | None = None
    priority: int = 0
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = (WorkerLost,)
    idempotent: bool = False
    dedup_key: str | None = None
    est_s: float | None = None
    env: str | None = None


def check_action(action: Action):
    """ValueError for a name or number that is none; what its cost must be, `Shape` says."""
    for name in ("kind", "trajectory", "task", "env"):
        value = getattr(action, name)
        if not (is_name(value) or (value is None and name != "kind")):
            raise ValueError(
                f"`{name}` must be a word of at most {MOST_LETTERS} letters, without control characters; got {shown(value)}."
            )
    for name in ("timeout_s", "queue_timeout_s", "est_s"):
        value = getattr(action, name)
        if not (value is None or (is_number(value, 0, MOST_SECONDS) and (value > 0 or name == "est_s"))):
            bounds = f"from 0 to {MOST_SECONDS:g}" if name == "est_s" else f"above 0, at most {MOST_SECONDS:g}"
            raise ValueError(f"`{name}` must be a number of seconds {bounds}, or None; got {shown(value)}.")
    for name, least in (("priority", -MOST_COUNT), ("retries", 0)):
        if not is_whole(getattr(action, name), least):
            raise ValueError(
                f"`{name}` must be a whole number from {least} to {MOST_COUNT}; got {shown(getattr(action, name))}."
            )


class Shape:
    """
    A cost, taken apart once: `fixed` amounts by resource, as given and as `counted`, and the range of the `key` resource.
    """

    __slots__ = (
        "convex", "cores", "curve", "fitted", "fixed", "high", "key", "low", "most", "most_as_of", "options", "resources",
    )  # fmt: skip

    def __init__(self, cost: Mapping[str, int | float | ElasticRange]):
        elastic = {name: amount for name, amount in cost.items() if isinstance(amount, ElasticRange)}
        if len(elastic) > 1:
            raise ValueError(f"`cost` must have one ElasticRange at most; got {len(elastic)} ({', '.join(elastic)}).")
        for name, amount in cost.items():
            if isinstance(amount, ElasticRange):
                continue
            if not is_number(amount):
                raise ValueError(
                    f"`cost` of {shown(name)} must be a number from 0 to {MOST_AMOUNT:g}, or an ElasticRange, not {shown(amount)}."
                )
        self.resources = frozenset(name for name, amount in cost.items() if name in elastic or amount)
        self.fixed: tuple[tuple[str, float, int], ...] = tuple(
            (name, amount, counted(amount))
            for name, amount in cost.items()
            if amount and not isinstance(amount, ElasticRange)
        )
        self.cores = next((int(amount) for name, amount, _ in self.fixed if name == "cpu"), 0)
        self.key: str | None = None
        self.low, self.high = 0, 0
        self.curve: Curve = Amdahl(1.0)
        self.options: tuple[int, ...] | None = None
        self.convex, self.fitted = True, False
        self.most, self.most_as_of = 0, 0  # units that some node can give it, as the scheduler last counted
        for self.key, amount in elastic.items():
            self.low, self.high, self.options = amount.min, amount.max, amount.allowed
            if amount.allowed:
                self.low, self.high = amount.allowed[0], amount.allowed[-1]
            self.fitted = amount.curve is None
            self.curve = amount.curve or Amdahl(0.05)
            self.convex = self.curve.convex and self.options is None

    def step(self, units: int) -> tuple[int, float] | None:
        """The next corner (m, T(m)/T(1)) of the lower convex hull of the duration above `units`; None at its end."""
        share = self.curve.share
        if units >= self.high:
            return None
        if self.convex:
            return units + 1, share(units + 1)
        above = [m for m in self.options or range(units + 1, self.high + 1) if m > units]
        here = share(units)
        best = min(above, key=lambda m: ((share(m) - here) / (m - units), -m))
        return (best, share(best)) if share(best) < here else None

    def next_option(self, units: int) -> int:
        """The smallest amount above `units` that is allowed; `units` itself where there is none."""
        if self.options is None:
            return min(units + 1, self.high)
        return next((m for m in self.options if m > units), units)

    def choices(self) -> tuple[int, ...]:
        return self.options or tuple(range(self.low, self.high + 1))
