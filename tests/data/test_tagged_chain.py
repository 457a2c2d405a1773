"""Chained retrieval: the answers, found again by walking the links one by one."""

import pytest

from mimo_hf.data import relayed_chain, tagged_chain

SIZES = {"tags": 3, "cycle": 4, "queries": 6, "hops": 3, "filler": 5}


def links_of(row):
    """{(tag, key): (value, position)} of the links that a row shows; a link that is shown twice is an error."""
    links = {}
    for position, shown in enumerate(zip(row["tag"], row["key"], row["value"], strict=True)):
        if shown[2] != -1:
            assert shown[:2] not in links
            links[shown[:2]] = (shown[2], position)
    return links


def walk(links, tag, start, hops):
    """The symbols after 1, 2, ... steps, and where the links that lead there are."""
    symbols, positions = [], []
    for _ in range(hops):
        start, position = links[tag, start]
        symbols.append(start)
        positions.append(position)
    return symbols, positions


def queries_of(row, count):
    return [(row["tag"][i], row["key"][i], row["labels"][i], row["links"][i]) for i in range(-count, 0)]


def test_labels_are_what_walking_the_links_gives():
    for row in tagged_chain(20, symbols=7, **SIZES):
        links = links_of(row)
        for tag, start, labels, positions in queries_of(row, 6):
            assert (labels, positions) == walk(links, tag, start, 3)


def test_relayed_labels_walk_on_from_the_neighbours_result():
    for row in relayed_chain(20, **{**SIZES, "hops": 2}):
        links = links_of(row)
        arrived = None
        for tag, start, labels, positions in queries_of(row, 6):
            first, first_position = walk(links, tag, start, 1)
            if arrived is None:
                assert (labels[1:], positions[1:]) == ([-100, -100], [-1, -1])
            else:
                assert (labels[1:], positions[1:]) == walk(links, tag, arrived, 2)
            assert (labels[:1], positions[:1]) == (first, first_position)
            arrived = first[0]


def test_neighbouring_queries_of_a_relay_differ_in_their_tags():
    for row in relayed_chain(20, **{**SIZES, "tags": 2}):
        tags = row["tag"][-6:]
        assert all(one != other for one, other in zip(tags[1:], tags[:-1], strict=True))


@pytest.mark.parametrize("build", [tagged_chain, relayed_chain])
def test_every_tag_has_one_cycle_through_all_of_its_symbols(build):
    for row in build(10, **SIZES):
        links = links_of(row)
        for tag in range(3):
            own = [key for of, key in links if of == tag]
            assert len(own) == 4
            symbols, _ = walk(links, tag, own[0], 4)
            assert sorted(symbols) == sorted(own)
            assert symbols[-1] == own[0]


@pytest.mark.parametrize("build", [tagged_chain, relayed_chain])
def test_a_row_is_links_and_filler_in_any_order_then_queries(build):
    rows = build(200, **SIZES)
    kinds = set()
    for row in rows:
        assert [len(values) for values in row.values()] == [3 * 4 + 5 + 6] * 5
        before = [row["key"][i] == -1 for i in range(17)]
        assert sum(before) == 5
        assert all(row["tag"][i] == row["value"][i] == -1 for i in range(17) if before[i])
        assert row["labels"][:17] == [[-100] * 3 if build is tagged_chain else [-100] * 4] * 17
        assert all(row["tag"][i] != -1 and row["key"][i] != -1 and row["value"][i] == -1 for i in range(17, 23))
        kinds.add(tuple(before))
    assert len(kinds) > 150


def test_symbols_and_starts_are_spread_evenly():
    rows = tagged_chain(400, tags=2, cycle=3, symbols=5, queries=4, hops=1)
    shown = [key for row in rows for key in row["key"]]
    for symbol in range(5):
        assert shown.count(symbol) / len(shown) == pytest.approx(1 / 5, abs=0.03)


@pytest.mark.parametrize("build", [tagged_chain, relayed_chain])
def test_a_seed_gives_the_same_rows_again(build):
    assert build(5, **SIZES, seed=3)[:] == build(5, **SIZES, seed=3)[:]
    assert build(5, **SIZES, seed=3)[:] != build(5, **SIZES, seed=4)[:]


@pytest.mark.parametrize(
    ("build", "sizes", "named"),
    [
        (tagged_chain, {"cycle": 15}, "`cycle=15` must be at most `symbols=14`"),
        (tagged_chain, {"queries": 0}, "`queries` must be at least 1"),
        (tagged_chain, {"filler": -1}, "`filler` must be at least 0"),
        (tagged_chain, {"num_rows": 0}, "`num_rows` must be at least 1"),
        (relayed_chain, {"tags": 1}, "`tags` must be at least 2"),
        (relayed_chain, {"hops": 0}, "`hops` must be at least 1"),
    ],
)
def test_sizes_that_can_not_be_are_refused(build, sizes, named):
    with pytest.raises(ValueError, match=named):
        build(**{"num_rows": 2, **sizes})
