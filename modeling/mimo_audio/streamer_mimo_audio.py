"""What MiMo-Audio says, as it says it: text and sound in the order in which `generate` makes them."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from transformers.generation.streamers import BaseStreamer, TextStreamer

from .codec_long import MiMoAudioStreamState
from .configuration_mimo_audio import MiMoAudioConfig

Piece = tuple[str, Any]


class _Closed(Exception):
    """The reader has gone: `generate` need not go on."""


class _Text(TextStreamer):
    """transformers' streamer of whole words, into a queue."""

    def __init__(self, tokenizer: Any, give: Callable[[str], None], **options: Any):
        super().__init__(tokenizer, **options)
        self.give = give

    def on_finalized_text(self, text: str, stream_end: bool = False):
        if text:
            self.give(text)


class MiMoAudioStreamer(BaseStreamer):
    r"""
    An iterator over `("text", str)` and `("audio", float32 [samples] at 24 kHz)` while the model generates one row.

    ```python
    for kind, piece in MiMoAudioStreamer(tokenizer, model.config, codec).run(model.generate, **inputs, max_new_tokens=300):
        ...
    ```

    All texts together are the decoded new text without the layout's markers. Speech is what the row's patches hold up to the first
    `<|eostm|>`; its samples are those of the codec's `decode_chunk`, near `decode`'s of the whole, not equal.

    Args:
        tokenizer: decodes text ids.
        config: the model's.
        audio_tokenizer: the codec; None: pieces are `("codes", [frames, C])` instead of sound.
        chunk_patches: patches that are decoded at a time. More: less work a second of sound, later.
        left_context: frames before the new ones that the codec decodes again with them.
        right_context: frames that must follow a frame before it is heard; the sound of 40 is nearest to `decode`'s, with 4 the first is heard
            after two patches of four frames.
        skip_prompt: whether the prompt's text is left out.
        timeout: seconds that the iterator waits for a piece; None: for ever.
        decode_kwargs: of the tokenizer's `decode`, such as `skip_special_tokens`, True where it is not given.

    Raises:
        ValueError: numbers below 1, or `generate` with several rows.
        TimeoutError: while iterating, no piece within `timeout`. What `generate` raises, `run` raises.
    """

    def __init__(
        self,
        tokenizer: Any,
        config: MiMoAudioConfig,
        audio_tokenizer: Any = None,
        *,
        chunk_patches: int = 1,
        left_context: int = 250,
        right_context: int = 4,
        skip_prompt: bool = True,
        timeout: float | None = None,
        **decode_kwargs: Any,
    ):
        if chunk_patches < 1:
            raise ValueError(f"`chunk_patches` must be at least 1; got {chunk_patches}.")
        self.config, self.audio_tokenizer = config, audio_tokenizer
        self.chunk_patches, self.skip_prompt, self.timeout = chunk_patches, skip_prompt, timeout
        self._pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()
        options = {"skip_special_tokens": True} | decode_kwargs
        self._text = _Text(tokenizer, lambda text: self._pieces.put(("text", text)), **options)
        self._state = MiMoAudioStreamState(left_context, right_context)
        self._markers = set(config.marker_token_ids)
        self._patch: torch.Tensor | None = None
        self._waiting: list[torch.Tensor] = []
        self._is_prompt, self._is_over, self._is_closed = True, False, False

    def put_codes(self, codes: torch.Tensor):
        """The patch `[1, G, C]` of the position whose id is put next; zero ids where it is text."""
        self._patch = codes[0]

    def put(self, value: torch.Tensor):
        """The prompt's ids `[1, T]`, then each new id `[1]`, as `generate` gives them."""
        if self._is_closed:
            raise _Closed
        if len(value) != 1:
            raise ValueError(f"`streamer` must be left out for a batch: it follows one row; got {len(value)} rows.")
        ids = value.flatten().tolist()
        if self._is_prompt:
            self._is_prompt = False
            ids = [] if self.skip_prompt else ids
        for token in ids:
            if token == self.config.empty_token_id:
                self._speak()
            elif token == self.config.eostm_token_id:
                self._finish_speech()
            elif token not in self._markers:
                self._text.put(torch.tensor([token]))
        self._patch = None

    def end(self):
        """Gives out what is held back."""
        self._text.end()
        self._finish_speech()
        self._pieces.put(None)

    def close(self):
        """`generate` stops at its next token."""
        self._is_closed = True

    def run(self, generate: Callable[..., Any], **kwargs: Any) -> Iterator[Piece]:
        """
        Generates in a thread and yields the pieces; leaving the loop stops it.

        Args:
            generate: the model's `generate`.
            kwargs: its arguments.
        """

        def work():
            try:
                generate(streamer=self, **kwargs)
            except _Closed:
                self._pieces.put(None)
            except BaseException as error:  # noqa: BLE001  # raised where the pieces are read
                self._pieces.put(error)

        thread = threading.Thread(target=work, name="MiMoAudioStreamer", daemon=True)
        thread.start()
        try:
            yield from self
        finally:
            self.close()
            thread.join()

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        try:
            piece = self._pieces.get(timeout=self.timeout)
        except queue.Empty:
            raise TimeoutError(
                f"`timeout` must be longer than the model takes for a piece; got {self.timeout} s. Raise it, or give None."
            ) from None
        if piece is None or isinstance(piece, BaseException):
            self._pieces.put(None)  # for whoever asks again
            raise piece or StopIteration
        return cast(Piece, piece)

    def _speak(self):
        patch = self._patch
        if patch is None or self._is_over or int(patch[0, 0]) == self.config.speech_zero_ids[0]:
            return
        if self.audio_tokenizer is None:
            self._pieces.put(("codes", patch.clone()))
            return
        self._waiting.append(patch)
        if len(self._waiting) == self.chunk_patches:
            self._decode(is_last=False)

    def _finish_speech(self):
        if not self._is_over and self.audio_tokenizer is not None and (self._waiting or self._state.codes is not None):
            self._decode(is_last=True)
        self._is_over = True

    def _decode(self, is_last: bool):
        """Frames that wait, `[1, C, frames]` to the codec."""
        if self._waiting:
            codes = torch.cat(self._waiting).T[None].to(self.audio_tokenizer.device)
        else:
            codes = cast(torch.Tensor, self._state.codes)[:, :, :0]
        self._waiting = []
        audio = self.audio_tokenizer.decode_chunk(codes, self._state, is_last)[0, 0].cpu()
        if len(audio) > 0:
            self._pieces.put(("audio", audio))


__all__ = ["MiMoAudioStreamer"]
