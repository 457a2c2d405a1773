"""
transformers' pipelines `text-to-audio` and `any-to-any` with what MiMo-Audio needs; for all other models they are what they were.

`text-to-audio` hands its model no codec, and would give a text to it as it stands. `any-to-any` asks for librosa in transformers up to
5.22, for any model that hears.
"""

from typing import Any, cast

from transformers import Pipeline
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.any_to_any import AnyToAnyPipeline
from transformers.pipelines.text_to_audio import TextToAudioPipeline

from .modeling_mimo_audio import MiMoAudioForConditionalGeneration
from .processing_mimo_audio import MiMoAudioProcessor


class SpeechTextToAudioPipeline(TextToAudioPipeline):
    """
    `pipeline("text-to-audio", model=folder)("Hello.")`: texts are spoken (`tts`), chats are answered in speech (`spoken_dialogue`). Another task, or
    what else `apply_chat_template` takes, stands in `preprocess_params={"task": "instruct_tts"}`.
    """

    def preprocess(self, text: Any, **kwargs: Any) -> Any:
        if not _is_ours(self.model):
            return super().preprocess(text, **kwargs)
        processor = _processor_of(self)
        chat = [{"role": "user", "content": text}] if isinstance(text, str) else text.messages
        kwargs.setdefault("task", "tts" if isinstance(text, str) else "spoken_dialogue")
        inputs = processor.apply_chat_template(chat, add_generation_prompt=True, **kwargs)
        inputs["task"] = kwargs["task"] or "default"  # for the next step, which samples by it
        return inputs

    def _forward(self, model_inputs: Any, **kwargs: Any) -> Any:
        if not _is_ours(self.model):
            return super()._forward(model_inputs, **kwargs)
        preset = self.model.generation_presets[model_inputs.pop("task")]
        own = {**kwargs.pop("forward_params"), **kwargs.pop("generate_kwargs")}
        given = {
            "output_audio": True,
            "audio_tokenizer": _processor_of(self).audio_tokenizer,
            **preset,
            **own,
        }
        return super()._forward(model_inputs, forward_params=given, generate_kwargs={}, **kwargs)


class SpeechAnyToAnyPipeline(AnyToAnyPipeline):
    """
    `pipeline("any-to-any", model=folder)(chat, generation_mode="audio", task="spoken_dialogue")`, and text without `generation_mode`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        if not _is_ours(kwargs.get("model", args[0] if args else None)):
            super().__init__(*args, **kwargs)
            return
        Pipeline.__init__(self, *args, **kwargs)
        self.check_model_type(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES)


def register_pipelines():
    """Puts both in the place of transformers' own; calling it again changes nothing."""
    for task, pipeline_class in {
        "text-to-audio": SpeechTextToAudioPipeline,
        "any-to-any": SpeechAnyToAnyPipeline,
    }.items():
        PIPELINE_REGISTRY.supported_tasks[task]["impl"] = pipeline_class


def _is_ours(model: Any) -> bool:
    return isinstance(model, MiMoAudioForConditionalGeneration)


def _processor_of(pipeline: Any) -> MiMoAudioProcessor:
    processor = pipeline.processor
    if not isinstance(processor, MiMoAudioProcessor) or getattr(processor, "audio_tokenizer", None) is None:
        raise ValueError(
            f"`processor` must be a MiMoAudioProcessor with its codec, to be heard; got {type(processor).__name__}. Save it into the model's "
            "folder, or give it to `pipeline`."
        )
    return cast(Any, processor)


__all__ = ["SpeechAnyToAnyPipeline", "SpeechTextToAudioPipeline", "register_pipelines"]
