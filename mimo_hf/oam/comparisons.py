"""The experiments of `mimo-hf oam` that compare with MIMO: degrees of freedom, and OAM-embedded MIMO."""

import math
import warnings
from dataclasses import replace
from typing import Any

import torch

from . import formulas
from .channel import exponential_correlation, free_space, kronecker
from .checks import positive
from .config import Result, noise_of, parameters_of
from .geometry import ULA, altered
from .oem import OEMLink, efficiency, flatten_blocks, inter_mode_energy
from .settings import DofOptions, LinkConfig, OEMConfig, axis_label
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
        fading[rho] = torch.linalg.svdvals(kronecker(r_rx, r_tx, (num_draws,), seed=seed)).square()
    ends = [ULA(num, 2 * m) for num, m in ((config.num_tx, config.radius_tx_m), (config.num_rx, config.radius_rx_m))]
    rows = []
    for distance in distances_m:
        link = replace(config, distance_m=distance).link().to(device)
        h, ula = free_space(link), free_space(altered(link, tx=ends[0], rx=ends[1]).to(device))
        values = {"uca": torch.linalg.svdvals(h), "ula": torch.linalg.svdvals(ula)}
        for snr_db in snrs_db:
            snr = torch.tensor(snr_db, dtype=torch.float64)
            noise = formulas.noise_variance(snr, "siso", link, None)
            gains = {name: found.square() / noise[..., None] for name, found in values.items()}
            oam = simulate_link(link, snr_db, ("plain",), power="waterfill")["plain"]
            row = {
                "distance_m": distance,
                "snr_db": snr_db,
                "uca_oam": float(oam),
                **{f"{name}_mimo": float(formulas.capacity_waterfill(found)) for name, found in gains.items()},
            }
            for rho, squared in fading.items():
                samples = formulas.capacity_waterfill(
                    squared / torch.tensor([10 ** (-snr_db / 10)], dtype=torch.float64).to(device)
                )
                row[f"kronecker_{rho:g}"] = float(samples.mean())
                row[f"kronecker_{rho:g}_standard_error"] = float(samples.std()) / math.sqrt(num_draws)
            row |= {f"effective_dof_{name}": float(formulas.edof(found)) for name, found in values.items()}
            row |= {f"dof_30db_{name}": int(formulas.dof_threshold(found)) for name, found in values.items()}
            row |= {f"dof_slope_{name}": float(formulas.dof_slope(found)) for name, found in gains.items()}
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
    h = free_space(link)
    noise = positive(noise_of(config, link, h), "noise_variance")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        blocks = oem.blocks()
        rows: list[dict[str, Any]] = [
            {
                "scheme": f"OEM {detector}",
                "power": power,
                "assume": assume,
                "bit_s_hz": float(efficiency(blocks, noise, formulas.ONE, detector, power, assume)),
            }
            for detector, power, assume in OEM_ROWS
        ]
    seen = flatten_blocks(blocks)
    single = altered(link.tx, rows=1, columns=1)
    pair = free_space(altered(link, tx=single, rx=single))
    bounds = {
        "capacity, equal power": ("equal", formulas.capacity_equal(seen, noise)),
        **{
            name: ("waterfill", formulas.capacity_waterfill(formulas.channel_gains(channel, noise)))
            for name, channel in (
                ("capacity, water-filling", seen),
                ("one UCA pair without dish", pair),
                ("MIMO of the centres", oem.center_channel()),
            )
        },
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
