"""What MTP decoding drafted and accepted."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class MTPStatistics:
    """
    What one `generate(use_mtp=True)` call drafted and accepted. In a batch, every row has a round of its own.

    Attributes:
        drafted (`list[int]`): drafts proposed in each round of draft and verification.
        accepted (`list[int]`): drafts of that round that ended up in the output.
        forward_passes (`int`): runs of the trunk, the prefill and rounds without drafts included.
        draft_time_s, verify_time_s (`float`): host seconds in the heads, and in the trunk with the choice of tokens.
    """

    num_heads: int
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    forward_passes: int = 0
    draft_time_s: float = 0.0
    verify_time_s: float = 0.0

    @property
    def rounds(self) -> int:
        return len(self.drafted)

    @property
    def acceptance_length(self) -> float:
        """Tokens emitted by a round: accepted drafts and the trunk's own token, between 1 and K+1. NaN without rounds."""
        return (sum(self.accepted) + self.rounds) / self.rounds if self.rounds else float("nan")

    @property
    def acceptance_by_position(self) -> list[float]:
        """Share of the drafts at each position that were accepted, position 1 first. NaN where none was drafted."""
        rates = []
        for position in range(1, self.num_heads + 1):
            proposed = sum(drafts >= position for drafts in self.drafted)
            kept = sum(matches >= position for matches in self.accepted)
            rates.append(kept / proposed if proposed else float("nan"))
        return rates

    def to_dict(self) -> dict[str, Any]:
        return {
            "rounds": self.rounds,
            "forward_passes": self.forward_passes,
            "acceptance_length": self.acceptance_length,
            "acceptance_by_position": self.acceptance_by_position,
            "draft_time_s": self.draft_time_s,
            "verify_time_s": self.verify_time_s,
        }


__all__ = ["MTPStatistics"]
