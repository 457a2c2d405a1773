"""sink-swa-attn: every backend against all pairs of a query and a key written out in float64."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

SOURCE = "sink_swa_attention"
EXACT = {"rtol": 1e-5, "atol": 2e-5}
ROUNDED = {torch.float16: {"rtol": 0, "atol": 4e-3}, torch.bfloat16: {"rtol": 0, "atol": 3e-2}}

# queries, keys, heads, key-value heads, head dims, window, sinks, kv_start of two rows
CASES = {
    "one query": (1, 1, 2, 2, (32, 32), 4, True, None),
    "shorter than a tile": (5, 5, 4, 2, (64, 64), 3, True, None),
    "ragged": (77, 77, 4, 2, (64, 64), 20, True, None),
    "window of one": (19, 19, 2, 1, (32, 32), 1, True, None),
    "window of a block": (70, 70, 2, 2, (32, 32), 64, True, None),
    "window longer than the row": (40, 40, 4, 1, (64, 64), 128, True, None),
    "no window": (70, 70, 4, 2, (64, 64), None, True, None),
    "no sinks": (50, 50, 4, 2, (64, 64), 16, False, None),
    "neither": (40, 40, 2, 2, (96, 96), None, False, None),
    "group of three": (33, 33, 6, 2, (32, 32), 9, True, None),
    "group of eight": (37, 37, 8, 1, (192, 128), 16, True, None),
    "no groups": (90, 90, 2, 2, (128, 128), 30, True, None),
    "queries at the end": (13, 90, 4, 2, (192, 128), 24, True, None),
    "queries at the end, no window": (13, 90, 4, 2, (96, 96), None, True, None),
    "decoding": (1, 140, 8, 1, (192, 128), 128, True, None),
    "verifying drafts": (4, 200, 16, 2, (192, 128), 128, True, None),
    "left padding": (60, 60, 4, 2, (64, 64), 16, True, (0, 23)),
    "left padding, no window": (45, 45, 4, 2, (64, 64), None, True, (7, 0)),
    "left padding, no sinks": (45, 45, 4, 2, (32, 32), 12, False, (7, 0)),
    "left padding while decoding": (3, 100, 4, 2, (32, 32), None, True, (0, 64)),
    "a row of padding only": (20, 20, 2, 1, (32, 32), 8, True, (20, 3)),
}


def tensors(case, dtype=torch.float32, seed=0):
    """The arguments of the public function, and a gradient of its output."""
    queries, keys, heads, kv_heads, (d, dv), window, with_sinks, start = CASES[case]
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    arguments = {"query": draw(2, heads, queries, d), "key": draw(2, kv_heads, keys, d)}
    arguments |= {"value": draw(2, kv_heads, keys, dv), "window": window}
    if with_sinks:
        arguments["sinks"] = draw(heads).float()
    if start is not None:
        arguments["kv_start"] = torch.tensor(start)
    return arguments, draw(2, heads, queries, dv)


def all_pairs(query, key, value, sinks=None, window=None, kv_start=None, scaling=None):
    """arXiv 2601.02780, eq. 1-4, with all pairs at once; differentiable, in float64."""
    (batch, heads, queries, d), (kv_heads, keys) = query.shape, key.shape[1:3]
    key, value = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (key, value))
    logits = torch.einsum("bhid,bhjd->bhij", query, key) * (d**-0.5 if scaling is None else scaling)
    i, j = torch.arange(queries)[:, None] + keys - queries, torch.arange(keys)
    visible = (j <= i) & (j > i - (window or keys))
    visible = visible & (j >= (torch.zeros(batch) if kv_start is None else kv_start)[:, None, None, None])
    logits = torch.where(visible, logits, -torch.inf)
    sink = torch.full((heads,), -torch.inf).double() if sinks is None else sinks
    sink = sink[None, :, None, None]
    top = torch.maximum(logits.amax(-1, keepdim=True), sink).detach().clamp_min(-1e300)
    e = (logits - top).exp()
    total = (sink - top).exp() + e.sum(-1, keepdim=True)
    return torch.einsum("bhij,bhjd->bhid", e / torch.where(total == 0, 1, total), value)


def in_float64(arguments):
    return {
        name: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for name, x in arguments.items()
    }


def expected_gradients(arguments, grad):
    arguments = in_float64(arguments)
    leaves = {name: x.requires_grad_() for name, x in arguments.items() if getattr(x, "dtype", None) == torch.float64}
    found = torch.autograd.grad(all_pairs(**arguments), list(leaves.values()), grad.double())
    return dict(zip(leaves, found, strict=True))


@pytest.fixture(scope="module")
def package(package_of):
    return package_of("sink-swa-attn")


@pytest.fixture(scope="module")
def reference(module_of):
    return module_of("sink-swa-attn").sink_swa_attention_reference


@pytest.fixture
def attend(backend, package):
    def call(arguments, grad=None, **changes):
        return backend(package, SOURCE, backend.options | arguments | changes, grad)

    return call


def test_all_pairs_is_the_sum_over_keys():
    """The yardstick itself, against loops in numpy."""
    arguments = in_float64(tensors("left padding while decoding")[0]) | {"window": 40}
    found = all_pairs(**arguments)
    q, k, v, sinks, starts = (arguments[name].numpy() for name in ("query", "key", "value", "sinks", "kv_start"))
    for b, h, i in [(0, 0, 0), (0, 3, 2), (1, 1, 1), (1, 2, 0)]:
        position = i + 97
        seen = range(max(starts[b], position - 40 + 1), position + 1)
        terms = [np.exp(q[b, h, i] @ k[b, h // 2, j] / np.sqrt(32)) for j in seen]
        row = sum(term * v[b, h // 2, j] for term, j in zip(terms, seen, strict=True))
        assert_close(found[b, h, i], torch.from_numpy(row / (np.exp(sinks[h]) + sum(terms))))


# Values and gradients


@pytest.mark.parametrize("case", CASES)
def test_values(attend, case):
    arguments, _ = tensors(case)
    assert_close(attend(arguments).double(), all_pairs(**in_float64(arguments)), **EXACT)


@pytest.mark.parametrize("case", CASES)
def test_gradients(attend, case):
    arguments, grad = tensors(case)
    _, found = attend(arguments, grad)
    expected = expected_gradients(arguments, grad)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert found[name].dtype == arguments[name].dtype
        assert_close(found[name].double(), gradient, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("case", ["ragged", "no window", "group of eight", "verifying drafts", "neither"])
def test_sixteen_bits(attend, case, dtype):
    arguments, grad = tensors(case, dtype)
    output, found = attend(arguments, grad)
    assert output.dtype == dtype
    assert_close(output.double(), all_pairs(**in_float64(arguments)), **ROUNDED[dtype])
    for name, expected in expected_gradients(arguments, grad).items():
        assert (found[name].double() - expected).norm() < 3 * torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize("case", ["shorter than a tile", "queries at the end, no window", "left padding, no sinks"])
def test_gradients_of_the_reference_equal_finite_differences(reference, case):
    arguments = {
        name: x[..., :9, :4].double() if getattr(x, "ndim", 0) == 4 else x for name, x in tensors(case)[0].items()
    }
    arguments["query"] = arguments["query"][:, :, :5]
    leaves = {name: arguments.pop(name).double() for name in ("query", "key", "value", "sinks") if name in arguments}
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    assert torch.autograd.gradcheck(
        lambda *values: reference(**dict(zip(leaves, values, strict=True)), **arguments), list(leaves.values())
    )


def test_float64_is_for_the_reference_only(attend, backend):
    arguments, _ = tensors("ragged", torch.float64)
    if torch.float64 in backend.dtypes:
        assert_close(attend(arguments), all_pairs(**in_float64(arguments)), rtol=1e-12, atol=1e-12)
    else:
        with pytest.raises(ValueError, match=r"must be float32, .*; got torch.float64: .* backend=\"reference\""):
            attend(arguments)


def test_scaling(attend):
    arguments = tensors("ragged")[0] | {"scaling": 0.37}
    assert_close(attend(arguments).double(), all_pairs(**in_float64(arguments)), **EXACT)


def test_any_layout_of_memory(attend):
    """`[B, N, H, D]` seen as `[B, H, N, D]`, and channels that do not lie side by side."""
    arguments, grad = tensors("ragged")
    changed = arguments | {
        name: arguments[name].transpose(1, 2).contiguous().transpose(1, 2) for name in ("query", "key")
    }
    changed["value"] = arguments["value"].transpose(2, 3).contiguous().transpose(2, 3)
    assert changed["value"].stride(-1) != 1
    output, found = attend(changed, grad.mean().expand(grad.shape))
    assert_close(output.double(), all_pairs(**in_float64(arguments)), **EXACT)
    for name, expected in expected_gradients(arguments, grad.mean().expand(grad.shape)).items():
        assert_close(found[name].double(), expected, **EXACT)


# What lies around, and the ends of the range


UNUSED = ["group of three", "shorter than a tile", "queries at the end", "left padding", "neither"]


@pytest.mark.parametrize("case", UNUSED)
def test_memory_around_the_tensors_is_not_read(attend, surround, case):
    arguments, grad = tensors(case)
    expected = attend(arguments, grad)
    inside = {name: surround(x) if isinstance(x, torch.Tensor) and x.ndim == 4 else x for name, x in arguments.items()}
    output, found = attend(inside, surround(grad))
    assert torch.equal(output, expected[0])
    assert all(torch.equal(found[name], expected[1][name]) for name in found)


@pytest.mark.parametrize("case", ["left padding", "left padding, no window", "left padding while decoding"])
def test_keys_before_kv_start_are_not_read(attend, case):
    arguments, grad = tensors(case)
    output, found = attend(arguments, grad)
    for row, start in enumerate(arguments["kv_start"]):
        for name in ("key", "value"):
            arguments[name][row, :, :start] = float("nan")
            assert (found[name][row, :, :start] == 0).all()
    again, found_again = attend(arguments, grad)
    assert torch.equal(again, output)
    assert all(torch.equal(found_again[name], found[name]) for name in found)


@pytest.mark.parametrize(("queries", "keys"), [(1, 140), (4, 200), (13, 90)])
def test_keys_before_the_window_of_the_first_query_are_not_read(attend, queries, keys):
    window = 24
    arguments, _ = tensors("decoding")
    generator = torch.Generator().manual_seed(1)
    arguments["query"] = torch.randn(2, 8, queries, 192, generator=generator)
    arguments |= {"key": torch.randn(2, 1, keys, 192, generator=generator), "window": window}
    arguments["value"] = torch.randn(2, 1, keys, 128, generator=generator)
    unused = keys - queries - window + 1
    expected = all_pairs(**in_float64(arguments))
    for name in ("key", "value"):
        arguments[name][:, :, :unused] = float("nan")
    assert_close(attend(arguments).double(), expected, **EXACT)


@pytest.mark.parametrize("with_sinks", [True, False])
def test_a_query_that_sees_no_key_gives_zeros_and_finite_gradients(attend, with_sinks):
    arguments, grad = tensors("a row of padding only")
    if not with_sinks:
        del arguments["sinks"]
    output, found = attend(arguments, grad)
    assert (output[0] == 0).all()
    assert (output[1, :, :3] == 0).all()
    assert output[1, :, 3:].abs().min() > 0
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert (found["query"][0] == 0).all()


@pytest.mark.parametrize("logit", [-float("inf"), -1e4, 80.0, 1e4])
@pytest.mark.parametrize("case", ["shorter than a tile", "left padding, no window"])
def test_extreme_sinks(attend, case, logit):
    """A very low sink takes nothing: plain softmax. A very high one takes everything."""
    arguments, grad = tensors(case)
    arguments["sinks"] = torch.full_like(arguments["sinks"], logit)
    output, found = attend(arguments, grad)
    assert all(gradient.isfinite().all() for gradient in found.values())
    if logit > 0:
        assert output.abs().max() < 1e-25
    else:
        plain = {name: x for name, x in arguments.items() if name != "sinks"}
        assert_close(output.double(), all_pairs(**in_float64(plain)), **EXACT)
        assert found["sinks"].abs().max() < 1e-25


def test_large_logits(attend):
    """They would overflow without the running maximum."""
    arguments, grad = tensors("ragged")
    arguments["query"] = 300 * arguments["query"]
    output, found = attend(arguments, grad)
    assert_close(output.double(), all_pairs(**in_float64(arguments)), rtol=0, atol=2e-3)
    assert all(gradient.isfinite().all() for gradient in found.values())


# Properties


@pytest.mark.parametrize("window", [24, None])
def test_decoding_equals_the_rows_of_one_pass(attend, window):
    arguments = tensors("no window")[0] | {"window": window}
    whole = attend(arguments)
    for begin, end in [(30, 31), (31, 35), (69, 70)]:
        part = arguments | {"query": arguments["query"][:, :, begin:end]}
        part |= {name: arguments[name][:, :, :end] for name in ("key", "value")}
        assert_close(attend(part), whole[:, :, begin:end], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["group of three", "left padding, no window"])
def test_every_run_gives_the_same_bits(attend, case):
    arguments, grad = tensors(case)
    (output, found), (output_again, found_again) = (attend(arguments, grad) for _ in range(2))
    assert torch.equal(output_again, output)
    assert all(torch.equal(found_again[name], found[name]) for name in found)


@pytest.mark.parametrize(
    "case", ["decoding", "queries at the end, no window", "left padding while decoding", "neither"]
)
@pytest.mark.parametrize("splits", [2, 7])
def test_splits_of_the_keys_change_nothing(triton_backend, package, case, splits):
    """Seven are more than there are blocks of keys."""
    arguments, _ = tensors(case)
    start = arguments.get("kv_start")
    internal = {"sinks": None} | arguments | {"kv_start": None if start is None else start.int(), "splits": splits}
    internal["scaling"] = arguments["query"].shape[-1] ** -0.5
    output, lse = triton_backend(package, "triton_attention:forward", internal)
    whole, whole_lse = triton_backend(package, "triton_attention:forward", internal | {"splits": 1})
    assert_close(output.double(), all_pairs(**in_float64(arguments)), **EXACT)
    assert_close(output, whole, rtol=1e-5, atol=1e-6)
    assert_close(lse, whole_lse, rtol=1e-5, atol=1e-6)


class LargestTensor(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for x in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.numel())
        return output


def test_the_reference_holds_no_matrix_of_all_pairs(reference):
    length, window = 3000, 64
    query, key, value = (torch.randn(1, 2, length, d, requires_grad=True) for d in (8, 8, 4))
    with LargestTensor() as largest:
        reference(query, key, value, torch.zeros(2), window).sum().backward()
    assert largest.elements < length * length / 100


# Bad input


def refused(attend, message, kind=ValueError, **changes):
    arguments = tensors("ragged")[0] | changes
    with pytest.raises(kind, match=message):
        attend(arguments)


@pytest.mark.parametrize("window", [0, -3, True, 2.5])
def test_a_window_that_can_not_be(attend, window):
    refused(
        attend, rf"`window` must be the positions that a query sees, .* at least 1, .*; got {window!r}", window=window
    )


@pytest.mark.parametrize("dims", [(24, 8), (80, 80), (128, 192), (256, 256)])
def test_head_dims_that_the_kernel_does_not_take(triton_backend, package, dims):
    (d, dv), options = dims, triton_backend.options
    arguments = {"query": torch.ones(1, 2, 3, d), "key": torch.ones(1, 2, 3, d), "value": torch.ones(1, 2, 3, dv)}
    known = "32/32, 64/64, 96/96, 128/128, 192/128"
    with pytest.raises(ValueError, match=rf'head dims d/dv {known}; got {d}/{dv}: pass backend="ref'):
        triton_backend(package, SOURCE, arguments | options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"query": torch.ones(4, 77, 64)},
            r"`query`, `key` and `value` must be \[B, H, n, d\].*; got query \[4, 77, 64\]",
        ),
        ({"query": torch.ones(1, 4, 77, 64)}, "equal B, d, K, T"),
        ({"key": torch.ones(2, 2, 77, 32)}, "equal B, d, K, T"),
        ({"value": torch.ones(2, 2, 76, 64)}, "equal B, d, K, T"),
        ({"query": torch.ones(2, 3, 77, 64)}, "`query` must have a multiple of `key`'s heads; got 3 and 2"),
        (
            {"query": torch.ones(2, 4, 78, 64)},
            "`key` must have a slot for each query, .*; got 77 slots and 78 queries",
        ),
        ({"query": torch.ones(2, 4, 0, 64)}, "got 77 slots and 0 queries"),
        ({"sinks": torch.ones(2)}, r"`sinks` must be one floating-point logit a head, \[4\]; got \[2\] torch.float32"),
        ({"sinks": torch.ones(4, dtype=torch.int64)}, "floating-point logit"),
        (
            {"kv_start": torch.zeros(3, dtype=torch.int32)},
            r"`kv_start` must be int32 or int64, \[2\]; got \[3\] torch.int32",
        ),
        ({"kv_start": torch.zeros(2)}, r"`kv_start` must .*; got \[2\] torch.float32"),
    ],
)
def test_shapes_that_do_not_fit(attend, changes, message):
    refused(attend, message, **changes)


def test_types_that_do_not_fit(attend):
    refused(attend, "query torch.float64, key torch.float32", TypeError, query=torch.ones(2, 4, 77, 64).double())


def test_a_backend_that_does_not_exist(attend):
    refused(attend, r"`backend` must be 'triton', 'reference' or None; got 'cutlass'", backend="cutlass")


def test_the_kernel_asked_for_on_a_cpu_is_an_error(module_of):
    arguments, _ = tensors("ragged")
    with pytest.raises(ValueError, match="`query` must be a CUDA tensor for backend 'triton'; got cpu"):
        module_of("sink-swa-attn").sink_swa_attention(**arguments, backend="triton")


def test_a_cpu_takes_the_reference_by_default(module_of, reference):
    arguments, _ = tensors("ragged")
    assert torch.equal(module_of("sink-swa-attn").sink_swa_attention(**arguments), reference(**arguments))


@pytest.mark.gpu
def test_a_gpu_takes_the_kernel_by_default(module_of):
    arguments = {name: x.cuda() if isinstance(x, torch.Tensor) else x for name, x in tensors("ragged")[0].items()}
    attention = module_of("sink-swa-attn").sink_swa_attention
    assert torch.equal(attention(**arguments), attention(**arguments, backend="triton"))
