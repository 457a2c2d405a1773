"""hysparse-attn: gradients against finite differences, the reference in float64, and PyTorch's own attention."""

import pytest
import torch
from _hysparse import FULL, ROUNDED, SPARSE, TRAINED, arguments_of, both, draw, gradients_of, in_float64, sparse_of
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode


@pytest.fixture(scope="module")
def module(module_of):
    return module_of("hysparse-attn")


@pytest.fixture
def run(backend, calling):
    return calling(backend, "hysparse-attn")


@pytest.fixture
def run_triton(triton_backend, calling):
    return calling(triton_backend, "hysparse-attn")


@pytest.fixture
def run_reference(reference_backend, calling):
    return calling(reference_backend, "hysparse-attn")


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
