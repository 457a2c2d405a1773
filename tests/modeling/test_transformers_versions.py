"""The cache under each of its names, and transformers outside the tested versions."""

import ast
import configparser
import importlib.util
import inspect
import re
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from transformers import DynamicCache, MiMoV2FlashModel as UpstreamModel, Qwen2Model

from mimo_hf import MiMoModel, MiMoV2FlashModel
from mimo_hf.modeling import transformers_versions
from mimo_hf.modeling.transformers_versions import CACHE, TESTED, cache_of

ROOT = Path(__file__).parents[2]
NAMES = ("cache", "past_key_values")


@pytest.fixture(params=["tiny_model", "mimo_model"])
def causal_lm(request):
    return request.getfixturevalue(request.param)()


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_is_used_under_either_name(causal_lm, name):
    text = torch.tensor([[3, 4, 5, 6, 7]])
    for model in (causal_lm, causal_lm.model):
        whole = model(text, use_cache=False)[0]
        cache = DynamicCache(config=causal_lm.config)
        first = model(text[:, :3], **{name: cache})
        assert cache_of(first) is cache
        assert cache.get_seq_length() == 3
        second = model(text[:, 3:], **{name: cache})[0]
        torch.testing.assert_close(second, whole[:, 3:])


@pytest.mark.parametrize("name", ["cache_params", "past_key_value", "state", "layer_past"])
def test_a_cache_under_a_name_that_nothing_reads_is_refused(causal_lm, name):
    for model in (causal_lm, causal_lm.model):
        with pytest.raises(ValueError, match=f"`{name}` must be called `{CACHE}` to be read as a cache"):
            model(torch.tensor([[3, 4]]), **{name: DynamicCache(config=causal_lm.config)})


def test_two_caches_and_the_tuples_of_old_are_refused(causal_lm):
    ids, one, two = torch.tensor([[3, 4]]), DynamicCache(), DynamicCache()
    with pytest.raises(ValueError, match="another name of it"):
        causal_lm(ids, cache=one, past_key_values=two)
    for name in NAMES:
        with pytest.raises(ValueError, match=f"`{name}` must be a cache"):
            causal_lm(ids, **{name: ((torch.zeros(1), torch.zeros(1)),)})
    assert cache_of(causal_lm(ids, cache=one, past_key_values=one)) is one
    assert cache_of(causal_lm(ids, cache=None, past_key_values=two)) is two


def test_generate_takes_a_cache_under_the_name_of_this_transformers(causal_lm):
    prompt, limits = torch.tensor([[3, 4, 5]]), {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    plain = causal_lm.generate(prompt, **limits)
    for use_mtp in (False, True):
        cache = DynamicCache(config=causal_lm.config)
        output = causal_lm.generate(prompt, **limits, use_mtp=use_mtp, **{CACHE: cache})
        assert torch.equal(output, plain)
        assert cache.get_seq_length() == 6


def test_signatures_show_the_name_of_this_transformers(causal_lm):
    for forward in (causal_lm.forward, causal_lm.model.forward, causal_lm.mtp_heads[0].forward):
        names = list(inspect.signature(forward).parameters)
        assert [name for name in names if name in NAMES] == [CACHE]
    for trunk, upstream in ((MiMoModel, Qwen2Model), (MiMoV2FlashModel, UpstreamModel)):
        names = list(inspect.signature(upstream.forward).parameters)
        assert list(inspect.signature(trunk.forward).parameters)[:7] == names[:7]


def test_no_pass_calls_what_transformers_has_deprecated(causal_lm, caplog):
    inputs = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        causal_lm.train()(inputs, labels=inputs).loss.backward()
        causal_lm.eval()
        for rows in (inputs, inputs[:1]):
            causal_lm.generate(
                rows,
                attention_mask=torch.ones_like(rows),
                max_new_tokens=6,
                do_sample=False,
                use_mtp=True,
                pad_token_id=0,
            )
    assert [record.message for record in caplog.records if "deprecated" in record.message] == []


def _load(monkeypatch, version: str):
    monkeypatch.setattr(transformers, "__version__", version)
    spec = importlib.util.spec_from_file_location("transformers_versions_again", transformers_versions.__file__)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("version", ["4.57.1", "5.18.1"])
def test_an_older_transformers_is_an_import_error_with_a_remedy(monkeypatch, version):
    with pytest.raises(ImportError) as error:
        _load(monkeypatch, version)
    assert f"need transformers {TESTED[0]} or newer; {version} is installed" in str(error.value)
    assert f"pip install 'transformers>={TESTED[0]},<={TESTED[-1]}'" in str(error.value)


@pytest.mark.parametrize("version", ["5.24.1", "5.25.0.dev0", "6.0.0"])
def test_a_newer_transformers_is_one_warning_with_the_tested_versions(monkeypatch, caplog, version):
    _load(monkeypatch, version)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"tested with transformers {', '.join(TESTED)}; {version} is newer" in record.message
    assert f"pip install 'transformers=={TESTED[-1]}'" in record.message


def test_tested_versions_say_nothing(monkeypatch, caplog):
    for version in TESTED:
        _load(monkeypatch, version)
    assert caplog.records == []


@pytest.mark.parametrize("path", sorted((ROOT / "modeling").glob("*/configuration_*.py")), ids=lambda path: path.stem)
def test_a_configuration_asks_for_the_version_first(path):
    """So that the error about the version comes before one about a name that an old transformers lacks."""
    first = next(node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom)))
    assert ast.unparse(first) == "from .. import transformers_versions"


def test_metadata_and_constraints_agree_with_the_tested_versions():
    numbers = [tuple(map(int, version.split("."))) for version in TESTED]
    assert numbers == sorted(numbers)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (bound,) = re.findall(r"^transformers>=(\S+)$", setup["options"]["install_requires"], re.MULTILINE)
    assert TESTED[0].startswith(f"{bound}.")
    (pinned,) = re.findall(r"^transformers==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned in TESTED
