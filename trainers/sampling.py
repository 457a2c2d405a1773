"""Sampled responses to prompts, as a GRPO trainer samples them, to measure a policy or to collect candidates."""

from collections.abc import Sequence
from typing import Any

import torch
from tqdm.auto import tqdm


@torch.no_grad()
def sample_responses(
    model,
    tokenizer,
    prompts: Sequence[Any],
    num_samples: int = 1,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    batch_size: int = 64,
    progress: str | None = None,
) -> list[list[list[int]]]:
    """
    Draws from the whole distribution (no top-k, no top-p), with Torch's random numbers.

    Args:
        tokenizer: pads on the left.
        prompts: texts, or conversations, to which the tokenizer's chat template is applied.
        num_samples: responses a prompt.
        batch_size: prompts a call of `generate`.
        progress: what a progress bar over the prompts is called; None: there is none.

    Returns:
        Token ids by prompt and sample: the last one is an end token, the tokenizer's or one of the model's generation config,
        unless the response was cut at `max_new_tokens`.
    """
    if tokenizer.padding_side != "left":
        raise ValueError(
            f"`tokenizer` must pad on the left to continue prompts; got padding_side={tokenizer.padding_side!r}. "
            "Set tokenizer.padding_side = 'left'."
        )
    own = model.generation_config.eos_token_id
    ends: set[int] = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    was_training = model.training
    model.eval()
    responses: list[list[int]] = []
    bar = tqdm(total=len(prompts), desc=progress, unit="prompt", disable=progress is None)
    for start in range(0, len(prompts), batch_size):
        texts = list(prompts[start : start + batch_size])
        is_chat = not isinstance(texts[0], str)
        if is_chat:
            texts = tokenizer.apply_chat_template(texts, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not is_chat)
        output = model.generate(
            input_ids=inputs.input_ids.to(model.device),
            attention_mask=inputs.attention_mask.to(model.device),
            do_sample=True,
            temperature=temperature,
            top_p=1.0,
            top_k=0,
            max_new_tokens=max_new_tokens,
            num_return_sequences=num_samples,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=sorted(ends),
        )
        responses += [_until(row, ends) for row in output[:, inputs.input_ids.size(1) :].tolist()]
        bar.update(len(texts))
    bar.close()
    model.train(was_training)
    return [responses[first : first + num_samples] for first in range(0, len(responses), num_samples)]


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    length = next((index + 1 for index, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:length]
