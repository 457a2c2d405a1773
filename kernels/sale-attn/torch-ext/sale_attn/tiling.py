"""Where the tiles of a causal map of scores lie, and which of them are always kept."""

from typing import NamedTuple

from ._shared.checks import check_number


class Tiling(NamedTuple):
    """
    Attributes:
        block_q: queries in a tile, a multiple of 16.
        block_k: keys in a tile, a multiple of 8.
        local_window: the last keys of each tile of queries are always kept, at least so many; a multiple of `block_k`.
        block_seg: what lies before them, behind the sink, comes in whole segments of so many keys; a multiple of `block_k`.
        sink_tokens: the first keys are always kept, so many; a multiple of `block_k`.
    """

    block_q: int = 64
    block_k: int = 32
    local_window: int = 128
    block_seg: int = 128
    sink_tokens: int = 32

    def check(self) -> None:
        """
        Raises:
            ValueError: a size that can't be.
        """
        for name, unit in (("block_q", 16), ("block_k", 8)):
            value = getattr(self, name)
            check_number(name, value, unit, "rows of a tile")
            if value % unit:
                raise ValueError(f"`{name}` must be a multiple of {unit}; got {value}.")
        for name in ("local_window", "block_seg", "sink_tokens"):
            value = getattr(self, name)
            check_number(name, value, self.block_k, "keys")
            if value % self.block_k:
                raise ValueError(f"`{name}` must be a multiple of `block_k`={self.block_k}; got {value}.")


TILING = Tiling()


class Layout(NamedTuple):
    """A tiling over so many queries and keys; the last query stands at the last key."""

    queries: int
    keys: int
    tiling: Tiling

    @property
    def offset(self) -> int:
        """Slot of the first query."""
        return self.keys - self.queries

    @property
    def query_tiles(self) -> int:
        return -(-self.queries // self.tiling.block_q)

    @property
    def key_tiles(self) -> int:
        return -(-self.keys // self.tiling.block_k)

    @property
    def sink_tiles(self) -> int:
        return self.tiling.sink_tokens // self.tiling.block_k

    def rows(self, tile: int) -> slice:
        """Queries of a tile."""
        return slice(tile * self.tiling.block_q, min((tile + 1) * self.tiling.block_q, self.queries))

    def visible(self, tile: int) -> int:
        """Tiles of keys that a tile of queries sees, the diagonal's among them."""
        return -(-(self.offset + self.rows(tile).stop) // self.tiling.block_k)

    def local_begin(self, tile: int) -> int:
        """First of the last tiles of keys that are always kept: between it and the sink lie whole segments."""
        block_k, visible = self.tiling.block_k, self.visible(tile)
        segment, local = self.tiling.block_seg // block_k, self.tiling.local_window // block_k
        outside = max(0, visible - self.sink_tiles)
        spare = outside - -(-outside // segment) * segment
        last = segment * -(-(local - spare) // segment) + spare
        # With a window as long as a tile and its diagonal, as the default is, the second bound never binds.
        diagonal = (self.offset + self.rows(tile).start) // block_k
        return max(self.sink_tiles, min(visible - last, diagonal))

    def estimated(self, tile: int) -> range:
        """Tiles of keys of which scores are estimated: those between the sink and the local area."""
        return range(self.sink_tiles, max(self.sink_tiles, min(self.local_begin(tile), self.visible(tile))))

    def causal_tiles(self) -> int:
        return sum(self.visible(tile) for tile in range(self.query_tiles))

    def estimated_tiles(self) -> int:
        return sum(len(self.estimated(tile)) for tile in range(self.query_tiles))
