"""`mimo-hf oam`: every experiment, preset and output form, and what a wrong call prints."""

import csv
import json
import math

import pytest
import torch

from mimo_hf.cli import main
from mimo_hf.oam import UCA, LinkGeometry, Pose, simulate_link
from mimo_hf.oam.experiments import run_ber
from mimo_hf.oam.presets import PRESETS
from mimo_hf.oam.settings import EXPERIMENTS, BEROptions, LinkConfig, OEMConfig

QUICK = {
    "simulate": [],
    "sweep": ["--param", "tilt_deg", "--start", "0", "--stop", "2", "--num", "3"],
    "dof": ["--num-draws", "5", "--distances-m", "20", "--snrs-db", "20"],
    "oem": [],
    "ber": ["--num-symbols", "50"],
    "field": ["--num-pixels", "8"],
}


def run(capsys, *arguments):
    code = main(["oam", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_in_every_form(experiment, capsys, tmp_path):
    code, text, _ = run(capsys, experiment, *QUICK[experiment])
    assert code == 0
    code, out, _ = run(capsys, experiment, *QUICK[experiment], "--json")
    result = json.loads(out, parse_constant=refuse_constant)
    assert code == 0
    assert result["experiment"] == experiment
    assert result["parameters"]["versions"]["torch"] == torch.__version__
    plot, table = tmp_path / "out.png", tmp_path / "out.csv"
    code, out, _ = run(capsys, experiment, *QUICK[experiment], "--csv", "--out", str(table), "--plot", str(plot))
    assert (code, out) == (0, table.read_text())
    assert plot.read_bytes().startswith(b"\x89PNG")
    lines = table.read_text().splitlines()
    assert lines[0] == f"# experiment={experiment}"
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert len(rows) == len(result["rows"])
    assert list(rows[0]) == list(result["rows"][0])
    assert text.split()[: len(rows[0])] == list(rows[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs(preset, capsys):
    experiment = PRESETS[preset].command
    extra = {"sweep": ["--num", "5"], "dof": ["--num-draws", "20"]}.get(experiment, [])
    code, out, _ = run(capsys, experiment, "--preset", preset, *extra, "--json")
    assert code == 0
    assert json.loads(out)["rows"]


def rows_of(capsys, *arguments):
    return json.loads(run(capsys, *arguments, "--json")[1])["rows"]


def test_claim_bepre_tilt_shows_the_claim(capsys):
    rows = rows_of(capsys, "sweep", "--preset", "claim-bepre-tilt", "--num", "7")
    assert [row["tilt_deg"] for row in rows] == [0, 10, 20, 30, 40, 50, 60]
    for row in rows[1:]:
        assert row["plain"] < row["bepre_angle"] <= row["bepre_geom"] <= row["bepre_svd"] + 1e-9
        assert row["bepre_svd"] == pytest.approx(row["capacity_equal"])
        assert row["capacity_equal"] <= row["capacity_waterfill"]


def test_counter_edfors_shows_equality_with_mimo(capsys):
    for row in rows_of(capsys, "sweep", "--preset", "counter-edfors", "--num", "9"):
        assert row["plain"] == pytest.approx(row["capacity_waterfill"], rel=1e-8)


def test_counter_ula_wins_shows_lines_ahead(capsys):
    rows = rows_of(capsys, "dof", "--preset", "counter-ula-wins", "--num-draws", "5")
    assert all(row["ula_mimo"] > row["uca_oam"] for row in rows if row["snr_db"] >= 10)


def test_claim_dof_shows_oam_ahead_of_correlated_mimo(capsys):
    for row in rows_of(capsys, "dof", "--preset", "claim-dof-vs-kronecker"):
        assert row["uca_oam"] > row["kronecker_0.9"] + 3 * row["kronecker_0.9_standard_error"]


def test_counter_oem_warns_that_the_promise_exceeds_the_capacity(capsys):
    result = json.loads(run(capsys, "oem", "--preset", "counter-oem-intermode", "--json")[1])
    rates = {(row["scheme"], row["assume"]): row["bit_s_hz"] for row in result["rows"]}
    assert rates["OEM svd", "block_circulant"] == pytest.approx(61.6, abs=0.06)
    assert rates["capacity, water-filling", "exact"] == pytest.approx(52.2, abs=0.06)
    assert any("exceeds the capacity" in note for note in result["notes"])


def test_counter_pointing_tolerance(capsys):
    rows = rows_of(capsys, "sweep", "--preset", "counter-pointing-tolerance", "--num", "5")
    assert rows[0]["bepre_angle"] == pytest.approx(51.1, abs=0.06)
    assert rows[-1]["bepre_angle"] == pytest.approx(8.8, abs=0.06)


def test_options_override_a_preset(capsys):
    _, out, _ = run(capsys, "oem", "--preset", "claim-oem-dish", "--distance-m", "15", "--json")
    parameters = json.loads(out)["parameters"]
    assert (parameters["distance_m"], parameters["radius_m"]) == (15.0, 0.03)


def test_numbers_are_those_of_the_library(capsys):
    _, out, _ = run(capsys, "simulate", "--freq-ghz", "60", "--tilt-deg", "3", "--distance-m", "30", "--json")
    link = LinkGeometry(UCA(8, 0.5), UCA(8, 0.5), Pose.from_angles(30.0, tilt_rad=math.radians(3)), freq_hz=60e9)
    found = json.loads(out)["summary"]["spectral_efficiency_bit_s_hz"]
    for scheme, value in simulate_link(link, 20.0).items():
        assert found[scheme] == pytest.approx(float(value), rel=1e-7)


@pytest.mark.parametrize("param", ["snr_db", "freq_ghz", "wavelength_m", "spin_deg", "radius_rx_m"])
def test_any_number_of_the_link_can_be_swept(param, capsys):
    start, stop = {"freq_ghz": ("20", "40"), "wavelength_m": ("0.01", "0.02")}.get(param, ("0.3", "0.6"))
    code, out, _ = run(capsys, "sweep", "--param", param, "--start", start, "--stop", stop, "--num", "3", "--json")
    result = json.loads(out)
    assert code == 0
    assert [row[param] for row in result["rows"]] == pytest.approx(
        [float(start), (float(start) + float(stop)) / 2, float(stop)]
    )
    assert result["parameters"].get(param) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["simulate", "--freq-ghz", "30", "--wavelength-m", "0.01"],
            "--freq-ghz must not be given together with --wavelength-m",
        ),
        (["simulate", "--num-tx", "0"], "--num-tx must be a whole number at least 2; got '0'"),
        (["simulate", "--num-tx", "8.5"], "--num-tx must be a whole number"),
        (["simulate", "--radius-tx-m", "-1"], "--radius-tx-m must be a finite number above 0; got '-1'"),
        (["simulate", "--distance-m", "nan"], "--distance-m must be"),
        (["simulate", "--tilt-deg", "inf"], "--tilt-deg must be a finite number; got 'inf'"),
        (["simulate", "--tilt-deg", "-inf"], "--tilt-deg must be a finite number; got '-inf'"),
        (["simulate", "--distance-m", "0"], "--distance-m must be"),
        (["simulate", "--distance-m", "0.001"], "--distance-m must be at least one wavelength"),
        (["simulate", "--power", "much"], "--power must be one of equal, waterfill; got 'much'"),
        (["simulate", "--device", "toaster"], "--device must be cpu, cuda"),
        (["simulate", "--output", "x.txt"], "--output is now --out"),
        (["simulate", "--out", "x.pdf"], "--out must end in .json or .csv or .txt; got 'x.pdf'"),
        (["simulate", "--plot", "/nonexistent/folder/x.png"], "--plot '/nonexistent/folder/x.png' lies in a folder"),
        (["simulate", "--json", "--csv"], "--csv can't be given together with --json"),
        (["simulate", "--preset", "x"], "there is no option --preset"),
        (["sweep"], "--param, --start, --stop must be given, or a --preset"),
        (["sweep", "--param", "colour", "--start", "0", "--stop", "1"], "--param must be one of freq_ghz"),
        (["sweep", "--param", "tilt_deg", "--start", "0", "--stop", "1", "--num", "1"], "--num must be"),
        (["sweep", "--param", "tilt_deg", "--start", "0", "--stop", "1", "--num", "100000000"], "at most 1000000"),
        (["sweep", "--param", "tilt_deg", "--start", "nan", "--stop", "1"], "--start"),
        (
            ["sweep", "--param", "distance_m", "--start", "-5", "--stop", "1"],
            "--start must be a finite number above 0",
        ),
        (
            ["sweep", "--preset", "claim-nothing"],
            "must be one of claim-bepre-tilt, counter-edfors, counter-pointing-tolerance; got 'claim-nothing'.",
        ),
        (["sweep", "--preset", "claim-oem-dish"], "belongs to `mimo-hf oam oem`"),
        (["oem", "--pitch-m", "0.1"], "--pitch-m must be at least twice the radius"),
        (["oem", "--dish-radius-m", "0.1"], "--dish-radius-m must go with --focal-length-m"),
        (["oem", "--radius-m", "0.008", "--focal-length-m", "1"], "kR of --radius-m must exceed"),
        (["dof", "--rhos", "0.5,1.5"], "--rhos must be numbers with commas between, each a finite number at least 0"),
        (["dof", "--num-draws", "1"], "--num-draws"),
        (["dof", "--seed", "-1"], "--seed must be a whole number"),
        (["ber", "--detector", "zf", "--num-rx", "4"], "--detector zf must have N_r >= N_t"),
        (["ber", "--order", "8"], "--order must be one of 4, 16, 64; got '8'"),
        (["ber", "--precoding", "magic"], "--precoding must be one of plain"),
        (["ber", "--snrs-db", "1,,2"], "--snrs-db must be numbers with commas between"),
        (["ber", "--snrs-db", ""], "--snrs-db must be numbers"),
        (["field", "--mode", "8"], "--mode must"),
        (["field", "--num-pixels", "1"], "--num-pixels must"),
        (["radiate"], "there is no experiment 'radiate'"),
        ([], "give an experiment: simulate, sweep"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(arguments, message, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("mimo-hf oam")
    assert err.count("\n") == 1


def test_the_settings_refuse_the_same_in_python():
    for make, name in [
        (lambda: LinkConfig(num_tx=1), "num_tx"),
        (lambda: LinkConfig(radius_rx_m=-0.5), "radius_rx_m"),
        (lambda: LinkConfig(tilt_deg=math.nan), "tilt_deg"),
        (lambda: LinkConfig(power="much"), "power"),
        (lambda: OEMConfig(rows=0), "rows"),
        (lambda: BEROptions(snrs_db=(1.0, math.inf)), "snrs_db"),
        (lambda: run_ber(LinkConfig(), order=8), "order"),
    ]:
        with pytest.raises(ValueError, match=f"`{name}` must be .*; got "):
            make()
    with pytest.raises(TypeError, match=r"`num_rx` must be a whole number at least 2; got 8\.0"):
        LinkConfig(num_rx=8.0)


def test_negative_values_need_no_equals_sign(capsys):
    rows = rows_of(capsys, "ber", "--snrs-db", "-4,0", "--num-symbols", "50", "--tilt-azimuth-deg", "-25")
    assert {row["snr_db"] for row in rows} == {-4.0, 0.0}


def test_joint_detection_uses_every_antenna_of_unequal_rings(capsys):
    for detector, modes in (("mode", 8), ("mmse", 8), ("zf", 8)):
        arguments = ["ber", "--num-rx", "16", "--detector", detector, "--snrs-db", "20", "--num-symbols", "50"]
        assert len(rows_of(capsys, *arguments)) == modes
    assert len(rows_of(capsys, "ber", "--num-rx", "4", "--detector", "mmse", "--snrs-db", "20")) == 8
    assert len(rows_of(capsys, "ber", "--num-rx", "4", "--snrs-db", "20")) == 4


def test_gpu_is_asked_for_where_none_is(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run(capsys, "simulate", "--device", "cuda")
    assert code == 2
    assert "--device must be on this machine; got 'cuda'" in err


def test_what_the_library_warns_of_is_told(capsys):
    dish = ["--rows", "1", "--columns", "1", "--radius-m", "0.03", "--focal-length-m", "1", "--dish-radius-m", "0.2"]
    code, out, err = run(capsys, "oem", *dish)
    assert code == 0
    assert "truncates modes 3, 4" in out + err
    assert "UserWarning" not in err


def test_nyquist_mode_is_named(capsys):
    _, out, _ = run(capsys, "field", "--mode", "4", "--num-pixels", "4")
    assert "standing wave" in out
