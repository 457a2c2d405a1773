"""A setting is declared once, in `mimo_hf.oam.settings`: command line, functions, controls and API say what stands there."""

import inspect
from types import MappingProxyType

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mimo-hf[spaces]'")

from mimo_hf.cli import main
from mimo_hf.hub import spaces
from mimo_hf.oam.settings import EXPERIMENTS, BEROptions, LinkConfig, OEMConfig, SweepOptions, axis_label, settings_of

app = spaces.load("oam")
import oam_api  # noqa: E402  found by the Space's own folder, which loading it adds to the path
from oam_settings import CONTROLS, Settings, parse  # noqa: E402  as above


@pytest.fixture
def change(monkeypatch):
    def change(config, name, **changes):
        declared = config.__dataclass_fields__[name]
        monkeypatch.setattr(declared, "metadata", MappingProxyType({**declared.metadata, **changes}))

    return change


def help_of(capsys, *command):
    with pytest.raises(SystemExit):
        main(["oam", *command, "--help"])
    return " ".join(capsys.readouterr().out.split())


def endpoint(name):
    return next(found for found in oam_api.endpoints() if found.__name__ == name)


def control(elem_id):
    components = app.build_demo().get_config_file()["components"]
    return next(entry["props"] for entry in components if entry["props"].get("elem_id") == elem_id)


def test_a_changed_declaration_is_seen_everywhere(change, capsys):
    change(LinkConfig, "tilt_deg", help="Lean of the receiver.", label="lean", unit="deg", most=70, slider=(0, 70, 2))
    assert "Lean of the receiver (default: 0.0)." in help_of(capsys, "simulate")
    assert main(["oam", "simulate", "--tilt-deg", "71"]) == 2
    assert "--tilt-deg must be a finite number at most 70; got '71'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`tilt_deg` must be a finite number at most 70; got 71"):
        LinkConfig(tilt_deg=71.0)
    assert axis_label("tilt_deg") == "lean (°)"
    shown = control("oam-tilt-deg")
    assert (shown["label"], shown["info"]) == ("Lean α (°)", "Lean of the receiver.")
    assert (shown["minimum"], shown["maximum"], shown["step"]) == (0, 70, 2)
    with pytest.raises(ValueError, match=r"Lean α \(°\) \(al\) must lie between 0 and 70; got 71"):
        parse("tilt_deg", "71")
    for name in ("simulate", "sweep", "ber"):
        assert "tilt_deg: Lean of the receiver in deg: a finite number at most 70." in endpoint(name).__doc__


def test_a_changed_default_is_seen_everywhere(monkeypatch, capsys):
    monkeypatch.setattr(OEMConfig.__dataclass_fields__["rows"], "default", 3)
    assert "Rows of UCAs at each end (default: 3)." in help_of(capsys, "oem")
    assert inspect.signature(endpoint("oem")).parameters["rows"].default == 3


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_api_says_what_the_command_line_says(experiment, capsys):
    printed, found = help_of(capsys, experiment), endpoint(experiment)
    assert EXPERIMENTS[experiment].about in printed
    assert inspect.getdoc(found).startswith(EXPERIMENTS[experiment].about)
    own = {declared.name: declared for declared in settings_of(experiment)}
    for name, parameter in inspect.signature(found).parameters.items():
        if name in own and name not in oam_api.TAKES[experiment]:
            assert parameter.default == own[name].default
        if name in own and name != "seed":
            assert own[name].metadata["help"].removesuffix(".") in printed
            assert f"{name}: {own[name].metadata['help'].removesuffix('.')}" in found.__doc__


def test_controls_start_where_the_declarations_do_unless_a_preset_says_otherwise():
    start = Settings()
    own = {"freq_ghz", "tilt_deg", "tilt_azimuth_deg", "precoding", "modulation", "sweep", "sweep_start", "sweep_stop"}
    for name, shown in CONTROLS.items():
        if shown.declared is not None and shown.unit is None and not shown.prefix and name not in own:
            assert getattr(start, name) == shown.declared.default, name


@pytest.mark.parametrize("config", [LinkConfig, OEMConfig, BEROptions, SweepOptions])
def test_what_a_control_offers_is_allowed(config):
    for name, declared in config.__dataclass_fields__.items():
        if declared.metadata["slider"] is not None and name not in ("start", "stop"):
            for end in declared.metadata["slider"][:2]:
                given = {"param": "tilt_deg", "start": 0.0, "stop": 1.0} if config is SweepOptions else {}
                config(**{**given, name: end})
