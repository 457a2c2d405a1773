"""Settings of an `ActionScheduler`, parsed by `HfArgumentParser`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from .core.numbers import MOST_AMOUNT, MOST_COUNT, MOST_UNITS, is_number, is_whole, shown
from .core.policies import Policy, make_policy
from .core.resources import Concurrency, Quota, TokenBucket, Window

MAY_BE_NONE = ("cpu_cores", "metrics_port", "gpu_bytes")
CPU_LEVELS = ("auto", "cgroup2", "affinity", "count")


@dataclass
class SchedulerConfig:
    """
    Settings of an `ActionScheduler`.

    Args:
        policy (`str`, *optional*, defaults to `"price"`):
            price, fifo, waterfill, evict, srpt or hrrn, with options as in `fifo(dop=4)`.
        price_b (`float`, *optional*, defaults to `0.1`):
            `price`: weight of the actions to come.
        straggler_floor_s (`float`, *optional*, defaults to `30.0`):
            `price`: actions that would run longer start with more units.
        floor_min_eff (`float`, *optional*, defaults to `0.9`):
            `price`: but not below this efficiency.
        order (`str`, *optional*, defaults to `"fcfs"`):
            fcfs, srpt or hrrn.
        max_queue (`int`, *optional*, defaults to `100_000`):
            Most actions that may wait.
        backpressure (`str`, *optional*, defaults to `"block"`):
            What `submit` does when they do: block or raise.
        coalesce_ms (`float`, *optional*, defaults to `0.5`):
            Longest time events are collected for one decision, where decisions are slow.
        cpu_cores (`int`, *optional*):
            Cores to hand out. Those this process may use by default.
        cpu_enforce (`str`, *optional*, defaults to `"auto"`):
            How an action is kept on its cores: cgroup2, affinity or count; auto takes the first that works.
        reserve_cores (`int`, *optional*, defaults to `0`):
            Cores to leave to the trainer.
        sandbox (`str`, *optional*, defaults to `"none"`):
            Wrapper of commands: none, bwrap, docker:IMAGE or podman:IMAGE.
        gpu_bytes (`int`, *optional*):
            Device memory for services. What accelerate finds, less `gpu_reserve`, by default.
        gpu_reserve (`float`, *optional*, defaults to `0.1`):
            Share of the device memory to leave alone.
        restore_kappa (`float`, *optional*, defaults to `5.0`):
            A service stays this many restore times before it may make room for another with work.
        quotas (`dict`, *optional*):
            Limits of external services, such as `{"search": {"rate": 10, "burst": 20}}`, `{"judge": {"concurrency": 8}}` or
            `{"mail": {"limit": 100, "per_s": 60}}`.
        fair_tasks (`bool`, *optional*, defaults to `False`):
            Share units evenly between tasks.
        default_timeout_s (`float`, *optional*, defaults to `300.0`):
            Longest time an action may run.
        kill_grace_s (`float`, *optional*, defaults to `2.0`):
            Time between SIGTERM and SIGKILL.
        loss_retries (`int`, *optional*, defaults to `3`):
            How often an idempotent action is tried again after its worker was lost, and any after its provider refused it,
            whatever its own `retries`.
        trace_path (`str`, *optional*):
            Where to record every action (JSON lines, which `mimo-hf schedule` reads).
        metrics_port (`int`, *optional*):
            Port of the Prometheus endpoint on 127.0.0.1; 0 takes a free one.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the retries' jitter.
    """

    policy: str = field(default="price", metadata={"help": "price, fifo, waterfill, evict, srpt or hrrn"})
    price_b: float = field(default=0.1, metadata={"help": "price: weight of the actions to come"})
    straggler_floor_s: float | None = field(
        default=30.0, metadata={"help": "price: actions that would run longer start with more units"}
    )
    floor_min_eff: float = field(default=0.9, metadata={"help": "price: but not below this efficiency"})
    order: str = field(default="fcfs", metadata={"help": "fcfs, srpt or hrrn"})
    max_queue: int = field(default=100_000, metadata={"help": "most actions that may wait"})
    backpressure: str = field(default="block", metadata={"help": "what submit does when they do: block or raise"})
    coalesce_ms: float = field(default=0.5, metadata={"help": "longest time events are collected for one decision"})
    cpu_cores: int | None = field(default=None, metadata={"help": "cores to hand out"})
    cpu_enforce: str = field(default="auto", metadata={"help": "auto, cgroup2, affinity or count"})
    reserve_cores: int = field(default=0, metadata={"help": "cores to leave to the trainer"})
    sandbox: str = field(
        default="none", metadata={"help": "wrapper of commands: none, bwrap, docker:IMAGE, podman:IMAGE"}
    )
    gpu_bytes: int | None = field(default=None, metadata={"help": "device memory for services"})
    gpu_reserve: float = field(default=0.1, metadata={"help": "share of the device memory to leave alone"})
    restore_kappa: float = field(default=5.0, metadata={"help": "restore times a service stays at least"})
    quotas: dict[str, Any] = field(default_factory=dict, metadata={"help": "limits of external services"})
    fair_tasks: bool = field(default=False, metadata={"help": "share units evenly between tasks"})
    default_timeout_s: float = field(default=300.0, metadata={"help": "longest time an action may run"})
    kill_grace_s: float = field(default=2.0, metadata={"help": "time between SIGTERM and SIGKILL"})
    loss_retries: int = field(default=3, metadata={"help": "tries again of an idempotent action after a lost worker"})
    trace_path: str | None = field(default=None, metadata={"help": "where to record every action"})
    metrics_port: int | None = field(default=None, metadata={"help": "port of the Prometheus endpoint"})
    seed: int = field(default=0, metadata={"help": "seed of the retries' jitter"})

    def __post_init__(self):
        if self.backpressure not in ("block", "raise"):
            raise ValueError(f"`backpressure` must be block or raise, not {self.backpressure!r}.")
        if self.cpu_enforce not in CPU_LEVELS:
            raise ValueError(f"`cpu_enforce` must be one of {', '.join(CPU_LEVELS)}, not {self.cpu_enforce!r}.")
        for name, least, most in (
            ("max_queue", 1, MOST_COUNT),
            ("cpu_cores", 1, MOST_UNITS),
            ("reserve_cores", 0, MOST_UNITS),
            ("loss_retries", 0, MOST_COUNT),
            ("metrics_port", 0, 65535),
            ("seed", -MOST_COUNT, MOST_COUNT),
        ):
            value = getattr(self, name)
            if not (is_whole(value, least, most) or (value is None and name in MAY_BE_NONE)):
                raise ValueError(
                    f"`{name}` must be at least {least} and at most {most}, a whole number, not {shown(value)}."
                )
        for name in ("coalesce_ms", "kill_grace_s", "restore_kappa", "gpu_bytes"):
            value = getattr(self, name)
            if not (is_number(value) or (value is None and name in MAY_BE_NONE)):
                raise ValueError(f"`{name}` must be at least 0 and at most {MOST_AMOUNT:g}, not {shown(value)}.")
        if not (is_number(self.default_timeout_s, 0, math.inf) and self.default_timeout_s > 0):
            raise ValueError(f"`default_timeout_s` must be above 0, not {shown(self.default_timeout_s)}.")
        if not (is_number(self.gpu_reserve, 0, 1) and self.gpu_reserve < 1):
            raise ValueError(f"`gpu_reserve` must lie in 0..1, not {shown(self.gpu_reserve)}.")
        self.make_policy()
        self.make_quotas()

    def make_policy(self) -> Policy:
        if self.policy == "price":
            floor = self.straggler_floor_s
            options = (
                f"b={self.price_b}, straggler_floor_s={floor}, floor_min_eff={self.floor_min_eff}, order={self.order}"
            )
            return make_policy(f"price({options})")
        if self.order != "fcfs":
            raise ValueError(
                f"`order` must be left out unless policy='price'; got {self.order!r}. For others write "
                f"policy='fifo(dop=4, order={self.order})'."
            )
        return make_policy(self.policy)

    def make_quotas(self) -> dict[str, Quota]:
        return {name: _quota(name, given) for name, given in self.quotas.items()}


def settings(config: SchedulerConfig) -> dict[str, Any]:
    """What two schedulers have to agree on to be one: all fields but those of the process itself."""
    own = ("trace_path", "metrics_port", "seed")
    shown = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in own}
    return {**shown, "quotas": {name: _shown_quota(quota) for name, quota in config.quotas.items()}}


def _shown_quota(given: Quota | Mapping[str, Any]) -> Any:
    return dict(given) if isinstance(given, Mapping) else (type(given).__name__, given.limit, given.most)


def _quota(name: str, given: Quota | Mapping[str, Any]) -> Quota:
    if not isinstance(given, Mapping):
        return given
    kinds = {("concurrency",): Concurrency, ("burst", "rate"): TokenBucket, ("limit", "per_s"): Window}
    kind = kinds.get(tuple(sorted(given)))
    if kind is None:
        raise ValueError(
            f"`quotas`, {name!r}, must be {{'concurrency'}}, {{'rate', 'burst'}} or {{'limit', 'per_s'}} with "
            f"their numbers; got {dict(given)!r}."
        )
    return kind(given["concurrency"]) if kind is Concurrency else kind(**given)
