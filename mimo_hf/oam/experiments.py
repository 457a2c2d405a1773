"""
The experiments behind `mimo-hf oam`: plain numbers in, a `Result` of plain numbers out, with a picture on request.

Here angles are in degrees and frequency in GHz; the tensor functions below this level take radians and Hz.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .ber import ber_theory, simulate_ber
from .channel import los_channel
from .checks import choice
from .config import Result, parameters_of
from .field import field_at, field_map, winding_number
from .geometry import SPEED_OF_LIGHT_M_S, UCA, LinkGeometry
from .metrics import noise_variance, sinr
from .modes import isr_db, matched_channel, modal_channel, mode_index, mode_purity, nyquist_mode, signed_modes
from .power import equal_power
from .precoding import bepre
from .settings import DETECTORS, PRECODINGS, BEROptions, FieldOptions, LinkConfig, SweepOptions, axis_label, wave
from .simulate import simulate_link

Progress = Callable[[int, int], None]


def _derived(link: LinkGeometry) -> dict[str, float]:
    tx, rx = link.rings()
    radius = torch.maximum(tx.radius_m, rx.radius_m)
    return {
        "bessel_argument": float(link.bessel_argument),
        "anisotropy": float(link.anisotropy),
        "pointing_tolerance_deg": math.degrees(link.pointing_tolerance_rad),
        "rayleigh_distance_m": float(2 * (2 * radius).square() / link.wavelength_m),
        "freq_ghz": SPEED_OF_LIGHT_M_S / float(link.wavelength_m) / 1e9,
    }


def power_db(amplitude: Tensor) -> Tensor:
    return 20 * torch.log10(amplitude.abs().clamp(min=1e-150))


def run_simulate(config: LinkConfig, device: str = "cpu") -> Result:
    """All schemes on one link, and every mode before and after BePre by geometry."""
    link, believed = config.link().to(device), config.link(believed=True).to(device)
    h = los_channel(link)
    noise = noise_variance(config.snr_db, config.snr_reference, link=link, h=h)
    efficiency = simulate_link(
        link, config.snr_db, snr_reference=config.snr_reference, power=config.power, believed=believed
    )
    plain, aligned = (matched_channel(modal_channel(m)) for m in (h, bepre(believed, "geom").apply(h)))
    unit = float(link.wavelength_m / (4 * math.pi * link.distance_m))
    share = equal_power(plain.shape[-1]).to(device)
    modes = signed_modes(plain.shape[-1]).tolist()
    measures = {
        "gain_db": [20 * torch.log10(g.diagonal().abs() / unit) for g in (plain, aligned)],
        "purity": [mode_purity(g) for g in (plain, aligned)],
        "sinr_db": [10 * torch.log10(sinr(g, share, noise)) for g in (plain, aligned)],
    }
    rows = [
        {
            "mode": mode,
            **{
                f"{name}_{when}": float(values[i][k])
                for name, values in measures.items()
                for i, when in ((0, "plain"), (1, "bepre_geom"))
            },
        }
        for k, mode in enumerate(modes)
    ]
    summary = {
        "spectral_efficiency_bit_s_hz": {scheme: float(value) for scheme, value in efficiency.items()},
        "isr_plain_db": float(isr_db(plain)),
        "isr_bepre_geom_db": float(isr_db(aligned)),
        **_derived(link),
    }
    notes = ["Gains are over wavelength / (4 pi D), the amplitude between one pair of antennas."]
    if nyquist_mode(len(modes)) is not None:
        notes.append(f"Mode {modes[len(modes) // 2]} is the Nyquist mode, a standing wave without a vortex.")

    def draw(drawing: Any) -> Any:
        labels = {"x_label": "sent mode", "y_label": "received mode", "scale_label": "power (dB)"}
        maps = [
            drawing.HeatMap(
                title, power_db(g / unit).tolist(), **labels, low=-40.0, high=20.0, columns=modes, rows=modes
            )
            for title, g in (("plain", plain), ("BePre (geom)", aligned))
        ]
        return drawing.heat_maps(maps, title="Power between modes, over that between one pair of antennas")

    return Result("simulate", parameters_of("simulate", config), summary, rows, notes, draw)


def run_sweep(
    config: LinkConfig,
    param: str,
    start: float,
    stop: float,
    num: int = SweepOptions.num,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """All schemes while one number of the link runs from `start` to `stop`."""
    SweepOptions(param, start, stop, num)
    if param in ("freq_ghz", "wavelength_m"):
        config = replace(config, freq_ghz=None, wavelength_m=None)
    steps = start + (stop - start) * torch.arange(num, dtype=torch.float64) / (num - 1)
    swept = replace(config, **{param: steps})
    link, believed = swept.link().to(device), swept.link(believed=True).to(device)
    snr_db = steps.to(device) if param == "snr_db" else config.snr_db
    efficiency = simulate_link(
        link,
        snr_db,
        snr_reference=config.snr_reference,
        power=config.power,
        believed=believed,
        progress=progress,
    )
    columns = {scheme: value.expand(num).tolist() for scheme, value in efficiency.items()}
    rows = [
        {param: value, **{scheme: column[i] for scheme, column in columns.items()}}
        for i, value in enumerate(steps.tolist())
    ]
    notes = ["Spectral efficiency in bit/s/Hz."]
    gap = max(columns["plain"][i] / max(columns["capacity_waterfill"][i], 1e-300) for i in range(num))
    notes.append(f"Plain OAM reaches at most {min(gap, 1.0):.1%} of the water-filling capacity of the same arrays.")

    def draw(drawing: Any) -> Any:
        return drawing.line_chart(
            steps.tolist(),
            columns,
            title=f"Spectral efficiency, SNR ({config.snr_reference})"
            + ("" if param == "snr_db" else f" {config.snr_db:g} dB"),
            x_label=axis_label(param),
            y_label="spectral efficiency (bit/s/Hz)",
        )

    swept_names = ("freq_ghz", "wavelength_m") if param in ("freq_ghz", "wavelength_m") else (param,)
    parameters = parameters_of(
        "sweep", config, param=param, start=start, stop=stop, num=num, **dict.fromkeys(swept_names)
    )
    return Result("sweep", parameters, {}, rows, notes, draw)


def precoded_channel(config: LinkConfig, precoding: str) -> Tensor:
    """The channel of a link, `"plain"` or behind a BePre that believes `angle_error_deg`, `[N_r, N_t]`."""
    choice(precoding, "precoding", PRECODINGS)
    h = los_channel(config.link())
    if precoding == "plain":
        return h
    return bepre(h if precoding == "svd" else config.link(believed=True), precoding).apply(h)


def detected_channel(config: LinkConfig, precoding: str, detector: str) -> Tensor:
    """The modal channel as a detector sees it: matched modes for `"mode"`, all modes for joint detection."""
    g = modal_channel(precoded_channel(config, precoding))
    return matched_channel(g) if choice(detector, "detector", DETECTORS) == "mode" else g


def run_ber(
    config: LinkConfig,
    snrs_db: tuple[float, ...] = BEROptions.snrs_db,
    order: int = BEROptions.order,
    num_symbols: int = BEROptions.num_symbols,
    precoding: str = BEROptions.precoding,
    detector: str = BEROptions.detector,
    pilot_snr_db: float | None = BEROptions.pilot_snr_db,
    num_channels: int = BEROptions.num_channels,
    seed: int = BEROptions.seed,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """
    Bit error rate of every mode over SNR, with 95 % intervals and the closed form at the same SINR. With unequal counts
    detection by mode uses the modes that both rings have; joint detection sends all and receives all.
    """
    BEROptions(snrs_db, order, num_symbols, precoding, detector, pilot_snr_db, num_channels, seed)
    link = config.link().to(device)
    g = detected_channel(config, precoding, detector).to(device)
    noise = noise_variance(
        torch.tensor(snrs_db, dtype=torch.float64), config.snr_reference, link=link, h=los_channel(link)
    )
    share = equal_power(g.shape[-1]).to(device)
    result = simulate_ber(
        g,
        noise,
        share,
        order=order,
        num_symbols=num_symbols,
        num_channels=num_channels,
        seed=seed,
        detector=detector,
        csi="perfect" if pilot_snr_db is None else "ls",
        pilot_snr_db=pilot_snr_db,
        progress=progress,
    )
    low, high = result.interval()
    theory = ber_theory(sinr(g, share, noise, detector), order)
    modes = signed_modes(g.shape[-1]).tolist()
    rows = [
        {
            "snr_db": snr_db,
            "mode": mode,
            "ber": float(result.ber[i, k]),
            "ber_low": float(low[i, k]),
            "ber_high": float(high[i, k]),
            "ber_closed_form": float(theory[i, k]),
            "bit_errors": int(result.bit_errors[i, k]),
        }
        for i, snr_db in enumerate(snrs_db)
        for k, mode in enumerate(modes)
    ]
    notes = [
        "The closed form takes interference for Gaussian noise: exact where modes do not interfere and CSI is perfect.",
        f"{result.num_bits} bits on each mode; no errors mean a rate below the end of the interval, not zero.",
    ]

    def draw(drawing: Any) -> Any:
        curves = {f"mode {mode:+d}": result.ber[:, k].tolist() for k, mode in enumerate(modes)}
        curves["closed form, mean"] = theory.mean(dim=-1).clamp(min=1e-7).tolist()
        return drawing.line_chart(
            list(snrs_db),
            curves,
            title=f"{precoding}, {order}-QAM, detector {detector}",
            x_label=axis_label("snr_db"),
            y_label="bit error rate",
            log_y=True,
        )

    parameters = parameters_of(
        "ber",
        config,
        snrs_db=list(snrs_db),
        order=order,
        num_symbols=num_symbols,
        num_channels=num_channels,
        precoding=precoding,
        detector=detector,
        pilot_snr_db=pilot_snr_db,
        seed=seed,
    )
    return Result("ber", parameters, {"num_bits": result.num_bits}, rows, notes, draw)


def run_field(
    config: LinkConfig,
    mode: int = FieldOptions.mode,
    extent_m: float | None = FieldOptions.extent_m,
    num_pixels: int = FieldOptions.num_pixels,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Result:
    """Phase and intensity of one mode of the transmit ring on a plane across the axis."""
    FieldOptions(mode, extent_m, num_pixels)
    uca = UCA(config.num_tx, config.radius_tx_m)
    carrier = wave(config)
    index = mode_index(mode, config.num_tx)
    signed = int(signed_modes(config.num_tx)[index])
    extent = 4 * config.radius_tx_m if extent_m is None else extent_m
    ring = uca.map_tensors(lambda tensor, _: tensor.to(device))
    image = field_map(
        ring,
        mode,
        distance_m=config.distance_m,
        extent_m=torch.as_tensor(extent, dtype=torch.float64, device=device),
        num_pixels=num_pixels,
        progress=progress,
        **carrier,
    ).cpu()
    on_axis = field_at(uca, torch.tensor([[0.0, 0.0, config.distance_m]], dtype=torch.float64), mode, **carrier)
    summary: dict[str, Any] = {
        "signed_mode": signed,
        "peak": float(image.abs().max()),
        "on_axis": float(on_axis.abs()),
    }
    notes = []
    if index == nyquist_mode(config.num_tx):
        notes.append(f"Mode {mode} is the Nyquist mode of {config.num_tx} elements: a standing wave without a vortex.")
    else:
        summary["winding_number"] = winding_number(uca, mode, distance_m=config.distance_m, **carrier)
    axis = [extent * (i / (num_pixels - 1) - 0.5) for i in range(num_pixels)]
    size, angle = image.abs().tolist(), image.angle().tolist()
    rows = [
        {"x_m": x, "y_m": y, "amplitude": size[j][i], "phase_rad": angle[j][i]}
        for j, y in enumerate(axis)
        for i, x in enumerate(axis)
    ]

    def draw(drawing: Any) -> Any:
        plane = {"x_label": "x (m)", "y_label": "y (m)", "extent": (axis[0], axis[-1]) * 2}
        maps = [
            drawing.HeatMap(
                "phase", image.angle(), **plane, scale_label="phase (rad)", low=-math.pi, high=math.pi, cyclic=True
            ),
            drawing.HeatMap(
                "intensity",
                power_db(image / image.abs().max()),
                **plane,
                scale_label="dB below the peak",
                low=-40.0,
                high=0.0,
            ),
        ]
        return drawing.heat_maps(maps, title=f"Mode {signed:+d} at {config.distance_m:g} m")

    parameters = parameters_of("field", config, mode=mode, extent_m=extent, num_pixels=num_pixels)
    return Result("field", parameters, summary, rows, notes, draw)
