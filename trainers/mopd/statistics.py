"""What the log says of each domain: sums over tokens of all processes, of the same shape on each."""

import contextlib
import time
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

SUMS = ("tokens", "gap", "k3", "size", "outside", "clipped", "top1", "asked", "entropy")


class DomainStatistics:
    """
    Sums of one batch.

    Attributes:
        sums: `[D, len(SUMS)]`.
    """

    def __init__(self, num_domains: int, device: torch.device):
        self.sums = torch.zeros(num_domains, len(SUMS), dtype=torch.float64, device=device)

    def add_tokens(
        self,
        domains: Tensor,
        mask: Tensor,
        gap: Tensor,
        outside: Tensor,
        is_top1: Tensor,
        entropies: Tensor,
        adv_clip: float | None,
    ) -> None:
        """
        Args:
            domains: `[B]`.
            gap: log(teacher / student) of each token, `[B, T]`.
            outside: whether the token's ratio is out of its bounds.
            is_top1: 1 where the token is the teacher's most likely one, NaN where that is not known.
        """
        clipped = gap.abs() > adv_clip if adv_clip is not None else torch.zeros_like(outside)
        known = ~is_top1.isnan()
        columns = [torch.ones_like(gap), gap, gap.exp() - 1 - gap, gap.abs(), outside, clipped]
        columns += [is_top1.nan_to_num(0.0), known, entropies.detach()]
        rows = torch.stack([(column * mask).sum(1).double() for column in columns], 1)
        self.sums.index_add_(0, domains, rows)

    def log(self, metrics: MutableMapping[str, list[float]], names: Sequence[str], accelerator: Any) -> None:
        sums = accelerator.reduce(self.sums).cpu()
        for name, own in zip(names, sums, strict=True):
            if own[0]:
                for metric, value in _means(own).items():
                    metrics[f"mopd/{name}/{metric}"].append(value)
        everywhere = sums.sum(0)
        if everywhere[0]:
            means = _means(everywhere)
            metrics["mopd/reverse_kl"].append(means["reverse_kl"])
            metrics["entropy"].append(float(everywhere[SUMS.index("entropy")] / everywhere[0]))

    @staticmethod
    @contextlib.contextmanager
    def timed(metrics: MutableMapping[str, list[float]]) -> Iterator[None]:
        start = time.perf_counter()
        yield
        metrics["mopd/teacher_seconds"].append(time.perf_counter() - start)


def _means(sums: Tensor) -> dict[str, float]:
    of = dict(zip(SUMS, sums.tolist(), strict=True))
    means = {
        "reverse_kl": -of["gap"] / of["tokens"],
        "k3": of["k3"] / of["tokens"],
        "adv_abs": of["size"] / of["tokens"],
        "is_dropped": of["outside"] / of["tokens"],
        "adv_clipped": of["clipped"] / of["tokens"],
        "tokens": of["tokens"],
    }
    if of["asked"]:
        means["agreement"] = of["top1"] / of["asked"]
    return means
