"""Prefill, training and decoding at MiMo-V2-Flash's sliding-window geometry: `mimo-hf kernels bench sink-swa-attn`."""

import torch
from kernels.benchmark import Benchmark

HEADS, KV_HEADS, HEAD_DIM, V_HEAD_DIM, WINDOW = 64, 8, 192, 128, 128


class SinkSWABenchmark(Benchmark):
    seed = 0

    def make(self, queries: int, keys: int, requires_grad: bool = False):
        # A CPU is here to check the outputs: fewer heads, full precision.
        on_gpu = self.device == "cuda"
        dtype, fewer = (torch.bfloat16, 1) if on_gpu else (torch.float32, 8)
        shapes = [
            (1, HEADS // fewer, queries, HEAD_DIM),
            (1, KV_HEADS // fewer, keys, HEAD_DIM),
            (1, KV_HEADS // fewer, keys, V_HEAD_DIM),
        ]
        self.inputs = [torch.randn(shape, device=self.device, dtype=dtype) for shape in shapes]
        self.inputs.append(torch.randn(HEADS // fewer, device=self.device))
        for tensor in self.inputs:
            tensor.requires_grad_(requires_grad)

    def attend(self):
        self.out = self.kernel.sink_swa_attention(*self.inputs, window=WINDOW)

    def eager(self):
        """All pairs of a query and a key, one key-value head at a time."""
        query, key, value, sinks = self.inputs
        queries, keys = query.shape[2], key.shape[2]
        distance = torch.arange(keys - queries, keys, device=query.device)[:, None] - torch.arange(
            keys, device=query.device
        )
        hidden = (distance < 0) | (distance >= WINDOW)
        outputs = []
        for k, v, q, sink in zip(
            key.split(1, 1), value.split(1, 1), query.chunk(key.shape[1], 1), sinks.chunk(key.shape[1]), strict=True
        ):
            logits = (q @ k.transpose(-1, -2)).float().mul(HEAD_DIM**-0.5).masked_fill(hidden, float("-inf"))
            column = sink.view(1, -1, 1, 1).expand(1, -1, queries, 1)
            outputs.append(torch.cat([logits, column], -1).softmax(-1)[..., :-1].to(v.dtype) @ v)
        return torch.cat(outputs, 1)

    def setup_prefill(self):
        length = 8192 if self.device == "cuda" else 1024
        self.make(length, length)

    def benchmark_prefill(self):
        self.attend()

    def verify_prefill(self):
        return self.eager()

    def setup_decode(self):
        self.make(1, 8192)

    def benchmark_decode(self):
        self.attend()

    def verify_decode(self):
        return self.eager()

    def setup_training(self):
        length = 4096 if self.device == "cuda" else 512
        self.make(length, length, requires_grad=True)

    def gradients(self, output):
        """All gradients in one vector, each scaled to a largest value of one."""
        gradients = torch.autograd.grad(output.float().sum(), self.inputs)
        return torch.cat([(gradient / gradient.abs().max()).flatten().float() for gradient in gradients])

    def benchmark_training(self):
        self.attend()
        self.out = self.gradients(self.out)

    def verify_training(self):
        return self.gradients(self.eager())
