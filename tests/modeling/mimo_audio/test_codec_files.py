"""Checkpoints with the official names, the Auto classes, and input that the codec refuses."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization

import mimo_hf
from mimo_hf.modeling.mimo_audio import MiMoAudioFeatureExtractor, MiMoAudioTokenizerConfig, MiMoAudioTokenizerModel

from ._codec_loops import SMALL, small_codec

LAYER = [
    *(f"self_attn.{name}_proj.{part}" for name in ("q", "v", "out") for part in ("weight", "bias")),
    "self_attn.k_proj.weight",
    *(
        f"{name}.{part}"
        for name in ("self_attn_layer_norm", "fc1", "fc2", "final_layer_norm")
        for part in ("weight", "bias")
    ),
]


def official_names():
    both = ("weight", "bias")
    names = [
        f"encoder.{name}.{part}" for name in ("conv1", "conv2", "layer_norm", "down_sample_norm") for part in both
    ]
    names += [
        "encoder.down_sample_layer.0.weight",
        "decoder.vocoder.embeddings.weight",
        "decoder.vocoder.head.istft.window",
    ]
    names += [
        f"decoder.{name}.{part}" for name in ("layer_norm", "vocoder.layer_norm", "vocoder.head.out") for part in both
    ]
    names += [
        f"decoder.{name}.{part}"
        for name in ("dconv1.conv", "dconv1.norm", "dconv2.conv", "dconv2.norm")
        for part in both
    ]
    for part, count in {"encoder": 32, "decoder": 32, "decoder.vocoder": 16}.items():
        names += [f"{part}.layers.{i}.{name}" for i in range(count) for name in LAYER]
    for q in range(20):
        names += [
            f"encoder.quantizer.vq.layers.{q}._codebook.{name}"
            for name in ("inited", "cluster_size", "embed", "embed_avg")
        ]
    return set(names)


SHAPES = {
    "encoder.conv1.weight": (1280, 128, 3),
    "encoder.conv2.weight": (1280, 1280, 3),
    "encoder.layers.31.self_attn.k_proj.weight": (1280, 1280),
    "encoder.layers.0.fc1.weight": (5120, 1280),
    "encoder.down_sample_layer.0.weight": (1280, 1280, 2),
    "encoder.quantizer.vq.layers.0._codebook.inited": (1,),
    "encoder.quantizer.vq.layers.1._codebook.embed": (1024, 1280),
    "encoder.quantizer.vq.layers.2._codebook.embed_avg": (128, 1280),
    "encoder.quantizer.vq.layers.19._codebook.cluster_size": (128,),
    "decoder.dconv1.conv.weight": (1280, 1280, 2),
    "decoder.dconv2.conv.weight": (1280, 128, 3),
    "decoder.dconv2.norm.weight": (128,),
    "decoder.vocoder.embeddings.weight": (256, 128),
    "decoder.vocoder.head.out.weight": (962, 256),
    "decoder.vocoder.head.istft.window": (960,),
}


def test_the_released_model_has_the_official_names_shapes_and_number_of_parameters():
    with torch.device("meta"):
        model = MiMoAudioTokenizerModel(MiMoAudioTokenizerConfig())
    state = model.state_dict()
    assert set(state) == official_names()
    assert {name: tuple(state[name].shape) for name in SHAPES} == SHAPES
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_284_653_122
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == 638_328_320
    assert sum(parameter.numel() for parameter in model.decoder.vocoder.parameters()) == 12_912_578
    books = [buffer.numel() for name, buffer in model.named_buffers() if name.endswith((".embed", ".embed_avg"))]
    assert sum(books) == 2 * 5_570_560


def test_a_short_list_of_codebook_sizes_ends_in_its_last():
    config = MiMoAudioTokenizerConfig(num_quantizers=4, codebook_size=[64, 16])
    assert config.codebook_sizes == [64, 16, 16, 16]
    assert MiMoAudioTokenizerConfig().codebook_sizes == [1024] * 2 + [128] * 18


def test_a_folder_is_loaded_as_it_was_saved_by_every_auto_class(tmp_path):
    mimo_hf.register()
    mimo_hf.register()
    model = small_codec()
    model.save_pretrained(tmp_path)
    MiMoAudioFeatureExtractor(feature_size=12, n_fft=64, win_length=64, hop_length=16).save_pretrained(tmp_path)
    features = torch.randn(1, 33, 12, generator=torch.Generator().manual_seed(0))
    for auto in (AutoModel, AutoModelForAudioTokenization):
        loaded, report = auto.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is MiMoAudioTokenizerModel
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        assert torch.equal(loaded.encode(features).audio_codes, model.encode(features).audio_codes)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == loaded.config.to_dict()
    assert AutoFeatureExtractor.from_pretrained(tmp_path).hop_length == 16


def test_an_official_configuration_is_read(tmp_path):
    """With fields of the official class that say what is built anyway."""
    mimo_hf.register()
    fields = {
        "model_type": "mimo_audio_tokenizer",
        "architectures": ["MiMoAudioTokenizer"],
        "vocoder_num_layers": 16,
        "rope_theta": 10000,
        "encoder_attn_window_size": [-1, -1],
        "codebook_size": [1024, 1024, *[128] * 18],
        "max_audio_seconds": 1800,
        "scale_embedding": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is MiMoAudioTokenizerConfig
    assert (config.rope_theta, config.window("decoder"), config.window("vocoder")) == (10000, (-1, 0), (40, 10))


def test_initial_weights_are_drawn_and_the_window_is_a_hann_window():
    model = MiMoAudioTokenizerModel(MiMoAudioTokenizerConfig(**SMALL))
    assert all(book.embed.std() > 0 for book in model.encoder.quantizer.codebooks)
    torch.testing.assert_close(model.decoder.vocoder.head.istft.window, torch.hann_window(64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ln_type": "RMSNorm"}, r"`ln_type` must be 'LayerNorm', as in the released codec; got 'RMSNorm'"),
        ({"d_model": 0}, r"`d_model` must be at least 1; got 0"),
        ({"activation_function": "swoosh"}, r"`activation_function` must be a name in transformers' ACT2FN; got 'swoosh'"),
        ({"avg_pooler": 1}, r"`avg_pooler` must be at least 2; got 1"),
        ({"decoder_stride_size": 3}, r"`decoder_stride_size` must be `stride_size`, 2, .* got 3"),
        ({"decoder_kernel_size": 1}, r"`decoder_kernel_size` must be at least `decoder_stride_size`, 2; got 1"),
        ({"window_size": 480}, r"`window_size` must be `nfft`, .* got window_size=480, nfft=64"),
        ({"fmax": 20_000}, r"`fmin` and `fmax` must be rising frequencies from 0 to 12000 Hz; got 0 and 20000"),
        ({"encoder_attention_heads": 3}, r"`encoder_attention_heads` must divide `d_model`, 32, into even widths; got 3"),
        ({"vocoder_attn_window_size": [40, -1]}, r"`vocoder_attn_window_size` must be two numbers of frames.* got \[40, -1\]"),
        ({"vocoder_attn_window_size": [40]}, r"`vocoder_attn_window_size` must be two numbers of frames.* got \[40\]"),
        ({"encoder_skip_layer_id": 5}, r"`encoder_skip_layer_id` must be None or the number of a layer, 1 to 4; got 5"),
        ({"codebook_size": []}, r"`codebook_size` must be a list of numbers of entries, each at least 2; got \[\]"),
        ({"ema_decay": 1.0}, r"`ema_decay` must be at least 0 and less than 1; got 1.0"),
        ({"threshold_ema_dead_code": -1}, r"`threshold_ema_dead_code` must be at least 0, .* got -1"),
    ],
)  # fmt: skip
def test_a_configuration_of_which_no_codec_can_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        MiMoAudioTokenizerConfig(**(SMALL | changes))


GOOD = torch.zeros(2, 9, 12)
LEFT = torch.tensor([[1] * 9, [0] * 3 + [1] * 6])
NAN = torch.zeros(2, 9, 12).index_fill(1, torch.tensor(4), torch.nan)
CODES = torch.zeros(2, 4, 5, dtype=torch.long)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(), r"Either `input_features` or `input_values` must be given; got neither"),
        (lambda m: m.encode(GOOD, input_values=torch.zeros(1, 5)), r"`input_values` must be given; got both"),
        (lambda m: m.encode(torch.zeros(2, 9, 13)), r"`input_features` must be `\[batch, mel frames, 12\]`; got shape \(2, 9, 13\)"),
        (lambda m: m.encode(GOOD[0]), r"`input_features` must be .* got shape \(9, 12\)"),
        (lambda m: m.encode(GOOD[:, :0]), r"`input_features` must have at least one clip of at least one frame; got 2 of 0"),
        (lambda m: m.encode(GOOD, LEFT), r"`input_features_mask` must have its ones in front .* padding on the left"),
        (lambda m: m.encode(GOOD, LEFT * 0), r"`input_features_mask` must have a one in each row; got none in row 0"),
        (lambda m: m.encode(GOOD, LEFT[:1]), r"`input_features_mask` must be `\[2, 9\]`; got shape \(1, 9\)"),
        (lambda m: m.encode(NAN), r"`input_features` must be finite; got NaN or infinity in row 0 at 4"),
        (lambda m: m.encode(GOOD, num_quantizers=5), r"`num_quantizers` must be 1 to 4, the codebooks of this codec; got 5"),
        (lambda m: m.encode(GOOD, num_quantizers=0), r"`num_quantizers` must be 1 to 4, the codebooks of this codec; got 0"),
        (lambda m: m.encode(input_values=torch.zeros(2, 2, 90)), r"`input_values` must be `\[batch, samples\]` .* got shape \(2, 2, 90\)"),
        (lambda m: m.encode(input_values=torch.zeros(90)), r"`input_values` must be .* got shape \(90,\)"),
        (lambda m: m.encode(input_values=torch.zeros(1, 0)), r"`input_values` must have at least one clip of at least one frame"),
        (lambda m: m.encode(input_values=torch.full((1, 9), torch.inf)), r"`input_values` must be finite; got NaN or infinity in row 0 at 0"),
        (lambda m: m.decode(CODES[0]), r"`audio_codes` must be `\[batch, quantizers, frames\]`; got shape \(4, 5\)\. .*codes\[None\]"),
        (lambda m: m.decode(CODES[:, :, :0]), r"`audio_codes` must have at least one clip of at least one frame; got 2 of 0"),
        (lambda m: m.decode(torch.zeros(1, 5, 3, dtype=torch.long)), r"`audio_codes` must have 1 to 4 quantizers in dimension 1; got shape \(1, 5, 3\)"),
        (lambda m: m.decode(CODES + 8), r"`audio_codes\[0, 1, 0\]` must be 0 to 7, an entry of its codebook; got 8\. The language model's id 8"),
        (lambda m: m.decode(CODES - 1), r"`audio_codes\[0, 0, 0\]` must be 0 to 15, an entry of its codebook; got -1"),
    ],
)  # fmt: skip
def test_what_the_codec_can_not_read_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(small_codec())


def test_codes_and_samples_of_another_kind_are_refused():
    with pytest.raises(TypeError, match=r"`audio_codes` must be whole numbers; got torch\.float32"):
        small_codec().decode(CODES.float())
    with pytest.raises(TypeError, match=r"`input_values` must be floats in -1 to 1; got torch\.int16"):
        small_codec().encode(input_values=torch.zeros(1, 9, dtype=torch.int16))


def test_the_codec_imports_no_audio_library(warm_python):
    """Those that are not imported yet in the warm Python can't be imported at all here."""
    code = (
        "import sys\nfor name in ('torchaudio', 'flash_attn', 'soundfile', 'librosa'): sys.modules[name] = None\n"
        "from mimo_hf.modeling.mimo_audio import MiMoAudioTokenizerModel, MiMoAudioFeatureExtractor\nprint('imported')"
    )
    done = warm_python.run("-c", code)
    assert done.stdout.strip().endswith("imported"), done.stderr[-2000:]
