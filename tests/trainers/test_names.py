"""`from mimo_hf.trainers import ...` with a name that is not there."""

import importlib

import pytest

import mimo_hf.trainers

ELSEWHERE = [(home, name) for home, names in mimo_hf.trainers._ELSEWHERE.items() for name in names.split()]


@pytest.mark.parametrize(("home", "name"), ELSEWHERE)
def test_a_name_that_lives_elsewhere_is_told_where(home, name):
    assert hasattr(importlib.import_module(home), name)
    with pytest.raises(ImportError, match=f"from {home} import {name}"):
        exec(f"from mimo_hf.trainers import {name}")


def test_an_unknown_name_is_an_attribute_error_that_lists_those_there_are():
    assert not hasattr(mimo_hf.trainers, "Nothing")
    with pytest.raises(AttributeError, match="no attribute 'MiMoConfig'; it has DynamicSamplingGRPOTrainer"):
        mimo_hf.trainers.MiMoConfig  # noqa: B018 - reading it is what raises
    assert set(mimo_hf.trainers.__all__) <= set(dir(mimo_hf.trainers))
