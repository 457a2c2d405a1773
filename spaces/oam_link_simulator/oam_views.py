"""The tabs that look into one link, a function each: settings in, a page out. The numbers come from `mimo_hf.oam`."""

import math
import warnings
from html import escape
from typing import Any

import torch
from oam_charts import Curve, Page, Picture, bars, cell, clouds, columns, curves, heat_map, plane, small_maps
from oam_geometry import along_the_axis, from_the_side
from oam_settings import Settings
from torch import Tensor

from mimo_hf.oam import (
    LinkGeometry,
    aligned_eigenvalues,
    equal_power,
    field_map,
    los_channel,
    matched_channel,
    modal_channel,
    mode_purity,
    noise_variance,
    noncirculance,
    qam_constellation,
    qam_mod,
    signed_modes,
    water_filling,
)
from mimo_hf.oam.ber import ls_estimate
from mimo_hf.oam.config import Result
from mimo_hf.oam.detectors import detection_filters
from mimo_hf.oam.experiments import detected_channel, precoded_channel, run_ber, run_field, run_simulate
from mimo_hf.oam.forms import as_csv
from mimo_hf.oam.presets import PRESETS

NAMES = {
    "plain": "plain OAM",
    "bepre_angle": "BePre (angle)",
    "bepre_geom": "BePre (geom)",
    "bepre_svd": "BePre (svd)",
    "mmse": "joint MMSE",
    "capacity_equal": "capacity, equal power",
    "capacity_waterfill": "capacity, water-filling",
}


def note(kind: str, content: str) -> str:
    """A paragraph of kind info, warning or error."""
    role = "alert" if kind == "error" else "note"
    word = {"info": "What you see", "warning": "Careful", "error": "Not possible"}[kind]
    return f"<p class='oam-note oam-{kind}' role='{role}'><strong>{word}.</strong> {escape(content)}</p>"


def signed(mode: int) -> str:
    return f"{mode:+d}" if mode else "0"


def status(settings: Settings) -> str:
    """What the preset is about, and the SNR that all numbers refer to."""
    snr = f"SNR {settings.snr_db:g} dB ({settings.snr_reference})"
    about = PRESETS[settings.preset].about
    return f"<p class='oam-status'><strong>{escape(settings.preset)}</strong>: {escape(about)} <em>{snr}.</em></p>"


def _distance_in_radii(link: LinkGeometry) -> float:
    tx, rx = link.rings()
    return float(link.distance_m / torch.maximum(tx.radius_m, rx.radius_m))


def _readouts(link: LinkGeometry, result: Result) -> str:
    found = result.summary
    ratio = _distance_in_radii(link)
    numbers = {
        "Wavelength λ": f"{float(link.wavelength_m) * 1000:.4g} mm",
        "Bessel argument x = kRₜRᵣ/s": cell(found["bessel_argument"]),
        "Anisotropy η": cell(found["anisotropy"]),
        "Pointing tolerance λ/(2πR)": f"{found['pointing_tolerance_deg']:.4g}°",
        "Rayleigh distance": f"{found['rayleigh_distance_m']:.4g} m",
        "Distance in radii D/R": cell(ratio),
        "Interference over signal, plain": f"{found['isr_plain_db']:.3g} dB",
        "… after BePre (geom)": f"{found['isr_bepre_geom_db']:.3g} dB",
    }
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in numbers.items())
    return f"<dl class='oam-readouts'>{cells}</dl>"


def _link_warnings(settings: Settings, link: LinkGeometry) -> str:
    found = ""
    fewer = min(settings.num_tx, settings.num_rx)
    x = float(link.bessel_argument)
    ratio = _distance_in_radii(link)
    if ratio < 10:
        found += note(
            "warning",
            f"Near field: D is {ratio:.3g} radii. This page uses exact distances; far-field formulas fail here.",
        )
    if x > fewer / 2:
        found += note(
            "warning",
            f"x = {x:.3g} is above N/2 = {fewer / 2:g}: modes alias on the rings, and the gain N·J_l(x) no longer holds.",
        )
    if settings.num_tx != settings.num_rx:
        found += note(
            "warning",
            f"{settings.num_tx} and {settings.num_rx} elements: only modes equal modulo "
            f"{math.gcd(settings.num_tx, settings.num_rx)} couple, and the {fewer} modes that both rings have are used.",
        )
    return found


def link(settings: Settings) -> Page:
    config = settings.link_config()
    geometry = config.link()
    result = run_simulate(config)
    found = result.summary["spectral_efficiency_bit_s_hz"]
    capacity = found["capacity_waterfill"]
    best = max(("bepre_angle", "bepre_geom"), key=found.__getitem__)
    story = (
        f"Plain OAM reaches {found['plain']:.1f} bit/s/Hz, {found['plain'] / capacity:.0%} of the capacity "
        f"{capacity:.1f}. {NAMES[best]} reaches {found[best]:.1f}, BePre (svd) {found['bepre_svd']:.1f}: SVD-MIMO in a "
        f"DFT costume, never above the bound. Joint MMSE without BePre gets {found['mmse']:.1f}."
    )
    shown = [(NAMES[s], found[s], "scheme") for s in settings.schemes]
    shown.append((NAMES["capacity_equal"], found["capacity_equal"], "bound"))
    picture = bars(shown, title="Spectral efficiency of this link", unit="bit/s/Hz", limit=capacity)
    rows = [{"scheme": NAMES[name], "bit/s/Hz": value} for name, value in found.items()]
    where = [from_the_side(geometry), along_the_axis(geometry)]
    return Page(
        _link_warnings(settings, geometry) + _readouts(geometry, result) + note("info", story),
        (
            Picture(
                where, "Angles and signs are those of the docs tab; the larger dot is element 0.", name="geometry"
            ),
            Picture([picture], "Every scheme on this link; dashed: the capacity.", rows, as_csv(result), "link"),
        ),
    )


def modes(settings: Settings) -> Page:
    config = settings.link_config()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the Nyquist mode, which the notes of the result name
        result = run_field(config, settings.mode, num_pixels=64)
        ring = config.link().tx
        wavelength, extent = settings.wavelength_m, result.parameters["extent_m"]
        place = {"distance_m": config.distance_m, "extent_m": extent, "wavelength_m": wavelength}
        field = field_map(ring, settings.mode, num_pixels=96, **place)
        everything = field_map(ring, num_pixels=40, **place).angle().tolist()
    number = result.summary["signed_mode"]
    title = f"Mode {signed(number)} of {config.num_tx} elements at D = {config.distance_m:g} m"
    on_axis = 20 * math.log10(max(result.summary["on_axis"] / result.summary["peak"], 1e-15))
    if "winding_number" in result.summary:
        winding = result.summary["winding_number"]
        story = f"Around the axis the phase turns {winding:+d} times. On the axis the field is {-on_axis:.0f} dB below its peak."
        if winding != number:
            story += " Aliases of other orders are stronger than the mode itself here."
        head = note("info", story)
    else:
        head = note("warning", result.notes[0])
    power = 20 * torch.log10((field.abs() / field.abs().max()).clamp(min=1e-15))
    ring_m = config.radius_rx_m
    maps = [
        plane(field.angle().tolist(), extent, title=f"Phase of mode {signed(number)}", phase=True, ring_m=ring_m),
        plane(power.tolist(), extent, title=f"Intensity of mode {signed(number)}", phase=False, ring_m=ring_m),
    ]
    of_all = signed_modes(config.num_tx).tolist()
    order = _least(of_all, 16)
    names = [f"<b>l = {signed(of_all[k])}</b>" if of_all[k] == number else f"l = {signed(of_all[k])}" for k in order]
    fronts = small_maps([everything[k] for k in order], names, extent, title="Phase fronts of all modes")
    caption = (
        f"{title}: the field that it lays on the plane of an aligned receiver; dashed: its ring. dB below the peak."
    )
    return Page(
        head,
        (
            Picture(maps, caption, (), as_csv(result), "field"),
            Picture([fronts], "Each on the same plane, coloured as the phase above.", name="fronts"),
        ),
    )


def _least(modes_: list[int], most: int) -> list[int]:
    """Places of the modes of least order, at most so many, from the most negative on."""
    order = sorted(range(len(modes_)), key=lambda k: (abs(modes_[k]), modes_[k]))[:most]
    return sorted(order, key=lambda k: modes_[k])


def interference(settings: Settings) -> Page:
    geometry = settings.link_config().link()
    precoding = "geom" if settings.precoding == "plain" else settings.precoding
    unit = float(geometry.wavelength_m / (4 * math.pi * geometry.distance_m))
    channels = {"without BePre": "plain", f"after BePre ({precoding})": precoding}
    plots: list[Any] = []
    rows: list[dict] = []
    square: dict[str, Tensor] = {}
    for title, kind in channels.items():
        g = modal_channel(precoded_channel(settings.link_config(), kind))
        square[title] = matched_channel(g)
        rx_modes, tx_modes = (signed_modes(n) for n in g.shape)
        g = g[rx_modes.argsort()][:, tx_modes.argsort()]
        rx_names, tx_names = rx_modes.sort().values.tolist(), tx_modes.sort().values.tolist()
        level = (20 * torch.log10((g.abs() / unit).clamp(min=1e-300))).clamp(min=-300)
        named = f"Power between modes, {title}"
        plots.append(heat_map(level.tolist(), rx_names, tx_names, title=named, low=-40, high=20))
        rows += [
            {"channel": title, "received_mode": r, "sent_mode": t, "power_db": float(level[m, n])}
            for m, r in enumerate(rx_names)
            for n, t in enumerate(tx_names)
        ]
    purity = {title: float(mode_purity(g).mean()) for title, g in square.items()}
    story = " ".join(
        f"{title[0].upper()}{title[1:]}, {share:.1%} of a mode's power arrives in the same mode on average."
        for title, share in purity.items()
    )
    story += f" What BePre leaves is {float(noncirculance(_circulant_test(square))):.2%} of the channel's amplitude."
    caption = "dB over λ/(4πD), the amplitude between one pair of antennas. Bright diagonal: modes stay apart."
    csv = _csv("interference", settings, rows)
    gains = _gains(settings, geometry, square)
    return Page(note("info", story), (Picture(plots, caption, rows, csv, "interference"), gains))


def _circulant_test(square: dict[str, Tensor]) -> Tensor:
    """The channel between elements that has the last of these modal channels."""
    after = list(square.values())[-1]
    return torch.fft.fft(torch.fft.ifft(after, dim=-2, norm="ortho"), dim=-1, norm="ortho")


def _gains(settings: Settings, geometry: LinkGeometry, square: dict[str, Tensor]) -> Picture:
    """Gains of the modes against the Bessel formula, and what water-filling gives them."""
    unit = float(geometry.wavelength_m / (4 * math.pi * geometry.distance_m))
    size = min(settings.num_tx, settings.num_rx)
    numbers = signed_modes(size)
    order = numbers.argsort()
    series = [(title, _decibel(g.diagonal().abs()[order] / unit)) for title, g in square.items()]
    if settings.num_tx == settings.num_rx:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # single Bessel terms beyond x = N/2: the link tab says so
            single = aligned_eigenvalues(geometry, aliases=False).abs()[order] / unit
        series.append(("aligned, N·|J_l(x)|", _decibel(single)))
    names = [signed(mode) for mode in numbers[order].tolist()]
    noise = noise_variance(settings.snr_db, settings.snr_reference, link=geometry, h=los_channel(geometry))
    after = list(square.values())[-1]
    share = water_filling(after.diagonal().abs().square()[order] / noise)
    powers = [("water-filling", (100 * share).tolist()), ("equal power", [100 / size] * size)]
    rows = [
        {
            "mode": name,
            **{f"gain_db, {title}": values[i] for title, values in series},
            "water_filling_percent": powers[0][1][i],
        }
        for i, name in enumerate(names)
    ]
    gain_title, power_title = "Gain of every mode", "Power of every mode after BePre"
    return Picture(
        [
            columns(names, series, title=gain_title, x_label="mode l", y_label="gain over one pair (dB)"),
            columns(names, powers, title=power_title, x_label="mode l", y_label="share of the power (%)"),
        ],
        "The Bessel formula holds when aligned and x is well below N/2.",
        rows,
        _csv("mode_gains", settings, rows),
        "gains",
    )


def _decibel(amplitude: Tensor) -> list[float]:
    return (20 * torch.log10(amplitude.clamp(min=1e-6))).tolist()


def _csv(experiment: str, settings: Settings, rows: list[dict]) -> str:
    parameters = run_simulate(settings.link_config()).parameters | {
        "precoding": settings.precoding,
        "seed": settings.seed,
    }
    return as_csv(Result(experiment, parameters, {}, rows, [], lambda drawing: None))


def received_symbols(settings: Settings, num_symbols: int = 250) -> tuple[Tensor, Tensor, list[int]]:
    """Symbols behind the detector at the SNR that is set, `[modes, num_symbols]`, those sent, and the modes' numbers."""
    config, order = settings.link_config(), int(settings.modulation)
    link = config.link()
    g = detected_channel(config, settings.precoding, settings.detector)
    noise = noise_variance(settings.snr_db, settings.snr_reference, link=link, h=los_channel(link))
    num_rx, num_tx = g.shape
    generator = torch.Generator().manual_seed(settings.seed)
    g = g * equal_power(num_tx).sqrt()
    sent = qam_mod(torch.randint(order, (num_tx, num_symbols), generator=generator), order)
    white = torch.randn(num_rx, num_symbols, dtype=torch.complex128, generator=generator)
    known = g if settings.pilot_snr_db is None else ls_estimate(g, noise, settings.pilot_snr_db, generator)
    filters = detection_filters(known, noise, settings.detector)
    return filters @ (g @ sent + noise.sqrt() * white), sent, signed_modes(num_tx).tolist()


def detection(settings: Settings) -> Page:
    received, _, modes_ = received_symbols(settings)
    order = _least(modes_, 8)
    names = [f"mode {signed(modes_[k])}" for k in order]
    points, ideal = received[order].tolist(), qam_constellation(int(settings.modulation)).tolist()
    seen = clouds(points, ideal, names, title="Received symbols of each mode around the points sent")
    rows = [{"mode": modes_[k], "in_phase": p.real, "quadrature": p.imag} for k in order for p in received[k].tolist()]
    link_name = "without BePre" if settings.precoding == "plain" else f"behind BePre ({settings.precoding})"
    caption = f"{settings.modulation}-QAM at {settings.snr_db:g} dB {link_name}, detector {settings.detector}; crosses: sent."
    csv = _csv("constellation", settings, rows)
    story, rates = _error_rates(settings)
    return Page(note("info", story), (Picture([seen], caption, rows, csv, "constellation"), rates))


def _error_rates(settings: Settings) -> tuple[str, Picture]:
    size = settings.num_tx if settings.detector != "mode" else min(settings.num_tx, settings.num_rx)
    snrs = tuple(float(snr) for snr in range(-4, 37, 4))
    estimates = 1 if settings.pilot_snr_db is None else 8
    result = run_ber(
        settings.link_config(),
        snrs,
        int(settings.modulation),
        num_symbols=max(200, 24_000 // (size * estimates)),
        precoding=settings.precoding,
        detector=settings.detector,
        pilot_snr_db=settings.pilot_snr_db,
        num_channels=estimates,
        seed=settings.seed,
    )
    by_snr = [[row for row in result.rows if row["snr_db"] == snr] for snr in snrs]
    lines = [
        Curve("counted, mean of modes", [sum(r["ber"] for r in rows) / size for rows in by_snr]),
        Curve("closed form, mean", [sum(r["ber_closed_form"] for r in rows) / size for rows in by_snr]),
        Curve("counted, best mode", [min(r["ber"] for r in rows) for rows in by_snr]),
        Curve("counted, worst mode", [max(r["ber"] for r in rows) for rows in by_snr]),
    ]
    picture = curves(
        snrs,
        lines,
        title="Bit error rate over SNR",
        x_label=f"SNR (dB, {settings.snr_reference})",
        y_label="bit error rate",
        log_y=True,
        at=settings.snr_db,
    )
    bits = f"{result.summary['num_bits']} bits on each mode; no errors leave a gap: less than {3 / result.summary['num_bits']:.1g}."
    worst = max(by_snr[-1], key=lambda row: row["ber"])
    story = f"At {snrs[-1]:g} dB the worst mode, {signed(worst['mode'])}, has a bit error rate of {worst['ber']:.2g}. "
    if worst["ber"] == 0:
        story = f"At {snrs[-1]:g} dB no mode had an error. "
    story += "A floor that more SNR does not lower comes from other modes, or from the channel estimate."
    return story, Picture([picture], bits, result.rows, as_csv(result), "ber")
