"""A tiny speech-text model with weights that hide nothing, and what it should compute, written in float64 loops."""

import json
import math

import numpy as np
import pytest
import torch
from transformers import Qwen2Tokenizer

from mimo_hf.modeling.mimo_audio import (
    MiMoAudioFeatureExtractor,
    MiMoAudioProcessor,
    MiMoAudioTokenizerConfig,
    MiMoAudioTokenizerModel,
)
from mimo_hf.modeling.mimo_audio.configuration_mimo_audio import MiMoAudioConfig
from mimo_hf.modeling.mimo_audio.modeling_mimo_audio import MiMoAudioForConditionalGeneration

TINY = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "speech_vocab_size": "7-7-5",
    "speech_zeroemb_idx": "6-6-4",
    "delay_pattern": "0-2-1",
    "group_size": 2,
    "audio_channels": 3,
    "local_dim": 16,
    "local_layers": 2,
    "local_attn_heads": 2,
    "local_ffn_dim": 20,
    "local_attn_dropout": 0.0,
    "input_local_layers": 2,
    "audio_loss_weights": [12.0, 8.0, 6.0],
    "sosp_token_id": 30,
    "eosp_token_id": 31,
    "empty_token_id": 32,
    "sostm_token_id": 33,
    "eostm_token_id": 34,
    "eot_token_id": 35,
    "im_end_token_id": 36,
    "eos_token_id": 37,
}


def make_speech_config(**changes) -> MiMoAudioConfig:
    return MiMoAudioConfig(**(TINY | changes))


class Oracle:
    """MiMo-Audio as section 2.2 of arXiv 2512.23808 has it: one row at a time, no cache, no batch."""

    def __init__(self, model):
        self.c = model.config
        self.w = {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}
        self.delays, self.zeros = self.c.delays, self.c.speech_zero_ids

    def norm(self, x, name):
        return x / math.sqrt(float(np.mean(x * x)) + self.c.rms_norm_eps) * self.w[f"{name}.weight"]

    def rotate(self, x, position):
        half = len(x) // 2
        out = np.empty_like(x)
        for i in range(half):
            angle = position * self.c.rope_parameters["rope_theta"] ** (-2 * i / len(x))
            out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
            out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
        return out

    def transformer(self, prefix, xs, heads, kv_heads, causal=True):
        """Layers and final norm over one sequence, `[places][width]`."""
        depth = len(
            {name.split(".layers.")[1].split(".")[0] for name in self.w if name.startswith(f"{prefix}.layers.")}
        )
        for layer in range(depth):
            at = f"{prefix}.layers.{layer}"
            queries, keys, values = [], [], []
            for position, x in enumerate(xs):
                n = self.norm(x, f"{at}.input_layernorm")
                q, k, v = (
                    self.w[f"{at}.self_attn.{p}_proj.weight"] @ n + self.w[f"{at}.self_attn.{p}_proj.bias"]
                    for p in "qkv"
                )
                queries.append([self.rotate(head, position) for head in q.reshape(heads, -1)])
                keys.append([self.rotate(head, position) for head in k.reshape(kv_heads, -1)])
                values.append(v.reshape(kv_heads, -1))
            new = []
            for i, x in enumerate(xs):
                attended = []
                for head in range(heads):
                    kv = head * kv_heads // heads
                    seen = range(i + 1) if causal else range(len(xs))
                    scores = np.array([queries[i][head] @ keys[j][kv] / math.sqrt(len(keys[j][kv])) for j in seen])
                    weights = np.exp(scores - scores.max())
                    weights /= weights.sum()
                    attended.append(sum(a * values[j][kv] for a, j in zip(weights, seen, strict=True)))
                y = x + self.w[f"{at}.self_attn.o_proj.weight"] @ np.concatenate(attended)
                n = self.norm(y, f"{at}.post_attention_layernorm")
                gate = self.w[f"{at}.mlp.gate_proj.weight"] @ n
                up = self.w[f"{at}.mlp.up_proj.weight"] @ n
                new.append(y + self.w[f"{at}.mlp.down_proj.weight"] @ (gate / (1 + np.exp(-gate)) * up))
            xs = new
        return [self.norm(x, f"{prefix}.norm") for x in xs]

    def embedding(self, channel, code):
        table = self.w[f"speech_embeddings.{channel}.weight"]
        return table[code] * (code != self.zeros[channel])

    def encode_patch(self, codes):
        frames = [sum(self.embedding(c, int(codes[g][c])) for c in range(len(self.zeros))) for g in range(len(codes))]
        heads, causal = self.c.local_attn_heads, not self.c.input_full_attention
        states = self.transformer("input_local_transformer", frames, heads, heads, causal)
        return self.w["speech_group_downcast.weight"] @ np.concatenate(states)

    def hidden(self, ids, codes):
        """`[T, hidden]`."""
        xs = [
            self.encode_patch(codes[t])
            if int(token) == self.c.empty_token_id
            else self.w["model.embed_tokens.weight"][int(token)]
            for t, token in enumerate(ids)
        ]
        return np.array(self.transformer("model", xs, self.c.num_attention_heads, self.c.num_key_value_heads))

    def text_logits(self, ids, codes):
        return self.hidden(ids, codes) @ self.w["lm_head.weight"].T

    def patch_states(self, ids, codes):
        return self.hidden(ids, codes) @ self.w["hidden_states_downcast.weight"].T

    def write_patch(self, state, choose):
        """
        Args:
            choose: (frame, channel, logits) to a code.
        """
        group, heads = self.c.group_size, self.c.local_attn_heads
        codes = [[None] * len(self.zeros) for _ in range(group)]
        inputs = [state]
        for step in range(group + max(self.delays)):
            y = self.transformer("local_transformer", inputs, heads, heads)[-1]
            total = np.zeros(self.c.input_local_dim)
            for channel, delay in enumerate(self.delays):
                frame = step - delay
                if 0 <= frame < group:
                    logits = self.w[f"local_transformer_lm_heads.{channel}.weight"] @ y
                    codes[frame][channel] = int(choose(frame, channel, logits))
                    total = total + self.embedding(channel, codes[frame][channel])
            if "speech_embeddings_to_local.weight" in self.w:
                total = self.w["speech_embeddings_to_local.weight"] @ total
            inputs.append(total)
        return codes

    def likeliest(self, frame, channel, logits):
        return np.argmax(logits[: self.zeros[channel]])

    def patch_logits(self, state, codes):
        """Teacher-forced: of each (frame, channel) its logits."""
        seen = {}

        def choose(frame, channel, logits):
            seen[frame, channel] = logits
            return codes[frame][channel]

        self.write_patch(state, choose)
        return seen

    def generate(self, ids, codes, max_new_tokens, stops=()):
        """Greedy: the new ids, and of each its patch or None."""
        ids, codes, written = list(map(int, ids)), [*codes], []
        for _ in range(max_new_tokens):
            token = int(np.argmax(self.text_logits(ids, codes)[-1]))
            patch = None
            if token == self.c.empty_token_id:
                patch = self.write_patch(self.patch_states(ids, codes)[-1], self.likeliest)
            written.append((token, patch))
            if token in stops:
                break
            ids.append(token)
            codes.append(patch)
        return written


@pytest.fixture(scope="session")
def speech_config():
    return make_speech_config


@pytest.fixture(scope="session")
def speech_lm(randomised):
    """`speech_lm(attention="sdpa", seed=0, **config)`: a model in eval mode. `<|empty|>` and `<|im_end|>` are likelier than others."""

    def make(attention="sdpa", seed=0, **changes) -> MiMoAudioForConditionalGeneration:
        config = make_speech_config(**changes)
        model = MiMoAudioForConditionalGeneration._from_config(config, attn_implementation=attention)
        randomised(model, seed)
        with torch.no_grad():
            model.lm_head.weight[config.empty_token_id] *= 2.5
            model.lm_head.weight[config.im_end_token_id] *= 1.5
        return model.eval()

    return make


@pytest.fixture(scope="session")
def speech_oracle():
    return Oracle


@pytest.fixture(scope="session")
def speech_rows():
    """`speech_rows(config, batch, length, seed=0)`: text ids, a third of them `<|empty|>`, and codes everywhere."""

    def draw(config, batch, length, seed=0):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, 30, (batch, length), generator=generator)
        ids[torch.rand(batch, length, generator=generator) < 0.35] = config.empty_token_id
        shape = (batch, length, config.group_size)
        codes = [torch.randint(0, zero, shape, generator=generator) for zero in config.speech_zero_ids]
        return ids, torch.stack(codes, dim=-1)

    return draw


def printable_bytes() -> list[str]:
    """The character by which a byte-level tokenizer writes each byte: itself where it prints, else one from 256 on."""
    own = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in own else chr(next(others)) for byte in range(256)]


@pytest.fixture(scope="session")
def byte_tokenizer():
    """`byte_tokenizer(*more)`: one id a byte, its value; then ChatML's tokens from 256 on, then `more`."""

    def make(*more):
        vocabulary = [*printable_bytes(), "<|endoftext|>", "<|im_start|>", "<|im_end|>", *more]
        tokenizer = Qwen2Tokenizer(
            vocab={token: number for number, token in enumerate(vocabulary)}, merges=[], pad_token="<|endoftext|>"
        )
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *more]})
        return tokenizer

    return make


@pytest.fixture(scope="session")
def speech_codec(randomised):
    """A codec of four codebooks, of which `speech_processor` uses three: 6, 6 and 4 entries."""
    sizes = {
        f"{part}_{name}": size
        for part in ("encoder", "decoder")
        for name, size in {"layers": 2, "attention_heads": 2, "ffn_dim": 48}.items()
    }
    config = MiMoAudioTokenizerConfig(
        d_model=32, encoder_skip_layer_id=1, vocoder_dim=16, vocoder_num_layers=1, vocoder_attention_heads=2,
        vocoder_intermediate_dim=24, num_quantizers=4, codebook_size=[6, 6, 4, 4], n_mels=16, **sizes
    )  # fmt: skip
    torch.manual_seed(5)
    return MiMoAudioTokenizerModel(config).eval()


PROCESSOR = {"group_size": 2, "audio_channels": 3, "speech_vocab_size": "7-7-5", "max_length": 2000}


@pytest.fixture
def speech_processor(byte_tokenizer, speech_codec):
    """`speech_processor(codec=True, **changes)`: three channels, two frames a patch, a token a byte."""

    def make(codec=True, **changes):
        return MiMoAudioProcessor(
            MiMoAudioFeatureExtractor(feature_size=16),
            byte_tokenizer(),
            speech_codec if codec else None,
            **(PROCESSOR | changes),
        )

    return make


@pytest.fixture
def official(speech_lm, speech_codec, byte_tokenizer, tmp_path):
    """Folders of a language model in shards and of its codec, and the model. Token ids are the tokenizer's, not those in the file."""
    tokenizer = byte_tokenizer(
        "<|sosp|>", "<|eosp|>", "<|empty|>", "<|Human|>", "<|SpeechLM|>", "<|sostm|>", "<|eostm|>", "<|eot|>"
    )
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name.removesuffix('_token_id')}|>")
        for name in ("sosp_token_id", "eosp_token_id", "empty_token_id", "sostm_token_id", "eostm_token_id")
    }
    ids |= {"eot_token_id": tokenizer.convert_tokens_to_ids("<|eot|>")}
    ids |= {"im_end_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"), "eos_token_id": 256}
    model = speech_lm(vocab_size=len(tokenizer), **ids)
    folder = tmp_path / "lm"
    model.save_pretrained(folder, max_shard_size="20KB")
    config = json.loads((folder / "config.json").read_text())
    for name in [*ids, "dtype", "transformers_version", "audio_loss_weights"]:
        config.pop(name, None)
    config |= {
        "model_type": "qwen2",
        "architectures": ["MiMoAudioModel"],
        "torch_dtype": "float32",
        "audio_loss_weights": [1, 1, 1],
    }
    config["empty_token_id"] = ids["sosp_token_id"]  # another tokenizer's: the one in the folder is right
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    tokenizer.save_pretrained(folder)
    speech_codec.save_pretrained(tmp_path / "codec")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder, tmp_path / "codec", model
