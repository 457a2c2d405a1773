"""
What the abstracts of three OAM papers claim, computed: confirmed, refuted, or true only under a condition.

    python benchmarks/oam_claims.py           # seconds

Papers: BePre, arXiv 2408.07105; OAM-embedded MIMO (OEM), arXiv 2408.07103; OAM versus MIMO, arXiv 2408.06588. Only their
abstracts could be read: the settings are this benchmark's own, and no table stands for a figure of a paper. SNR is that
between one pair of antennas; every channel is exact line of sight between isotropic elements.
"""

import argparse
import math
import warnings

import torch
from _record import record

from mimo_hf.oam import (
    UCA,
    LinkGeometry,
    Pose,
    bepre,
    capacity_equal,
    edof,
    equal_power,
    exponential_correlation,
    kronecker,
    los_channel,
    modal_channel,
    noise_variance,
    noncirculance,
    simulate_link,
    spectral_efficiency,
)
from mimo_hf.oam.comparisons import run_dof, run_oem
from mimo_hf.oam.config import LinkConfig, OEMConfig

RING = UCA(8, 0.5)
WAVELENGTH_M = 0.01


def ring_link(distance_m=50.0, **angles_deg) -> LinkGeometry:
    angles = {f"{name}_rad": torch.as_tensor(value).double().deg2rad() for name, value in angles_deg.items()}
    return LinkGeometry(RING, RING, Pose.from_angles(distance_m, **angles), wavelength_m=WAVELENGTH_M)


def over_angle(name: str, values: list[float], azimuth_name: str, azimuth: float) -> list[dict]:
    link = ring_link(**{name: values, azimuth_name: azimuth})
    results = simulate_link(link, 20.0)
    circulance = {
        f"noncirculance_{method}": noncirculance(bepre(link, method).apply(los_channel(link)))
        for method in ("geom", "svd")
    }
    expected = link.anisotropy / math.sqrt(2)
    columns = {**results, **circulance, "anisotropy_over_root_2": expected}
    return [
        {f"{name}_deg": value, **{column: float(entries[i]) for column, entries in columns.items()}}
        for i, value in enumerate(values)
    ]


def pointing(errors_deg: list[float]) -> list[dict]:
    true, believed = (
        ring_link(tilt=10.0, tilt_azimuth=25.0),
        ring_link(tilt=[10 + e for e in errors_deg], tilt_azimuth=25.0),
    )
    reached = simulate_link(true, 20.0, ("bepre_angle", "bepre_geom"), believed=believed)
    return [
        {"error_deg": error, **{scheme: float(value[i]) for scheme, value in reached.items()}}
        for i, error in enumerate(errors_deg)
    ]


def csi(pilots_db: list[float], seed: int, num_draws: int = 400) -> list[dict]:
    """BePre by SVD of an estimated channel; the receiver detects with the true gains behind it."""
    link = ring_link(tilt=20.0, tilt_azimuth=25.0)
    h, noise = los_channel(link), noise_variance(20.0, link=link)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for pilot_db in pilots_db:
        error = torch.randn(num_draws, 8, 8, dtype=torch.complex128, generator=generator)
        estimate = h + (noise / 10 ** (pilot_db / 10)).sqrt() * error
        samples = spectral_efficiency(modal_channel(bepre(estimate).apply(h)), equal_power(8), noise)
        rows.append(
            {
                "pilot_snr_db": pilot_db,
                "bepre_svd": float(samples.mean()),
                "standard_error": float(samples.std()) / math.sqrt(num_draws),
                "with_known_channel": float(capacity_equal(h, noise)),
            }
        )
    return rows


def oem_table(**settings) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the promise exceeds the capacity is in the table
        result = run_oem(OEMConfig(**settings))
    rates = {f"{row['scheme']} ({row['power']}, {row['assume']})": row["bit_s_hz"] for row in result.rows}
    return {"inter_mode_energy": result.summary["inter_mode_energy"], **rates}


def correlated_dof(rhos: list[float], seed: int, num_draws: int = 2000) -> list[dict]:
    rows = []
    for rho in rhos:
        r = exponential_correlation(8, rho)
        samples = edof(kronecker(r, r, (num_draws,), seed=seed))
        rows.append({"rho": rho, "effective_dof": float(samples.mean())})
    return rows


def verdicts(tables: dict) -> list[dict]:
    """Each claim with what the tables say of it; the conditions are tested, not written down."""
    tilt = tables["bepre_over_tilt"]
    tilted = [row for row in tilt if row["tilt_deg"] > 0]
    near, far, dish, plain = (tables[f"oem_{name}"] for name in ("5_m", "50_m", "dish", "without_dish"))
    promise, single = "OEM svd (waterfill, block_circulant)", "one UCA pair without dish (waterfill, exact)"
    capacity = "capacity, water-filling (waterfill, exact)"
    dof = tables["capacity_over_distance"]
    high = [row for row in dof if row["snr_db"] >= 20]
    oam_dof = {row["distance_m"]: row["effective_dof_uca"] for row in dof}
    ula_dof = {row["distance_m"]: row["effective_dof_ula"] for row in dof}
    correlated = {row["rho"]: row["effective_dof"] for row in tables["effective_dof_of_kronecker_channels"]}

    def verdict(always: bool, sometimes: bool) -> str:
        return "confirmed" if always else "only under" if sometimes else "refuted"

    def exceptions(rows: list[dict], baseline: str) -> str:
        """Where the baseline is ahead."""
        lost = [f"{row['distance_m']:g} m at {row['snr_db']:g} dB" for row in rows if row["uca_oam"] <= row[baseline]]
        return ", ".join(lost) or "nowhere"

    multiplied = 4 * near[single]

    return [
        {
            "paper": "BePre",
            "claim": "two unitary matrices make a misaligned channel circulant",
            "verdict": verdict(
                all(row["noncirculance_geom"] < 1e-9 for row in tilted),
                all(row["noncirculance_svd"] < 1e-9 for row in tilted),
            ),
            "condition": "exactly with channel knowledge (svd); by diagonal phases from angles up to the anisotropy",
            "parameters": "N = 8, R = 0.5 m, wavelength 1 cm, D = 50 m, tilt 5 to 60 deg",
        },
        {
            "paper": "BePre",
            "claim": "the spectrum efficiency of a misaligned link rises a lot",
            "verdict": verdict(
                all(row["bepre_angle"] > row["plain"] + 5 for row in tilted if row["tilt_deg"] <= 45), True
            ),
            "condition": f"angles known to well below {math.degrees(float(ring_link().pointing_tolerance_rad)):.2f} deg",
            "parameters": "as above, tilt 5 to 45 deg, 20 dB, equal power",
        },
        {
            "paper": "OEM",
            "claim": "spectrum efficiency multiplies: gain of modes times gain of UCAs",
            "verdict": verdict(near["OEM zf (equal, exact)"] > 0.9 * multiplied, near[promise] > 0.9 * multiplied),
            "condition": f"blocks between UCAs taken as circulant (4 times one pair is {multiplied:.1f}); in exact line of sight detection by mode gets "
            f"{near['OEM zf (equal, exact)']:.1f} of {near[promise]:.1f} bit/s/Hz, joint MMSE "
            f"{near['OEM joint_mmse (equal, exact)']:.1f}; at 50 m the promise is "
            f"{far[promise] / far[capacity]:.2f} times the capacity",
            "parameters": "2 x 2 UCAs, L = 8, R = 0.1 m, pitch 0.3 m, wavelength 1 cm, D = 5 m, 20 dB",
        },
        {
            "paper": "OEM",
            "claim": "a converging dish carries higher modes",
            "verdict": verdict(dish[capacity] > plain[capacity], False),
            "condition": "effective-ring model; the gain is that of a larger aperture, which MIMO could use as well",
            "parameters": "one pair, L = 8, R = 3 cm, f = 1 m, wavelength 1 cm, D = 20 m, 20 dB",
        },
        {
            "paper": "OAM versus MIMO",
            "claim": "aligned, OAM has at least the degrees of freedom of correlated MIMO",
            "verdict": verdict(
                all(oam_dof[d] >= max(ula_dof[d], correlated[0.9]) for d in oam_dof),
                any(oam_dof[d] >= max(ula_dof[d], correlated[0.9]) for d in oam_dof),
            ),
            "condition": "effective degrees of freedom; not below those of two lines of antennas at "
            f"{[d for d in oam_dof if oam_dof[d] >= ula_dof[d]]} m, below them at "
            f"{[d for d in oam_dof if oam_dof[d] < ula_dof[d]]} m; above Kronecker rho = 0.9 at "
            f"{[d for d in oam_dof if oam_dof[d] >= correlated[0.9]]} m",
            "parameters": "8 elements, aperture 1 m, wavelength 1 cm",
        },
        {
            "paper": "OAM versus MIMO",
            "claim": "in line of sight at high SNR, OAM has more capacity than strongly correlated MIMO",
            "verdict": verdict(
                all(row["uca_oam"] > row["kronecker_0.9"] for row in high),
                any(row["uca_oam"] > row["kronecker_0.9"] for row in high),
            ),
            "condition": f"against Kronecker rho = 0.9; less {exceptions(high, 'kronecker_0.9')}",
            "parameters": "as above, 20 and 30 dB, water-filling",
        },
        {
            "paper": "OAM versus MIMO",
            "claim": "the same against MIMO of two lines of antennas in line of sight",
            "verdict": verdict(
                all(row["uca_oam"] > row["ula_mimo"] for row in high),
                any(row["uca_oam"] > row["ula_mimo"] for row in high),
            ),
            "condition": f"less {exceptions(high, 'ula_mimo')}, "
            "where Bessel zeros silence modes or the lines are near their best spacing",
            "parameters": "as above, 20 and 30 dB, water-filling",
        },
        {
            "paper": "Edfors and Johansson 2012",
            "claim": "OAM adds no capacity to MIMO of the same arrays",
            "verdict": verdict(all(row["uca_oam"] <= row["uca_mimo"] * (1 + 1e-9) for row in dof), False),
            "condition": "equal when aligned and water-filled, never more",
            "parameters": "all rows of the capacity table",
        },
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print the verdicts and write nothing")
    args = parser.parse_args()
    distances = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
    tables = {
        "bepre_over_tilt": over_angle("tilt", [0.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0], "tilt_azimuth", 25.0),
        "bepre_over_off_axis_angle": over_angle("off_axis", [1.0, 2.0, 5.0, 10.0, 20.0, 30.0], "azimuth", 40.0),
        "pointing_tolerance": pointing([0.0, 0.01, 0.05, 0.1, 0.2]),
        "channel_estimation": csi([0.0, 10.0, 20.0], args.seed),
        "oem_5_m": oem_table(distance_m=5.0),
        "oem_50_m": oem_table(distance_m=50.0),
        "oem_dish": oem_table(rows=1, columns=1, radius_m=0.03, distance_m=20.0, focal_length_m=1.0),
        "oem_without_dish": oem_table(rows=1, columns=1, radius_m=0.03, distance_m=20.0),
        "capacity_over_distance": run_dof(LinkConfig(), distances, num_draws=1000, seed=args.seed).rows,
        "effective_dof_of_kronecker_channels": correlated_dof([0.0, 0.5, 0.9], args.seed),
    }
    claims = verdicts(tables)
    for claim in claims:
        print(f"{claim['verdict']:>10}  {claim['paper']}: {claim['claim']}\n            {claim['condition']}")
    if not args.dry_run:
        print(f"wrote {record('oam_claims', {'claims': claims, **tables}, seed=args.seed, timed=False)}")


if __name__ == "__main__":
    main()
