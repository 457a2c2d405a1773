"""hysparse-attn: what is not read, rows with nothing to see, and arguments that can not be."""

import pytest
import torch
from _hysparse import FULL, SPARSE, arguments_of, both, gradients_of, sparse_of
from torch.testing import assert_close


@pytest.fixture(scope="module")
def module(module_of):
    return module_of("hysparse-attn")


@pytest.fixture
def run(backend, calling):
    return calling(backend, "hysparse-attn")


# What is not read, and the ends of the range


@pytest.mark.parametrize("name", ["a cache with room", "decoding in a cache with room", "left padding, later queries"])
def test_slots_that_no_query_sees_are_not_read(run, surround, name):
    """Memory around the tensors, slots before kv_start, and the room that is left in a static cache."""
    arguments = arguments_of(name)
    expected = run(FULL, arguments)
    sparse = sparse_of(arguments, expected[2])
    expected_sparse = run(SPARSE, sparse)
    expected_gradients = {FULL: gradients_of(run, FULL, arguments), SPARSE: gradients_of(run, SPARSE, sparse)}
    end = arguments.get("q_offset", arguments["k"].shape[2] - arguments["q"].shape[2]) + arguments["q"].shape[2]
    for x in "kv":
        arguments[x][:, :, end:] = float("nan")
        for row, start in enumerate(arguments.get("kv_start", [])):
            arguments[x][row, :, :start] = float("nan")
        arguments[x] = surround(arguments[x])
    arguments["q"], sparse["q"] = surround(arguments["q"]), surround(sparse["q"])
    sparse |= {x: arguments[x] for x in "kv"}
    for found, same in zip(run(FULL, arguments), expected, strict=True):
        assert torch.equal(found, same)
    assert torch.equal(run(SPARSE, sparse), expected_sparse)
    for function, given in ((FULL, arguments), (SPARSE, sparse)):
        for x, gradient in gradients_of(run, function, given).items():
            assert torch.equal(gradient, expected_gradients[function][x])


def test_blocks_that_no_query_chose_are_not_read(run):
    arguments = sparse_of(arguments_of("queries at the end"), torch.tensor([0, 3, -1]).expand(2, 2, 9, 3).int())
    expected, gradients = run(SPARSE, arguments), gradients_of(run, SPARSE, arguments)
    for x in "kv":
        arguments[x][:, :, 16:48] = float("nan")
        arguments[x][:, :, 64:] = float("nan")
        assert (gradients[x][:, :, 16:48] == 0).all()
    assert torch.equal(run(SPARSE, arguments), expected)
    found = gradients_of(run, SPARSE, arguments)
    assert all(torch.equal(found[x], gradient) for x, gradient in gradients.items())


def test_a_row_of_nan_spoils_no_other_row(run):
    arguments = arguments_of("queries at the end")
    out, lse, idx = run(FULL, arguments)
    spoiled = arguments | {x: arguments[x].clone() for x in "qkv"}
    for x in "qkv":
        spoiled[x][0] = float("nan")
    found = run(FULL, spoiled)
    for spoiled_output, expected in zip(found, (out, lse, idx), strict=True):
        assert torch.equal(spoiled_output[1], expected[1])
    assert ((found[2][0] >= -1) & (found[2][0] < 5)).all()
    sparse = sparse_of(arguments, idx)
    expected = run(SPARSE, sparse)
    assert torch.equal(run(SPARSE, sparse | {x: spoiled[x] for x in "kv"})[1], expected[1])


@pytest.mark.parametrize("with_sinks", [True, False])
def test_a_query_without_blocks_gives_zeros_and_finite_gradients(run, with_sinks):
    arguments = arguments_of("queries at the end")
    idx = torch.tensor([2, 0, -1]).repeat(2, 2, 9, 1).int()
    idx[0, 1, 4:] = idx[1] = -1
    sparse = sparse_of(arguments, idx, with_sinks)
    out, lse = run(SPARSE, sparse | {"return_lse": True})
    assert (out[1] == 0).all()
    assert (out[0, 2:, 4:] == 0).all()
    assert out[0, 2:, :4].abs().min() > 0
    alone = sparse["sinks"][:, None].expand(4, 9) if with_sinks else torch.full((4, 9), -torch.inf)
    assert_close(lse[1], alone)
    found = gradients_of(run, SPARSE, sparse)
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert all((found[x][1] == 0).all() for x in "qkv")


def test_gaps_between_blocks_are_nothing(run):
    arguments = arguments_of("queries at the end")
    packed, gaps = (torch.tensor(row).expand(2, 2, 9, -1).int() for row in ([3, 1, -1, -1], [-1, 3, -1, 1]))
    assert_close(run(SPARSE, sparse_of(arguments, gaps)), run(SPARSE, sparse_of(arguments, packed)))


@pytest.mark.parametrize("logit", [-float("inf"), -1e4, 80.0, 1e4])
def test_extreme_sinks(run, logit):
    """A very low sink takes nothing. A very high one takes everything."""
    sparse = sparse_of(arguments_of("decoding"), torch.tensor([4, 0, -1]).expand(2, 2, 1, 3).int())
    plain = run(SPARSE, sparse | {"sinks": None})
    sparse["sinks"] = torch.full_like(sparse["sinks"], logit)
    out = run(SPARSE, sparse)
    assert all(gradient.isfinite().all() for gradient in gradients_of(run, SPARSE, sparse).values())
    assert_close(out, torch.zeros_like(out) if logit > 0 else plain, rtol=0, atol=1e-6)


def test_every_run_gives_the_same_bits(run, module):
    for function, arguments in both("left padding, later queries", module).items():
        first, second = run(function, arguments), run(function, arguments)
        assert all(map(torch.equal, first, second)) if function == FULL else torch.equal(first, second)
        first, second = gradients_of(run, function, arguments), gradients_of(run, function, arguments)
        assert all(torch.equal(first[x], second[x]) for x in first)


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.ones(4, 37, 64)}, r"`q`, `k` and `v` must be \[B, H, n, d\].*; got q \[4, 37, 64\]"),
        ({"q": torch.ones(1, 4, 37, 64)}, "equal B, d, K, T"),
        ({"k": torch.ones(2, 2, 37, 32)}, "equal B, d, K, T"),
        ({"v": torch.ones(2, 2, 36, 64)}, "equal B, d, K, T"),
        ({"q": torch.ones(2, 3, 37, 64)}, "`q` must have a multiple of `k`'s heads; got 3 and 2"),
        ({"q": torch.ones(2, 4, 38, 64)}, "got 37 slots and 38 queries"),
        ({"q": torch.ones(2, 4, 0, 64)}, "got 37 slots and 0 queries"),
        ({"q_offset": 1}, "`q_offset` must be 0 to 0 with 37 queries and 37 slots of keys; got 1"),
        ({"q_offset": -1}, "`q_offset` must .*; got -1"),
        (
            {"kv_start": torch.zeros(3, dtype=torch.int32)},
            r"`kv_start` must be int32 or int64, \[2\]; got \[3\] torch.int32",
        ),
        ({"kv_start": torch.zeros(2)}, r"`kv_start` must .*; got \[2\] torch.float32"),
        ({"block_size": 0}, "`block_size` must be a number of keys in a block, at least 1; got 0"),
        ({"topk": 0}, "`topk` must be a number of blocks to name, at least 1; got 0"),
        ({"topk": 2.0}, "`topk` must .*; got 2.0"),
        ({"forced_local_blocks": -1}, "`forced_local_blocks` must be a number of blocks, at least 0; got -1"),
        (
            {"forced_local_blocks": 2, "forced_initial_blocks": 1},
            "must fit in topk=2; got 2 and 1. Raise topk or force fewer",
        ),
        ({"backend": "cutlass"}, "`backend` must be 'triton', 'reference' or None; got 'cutlass'"),
    ],
)
def test_arguments_that_can_not_be(module, changes, message):
    with pytest.raises(ValueError, match=message):
        module.full_attention_with_block_scores(**arguments_of("ragged") | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"idx": torch.zeros(2, 2, 37, 2)},
            r"`idx` must be int32, \[2, 2, 37, topk\].*; got \[2, 2, 37, 2\] torch.float32",
        ),
        ({"idx": torch.zeros(2, 4, 37, 2).int()}, r"`idx` must .*; got \[2, 4, 37, 2\]"),
        ({"idx": torch.zeros(2, 2, 37, 0).int()}, r"`idx` must .*; got \[2, 2, 37, 0\]"),
        ({"sinks": torch.ones(2)}, r"`sinks` must be one floating-point logit a head, \[4\]; got \[2\] torch.float32"),
        ({"sinks": torch.ones(4, dtype=torch.int64)}, "floating-point logit"),
    ],
)
def test_lists_and_sinks_that_can_not_be(module, changes, message):
    sparse = sparse_of(arguments_of("ragged"), torch.zeros(2, 2, 37, 2).int())
    with pytest.raises(ValueError, match=message):
        module.block_sparse_attention(**sparse | changes)


def test_types_that_do_not_fit(module):
    arguments = arguments_of("ragged")
    with pytest.raises(TypeError, match=r"q torch\.float64, k torch\.float32"):
        module.full_attention_with_block_scores(**arguments | {"q": arguments["q"].double()})
    with pytest.raises(TypeError, match=r"`q_offset` must be an int.*; got tensor\(0\)"):
        module.full_attention_with_block_scores(**arguments | {"q_offset": torch.tensor(0)})


def test_more_than_one_query_is_no_step_of_decoding(module):
    with pytest.raises(ValueError, match=r"`q` must be one query.*For several call full_attention_with_block_scores"):
        module.hysparse_decode(**arguments_of("ragged"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {x: torch.ones(2, 2, 3, 24) for x in "qkv"},
            r"head dims d/dv .*32/32, 64/64, 96/96, 128/128, 192/128; got 24/24",
        ),
        ({"block_size": 24}, "`block_size` must be a multiple of 16 for backend 'triton'; got 24"),
        ({x: torch.ones(2, 2, 3, 64).double() for x in "qkv"}, "`q` must be float32, .*; got torch.float64"),
    ],
)
def test_what_the_kernel_does_not_take_has_a_remedy(triton_backend, calling, changes, message):
    with pytest.raises(ValueError, match=message + '.* pass backend="reference"'):
        calling(triton_backend, "hysparse-attn")(FULL, arguments_of("ragged") | changes)


def test_the_kernel_asked_for_on_a_cpu_is_an_error(module):
    with pytest.raises(
        ValueError, match=r"`q` must be a CUDA tensor for backend 'triton'; got cpu. .* backend=\"reference\""
    ):
        module.full_attention_with_block_scores(**arguments_of("ragged"), backend="triton")


def test_a_cpu_takes_the_reference_by_default(module):
    arguments = arguments_of("ragged")
    found = module.full_attention_with_block_scores(**arguments)
    assert all(map(torch.equal, found, module.full_attention_with_block_scores_reference(**arguments)))


@pytest.mark.gpu
def test_a_gpu_takes_the_kernel_by_default(module):
    arguments = {name: x.cuda() if isinstance(x, torch.Tensor) else x for name, x in arguments_of("ragged").items()}
    found = module.full_attention_with_block_scores(**arguments)
    assert all(map(torch.equal, found, module.full_attention_with_block_scores(**arguments, backend="triton")))
