"""A map of tiles as bits: 1/16,384 of a map of all pairs in bytes at 64 queries and 32 keys a tile."""

import torch


def pack_tiles(kept: torch.Tensor) -> torch.Tensor:
    """Eight tiles a byte, the first in the lowest bit: bool `[..., n]` to uint8 `[..., ceil(n / 8)]`."""
    padded = torch.nn.functional.pad(kept, (0, -kept.shape[-1] % 8)).unflatten(-1, (-1, 8))
    weights = 2 ** torch.arange(8, device=kept.device, dtype=torch.uint8)
    return (padded * weights).sum(dim=-1, dtype=torch.uint8)


def unpack_tiles(bits: torch.Tensor, count: int) -> torch.Tensor:
    """The inverse of `pack_tiles`, `[..., count]`."""
    places = torch.arange(8, device=bits.device, dtype=torch.uint8)
    return ((bits[..., None] >> places) & 1).bool().flatten(-2)[..., :count]


def tile_lists(bits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The kept tiles of each row of tiles, as compressed rows.

    Args:
        bits: uint8 `[B, H, nQ, ceil(count / 8)]`.
        count: tiles of keys.

    Returns:
        begins `[B * H * nQ + 1]`, int64, and tiles, int32: those of row r are `tiles[begins[r] : begins[r + 1]]`, ascending.
    """
    rows = bits.flatten(0, -2)
    counts, tiles = [], []
    for part in rows.split(max(1, 2**24 // max(1, count))):
        kept = unpack_tiles(part, count)
        counts.append(kept.sum(dim=-1))
        tiles.append(kept.nonzero()[:, 1].int())
    begins = torch.zeros(len(rows) + 1, dtype=torch.int64, device=bits.device)
    begins[1:] = torch.cat(counts).cumsum(0)
    return begins, torch.cat(tiles)
