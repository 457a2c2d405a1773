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

from . import formulas
from .ber import count_errors
from .channel import free_space
from .checks import choice, positive, random_generator
from .config import Result, noise_of, parameters_of
from .detectors import separable
from .field import plane, superpose, turns, warn_of_evanescent_mode
from .geometry import SPEED_OF_LIGHT_M_S, UCA, LinkGeometry, wavelength
from .modes import matched_channel, modal_channel, mode_index, nyquist_mode
from .precoding import of_channel, of_geometry
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
    link = config.link().to(device)
    believed = config.believed(link)
    h = free_space(link)
    efficiency = simulate_link(
        link, config.snr_db, snr_reference=config.snr_reference, power=config.power, believed=believed
    )
    noise = noise_of(config, link, h)
    plain, aligned = (matched_channel(modal_channel(m)) for m in (h, of_geometry(believed, "geom").apply(h)))
    unit = float(link.wavelength_m / (4 * math.pi * link.distance_m))
    share = formulas.equal_power(plain.shape[-1]).to(device)
    modes = formulas.signed_modes(plain.shape[-1]).tolist()
    measures = {
        "gain_db": [20 * torch.log10(g.diagonal().abs() / unit) for g in (plain, aligned)],
        "purity": [formulas.mode_purity(g) for g in (plain, aligned)],
        "sinr_db": [10 * torch.log10(formulas.sinr(g, share, noise)) for g in (plain, aligned)],
    }
    columns = {name: [values.tolist() for values in both] for name, both in measures.items()}
    rows = [
        {
            "mode": mode,
            **{
                f"{name}_{when}": values[i][k]
                for name, values in columns.items()
                for i, when in ((0, "plain"), (1, "bepre_geom"))
            },
        }
        for k, mode in enumerate(modes)
    ]
    summary = {
        "spectral_efficiency_bit_s_hz": {scheme: float(value) for scheme, value in efficiency.items()},
        "isr_plain_db": float(formulas.isr_db(plain)),
        "isr_bepre_geom_db": float(formulas.isr_db(aligned)),
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
    link = swept.link().to(device)
    snr_db = steps.to(device) if param == "snr_db" else config.snr_db
    efficiency = simulate_link(
        link,
        snr_db,
        snr_reference=config.snr_reference,
        power=config.power,
        believed=swept.believed(link),
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
    link = config.link()
    return _precoded(config, link, free_space(link), precoding)


def _precoded(config: LinkConfig, link: LinkGeometry, h: Tensor, precoding: str) -> Tensor:
    if precoding == "plain":
        return h
    return (of_channel(h) if precoding == "svd" else of_geometry(config.believed(link), precoding)).apply(h)


def detected_channel(config: LinkConfig, precoding: str, detector: str) -> Tensor:
    """The modal channel as a detector sees it: matched modes for `"mode"`, all modes for joint detection."""
    choice(detector, "detector", DETECTORS)
    return _seen_by(detector, modal_channel(precoded_channel(config, precoding)))


def _seen_by(detector: str, g: Tensor) -> Tensor:
    return matched_channel(g) if detector == "mode" else separable(g) if detector == "zf" else g


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
    h = free_space(link)
    g = _seen_by(detector, modal_channel(_precoded(config, link, h, precoding)))
    noise = noise_of(config, link, h, torch.tensor(snrs_db, dtype=torch.float64, device=h.device))
    positive(noise, "noise_variance")
    share = formulas.equal_power(g.shape[-1]).to(device)
    generator = random_generator(seed)
    result = count_errors(
        g, noise, share, order, num_symbols, num_channels, generator, detector, pilot_snr_db, progress=progress
    )
    theory = formulas.bit_error_rate(formulas.sinr(g, share, noise, detector), order)
    found = (result.ber, *result.interval(), theory, result.bit_errors)
    ber, low, high, closed, errors = (values.tolist() for values in found)
    modes = formulas.signed_modes(g.shape[-1]).tolist()
    rows = [
        {
            "snr_db": snr_db,
            "mode": mode,
            "ber": ber[i][k],
            "ber_low": low[i][k],
            "ber_high": high[i][k],
            "ber_closed_form": closed[i][k],
            "bit_errors": errors[i][k],
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
    waves_m = wavelength(**wave(config))
    index = mode_index(mode, config.num_tx)
    signed = int(formulas.signed_modes(config.num_tx)[index])
    extent = 4 * config.radius_tx_m if extent_m is None else extent_m
    ring = uca.map_tensors(lambda tensor, _: tensor.to(device))
    warn_of_evanescent_mode(uca, index, waves_m)
    across = torch.tensor((config.distance_m, extent), dtype=torch.float64, device=device)
    points = plane(across[0], across[1], num_pixels)
    image = (
        superpose(ring, points, index, waves_m.to(device), progress=progress).unflatten(-1, (num_pixels,) * 2).cpu()
    )
    on_axis = superpose(uca, torch.tensor([[0.0, 0.0, config.distance_m]], dtype=torch.float64), index, waves_m)
    summary: dict[str, Any] = {
        "signed_mode": signed,
        "peak": float(image.abs().max()),
        "on_axis": float(on_axis.abs()),
    }
    notes = []
    if index == nyquist_mode(config.num_tx):
        notes.append(f"Mode {mode} is the Nyquist mode of {config.num_tx} elements: a standing wave without a vortex.")
    else:
        summary["winding_number"] = turns(uca, signed, config.distance_m, waves_m)
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
