"""Settings of multi-teacher on-policy distillation (MiMo-V2-Flash, arXiv 2601.02780, section 4.4)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from trl import GRPOConfig

from ..mimo_rl.mimo_rl_config import MiMoRLConfig

KL_ESTIMATORS = ("sampled", "full", "topk", "topk_teacher")
IS_MODES = ("mask", "truncate", "none")
AGGREGATIONS = ("sequence", "token")
OFFLOADS = ("none", "cpu")

# Options of GRPOConfig that the loss of equation 7 has no place for, and what to do instead.
NOT_READ = {
    "beta": "the teacher takes the place of the reference model",
    "loss_type": "`loss_aggregation` says how tokens are averaged",
    "importance_sampling_level": "equation 8 weighs every token by its own ratio: see `is_mode`",
    "epsilon": "equation 8 discards tokens outside [`is_low`, `is_high`] instead of clipping them",
    "epsilon_high": "equation 8 discards tokens outside [`is_low`, `is_high`] instead of clipping them",
    "delta": "set `is_high`",
    "top_entropy_quantile": "every token of a completion is distilled",
    "off_policy_mask_threshold": "set `is_low` and `is_high`",
    "entropy_coef": "the teacher says how certain the student ought to be",
    "use_adaptive_entropy": "the teacher says how certain the student ought to be",
    "use_bias_correction_kl": "there is no reference model",
    "sync_ref_model": "there is no reference model",
    "vllm_importance_sampling_mode": "equation 8 weighs every token by its own ratio: see `is_mode`",
    "vllm_importance_sampling_clip_max": "set `is_high`",
    "vllm_importance_sampling_clip_min": "set `is_low`",
}


@dataclass
class MOPDConfig(MiMoRLConfig):
    r"""
    Configuration class for the [`MOPDTrainer`].

    This class includes only the parameters that distillation from several teachers adds. For a full list of training
    arguments, please refer to the [`MiMoRLConfig`] and the [`~trl.GRPOConfig`] documentation. Options of
    [`~trl.GRPOConfig`] that the loss has no place for (`beta`, `loss_type`, `epsilon`, ...) are refused where they differ
    from their default.

    Using [`~transformers.HfArgumentParser`] we can turn this class into
    [argparse](https://docs.python.org/3/library/argparse#module-argparse) arguments that can be specified on the
    command line.

    Parameters:
        > Parameters that control the routing

        domain_column (`str`, *optional*, defaults to `"domain"`):
            Column of the data sets that names the teacher of a row. If it is `"domain"` and there is no such column,
            `teacher_id` or `teacher` is read.
        default_teacher (`str`, *optional*):
            Teacher of rows whose domain has none. If `None`, such rows are an error.
        domain_quota (`dict[str, float]`, *optional*):
            Share of each domain in every generation batch; shares sum to 1. If `None`, prompts come as the data set
            has them.
        domain_weights (`dict[str, float]`, *optional*):
            Factor of the distillation term of each domain; 1 where none is given.
        domain_normalize (`bool`, *optional*, defaults to `False`):
            Whether to multiply the distillation term of domain d by clip(s / s_d, 1/4, 4), where s and s_d are running
            standard deviations of log(teacher / student) over all tokens and over those of d.

        > Parameters that control the loss

        kl_estimator (`str`, *optional*, defaults to `"sampled"`):
            How the reverse KL of a position is estimated. `"sampled"` is the paper's policy gradient with the log-ratio
            of the sampled token. `"full"` sums over the vocabulary, `"topk"` over the student's `kl_top_k` most likely
            tokens and the rest as one, `"topk_teacher"` over the teacher's. Teachers behind a server give
            `"sampled"` and `"topk_teacher"`.
        kl_top_k (`int`, *optional*, defaults to `64`):
            Tokens that `"topk"` and `"topk_teacher"` sum over.
        distill_coef (`float`, *optional*, defaults to `1.0`):
            Factor of the distillation term.
        orm_alpha (`float`, *optional*, defaults to `0.0`):
            Factor of the outcome reward's advantage in equation 9 (the paper names no value). Above 0, `reward_funcs`
            and at least two generations are needed.
        is_mode (`str`, *optional*, defaults to `"mask"`):
            What becomes of tokens whose ratio of training to sampling policy lies outside [`is_low`, `is_high`].
            `"mask"` (equation 8) discards them, `"truncate"` sets the ratio to the bound, `"none"` weighs no token.
        is_low (`float`, *optional*, defaults to `0.5`):
            Least ratio that counts, itself included.
        is_high (`float`, *optional*, defaults to `5.0`):
            Largest ratio that counts, itself included.
        adv_clip (`float`, *optional*):
            Largest size of log(teacher / student) of the estimator `"sampled"`, which has no lower bound. If `None`, it
            is not clipped.
        loss_aggregation (`str`, *optional*, defaults to `"sequence"`):
            `"sequence"` (equation 7) averages over the tokens of a completion, then over completions; `"token"` over all
            tokens of the batch.
        router_replay (`bool`, *optional*, defaults to `False`):
            Whether a student with experts keeps, in all updates from a batch, the experts that its routers chose for the
            batch under the policy that generated it (R3). Takes one more forward pass a batch.

        > Parameters that control the teachers

        teacher_dtype (`str`, *optional*, defaults to `"auto"`):
            Dtype in which teachers are loaded from a path.
        teacher_offload (`str`, *optional*, defaults to `"none"`):
            `"cpu"` keeps teachers in CPU memory and moves one at a time to the device, to score its rows.
        teacher_batch_size (`int`, *optional*):
            Rows that a teacher scores at once. If `None`, it is `per_device_train_batch_size`.
        teacher_server_timeout (`float`, *optional*, defaults to `60.0`):
            Seconds to wait for an answer of a teacher behind a server.
        teacher_server_concurrency (`int`, *optional*, defaults to `4`):
            Requests to one server at a time.
        allow_teacher_change (`bool`, *optional*, defaults to `False`):
            Whether a checkpoint may be resumed with other teachers than it was trained with.

        > Parameters whose default differs from [`~trl.GRPOConfig`]

        num_generations (`int`, *optional*, defaults to `1`):
            Completions of each prompt. Distillation alone needs one; `orm_alpha` above 0 needs two or more.
        epsilon_high (`float`, *optional*):
            Must stay `None`: the loss discards tokens instead of clipping them, see `is_high`.
    """

    _VALID_DICT_FIELDS = [*GRPOConfig._VALID_DICT_FIELDS, "domain_quota", "domain_weights"]

    num_generations: int | None = field(
        default=1,
        metadata={
            "help": "Completions of each prompt. Distillation alone needs one; `orm_alpha` above 0 needs two or more."
        },
    )
    epsilon_high: float | None = field(
        default=None,
        metadata={"help": "Must stay None: the loss discards tokens instead of clipping them, see `is_high`."},
    )
    domain_column: str = field(
        default="domain",
        metadata={
            "help": "Column of the data sets that names the teacher of a row. If it is 'domain' and there is no such "
            "column, `teacher_id` or `teacher` is read."
        },
    )
    default_teacher: str | None = field(
        default=None,
        metadata={"help": "Teacher of rows whose domain has none. If None, such rows are an error."},
    )
    domain_quota: dict[str, float] | str | None = field(
        default=None,
        metadata={
            "help": "Share of each domain in every generation batch; shares sum to 1. If None, prompts come as the data "
            "set has them."
        },
    )
    domain_weights: dict[str, float] | str | None = field(
        default=None,
        metadata={"help": "Factor of the distillation term of each domain; 1 where none is given."},
    )
    domain_normalize: bool = field(
        default=False,
        metadata={
            "help": "Whether to multiply the distillation term of domain d by clip(s / s_d, 1/4, 4), where s and s_d are "
            "running standard deviations of log(teacher / student) over all tokens and over those of d."
        },
    )
    kl_estimator: str = field(
        default="sampled",
        metadata={
            "help": "How the reverse KL of a position is estimated. 'sampled' is the paper's policy gradient with the "
            "log-ratio of the sampled token. 'full' sums over the vocabulary, 'topk' over the student's `kl_top_k` most "
            "likely tokens and the rest as one, 'topk_teacher' over the teacher's. Teachers behind a server give "
            "'sampled' and 'topk_teacher'.",
            "choices": KL_ESTIMATORS,
        },
    )
    kl_top_k: int = field(
        default=64,
        metadata={"help": "Tokens that 'topk' and 'topk_teacher' sum over."},
    )
    distill_coef: float = field(default=1.0, metadata={"help": "Factor of the distillation term."})
    orm_alpha: float = field(
        default=0.0,
        metadata={
            "help": "Factor of the outcome reward's advantage in equation 9 (the paper names no value). Above 0, "
            "`reward_funcs` and at least two generations are needed."
        },
    )
    is_mode: str = field(
        default="mask",
        metadata={
            "help": "What becomes of tokens whose ratio of training to sampling policy lies outside [`is_low`, "
            "`is_high`]. 'mask' (equation 8) discards them, 'truncate' sets the ratio to the bound, 'none' weighs no "
            "token.",
            "choices": IS_MODES,
        },
    )
    is_low: float = field(default=0.5, metadata={"help": "Least ratio that counts, itself included."})
    is_high: float = field(default=5.0, metadata={"help": "Largest ratio that counts, itself included."})
    adv_clip: float | None = field(
        default=None,
        metadata={
            "help": "Largest size of log(teacher / student) of the estimator 'sampled', which has no lower bound. If "
            "None, it is not clipped."
        },
    )
    loss_aggregation: str = field(
        default="sequence",
        metadata={
            "help": "'sequence' (equation 7) averages over the tokens of a completion, then over completions; 'token' "
            "over all tokens of the batch.",
            "choices": AGGREGATIONS,
        },
    )
    router_replay: bool = field(
        default=False,
        metadata={
            "help": "Whether a student with experts keeps, in all updates from a batch, the experts that its routers chose "
            "for the batch under the policy that generated it (R3). Takes one more forward pass a batch."
        },
    )
    teacher_dtype: str = field(default="auto", metadata={"help": "Dtype in which teachers are loaded from a path."})
    teacher_offload: str = field(
        default="none",
        metadata={
            "help": "'cpu' keeps teachers in CPU memory and moves one at a time to the device, to score its rows.",
            "choices": OFFLOADS,
        },
    )
    teacher_batch_size: int | None = field(
        default=None,
        metadata={"help": "Rows that a teacher scores at once. If None, it is `per_device_train_batch_size`."},
    )
    teacher_server_timeout: float = field(
        default=60.0, metadata={"help": "Seconds to wait for an answer of a teacher behind a server."}
    )
    teacher_server_concurrency: int = field(default=4, metadata={"help": "Requests to one server at a time."})
    allow_teacher_change: bool = field(
        default=False,
        metadata={"help": "Whether a checkpoint may be resumed with other teachers than it was trained with."},
    )

    def __post_init__(self):
        with self._one_generation_allowed():
            super().__post_init__()
        self._refuse_what_is_not_read()
        for name, choices in (
            ("kl_estimator", KL_ESTIMATORS),
            ("is_mode", IS_MODES),
            ("loss_aggregation", AGGREGATIONS),
            ("teacher_offload", OFFLOADS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {choices}; got {getattr(self, name)!r}.")
        for name in ("distill_coef", "orm_alpha"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"`{name}` must be finite and at least 0; got {getattr(self, name)}.")
        if not 0 <= self.is_low <= self.is_high:
            raise ValueError(
                f"`is_low` must be at least 0 and at most `is_high`; got {self.is_low} and {self.is_high}."
            )
        for name in ("kl_top_k", "teacher_batch_size", "teacher_server_concurrency"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` must be a whole number of at least 1; got {value!r}.")
        for name in ("adv_clip", "teacher_server_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be above 0; got {value}.")
        if self.adv_clip is not None and self.kl_estimator != "sampled":
            raise ValueError(
                "`adv_clip` must go with `kl_estimator='sampled'`, as it bounds the log-ratio of the sampled token; got "
                f"{self.kl_estimator!r}. Leave `adv_clip` out."
            )
        if self.router_replay and self.carry_surplus:
            raise ValueError(
                "`router_replay` must not go with `carry_surplus`: it keeps the experts of the policy that generated a batch, and "
                "`carry_surplus` brings in rows of an earlier one. Leave one of the two out."
            )
        self._check_rewards_have_a_use()
        self._check_shares("domain_quota", self.domain_quota)
        self._check_shares("domain_weights", self.domain_weights)

    @contextmanager
    def _one_generation_allowed(self) -> Iterator[None]:
        """`GRPOConfig` refuses one generation. It sees two, of twice the batch, and checks the same division."""
        if self.num_generations != 1:
            yield
            return
        eval_generations = getattr(self, "num_generations_eval", None)
        self.num_generations, self.num_generations_eval = 2, eval_generations or 1
        self.per_device_train_batch_size *= 2
        if self.generation_batch_size is not None:
            self.generation_batch_size *= 2
        try:
            yield
        except ValueError as error:
            if "divisible by the global batch size" not in str(error):
                raise
            raise ValueError(
                "`generation_batch_size` must be a multiple of `per_device_train_batch_size` times the processes; got "
                f"{(self.generation_batch_size or 0) // 2} and a batch size of {self.per_device_train_batch_size // 2}."
            ) from None
        finally:
            self.num_generations, self.num_generations_eval = 1, eval_generations
            self.per_device_train_batch_size //= 2
            if self.generation_batch_size is not None:
                self.generation_batch_size //= 2

    def _refuse_what_is_not_read(self):
        defaults = {option.name: option.default for option in fields(GRPOConfig)}
        for name, remedy in NOT_READ.items():
            value = getattr(self, name, defaults.get(name))
            if value != defaults.get(name):
                raise ValueError(
                    f"`{name}` must keep its default, as MOPD does not read it; got {value!r}. Leave it out: {remedy}."
                )

    def _check_rewards_have_a_use(self):
        if self.orm_alpha and self.num_generations is not None and self.num_generations < 2:
            raise ValueError(
                "`num_generations` must be at least 2 with `orm_alpha` above 0, which compares the rewards of a prompt's "
                f"completions; got {self.num_generations}."
            )
        if self.orm_alpha:
            return
        for name in ("dynamic_sampling", "easy_pool_alpha", "carry_surplus"):
            if getattr(self, name):
                raise ValueError(
                    f"`{name}` must go with `orm_alpha` above 0, as it chooses prompts by their rewards, which have no part in "
                    f"the loss otherwise; got {getattr(self, name)!r}. Set `orm_alpha` above 0, or leave `{name}` out."
                )

    def _check_shares(self, name: str, shares: Any):
        if shares is None:
            return
        if not isinstance(shares, dict) or not all(_is_share(value) for value in shares.values()):
            raise ValueError(f"`{name}` must map domains to finite numbers of at least 0; got {shares!r}.")
        if name == "domain_quota":
            if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
                raise ValueError(
                    f"The shares of `domain_quota` must sum to 1; got {shares!r}, {sum(shares.values())}."
                )
            if self.dynamic_sampling or self.easy_pool_alpha:
                raise ValueError(
                    "`domain_quota` must not go with `dynamic_sampling` or `easy_pool_alpha`: it fills batches from the data "
                    "set's order, and they draw prompts of their own. Leave one of the two out."
                )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
