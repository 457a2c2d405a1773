"""
Speed of mimo_hf.oam: batches against a loop over links, and against the raw cost of the transforms they need.

    python benchmarks/oam_speed.py            # about a minute on two cores
    python benchmarks/oam_speed.py --quick

Times are wall time on --threads threads: medians over repeats in which the things compared take turns, so that other work
on the machine meets all of them. A link evaluation is the spectral efficiency of one link of two rings of 8, plain and with
BePre by angle, geometry included. The floor is the time of the SVD and FFT calls alone, on random matrices of the same shapes
and chunks; BePre by angle has no SVD, so that its floor is four short FFTs, and the square root, sine and cosine of every
path, which no exact channel can leave out, are timed beside it.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from _record import force_option, record
from _timing import in_turn, ratio_of, steady_ratio

from mimo_hf.oam import SCHEMES, UCA, LinkGeometry, Pose, field_map, simulate_link

NUM_ELEMENTS = 8
PLAIN_AND_ANGLE = ("plain", "bepre_angle")


def random_link(num_links: int, seed: int) -> LinkGeometry:
    draw = torch.rand(5, num_links, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    distance, off_axis, azimuth, tilt, tilt_azimuth = draw
    pose = Pose.from_angles(20 + 80 * distance, 0.3 * off_axis, 6.28 * azimuth, 0.3 * tilt, 6.28 * tilt_azimuth)
    ring = UCA(NUM_ELEMENTS, 0.5)
    return LinkGeometry(ring, ring, pose, wavelength_m=0.01)


def single_links(link: LinkGeometry, num_links: int) -> list[LinkGeometry]:
    pick = [link.pose.map_tensors(lambda tensor, _, i=i: tensor[i]) for i in range(num_links)]
    return [LinkGeometry(link.tx, link.rx, pose, wavelength_m=link.wavelength_m) for pose in pick]


def transforms(num_chunks: int, chunk: int, num_fft: int, num_svd: int, num_svdvals: int, num_det: int) -> Callable:
    """The transforms of an evaluation on chunks of random matrices, and nothing else."""
    h = torch.randn(chunk, NUM_ELEMENTS, NUM_ELEMENTS, dtype=torch.complex128)
    identity = torch.eye(NUM_ELEMENTS, dtype=torch.complex128)

    def run():
        for _ in range(num_chunks):
            for _ in range(num_fft):
                torch.fft.fft(torch.fft.ifft(h, norm="ortho"), dim=-2, norm="ortho")
            for _ in range(num_svd):
                torch.linalg.svd(h)
            for _ in range(num_svdvals):
                torch.linalg.svdvals(h)
            for _ in range(num_det):
                torch.linalg.slogdet(identity + h @ h.mH)

    return run


def paths(num_chunks: int, chunk: int) -> Callable:
    """Square root, sine and cosine of every path, and nothing else."""
    d = torch.rand(chunk, NUM_ELEMENTS, NUM_ELEMENTS, dtype=torch.float64)

    def run():
        for _ in range(num_chunks):
            d.sqrt(), d.sin(), d.cos()

    return run


def measure_batches(num_links: int, repeats: int, seed: int) -> dict:
    link = random_link(num_links, seed)
    loop = single_links(link, min(200, num_links))

    def evaluate():
        return simulate_link(link, 20.0, PLAIN_AND_ANGLE)

    def evaluate_loop():
        return [simulate_link(one, 20.0, PLAIN_AND_ANGLE) for one in loop]

    ratio, seconds = steady_ratio({"batch": evaluate, "loop": evaluate_loop}, "loop", "batch", repeats)
    batch_s, loop_s = (statistics.median(seconds[name]) for name in ("batch", "loop"))
    per_link = num_links / len(loop)  # the loop takes a part of the links
    batch = evaluate()
    worst = max(
        abs(float(batch[scheme][i]) - float(value))
        for i, one in enumerate(loop)
        for scheme, value in simulate_link(one, 20.0, PLAIN_AND_ANGLE).items()
    )
    return {
        "links": num_links,
        "link_evaluations_per_s": num_links / batch_s,
        "microseconds_per_link": batch_s / num_links * 1e6,
        "microseconds_per_link_in_a_loop": loop_s / len(loop) * 1e6,
        "times_faster_than_the_loop": per_link * ratio["ratio"],
        "times_faster_min": per_link * ratio["ratio_min"],
        "times_faster_max": per_link * ratio["ratio_max"],
        **{name: ratio[name] for name in ("spread", "steady", "attempts", "repeats", "busy_cores_elsewhere")},
        "largest_difference_bit_s_hz": worst,
    }


def measure_floor(num_links: int, repeats: int, seed: int, chunk: int = 2730) -> list[dict]:
    link = random_link(num_links, seed)
    num_chunks = num_links // chunk
    rows = []
    for name, schemes, calls in (
        ("plain and BePre by angle", PLAIN_AND_ANGLE, (2, 0, 0, 0)),
        ("with BePre by SVD", (*PLAIN_AND_ANGLE, "bepre_svd"), (3, 1, 0, 0)),
        ("all schemes and capacities", SCHEMES, (5, 1, 1, 1)),
    ):
        ways = {
            "whole": lambda schemes=schemes: simulate_link(link, 20.0, schemes),
            "floor": transforms(num_chunks, chunk, *calls),
            "roots": paths(num_chunks, chunk),
        }
        ratio, seconds = steady_ratio(ways, "whole", "floor", repeats)
        whole, floor, roots = (statistics.median(seconds[name]) for name in ways)
        both = [sum(pair) for pair in zip(seconds["floor"], seconds["roots"], strict=True)]
        rows.append(
            {
                "evaluation": name,
                "microseconds_per_link": whole / num_links * 1e6,
                "svd_and_fft_alone": floor / num_links * 1e6,
                "root_sine_and_cosine_alone": roots / num_links * 1e6,
                **ratio,
                "ratio_with_root_sine_and_cosine": ratio_of(seconds["whole"], both)["ratio"],
            }
        )
    return rows


def measure_grids(repeats: int) -> dict:
    """The sizes that the link simulator's pictures need."""
    tilt = torch.linspace(0, 0.5, 61, dtype=torch.float64)[:, None]
    ring = UCA(16, 0.5)
    link = LinkGeometry(ring, ring, Pose.from_angles(50.0, tilt_rad=tilt), wavelength_m=0.01)
    snr_db = torch.linspace(0, 40, 9, dtype=torch.float64)
    seconds = in_turn(
        {
            "tilt_61_by_snr_9_all_schemes_16_elements": lambda: simulate_link(link, snr_db),
            "field_map_256_all_16_modes": lambda: field_map(
                ring, distance_m=50.0, extent_m=2.0, num_pixels=256, wavelength_m=0.01
            ),
        },
        repeats,
    )
    return {f"{name}_s": statistics.median(spent) for name, spent in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few links and repeats; writes nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    force_option(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    num_links, repeats = (4096, 1) if args.quick else (65_536, 15)

    results = {
        "num_elements": NUM_ELEMENTS,
        "batches": measure_batches(num_links, repeats, args.seed),
        "against_the_transforms_alone": measure_floor(num_links // 4, repeats, args.seed),
        "grids": measure_grids(repeats),
    }
    for name, value in results["batches"].items():
        print(f"{name.replace('_', ' ')}: {value:.4g}")
    for row in results["against_the_transforms_alone"]:
        against = (
            f"{row['ratio']:.2f} times the transforms, {row['ratio_with_root_sine_and_cosine']:.2f} with the paths"
        )
        print(f"{row['evaluation']}: {row['microseconds_per_link']:.1f} us, {against}")
    for name, value in results["grids"].items():
        print(f"{name.replace('_', ' ')}: {value:.3g}")
    if not args.quick:
        print(f"wrote {record('oam_speed', results, seed=args.seed, timed=True, force=args.force)}")


if __name__ == "__main__":
    main()
