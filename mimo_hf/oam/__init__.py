"""OAM radio links between uniform circular arrays: exact, batched, differentiable. Conventions: README.md."""

from importlib import import_module
from typing import TYPE_CHECKING

# A name is loaded on first use, so that the command line can read `settings.py` without torch. No module has the name of
# a function: it would take its place.
_HOME = {
    "BEPRE_METHODS": "precoding",
    "BERResult": "ber",
    "BePre": "precoding",
    "LinkGeometry": "geometry",
    "OEMLink": "oem",
    "Pose": "geometry",
    "SCHEMES": "simulate",
    "SPEED_OF_LIGHT_M_S": "geometry",
    "UCA": "geometry",
    "UCAGrid": "geometry",
    "ULA": "geometry",
    "aligned_eigenvalues": "modes",
    "bepre": "precoding",
    "ber_theory": "ber",
    "bessel_first_maximum": "modes",
    "bessel_j": "modes",
    "block_circulant_part": "oem",
    "capacity_equal": "metrics",
    "capacity_waterfill": "metrics",
    "circulant_part": "modes",
    "decompose": "modes",
    "dft_matrix": "modes",
    "divergence_rad": "dish",
    "dof_slope": "metrics",
    "dof_threshold": "metrics",
    "edof": "metrics",
    "effective_ring": "oem",
    "effective_ring_radii": "dish",
    "equal_power": "power",
    "exponential_correlation": "channel",
    "field_at": "field",
    "field_map": "field",
    "flatten_blocks": "oem",
    "generate": "modes",
    "inter_mode_energy": "oem",
    "isr_db": "modes",
    "joint_detect": "oem",
    "kronecker": "channel",
    "los_channel": "channel",
    "matched_channel": "modes",
    "mmse": "detectors",
    "modal_channel": "modes",
    "mode_blocks": "oem",
    "mode_purity": "modes",
    "noise_variance": "metrics",
    "noncirculance": "modes",
    "nyquist_mode": "modes",
    "oem_spectral_efficiency": "oem",
    "oem_water_filling": "oem",
    "per_mode_channels": "oem",
    "qam_constellation": "ber",
    "qam_demod": "ber",
    "qam_mod": "ber",
    "ring_correlation": "channel",
    "signed_modes": "modes",
    "simulate_ber": "ber",
    "simulate_link": "simulate",
    "sinr": "metrics",
    "spectral_efficiency": "metrics",
    "water_filling": "power",
    "winding_number": "field",
    "zf": "detectors",
}

if TYPE_CHECKING:
    from .ber import BERResult, ber_theory, qam_constellation, qam_demod, qam_mod, simulate_ber
    from .channel import exponential_correlation, kronecker, los_channel, ring_correlation
    from .detectors import mmse, zf
    from .dish import divergence_rad, effective_ring_radii
    from .field import field_at, field_map, winding_number
    from .geometry import SPEED_OF_LIGHT_M_S, UCA, ULA, LinkGeometry, Pose, UCAGrid
    from .metrics import (
        capacity_equal,
        capacity_waterfill,
        dof_slope,
        dof_threshold,
        edof,
        noise_variance,
        sinr,
        spectral_efficiency,
    )
    from .modes import (
        aligned_eigenvalues,
        bessel_first_maximum,
        bessel_j,
        circulant_part,
        decompose,
        dft_matrix,
        generate,
        isr_db,
        matched_channel,
        modal_channel,
        mode_purity,
        noncirculance,
        nyquist_mode,
        signed_modes,
    )
    from .oem import (
        OEMLink,
        block_circulant_part,
        effective_ring,
        flatten_blocks,
        inter_mode_energy,
        joint_detect,
        mode_blocks,
        oem_spectral_efficiency,
        oem_water_filling,
        per_mode_channels,
    )
    from .power import equal_power, water_filling
    from .precoding import BEPRE_METHODS, BePre, bepre
    from .simulate import SCHEMES, simulate_link


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'mimo_hf.oam' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "BEPRE_METHODS",
    "SCHEMES",
    "SPEED_OF_LIGHT_M_S",
    "UCA",
    "ULA",
    "BERResult",
    "BePre",
    "LinkGeometry",
    "OEMLink",
    "Pose",
    "UCAGrid",
    "aligned_eigenvalues",
    "bepre",
    "ber_theory",
    "bessel_first_maximum",
    "bessel_j",
    "block_circulant_part",
    "capacity_equal",
    "capacity_waterfill",
    "circulant_part",
    "decompose",
    "dft_matrix",
    "divergence_rad",
    "dof_slope",
    "dof_threshold",
    "edof",
    "effective_ring",
    "effective_ring_radii",
    "equal_power",
    "exponential_correlation",
    "field_at",
    "field_map",
    "flatten_blocks",
    "generate",
    "inter_mode_energy",
    "isr_db",
    "joint_detect",
    "kronecker",
    "los_channel",
    "matched_channel",
    "mmse",
    "modal_channel",
    "mode_blocks",
    "mode_purity",
    "noise_variance",
    "noncirculance",
    "nyquist_mode",
    "oem_spectral_efficiency",
    "oem_water_filling",
    "per_mode_channels",
    "qam_constellation",
    "qam_demod",
    "qam_mod",
    "ring_correlation",
    "signed_modes",
    "simulate_ber",
    "simulate_link",
    "sinr",
    "spectral_efficiency",
    "water_filling",
    "winding_number",
    "zf",
]
