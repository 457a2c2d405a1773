"""Every kernel repository as the `kernels` library meets it: alone, offline, in a process of its own, and in `kernelize`."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernels import LocalLayerRepository, Mode, kernelize, use_kernel_forward_from_hub, use_kernel_mapping
from kernels._rust import Build
from torch import nn
from torch.testing import assert_close
from transformers import PretrainedConfig, PreTrainedModel

from mimo_hf.hub import kernels

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.parent.name for path in ROOT.glob("kernels/*/build.toml"))
EVERY = pytest.mark.parametrize("name", NAMES)

ALONE = """
import importlib.abc, json, os, sys
from pathlib import Path

class NoTriton(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "triton":
            raise ModuleNotFoundError("No module named 'triton'", name="triton")

if sys.argv[2] == "without triton":
    sys.meta_path.insert(0, NoTriton())
from kernels import get_local_kernel
kernel = get_local_kernel(Path(sys.argv[1]), backend="cpu")
print(json.dumps({"all": kernel.__all__, "has": [hasattr(kernel, name) for name in kernel.__all__],
                  "ours": [name for name in sys.modules if name.startswith("mimo_hf")]}))
"""


@EVERY
@pytest.mark.parametrize("triton", ["with triton", "without triton"])
def test_a_process_of_its_own_needs_nothing_of_ours(name, triton, tmp_path):
    repository = kernels.find(name)
    kernels.build(repository)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", ALONE, repository.root, triton]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["all"]
    assert all(found["has"])
    assert found["ours"] == []


@EVERY
def test_the_kernels_library_reads_build_toml(name):
    assert {str(backend) for backend in Build.open(ROOT / "kernels" / name).general.backends} >= {"cpu", "cuda"}


@EVERY
def test_the_readme_names_every_public_function(name):
    readme = (ROOT / "kernels" / name / "README.md").read_text()
    public = set(kernels.load(name).__all__) - {"layers"}
    assert {function for function in public if re.search(rf"\b{function}\b", readme)} == public


@pytest.mark.parametrize(
    ("name", "function", "options"),
    [
        ("sink-swa-attn", "sink_swa_attention", {}),
        ("hysparse-attn", "full_attention_with_block_scores", {"block_size": 16, "topk": 1}),
        ("sale-attn", "attend_blocks", {"kept": torch.ones(1, 2, 1, 1, dtype=torch.uint8)}),
    ],
)
def test_without_triton_the_kernel_asked_for_names_the_remedy(module_of, monkeypatch, name, function, options):
    module = module_of(name)
    for known in list(sys.modules):
        inside = known.removeprefix(module.__name__).removeprefix("._shared")
        if inside.startswith(("triton.", ".triton_")) or known == "triton":
            monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, "triton", None)
    x = torch.ones(1, 2, 3, 64)
    with pytest.raises(ImportError, match=r"needs Triton \(pip install triton\): .*backend=\"reference\""):
        getattr(module, function)(x, x, x, **options, backend="triton")


# kernelize


@use_kernel_forward_from_hub("SinkAttention")
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.sinks = nn.Parameter(torch.tensor([0.5, -1.0]))
        self.sliding_window, self.scaling = 4, 0.2

    def forward(self, query, key, value, kv_start=None):
        raise NotImplementedError("not replaced")


@pytest.mark.parametrize("mode", [Mode.INFERENCE, Mode.TRAINING])
def test_kernelize_replaces_the_forward_of_a_layer(mode):
    repository = kernels.find("sink-swa-attn")
    kernel = kernels.load("sink-swa-attn")
    layer = LocalLayerRepository(repository.root, layer_name="SinkSlidingWindowAttention")
    model = Attention()
    with use_kernel_mapping({"SinkAttention": {"cpu": layer}}, inherit_mapping=False):
        kernelize(model, mode=mode, device="cpu")
    assert model.forward.__func__.__module__ == f"{kernel.__name__}.layers"
    query, key, value = (torch.randn(1, heads, 9, 8, requires_grad=True) for heads in (2, 1, 1))
    output = model(query, key, value)
    assert_close(output, kernel.sink_swa_attention(query, key, value, model.sinks, 4, 0.2))
    output.square().sum().backward()
    assert model.sinks.grad.abs().min() > 0


@use_kernel_forward_from_hub("HySparseFullAttention")
class FullAttention(nn.Module):
    scaling, block_size, topk_blocks, forced_local_blocks, forced_initial_blocks = 0.2, 4, 3, 1, 0

    def forward(self, query, key, value, kv_start, q_offset, need_selection):
        raise NotImplementedError("not replaced")


@use_kernel_forward_from_hub("HySparseSparseAttention")
class SparseAttention(nn.Module):
    scaling, block_size = 0.2, 4

    def forward(self, query, key, value, block_indices, sinks, kv_start, q_offset):
        raise NotImplementedError("not replaced")


class Hybrid(PreTrainedModel):
    config_class = PretrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.full, self.sparse = FullAttention(), SparseAttention()
        self.sinks = nn.Parameter(torch.zeros(4))

    def forward(self, query, key, value, kv_start, q_offset):
        out, idx = self.full(query, key, value, kv_start, q_offset, True)
        return out + self.sparse(query, key, value, idx, self.sinks, kv_start, q_offset), idx


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("way", ["kernelize", "transformers"])
def test_registered_layers_replace_those_of_a_model(way, training):
    kernel = kernels.load("hysparse-attn")
    model = Hybrid(PretrainedConfig()).train(training)
    with use_kernel_mapping({}, inherit_mapping=False):
        names = kernels.register_layers("hysparse-attn")
        if way == "kernelize":
            mode = Mode.TRAINING if training else Mode.INFERENCE
            kernelize(model, mode=mode, device="cpu", use_fallback=False)
        else:
            model.set_use_kernels(True)
    assert names == ["HySparseFullAttention", "HySparseSparseAttention"]
    query, key, value = (torch.randn(2, heads, 30, 8, requires_grad=True) for heads in (4, 2, 2))
    place = {"kv_start": torch.tensor([0, 5]), "q_offset": 10}
    output, idx = model(query[:, :, :15], key, value, **place)
    place |= {"scale": 0.2, "block_size": 4}
    full, _, expected_idx = kernel.full_attention_with_block_scores(
        query[:, :, :15], key, value, topk=3, forced_local_blocks=1, **place
    )
    sparse = kernel.block_sparse_attention(query[:, :, :15], key, value, idx, sinks=model.sinks, **place)
    assert torch.equal(idx, expected_idx)
    assert_close(output, full + sparse)
    output.square().sum().backward()
    assert all(x.grad.isfinite().all() for x in (query, key, value))
    assert model.sinks.grad.abs().min() > 0
    assert model.full(query, key, value, None, None, False)[1] is None
