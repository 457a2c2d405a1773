"""
Toy tasks of chained retrieval: cycles of symbols, cut into links that lie scattered over the context.

Every tag has a cycle f over some symbols. A position of the context shows one link (tag, key, f(key)); the last positions are
queries (tag, start) that ask for f(start), f(f(start)), ... All links of a tag look alike to a query, but which of them it
needs after the first it learns only on the way: a model needs one global look for each application of f.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

EMPTY, IGNORED = -1, -100


def tagged_chain(
    num_rows: int,
    *,
    tags: int = 5,
    cycle: int = 7,
    symbols: int = 14,
    queries: int = 29,
    hops: int = 3,
    filler: int = 0,
    seed: int = 0,
) -> "Dataset":
    """
    Queries that walk `hops` steps along the cycle of their tag.

    A row has `tags * cycle + filler` positions of links and filler in random order, then `queries` queries.

    Args:
        cycle: length of a cycle. At least `2 * hops + 1`, so that no step forward is a shorter way backward.
        symbols: from how many the cycle of each tag draws its own.
        filler: positions that show nothing.
        seed: of all rows; the same seed and sizes give the same rows.

    Returns:
        A `datasets.Dataset`, one row a context, with the columns `tag`, `key`, `value` (`[length]`; -1: nothing shown, as the
        value of a query), `labels` (`[length, hops]`, f(start), f(f(start)), ...; -100 before the queries) and `links`
        (`[length, hops]`, the positions of the links that lead there, -1 before the queries).

    Raises:
        ValueError: sizes that allow no such rows.
    """
    _check(num_rows, tags=tags, cycle=cycle, symbols=symbols, queries=queries, hops=hops, filler=filler)
    rng = np.random.default_rng(seed)
    cycles = _cycles(rng, num_rows, tags, cycle, symbols)
    context, places = _context(rng, cycles, filler)
    asked = rng.integers(tags, size=(num_rows, queries))
    start = rng.integers(cycle, size=(num_rows, queries))
    steps = (start[..., None] + np.arange(hops)) % cycle
    rows, tag = np.arange(num_rows)[:, None, None], asked[..., None]
    return _dataset(
        context,
        query_tag=asked,
        query_key=np.take_along_axis(cycles[rows[..., 0], asked], start[..., None], axis=-1)[..., 0],
        labels=cycles[rows, tag, (steps + 1) % cycle],
        links=places[rows, tag, steps],
    )


def relayed_chain(
    num_rows: int,
    *,
    tags: int = 5,
    cycle: int = 7,
    queries: int = 29,
    hops: int = 2,
    filler: int = 0,
    seed: int = 0,
) -> "Dataset":
    """
    Queries that walk on from where the query before them arrived: global looks with a local step between.

    All cycles run over the same symbols. Query q, of tag f_q and start s_q, asks for u_q = f_q(s_q), and for the next `hops`
    steps of its own tag from its neighbour's result: f_q(u_(q-1)), f_q(f_q(u_(q-1))), ... Neighbours differ in their tags.

    Args:
        cycle: length of each cycle, and the number of symbols.
        tags: at least 2.

    Returns:
        A `datasets.Dataset` with the columns of `tagged_chain`; `labels` and `links` are `[length, 1 + hops]`, and in the first
        query, which has no neighbour, -100 and -1 after the first label.

    Raises:
        ValueError: sizes that allow no such rows.
    """
    _check(num_rows, tags=tags, cycle=cycle, symbols=cycle, queries=queries, hops=hops, filler=filler)
    if tags < 2:
        raise ValueError(f"`tags` must be at least 2, since neighbouring queries differ in their tags; got {tags}.")
    rng = np.random.default_rng(seed)
    cycles = _cycles(rng, num_rows, tags, cycle, cycle)
    context, places = _context(rng, cycles, filler)
    # Steps of 1 to tags - 1 around the ring of tags never lead back to the same one.
    asked = np.cumsum(rng.integers(1, tags, size=(num_rows, queries)), axis=1) % tags
    start = rng.integers(cycle, size=(num_rows, queries))
    rows = np.arange(num_rows)[:, None]
    arrived = cycles[rows, asked, (start + 1) % cycle]
    index_of = np.argsort(cycles, axis=-1)  # of a symbol in the cycle of each tag
    resumed = index_of[rows, asked, np.roll(arrived, 1, axis=1)]
    steps = np.concatenate([start[..., None], (resumed[..., None] + np.arange(hops)) % cycle], axis=-1)
    labels = cycles[rows[..., None], asked[..., None], (steps + 1) % cycle]
    links = places[rows[..., None], asked[..., None], steps]
    labels[:, 0, 1:], links[:, 0, 1:] = IGNORED, EMPTY
    return _dataset(context, asked, cycles[rows, asked, start], labels, links)


def _check(num_rows: int, **sizes: int):
    for name, size in {"num_rows": num_rows, **sizes}.items():
        least = 0 if name == "filler" else 1
        if size < least:
            raise ValueError(f"`{name}` must be at least {least}; got {size}.")
    if sizes["cycle"] > sizes["symbols"]:
        raise ValueError(
            f"`cycle={sizes['cycle']}` must be at most `symbols={sizes['symbols']}`: no symbol occurs twice in a cycle."
        )


def _cycles(rng: np.random.Generator, num_rows: int, tags: int, cycle: int, symbols: int) -> np.ndarray:
    """`[rows, tags, cycle]`: symbol i of a cycle leads to symbol i + 1, the last one to the first."""
    return rng.permuted(np.broadcast_to(np.arange(symbols), (num_rows, tags, symbols)), axis=-1)[..., :cycle]


def _context(rng: np.random.Generator, cycles: np.ndarray, filler: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the positions before the queries show, and the position of each link, `[rows, tags, cycle]`."""
    num_rows, tags, cycle = cycles.shape
    links = tags * cycle
    shown = {
        "tag": np.broadcast_to(np.repeat(np.arange(tags), cycle), (num_rows, links)),
        "key": cycles.reshape(num_rows, links),
        "value": np.roll(cycles, -1, axis=-1).reshape(num_rows, links),
    }
    order = rng.permuted(np.broadcast_to(np.arange(links + filler), (num_rows, links + filler)), axis=1)
    empty = np.full((num_rows, filler), EMPTY)
    context = {
        name: np.take_along_axis(np.concatenate([values, empty], axis=1), order, axis=1)
        for name, values in shown.items()
    }
    return context, np.argsort(order, axis=1)[:, :links].reshape(cycles.shape)


def _dataset(context: dict[str, np.ndarray], query_tag, query_key, labels, links) -> "Dataset":
    from datasets import Dataset

    queries = {"tag": query_tag, "key": query_key, "value": np.full_like(query_key, EMPTY)}
    columns = {name: np.concatenate([context[name], queries[name]], axis=1) for name in queries}
    before = (*context["tag"].shape, labels.shape[-1])
    columns["labels"] = np.concatenate([np.full(before, IGNORED), labels], axis=1)
    columns["links"] = np.concatenate([np.full(before, EMPTY), links], axis=1)
    return Dataset.from_dict({name: values.astype(np.int32) for name, values in columns.items()})
