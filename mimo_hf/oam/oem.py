"""
OAM-embedded MIMO (OEM): grids of UCAs, mode decomposition in every UCA, detection across UCAs (arXiv 2408.07103).

The scheme detects every mode by itself, as if the channel between any two UCAs were circulant. Between UCAs that do not
face each other it is not: a lateral offset t puts a phase ramp of k R |t| / D on it. `assume="block_circulant"` computes
what the scheme's algebra promises, `assume="exact"` what it delivers.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from . import formulas
from .channel import free_space
from .checks import Real, choice, count, matrix, positive
from .detectors import JOINT_DETECTORS, separable
from .dish import effective_ring_radii
from .geometry import LinkGeometry, TensorMap, UCAGrid, altered
from .modes import modal_channel

OEM_DETECTORS = ("zf", "mmse", "svd", "joint_zf", "joint_mmse")
ASSUMPTIONS = ("exact", "block_circulant")


def grids(link: LinkGeometry) -> tuple[UCAGrid, UCAGrid]:
    """Both arrays, where both are grids with equal counts per UCA."""
    if not isinstance(link.tx, UCAGrid) or not isinstance(link.rx, UCAGrid):
        raise TypeError(
            f"`link` must have a UCAGrid at both ends; got {type(link.tx).__name__} and {type(link.rx).__name__}."
        )
    if link.tx.uca.num_elements != link.rx.uca.num_elements:
        raise ValueError(
            f"`link` must have as many elements in a UCA at one end as at the other; got {link.tx.uca.num_elements} and "
            f"{link.rx.uca.num_elements}."
        )
    return link.tx, link.rx


@dataclass(frozen=True)
class OEMLink:
    """
    Two grids of UCAs with equal counts, with or without a dish at every UCA.

    Args:
        link: between two `UCAGrid`s.
        focal_length_m: of the dishes; None: no dishes.
        dish_radius_m: warns where the dishes are too small for a mode's ring.

    Example:
        >>> grid = UCAGrid(UCA(8, 0.1), 2, 2, pitch_m=0.3)
        >>> blocks = OEMLink(LinkGeometry(grid, grid, Pose.from_angles(5.0), wavelength_m=0.01)).blocks()
        >>> blocks.shape
        torch.Size([8, 4, 8, 4])
    """

    link: LinkGeometry
    focal_length_m: float | None = None
    dish_radius_m: float | None = None

    def __post_init__(self):
        grids(self.link)
        if self.focal_length_m is None and self.dish_radius_m is not None:
            raise ValueError("`dish_radius_m` must go with `focal_length_m`: give both, or neither for no dish.")

    def blocks(self) -> Tensor:
        """The channel between modes of UCAs, `[..., L, N_r, L, N_t]`, as `mode_blocks` orders it."""
        tx, rx = grids(self.link)
        if self.focal_length_m is None:
            return _in_modes(free_space(self.link), rx.num_ucas, tx.num_ucas)
        wavelength = self.link.wavelength_m
        radii = effective_ring_radii(tx.uca, wavelength, self.focal_length_m, dish_radius_m=self.dish_radius_m)
        return effective_ring(self.link, radii)

    def center_channel(self) -> Tensor:
        """Channel of conventional MIMO with one element in the centre of every UCA, `[..., N_r, N_t]`."""
        tx, rx = grids(self.link)
        ends = (Points(tx.centers_m()), Points(rx.centers_m()))
        return free_space(altered(self.link, tx=ends[0], rx=ends[1]))


def mode_blocks(h: Tensor, num_rx_ucas: int, num_tx_ucas: int) -> Tensor:
    r"""
    Mode generation and decomposition in every UCA, \\((I \otimes F) H (I \otimes F^H)\\).

    Args:
        h: `[..., num_rx_ucas * L, num_tx_ucas * L]`, as `los_channel` gives it for grids.

    Returns:
        `[..., L, N_r, L, N_t]`: from mode l of transmit UCA n to mode l' of receive UCA m at `[l', m, l, n]`.
    """
    for name, num, size in (
        ("num_rx_ucas", num_rx_ucas, h.shape[-2]),
        ("num_tx_ucas", num_tx_ucas, h.shape[-1]),
    ):
        if size % count(num, name):
            raise ValueError(f"`{name}` must divide the number of elements {size}; got {num}.")
    return _in_modes(h, num_rx_ucas, num_tx_ucas)


def _in_modes(h: Tensor, num_rx_ucas: int, num_tx_ucas: int) -> Tensor:
    pairs = h.unflatten(-1, (num_tx_ucas, -1)).unflatten(-3, (num_rx_ucas, -1)).transpose(-3, -2)
    return modal_channel(pairs).permute(*range(h.dim() - 2), -2, -4, -1, -3)


def _check(blocks: Tensor) -> Tensor:
    if blocks.dim() < 4 or blocks.shape[-4] != blocks.shape[-2]:
        raise ValueError(f"`blocks` must be [..., L, N_r, L, N_t], as from `mode_blocks`; got {list(blocks.shape)}.")
    return blocks


def _finite(blocks: Tensor) -> Tensor:
    return matrix(_check(blocks), "blocks")


def flatten_blocks(blocks: Tensor) -> Tensor:
    """One matrix `[..., L * N_r, L * N_t]`, modes outside and UCAs inside."""
    return _flat(_check(blocks))


def _flat(blocks: Tensor) -> Tensor:
    return blocks.flatten(-4, -3).flatten(-2, -1)


def per_mode_channels(blocks: Tensor) -> Tensor:
    r"""\\(G_l\\), from all transmit UCAs to all receive UCAs in mode l at both ends, `[..., L, N_r, N_t]`."""
    return _own(_check(blocks))


def _own(blocks: Tensor) -> Tensor:
    return blocks.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)


def block_circulant_part(blocks: Tensor) -> Tensor:
    """The blocks without everything that leads from one mode to another; same shape."""
    return _same_mode(_check(blocks))


def _same_mode(blocks: Tensor) -> Tensor:
    same_mode = torch.eye(blocks.shape[-2], dtype=torch.bool, device=blocks.device)
    return blocks * same_mode[:, None, :, None]


def inter_mode_energy(blocks: Tensor) -> Tensor:
    """Share of the channel's energy that leads from one mode to another, `[...]`, between 0 and 1."""
    kept = per_mode_channels(blocks).abs().square().sum(dim=(-3, -2, -1))
    return 1 - kept / blocks.abs().square().sum(dim=(-4, -3, -2, -1))


def oem_water_filling(blocks: Tensor, noise_variance: Real, total_power: Real = 1.0) -> tuple[Tensor, Tensor]:
    r"""
    OEM-water-filling: SVD of every \\(G_l\\), one water level over all modes and streams.

    Returns:
        power and gains \\(\sigma_{l,i}^2/n_0\\), both `[..., L, min(N_r, N_t)]`.
    """
    noise, total = positive(noise_variance, "noise_variance"), positive(total_power, "total_power")
    return _filled(_finite(blocks), noise, total)


def _filled(blocks: Tensor, noise: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    gains = formulas.channel_gains(_own(blocks), noise[..., None])
    return formulas.water_filling(gains.flatten(-2), total).unflatten(-1, gains.shape[-2:]), gains


def oem_spectral_efficiency(
    blocks: Tensor,
    noise_variance: Real,
    total_power: Real = 1.0,
    detector: str = "zf",
    power: str = "equal",
    assume: str = "exact",
) -> Tensor:
    r"""
    Spectral efficiency of OEM in bit/s/Hz, `[...]`. Whatever a detector leaves is treated as noise.

    - `"zf"`, `"mmse"`: the inverse of \\(G_l\\), or its MMSE filter, mode by mode.
    - `"svd"`: \\(G_l = U_l S_l V_l^H\\), precoding \\(V_l\\) and detection \\(U_l^H\\), mode by mode.
    - `"joint_zf"`, `"joint_mmse"`: over all modes and UCAs at once, what a fair comparison needs.

    Args:
        blocks: `[..., L, N_r, L, N_t]`.
        noise_variance, total_power: `[...]`.
        power: `"equal"` over all streams, or `"waterfill"` by `oem_water_filling` (with `"svd"` only).
        assume: `"block_circulant"` drops inter-mode blocks before anything else. It warns where the result exceeds the
            capacity of the channel, which no real system can.
    """
    choice(detector, "detector", OEM_DETECTORS)
    choice(power, "power", ("equal", "waterfill"))
    choice(assume, "assume", ASSUMPTIONS)
    if power == "waterfill" and detector != "svd":
        raise ValueError(
            f"`power='waterfill'` must go with the streams of `detector='svd'`; got detector={detector!r}."
        )
    if detector in ("zf", "joint_zf"):
        separable(_check(blocks)[..., 0, :, 0, :])
    noise, total = positive(noise_variance, "noise_variance"), positive(total_power, "total_power")
    return efficiency(_finite(blocks), noise, total, detector, power, assume)


def efficiency(blocks: Tensor, noise: Tensor, total: Tensor, detector: str, power: str, assume: str) -> Tensor:
    """`oem_spectral_efficiency` of what is checked."""
    num_modes, _, _, num_tx = blocks.shape[-4:]
    used = _same_mode(blocks) if assume == "block_circulant" else blocks

    if detector.startswith("joint_"):
        share = formulas.equal_power(num_modes * num_tx, total).to(blocks.device)
        result = formulas.spectral_efficiency(_flat(used), share, noise, detector.removeprefix("joint_"))
    else:
        through, share = _streams(used, noise, total, detector, power)
        # A stream that is not detected (N_t > N_r) has no row; `sinr` wants one for each.
        result = torch.log2(1 + formulas.sinr(through, share, noise)).sum(dim=-1)
    if assume == "block_circulant":
        _warn_above_capacity(result, blocks, noise, total)
    return result


def joint_detect(
    received: Tensor, blocks: Tensor, noise_variance: Real, total_power: Real = 1.0, detector: str = "mmse"
) -> Tensor:
    r"""
    Symbols of all modes and UCAs, detected at once from modal samples \\(y = G P^{1/2} s + n\\) with equal power P.

    Args:
        received: `[..., L, N_r, T]`, behind the mode decomposition of every receive UCA.
        blocks: `[..., L, N_r, L, N_t]`.
        noise_variance, total_power: `[...]`.
        detector: `"zf"` (N_r ≥ N_t) or `"mmse"`.

    Returns:
        estimates of s with unit gain, `[..., L, N_t, T]`.
    """
    choice(detector, "detector", JOINT_DETECTORS)
    num_modes, _, _, num_tx = _check(blocks).shape[-4:]
    share = formulas.equal_power(num_modes * num_tx, positive(total_power, "total_power")).to(blocks.device)
    if received.dim() < 3 or received.shape[-3:-1] != blocks.shape[-4:-2]:
        raise ValueError(
            f"`received` must be [..., {blocks.shape[-4]}, {blocks.shape[-3]}, T], as `blocks` says; got "
            f"{list(received.shape)}."
        )
    g = _flat(_finite(blocks)) * share.sqrt()[..., None, :]
    noise = positive(noise_variance, "noise_variance") if detector == "mmse" else formulas.ONE
    filters = formulas.detection_filters(separable(g) if detector == "zf" else g, noise, detector)
    return (filters @ received.flatten(-3, -2)).unflatten(-2, (num_modes, num_tx))


def _streams(blocks: Tensor, noise: Tensor, total: Tensor, detector: str, power: str) -> tuple[Tensor, Tensor]:
    """The channel from streams to detector outputs with unit-norm filters `[..., L * S, L * S]`, and its power."""
    own = _own(blocks)
    num_modes, _, num_tx = own.shape[-3:]
    if detector == "svd":
        u, _, vh = torch.linalg.svd(own, full_matrices=False)
        filters, precoder = u.mH, vh.mH
    else:
        share = total[..., None] / (num_modes * num_tx)
        filters = (
            torch.linalg.pinv(own) if detector == "zf" else formulas.mmse(own, noise[..., None] / share.to(noise))
        )
        filters = filters / torch.linalg.vector_norm(filters, dim=-1, keepdim=True)
        precoder = torch.eye(num_tx, dtype=own.dtype, device=own.device).expand(*own.shape[:-2], num_tx, num_tx)

    # filters [l, i, m] · blocks [l, m, k, n] · precoder [k, n, j]
    through = torch.einsum("...lim,...lmkn,...knj->...likj", filters, blocks, precoder)
    if power == "waterfill":
        share = _filled(blocks, noise, total)[0].flatten(-2)
    else:
        share = formulas.equal_power(num_modes * precoder.shape[-1], total).to(blocks.device)
    return _flat(through), share


def _warn_above_capacity(promised: Tensor, blocks: Tensor, noise: Tensor, total: Tensor):
    capacity = formulas.capacity_waterfill(formulas.channel_gains(_flat(blocks), noise), total)
    ratio = float((promised / capacity).detach().max())
    if ratio > 1 + 1e-9:
        warnings.warn(
            f"what assume='block_circulant' promises exceeds the capacity of this channel ({ratio:.3g} times): the "
            "inter-mode blocks that it leaves out carry energy, so that the assumption is not physical here.",
            stacklevel=4,
        )


def effective_ring(link: LinkGeometry, radii_m: Tensor, num_samples: int | None = None) -> Tensor:
    r"""
    Modal blocks of UCA grids behind equal dishes at both ends: the coupling of mode l to mode l' is
    \\(a_{l'}^H h\, a_l\\) between rings of K samples \\(\sqrt{L}/K\; e^{jl\varphi_k}\\) with the exact channel h.

    Args:
        link: between two `UCAGrid`s.
        radii_m: radius of mode |l|'s ring, `[..., L // 2 + 1]`, as from `effective_ring_radii`.
        num_samples: K, at least L; None: 4 L. With K = L and all radii R the blocks are those of the plain grids.

    Returns:
        `[..., L, N_r, L, N_t]`.
    """
    tx, rx = grids(link)
    num_modes = tx.uca.num_elements
    num_samples = 4 * num_modes if num_samples is None else count(num_samples, "num_samples", minimum=num_modes)
    if radii_m.shape[-1] != num_modes // 2 + 1:
        raise ValueError(
            f"`radii_m` must be [..., {num_modes // 2 + 1}], one for each |mode|; got {list(radii_m.shape)}."
        )
    each = positive(radii_m, "radii_m").unbind(dim=-1)
    tx_rings, rx_rings = ([_with_ring(end, num_samples, radius) for radius in each] for end in (tx, rx))
    blocks = [
        [_in_modes(free_space(altered(link, tx=sent, rx=got)), rx.num_ucas, tx.num_ucas) for sent in tx_rings]
        for got in rx_rings
    ]
    signed = formulas.signed_modes(num_modes).tolist()
    rows = []
    for rx_mode in signed:
        row = [
            blocks[abs(rx_mode)][abs(tx_mode)][..., rx_mode % num_samples, :, tx_mode % num_samples, :]
            for tx_mode in signed
        ]
        rows.append(torch.stack(row, dim=-2))
    return torch.stack(rows, dim=-4) * (num_modes / num_samples)


def _with_ring(grid: UCAGrid, num_samples: int, radius_m: Tensor) -> UCAGrid:
    changed = altered(grid, uca=altered(grid.uca, num_elements=num_samples, radius_m=radius_m))
    changed.refuse_overlap()
    return changed


class Points:
    """An array given by its positions `[..., N, 3]` in the plane z = 0."""

    def __init__(self, positions: Tensor):
        self._positions = positions

    @property
    def num_elements(self) -> int:
        return self._positions.shape[-2]

    def positions(self) -> Tensor:
        return self._positions

    def map_tensors(self, function: TensorMap) -> "Points":
        return Points(function(self._positions, 2))
