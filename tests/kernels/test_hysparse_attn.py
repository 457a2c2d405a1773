"""hysparse-attn: every backend against loops in numpy, gradients against finite differences and the reference in float64."""

from collections import defaultdict
from importlib import import_module

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

FULL, SPARSE, DECODE = "full_attention_with_block_scores", "block_sparse_attention", "hysparse_decode"
EXACT = {"rtol": 1e-5, "atol": 2e-5}
ROUNDED = {torch.float16: 4e-3, torch.bfloat16: 3e-2}


def case(queries, slots, heads, kv_heads, dims=(32, 32), block_size=16, topk=2, **options):
    shapes = {
        "q": (2, heads, queries, dims[0]),
        "k": (2, kv_heads, slots, dims[0]),
        "v": (2, kv_heads, slots, dims[1]),
    }
    return shapes, {"block_size": block_size, "topk": topk} | options


CASES = {
    "one key": case(1, 1, 2, 2),
    "shorter than a block": case(5, 5, 4, 2, (64, 64)),
    "ragged": case(37, 37, 4, 2, (64, 64)),
    "no groups": case(17, 33, 3, 3),
    "three heads a group": case(19, 35, 6, 2),
    "four heads a group, one group": case(12, 34, 4, 1, (128, 128)),
    "sixteen heads a group": case(10, 26, 16, 1, (192, 128)),
    "head dims that are no powers of two": case(12, 28, 2, 1, (96, 96)),
    "blocks of three tiles": case(10, 100, 2, 1, block_size=48),
    "more blocks to name than there are": case(20, 40, 2, 1, topk=5),
    "queries at the end": case(9, 80, 4, 2, topk=3),
    "a cache with room": case(9, 90, 4, 2, q_offset=40),
    "decoding": case(1, 100, 8, 2, topk=3),
    "decoding in a cache with room": case(1, 100, 8, 2, q_offset=69, kv_start=(0, 21)),
    "left padding": case(24, 24, 4, 2, topk=1, kv_start=(0, 5)),
    "left padding, later queries": case(6, 80, 4, 2, topk=3, kv_start=(37, 5)),
    "a row of padding only": case(20, 20, 2, 1, kv_start=(20, 3)),
    "forced blocks": case(12, 90, 2, 1, topk=4, kv_start=(0, 9), forced_local_blocks=2, forced_initial_blocks=1),
}
TRAINED = [
    "shorter than a block",
    "three heads a group",
    "sixteen heads a group",
    "head dims that are no powers of two",
]
TRAINED += ["blocks of three tiles", "a cache with room", "left padding", "a row of padding only"]


def draw(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def arguments_of(name, dtype=torch.float32):
    shapes, options = CASES[name]
    arguments = {x: draw(shape, dtype, seed) for seed, (x, shape) in enumerate(shapes.items())}
    if "kv_start" in options:
        options = options | {"kv_start": torch.tensor(options["kv_start"])}
    return arguments | options


def sparse_of(arguments, idx, with_sinks=True):
    """The sparse layer's arguments: queries of its own, the full layer's keys and values."""
    kept = {x: arguments[x] for x in ("k", "v", "block_size", "kv_start", "q_offset") if x in arguments}
    q = draw(arguments["q"].shape, arguments["q"].dtype, 7)
    sinks = {"sinks": draw(q.shape[1], seed=8)} if with_sinks else {}
    return {"q": q, "idx": idx} | sinks | kept


def in_float64(arguments):
    return {
        name: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for name, x in arguments.items()
    }


# The yardstick: loops over rows, heads and queries


def rows(q, k, kv_start=None, q_offset=None):
    """Row of the batch, head, its group, query, and the slots that the query sees."""
    (batch, heads, queries), (kv_heads, slots) = q.shape[:3], k.shape[1:3]
    for b in range(batch):
        start = 0 if kv_start is None else int(kv_start[b])
        for h in range(heads):
            for r in range(queries):
                slot = r + (slots - queries if q_offset is None else q_offset)
                yield b, h, h // (heads // kv_heads), r, start, np.arange(start, slot + 1)


def softmax_of_loops(q, k, v, rows, sinks=None):
    """out, lse, and the logarithms of the probabilities by (b, h, r)."""
    out, lse, log_p = np.zeros((*q.shape[:3], v.shape[3])), np.full(q.shape[:3], -np.inf), {}
    for b, h, g, r, seen in rows:
        logits = k[b, g, seen] @ q[b, h, r] / np.sqrt(q.shape[3])
        everything = logits if sinks is None else np.append(logits, sinks[h])
        if len(everything):
            top = everything.max()
            lse[b, h, r] = top + np.log(np.exp(everything - top).sum())
        log_p[b, h, r] = logits - lse[b, h, r]
        out[b, h, r] = np.exp(log_p[b, h, r]) @ v[b, g, seen]
    return out, lse, log_p


def full_by_loops(q, k, v, block_size, topk, forced_local_blocks=0, forced_initial_blocks=0, **place):
    q, k, v = (x.double().numpy() for x in (q, k, v))
    every = list(rows(q, k, **place))
    out, lse, log_p = softmax_of_loops(q, k, v, [(b, h, g, r, seen) for b, h, g, r, _, seen in every])
    idx = np.full((q.shape[0], k.shape[1], q.shape[2], topk), -1)
    scores = {}
    for b, h, g, r, start, seen in every:
        for slot, score in zip(seen, log_p[b, h, r], strict=True):
            of_block = scores.setdefault((b, g, r), {})
            block = (slot - start) // block_size
            of_block[block] = max(score, of_block.get(block, -np.inf))
    for place, of_block in scores.items():
        last = max(of_block)
        forced = {x for x in of_block if x > last - forced_local_blocks or x < forced_initial_blocks}
        order = sorted(forced) + sorted(of_block.keys() - forced, key=lambda x: (-of_block[x], x))
        idx[place][: min(topk, len(order))] = order[:topk]
    return torch.from_numpy(out), torch.from_numpy(lse), torch.from_numpy(idx)


def sparse_by_loops(q, k, v, idx, block_size, sinks=None, **place):
    q, k, v = (x.double().numpy() for x in (q, k, v))
    chosen = []
    for b, h, g, r, start, seen in rows(q, k, **place):
        mine = np.isin((seen - start) // block_size, idx[b, g, r].numpy())
        chosen.append((b, h, g, r, seen[mine]))
    out, lse, _ = softmax_of_loops(q, k, v, chosen, None if sinks is None else sinks.double().numpy())
    return torch.from_numpy(out), torch.from_numpy(lse)


@pytest.fixture(scope="module")
def package(package_of):
    return package_of("hysparse-attn")


@pytest.fixture(scope="module")
def module(module_of):
    return module_of("hysparse-attn")


@pytest.fixture
def run(backend, package):
    return lambda function, arguments, grad=None: backend(package, function, backend.options | arguments, grad)


@pytest.fixture
def run_triton(triton_backend, package):
    return lambda function, arguments, grad=None: triton_backend(
        package, function, triton_backend.options | arguments, grad
    )


# Values


@pytest.mark.parametrize("name", CASES)
def test_full_attention_and_its_blocks(run, name):
    arguments = arguments_of(name)
    out, lse, idx = run(FULL, arguments)
    expected, expected_lse, expected_idx = full_by_loops(**arguments)
    assert_close(out.double(), expected, **EXACT)
    assert_close(lse.double(), expected_lse, **EXACT)
    assert (lse.dtype, idx.dtype) == (torch.float32, torch.int32)
    assert_close(idx.long(), expected_idx)


@pytest.mark.parametrize("name", CASES)
def test_sparse_attention(run, name):
    arguments = arguments_of(name)
    idx = full_by_loops(**arguments)[2].int()
    sparse = sparse_of(arguments, idx, with_sinks=name != "ragged")
    out, lse = run(SPARSE, sparse | {"return_lse": True})
    expected, expected_lse = sparse_by_loops(**sparse)
    assert_close(out.double(), expected, **EXACT)
    assert_close(lse.double(), expected_lse, **EXACT)


def test_with_all_blocks_it_is_dense_attention_whatever_their_size(run):
    arguments = arguments_of("queries at the end") | {"topk": 5}
    outputs = []
    for block_size in (16, 48):
        full = arguments | {"block_size": block_size}
        idx = run(FULL, full)[2]
        outputs.append(run(SPARSE, sparse_of(full, idx, with_sinks=False)))
    sparse = sparse_of(arguments, idx, with_sinks=False)
    dense = torch.nn.functional.scaled_dot_product_attention(
        *(sparse[x].double() for x in "qkv"), attn_mask=torch.ones(9, 80).tril(71).bool(), enable_gqa=True
    )
    for out in outputs:
        assert_close(out.double(), dense, **EXACT)


def test_scale(run):
    arguments = arguments_of("shorter than a block")
    for function, given in ((FULL, arguments), (SPARSE, sparse_of(arguments, torch.zeros(2, 2, 5, 1).int()))):
        changed = {"q": 0.5 * given["q"], "scale": 2 * 64**-0.5}
        for found, expected in zip(run(function, given | changed), run(function, given), strict=True):
            assert_close(found, expected)


def test_any_layout_of_memory(run):
    """`[B, T, K, d]` seen as `[B, K, T, d]`, and channels that do not lie side by side."""
    arguments = arguments_of("more blocks to name than there are")
    expected = run(FULL, arguments)
    changed = arguments | {x: arguments[x].transpose(1, 2).contiguous().transpose(1, 2) for x in "qk"}
    changed["v"] = arguments["v"].transpose(2, 3).contiguous().transpose(2, 3)
    for found, same in zip(run(FULL, changed), expected, strict=True):
        assert_close(found, same)
    sparse = sparse_of(changed, expected[2].transpose(2, 3).contiguous().transpose(2, 3))
    assert_close(run(SPARSE, sparse), run(SPARSE, sparse_of(arguments, expected[2])))


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("name", ["sixteen heads a group", "left padding, later queries"])
def test_sixteen_bits(run, name, dtype):
    arguments = arguments_of(name, dtype)
    out, lse, idx = run(FULL, arguments)
    expected, expected_lse, _ = full_by_loops(**arguments)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    assert_close(out.double(), expected, rtol=0, atol=ROUNDED[dtype])
    assert_close(lse.double(), expected_lse, rtol=0, atol=ROUNDED[dtype])
    sparse = sparse_of(arguments, idx)
    assert_close(run(SPARSE, sparse).double(), sparse_by_loops(**sparse)[0], rtol=0, atol=ROUNDED[dtype])


# Selection


def one_block_each(logits_of_heads):
    """q, k and v of one query: head h meets block i at `logits_of_heads[h][i]` in its first key, and at -20 in the others."""
    logits = torch.tensor(logits_of_heads, dtype=torch.float32)
    heads, blocks = logits.shape
    q = torch.zeros(1, heads, 1, 32)
    q[0, range(heads), 0, range(heads)] = 1
    k = torch.zeros(1, 1, blocks * 16, 32)
    k[..., :heads] = -20
    k[0, 0, ::16, :heads] = logits.T
    return {"q": q, "k": k, "v": torch.ones_like(k), "scale": 1.0, "block_size": 16}


def test_probabilities_are_compared_and_not_logits(run):
    """
    The first head has the larger logits, and is spread over four blocks: at most 0.25 of it is in any. The second gives
    nearly all to the last block, with a smaller logit.
    """
    arguments = one_block_each([[9, 9, 9, 9, 0], [0, 0, 0, 0, 5]])
    idx = run(FULL, arguments | {"topk": 2})[2]
    assert idx.flatten().tolist() == [4, 0]


def test_equal_scores_go_by_the_lower_block(run):
    arguments = one_block_each([[3, 7, 3, 7, 7, 3]])
    assert run(FULL, arguments | {"topk": 5})[2].flatten().tolist() == [1, 3, 4, 0, 2]


def test_a_query_of_zeros_names_its_first_blocks(run):
    """Each of its keys has the same probability."""
    arguments = arguments_of("ragged")
    arguments["q"] = torch.zeros_like(arguments["q"])
    idx = run(FULL, arguments | {"topk": 3})[2]
    blocks = torch.arange(37) // 16
    expected = torch.where(torch.arange(3) <= blocks[:, None], torch.arange(3), -1)
    assert (idx == expected).all()


def test_forced_blocks_come_first(run):
    arguments = one_block_each([[1, 5, 2, 9, 3, 0]]) | {"topk": 4}
    forced = {"forced_local_blocks": 2, "forced_initial_blocks": 1}
    assert run(FULL, arguments)[2].flatten().tolist() == [3, 1, 4, 2]
    assert run(FULL, arguments | forced)[2].flatten().tolist() == [0, 4, 5, 3]


def test_padding_on_the_left_does_not_move_blocks(run):
    alone = arguments_of("more blocks to name than there are") | {"topk": 2}
    expected = run(FULL, alone)
    padded = alone | {"kv_start": torch.tensor([11, 11])}
    padded |= {x: torch.cat([torch.full_like(alone[x][:, :, :11], float("nan")), alone[x]], dim=2) for x in "kv"}
    out, _, idx = run(FULL, padded)
    assert_close(out, expected[0])
    assert torch.equal(idx, expected[2])
    sparse = sparse_of(padded, idx)
    assert_close(run(SPARSE, sparse), run(SPARSE, sparse_of(alone, idx)))


def test_later_keys_change_no_bit_of_earlier_rows(run):
    arguments = arguments_of("more blocks to name than there are")
    arguments["k"] = arguments["k"].sign()  # many ties
    changed = arguments | {x: arguments[x].clone() for x in "kv"}
    for x in "kv":
        changed[x][:, :, 30:] = 5.0
    (out, lse, idx), again = run(FULL, arguments), run(FULL, changed)
    for found, expected in zip(again, (out, lse, idx), strict=True):
        assert torch.equal(found[:, :, :10], expected[:, :, :10])
    sparse = sparse_of(arguments, idx), sparse_of(changed, again[2])
    assert torch.equal(run(SPARSE, sparse[1])[:, :, :10], run(SPARSE, sparse[0])[:, :, :10])


def test_without_selection_there_are_no_blocks_and_the_rest_is_the_same(run):
    arguments = arguments_of("left padding, later queries")
    without = arguments | {"need_selection": False}
    out, lse, idx = run(FULL, without)
    expected = run(FULL, arguments)
    assert idx is None
    assert_close(out, expected[0])
    assert_close(lse, expected[1])
    found, gradients = gradients_of(run, FULL, without), gradients_of(run, FULL, arguments)
    for x, gradient in gradients.items():
        assert_close(found[x], gradient, rtol=1e-5, atol=1e-5)


# Gradients


def gradients_of(run, function, arguments, seed=20):
    """For out and lse together, so that neither can hide the other."""
    shape = (*arguments["q"].shape[:3], arguments["v"].shape[3])
    dtype = arguments["q"].dtype
    lse_grad = draw(shape[:3], torch.promote_types(dtype, torch.float32), seed + 1)
    grads = (draw(shape, dtype, seed), lse_grad)
    if function == SPARSE:
        return run(function, arguments | {"return_lse": True}, grads)[1]
    return run(function, arguments, (*grads, None))[1]


def both(name, module, dtype=torch.float32):
    """The arguments of both functions by function, the sparse layer's blocks taken from the reference."""
    arguments = arguments_of(name, dtype)
    idx = module.full_attention_with_block_scores_reference(**arguments)[2]
    return {FULL: arguments, SPARSE: sparse_of(arguments, idx)}


@pytest.fixture
def run_reference(package, reference_backend):
    return lambda function, arguments, grad=None: reference_backend(
        package, function, reference_backend.options | arguments, grad
    )


@pytest.mark.parametrize("function", [FULL, SPARSE])
@pytest.mark.parametrize("name", TRAINED)
def test_gradients_equal_those_of_the_reference_in_float64(run_triton, run_reference, module, name, function):
    arguments = both(name, module)[function]
    found = gradients_of(run_triton, function, arguments)
    expected = gradients_of(run_reference, function, in_float64(arguments))
    assert found.keys() == expected.keys()
    for x, gradient in expected.items():
        assert found[x].dtype == arguments[x].dtype
        assert_close(found[x].double(), gradient, rtol=1e-5, atol=5e-5, msg=lambda text, x=x: f"{x}: {text}")


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("function", [FULL, SPARSE])
def test_gradients_in_sixteen_bits(run_triton, run_reference, module, function, dtype):
    arguments = both("sixteen heads a group", module, dtype)[function]
    found = gradients_of(run_triton, function, arguments)
    for x, expected in gradients_of(run_reference, function, in_float64(arguments)).items():
        assert (found[x].double() - expected).norm() < 3 * torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize("name", ["shorter than a block", "a cache with room", "left padding, later queries"])
def test_gradients_of_the_reference_equal_finite_differences(module, name):
    """Blocks of three keys, as the reference takes any; of a probability that moves, the selection stays."""
    arguments = arguments_of(name, torch.float64) | {"block_size": 3}
    arguments |= {x: arguments[x][:, :, -12:, :3].clone() for x in "qkv"}
    arguments |= {"q": arguments["q"][:, :2, :4].clone(), "q_offset": 5} | {x: arguments[x][:, :1] for x in "kv"}
    if "kv_start" in arguments:
        arguments["kv_start"] = torch.tensor([7, 2])  # the first row's first queries see nothing
    idx = module.full_attention_with_block_scores_reference(**arguments)[2]
    sparse = sparse_of(arguments, idx) | {"return_lse": True}
    sparse["sinks"] = sparse["sinks"].double()

    def check(function, given, differentiated):
        rest = {x: value for x, value in given.items() if x not in differentiated}

        def call(*values):
            out, lse = function(**dict(zip(differentiated, values, strict=True)), **rest)[:2]
            return out, lse.clamp_min(-1e3)  # finite differences of minus infinity are none

        leaves = [given[x].requires_grad_() for x in differentiated]
        assert torch.autograd.gradcheck(call, leaves)

    check(module.full_attention_with_block_scores_reference, arguments, "qkv")
    check(module.block_sparse_attention_reference, sparse, ["q", "k", "v", "sinks"])


def test_gradients_reach_over_the_borders_of_the_reference_s_chunks(module):
    q, k, v = (draw((1, 2, 1100, 4), torch.float64, seed).requires_grad_() for seed in range(3))
    out = module.full_attention_with_block_scores_reference(q, k, v, block_size=64, topk=2)[0]
    found = torch.autograd.grad(out.square().sum(), [q, k, v])
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    for gradient, expected in zip(found, torch.autograd.grad(dense.square().sum(), [q, k, v]), strict=True):
        assert_close(gradient, expected)


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for x in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return output


def test_the_reference_holds_no_matrix_of_all_pairs(module):
    length = 2048
    q, k, v = (draw((1, 1, length, 4), seed=seed).requires_grad_() for seed in range(3))
    with LargestTensor() as largest:
        out, _, idx = module.full_attention_with_block_scores_reference(q, k, v, block_size=64, topk=2)
        (out + module.block_sparse_attention_reference(q, k, v, idx, block_size=64)).sum().backward()
    assert largest.elements <= 512 * length


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


# Parts: of queries, and of the keys of one


def internal(arguments):
    """What the functions behind the public ones take."""
    start, (slots, queries) = arguments.get("kv_start"), (arguments[x].shape[2] for x in "kq")
    given = {x: arguments[x] for x in ("q", "k", "v", "idx", "sinks") if x in arguments}
    place = {"scale": 0.1, "kv_start": None if start is None else start.int()}
    return given | place | {"q_offset": arguments.get("q_offset", slots - queries)}


@pytest.mark.parametrize("name", ["left padding", "left padding, later queries"])
def test_chunks_of_queries_change_nothing(triton_backend, package, name):
    arguments = internal(arguments_of(name)) | {"selection": (16, 3, 1, 0)}
    function = "triton_full_forward:full_forward"
    whole, parts = (triton_backend(package, function, arguments | {"chunk": chunk}) for chunk in (None, 5))
    for part, expected in zip(parts, whole, strict=True):
        assert_close(part, expected)


@pytest.mark.parametrize("splits", [2, 7])
@pytest.mark.parametrize("name", ["decoding", "left padding, later queries", "a row of padding only"])
def test_splits_of_the_keys_change_nothing(triton_backend, package, name, splits):
    """Seven are more than there are blocks."""
    arguments = arguments_of(name)
    full = internal(arguments) | {"selection": (16, 3, 0, 0)}
    function = "triton_full_forward:full_forward"
    whole = triton_backend(package, function, full | {"splits": 1})
    for part, expected in zip(triton_backend(package, function, full | {"splits": splits}), whole, strict=True):
        assert_close(part, expected)
    sparse = internal(sparse_of(arguments, whole[2])) | {"block_size": 16}
    function = "triton_sparse_forward:sparse_forward"
    whole = triton_backend(package, function, sparse | {"splits": 1})
    for part, expected in zip(triton_backend(package, function, sparse | {"splits": splits}), whole, strict=True):
        assert_close(part, expected)


def test_decoding_equals_the_last_row_of_one_pass(run):
    arguments = arguments_of("left padding")
    whole = run(FULL, arguments)
    last = arguments | {"q": arguments["q"][:, :, -1:]}
    for found, expected in zip(run(DECODE, last), whole, strict=True):
        assert_close(found, expected[:, :, -1:])
    sparse = sparse_of(arguments, whole[2])
    last = sparse | {x: sparse[x][:, :, -1:] for x in ("q", "idx")}
    assert_close(run(SPARSE, last), run(SPARSE, sparse)[:, :, -1:])


def test_the_maxima_of_few_queries_are_held_at_once(module_of, monkeypatch):
    """Never more than 4 bytes for each head and block of 4096 queries, in all rows of the batch together."""
    module_of("hysparse-attn")
    forward = import_module("hysparse_attn_source.triton_full_forward")
    allocated, launched = [], []
    empty = torch.empty
    monkeypatch.setattr(forward.torch, "empty", lambda shape, **how: allocated.append(shape) or empty(shape, **how))
    monkeypatch.setattr(forward, "select", lambda maxima, *rest: launched.append(maxima.shape))
    monkeypatch.setattr(forward, "_full_forward", defaultdict(lambda: lambda *given, **options: None))
    q, k = torch.zeros(3, 2, 10_000, 32, device="meta"), torch.zeros(3, 1, 10_000, 32, device="meta")
    forward.full_forward(q, k, k, 0.1, None, 0, (64, 2))
    (held,) = [shape for shape in allocated if isinstance(shape, int)]
    assert held <= 2 * 4096 * 157
    assert sum(shape[3] for shape in launched) == 10_000
    assert all(shape[:1] + shape[4:] == (3, 2) for shape in launched)


def test_the_queries_of_each_block_are_listed_in_order(module_of):
    module_of("hysparse-attn")
    listed = import_module("hysparse_attn_source.triton_sparse_backward").choosing_queries
    idx = torch.randint(-1, 4, (2, 3, 11, 5), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    queries, first = listed(idx, 4)
    for b, g, block in np.ndindex(2, 3, 4):
        expected = [r for r in range(11) for entry in idx[b, g, r] if entry == block]
        assert queries[b, g, first[b, g, block] : first[b, g, block + 1]].tolist() == expected


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.ones(4, 37, 64)}, r"q \[4, 37, 64\].*expected \[B, H, n, d\]"),
        ({"q": torch.ones(1, 4, 37, 64)}, "equal B, d, K, T"),
        ({"k": torch.ones(2, 2, 37, 32)}, "equal B, d, K, T"),
        ({"v": torch.ones(2, 2, 36, 64)}, "equal B, d, K, T"),
        ({"q": torch.ones(2, 3, 37, 64)}, "3 heads of q and 2 of k"),
        ({"q": torch.ones(2, 4, 38, 64)}, "38 queries and 37 slots of keys"),
        ({"q": torch.ones(2, 4, 0, 64)}, "0 queries and 37 slots of keys"),
        ({"q_offset": 1}, "q_offset=1: with 37 queries and 37 slots of keys it lies between 0 and 0"),
        ({"q_offset": -1}, "q_offset=-1: "),
        (
            {"kv_start": torch.zeros(3, dtype=torch.int32)},
            r"kv_start \[3\] torch.int32: expected int32 or int64, \[2\]",
        ),
        ({"kv_start": torch.zeros(2)}, r"kv_start \[2\] torch.float32"),
        ({"block_size": 0}, "block_size=0: expected a number of keys in a block, at least 1"),
        ({"topk": 0}, "topk=0: expected a number of blocks to name, at least 1"),
        ({"topk": 2.0}, "topk=2.0: expected"),
        ({"forced_local_blocks": -1}, "forced_local_blocks=-1: expected a number of blocks, at least 0"),
        ({"forced_local_blocks": 2, "forced_initial_blocks": 1}, "do not fit in topk=2: raise topk or force fewer"),
        ({"backend": "cutlass"}, "backend='cutlass': there are 'triton', 'reference', and None"),
    ],
)
def test_arguments_that_can_not_be(module, changes, message):
    with pytest.raises(ValueError, match=message):
        module.full_attention_with_block_scores(**arguments_of("ragged") | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"idx": torch.zeros(2, 2, 37, 2)}, r"idx \[2, 2, 37, 2\] torch.float32: expected int32, \[2, 2, 37, topk\]"),
        ({"idx": torch.zeros(2, 4, 37, 2).int()}, r"idx \[2, 4, 37, 2\]"),
        ({"idx": torch.zeros(2, 2, 37, 0).int()}, r"idx \[2, 2, 37, 0\]"),
        ({"sinks": torch.ones(2)}, r"sinks \[2\] torch.float32: expected one floating-point logit a head, \[4\]"),
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
    with pytest.raises(TypeError, match=r"q_offset=tensor\(0\): expected an int"):
        module.full_attention_with_block_scores(**arguments | {"q_offset": torch.tensor(0)})


def test_more_than_one_query_is_no_step_of_decoding(module):
    with pytest.raises(ValueError, match=r"expected one query.*for several call full_attention_with_block_scores"):
        module.hysparse_decode(**arguments_of("ragged"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {x: torch.ones(2, 2, 3, 24) for x in "qkv"},
            r"head dims d/dv 24/24: .*32/32, 64/64, 96/96, 128/128, 192/128;",
        ),
        ({"block_size": 24}, "block_size=24: backend 'triton' takes multiples of 16;"),
        ({x: torch.ones(2, 2, 3, 64).double() for x in "qkv"}, "torch.float64: backend 'triton' takes float32, "),
    ],
)
def test_what_the_kernel_does_not_take_has_a_remedy(triton_backend, package, changes, message):
    given = triton_backend.options | arguments_of("ragged") | changes
    with pytest.raises(ValueError, match=message + '.* pass backend="reference"'):
        triton_backend(package, FULL, given)


def test_the_kernel_asked_for_on_a_cpu_is_an_error(module):
    with pytest.raises(
        ValueError, match=r"backend 'triton' needs CUDA tensors; q is on cpu: .* backend=\"reference\""
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
