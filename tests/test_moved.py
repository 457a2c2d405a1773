"""Old paths of modules that have moved give what they gave, with a warning that says where it is now."""

import pickle
import subprocess
import sys

import pytest

from mimo_hf import scheduler
from mimo_hf.oam.forms import as_json
from mimo_hf.scheduler import Command, ModelService
from mimo_hf.scheduler.core.scheduler import Scheduler


@pytest.mark.parametrize(
    ("line", "found", "new"),
    [
        ("from mimo_hf.scheduler.types import Command as it", Command, "mimo_hf.scheduler.core.types"),
        ("from mimo_hf.scheduler.core import Scheduler as it", Scheduler, "mimo_hf.scheduler.core.scheduler"),
        (
            "from mimo_hf.scheduler.services import ModelService as it",
            ModelService,
            "mimo_hf.scheduler.services.manager",
        ),
        ("from mimo_hf.oam.cli import as_json as it", as_json, "mimo_hf.oam.forms"),
        ("import mimo_hf.scheduler.sim as old; it = old.simulate", None, "mimo_hf.scheduler.simulate.simulator"),
    ],
)
def test_an_old_path_gives_the_same_object_and_names_the_new_one(line, found, new):
    names = {}
    with pytest.warns(FutureWarning, match=f"is in `{new}`"):
        exec(line, names)
    assert found is None or names["it"] is found


def test_a_pickle_of_the_last_release_can_be_read():
    """Its classes are named by the paths that they had."""
    today = pickle.dumps(Command(["true"]), protocol=0)
    then = today.replace(b"mimo_hf.scheduler.core.types", b"mimo_hf.scheduler.types")
    assert then != today
    with pytest.warns(FutureWarning, match="has moved"):
        assert pickle.loads(then) == Command(["true"])


def test_every_module_that_moved_is_where_the_table_says():
    moved = next(
        finder for finder in sys.meta_path if getattr(finder, "places", {}).get(f"{scheduler.__name__}.types")
    )
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    subprocess.run([sys.executable, "-W", "error", "-c", code, *moved.places.values()], check=True)


def test_a_name_that_never_was_is_an_attribute_error():
    with pytest.raises(ImportError, match="NoSuchName"):
        from mimo_hf.scheduler.types import NoSuchName  # noqa: F401  the import is the test
