"""What the command line shows on a terminal: stages with a spinner, and tokens as `generate` makes them."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.segment import Segment, Segments
from rich.style import Style

from ..command_kit import visible

PICTURE_WIDTH = 100


class _Console(Console):
    def on_broken_pipe(self):
        raise BrokenPipeError("nobody reads the output any more")


def open_console(color: bool = True, record: bool = False, silent: bool = False) -> Console:
    """
    Stdout. Styles appear where it is a terminal and `color` is true; `record` keeps them for a picture as well; `silent`
    prints nothing.
    """
    return _Console(
        file=io.StringIO() if silent else None,
        color_system="auto" if color else None,
        record=record,
        width=PICTURE_WIDTH if record else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


@contextmanager
def stage(title: str) -> Iterator[None]:
    """A spinner with the seconds so far, on stderr; gone when the work is done. Nothing where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(title, total=None)
        yield


class IncrementalDecoder:
    """
    Turns token ids into text one by one. A character whose bytes lie in several tokens comes with the last of them.

    Args:
        prompt: ids in front of the first token. Some tokenizers drop the space that a text begins with.
    """

    # A character has at most four bytes, so its tokens are all among the last four.
    CONTEXT = 4
    UNFINISHED = "\N{REPLACEMENT CHARACTER}"

    def __init__(self, tokenizer, prompt: list[int]):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.num_shown = 0  # characters of `ids` that were returned
        self._keep(prompt)

    def add(self, token: int) -> str:
        """The characters that this token completes; often none within a character."""
        self.ids.append(token)
        text = self._decode()
        num_unfinished = min(len(text) - len(text.rstrip(self.UNFINISHED)), self.CONTEXT - 1)
        new = text[self.num_shown : len(text) - num_unfinished]
        self.num_shown += len(new)
        if num_unfinished == 0:
            self._keep(self.ids)
        return new

    def rest(self) -> str:
        """What there is of a last, unfinished character."""
        return self._decode()[self.num_shown :]

    def _keep(self, ids: list[int]):
        self.ids = ids[-self.CONTEXT :]
        self.num_shown = len(self._decode())

    def _decode(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class TokenPrinter:
    """
    A streamer for `generate` that prints the new tokens as they come.

    `generate` hands over the prompt first, then one chunk a round: accepted drafts, and at its end the trunk's own token.

    Args:
        own, accepted: styles of the trunk's own tokens and of accepted drafts; a character takes its last token's.

    Attributes:
        time_s: spent in here, which is not decoding time.
    """

    def __init__(self, console: Console, tokenizer, own: str = "", accepted: str = ""):
        self.console = console
        self.tokenizer = tokenizer
        self.own = Style.parse(own)
        self.accepted = Style.parse(accepted)
        self.decoder: IncrementalDecoder | None = None
        self.time_s = 0.0

    def put(self, tokens: Any):
        """Args: `tokens`, a tensor `[1, chunk]` or `[chunk]`."""
        started = time.perf_counter()
        ids = tokens.reshape(-1).tolist()
        if self.decoder is None:
            self.decoder = IncrementalDecoder(self.tokenizer, ids)
        else:
            styles = [self.accepted] * (len(ids) - 1) + [self.own]
            self._print([(self.decoder.add(token), style) for token, style in zip(ids, styles, strict=True)])
        self.time_s += time.perf_counter() - started

    def end(self):
        started = time.perf_counter()
        if self.decoder is not None:
            self._print([(self.decoder.rest(), self.own)])
        self.console.print()
        self.time_s += time.perf_counter() - started

    def _print(self, pieces: list[tuple[str, Style]]):
        segments = [Segment(visible(text), style) for text, style in pieces if text]
        if segments:
            # Segments and not Text, which would wrap and expand tabs as if each piece began a line.
            self.console.print(Segments(segments), end="", soft_wrap=True)
