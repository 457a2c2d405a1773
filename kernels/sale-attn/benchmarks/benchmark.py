"""The two passes of a sparse prefill at Llama-3.1-8B's geometry: `mimo-hf kernels bench sale-attn`."""

import torch
from kernels.benchmark import Benchmark

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
BLOCK_Q, BLOCK_K = 64, 32
# A needle weighs a hundred times as much as all that is always kept, any other key a hundredth.
PLANTED, TAU, NEEDLE = 0.1, 1.0, 10.0


class SALEBenchmark(Benchmark):
    seed = 0

    def setup(self):
        """Each tile of queries looks into a direction of its own; in a tenth of the tiles of keys that it may skip, a key lies there."""
        # A CPU is here to check the outputs: fewer heads and channels, full precision.
        on_gpu = self.device == "cuda"
        dtype, fewer, d, length = (torch.bfloat16, 1, HEAD_DIM, 8192) if on_gpu else (torch.float32, 4, 32, 1024)
        shapes = [(1, heads // fewer, length, d) for heads in (HEADS, KV_HEADS, KV_HEADS)]
        q, k, v = (torch.randn(shape, device=self.device) for shape in shapes)
        size = (NEEDLE * d**0.5) ** 0.5
        directions = size * torch.linalg.qr(torch.randn(d, d, device=self.device)).Q[: length // BLOCK_Q]
        q = 0.1 * q + directions.repeat_interleave(BLOCK_Q, 0)
        self.always = self.areas(length)
        free = (
            self.visible(length).unflatten(0, (-1, BLOCK_Q)).any(1).unflatten(1, (-1, BLOCK_K)).any(2)
        ) & ~self.always
        planted = free & (torch.rand((*k.shape[:2], *free.shape), device=self.device) < PLANTED)
        k = 0.1 * k
        for tile, direction in enumerate(directions):
            k[:, :, tile % BLOCK_K :: BLOCK_K] += planted[:, :, tile, :, None] * direction
        self.inputs = [x.to(dtype) for x in (q, k, v)]
        self.kept = self.kernel.pack_tiles(self.of_heads(planted | self.always))

    def areas(self, length):
        """What is always kept, `[nQ, nK]`."""
        layout = self.kernel.Layout(length, length, self.kernel.Tiling())
        kept = torch.zeros(layout.query_tiles, layout.key_tiles, dtype=torch.bool, device=self.device)
        for tile, row in enumerate(kept):
            row[: layout.visible(tile)] = True
            row[layout.estimated(tile).start : layout.estimated(tile).stop] = False
        return kept

    def visible(self, length):
        return torch.ones(length, length, dtype=torch.bool, device=self.device).tril()

    def of_heads(self, of_kv_heads):
        return of_kv_heads.repeat_interleave(HEADS // KV_HEADS, 1)

    def groups(self, chosen):
        """Of each key-value head: its queries, keys, values and tiles, and which pairs a causal map has."""
        q, k, v = self.inputs
        parts = (q.chunk(k.shape[1], 1), k.split(1, 1), v.split(1, 1), chosen.chunk(k.shape[1], 1))
        return self.visible(k.shape[2]), zip(*parts, strict=True)

    def benchmark_select(self):
        self.out = self.kernel.select_blocks(*self.inputs[:2], TAU)

    def verify_select(self):
        """The rule on exact scores of all pairs."""
        pairs = self.always.repeat_interleave(BLOCK_Q, 0).repeat_interleave(BLOCK_K, 1)
        kept = []
        visible, groups = self.groups(self.kernel.unpack_tiles(self.kept, self.always.shape[1]))
        for q, k, _, _ in groups:
            scores = (
                (q.float() @ k.float().transpose(-1, -2)).mul(q.shape[-1] ** -0.5).masked_fill(~visible, float("-inf"))
            )
            weights = scores.sub(scores.masked_fill(~pairs, float("-inf")).logsumexp(-1, keepdim=True))
            best = weights.unflatten(3, (-1, BLOCK_K)).amax(4).unflatten(2, (-1, BLOCK_Q)).amax(3)
            kept.append((best.exp() > TAU) | self.always)
        return self.kernel.pack_tiles(torch.cat(kept, 1))

    def benchmark_attend(self):
        self.out = self.kernel.attend_blocks(*self.inputs, self.kept)

    def verify_attend(self):
        """All pairs, those of other tiles hidden."""
        outputs = []
        visible, groups = self.groups(self.kernel.unpack_tiles(self.kept, self.always.shape[1]))
        for q, k, v, chosen in groups:
            seen = chosen.repeat_interleave(BLOCK_Q, 2).repeat_interleave(BLOCK_K, 3) & visible
            logits = (q @ k.transpose(-1, -2)).float().mul(q.shape[-1] ** -0.5).masked_fill(~seen, float("-inf"))
            outputs.append(logits.softmax(-1).to(v.dtype) @ v)
        return torch.cat(outputs, 1)
