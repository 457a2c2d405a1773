"""SaleConfig: what it takes, and what it is after a file."""

import json
import math

import pytest
import torch

from mimo_hf.modeling.sale import SaleConfig, read_thresholds

THRESHOLDS = torch.tensor([[0.001, 0.0, 0.004], [0.008, 0.002, 0.001]])


@pytest.mark.parametrize(
    "config", [SaleConfig(), SaleConfig(tau=THRESHOLDS, quant="token", theta=0.1), SaleConfig(tau=math.inf)]
)
def test_saved_and_loaded(config, tmp_path):
    config.save_pretrained(tmp_path)
    assert SaleConfig.from_pretrained(tmp_path) == config
    assert SaleConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_file_of_thresholds(tmp_path):
    SaleConfig().with_thresholds(THRESHOLDS).save_pretrained(tmp_path)
    assert torch.equal(read_thresholds(tmp_path / "sale_thresholds.safetensors"), THRESHOLDS)
    SaleConfig().save_pretrained(tmp_path)  # one number: the old file would mislead
    assert not (tmp_path / "sale_thresholds.safetensors").exists()


def test_thresholds_of_a_layer():
    config = SaleConfig(tau=THRESHOLDS)
    assert torch.equal(config.tau_of(1, 3), THRESHOLDS[1])
    assert SaleConfig(tau=1).tau_of(7, 3) == 1.0
    config.check_model(2, 3)
    with pytest.raises(ValueError, match=r"`tau` must be one number or \[2, 4\].*got \[2, 3\]"):
        config.check_model(2, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": -0.1}, "`tau` must be 0 or more; got -0.1"),
        ({"tau": [[0.1, math.nan]]}, "`tau` must be 0 or more; got nan"),
        ({"tau": [0.1, 0.2]}, "`tau` must be a number, or numbers"),
        ({"tau": [[0.1], [0.1, 0.2]]}, "`tau` must have as many heads in each layer"),
        ({"tau": "low"}, "`tau` must be a number, or numbers"),
        ({"theta": 0}, "`theta` must be a positive number; got 0"),
        ({"theta": math.inf}, "`theta` must be a positive number; got inf"),
        ({"tau_init": True}, "`tau_init` must be a positive number; got True"),
        ({"block_q": 40}, "`block_q` must be a multiple of 16 of at least 16; got 40"),
        ({"local_window": 100}, "`local_window` must be a multiple of 32 of at least 32; got 100"),
        ({"min_seq_len": -1}, "`min_seq_len` must be a whole number of at least 0; got -1"),
        ({"quant": "int4"}, "`quant` must be 'thread' or 'token' or 'block'; got 'int4'"),
        ({"compute": "fp8"}, "`compute` must be 'native' or 'int8'; got 'fp8'"),
    ],
)
def test_settings_that_can_not_be(settings, message):
    with pytest.raises(ValueError, match=message):
        SaleConfig(**settings)


def test_folders_and_files_that_are_not_its_own(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a folder with sale_config\.json"):
        SaleConfig.from_pretrained(tmp_path)
    (tmp_path / "sale_config.json").write_text("{")
    with pytest.raises(ValueError, match="must be JSON"):
        SaleConfig.from_pretrained(tmp_path)
    (tmp_path / "sale_config.json").write_text('{"tau": "sale_thresholds.safetensors"}')
    with pytest.raises(FileNotFoundError, match=r"must be a folder with sale_thresholds\.safetensors"):
        SaleConfig.from_pretrained(tmp_path)
    (tmp_path / "sale_thresholds.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="must be a file of safetensors"):
        SaleConfig.from_pretrained(tmp_path)
    (tmp_path / "sale_config.json").write_text('{"taus": 1}')
    with pytest.raises(ValueError, match="`sale` must have settings of SaleConfig"):
        SaleConfig.from_pretrained(tmp_path)
