"""Rounds of generation for one batch: which groups the filter keeps, which make the batch, and what is left over."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .group_batch import failed_groups, informative_groups, solved_groups


class Round:
    """
    What one round generated: this process's rows, and what all processes know of every group, `[world, groups]`.

    Attributes:
        kept: the groups that dynamic sampling keeps: the informative ones, and those that are `exempt`.
    """

    def __init__(
        self,
        batch,
        rewards: torch.Tensor,
        weights: torch.Tensor,
        num_generations: int,
        world_size: int,
        exempt: torch.Tensor | None = None,
    ):
        self.batch = batch
        rewards = rewards.detach().cpu().view(world_size, -1, num_generations, rewards.size(-1))
        total = (rewards * weights.cpu()).nansum(-1)
        total[rewards.isnan().all(-1)] = torch.nan
        self.informative = informative_groups(total)
        self.solved = solved_groups(rewards)
        self.failed = failed_groups(rewards)
        self.kept = self.informative if exempt is None else self.informative | exempt.view(world_size, -1)


@dataclass
class Selection:
    """
    The groups of a process's batch, by round: `carried` ones come first, then `kept`, the first in the order in which they
    were started, then `filling` ones of no use. `surplus` are informative groups beyond the batch, at most a batch of them.
    """

    carried: int
    kept: list[list[int]]
    filling: list[list[int]]
    surplus: list[list[int]]
    num_informative: int  # of the kept ones

    @property
    def num_surplus(self) -> int:
        return sum(map(len, self.surplus))


def select(rounds: Sequence[Round], needed: int, rank: int, carried: int) -> Selection:
    """The batch of process `rank`: `carried` groups of the batch before, and `needed - carried` of these rounds."""

    def where(flags: Sequence[torch.Tensor]) -> list[tuple[int, int]]:
        return [(index, group) for index, own in enumerate(flags) for group in own[rank].nonzero().flatten().tolist()]

    kept = where([round_.kept for round_ in rounds])
    informative = set(where([round_.informative for round_ in rounds]))
    room = needed - carried
    chosen = kept[:room]
    if room and not carried and informative and not informative & set(chosen):
        # Exempt groups have filled the batch: one that has a gradient takes the place of the last.
        chosen[-1] = min(informative)
    filling = where([~round_.kept for round_ in rounds])[: room - len(chosen)]
    surplus = sorted(informative - set(chosen))[:needed]

    def by_round(places: Sequence[tuple[int, int]]) -> list[list[int]]:
        return [[group for index, group in places if index == number] for number in range(len(rounds))]

    num_informative = len(informative & set(chosen))
    return Selection(carried, by_round(chosen), by_round(filling), by_round(surplus), num_informative)


def expected_keep_rate(rounds: Sequence[Round]) -> float:
    """Mean of a Beta(1, 1) prior after the groups so far: how many of the next will be kept."""
    kept = sum(int(round_.kept.sum()) for round_ in rounds)
    return (1 + kept) / (2 + sum(round_.kept.numel() for round_ in rounds))
