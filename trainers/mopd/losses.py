"""The loss of MOPD (arXiv 2601.02780, equations 7 to 9), token by token. Pure functions of tensors."""

from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """
    Attributes:
        value: w_t of equation 8, `[B, T]`, detached.
        outside: which tokens' ratios lie outside the bounds, `[B, T]`.
    """

    value: Tensor
    outside: Tensor


def importance_weights(
    log_probs: Tensor, sampling_log_probs: Tensor | None, mode: str, low: float, high: float
) -> Weights:
    """
    Equation 8: w_t = r_t where low <= r_t <= high, else 0, with r_t = pi(y_t) / mu(y_t) of training and sampling policy.

    Args:
        log_probs: `[B, T]`, log pi(y_t) of the policy that is trained now.
        sampling_log_probs: `[B, T]`, log mu(y_t) of the policy that wrote the completions; None where it is the same policy,
            NaN where it is unknown: their ratio is 1.
        mode: `"mask"` (the paper's), `"truncate"` (the nearest bound) or `"none"` (1 everywhere).
    """
    log_probs = log_probs.detach()
    if sampling_log_probs is None:
        ratio = torch.ones_like(log_probs)
    else:
        ratio = torch.exp(log_probs - sampling_log_probs).nan_to_num(nan=1.0)
    outside = (ratio < low) | (ratio > high)
    if mode == "none":
        return Weights(torch.ones_like(ratio), outside)
    value = ratio.clamp(low, high) if mode == "truncate" else ratio.masked_fill(outside, 0.0)
    return Weights(value, outside)


def sampled_term(log_probs: Tensor, gap: Tensor) -> Tensor:
    """Equation 7's term of the distillation alone, `[B, T]`: its gradient is that of the reverse KL on average over y_t."""
    return -gap.detach() * log_probs


def support_reverse_kl(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """
    Reverse KL between two distributions of which only some tokens are known; the rest counts as one token.

    A lower bound of the KL over all tokens, which it equals where the support has all of them.

    Args:
        student, teacher: log-probabilities of the tokens of the support, `[..., K]`.
        valid: which entries of the support count, `[..., K]`; None: all.

    Returns:
        `[...]`.
    """
    share, ratio = student.exp(), student - teacher
    teacher_share = teacher.exp()
    if valid is not None:
        share, ratio, teacher_share = (tensor.masked_fill(~valid, 0.0) for tensor in (share, ratio, teacher_share))
    rest, teacher_rest = _rest(share), _rest(teacher_share)
    return (share * ratio).sum(-1) + rest * (rest.log() - teacher_rest.log())


def _rest(shares: Tensor) -> Tensor:
    """What the support leaves, at least one rounding error, so that its logarithm stays finite."""
    return (1 - shares.sum(-1)).clamp(min=torch.finfo(shares.dtype).eps)


def aggregate(per_token: Tensor, mask: Tensor) -> Tensor:
    """Equation 7: the mean over each completion's tokens, then over completions. A completion without tokens counts 0."""
    return ((per_token * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


class RunningScale:
    """Running standard deviations of log(teacher / student), of all tokens and of each domain's, for `domain_normalize`."""

    DECAY = 0.9
    LEAST, MOST = 0.25, 4.0

    def __init__(self, num_domains: int):
        self.moments = torch.zeros(num_domains, 3, dtype=torch.float64)  # tokens, sum, sum of squares

    def update(self, moments: Tensor) -> None:
        """`moments`: `[D, 3]`, of one batch on all processes."""
        self.moments = self.DECAY * self.moments + moments.to(self.moments)

    def factors(self) -> Tensor:
        """`[D]`; 1 where nothing is known."""
        everywhere = _deviation(self.moments.sum(0))
        own = _deviation(self.moments)
        factors = (everywhere / own).clamp(self.LEAST, self.MOST)
        return torch.where((own > 0) & (everywhere > 0), factors, torch.ones_like(factors))


def _deviation(moments: Tensor) -> Tensor:
    count, total, squares = moments.unbind(-1)
    mean = total / count.clamp(min=1e-9)
    return (squares / count.clamp(min=1e-9) - mean**2).clamp(min=0).sqrt()
