"""
Speed of mimo_hf.oam: batches against a loop over links, and against the raw cost of the transforms they need.

    python benchmarks/oam_speed.py            # about a minute on two cores
    python benchmarks/oam_speed.py --quick

Times are CPU time on one thread, so that other work on the machine counts little; wall time with --threads is given
beside it. A link evaluation is the spectral efficiency of one link of two rings of 8, plain and with BePre by angle, geometry
included. The floor is the time of the SVD and FFT calls alone, on random matrices of the same shapes and chunks.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from _record import record

from mimo_hf.oam import SCHEMES, UCA, LinkGeometry, Pose, field_map, simulate_link

NUM_ELEMENTS = 8
PLAIN_AND_ANGLE = ("plain", "bepre_angle")


def seconds(function: Callable, repeats: int, clock: Callable[[], float] = time.process_time) -> float:
    """Median time of a call, after one that warms up."""
    function()
    times = []
    for _ in range(repeats):
        started = clock()
        function()
        times.append(clock() - started)
    return statistics.median(times)


def random_link(num_links: int, seed: int) -> LinkGeometry:
    draw = torch.rand(5, num_links, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    distance, off_axis, azimuth, tilt, tilt_azimuth = draw
    pose = Pose.from_angles(20 + 80 * distance, 0.3 * off_axis, 6.28 * azimuth, 0.3 * tilt, 6.28 * tilt_azimuth)
    ring = UCA(NUM_ELEMENTS, 0.5)
    return LinkGeometry(ring, ring, pose, wavelength_m=0.01)


def single_links(link: LinkGeometry, num_links: int) -> list[LinkGeometry]:
    pick = [link.pose.map_tensors(lambda tensor, _, i=i: tensor[i]) for i in range(num_links)]
    return [LinkGeometry(link.tx, link.rx, pose, wavelength_m=link.wavelength_m) for pose in pick]


def transforms(num_links: int, chunk: int, num_fft: int, num_svd: int, num_svdvals: int, num_det: int) -> Callable:
    """The transforms of an evaluation on chunks of random matrices, and nothing else."""
    h = torch.randn(chunk, NUM_ELEMENTS, NUM_ELEMENTS, dtype=torch.complex128)
    identity = torch.eye(NUM_ELEMENTS, dtype=torch.complex128)

    def run():
        for _ in range(max(1, num_links // chunk)):
            for _ in range(num_fft):
                torch.fft.fft2(h, norm="ortho")
            for _ in range(num_svd):
                torch.linalg.svd(h)
            for _ in range(num_svdvals):
                torch.linalg.svdvals(h)
            for _ in range(num_det):
                torch.linalg.slogdet(identity + h @ h.mH)

    return run


def measure_batches(num_links: int, repeats: int, seed: int, threads: int) -> dict:
    link = random_link(num_links, seed)

    def evaluate():
        return simulate_link(link, 20.0, PLAIN_AND_ANGLE)

    batched_s = seconds(evaluate, repeats) / num_links
    torch.set_num_threads(threads)
    wall_s = seconds(evaluate, repeats, time.perf_counter) / num_links
    load = os.getloadavg()[0]
    torch.set_num_threads(1)

    loop = single_links(link, min(200, num_links))
    looped_s = seconds(lambda: [simulate_link(one, 20.0, PLAIN_AND_ANGLE) for one in loop], repeats) / len(loop)
    batch = evaluate()
    worst = max(
        abs(float(batch[scheme][i]) - float(value))
        for i, one in enumerate(loop)
        for scheme, value in simulate_link(one, 20.0, PLAIN_AND_ANGLE).items()
    )
    return {
        "links": num_links,
        "link_evaluations_per_s_of_one_core": 1 / batched_s,
        "threads_of_wall_time": threads,
        "link_evaluations_per_s_wall_time": 1 / wall_s,
        "load_average_then": load,
        "microseconds_per_link": batched_s * 1e6,
        "microseconds_per_link_in_a_loop": looped_s * 1e6,
        "times_faster_than_the_loop": looped_s / batched_s,
        "largest_difference_bit_s_hz": worst,
    }


def measure_floor(num_links: int, repeats: int, seed: int, chunk: int) -> list[dict]:
    link = random_link(num_links, seed)
    rows = []
    for name, schemes, calls in (
        ("plain and BePre by angle", PLAIN_AND_ANGLE, (2, 0, 0, 0)),
        ("with BePre by SVD", (*PLAIN_AND_ANGLE, "bepre_svd"), (3, 1, 0, 0)),
        ("all schemes and capacities", SCHEMES, (5, 1, 1, 1)),
    ):
        whole = seconds(lambda schemes=schemes: simulate_link(link, 20.0, schemes), repeats) / num_links
        floor = seconds(transforms(num_links, min(chunk, num_links), *calls), repeats) / num_links
        rows.append(
            {
                "evaluation": name,
                "microseconds_per_link": whole * 1e6,
                "svd_and_fft_alone": floor * 1e6,
                "ratio": whole / floor,
            }
        )
    return rows


def measure_grids(repeats: int) -> dict:
    """The sizes that the link simulator's pictures need."""
    tilt = torch.linspace(0, 0.5, 61, dtype=torch.float64)[:, None]
    ring = UCA(16, 0.5)
    link = LinkGeometry(ring, ring, Pose.from_angles(50.0, tilt_rad=tilt), wavelength_m=0.01)
    snr_db = torch.linspace(0, 40, 9, dtype=torch.float64)
    return {
        "tilt_61_by_snr_9_all_schemes_16_elements_s": seconds(lambda: simulate_link(link, snr_db), repeats),
        "field_map_256_all_16_modes_s": seconds(
            lambda: field_map(ring, distance_m=50.0, extent_m=2.0, num_pixels=256, wavelength_m=0.01), repeats
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few links and repeats; writes nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    num_links, repeats = (4096, 1) if args.quick else (65_536, 7)

    results = {
        "num_elements": NUM_ELEMENTS,
        "batches": measure_batches(num_links, repeats, args.seed, args.threads),
        "against_the_transforms_alone": measure_floor(num_links // 8, repeats, args.seed, chunk=5461),
        "grids": measure_grids(repeats),
    }
    for name, value in results["batches"].items():
        print(f"{name.replace('_', ' ')}: {value:.4g}")
    for row in results["against_the_transforms_alone"]:
        print(f"{row['evaluation']}: {row['microseconds_per_link']:.1f} us, {row['ratio']:.2f} times the transforms")
    for name, value in results["grids"].items():
        print(f"{name.replace('_', ' ')}: {value:.3g}")
    if not args.quick:
        print(f"wrote {record('oam_speed', results, seed=args.seed)}")


if __name__ == "__main__":
    main()
