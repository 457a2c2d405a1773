"""The app of the OAM link simulator: its page, its front matter, what launches it."""

import re
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'mimo-hf[spaces]'")
from mimo_hf.hub import spaces

app = spaces.load("oam")
from oam_settings import CONTROLS, TABS, Settings  # noqa: E402  found by the Space's own folder, which loading it adds to the path

FOLDER = spaces.space_path("oam")


def test_build_demo_gives_a_page_with_labels():
    config = app.build_demo().get_config_file()
    kinds = {"slider", "number", "radio", "dropdown", "checkboxgroup"}
    controls = [entry for entry in config["components"] if entry["type"] in kinds]
    assert len(controls) == len(CONTROLS) - 1
    assert all(entry["props"]["label"] for entry in controls)
    ids = [entry["props"]["elem_id"] for entry in config["components"] if entry["props"].get("elem_id")]
    assert len(ids) == len(set(ids))
    assert {entry["id"] for entry in [{"id": key} for key in app.TAB_NAMES]} == set(TABS)


def test_the_front_matter_configures_the_space():
    _, block, text = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front = yaml.safe_load(block)
    pinned = dict(line.split("==") for line in (Path(__file__).parents[2] / "constraints.txt").read_text().split())
    assert front["sdk"] == "gradio"
    assert front["sdk_version"] == pinned["gradio"]
    assert (FOLDER / front["app_file"]).is_file()
    assert isinstance(front["python_version"], str)
    assert front["title"]
    assert front["license"] == "apache-2.0"
    assert len(front["short_description"]) <= 60
    colors = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {front["colorFrom"], front["colorTo"]} <= colors
    for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text):
        assert (FOLDER / picture).stat().st_size < 300_000


def test_the_launcher_names_what_there_is():
    assert "oam_link_simulator" in spaces.names()
    with pytest.raises(ValueError, match=r"SPACE must be one of oam; got 'radar'\."):
        spaces.space_path("radar")


@pytest.mark.parametrize("package", ["gradio", "plotly"])
def test_the_launcher_names_the_extra_of_what_is_missing(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"need {package}: pip install 'mimo-hf\[spaces\]'"):
        spaces.load("oam")


def test_the_first_tab_of_a_page_that_has_not_been_drawn_yet_draws_nothing():
    # Its `select` may come after the answer to a link has made another tab the one in sight.
    functions = [f.fn for f in app.build_demo().fns.values()]
    selected = next(f for f in functions if getattr(f, "keywords", {}).get("key") == "efficiency")
    start = Settings.from_preset("claim-bepre-tilt")
    values = [getattr(start, name) for name in app.NAMES]
    assert list(selected("", "mimo", *values).values()) == ["mimo"]
    assert any(hasattr(update, "to_json") for update in selected("?v=1", "mimo", *values).values())
