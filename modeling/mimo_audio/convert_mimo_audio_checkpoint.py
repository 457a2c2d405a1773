"""The official folders of MiMo-Audio, language model and codec, as one folder that transformers' Auto classes load."""

from .. import transformers_versions  # noqa: F401  it refuses a version that is too old

# isort: split

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from tqdm.auto import tqdm
from transformers import AutoTokenizer, GenerationConfig

from ...hub.checkpoints import INDEX, WEIGHTS, read_object, tensor_shapes, weight_files
from .configuration_mimo_audio import MiMoAudioConfig
from .configuration_mimo_audio_tokenizer import MiMoAudioTokenizerConfig
from .feature_extraction_mimo_audio import MiMoAudioFeatureExtractor
from .modeling_mimo_audio import MiMoAudioForConditionalGeneration
from .modeling_mimo_audio_tokenizer import MiMoAudioTokenizerModel
from .processing_codec import CODEC_FOLDER
from .processing_mimo_audio import MiMoAudioProcessor


def convert_mimo_audio_checkpoint(
    lm_dir: str | Path, codec_dir: str | Path | None, out_dir: str | Path, *, progress: bool = True
) -> Path:
    """
    Writes configuration, token ids, generation defaults, processor and codec; tensors are copied file by file as they are.

    Nothing is written before the names and shapes of all tensors have been compared with the model's, by the files' headers: memory does not
    grow with the model.

    Args:
        lm_dir: of the language model: config.json (of the type `qwen2`), tokenizer, safetensors.
        codec_dir: of MiMo-Audio-Tokenizer; None: a processor without a codec.
        out_dir: new or empty.
        progress: whether a bar is shown.

    Returns:
        `out_dir`; the codec is in its folder `audio_tokenizer`.

    Raises:
        FileNotFoundError: a folder without config.json or safetensors. ValueError: `out_dir` has files; tensors that are missing, unknown or
            of another shape.
    """
    lm_dir, out_dir = Path(lm_dir), Path(out_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        raise ValueError(f"`out_dir` must be new or empty; got {str(out_dir)!r}, which has files. Choose another.")
    settings = _settings(lm_dir, "lm_dir")
    codec_config = None
    codec_files: list[Path] = []
    extractor = MiMoAudioFeatureExtractor()
    if codec_dir is not None:
        codec_dir = Path(codec_dir)
        _settings(codec_dir, "codec_dir")
        codec_config = MiMoAudioTokenizerConfig.from_pretrained(codec_dir)  # nosec B615  # a local folder
        with init_empty_weights(include_buffers=True):
            codec = MiMoAudioTokenizerModel(codec_config)
        codec_files = _checked(codec_dir, "codec_dir", codec)
        extractor = MiMoAudioFeatureExtractor(
            feature_size=codec_config.n_mels,
            sampling_rate=codec_config.sampling_rate,
            n_fft=codec_config.nfft,
            win_length=codec_config.window_size,
            hop_length=codec_config.hop_length,
            f_min=codec_config.fmin,
            f_max=codec_config.fmax,
        )
    tokenizer = AutoTokenizer.from_pretrained(lm_dir)  # nosec B615  # a local folder, and no code of it is run
    processor = MiMoAudioProcessor(
        extractor,
        tokenizer,
        **{
            name: settings[name]
            for name in ("group_size", "audio_channels", "speech_vocab_size")
            if settings.get(name) is not None
        },
        max_length=settings.get("max_position_embeddings", 8192),
    )
    for name in ("model_type", "architectures", "auto_map", "transformers_version"):
        settings.pop(name, None)
    dtype = settings.get("dtype", settings.pop("torch_dtype", None))
    config = MiMoAudioConfig(**(settings | processor.token_ids | {"dtype": dtype}))
    config.architectures = [MiMoAudioForConditionalGeneration.__name__]
    with init_empty_weights(include_buffers=True):
        model = MiMoAudioForConditionalGeneration(config)
    files = _checked(lm_dir, "lm_dir", model)

    out_dir.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(out_dir)
    cast(GenerationConfig, model.generation_config).save_pretrained(out_dir)
    processor.save_pretrained(out_dir)
    copies = [(file, out_dir) for file in files]
    if codec_config is not None:
        (out_dir / CODEC_FOLDER).mkdir()
        codec_config.architectures = [MiMoAudioTokenizerModel.__name__]
        codec_config.save_pretrained(out_dir / CODEC_FOLDER)
        copies += [(file, out_dir / CODEC_FOLDER) for file in codec_files]
    for file, folder in tqdm(copies, desc="copying", unit="file", disable=not progress):
        shutil.copyfile(file, folder / file.name)
    return out_dir


def _settings(folder: Path, name: str) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"`{name}` must be a folder with config.json; got {str(folder)!r}.")
    return read_object(file)


def _checked(folder: Path, name: str, model: torch.nn.Module) -> list[Path]:
    """The files with a model's tensors, once names and shapes are those of the model."""
    files = weight_files(folder)
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(
            f"`{name}` must have {WEIGHTS}, or {INDEX} and all files that it lists; got {str(folder)!r} without {absent[0].name}. "
            "Fetch it again."
        )
    there = {key: shape for file in files for key, shape in tensor_shapes(file).items()}
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    for said, keys in {"missing": wanted.keys() - there.keys(), "unknown": there.keys() - wanted.keys()}.items():
        if keys:
            some = ", ".join(sorted(keys)[:3])
            raise ValueError(
                f"`{name}` must hold the tensors of {type(model).__name__}; got {str(folder)!r}, of which {len(keys)} are {said}, such "
                f"as {some}. Compare its config.json with its weights."
            )
    for key, shape in wanted.items():
        if there[key] != shape:
            raise ValueError(
                f"`{name}` must hold tensors of the shapes in its config.json; got {list(there[key])} for {list(shape)} of {key}."
            )
    return files if files[0].name == WEIGHTS else [*files, folder / INDEX]


__all__ = ["convert_mimo_audio_checkpoint"]
