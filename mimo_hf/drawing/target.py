"""What can be asked before there is anything to draw: may this file be written, and is there something to draw with."""

from importlib import import_module
from os import PathLike
from pathlib import Path

FORMATS = (".png", ".svg", ".pdf")  # endings of files that can be drawn


def check_target(path: str | PathLike[str], argument: str = "path") -> Path:
    """
    The file a picture will go to, looked at before anything long is computed.

    Args:
        argument: how the caller's user names it, for the error.

    Raises:
        ValueError: its suffix names none of `FORMATS`.
        ImportError: matplotlib is missing.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"`{argument}` must end in {' or '.join(FORMATS)}; got {path.name!r}.")
    import_module(f"{__package__}.look")
    return path
