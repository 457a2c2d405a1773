"""MiMo-Audio (arXiv 2512.23808): the speech codec, the model of text and audio patches, and what prepares audio for them."""

from typing import TYPE_CHECKING

from mimo_hf.lazy import lazy_names

if TYPE_CHECKING:
    from .configuration_mimo_audio_tokenizer import MiMoAudioTokenizerConfig
    from .feature_extraction_mimo_audio import MiMoAudioFeatureExtractor
    from .resampling import resample_to_mono

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "configuration_mimo_audio_tokenizer": "MiMoAudioTokenizerConfig",
        "feature_extraction_mimo_audio": "MiMoAudioFeatureExtractor",
        "resampling": "resample_to_mono",
    },
)


__all__ = [
    "MiMoAudioFeatureExtractor",
    "MiMoAudioTokenizerConfig",
    "resample_to_mono",
]
