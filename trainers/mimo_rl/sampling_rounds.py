"""Rounds of generation for one batch: which groups the filter keeps, which make the batch, and what is left over."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..rollout.group_batch import concatenate, failed_groups, informative_groups, solved_groups, take_groups
from ..rollout.seamless import RolloutStats

SHORT_REMEDY = "Raise `max_sampling_rounds`, choose problems nearer to the model's ability, or set on_exhausted='pad'."


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


def join(
    rounds: Sequence[Round],
    groups_by_round: Sequence[Sequence[int]],
    rank: int,
    num_generations: int,
    pad_token_id: int,
) -> dict[str, torch.Tensor]:
    """The rows of these groups of process `rank`, in order; empty if there are none."""
    parts = []
    for round_, groups in zip(rounds, groups_by_round, strict=True):
        if groups:
            part = take_groups(round_.batch, groups, num_generations)
            # Equal partial rewards leave a rounding error as their advantage.
            informative = round_.informative[rank, groups].repeat_interleave(num_generations)
            part["advantages"][~informative.to(part["advantages"].device)] = 0
            parts.append(part)
    return concatenate(parts, pad_token_id) if parts else {}


def round_metrics(
    rounds: Sequence[Round], selections: Sequence[Selection], needed: int, from_pool: int, carry_surplus: bool
) -> dict[str, float]:
    """
    The metrics `sampling/*` of a batch made in rounds, from the selection of every process.

    Returns:
        `rounds`; `keep_rate`, the share of informative groups among all generated; `waste`, the share generated, informative and
        not needed; `effective_batch`, the share of the batch that carries a gradient (1 unless padded); `frac_carried`, the share
        of the batch that the one before had left over; `frac_all_right`, `frac_all_wrong` and `pool_draw_frac` of the generated
        groups.
    """
    generated, batch_groups = _number_of_groups(rounds), needed * len(selections)
    informative = sum(int(round_.informative.sum()) for round_ in rounds)
    fresh = sum(selection.num_informative for selection in selections)
    carried = sum(selection.carried for selection in selections)
    surplus = sum(selection.num_surplus for selection in selections) if carry_surplus else 0
    return {
        "rounds": len(rounds),
        "keep_rate": informative / generated,
        "waste": (informative - fresh - surplus) / generated,
        "effective_batch": (fresh + carried) / batch_groups,
        "frac_carried": carried / batch_groups,
        "frac_all_right": sum(int(round_.solved.sum()) for round_ in rounds) / generated,
        "frac_all_wrong": sum(int(round_.failed.sum()) for round_ in rounds) / generated,
        "pool_draw_frac": from_pool / generated,
    }


def rollout_metrics(rounds: Sequence[Round], stats: RolloutStats) -> dict[str, float]:
    """The same of a rollout, whose every problem is a round of one group."""
    return {
        "rounds": 1,
        "keep_rate": stats.pass_rate,
        "waste": stats.wasted / stats.started,
        "frac_all_right": sum(bool(round_.solved.all()) for round_ in rounds) / len(rounds),
        "frac_all_wrong": sum(bool(round_.failed.all()) for round_ in rounds) / len(rounds),
        "idle_share": stats.idle_share,
    }


def why_no_gradient(rounds: Sequence[Round]) -> str:
    right = sum(int(round_.solved.sum()) for round_ in rounds)
    wrong = sum(int(round_.failed.sum()) for round_ in rounds)
    return (
        f"None of {_number_of_groups(rounds)} groups in {len(rounds)} rounds has two different rewards: {right} are all right, "
        f"{wrong} all wrong. There is no gradient, so training stops. All right: use harder problems. All wrong: "
        "use easier problems or partial rewards, raise `max_completion_length`, or fine-tune on solutions first. "
        "Otherwise: raise `num_generations` or `temperature`, and look at the reward function."
    )


def why_short(max_sampling_rounds: int, missing: int, needed: int) -> str:
    return (
        f"After max_sampling_rounds={max_sampling_rounds} rounds, a process has {needed - missing} of {needed} groups whose rewards "
        "differ."
    )


def _number_of_groups(rounds: Sequence[Round]) -> int:
    return sum(round_.informative.numel() for round_ in rounds)
