"""MiMo-Audio models that speak at each position, and what they are asked: for timings, in which nobody listens."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mimo_hf.modeling.mimo_audio import (
    MiMoAudioConfig,
    MiMoAudioForConditionalGeneration,
    MiMoAudioTokenizerConfig,
    MiMoAudioTokenizerModel,
    layout_audio,
)

# The plan of examples/train_mimo_audio_codec.py and examples/pretrain_mimo_audio.py, whose models are bundled.
TINY_CODEC = {
    "n_mels": 80, "d_model": 96, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 384,
    "encoder_skip_layer_id": 1, "decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 384, "vocoder_dim": 96,
    "vocoder_num_layers": 3, "vocoder_attention_heads": 4, "vocoder_intermediate_dim": 384, "num_quantizers": 8, "codebook_size": [64],
}  # fmt: skip
TINY_MODEL = {
    "vocab_size": 512, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 32, "speech_vocab_size": 65, "speech_zeroemb_idx": 64, "local_dim": 96, "local_layers": 2,
    "local_attn_heads": 4, "local_ffn_dim": 256, "input_local_layers": 1,
}  # fmt: skip
IDS = {
    f"{name}_token_id": 500 + number
    for number, name in enumerate(("eos", "im_end", "sosp", "eosp", "empty", "sostm", "eostm", "eot"))
}
SMALL_MODEL = TINY_MODEL | {
    "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
    "head_dim": 64, "speech_vocab_size": "1025-1025-129-129-129-129-129-129", "speech_zeroemb_idx": "1024-1024-128-128-128-128-128-128",
    "local_dim": 256, "local_layers": 4, "local_attn_heads": 16, "local_ffn_dim": 1024, "input_local_layers": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Prompts:
    """Rows of text and a clip, padded on the left."""

    input_ids: torch.Tensor
    audio_codes: torch.Tensor
    attention_mask: torch.Tensor

    def alone(self, row: int) -> dict[str, torch.Tensor]:
        """One row, without its padding."""
        kept = self.attention_mask[row].bool()
        return {name: values[row][kept][None] for name, values in vars(self).items()}


def make_model(device: str = "cpu", dtype: torch.dtype = torch.float32, **shape) -> MiMoAudioForConditionalGeneration:
    """Random weights; what no shape says is the released model's."""
    torch.manual_seed(0)
    with torch.device(device):
        return MiMoAudioForConditionalGeneration._from_config(MiMoAudioConfig(**shape), dtype=dtype).eval()


def make_codec(device: str = "cpu", dtype: torch.dtype = torch.float32, **shape) -> MiMoAudioTokenizerModel:
    torch.manual_seed(0)
    with torch.device(device):
        return MiMoAudioTokenizerModel._from_config(MiMoAudioTokenizerConfig(**shape), dtype=dtype).eval()


def random_codes(sizes: list[int], frames: int, seed: int = 0) -> torch.Tensor:
    """`[quantizers, frames]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (frames,), generator=generator) for size in sizes])


def make_prompts(config: MiMoAudioConfig, rows: int, patches: int, device: str = "cpu") -> Prompts:
    """Ten ids of text and a clip of `patches` patches, each row one position shorter than the one before."""
    zeros = torch.tensor(config.speech_zero_ids)
    longest = 10 + patches + 2
    ids = torch.full((rows, longest), config.stop_token_ids[0])
    codes = zeros.repeat(rows, longest, config.group_size, 1)
    mask = torch.zeros(rows, longest, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    for row in range(rows):
        text = torch.randint(256, (10 - row % 8,), generator=generator)
        frames = random_codes([size - 1 for size in config.speech_vocab_sizes], patches * config.group_size, row).T
        clip, patch_codes = layout_audio(frames, config)
        own = torch.cat([text, clip])
        ids[row, -len(own) :], mask[row, -len(own) :] = own, 1
        codes[row, -len(clip) :] = patch_codes
    return Prompts(ids.to(device), codes.to(device), mask.to(device))


def only_speech(config: MiMoAudioConfig) -> Callable[[int, torch.Tensor], list[int]]:
    """For `generate(prefix_allowed_tokens_fn=...)`: every new position is a patch."""
    return lambda row, ids: [config.empty_token_id]


def speak(model: MiMoAudioForConditionalGeneration, inputs: dict[str, torch.Tensor], patches: int, **options):
    """`patches` new patches a row, drawn as the presets draw them."""
    return model.generate(
        **inputs,
        max_new_tokens=patches,
        min_new_tokens=patches,
        do_sample=False,
        audio_do_sample=True,
        audio_temperature=0.9,
        audio_top_k=0,
        audio_top_p=0.95,
        prefix_allowed_tokens_fn=only_speech(model.config),
        **options,
    )
