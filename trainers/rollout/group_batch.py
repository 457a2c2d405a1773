"""Groups of completions as rows of tensors: which carry a gradient, which are solved, and batches made of several rounds."""

from collections.abc import Sequence

import torch

LEFT_PADDED = ("prompt_ids", "prompt_mask")
# Where a row is shorter than the batch; all else is padded with 0. Tool masks follow TRL.
PADDING_VALUES = {"tool_mask": 1}


def informative_groups(rewards: torch.Tensor) -> torch.Tensor:
    """
    Which groups have rewards that differ, so that advantages are not all zero.

    Rewards are compared as they are: their standard deviation may be a rounding error above zero, and equal partial
    rewards have a mean strictly between 0 and 1.

    Args:
        rewards: `[..., G]`, raw rewards of a group's rows; NaN where a row could not be scored.

    Returns:
        `[...]`, bool; False where fewer than two rows were scored.
    """
    low = torch.nan_to_num(rewards, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).amin(-1)
    high = torch.nan_to_num(rewards, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).amax(-1)
    return low < high


def solved_groups(rewards: torch.Tensor) -> torch.Tensor:
    """
    Which groups are all right: every scored row has at least 1 from every reward function that scored it.

    Args:
        rewards: `[..., G, F]`, of F reward functions; NaN where one did not score the row.

    Returns:
        `[...]`, bool; False where no row was scored.
    """
    unscored = rewards.isnan()
    return ((rewards >= 1) | unscored).all(-1).all(-1) & ~unscored.all(-1).all(-1)


def failed_groups(rewards: torch.Tensor) -> torch.Tensor:
    """Which groups are all wrong: no row has more than 0 from any function, `[..., G, F]` to `[...]`; False if unscored."""
    unscored = rewards.isnan()
    return ((rewards <= 0) | unscored).all(-1).all(-1) & ~unscored.all(-1).all(-1)


def take_groups(
    batch: dict[str, torch.Tensor], groups: Sequence[int], num_generations: int
) -> dict[str, torch.Tensor]:
    """The rows of these groups, in this order; tensors without dimensions stay as they are."""
    rows = torch.tensor([group * num_generations + row for group in groups for row in range(num_generations)])
    return {key: value[rows.to(value.device)] if value.dim() else value for key, value in batch.items()}


def concatenate(batches: Sequence[dict[str, torch.Tensor]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """
    One batch of the rows of several, padded to the longest: prompts on the left, all else on the right.

    Args:
        batches: with the same keys. Tensors without dimensions, such as counts over a whole batch, are left out.
        pad_token_id: fills `prompt_ids` and `completion_ids`.
    """
    padding = {"prompt_ids": pad_token_id, "completion_ids": pad_token_id, **PADDING_VALUES}
    return {
        key: _stack([batch[key] for batch in batches], padding.get(key, 0), left=key in LEFT_PADDED)
        for key, value in batches[0].items()
        if value.dim()
    }


def _stack(tensors: Sequence[torch.Tensor], padding_value: float, left: bool) -> torch.Tensor:
    if tensors[0].dim() == 1:
        return torch.cat(list(tensors))
    width = max(tensor.size(1) for tensor in tensors)
    padded = []
    for tensor in tensors:
        missing = width - tensor.size(1)
        padded.append(torch.nn.functional.pad(tensor, (missing, 0) if left else (0, missing), value=padding_value))
    return torch.cat(padded)
