"""Settings of the OAM link simulator: they come back from links, and bad ones are named."""

from urllib.parse import parse_qsl

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mimo-hf[spaces]'")
from mimo_hf.hub import spaces
from mimo_hf.oam.presets import PRESETS

spaces.load("oam")
from oam_settings import CONTROLS, Settings, from_values, parse  # noqa: E402  found by the Space's own folder, which loading it adds to the path


def query_of(settings):
    return dict(parse_qsl(settings.to_query()[1:], keep_blank_values=True))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_comes_back_from_its_link(preset):
    settings = Settings.from_preset(preset)
    assert settings.to_query() == f"?v=1&p={preset}"
    assert Settings.from_query(query_of(settings)) == (settings, [])


def test_every_setting_comes_back_from_its_link():
    changed = {}
    for name, meta in CONTROLS.items():
        if name == "preset":
            continue
        if meta.many:
            changed[name] = ("plain", "mmse")
        elif meta.choices:
            changed[name] = meta.choices[-2]
        else:
            changed[name] = 3 if meta.step == 1 else 2.25
    settings = Settings(preset="counter-edfors", **changed)
    assert Settings.from_query(query_of(settings)) == (settings, [])


def test_query_keys_are_unique():
    keys = [meta.key for meta in CONTROLS.values()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    "query",
    [
        {"al": "nan"},
        {"al": "1e309"},
        {"al": "-0.5"},
        {"al": "zehn"},
        {"d": "0"},
        {"nt": "8.5"},
        {"nt": "1000"},
        {"ref": "<img onerror=alert(1)>"},
        {"sch": "plain,magic"},
        {"p": "claim-everything"},
        {"v": "9"},
        {"seed": "1" * 10_000},
        {"f": "٣٠٠٠٠٠"},
    ],
)
def test_a_bad_value_in_a_link_is_named_and_replaced(query):
    settings, problems = Settings.from_query(query)
    assert settings == Settings.from_preset("claim-bepre-tilt")
    assert len(problems) == 1
    assert len(problems[0]) < 300


def test_unknown_keys_and_minus_zero_do_no_harm():
    settings, problems = Settings.from_query({"utm_source": "x", "al": "-0"})
    assert problems == []
    assert settings.tilt_deg == 0


def test_an_empty_field_is_refused_by_name():
    values = {name: getattr(Settings(), name) for name in CONTROLS}
    assert from_values(values) == Settings()
    with pytest.raises(ValueError, match=r"Distance D \(m\) \(d\) must be a number; got ''"):
        from_values(values | {"distance_m": None})


def test_optional_fields_may_be_empty():
    assert parse("pilot_snr_db", " ") is None
    assert parse("oem_focal_m", "1.5") == 1.5


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_means_here_what_it_means_on_the_command_line(preset):
    settings, entry = Settings.from_preset(preset), PRESETS[preset]
    config = settings.oem_config() if entry.command == "oem" else settings.link_config()
    swept = {"param", "start", "stop", "num", "distances_m", "snrs_db", "tilt_deg"}
    for name, value in entry.settings.items():
        if name not in swept or (name == "tilt_deg" and entry.settings["param"] != "tilt_deg"):
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-9)
            assert getattr(config, name) == expected
    if entry.command == "sweep":
        assert (settings.sweep, settings.sweep_start, settings.sweep_stop, settings.sweep_num) == tuple(
            entry.settings[name] for name in ("param", "start", "stop", "num")
        )
