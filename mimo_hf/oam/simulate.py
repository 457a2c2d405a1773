"""One call that compares the schemes on a batch of links of any size, in memory that is bounded."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import formulas
from .channel import free_space, warn_of_float32
from .checks import Real, choice, count, positive, real
from .geometry import LinkGeometry
from .modes import matched_channel, modal_channel
from .precoding import of_channel, of_geometry
from .settings import POWERS, SNR_REFERENCES

# What `simulate_link` compares.
SCHEMES = ("plain", "bepre_angle", "bepre_geom", "bepre_svd", "mmse", "capacity_equal", "capacity_waterfill")


def simulate_link(
    link: LinkGeometry,
    snr_db: Real,
    schemes: tuple[str, ...] = SCHEMES,
    *,
    snr_reference: str = "siso",
    power: str = "equal",
    believed: LinkGeometry | None = None,
    dtype: torch.dtype = torch.complex128,
    max_bytes: int = 2**25,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    r"""
    Spectral efficiency in bit/s/Hz of each scheme at total power 1.

    - `"plain"`: mode by mode, without compensation. `"bepre_angle"`, `"bepre_geom"`, `"bepre_svd"`: behind BePre.
    - `"mmse"`: plain mode generation, joint linear MMSE over all modes.
    - `"capacity_equal"`, `"capacity_waterfill"`: the bounds of the same arrays (SVD-MIMO).

    Args:
        link: two UCAs; batch shape broadcasts with `snr_db`. With unequal counts only matched modes are used.
        snr_db: `[...]`, as `snr_reference` says: see `noise_variance`.
        power: `"equal"`, or `"waterfill"` over the gains \\(|G_{ll}|^2/n_0\\), which ignores interference. Concerns the
            schemes by mode; the capacities have their own.
        believed: geometry that `angle` and `geom` use; None: the true one. Same batch shape, or one that broadcasts.
        max_bytes: working memory; larger batches are split.
        progress: called with (links done, links in all) after every part.

    Returns:
        a tensor `[...]` for each scheme.
    """
    tx, rx = link.rings()
    for scheme in schemes:
        choice(scheme, "schemes", SCHEMES)
    choice(power, "power", POWERS)
    snr_db = real(snr_db, "snr_db").to(link.wavelength_m.device)
    choice(snr_reference, "reference", SNR_REFERENCES)
    if dtype == torch.complex64:
        warn_of_float32(link)
    believed = link if believed is None else believed
    count(max_bytes, "max_bytes")
    shapes = {"link": link.batch_shape, "believed": believed.batch_shape, "snr_db": snr_db.shape}
    try:
        shape = torch.broadcast_shapes(*shapes.values())
    except RuntimeError:
        seen = ", ".join(f"`{name}` {list(shape)}" for name, shape in shapes.items())
        raise ValueError(
            f"`link`, `believed` and `snr_db` must have batch shapes that broadcast; got {seen}."
        ) from None
    # That of a mean channel differs by the distances of single elements alone.
    positive(formulas.noise_variance(snr_db, "tx" if snr_reference == "tx" else "siso", link, None), "noise_variance")
    # Rings whose enclosing spheres do not touch have no common point, which settles nearly every link.
    apart = bool((link.distance_m.detach() > (tx.radius_m + rx.radius_m).detach() * (1 + 1e-6)).all())
    num_rx, num_tx = rx.num_elements, tx.num_elements
    # Complex matrices alive at a time: a few of the link itself, and what a decomposition allocates.
    largest = max(1, max_bytes // (16 * 12 * num_rx * num_tx))
    total, done = max(1, math.prod(shape)), 0

    def evaluate(link: LinkGeometry, believed: LinkGeometry, snr_db: Tensor, shape: torch.Size) -> dict[str, Tensor]:
        nonlocal done
        if math.prod(shape) > largest:
            axis = max(range(len(shape)), key=lambda dim: shape[dim])
            parts = []
            step = max(1, shape[axis] * largest // math.prod(shape))
            for start in range(0, shape[axis], step):
                size = min(step, shape[axis] - start)
                cut = _Cut(axis - len(shape), start, size)
                part = torch.Size([*shape[:axis], size, *shape[axis + 1 :]])
                mapped = link.map_tensors(cut)
                other = mapped if believed is link else believed.map_tensors(cut)
                parts.append(evaluate(mapped, other, cut(snr_db, 0), part))
            return {scheme: torch.cat([part[scheme] for part in parts], dim=axis) for scheme in schemes}

        results = _evaluate(link, believed, snr_db, schemes, snr_reference, power, dtype, apart)
        done += math.prod(shape)
        if progress is not None:
            progress(done, total)
        return {scheme: result.expand(shape) for scheme, result in results.items()}

    return evaluate(link, believed, snr_db, shape)


class _Cut:
    """Takes a range of one batch dimension, counted from the right, where a tensor has it."""

    def __init__(self, axis: int, start: int, size: int):
        self.axis, self.start, self.size = axis, start, size

    def __call__(self, tensor: Tensor, inner_dims: int) -> Tensor:
        axis = self.axis - inner_dims
        if tensor.dim() < -axis or tensor.shape[axis] == 1:
            return tensor
        return tensor.narrow(axis, self.start, self.size)


def _evaluate(
    link: LinkGeometry,
    believed: LinkGeometry,
    snr_db: Tensor,
    schemes: tuple[str, ...],
    snr_reference: str,
    power: str,
    dtype: torch.dtype,
    apart: bool,
) -> dict[str, Tensor]:
    h = free_space(link, dtype, apart=apart)
    own = formulas.noise_variance(snr_db, snr_reference, link, h)
    noise = own.double()
    results = {}
    for scheme in schemes:
        if scheme == "capacity_equal":
            results[scheme] = formulas.capacity_equal(h, noise)
        elif scheme == "capacity_waterfill":
            results[scheme] = formulas.capacity_waterfill(formulas.channel_gains(h, noise))
        else:
            method = scheme.removeprefix("bepre_")
            if method in ("plain", "mmse"):
                effective = h
            else:
                effective = (of_channel(h) if method == "svd" else of_geometry(believed, method)).apply(h)
            g = matched_channel(modal_channel(effective))
            if power == "equal":
                share = formulas.equal_power(g.shape[-1]).to(g.device)
            else:
                share = formulas.water_filling((g.diagonal(dim1=-2, dim2=-1).abs().square() / own[..., None]).double())
            results[scheme] = formulas.spectral_efficiency(g, share, noise, "mmse" if scheme == "mmse" else "mode")
    return results
