"""A full and a sparse layer in prefill, training and decoding at HySparse's geometry: `mimo-hf kernels bench hysparse-attn`."""

import torch
from kernels.benchmark import Benchmark

HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE, TOPK = 64, 4, 128, 64, 16


class HySparseBenchmark(Benchmark):
    seed = 0

    def make(self, queries: int, slots: int, requires_grad: bool = False):
        # A CPU is here to check the outputs: fewer heads and channels, full precision.
        on_gpu = self.device == "cuda"
        dtype, fewer, d = (torch.bfloat16, 1, HEAD_DIM) if on_gpu else (torch.float32, 4, 32)
        shapes = [(1, HEADS // fewer, queries, d), (1, KV_HEADS // fewer, slots, d), (1, KV_HEADS // fewer, slots, d)]
        self.inputs = [torch.randn(shape, device=self.device, dtype=dtype) for shape in shapes]
        self.sinks = torch.randn(HEADS // fewer, device=self.device)
        # Each query takes its own block and others at random, the same for kernel and eager code.
        own = (torch.arange(slots - queries, slots, device=self.device) // BLOCK_SIZE)[:, None]
        order = torch.rand((1, KV_HEADS // fewer, queries, -(-slots // BLOCK_SIZE)), device=self.device)
        block = torch.arange(order.shape[-1], device=self.device)
        order = order.masked_fill(block == own, 2).masked_fill(block > own, -1).topk(min(TOPK, order.shape[-1]))
        self.idx = order.indices.masked_fill(order.values < 0, -1).int()
        for tensor in (*self.inputs, self.sinks):
            tensor.requires_grad_(requires_grad)

    def full(self):
        self.out = self.kernel.full_attention_with_block_scores(*self.inputs, block_size=BLOCK_SIZE, topk=TOPK)[0]

    def sparse(self):
        self.out = self.kernel.block_sparse_attention(*self.inputs, self.idx, block_size=BLOCK_SIZE, sinks=self.sinks)

    def eager(self, sparse: bool):
        """All pairs of a query and a key, one key-value head at a time."""
        q, k, v = self.inputs
        queries, slots = q.shape[2], k.shape[2]
        slot = torch.arange(slots, device=q.device)
        visible = (slot <= slot[slots - queries :, None]).expand(1, k.shape[1], queries, slots)
        if sparse:
            blocks = -(-slots // BLOCK_SIZE)
            chosen = torch.zeros((*self.idx.shape[:3], blocks + 1), dtype=torch.bool, device=q.device)
            chosen.scatter_(-1, self.idx.long() % (blocks + 1), True)  # -1 goes behind the last block
            visible = visible & chosen[..., slot // BLOCK_SIZE]
        outputs = []
        for head, q_of_group in enumerate(q.chunk(k.shape[1], 1)):
            logits = q_of_group @ k[:, head : head + 1].transpose(-1, -2) * q.shape[-1] ** -0.5
            logits = logits.float().masked_fill(~visible[:, head : head + 1], float("-inf"))
            if sparse:
                sinks = self.sinks.view(1, -1, 1, 1).chunk(k.shape[1], 1)[head].expand(1, -1, queries, 1)
                logits = torch.cat([logits, sinks], -1)
            outputs.append(logits.softmax(-1)[..., :slots].to(v.dtype) @ v[:, head : head + 1])
        return torch.cat(outputs, 1)

    def setup_prefill_full(self):
        length = 8192 if self.device == "cuda" else 512
        self.make(length, length)

    def benchmark_prefill_full(self):
        self.full()

    def verify_prefill_full(self):
        return self.eager(sparse=False)

    def setup_prefill_sparse(self):
        self.setup_prefill_full()

    def benchmark_prefill_sparse(self):
        self.sparse()

    def verify_prefill_sparse(self):
        return self.eager(sparse=True)

    def setup_decode_full(self):
        self.make(1, 8192)

    def benchmark_decode_full(self):
        self.out = self.kernel.hysparse_decode(*self.inputs, block_size=BLOCK_SIZE, topk=TOPK)[0]

    def verify_decode_full(self):
        return self.eager(sparse=False)

    def setup_decode_sparse(self):
        self.make(1, 8192)

    def benchmark_decode_sparse(self):
        self.sparse()

    def verify_decode_sparse(self):
        return self.eager(sparse=True)

    def setup_training(self):
        length = 4096 if self.device == "cuda" else 256
        self.make(length, length, requires_grad=True)

    def gradients(self, output):
        """All gradients in one vector, each scaled to a largest value of one."""
        gradients = torch.autograd.grad(output.float().sum(), [*self.inputs, self.sinks])
        return torch.cat([(gradient / gradient.abs().max()).flatten().float() for gradient in gradients])

    def benchmark_training(self):
        self.sparse()
        self.out = self.gradients(self.out)

    def verify_training(self):
        return self.gradients(self.eager(sparse=True))
