"""A solution is judged as an interpreter would run it, in each kind of sandbox."""

import pytest

from . import _honest
from .conftest import BACKENDS


@pytest.mark.parametrize("kind", BACKENDS)
def test_an_honest_program_ends_as_it_does_without_a_sandbox(kind):
    assert _honest.different(kind) == []
