"""Small HySparse models, and what their logits must be: loops over tokens, heads and blocks in numpy, float64."""

import numpy as np
import pytest
import torch

from mimo_hf import HySparseConfig, HySparseForCausalLM

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "v_head_dim": 6,
    "sliding_window": 5,
    "sparse_block_size": 4,
    "sparse_topk_tokens": 12,
    "sparse_layers_per_full": 2,
    "max_position_embeddings": 512,
}


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rotate(x, position, theta):
    """`[width]` at one position, the halves paired."""
    half = len(x) // 2
    angle = position * theta ** (-np.arange(0, len(x), 2) / len(x))
    first, second = x[:half], x[half:]
    return np.concatenate(
        [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)]
    )


def attend(query, keys, values, scaling, sink=None):
    """One query over a list of keys; zeros over none."""
    if len(keys) == 0:
        return np.zeros(values.shape[-1])
    logits = keys @ query * scaling
    top = max(logits.max(), sink if sink is not None else -np.inf)
    weights = np.exp(logits - top)
    total = weights.sum() + (np.exp(sink - top) if sink is not None else 0.0)
    return weights @ values / total


def select(query, keys, scaling, block, topk, reduce="max", local=0, initial=0):
    """The blocks of one group of queries `[group, width]` at the last of the keys, best first."""
    scores = []
    for q in query:
        logits = keys @ q * scaling
        lse = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
        blocks = [logits[start : start + block] for start in range(0, len(keys), block)]
        scores.append(
            [
                {
                    "max": b.max() - lse,
                    "sum": np.log(np.exp(b - b.max()).sum()) + b.max() - lse,
                    "logit_max": b.max(),
                }[reduce]
                for b in blocks
            ]
        )
    scores = np.max(scores, axis=0)
    forced = [i for i in range(len(scores)) if i < initial or i >= len(scores) - local]
    others = sorted(set(range(len(scores))) - set(forced), key=lambda i: (-scores[i], i))
    return (forced + others)[:topk]


class Loops:
    """The logits of one row without padding, from a model's configuration and weights."""

    def __init__(self, config, weights):
        self.config = config
        self.weights = {name: np.asarray(tensor, dtype=np.float64) for name, tensor in weights.items()}

    def logits(self, tokens=None, embeddings=None):
        config, weights = self.config, self.weights
        states = weights["model.embed_tokens.weight"][tokens] if embeddings is None else np.asarray(embeddings)
        self.selection = {}
        shared = None
        for i, layer_type in enumerate(config.layer_types):
            prefix = f"model.layers.{i}."
            normed = rms_norm(states, weights[prefix + "input_layernorm.weight"], config.rms_norm_eps)
            if layer_type == "full_attention":
                attended, shared = self.full_layer(normed, i)
            else:
                attended = self.sparse_layer(normed, i, *shared)
            states = states + attended
            normed = rms_norm(states, weights[prefix + "post_attention_layernorm.weight"], config.rms_norm_eps)
            gate, up, down = (weights[f"{prefix}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
            hidden = normed @ gate.T
            states = states + (hidden / (1 + np.exp(-hidden)) * (normed @ up.T)) @ down.T
        normed = rms_norm(states, weights["model.norm.weight"], config.rms_norm_eps)
        return normed @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).T

    def heads(self, x, i, name, width, rope=None):
        """`[tokens, heads, width]`, rotated where `rope` says."""
        prefix = f"model.layers.{i}.self_attn.{name[0]}_"
        x = x @ self.weights[prefix + "proj.weight"].T + self.weights.get(prefix + "proj.bias", 0.0)
        x = x.reshape(len(x), -1, width)
        if self.config.qk_norm and name != "v":
            x = rms_norm(x, self.weights[prefix + "norm.weight"], self.config.rms_norm_eps)
        if rope is None:
            return x
        return np.array([[rotate(head, t, rope["rope_theta"]) for head in token] for t, token in enumerate(x)])

    def full_layer(self, x, i):
        config = self.config
        d, scaling = config.head_dim, config.head_dim**-0.5
        rope = config.rope_of("full_attention")
        q, k, v = (
            self.heads(x, i, "q", d, rope),
            self.heads(x, i, "k", d, rope),
            self.heads(x, i, "v", config.v_head_dim),
        )
        group = q.shape[1] // k.shape[1]
        out = np.zeros((len(x), q.shape[1], config.v_head_dim))
        chosen = []
        for t in range(len(x)):
            for h in range(q.shape[1]):
                out[t, h] = attend(q[t, h], k[: t + 1, h // group], v[: t + 1, h // group], scaling)
            chosen.append(
                [
                    select(
                        q[t, g * group : (g + 1) * group],
                        k[: t + 1, g],
                        scaling,
                        config.sparse_block_size,
                        config.sparse_topk_tokens // config.sparse_block_size,
                        config.oracle_reduce,
                        config.forced_local_blocks,
                        config.forced_initial_blocks,
                    )
                    for g in range(k.shape[1])
                ]
            )
        self.selection[i] = chosen
        return self.project(out, i), (k, v, chosen)

    def sparse_layer(self, x, i, shared_k, shared_v, chosen):
        config, weights = self.config, self.weights
        prefix = f"model.layers.{i}.self_attn."
        d, block, scaling = config.head_dim, config.sparse_block_size, config.head_dim**-0.5
        q = self.heads(x, i, "q", d)
        heads = q.shape[1]
        rope = {name: config.rope_of(name)["rope_theta"] for name in ("full_attention", "sliding_attention")}
        if config.use_swa_branch and config.swa_shares_kv:
            k, v, local_theta = shared_k, shared_v, rope["full_attention"]
        elif config.use_swa_branch:
            k = self.heads(x, i, "k", d, config.rope_of("sliding_attention"))
            v = self.heads(x, i, "v", config.v_head_dim)
            local_theta = rope["sliding_attention"]
        out = np.zeros((len(x), heads, config.v_head_dim))
        for t in range(len(x)):
            for h in range(heads):
                branches = []
                if config.use_sparse_branch:
                    g = h // (heads // shared_k.shape[1])
                    slots = [j for i_ in chosen[t][g] for j in range(i_ * block, min((i_ + 1) * block, t + 1))]
                    sink = weights[prefix + "sparse_sinks"][h] if config.use_sparse_sink else None
                    turned = rotate(q[t, h], t, rope["full_attention"])
                    o = attend(turned, shared_k[slots, g], shared_v[slots, g], scaling, sink)
                    branches.append((o, "sparse_gate"))
                if config.use_swa_branch:
                    g = h // (heads // k.shape[1])
                    first = max(0, t - config.sliding_window + 1)
                    sink = weights[prefix + "swa_sinks"][h] if config.use_swa_sink else None
                    turned = rotate(q[t, h], t, local_theta)
                    o = attend(turned, k[first : t + 1, g], v[first : t + 1, g], scaling, sink)
                    branches.append((o, "swa_gate"))
                if len(branches) == 1:
                    out[t, h] = branches[0][0]
                    continue
                for o, name in branches:
                    gate = weights[f"{prefix}{name}.weight"] @ x[t] + weights.get(f"{prefix}{name}.bias", 0.0)
                    gate = 1 / (1 + np.exp(-gate))
                    out[t, h] += gate.reshape(heads, -1)[h] * o
        return self.project(out, i)

    def project(self, out, i):
        return out.reshape(len(out), -1) @ self.weights[f"model.layers.{i}.self_attn.o_proj.weight"].T


@pytest.fixture(scope="session")
def loops():
    return Loops


@pytest.fixture(scope="session")
def select_by_loops():
    return select


@pytest.fixture(scope="session")
def small_model():
    """A function: random weights, sinks and gates; fields of the configuration by name."""

    def make(seed=0, dtype=torch.float64, **changes):
        torch.manual_seed(seed)
        model = HySparseForCausalLM(HySparseConfig(**(SMALL | changes)))
        for name, parameter in model.named_parameters():
            if name.endswith("_sinks"):
                torch.nn.init.normal_(parameter)
            elif "_gate." in name or "norm" in name or name.endswith("bias"):
                torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
        return model.to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def tokens():
    """A function: random tokens, `[rows, length]`."""

    def draw(rows, length, seed=1):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, SMALL["vocab_size"], (rows, length), generator=generator)

    return draw
