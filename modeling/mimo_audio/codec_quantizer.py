"""The codec's residual codebooks, always in float32, and how they follow the encoder in training."""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_mimo_audio_tokenizer import MiMoAudioTokenizerConfig

ROWS = 16384  # frames whose distances to all entries are held at once


class Float32Module(nn.Module):
    """Its own buffers stay in float32 when the model is cast to another dtype."""

    def _apply(self, fn, recurse=True):
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            if buffer is not None and self._buffers[name].dtype != torch.float32:
                self._buffers[name] = buffer.to(self._buffers[name].device)
        return self


class Codebook(Float32Module):
    """
    `embed` `[entries, width]`; for training what each entry was chosen by, a moving count `cluster_size` and sum `embed_avg`.

    A new codebook (`inited` 0) is drawn by k-means from the first frames that training shows it.
    """

    def __init__(self, entries: int, width: int, config: MiMoAudioTokenizerConfig):
        super().__init__()
        self.decay = config.ema_decay
        self.threshold = config.threshold_ema_dead_code
        self.iterations = config.kmeans_iterations
        for name, shape in {
            "inited": (1,),
            "cluster_size": (entries,),
            "embed": (entries, width),
            "embed_avg": (entries, width),
        }.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float32))

    def nearest(self, frames: torch.Tensor) -> torch.Tensor:
        """The entry with the least squared distance to each of `[frames, width]`, the lowest where several are equal."""
        squares = self.embed.square().sum(dim=1)
        return torch.cat([(squares - 2 * part @ self.embed.T).argmin(dim=1) for part in frames.split(ROWS)])

    @torch.no_grad()
    def start(self, frames: torch.Tensor):
        """k-means over `[frames, width]`, from frames drawn at random."""
        self.embed.copy_(_drawn(frames, len(self.embed)))
        for _ in range(self.iterations):
            counts, sums = self._chosen_by(frames, self.nearest(frames))
            self.embed.copy_(torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], self.embed))
        counts, _ = self._chosen_by(frames, self.nearest(frames))
        self.cluster_size.copy_(counts)
        self.embed_avg.copy_(self.embed * counts[:, None])
        self.inited.fill_(1.0)

    @torch.no_grad()
    def follow(self, frames: torch.Tensor, codes: torch.Tensor):
        """One step of the moving averages, then entries that hardly any frame chose are replaced by frames."""
        counts, sums = self._chosen_by(frames, codes)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embed_avg.lerp_(sums, 1 - self.decay)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + 1e-5) / (total + len(counts) * 1e-5) * total
        self.embed.copy_(self.embed_avg / smoothed[:, None])
        dead = self.cluster_size < self.threshold
        if self.threshold > 0 and bool(dead.any()):
            self.embed[dead] = _drawn(frames, int(dead.sum()))
            self.embed_avg[dead] = self.embed[dead] * self.threshold
            self.cluster_size[dead] = float(self.threshold)

    def _chosen_by(self, frames: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        counts = torch.zeros_like(self.cluster_size).index_add_(0, codes, frames.new_ones(len(codes)))
        return counts, torch.zeros_like(self.embed).index_add_(0, codes, frames)


def _drawn(frames: torch.Tensor, count: int) -> torch.Tensor:
    """`count` of the frames at random, none twice before all were taken."""
    order = torch.cat([torch.randperm(len(frames), device=frames.device) for _ in range(-(-count // len(frames)))])
    return frames[order[:count]]


class ResidualVectorQuantizer(nn.Module):
    """
    Each codebook names the entry nearest to what those before it left over (arXiv 2512.23808, section 2.1.1).

    Under DistributedDataParallel the codebooks follow the first process's frames: it hands its buffers to the others.
    """

    def __init__(self, config: MiMoAudioTokenizerConfig):
        super().__init__()
        books = [Codebook(entries, config.d_model, config) for entries in config.codebook_sizes]
        # The official names: vq.layers.{q}._codebook.embed.
        self.vq = nn.ModuleDict({"layers": nn.ModuleList(nn.ModuleDict({"_codebook": book}) for book in books)})

    @property
    def codebooks(self) -> list[Codebook]:
        return [layer["_codebook"] for layer in self.vq["layers"]]

    def encode(self, frames: torch.Tensor, num_quantizers: int, update: bool = False):
        """
        Args:
            frames: `[frames, width]`. update: whether the codebooks follow these frames.

        Returns:
            codes `[num_quantizers, frames]`; float32 sums of the chosen entries `[frames, width]`; the commitment loss: the squared distance
            of each residual to its entry, the mean over widths, frames and codebooks.
        """
        with torch.autocast(frames.device.type, enabled=False):
            residual = frames.float()
            total = torch.zeros_like(residual)
            codes, losses = [], []
            for book in self.codebooks[:num_quantizers]:
                seen = residual.detach()
                if update and not bool(book.inited):
                    book.start(seen)
                chosen = book.nearest(seen)
                entries = F.embedding(chosen, book.embed).clone()  # the codebook moves before the gradient comes
                codes.append(chosen)
                losses.append(F.mse_loss(residual, entries))
                if update:
                    book.follow(seen, chosen)
                residual = residual - entries
                total = total + entries
            return torch.stack(codes), total, torch.stack(losses).mean()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """float32 sums of entries, `[..., width]`, for codes `[quantizers, ...]`."""
        return sum(
            (F.embedding(row, book.embed) for row, book in zip(codes, self.codebooks, strict=False)),
            start=torch.zeros((), device=codes.device),
        )


__all__ = ["Codebook", "Float32Module", "ResidualVectorQuantizer"]
