"""MiMo-Audio (arXiv 2512.23808): the speech codec, the model of text and audio patches, and what prepares audio for them."""

from typing import TYPE_CHECKING

from mimo_hf.lazy import lazy_names

if TYPE_CHECKING:
    from .audio_layout import (
        from_official_layout,
        interleave_text_and_audio,
        layout_audio,
        layout_text,
        pad_codes_to_group,
        parse_interleaved,
        to_official_layout,
    )
    from .codec_long import MiMoAudioStreamState
    from .configuration_mimo_audio import MiMoAudioConfig
    from .configuration_mimo_audio_tokenizer import MiMoAudioTokenizerConfig
    from .feature_extraction_mimo_audio import MiMoAudioFeatureExtractor
    from .fine_tuning import MiMoAudioDataCollator, learning_rate_groups, lora_target_modules, set_training_stage
    from .generation_mimo_audio import MiMoAudioGenerateOutput
    from .modeling_mimo_audio import MiMoAudioForConditionalGeneration
    from .modeling_mimo_audio_tokenizer import MiMoAudioTokenizerModel, MiMoAudioTokenizerPreTrainedModel
    from .processing_mimo_audio import MiMoAudioProcessor
    from .resampling import resample_to_mono
    from .streamer_mimo_audio import MiMoAudioStreamer

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "audio_layout": (
            "from_official_layout interleave_text_and_audio layout_audio layout_text pad_codes_to_group parse_interleaved "
            "to_official_layout"
        ),
        "configuration_mimo_audio": "MiMoAudioConfig",
        "configuration_mimo_audio_tokenizer": "MiMoAudioTokenizerConfig",
        "feature_extraction_mimo_audio": "MiMoAudioFeatureExtractor",
        "fine_tuning": "MiMoAudioDataCollator learning_rate_groups lora_target_modules set_training_stage",
        "generation_mimo_audio": "MiMoAudioGenerateOutput",
        "modeling_mimo_audio": "MiMoAudioForConditionalGeneration",
        "codec_long": "MiMoAudioStreamState",
        "modeling_mimo_audio_tokenizer": "MiMoAudioTokenizerModel MiMoAudioTokenizerPreTrainedModel",
        "processing_mimo_audio": "MiMoAudioProcessor",
        "resampling": "resample_to_mono",
        "streamer_mimo_audio": "MiMoAudioStreamer",
    },
)


__all__ = [
    "MiMoAudioConfig",
    "MiMoAudioDataCollator",
    "MiMoAudioFeatureExtractor",
    "MiMoAudioForConditionalGeneration",
    "MiMoAudioGenerateOutput",
    "MiMoAudioProcessor",
    "MiMoAudioStreamState",
    "MiMoAudioStreamer",
    "MiMoAudioTokenizerConfig",
    "MiMoAudioTokenizerModel",
    "MiMoAudioTokenizerPreTrainedModel",
    "from_official_layout",
    "interleave_text_and_audio",
    "layout_audio",
    "layout_text",
    "learning_rate_groups",
    "lora_target_modules",
    "pad_codes_to_group",
    "parse_interleaved",
    "resample_to_mono",
    "set_training_stage",
    "to_official_layout",
]
