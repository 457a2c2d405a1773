"""The tabs that compare rates: all schemes over a sweep, OAM against MIMO, and OEM. Settings in, a page out."""

from collections.abc import Callable
from dataclasses import replace

from oam_charts import Curve, Page, Picture, bars, columns, curves
from oam_settings import CONTROLS, Settings
from oam_views import NAMES, note

from mimo_hf.oam.comparisons import run_dof, run_oem
from mimo_hf.oam.config import Result
from mimo_hf.oam.experiments import run_sweep
from mimo_hf.oam.forms import as_csv
from mimo_hf.oam.settings import axis_label


def _lines(result: Result, settings: Settings) -> list[Curve]:
    lines = [Curve(NAMES[s], [row[s] for row in result.rows]) for s in settings.schemes]
    bound = [row["capacity_waterfill"] for row in result.rows]
    lines.append(Curve(NAMES["capacity_equal"], [row["capacity_equal"] for row in result.rows]))
    return [*lines, Curve(NAMES["capacity_waterfill"], bound, bound=True)]


def efficiency(settings: Settings) -> Page:
    config = settings.link_config()
    over_snr = run_sweep(config, "snr_db", -10.0, 40.0, 51)
    start, stop, num = settings.sweep_start, settings.sweep_stop, settings.sweep_num
    if start == stop:
        ends = (CONTROLS[name].label for name in ("sweep_start", "sweep_stop"))
        raise ValueError(f"{' and '.join(ends)} of the sweep must differ; got {start:g} twice.")
    swept = run_sweep(config, settings.sweep, min(start, stop), max(start, stop), num)
    label = axis_label(settings.sweep)
    name = label.rpartition(" (")[0]
    gap = [row["plain"] / max(row["capacity_waterfill"], 1e-300) for row in swept.rows]
    low = min(range(num), key=lambda i: gap[i])
    story = (
        f"Over this range plain OAM keeps between {min(gap):.1%} and {min(max(gap), 1):.1%} of the capacity of its own "
        f"arrays, least at {label} = {swept.rows[low][settings.sweep]:.4g}. No curve crosses the thick one: OAM is a "
        "subset of MIMO."
    )
    now = getattr(settings, settings.sweep)
    over = curves(
        [row[settings.sweep] for row in swept.rows],
        _lines(swept, settings),
        title=f"Over {name}",
        x_label=label,
        at=now,
    )
    louder = curves(
        [row["snr_db"] for row in over_snr.rows],
        _lines(over_snr, settings),
        title="Over SNR",
        x_label=f"SNR (dB, {settings.snr_reference})",
        at=settings.snr_db,
    )
    snr = "as swept" if settings.sweep == "snr_db" else f"{settings.snr_db:g} dB"
    return Page(
        note("info", story),
        (
            Picture([over], f"SNR {snr}, reference {settings.snr_reference}.", swept.rows, as_csv(swept), "sweep"),
            Picture([louder], "The link as set, over SNR.", over_snr.rows, as_csv(over_snr), "snr"),
        ),
    )


def mimo(settings: Settings) -> Page:
    low, high = sorted((settings.mimo_start_m, settings.mimo_stop_m))
    if low == high:
        ends = (CONTROLS[name].label for name in ("mimo_start_m", "mimo_stop_m"))
        raise ValueError(f"{' and '.join(ends)} must differ; got {low:g} twice.")
    config = settings.link_config()
    size = max(settings.num_tx, settings.num_rx)
    draws = max(20, min(100, 6_400 // size**2))
    distances = tuple((low * (high / low) ** (i / 29)) for i in range(30))
    snrs = tuple(sorted({0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, settings.snr_db}))
    over_distance = run_dof(config, distances, (settings.snr_db,), rhos=())
    over_snr = run_dof(config, (settings.distance_m,), snrs, num_draws=draws, seed=settings.seed)
    here = next(row for row in over_snr.rows if row["snr_db"] == settings.snr_db)

    def baselines(rows: list[dict], fading: Callable[[str], list[float]]) -> list[Curve]:
        lines = [Curve("OAM, water-filling", [row["uca_oam"] for row in rows])]
        lines.append(Curve("line arrays (ULA)", [row["ula_mimo"] for row in rows]))
        lines += [Curve(f"Kronecker, ρ = {rho}", fading(f"kronecker_{rho}")) for rho in ("0", "0.5", "0.9")]
        return [*lines, Curve("capacity of the rings", [row["uca_mimo"] for row in rows], bound=True)]

    wins = sum(row["uca_oam"] > row["ula_mimo"] for row in over_distance.rows)
    story = (
        f"At {settings.snr_db:g} dB, OAM beats line arrays of the same aperture at {wins} of {len(distances)} distances, and "
        f"never the MIMO capacity of its own rings. At D = {settings.distance_m:g} m: OAM {here['uca_oam']:.1f}, rings "
        f"{here['uca_mimo']:.1f}, lines {here['ula_mimo']:.1f}, fading with ρ = 0.9: {here['kronecker_0.9']:.1f} bit/s/Hz. "
        f"Effective degrees of freedom: rings {here['effective_dof_uca']:.2f}, lines {here['effective_dof_ula']:.2f}."
    )
    if config.tilt_deg or config.off_axis_deg:
        story += " The link is misaligned, and OAM goes without BePre here: align it for the papers' comparison."
    near = curves(
        distances,
        baselines(over_distance.rows, lambda name: [here[name]] * len(distances)),
        title="Over distance",
        x_label="Distance D (m)",
        y_label="capacity (bit/s/Hz)",
        log_x=True,
        at=settings.distance_m,
    )
    loud = curves(
        snrs,
        baselines(over_snr.rows, lambda name: [row[name] for row in over_snr.rows]),
        title=f"At D = {settings.distance_m:g} m",
        x_label="SNR (dB, siso)",
        y_label="capacity (bit/s/Hz)",
        at=settings.snr_db,
    )
    dof = curves(
        distances,
        [
            Curve("effective, rings", [row["effective_dof_uca"] for row in over_distance.rows]),
            Curve("effective, lines", [row["effective_dof_ula"] for row in over_distance.rows]),
            Curve("within 30 dB, rings", [float(row["dof_30db_uca"]) for row in over_distance.rows]),
            Curve("within 30 dB, lines", [float(row["dof_30db_ula"]) for row in over_distance.rows]),
        ],
        title="Degrees of freedom",
        x_label="Distance D (m)",
        y_label="degrees of freedom",
        log_x=True,
        at=settings.distance_m,
    )
    fading_note = f"Kronecker channels have no distance: mean of {draws} draws. The shade lies above the capacity of the rings: it binds OAM, not the other arrays."
    filled = f"Water-filling everywhere; SNR of one antenna pair; seed {settings.seed}."
    free = "Effective: (Σσ²)²/Σσ⁴. The numeric rank is always N in exact line of sight, and says nothing."
    return Page(
        note("info", story),
        (
            Picture([near], fading_note, over_distance.rows, as_csv(over_distance), "mimo-distance"),
            Picture([loud], filled, over_snr.rows, as_csv(over_snr), "mimo-snr"),
            Picture([dof], free, over_distance.rows, None, "dof"),
        ),
    )


def oem(settings: Settings) -> Page:
    config = settings.oem_config()
    result = run_oem(config)
    promised = max(row["bit_s_hz"] for row in result.rows if row["assume"] == "block_circulant")
    found = {(row["scheme"], row["assume"]): row["bit_s_hz"] for row in result.rows}
    capacity = found["capacity, water-filling", "exact"]
    zf, joint = found["OEM zf", "exact"], found["OEM joint_mmse", "exact"]
    share = result.summary["inter_mode_energy"]
    head = note(
        "info",
        f"{share:.0%} of the channel's energy leads from one mode to another. Detection mode by mode gets {zf:.1f} bit/s/Hz, "
        f"joint MMSE {joint:.1f}, the capacity is {capacity:.1f}; the scheme's algebra promises {promised:.1f}.",
    )
    if promised > capacity * (1 + 1e-9):
        head += note(
            "warning",
            f"“Ideal” OEM promises {promised:.1f} bit/s/Hz, {promised / capacity:.2f} times the Shannon capacity {capacity:.1f} of "
            "the same geometry. It leaves out the energy between modes: the assumption of circulant blocks is not physical here.",
        )
    kinds = {"block_circulant": "ideal: blocks taken as circulant", "exact": "exact line of sight"}
    shown = [
        (row["scheme"] + (", WF" if row["power"] == "waterfill" else ""), row["bit_s_hz"], kinds[row["assume"]])
        for row in result.rows
    ]
    picture = bars(
        [entry for entry in shown if not entry[0].startswith("capacity, water")],
        title="OAM-embedded MIMO",
        unit="bit/s/Hz",
        limit=capacity,
    )
    caption = f"SNR {settings.snr_db:g} dB ({settings.snr_reference}). WF: water-filling; otherwise equal power."
    first = Picture([picture], caption, result.rows, as_csv(result), "oem")
    return Page(head, (first, _oem_over_distance(settings), _oem_gains(settings, result)))


def _oem_over_distance(settings: Settings) -> Picture:
    config = settings.oem_config()
    size = config.rows * config.columns * config.num_elements
    num = 5 if config.focal_length_m is not None else 11 if size <= 32 else 7 if size <= 64 else 3
    distances = [config.distance_m * 10 ** (-0.75 + 1.75 * i / (num - 1)) for i in range(num)]
    distances = [d for d in distances if d >= 2 * settings.wavelength_m] or [config.distance_m]
    runs = [run_oem(replace(config, distance_m=distance)).rows for distance in distances]
    table = [
        {"distance_m": d, **{f"{row['scheme']}, {row['assume']}": row["bit_s_hz"] for row in rows}}
        for d, rows in zip(distances, runs, strict=True)
    ]
    lines = [
        Curve(name, [row[key] for row in table], bound=name == "capacity")
        for name, key in (
            ("ideal, WF", "OEM svd, block_circulant"),
            ("ZF by mode", "OEM zf, exact"),
            ("joint MMSE", "OEM joint_mmse, exact"),
            ("MIMO of the centres", "MIMO of the centres, exact"),
            ("capacity", "capacity, water-filling, exact"),
        )
    ]
    picture = curves(
        distances, lines, title="Over distance", x_label="Distance of the grids (m)", log_x=True, at=config.distance_m
    )
    csv = as_csv(replace(run_oem(config), rows=table, summary={}, notes=[]))
    caption = "“Ideal” may enter the shade: it is an assumption, not a scheme. What is exact never does."
    return Picture([picture], caption, table, csv, "oem-distance")


def _oem_gains(settings: Settings, result: Result) -> Picture:
    config = settings.oem_config()
    series = [("with dish" if config.focal_length_m else "as set", result.summary["gain_db_of_modes"])]
    if config.focal_length_m:
        series.append(("without dish", run_oem(replace(config, focal_length_m=None)).summary["gain_db_of_modes"]))
    floor = [(name, [max(value, -160.0) for value in values]) for name, values in series]
    rows = [{"mode": k, **{f"gain_db, {name}": values[k] for name, values in floor}} for k in range(len(floor[0][1]))]
    csv = as_csv(replace(result, rows=rows, summary={}, notes=[]))
    picture = columns(
        [str(k) for k in range(len(floor[0][1]))],
        floor,
        title="Gain of the modes of one UCA pair",
        x_label="mode l",
        y_label="gain (dB)",
    )
    caption = (
        "Over λ/(4πD), in the first UCA pair. Set a focal length to compare with dishes that make the beams converge."
    )
    return Picture([picture], caption, rows, csv, "oem-gains")
