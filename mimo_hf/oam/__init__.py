"""OAM radio links between uniform circular arrays: exact, batched, differentiable. Conventions: README.md."""

from typing import TYPE_CHECKING

from ..lazy import lazy_names
from ..moved import moved

# A name is loaded on first use, so that the command line can read `settings.py` without torch.
_NAMES = {
    "ber": "BERResult ber_theory qam_constellation qam_demod qam_mod simulate_ber",
    "channel": "exponential_correlation kronecker los_channel ring_correlation",
    "detectors": "mmse zf",
    "dish": "divergence_rad effective_ring_radii",
    "field": "field_at field_map winding_number",
    "geometry": "LinkGeometry Pose SPEED_OF_LIGHT_M_S UCA UCAGrid ULA",
    "metrics": (
        "capacity_equal capacity_waterfill dof_slope dof_threshold edof noise_variance sinr spectral_efficiency"
    ),
    "modes": (
        "aligned_eigenvalues bessel_first_maximum bessel_j circulant_part decompose dft_matrix "
        "generate isr_db matched_channel modal_channel mode_purity noncirculance nyquist_mode "
        "signed_modes"
    ),
    "oem": (
        "OEMLink block_circulant_part effective_ring flatten_blocks inter_mode_energy joint_detect "
        "mode_blocks oem_spectral_efficiency oem_water_filling per_mode_channels"
    ),
    "power": "equal_power water_filling",
    "precoding": "BEPRE_METHODS BePre bepre",
    "simulate": "SCHEMES simulate_link",
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


moved(__name__, {"cli": "forms"})  # a Space of the last release writes its tables with what was there

__getattr__, __dir__ = lazy_names(__name__, _NAMES)


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
