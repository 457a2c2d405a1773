"""What sink-swa-attn makes of attention masks: where rows begin, or a clear error."""

import pytest
import torch


@pytest.fixture(scope="module")
def kv_start_of(module_of):
    return module_of("sink-swa-attn").masks.kv_start_of


def pairs(queries, keys, window, starts):
    """`[B, 1, queries, keys]`, one pair at a time; rows of padding see nothing."""
    mask = torch.zeros(len(starts), 1, queries, keys, dtype=torch.bool)
    for b, start in enumerate(starts):
        for i in range(queries):
            at = i + keys - queries
            for j in range(start, at + 1):
                mask[b, 0, i, j] = window is None or j > at - window
    return mask


def of_keys(keys, starts, ends=None):
    position = torch.arange(keys)
    mask = position >= torch.tensor(starts)[:, None]
    return (mask & (position < torch.tensor(ends)[:, None]) if ends else mask).long()


@pytest.mark.parametrize(("queries", "keys"), [(1, 9), (4, 9), (9, 9)])
@pytest.mark.parametrize("window", [None, 3, 20])
@pytest.mark.parametrize("starts", [(0, 0), (0, 2), (5, 8)])
def test_masks_of_pairs(kv_start_of, queries, keys, window, starts):
    """The answer gives the mask back; None where it would not matter."""
    mask = pairs(queries, keys, window, starts)
    found = kv_start_of(mask, queries, keys, window)
    again = [0, 0] if found is None else found.tolist()
    assert torch.equal(pairs(queries, keys, window, again), mask)
    if max(starts) == 0:
        assert found is None


@pytest.mark.parametrize(("queries", "keys"), [(1, 9), (4, 9), (9, 9)])
def test_masks_of_keys(kv_start_of, queries, keys):
    assert kv_start_of(of_keys(keys, (0, 0)), queries, keys, 4) is None
    found = kv_start_of(of_keys(keys, (0, 3)), queries, keys, 4)
    assert found.dtype == torch.int32
    assert found.tolist() == [0, 3]


def test_a_row_of_padding_only_begins_behind_its_keys(kv_start_of):
    assert kv_start_of(torch.tensor([[0, 0, 0], [1, 1, 1]]), 3, 3, None).tolist() == [3, 0]
    assert kv_start_of(pairs(3, 3, None, (3, 0)), 3, 3, None).tolist() == [3, 0]


def test_right_padding_of_a_whole_text_needs_no_start(kv_start_of):
    """Real queries come before the padding, and a causal query does not look back at it."""
    assert kv_start_of(of_keys(6, (0, 0), (6, 4)), 6, 6, None) is None
    mask = pairs(6, 6, None, (0, 0)) & of_keys(6, (0, 0), (6, 4)).bool()[:, None, None]
    assert kv_start_of(mask, 6, 6, None) is None


def test_no_mask_is_causal(kv_start_of):
    assert kv_start_of(None, 5, 5, None) is None
    assert kv_start_of(None, 1, 9, 4) is None


def test_more_rows_than_are_read_at_once(kv_start_of, module_of, monkeypatch):
    monkeypatch.setattr(module_of("sink-swa-attn").masks, "ROWS", 2)
    assert kv_start_of(pairs(9, 9, 4, (0, 5)), 9, 9, 4).tolist() == [0, 5]
    packed = pairs(9, 9, None, (0,))
    packed[0, 0, 7:, :7] = False
    with pytest.raises(ValueError, match="Packed documents"):
        kv_start_of(packed, 9, 9, None)


def test_a_mask_that_was_written_to_is_read_again(kv_start_of):
    mask = of_keys(6, (0, 0))
    assert kv_start_of(mask, 6, 6, None) is None
    mask[1, :2] = 0
    assert kv_start_of(mask, 6, 6, None).tolist() == [0, 2]


# Masks that mean something else


def packed():
    mask = pairs(6, 6, None, (0, 0))
    mask[0, 0, 3:, :3] = False
    return mask


def bidirectional():
    mask = pairs(6, 6, None, (0, 0))
    mask[:, :, 0, 1] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "queries", "window", "message"),
    [
        (packed(), 6, None, "Packed documents"),
        (bidirectional(), 6, None, "must be causal"),
        (pairs(6, 6, 3, (0, 0)), 6, 4, "must be causal with window=4"),
        (pairs(6, 6, None, (0, 0)), 6, 4, "must be causal with window=4"),
        (pairs(6, 6, 4, (0, 0)), 6, None, "must be causal with window=None"),
        (
            pairs(6, 6, None, (0, 0)).float(),
            6,
            None,
            r"`attention_mask` must be booleans.*; got torch.float32. Additive masks",
        ),
        (of_keys(6, (0, 0), (6, 4)), 1, None, "padding between or after the keys.*padding_side"),
        (torch.tensor([[1, 1, 0, 1, 1, 1]]), 6, None, "padding between or after the keys"),
        (of_keys(7, (0, 0)), 6, None, r"`attention_mask` must be \[B, 6\].*; got \[2, 7\]"),
        (pairs(6, 6, None, (0, 0)), 3, None, r"`attention_mask` must .*; got \[2, 1, 6, 6\]"),
        (None, 3, None, "this is how a static cache begins"),
    ],
)
def test_other_masks_are_refused(kv_start_of, mask, queries, window, message):
    with pytest.raises(ValueError, match=message):
        kv_start_of(mask, queries, 6, window)
