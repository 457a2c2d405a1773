"""Bit error rates: square QAM with Gray labels, closed forms, and Monte Carlo over modal channels."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import formulas
from .checks import Real, choice, count, matrix, non_negative, positive, random_generator, real, shown
from .detectors import DETECTORS, separable
from .power import stream_power

QAM_ORDERS = (4, 16, 64)
MAX_BYTES = 2**27  # working memory unless given
Z_95 = 1.959963984540054  # standard normal quantile of 97.5 %

Progress = Callable[[int, int], None]


def _levels(order: int) -> int:
    if order not in QAM_ORDERS:
        raise ValueError(f"`order` must be 4 (QPSK), 16 or 64; got {order!r}.")
    return math.isqrt(order)


def qam_constellation(order: int) -> Tensor:
    """Points of unit mean energy, `[order]` complex128. The index is the label: bits of x above bits of y, both Gray."""
    levels = _levels(order)
    index = torch.arange(levels)
    amplitude = torch.empty(levels, dtype=torch.float64)
    amplitude[index ^ (index >> 1)] = (2 * index - (levels - 1)).double() * math.sqrt(1.5 / (order - 1))
    return torch.complex(amplitude.repeat_interleave(levels), amplitude.repeat(levels))


def qam_mod(labels: Tensor, order: int) -> Tensor:
    """Symbols of integer labels 0..order-1, `[...]` to `[...]`."""
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < order:
        raise ValueError(f"`labels` must lie in 0..{order - 1}; got {shown(labels)}.")
    return qam_constellation(order).to(labels.device)[labels]


def qam_demod(symbols: Tensor, order: int) -> Tensor:
    """Labels of the nearest points (hard decision), `[...]` to `[...]`. NaN decides for the lowest level."""
    levels = _levels(order)
    scale = math.sqrt((order - 1) / 1.5)
    gray = []
    for part in (symbols.real, symbols.imag):
        index = ((part * scale + (levels - 1)) / 2).nan_to_num(nan=0.0).round().clamp(0, levels - 1).long()
        gray.append(index ^ (index >> 1))
    return gray[0] * levels + gray[1]


def ber_theory(snr: Real, order: int = 4) -> Tensor:
    r"""
    Exact bit error rate of Gray-labelled square QAM over additive white Gaussian noise (Cho & Yoon, IEEE Trans. Commun.
    50(7), 2002, eq. 14-16). QPSK: \\(Q(\sqrt\gamma)\\). 16-QAM:
    \\(\frac34 Q(\sqrt{\gamma/5}) + \frac12 Q(3\sqrt{\gamma/5}) - \frac14 Q(5\sqrt{\gamma/5})\\).

    Args:
        snr: \\(\gamma\\) per symbol, linear, `[...]`. For mode l of a circulant channel \\(p_l |G_{ll}|^2/n_0\\).
    """
    _levels(order)
    return formulas.bit_error_rate(non_negative(snr, "snr"), order)


@dataclass(frozen=True)
class BERResult:
    """
    Errors counted by `simulate_ber`.

    Attributes:
        bit_errors, symbol_errors: int64 `[..., N]`, one entry a stream.
        num_bits: bits sent on each stream.
    """

    bit_errors: Tensor
    symbol_errors: Tensor
    num_bits: int

    @property
    def ber(self) -> Tensor:
        """Bit error rate, `[..., N]`. Zero means at most about 3 / num_bits: see `interval`."""
        return self.bit_errors.double() / self.num_bits

    def interval(self) -> tuple[Tensor, Tensor]:
        """Wilson's 95 % interval of the bit error rate, both ends `[..., N]`, taking bits as independent."""
        n, rate, z2 = self.num_bits, self.ber, Z_95**2
        centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
        half = Z_95 * (rate * (1 - rate) / n + z2 / (4 * n * n)).sqrt() / (1 + z2 / n)
        return (centre - half).clamp(min=0).where(self.bit_errors > 0, 0.0), centre + half


def ls_estimate(g: Tensor, noise_variance: Real, pilot_snr_db: float, generator: torch.Generator) -> Tensor:
    r"""
    Least-squares channel estimate from orthogonal pilots, \\(\hat G = G + E\\), entries of E i.i.d. CN(0, n_0/e).

    Args:
        g: `[..., N_r, N_t]`.
        pilot_snr_db: the pilots' energy e (power times length) in dB; at 0 dB every entry errs with variance n_0.
    """
    real(pilot_snr_db, "pilot_snr_db")
    return _estimate(g, positive(noise_variance, "noise_variance"), pilot_snr_db, generator)


def _estimate(g: Tensor, noise: Tensor, pilot_snr_db: float, generator: torch.Generator) -> Tensor:
    spread = (noise / 10 ** (pilot_snr_db / 10)).sqrt()[..., None, None]
    shape = torch.broadcast_shapes(g.shape, spread.shape)
    return g + spread * torch.randn(shape, dtype=g.dtype, generator=generator).to(g.device)


def simulate_ber(
    g: Tensor,
    noise_variance: Real,
    power: Tensor,
    order: int = 4,
    num_symbols: int = 10_000,
    num_channels: int = 1,
    seed: int | torch.Generator = 0,
    detector: str = "mode",
    csi: str = "perfect",
    pilot_snr_db: float | None = None,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> BERResult:
    r"""
    Monte Carlo of \\(y = G P^{1/2} s + n\\) with hard decisions, all streams with the same modulation.

    Symbols and noise are drawn on the CPU from `seed`, so that every device counts the same errors up to rounding.

    Args:
        g: modal channel, or any effective channel behind a unitary front end, `[..., N_r, N_t]`.
        noise_variance: n_0, `[...]`.
        power: `[..., N_t]`, greater than zero: leave out streams without power.
        order: 4 (QPSK), 16 or 64.
        num_symbols: on each stream for each channel estimate.
        num_channels: independent channel estimates; of use with `csi="ls"`.
        seed: or a CPU generator.
        detector: `"mode"` (square G), `"zf"` (N_r ≥ N_t) or `"mmse"`, as in `sinr`.
        csi: what the detector knows: `"perfect"`, or `"ls"`, the estimate of `ls_estimate`.
        max_bytes: working memory; symbols are sent in chunks that fit. The chunk size changes the random numbers.
        progress: called with (symbols done, symbols in all) after every chunk.
    """
    _levels(order)
    choice(detector, "detector", DETECTORS)
    choice(csi, "csi", ("perfect", "ls"))
    if (csi == "ls") != (pilot_snr_db is not None):
        raise ValueError(
            f"`pilot_snr_db` must be given with `csi='ls'`, and only with it; got {pilot_snr_db} and csi={csi!r}."
        )
    if pilot_snr_db is not None:
        real(pilot_snr_db, "pilot_snr_db")
    g = matrix(g, "g", square=detector == "mode")
    if detector == "zf":
        separable(g)
    count(num_symbols, "num_symbols")
    count(num_channels, "num_channels")
    count(max_bytes, "max_bytes")
    noise, power = positive(noise_variance, "noise_variance"), stream_power(power, g.shape[-1], on_all=True)
    generator = random_generator(seed)
    return count_errors(
        g, noise, power, order, num_symbols, num_channels, generator, detector, pilot_snr_db, max_bytes, progress
    )


def count_errors(
    g: Tensor,
    noise: Tensor,
    power: Tensor,
    order: int,
    num_symbols: int,
    num_channels: int,
    generator: torch.Generator,
    detector: str,
    pilot_snr_db: float | None,
    max_bytes: int = MAX_BYTES,
    progress: Progress | None = None,
) -> BERResult:
    """`simulate_ber` of what is checked; the channel is estimated where pilots have an energy."""
    num_rx, num_tx = g.shape[-2:]
    batch = torch.broadcast_shapes(g.shape[:-2], noise.shape, power.shape[:-1])
    weighted = (g * power.sqrt()[..., None, :]).expand(*batch, num_rx, num_tx)
    noise = noise.expand(batch)

    # Labels, symbols, received, noise, detected and compared: about twelve complex numbers a symbol and antenna.
    symbol_bytes = 192 * (num_rx + num_tx) * max(1, math.prod(batch))
    chunk = max_bytes // symbol_bytes
    if chunk < 1:
        raise ValueError(
            f"`max_bytes` must be at least the {symbol_bytes} of one symbol of this batch; got {max_bytes}. Allow more, or split "
            "the batch."
        )
    points = qam_constellation(order).to(g.device)
    bit_errors = torch.zeros(*batch, num_tx, dtype=torch.int64, device=g.device)
    symbol_errors = torch.zeros_like(bit_errors)
    bits_of = torch.tensor([label.bit_count() for label in range(order)], device=g.device)
    total, done = num_symbols * num_channels, 0
    for _ in range(num_channels):
        known = weighted if pilot_snr_db is None else _estimate(weighted, noise, pilot_snr_db, generator)
        filters = formulas.detection_filters(known, noise, detector)
        for start in range(0, num_symbols, chunk):
            size = min(chunk, num_symbols - start)
            sent = torch.randint(order, (*batch, num_tx, size), generator=generator).to(g.device)
            white = torch.randn(*batch, num_rx, size, dtype=torch.complex128, generator=generator).to(g.device)
            received = weighted @ points[sent].to(g.dtype) + noise.sqrt()[..., None, None] * white
            wrong = qam_demod(filters @ received, order) ^ sent
            bit_errors += bits_of[wrong].sum(dim=-1)
            symbol_errors += (wrong != 0).sum(dim=-1)
            done += size
            if progress is not None:
                progress(done, total)
    return BERResult(bit_errors, symbol_errors, total * (order.bit_length() - 1))
