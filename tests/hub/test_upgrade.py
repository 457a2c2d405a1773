"""A folder that an earlier version has published: what is old is told, and its code is rewritten, or nothing changes."""

import json
import shutil

import pytest

from mimo_hf.cli import main
from mimo_hf.hub.checkpoints import CheckpointError
from mimo_hf.hub.upgrade import outdated, upgrade

from .conftest import change_json, contents

pytestmark = pytest.mark.usefixtures("_quick_loads")


@pytest.fixture
def of_an_old_version(published, tmp_path):
    """A published folder as an earlier version may have left it: code that differs, one file more, one less, no note."""
    old = shutil.copytree(published, tmp_path / "old")
    code = old / "mtp_trunk.py"
    code.write_bytes(code.read_bytes() + b"raise ImportError('of another day')\n")
    (old / "mtp_stopping.py").unlink()
    (old / "mtp_rounds.py").write_bytes(code.read_bytes())
    (old / "notes.py").write_text("# the owner's own\n")
    (old / "README.md").write_text("the owner's own")
    config = json.loads((old / "config.json").read_text())
    for field in ("mtp_layer_types", "mtp_mlp_layer_types"):
        config.pop(field)
    (old / "config.json").write_text(json.dumps(config))
    return old


CHANGES = {
    "config.json": "differs",
    "mtp_rounds.py": "is no longer written",
    "mtp_stopping.py": "is missing",
    "mtp_trunk.py": "differs",
}


def test_check_tells_what_is_old_and_what_would_not_load(published, of_an_old_version, capsys):
    assert main(["publish", "--check", str(published)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{published}: loads where mimo_hf is not installed",
        f"{published}: up to date",
    ]
    before = contents(of_an_old_version)
    assert main(["publish", "--check", str(of_an_old_version)]) == 1
    *changes, problem, remedy = capsys.readouterr().out.splitlines()
    assert changes == [f"{name} {what}" for name, what in CHANGES.items()]
    assert "would not load" in problem
    assert remedy == f"{of_an_old_version}: out of date; run: mimo-hf publish --upgrade {of_an_old_version}"
    assert contents(of_an_old_version) == before
    assert [path.name for path in of_an_old_version.parent.iterdir()] == ["old"]


def test_a_folder_of_this_version_is_up_to_date(published):
    before = contents(published)
    assert outdated(published) == upgrade(published) == {}
    assert contents(published) == before


def test_an_upgrade_gives_the_code_of_today_and_leaves_the_rest(published, of_an_old_version):
    before = contents(of_an_old_version)
    assert outdated(of_an_old_version) == CHANGES
    assert contents(of_an_old_version) == before
    assert upgrade(of_an_old_version) == CHANGES
    after, expected = contents(of_an_old_version), contents(published)
    assert json.loads(after.pop("config.json")) == json.loads(expected.pop("config.json"))
    assert after == expected | {name: before[name] for name in ("README.md", "notes.py")}
    assert outdated(of_an_old_version) == {}
    assert [path.name for path in of_an_old_version.parent.iterdir()] == ["old"]


def test_an_upgrade_that_would_not_load_changes_nothing(of_an_old_version):
    change_json(of_an_old_version / "config.json", vision_config={})
    before = contents(of_an_old_version)
    with pytest.raises(CheckpointError, match=r"would not load: .*later MiMo-V2 family"):
        upgrade(of_an_old_version)
    assert contents(of_an_old_version) == before


def test_an_upgrade_replaces_no_file_of_the_owner(of_an_old_version):
    (of_an_old_version / "mtp.py").write_text("# my own\n")
    before = contents(of_an_old_version)
    with pytest.raises(ValueError, match=r"mtp\.py must be what .* has written"):
        upgrade(of_an_old_version)
    assert contents(of_an_old_version) == before


def test_only_a_published_folder_can_be_upgraded(checkpoint):
    for ask in (outdated, upgrade):
        with pytest.raises(CheckpointError, match="was not written by `mimo-hf publish`"):
            ask(checkpoint)
