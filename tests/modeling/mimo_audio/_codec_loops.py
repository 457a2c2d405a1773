"""The codec in NumPy float64: one clip, one frame, one head at a time; no batch, no padding, no masks."""

import math

import numpy as np
import torch

from mimo_hf.modeling.mimo_audio import MiMoAudioTokenizerConfig, MiMoAudioTokenizerModel

SMALL = {
    "n_mels": 12,
    "nfft": 64,
    "window_size": 64,
    "hop_length": 16,
    "d_model": 32,
    "encoder_layers": 4,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "encoder_skip_layer_id": 2,
    "decoder_layers": 3,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 48,
    "vocoder_dim": 16,
    "vocoder_num_layers": 2,
    "vocoder_attention_heads": 2,
    "vocoder_intermediate_dim": 24,
    "vocoder_attn_window_size": [5, 2],
    "num_quantizers": 4,
    "codebook_size": [16, 8],
}


def small_codec(seed=0, attn_implementation="sdpa", **changes):
    """Random weights, norms and biases too, large enough that every part of the model can be seen in what comes out."""
    torch.manual_seed(seed)
    config = MiMoAudioTokenizerConfig(**(SMALL | changes))
    model = MiMoAudioTokenizerModel._from_config(config, attn_implementation=attn_implementation)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
        elif "head.out" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.5 * (parameter[0].numel()) ** -0.5)
        else:
            torch.nn.init.normal_(parameter, std=0.3)
    for book in model.encoder.quantizer.codebooks:
        torch.nn.init.normal_(book.embed, std=0.7)
    return model.eval()


def gelu(x):
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


class CodecLoops:
    def __init__(self, model):
        self.config = model.config
        self.weights = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0.0)

    def norm(self, x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        x = centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def convolve(self, x, name, stride, padding):
        """`[frames, channels]`, zeros on both sides."""
        weight, bias = self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias", 0.0)
        size = weight.shape[2]
        x = np.pad(x, ((padding, padding), (0, 0)))
        return np.array(
            [sum(weight[:, :, k] @ x[t + k] for k in range(size)) + bias for t in range(0, len(x) - size + 1, stride)]
        )

    def spread(self, x, name, stride):
        """A transposed convolution, the norm over everything that it makes, then its last frames dropped."""
        weight, bias = self.weights[f"{name}.conv.weight"], self.weights[f"{name}.conv.bias"]
        size = weight.shape[2]
        out = np.tile(bias, ((len(x) - 1) * stride + size, 1))
        for t in range(len(x)):
            for k in range(size):
                out[t * stride + k] += x[t] @ weight[:, :, k]
        out = (out - out.mean()) / np.sqrt(out.var() + 1e-5)
        out = out * self.weights[f"{name}.norm.weight"] + self.weights[f"{name}.norm.bias"]
        return out[: len(x) * stride]

    def rotate(self, x, position):
        half = len(x) // 2
        angle = position * self.config.rope_theta ** (-np.arange(half) / half)
        first, second = x[:half], x[half:]
        return np.concatenate(
            [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)]
        )

    def attend(self, x, name, heads, window):
        left, right = window
        q, k, v = (self.linear(x, f"{name}.{part}_proj").reshape(len(x), heads, -1) for part in "qkv")
        out = np.zeros_like(q)
        for h in range(heads):
            keys = [self.rotate(k[t, h], t) for t in range(len(x))]
            for t in range(len(x)):
                first = 0 if left < 0 else max(0, t - left)
                last = len(x) if right < 0 else min(len(x), t + right + 1)
                query = self.rotate(q[t, h], t)
                weights = np.exp([query @ key / math.sqrt(len(query)) for key in keys[first:last]])
                out[t, h] = weights / weights.sum() @ v[first:last, h]
        return self.linear(out.reshape(len(x), -1), f"{name}.out_proj")

    def layers(self, x, name, count, heads, window, skip=None):
        kept = 0.0
        for i in range(count):
            layer = f"{name}.layers.{i}"
            x = x + self.attend(self.norm(x, f"{layer}.self_attn_layer_norm"), f"{layer}.self_attn", heads, window)
            hidden = gelu(self.linear(self.norm(x, f"{layer}.final_layer_norm"), f"{layer}.fc1"))
            x = x + self.linear(hidden, f"{layer}.fc2")
            if i + 1 == skip:
                kept = x
        return x + kept

    def states(self, mel):
        """`[frames of codes, d_model]` of one clip's log-mel frames."""
        config = self.config
        x = gelu(self.convolve(np.asarray(mel, dtype=np.float64), "encoder.conv1", 1, 1))
        x = gelu(self.convolve(x, "encoder.conv2", config.stride_size, 1))
        window = config.encoder_attn_window_size
        window = (window[0], 0) if config.encoder_causal else window
        x = self.layers(
            x, "encoder", config.encoder_layers, config.encoder_attention_heads, window, config.encoder_skip_layer_id
        )
        x = self.norm(x, "encoder.layer_norm")
        if len(x) % 2:
            x = np.concatenate([x, np.zeros((1, x.shape[1]))])
        x = gelu(self.convolve(x, "encoder.down_sample_layer.0", 2, 0))
        return self.norm(x, "encoder.down_sample_norm")

    def book(self, q):
        return self.weights[f"encoder.quantizer.vq.layers.{q}._codebook.embed"]

    def encode(self, mel, num_quantizers=None):
        """`[quantizers, frames]`."""
        codes = []
        for residual in self.states(mel):
            frame = []
            for q in range(num_quantizers or self.config.num_quantizers):
                distances = [((residual - entry) ** 2).sum() for entry in self.book(q)]
                frame.append(int(np.argmin(distances)))
                residual = residual - self.book(q)[frame[-1]]
            codes.append(frame)
        return np.array(codes).T

    def decode(self, codes):
        """Samples of `[quantizers, frames]`."""
        config = self.config
        x = np.array([sum(self.book(q)[code] for q, code in enumerate(frame)) for frame in np.asarray(codes).T])
        x = self.spread(x, "decoder.dconv1", config.avg_pooler)
        window = config.decoder_attn_window_size
        window = (window[0], 0) if config.decoder_causal else window
        x = self.layers(x, "decoder", config.decoder_layers, config.decoder_attention_heads, window)
        mel = self.spread(self.norm(x, "decoder.layer_norm"), "decoder.dconv2", config.decoder_stride_size)
        x = self.linear(mel, "decoder.vocoder.embeddings")
        x = self.layers(
            x,
            "decoder.vocoder",
            config.vocoder_num_layers,
            config.vocoder_attention_heads,
            config.vocoder_attn_window_size,
        )
        x = self.linear(self.norm(x, "decoder.vocoder.layer_norm"), "decoder.vocoder.head.out")
        n, hop = config.nfft, config.hop_length
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
        audio, weight = (np.zeros((len(x) - 1) * hop + n) for _ in range(2))
        for t, frame in enumerate(x):
            magnitude, phase = np.minimum(np.exp(frame[: n // 2 + 1]), 100.0), frame[n // 2 + 1 :]
            piece = np.fft.irfft(magnitude * np.exp(1j * phase), n) * window
            audio[t * hop : t * hop + n] += piece
            weight[t * hop : t * hop + n] += window**2
        trim = (n - hop) // 2
        return (audio / np.maximum(weight, 1e-11))[trim : trim + len(x) * hop]
