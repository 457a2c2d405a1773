"""Every value is looked at once in a public call, so that a GPU is waited for once a value and no more."""

import sys
from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode

from mimo_hf.oam import (
    UCA,
    LinkGeometry,
    OEMLink,
    Pose,
    UCAGrid,
    bepre,
    capacity_equal,
    capacity_waterfill,
    dof_slope,
    los_channel,
    mmse,
    modal_channel,
    mode_purity,
    noise_variance,
    noncirculance,
    oem_spectral_efficiency,
    simulate_ber,
    simulate_link,
    sinr,
    spectral_efficiency,
    water_filling,
    zf,
)
from mimo_hf.oam.comparisons import run_dof, run_oem
from mimo_hf.oam.experiments import run_ber, run_field, run_simulate, run_sweep
from mimo_hf.oam.settings import LinkConfig, OEMConfig

CHECKS = {"real", "positive", "non_negative", "count", "choice", "matrix"}
WAITS = {"item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__contains__"}


@contextmanager
def checked():
    """How often each value is checked, by its name."""
    seen = Counter()

    def watch(frame, event, argument):
        code, caller = frame.f_code, frame.f_back.f_code
        inside = code.co_filename.endswith("oam/checks.py") and caller.co_filename != code.co_filename
        if event == "call" and inside and code.co_name in CHECKS:
            seen[frame.f_locals["name"]] += 1

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield seen
    finally:
        sys.setprofile(before)


class Waits(TorchFunctionMode):
    """Counts what makes a program wait for a GPU."""

    def __init__(self):
        self.count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += getattr(function, "__name__", "") in WAITS
        return function(*args, **(kwargs or {}))


DISTANCES = torch.linspace(20, 70, 64, dtype=torch.float64)
LINKS = LinkGeometry(UCA(8, 0.5), UCA(8, 0.5), Pose.from_angles(DISTANCES, tilt_rad=0.1), wavelength_m=0.01)
H = los_channel(LINKS)
G = modal_channel(H)
NOISE, SNR_DB, POWER = torch.full((64,), 1e-10), torch.full((64,), 20.0), torch.full((8,), 0.125)
GRID = UCAGrid(UCA(4, 0.1), 2, 2, 0.3)
BLOCKS = OEMLink(LinkGeometry(GRID, GRID, Pose.from_angles(5.0), wavelength_m=0.01)).blocks()
# A call, and how many tensors it looks at: each can make it wait once.
FUNCTIONS = {
    "noise": (lambda: noise_variance(SNR_DB, link=LINKS), 1),
    "capacity_equal": (lambda: capacity_equal(H, NOISE), 2),
    "capacity_waterfill": (lambda: capacity_waterfill(H, NOISE), 2),
    "dof_slope": (lambda: dof_slope(H, NOISE), 2),
    "sinr": (lambda: sinr(G, POWER, NOISE), 3),
    "sinr zf": (lambda: sinr(G, POWER, NOISE, "zf"), 3),
    "spectral_efficiency": (lambda: spectral_efficiency(G, POWER, NOISE, "mmse"), 3),
    "water_filling": (lambda: water_filling(POWER), 1),
    "zf": (lambda: zf(G), 1),
    "mmse": (lambda: mmse(G, NOISE), 2),
    "mode_purity": (lambda: mode_purity(G), 1),
    "noncirculance": (lambda: noncirculance(H), 1),
    "bepre": (lambda: bepre(H), 1),
    # The link: that no two elements coincide.
    "simulate_link": (lambda: simulate_link(LINKS, SNR_DB), 3),
    "simulate_link, waterfill": (lambda: simulate_link(LINKS, SNR_DB, power="waterfill", max_bytes=2**16), 3),
    "simulate_link, frobenius": (lambda: simulate_link(LINKS, SNR_DB, snr_reference="frobenius"), 3),
    "simulate_ber": (lambda: simulate_ber(G, NOISE, POWER, 16, 50), 3),
    "simulate_ber, estimated": (
        lambda: simulate_ber(G, NOISE, POWER, 16, 50, 3, detector="mmse", csi="ls", pilot_snr_db=10.0),
        3,
    ),
    "oem": (lambda: oem_spectral_efficiency(BLOCKS, 1e-9), 1),
    "oem, joint": (lambda: oem_spectral_efficiency(BLOCKS, 1e-9, detector="joint_mmse"), 1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_looks_at_each_value_once(name):
    call, tensors = FUNCTIONS[name]
    with checked() as seen:
        call()
    assert seen
    assert {value for value, times in seen.items() if times > 1} <= {"schemes"}  # a list: each of its entries
    with Waits() as waits:
        call()
    assert waits.count <= tensors


def test_a_split_batch_waits_no_more_often_than_a_whole_one():
    found = []
    for max_bytes in (2**14, 2**25):
        with Waits() as waits:
            simulate_link(LINKS, SNR_DB, max_bytes=max_bytes)
        found.append(waits.count)
    assert found[0] == found[1] == 3


EXPERIMENTS = {
    "simulate": lambda: run_simulate(LinkConfig()),
    "sweep": lambda: run_sweep(LinkConfig(), "snr_db", 0.0, 30.0, 11),
    "ber": lambda: run_ber(LinkConfig(), num_symbols=20),
    "dof": lambda: run_dof(LinkConfig(), (20.0,), (10.0,), (0.5,), 5),
    "oem": lambda: run_oem(OEMConfig()),
    "dish": lambda: run_oem(OEMConfig(rows=1, columns=1, radius_m=0.03, focal_length_m=1.0)),
    "field": lambda: run_field(LinkConfig(), num_pixels=8),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_looks_at_each_value_once(name):
    EXPERIMENTS[name]()
    with checked() as seen:
        EXPERIMENTS[name]()
    # There are two rings, beside them two lines of antennas and two sides of a fading channel, and a few orders of modes.
    several = {"schemes", "num_elements", "radius_m", "phase0_rad", "aperture_m", "order", "wavelength_m"}
    assert {value for value, times in seen.items() if times > 1} <= several
    assert max(seen.values()) <= 7


def test_a_link_is_checked_where_it_is_made_and_its_kin_are_not():
    with Waits() as waits:
        link = LinkGeometry(UCA(8, 0.5), UCA(8, 0.5), Pose.from_angles(DISTANCES), wavelength_m=0.01)
    assert waits.count == 2  # the distances, and that none is shorter than the wavelength
    with checked() as seen, Waits() as waits:
        link.swapped().to("cpu").pose.inverse().compose(link.pose)
    assert (seen, waits.count) == ({}, 0)
