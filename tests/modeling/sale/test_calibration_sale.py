"""Thresholds: within theta on every prompt, sparser with a larger theta, the same after a break."""

import json
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from mimo_hf import SaleConfig, cli
from mimo_hf.hub.checkpoints import bundled
from mimo_hf.modeling.sale import attention_sale, read_thresholds
from mimo_hf.modeling.sale.calibration_sale import calibrate
from mimo_hf.modeling.sale.retrieval_prompts import retrieval_prompt, retrieval_text

MIN = 256


def config_of(theta, **settings):
    return SaleConfig(theta=theta, min_seq_len=MIN, tau_init=80.0, tau_floor=0.1, **settings)


@pytest.fixture
def prompts(prompt):
    return [prompt(1, 600, seed=1), prompt(1, 700, seed=2)]


def inputs_of_layers(model, ids):
    """Queries, keys and values of each layer in a dense pass."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    found = []

    def spy(module, query, key, value, mask, **options):
        found.append((query, key, value))
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    AttentionInterface.register("spy", spy)
    AttentionMaskInterface.register("spy", sdpa_mask)
    model.set_attn_implementation("spy")
    with torch.no_grad():
        model(ids, use_cache=False)
    model.set_attn_implementation("sdpa")
    return found


def test_errors_are_within_theta_on_every_prompt_and_not_with_twice_the_threshold(make_model, prompts):
    model = make_model()
    found = calibrate(model, prompts, config_of(0.3), progress=False)
    kernel = attention_sale.kernel()
    exceeded = torch.zeros(2, 4, dtype=torch.bool)
    for ids in prompts:
        for layer, (query, key, value) in enumerate(inputs_of_layers(model, ids)):
            key, value = (x.repeat_interleave(2, dim=1) for x in (key, value))
            dense = scaled_dot_product_attention(query, key, value, is_causal=True)

            def errors(taus, query=query, key=key, value=value, dense=dense):
                kept = kernel.select_blocks(query, key, taus)
                sparse = kernel.attend_blocks(query, key, value, kept)
                return (sparse - dense).norm(p=1, dim=-1).mean(dim=-1)[0]

            taus = found.thresholds[layer]
            assert (errors(taus) <= 0.3 + 1e-5).all()
            exceeded[layer] |= errors(torch.where(taus == 0, 0.2, 2 * taus)) > 0.3
    # A head whose threshold has fallen had a reason: at twice the value, or at the last before the floor, it was too far off.
    assert (exceeded | (found.thresholds == 80.0)).all()


def test_a_layer_s_own_scaling_is_heeded(make_model, prompts):
    """Queries twice as long, at half the scaling, are the same attention."""
    found = []
    for factor in (1.0, 2.0):
        model = make_model()
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.q_proj.weight *= factor
                layer.self_attn.scaling /= factor
        found.append(calibrate(model, prompts[:1], config_of(0.3), progress=False))
    assert torch.equal(found[0].thresholds, found[1].thresholds)
    assert_close(found[0].errors, found[1].errors)
    assert (found[0].thresholds < 80.0).any()


def test_sparser_with_a_larger_theta(make_model, prompts):
    model = make_model()
    found = [calibrate(model, prompts[:1], config_of(theta), progress=False) for theta in (0.05, 0.2, 3.0)]
    for tight, loose in pairwise(found):
        assert (tight.thresholds <= loose.thresholds).all()
        assert tight.densities.mean() > loose.densities.mean()
        assert (loose.errors <= 3.0).all()


def test_what_was_cut_short_goes_on(make_model, prompts, tmp_path):
    model = make_model()
    whole = calibrate(model, prompts, config_of(0.3), progress=False)

    def stop(found):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, prompts, config_of(0.3), out=tmp_path, progress=False, on_prompt=stop)
    assert model.config._attn_implementation == "sdpa"
    assert not (tmp_path / "sale_config.json").exists()
    seen = []
    resumed = calibrate(
        model, prompts, config_of(0.3), out=tmp_path, progress=False, on_prompt=lambda x: seen.append(x.prompts)
    )
    assert seen == [2]
    assert torch.equal(resumed.thresholds, whole.thresholds)
    assert torch.equal(read_thresholds(tmp_path / "sale_thresholds.safetensors"), whole.thresholds)
    loaded = SaleConfig.from_pretrained(tmp_path)
    assert torch.equal(loaded.thresholds, whole.thresholds)
    with pytest.raises(ValueError, match=r"`out` must be a new folder, or one begun alike; .*theta 0\.3, not 0\.1"):
        calibrate(model, prompts, config_of(0.1), out=tmp_path, progress=False)


def test_folders_that_can_not_be_are_told_before_any_work(make_model, prompts, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match=r"`out` must be a folder; got .*file, a file"):
        calibrate(
            make_model(), prompts, config_of(0.3), out=file, progress=False, on_prompt=lambda _: pytest.fail("work")
        )
    assert file.read_text() == "mine"
    (tmp_path / "sale_calibration.json").write_text("{")
    with pytest.raises(ValueError, match=r"sale_calibration\.json must be JSON, as `calibrate` writes it; got"):
        calibrate(make_model(), prompts, config_of(0.3), out=tmp_path, progress=False)


def test_prompts_that_can_not_be(make_model, prompt):
    with pytest.raises(
        ValueError, match="`prompts` must be longer than `min_seq_len`=256; got 256 tokens in prompt 0"
    ):
        calibrate(make_model(), [prompt(1, 256)], config_of(0.3), progress=False)
    with pytest.raises(ValueError, match="`prompts` must be at least one prompt"):
        calibrate(make_model(), [], config_of(0.3), progress=False)


def test_layers_that_stay_dense_are_not_calibrated(make_model, prompts):
    layers = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True, "sliding_window": 64}
    model = make_model("qwen3", **layers, max_window_layers=0)
    found = calibrate(model, prompts[:1], config_of(1e-6), progress=False)  # no head but a dense one is so near
    assert (found.thresholds[0] == 80.0).all()
    assert (found.thresholds[1] == 0.0).all()
    with pytest.raises(ValueError, match="none of whose layers could be sparse"):
        calibrate(model, prompts[:1], config_of(0.3, start_layer=2), progress=False)


def test_what_goes_on_is_what_the_model_computes(prompts):
    """MiMo-V2-Flash's layers with a window have sinks, which take their share while thresholds are sought."""
    import mimo_hf

    mimo_hf.register()
    model = AutoModelForCausalLM.from_pretrained(bundled("mimo-v2-flash"), dtype=torch.float32)
    states = []
    hook = model.model.norm.register_forward_hook(lambda module, given, out: states.append(given[0]))
    with torch.no_grad():
        model(prompts[0])
    calibrate(model, prompts[:1], config_of(0.3), progress=False)
    hook.remove()
    assert_close(states[1], states[0], atol=1e-4, rtol=1e-4)


def test_a_training_model_is_given_back_as_it_was(make_model, prompts):
    model = make_model().train()
    calibrate(model, prompts[:1], config_of(0.3), progress=False)
    assert model.training
    assert model.config._attn_implementation == "sdpa"


# Prompts


def test_a_prompt_holds_its_answer_once_before_the_question():
    text, value = retrieval_text(20, seed=3)
    assert text == retrieval_text(20, seed=3)[0]
    assert text != retrieval_text(20, seed=4)[0]
    begin, records = text.index("{"), text[text.index("{") : text.index("}") + 1]
    key = text.rpartition("The value of ")[2].removesuffix(" is").strip('"')
    assert len(json.loads(records)) == 20
    assert json.loads(records)[key] == value
    assert key in text[:begin]


class Characters:
    def __call__(self, text):
        return type("Encoded", (), {"input_ids": [ord(letter) for letter in text]})


def test_a_prompt_is_as_long_as_asked_for():
    ids = retrieval_prompt(Characters(), 3000, seed=0)
    assert 3000 - 83 < len(ids) <= 3000
    with pytest.raises(ValueError, match="`length` must be at least"):
        retrieval_prompt(Characters(), 100, seed=0)


# The command


@pytest.fixture(scope="module")
def checkpoint():
    return bundled("mimo-v2-flash")


def test_the_command(checkpoint, tmp_path, capsys):
    folder, plot = tmp_path / "thresholds", tmp_path / "thresholds.svg"
    options = ["--prompts", "2", "--length", "420", "--min-seq-len", "256", "--theta", "0.2"]
    assert (
        cli.main(
            ["sale", "calibrate", "--model", str(checkpoint), "--folder", str(folder), *options, "--plot", str(plot)]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "2 prompts" in printed
    assert "use_sale(model, SaleConfig.from_pretrained(" in printed
    thresholds = SaleConfig.from_pretrained(folder).thresholds
    assert thresholds.dim() == 2
    assert "Threshold (0: dense)" in plot.read_text()
    assert (
        cli.main(["sale", "calibrate", "--model", str(checkpoint), "--folder", str(folder), *options, "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert torch.equal(torch.tensor(told["thresholds"]), thresholds)
    assert (
        cli.main(["sale", "calibrate", "--model", str(checkpoint), "--folder", str(folder), "--length", "99999999"])
        == 2
    )
    assert "--length must be at most" in capsys.readouterr().err


def test_the_command_names_what_was_typed(checkpoint, tmp_path, capsys):
    command = ["sale", "calibrate", "--model", str(checkpoint), "--folder", str(tmp_path / "thresholds")]
    assert cli.main([*command, "--length", "300"]) == 2
    assert "--length must be so large that each prompt has more than --min-seq-len, 1024" in capsys.readouterr().err
    short = [*command, "--length", "420", "--min-seq-len", "256", "--prompts", "1"]
    assert cli.main(short) == 0
    assert cli.main([*short, "--theta", "0.1"]) == 2
    assert "--folder must be a new folder, or one begun alike" in capsys.readouterr().err


def test_a_model_that_is_not_there(tmp_path, capsys):
    assert (
        cli.main(["sale", "calibrate", "--model", str(tmp_path / "none"), "--folder", str(tmp_path / "thresholds")])
        == 2
    )
    assert (
        f"--model must be a folder or a model of the Hub with a causal language model and its tokenizer; got {tmp_path}"
        in capsys.readouterr().err
    )
