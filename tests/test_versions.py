"""
The models, the published folders and the trainers on the oldest and the newest transformers that are admitted.

The installed version runs the whole suite. Of TRL, 1.16.0 is the oldest that is admitted and the newest there is, so that it
is the one that every run has.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mimo_hf.modeling.transformers_versions import TESTED

ROOT = Path(__file__).parents[1]
DECODING = "tests/modeling/test_mtp_decoding.py::test_"
BATCH = "tests/modeling/test_mtp_batch.py::test_"
HYSPARSE = "tests/modeling/hysparse/test_versions.py::test_"
PUBLISHED = "tests/hub/test_publish_loads.py::test_"
AUDIO = "tests/modeling/mimo_audio/"

# Pytest ends with an error where one of these is not found.
CHOSEN = (
    "tests/modeling/test_transformers_versions.py::test_a_cache_is_used_under_either_name",
    "tests/modeling/test_transformers_versions.py::test_signatures_show_the_name_of_this_transformers",
    "tests/modeling/test_transformers_versions.py::test_no_pass_calls_what_transformers_has_deprecated",
    DECODING + "all_models_have_the_same_trunk",
    DECODING + "stops_at_the_end_of_sequence_inside_a_draft",
    DECODING + "left_padding_changes_no_token_and_no_draft",
    DECODING + "a_second_turn_with_the_cache_of_the_first",
    DECODING + "heads_that_are_right_save_the_passes_that_they_should",
    BATCH + "a_batch_without_padding_needs_no_mask",
    BATCH + "rows_that_are_done_leave_the_batch",
    BATCH + "scores_and_logits_have_one_entry_a_token",
    HYSPARSE + "generated_tokens_are_those_of_full_passes",
    HYSPARSE + "a_cache_is_used_under_either_name",
    HYSPARSE + "no_pass_calls_what_transformers_has_deprecated",
    PUBLISHED + "logits_of_trunk_and_heads_are_ours",
    PUBLISHED + "mtp_decoding_works_and_changes_no_token",
    AUDIO + "test_generation.py::test_a_batch_is_each_row_alone_in_loops",
    AUDIO + "test_language_model.py",
    AUDIO + "test_processor_files.py",
    AUDIO + "test_pipelines.py",
    "tests/test_readme.py::test_the_first_snippet_warns_of_nothing",
    "tests/trainers/test_our_models.py::test_two_steps_change_the_weights_that_are_trained_and_no_others",
)

# -P: the current folder is not searched, so that `kernels` is the library.
RUN = """
import sys, pytest, transformers
print("transformers", transformers.__version__, "of", transformers.__file__)
sys.exit(pytest.main(sys.argv[1:]))
"""


def environment_of(folder: Path) -> dict[str, str]:
    """This one, with `folder` before all other packages and without what another pytest has set; no test may be skipped."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | {"PYTHONPATH": path, "MIMO_HF_REQUIRE_ALL": "1"}


@pytest.mark.slow  # half a minute of imports, of this process and of those that the tests start, before the tests themselves
@pytest.mark.parametrize("version", [TESTED[0], TESTED[-1]])
def test_models_published_folders_and_trainers_work_on(version):
    folder = Path(sys.prefix) / f"transformers-{version}"
    if not (folder / "transformers").is_dir():
        pytest.skip(f"no transformers {version}: `make {os.path.relpath(folder, ROOT)}` puts it there")
    command = [sys.executable, "-P", "-c", RUN, "-p", "no:cacheprovider", "-p", "no:xdist", *CHOSEN]
    run = subprocess.run(command, cwd=ROOT, env=environment_of(folder), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert f"transformers {version} of {folder}{os.sep}" in run.stdout
    (passed,) = re.findall(r"^(\d+) passed\b", run.stdout, re.MULTILINE)
    assert int(passed) >= len(CHOSEN)
