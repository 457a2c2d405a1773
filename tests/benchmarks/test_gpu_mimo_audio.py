"""benchmarks/gpu_mimo_audio.py: the floor counts each weight as often as a patch reads it, and there are no figures without a GPU."""

import pytest
import torch


@pytest.fixture(scope="module")
def bench():
    import gpu_mimo_audio

    return gpu_mimo_audio


def test_the_floor_reads_the_patch_decoder_once_for_each_of_its_steps(bench):
    model = bench.make_model(**bench.TINY_MODEL, **bench.IDS)
    calls = []
    linear = model.local_transformer.layers[0].self_attn.q_proj
    linear.register_forward_hook(lambda module, inputs, output: calls.append(output.shape))
    bench.speak(model, bench.make_prompts(model.config, 1, 4).alone(0), 1)
    steps = model.config.group_size + max(model.config.delays)
    assert len(calls) == steps
    sizes = dict.fromkeys(("llm", "patch_encoder", "patch_decoder"), 0)
    for name, weights in model.named_parameters():
        if "embed" not in name:
            sizes[bench.part_of(name)] += 4 * weights.numel()
    assert bench.weights_read(model) == sizes["llm"] + sizes["patch_encoder"] + steps * sizes["patch_decoder"]


def test_without_a_gpu_it_runs_and_has_no_figures(bench, capsys, monkeypatch):
    monkeypatch.setattr(bench, "record", None)
    found = bench.main(["--device", "cpu", "--quick"])
    assert [set(row) for row in found["speaking"]] == [{"rows", "patches", "prompt_patches"}] * 2
    assert found["codec"] == {"seconds_of_speech": 2.0}
    assert "first_sound" not in found
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit):
            bench.main([])
        assert "no CUDA device is present" in capsys.readouterr().err
