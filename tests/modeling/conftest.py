"""Tiny MiMo-V2-Flash models with weights that hide nothing, and what their MTP heads should compute, written in loops."""

import importlib.util
import json
import math
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import MiMoV2FlashConfig as UpstreamConfig, PreTrainedTokenizerFast
from transformers.generation.streamers import BaseStreamer
from transformers.models.mimo_v2_flash.modeling_mimo_v2_flash import MiMoV2FlashForCausalLM as UpstreamModel

from mimo_hf import MiMoConfig, MiMoForCausalLM, MiMoV2FlashConfig, MiMoV2FlashForCausalLM

# 24 * 0.334 gives 8 rotary dimensions; sliding layers have 2 key-value heads, global ones have 1.
TINY = {
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 4,
    "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "mlp_layer_types": ["dense", "sparse", "dense", "sparse"],
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 24,
    "v_head_dim": 8,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "sliding_window": 5,
    "max_position_embeddings": 512,
    "num_mtp_layers": 3,
    "bos_token_id": None,
}

TINY_MIMO = {
    "vocab_size": 29,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "num_nextn_predict_layers": 3,
    "bos_token_id": None,
    "eos_token_id": None,
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """At these sizes a second thread costs more than it computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_config(**changes) -> MiMoV2FlashConfig:
    return MiMoV2FlashConfig(**(TINY | changes))


@torch.no_grad()
def randomise(model, seed=0):
    """
    Every parameter gets a value that matters: ones in norms and zeros in sinks and biases would hide errors. Names and
    shapes decide, so that a model with more heads has the same trunk.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("sinks") or "embed_tokens" in name:
            tensor.copy_(noise)
        elif name.endswith("e_score_correction_bias"):
            tensor.copy_(0.1 * noise)
        elif tensor.dim() > 1:
            tensor.copy_(tensor.shape[-1] ** -0.5 * noise)
        elif name.endswith("norm.weight"):
            tensor.copy_(1 + 0.3 * noise)
        elif name.endswith("proj.bias"):
            tensor.copy_(0.3 * noise)
        else:
            assert "inv_freq" in name, name
    return model


def make_model(attention="mimo_sink", seed=0, **changes) -> MiMoV2FlashForCausalLM:
    model = MiMoV2FlashForCausalLM._from_config(make_config(**changes), attn_implementation=attention)
    return randomise(model, seed).eval()


@torch.no_grad()
def make_follower(noise=1.0, **changes) -> MiMoV2FlashForCausalLM:
    """
    A model that mostly continues t with t + 2 modulo the vocabulary, and whose heads mostly expect it to.

    The rule lives in the embeddings, `eh_proj` and the LM head. `noise` scales all else: with 0 every draft is right,
    with 1 drafts are accepted often, but neither always nor never.
    """
    shallow = {
        "num_hidden_layers": 2,
        "layer_types": ["full_attention", "sliding_attention"],
        "mlp_layer_types": ["dense", "sparse"],
        "hidden_size": 32,
    }
    model = make_model(**(shallow | changes))
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj", "eh_proj.weight")):
            parameter.mul_(noise)
    embeddings = model.get_input_embeddings().weight
    embeddings.copy_(3 * torch.eye(32)[: len(embeddings)])
    model.lm_head.weight.copy_(0.6 * embeddings.roll(2, dims=0))
    for head in model.mtp_heads:
        head.eh_proj.weight[:, :32] += torch.eye(32)
    return model


def make_mimo(attention="sdpa", seed=0, **changes) -> MiMoForCausalLM:
    model = MiMoForCausalLM._from_config(MiMoConfig(**(TINY_MIMO | changes)), attn_implementation=attention)
    return randomise(model, seed).eval()


@torch.no_grad()
def make_mimo_follower(noise=1.0, **changes) -> MiMoForCausalLM:
    """As `make_follower`: t is mostly continued with t + 2, and the heads mostly expect it."""
    model = make_mimo(**({"num_hidden_layers": 2, "hidden_size": 32, "mtp_zero_first_embedding": False} | changes))
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "input_proj.weight")):
            parameter.mul_(noise)
    embeddings = model.get_input_embeddings().weight
    embeddings.copy_(3 * torch.eye(32)[: len(embeddings)])
    model.lm_head.weight.copy_(0.6 * embeddings.roll(2, dims=0))
    for head in model.mtp_heads:
        head.input_proj.weight[:, 32:] += torch.eye(32)
    return model


class Chunks(BaseStreamer):
    """Collects what a streamer is given: the prompt, then the tokens of each round."""

    def __init__(self):
        self.chunks = []
        self.ended = 0

    def put(self, value):
        self.chunks.append(value.reshape(-1).tolist())

    def end(self):
        self.ended += 1


def make_upstream(model: MiMoV2FlashForCausalLM) -> UpstreamModel:
    """transformers' own model, eager attention, with copies of the trunk's weights."""
    fields = {name: getattr(model.config, name) for name in UpstreamConfig.__dataclass_fields__ if name in TINY}
    fields |= {"rope_parameters": model.config.rope_parameters, "rms_norm_eps": model.config.rms_norm_eps}
    fields |= {"attention_value_scale": model.config.attention_value_scale}
    upstream = UpstreamModel._from_config(UpstreamConfig(**fields), attn_implementation="eager")
    trunk = {name: tensor for name, tensor in model.state_dict().items() if ".mtp." not in name}
    upstream.load_state_dict(trunk, strict=True)
    return upstream.to(model.dtype).eval()


def upstream_states(model, input_ids, attention_mask=None, position_ids=None) -> torch.Tensor:
    """What the last layer of transformers' own model puts out, before the final norm, `[batch, length, hidden]`."""
    upstream = make_upstream(model)
    states = []
    upstream.model.layers[-1].register_forward_hook(lambda module, args, output: states.append(output))
    with torch.no_grad():
        upstream(input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False)
    return states[0]


def _rms_norm(x, gain, epsilon):
    return x / math.sqrt(np.mean(x * x) + epsilon) * gain


def _rotate(x, position, rotary_dims, theta):
    """Half-split rotary embedding of the first `rotary_dims` channels of one head."""
    out = x.copy()
    half = rotary_dims // 2
    for m in range(half):
        angle = position * theta ** (-2 * m / rotary_dims)
        a, b = x[m], x[m + half]
        out[m] = a * math.cos(angle) - b * math.sin(angle)
        out[m + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


class HeadOracle:
    """
    MTP head k of one sequence by the equations of arXiv 2601.02780, section 2, in float64 loops over rows, heads and keys.

    Args:
        tokens: the sequence, t_0..t_n.
        states: h_0.., the trunk's last-layer outputs, `[rows, hidden]`.
        first_row: rows before it are padding.
        window, theta, value_scale, sinks, hidden_first: what to compute instead of what the paper says.
    """

    def __init__(self, model, k, tokens, states, first_row=0, **deviations):
        prefix = f"model.mtp.layers.{k}."
        state = model.state_dict()
        self.w = {n.removeprefix(prefix): t.double().numpy() for n, t in state.items() if n.startswith(prefix)}
        self.embedding = state["model.embed_tokens.weight"].double().numpy()
        self.lm_head = state["lm_head.weight"].double().numpy()
        self.k, self.first_row, self.config = k, first_row, model.config
        self.tokens = [int(token) for token in tokens]
        self.states = states.double().numpy()
        rope = model.config.rope_parameters["sliding_attention"]
        self.theta = deviations.pop("theta", rope["rope_theta"])
        self.rotary_dims = int(model.config.head_dim * rope["partial_rotary_factor"])
        self.window = deviations.pop("window", model.config.sliding_window)
        self.value_scale = deviations.pop("value_scale", model.config.attention_value_scale)
        self.sinks = deviations.pop("sinks", self.w["self_attn.sinks"])
        self.hidden_first = deviations.pop("hidden_first", False)
        assert not deviations
        self.num_rows = max(min(len(self.tokens) - 1 - k, len(self.states)), 0)
        self._rows()

    def _norm(self, x, name):
        return _rms_norm(x, self.w[f"{name}.weight"], self.config.rms_norm_eps)

    def _rows(self):
        c, w = self.config, self.w
        kv_heads = 2 * c.num_key_value_heads
        self.u, self.queries, self.keys, self.values = [], [], [], []
        for i in range(self.num_rows):
            pair = [
                self._norm(self.embedding[self.tokens[i + 1 + self.k]], "enorm"),
                self._norm(self.states[i], "hnorm"),
            ]
            u = w["eh_proj.weight"] @ np.concatenate(pair[::-1] if self.hidden_first else pair)
            x = self._norm(u, "input_layernorm")
            queries = (w["self_attn.q_proj.weight"] @ x).reshape(c.num_attention_heads, c.head_dim)
            keys = (w["self_attn.k_proj.weight"] @ x).reshape(kv_heads, c.head_dim)
            values = (w["self_attn.v_proj.weight"] @ x).reshape(kv_heads, c.v_head_dim)
            self.u.append(u)
            self.queries.append([_rotate(q, i, self.rotary_dims, self.theta) for q in queries])
            self.keys.append([_rotate(key, i, self.rotary_dims, self.theta) for key in keys])
            self.values.append(values * self.value_scale)

    def output(self, i):
        """What head k puts out at row i before its final norm."""
        c, w = self.config, self.w
        queries_per_key = c.num_attention_heads // (2 * c.num_key_value_heads)
        attended = []
        for head in range(c.num_attention_heads):
            kv = head // queries_per_key
            seen = range(max(self.first_row, i - self.window + 1), i + 1)
            scores = [self.queries[i][head] @ self.keys[j][kv] * c.head_dim**-0.5 for j in seen]
            total = sum(math.exp(score) for score in scores)
            if self.sinks is not None:
                total += math.exp(self.sinks[head])
            attended.append(sum(math.exp(s) / total * self.values[j][kv] for s, j in zip(scores, seen, strict=True)))
        x = self.u[i] + w["self_attn.o_proj.weight"] @ np.concatenate(attended)
        y = self._norm(x, "pre_mlp_layernorm")
        gate = w["mlp.gate_proj.weight"] @ y
        return x + w["mlp.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * (w["mlp.up_proj.weight"] @ y))

    def logits(self, i):
        return self.lm_head @ self._norm(self.output(i), "final_layernorm")

    def all_logits(self):
        """`[rows, vocab]`, rows of padding left out."""
        return torch.tensor(np.array([self.logits(i) for i in range(self.first_row, self.num_rows)]))

    def all_outputs(self):
        """`[rows, hidden]`, the states that a wrongly chained head k+1 would read."""
        return torch.tensor(np.array([self.output(i) for i in range(self.num_rows)]))


class MiMoHeadOracle:
    """
    MTP layer k of MiMo-7B for one sequence (arXiv 2505.07608, section 2.2), in float64 loops over rows, heads and keys.

    Args:
        tokens: the sequence, t_0..t_n.
        states: h_0.., what the layer reads, `[rows, hidden]`.
        zero_first: no token embedding in row 0.
        embedding_first, shift: what to compute instead.
    """

    def __init__(self, model, k, tokens, states, zero_first=True, embedding_first=False, shift=1):
        prefix = f"model.mtp_layers.{k}."
        state = model.state_dict()
        w = {n.removeprefix(prefix): t.double().numpy() for n, t in state.items() if n.startswith(prefix)}
        c, epsilon = model.config, model.config.rms_norm_eps
        embedding = state["model.embed_tokens.weight"].double().numpy()
        theta = c.rope_parameters["rope_theta"]
        num_rows = len(tokens) - 1 - k
        self.u, self.keys, self.values, queries = [], [], [], []
        for i in range(num_rows):
            e = embedding[int(tokens[i + shift + k])] * (0.0 if zero_first and i == 0 else 1.0)
            pair = [
                _rms_norm(states[i].double().numpy(), w["hidden_layernorm.weight"], epsilon),
                _rms_norm(e, w["token_layernorm.weight"], epsilon),
            ]
            u = w["input_proj.weight"] @ np.concatenate(pair[::-1] if embedding_first else pair)
            x = _rms_norm(u, w["input_layernorm.weight"], epsilon)

            def project(name, number, x=x):
                vectors = w[f"self_attn.{name}_proj.weight"] @ x + w[f"self_attn.{name}_proj.bias"]
                return vectors.reshape(number, c.head_dim)

            self.u.append(u)
            queries.append([_rotate(q, i, c.head_dim, theta) for q in project("q", c.num_attention_heads)])
            self.keys.append([_rotate(key, i, c.head_dim, theta) for key in project("k", c.num_key_value_heads)])
            self.values.append(project("v", c.num_key_value_heads))
        logits = []
        for i in range(num_rows):
            attended = []
            for head in range(c.num_attention_heads):
                kv = head * c.num_key_value_heads // c.num_attention_heads
                weights = np.array(
                    [math.exp(queries[i][head] @ self.keys[j][kv] / math.sqrt(c.head_dim)) for j in range(i + 1)]
                )
                attended.append(sum(a * self.values[j][kv] for j, a in enumerate(weights / weights.sum())))
            x = self.u[i] + w["self_attn.o_proj.weight"] @ np.concatenate(attended)
            y = _rms_norm(x, w["post_attention_layernorm.weight"], epsilon)
            gate = w["mlp.gate_proj.weight"] @ y
            z = x + w["mlp.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * (w["mlp.up_proj.weight"] @ y))
            logits.append(
                state["lm_head.weight"].double().numpy() @ _rms_norm(z, w["final_layernorm.weight"], epsilon)
            )
        self.logits = torch.tensor(np.array(logits))


@pytest.fixture(scope="session")
def mimo_model():
    return make_mimo


@pytest.fixture(scope="session")
def mimo_follower():
    return make_mimo_follower


@pytest.fixture(scope="session")
def mimo_oracle():
    return MiMoHeadOracle


@pytest.fixture(scope="session")
def tiny_config():
    return make_config


@pytest.fixture(scope="session")
def tiny_model():
    return make_model


@pytest.fixture(scope="session")
def follower_model():
    return make_follower


@pytest.fixture(scope="session")
def chunks():
    return Chunks


@pytest.fixture(scope="session")
def randomised():
    return randomise


@pytest.fixture(scope="session")
def upstream_of():
    return make_upstream


@pytest.fixture(scope="session")
def states_of():
    return upstream_states


@pytest.fixture(scope="session")
def head_oracle():
    return HeadOracle


@pytest.fixture(scope="session")
def tokens():
    """`tokens(batch, length, seed=0, vocab=29)`: random token ids."""

    def draw(batch, length, seed=0, vocab=TINY["vocab_size"]):
        return torch.randint(vocab, (batch, length), generator=torch.Generator().manual_seed(seed))

    return draw


@pytest.fixture
def trainer_parts(tmp_path, tokens):
    """Arguments, data and a tokenizer for two steps of two micro-batches of two texts."""
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"input_ids": row.tolist()} for row in tokens(8, 12)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({f"<{token}>": token for token in range(29)}, unk_token="<1>")),
        pad_token="<0>",
        eos_token="<2>",
    )
    arguments = {
        "output_dir": str(tmp_path),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
    }
    return arguments, data, tokenizer


PARALLEL = Path(__file__).with_name("_parallel.py")


@pytest.fixture(scope="session")
def parallel_runs(tmp_path_factory):
    """A function: saves models, runs cases of them on two processes, and returns for a name what one process sees and what both do."""
    spec = importlib.util.spec_from_file_location("parallel_worker", PARALLEL)
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)

    def runs(models, cases):
        folder = tmp_path_factory.mktemp("parallel")
        ids = torch.randint(1, 28, (2, 30), generator=torch.Generator().manual_seed(3))
        mask = torch.ones_like(ids)
        mask[1, :7] = 0
        inputs = (ids, ids * mask, mask)
        torch.save(inputs, folder / "inputs.pt")
        (folder / "cases.json").write_text(json.dumps(cases))
        for name, model in models.items():
            model.save_pretrained(folder / name)
        subprocess.run([sys.executable, PARALLEL, folder], check=True, timeout=300)

        def outcomes(name):
            case = cases[name]
            both = [torch.load(folder / f"{name}-{rank}.pt") for rank in range(2)]
            if "error" in both[0]:
                return None, both
            model = type(models[case["model"]]).from_pretrained(folder / case["model"], **case.get("load", {}))
            return worker.outcome(model.eval(), inputs, case.get("generate")), both

        return folder, outcomes

    return runs


@pytest.fixture(scope="session")
def assert_as_one_process():
    """A function: two processes saw what one does."""

    def check(alone, both):
        for rank, seen in enumerate(both):
            close = {"atol": 1e-5, "rtol": 1e-5}
            torch.testing.assert_close(seen["logits"], alone["logits"], **close)
            torch.testing.assert_close(seen["losses"], alone["losses"], **close)
            torch.testing.assert_close(seen["gradients"], alone["gradients"], **close)
            assert torch.equal(seen["tokens"], alone["tokens"])
            for layer, blocks in alone["selection"].items():
                whole = blocks.shape[1] == seen["selection"][layer].shape[1]
                assert torch.equal(seen["selection"][layer], blocks if whole else blocks.chunk(2, dim=1)[rank])

    return check


def without_rule(model):
    """The generic names of the parameters that no rule of the tensor-parallel plan splits."""
    rules = set(model.tp_plan)
    names = {re.sub(r"\.\d+\.", ".*.", name) for name, _ in model.named_parameters()}
    return {name for name in names if name not in rules and name.rpartition(".")[0] not in rules}


@pytest.fixture(scope="session")
def parameters_without_rule():
    return without_rule
