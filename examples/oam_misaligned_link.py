"""
Two rings of antennas, one of them tilted: what plain OAM loses, and what BePre brings back.

    python examples/oam_misaligned_link.py
    python examples/oam_misaligned_link.py --num_elements 16 --distance_m 100 --max_tilt_deg 30 --plot outputs/tilt.png

The first columns need only the geometry, `svd` needs the channel itself and then is SVD-MIMO by another name; nothing
exceeds the last column, the capacity of the same antennas.
"""

import argparse
import math
from pathlib import Path

import torch

from mimo_hf import drawing
from mimo_hf.oam import UCA, LinkGeometry, Pose, simulate_link

SCHEMES = ("plain", "bepre_angle", "bepre_geom", "bepre_svd", "mmse", "capacity_waterfill")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_elements", type=int, default=8)
    parser.add_argument("--radius_m", type=float, default=0.5)
    parser.add_argument("--distance_m", type=float, default=50.0)
    parser.add_argument("--freq_ghz", type=float, default=30.0)
    parser.add_argument("--snr_db", type=float, default=20.0, help="SNR between one pair of antennas")
    parser.add_argument("--max_tilt_deg", type=float, default=60.0)
    parser.add_argument("--tilt_azimuth_deg", type=float, default=25.0)
    parser.add_argument("--num", type=int, default=13, help="tilts from zero to the largest")
    parser.add_argument("--plot", type=Path, help="PNG, SVG or PDF file of the curves")
    args = parser.parse_args()
    if args.plot:
        drawing.check_target(args.plot, "plot")

    tilt_deg = torch.linspace(0, args.max_tilt_deg, args.num, dtype=torch.float64)
    pose = Pose.from_angles(
        args.distance_m, tilt_rad=tilt_deg.deg2rad(), tilt_azimuth_rad=math.radians(args.tilt_azimuth_deg)
    )
    ring = UCA(args.num_elements, args.radius_m)
    link = LinkGeometry(ring, ring, pose, freq_hz=args.freq_ghz * 1e9)
    results = simulate_link(link, args.snr_db, SCHEMES)

    print(f"Angles must be known to well below {math.degrees(float(link.pointing_tolerance_rad)):.2f} degrees.")
    print("Spectral efficiency in bit/s/Hz:")
    print("tilt".rjust(6), *(name.removeprefix("bepre_").rjust(max(8, len(name))) for name in SCHEMES))
    for i, tilt in enumerate(tilt_deg.tolist()):
        row = (f"{float(results[name][i]):.2f}".rjust(max(8, len(name))) for name in SCHEMES)
        print(f"{tilt:5.1f}°", *row)

    if args.plot:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        curves = {name: values.tolist() for name, values in results.items()}
        title = f"{args.num_elements} elements, {args.distance_m:g} m, {args.snr_db:g} dB"
        labels = {"title": title, "x_label": "tilt (°)", "y_label": "spectral efficiency (bit/s/Hz)"}
        drawing.save(drawing.line_chart(tilt_deg.tolist(), curves, **labels), args.plot)
        print(f"wrote {args.plot}")


if __name__ == "__main__":
    main()
