"""The experiments of `mimo-hf oam` that compare with MIMO: degrees of freedom, and OAM-embedded MIMO."""

import math
import warnings
from dataclasses import replace
from typing import Any

from .channel import exponential_correlation, kronecker, los_channel
from .config import Result, parameters_of
from .geometry import UCA, ULA, LinkGeometry, UCAGrid
from .metrics import (
    capacity_equal,
    capacity_waterfill,
    dof_slope,
    dof_threshold,
    edof,
    noise_variance,
)
from .oem import OEMLink, flatten_blocks, inter_mode_energy, oem_spectral_efficiency
from .settings import DofOptions, LinkConfig, OEMConfig, axis_label, wave
from .simulate import simulate_link


def run_dof(
    config: LinkConfig,
    distances_m: tuple[float, ...] = DofOptions.distances_m,
    snrs_db: tuple[float, ...] = DofOptions.snrs_db,
    rhos: tuple[float, ...] = DofOptions.rhos,
    num_draws: int = DofOptions.num_draws,
    seed: int = DofOptions.seed,
    device: str = "cpu",
) -> Result:
    """
    Capacity and degrees of freedom of the rings against lines of antennas of the same aperture, and against Kronecker
    channels; all with water-filling, and with SNR between one pair of antennas (the mean over fading for Kronecker).
    """
    DofOptions(distances_m, snrs_db, rhos, num_draws, seed)
    fading = {}
    for rho in rhos:
        r_rx, r_tx = (exponential_correlation(n, rho).to(device) for n in (config.num_rx, config.num_tx))
        fading[rho] = kronecker(r_rx, r_tx, (num_draws,), seed=seed)
    rows = []
    for distance in distances_m:
        link = replace(config, distance_m=distance).link().to(device)
        lines = LinkGeometry(
            ULA(config.num_tx, 2 * config.radius_tx_m),
            ULA(config.num_rx, 2 * config.radius_rx_m),
            link.pose,
            wavelength_m=link.wavelength_m,
        ).to(device)
        h, ula = los_channel(link), los_channel(lines)
        for snr_db in snrs_db:
            noise = noise_variance(snr_db, link=link)
            oam = simulate_link(link, snr_db, ("plain",), power="waterfill")["plain"]
            row = {
                "distance_m": distance,
                "snr_db": snr_db,
                "uca_oam": float(oam),
                "uca_mimo": float(capacity_waterfill(h, noise)),
                "ula_mimo": float(capacity_waterfill(ula, noise)),
            }
            for rho, channels in fading.items():
                samples = capacity_waterfill(channels, 10 ** (-snr_db / 10))
                row[f"kronecker_{rho:g}"] = float(samples.mean())
                row[f"kronecker_{rho:g}_standard_error"] = float(samples.std()) / math.sqrt(num_draws)
            row |= {
                "effective_dof_uca": float(edof(h)),
                "effective_dof_ula": float(edof(ula)),
                "dof_30db_uca": int(dof_threshold(h)),
                "dof_30db_ula": int(dof_threshold(ula)),
                "dof_slope_uca": float(dof_slope(h, noise)),
                "dof_slope_ula": float(dof_slope(ula, noise)),
            }
            rows.append(row)
    over_lines = sum(row["uca_oam"] > row["ula_mimo"] for row in rows)
    over_rings = sum(row["uca_oam"] > row["uca_mimo"] * (1 + 1e-9) for row in rows)
    notes = [
        "Capacities in bit/s/Hz; OAM with water-filling over modes, MIMO over singular values.",
        f"Of {len(rows)} rows, OAM exceeds the lines of antennas in {over_lines} and MIMO of its own rings in {over_rings}.",
    ]

    def draw(drawing: Any) -> Any:
        over = "distance_m" if len(distances_m) > 1 else "snr_db"
        chosen = [row for row in rows if over == "snr_db" or row["snr_db"] == snrs_db[-1]]
        names = ["uca_oam", "uca_mimo", "ula_mimo", *(f"kronecker_{rho:g}" for rho in rhos)]
        return drawing.line_chart(
            [row[over] for row in chosen],
            {name: [row[name] for row in chosen] for name in names},
            title="Capacity" + (f" at {snrs_db[-1]:g} dB" if over == "distance_m" else f" at {distances_m[0]:g} m"),
            x_label=axis_label(over),
            y_label="capacity (bit/s/Hz)",
        )

    parameters = parameters_of(
        "dof",
        config,
        distances_m=list(distances_m),
        snrs_db=list(snrs_db),
        rhos=list(rhos),
        num_draws=num_draws,
        seed=seed,
    )
    return Result("dof", parameters, {}, rows, notes, draw)


OEM_ROWS = (
    ("svd", "waterfill", "block_circulant"),
    ("zf", "equal", "block_circulant"),
    ("svd", "waterfill", "exact"),
    ("zf", "equal", "exact"),
    ("mmse", "equal", "exact"),
    ("joint_mmse", "equal", "exact"),
)


def run_oem(config: OEMConfig, device: str = "cpu") -> Result:
    """OAM-embedded MIMO: what the block-circulant assumption promises, what detectors get, and the bounds."""
    link = config.link().to(device)
    oem = OEMLink(link, config.focal_length_m, config.dish_radius_m)
    noise = noise_variance(config.snr_db, config.snr_reference, link=link, h=los_channel(link))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        blocks = oem.blocks()
        rows: list[dict[str, Any]] = [
            {
                "scheme": f"OEM {detector}",
                "power": power,
                "assume": assume,
                "bit_s_hz": float(oem_spectral_efficiency(blocks, noise, 1.0, detector, power, assume)),
            }
            for detector, power, assume in OEM_ROWS
        ]
    seen = flatten_blocks(blocks)
    single = UCAGrid(UCA(config.num_elements, config.radius_m), 1, 1, config.pitch_m)
    pair = LinkGeometry(single, single, link.pose.map_tensors(lambda t, _: t.cpu()), **wave(config))
    bounds = {
        "capacity, equal power": ("equal", capacity_equal(seen, noise)),
        "capacity, water-filling": ("waterfill", capacity_waterfill(seen, noise)),
        "one UCA pair without dish": ("waterfill", capacity_waterfill(los_channel(pair), noise)),
        "MIMO of the centres": ("waterfill", capacity_waterfill(oem.center_channel(), noise)),
    }
    rows += [
        {"scheme": name, "power": power, "assume": "exact", "bit_s_hz": float(value)}
        for name, (power, value) in bounds.items()
    ]
    share = float(inter_mode_energy(blocks))
    summary = {
        "inter_mode_energy": share,
        "gain_db_of_modes": [
            20
            * math.log10(
                float(blocks[mode, 0, mode, 0].abs() / link.wavelength_m * 4 * math.pi * link.distance_m) or 1e-300
            )
            for mode in range(config.num_elements // 2 + 1)
        ],
    }
    notes = [
        f"{share:.0%} of the channel's energy leads from one mode to another, which detection by mode takes for noise.",
        *dict.fromkeys(str(warning.message) for warning in caught),
    ]

    def draw(drawing: Any) -> Any:
        bars = {
            row["scheme"] + (", as if circulant" if row["assume"] == "block_circulant" else ""): row["bit_s_hz"]
            for row in rows
        }
        title, label = f"OAM-embedded MIMO at {config.snr_db:g} dB", "spectral efficiency (bit/s/Hz)"
        return drawing.bar_chart(list(bars), {label: list(bars.values())}, title=title, x_label=label)

    return Result("oem", parameters_of("oem", config), summary, rows, notes, draw)
