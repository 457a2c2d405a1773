"""Our Spaces as local apps: finds `spaces/<name>/app.py` in a checkout or in an installed wheel, and runs it."""

import errno
import importlib.util
import ipaddress
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ALIASES = {"oam": "oam_link_simulator"}


def spaces_folder() -> Path:
    """The folder of all Spaces: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "spaces", package / "spaces"):
        if any(folder.glob("*/app.py")):
            return folder
    raise FileNotFoundError(f"no Spaces beside {package} nor in it: install mimo_hf from its wheel or a checkout.")


def names() -> list[str]:
    """The Spaces that are there."""
    return sorted(app.parent.name for app in spaces_folder().glob("*/app.py"))


def space_path(name: str) -> Path:
    """
    The folder of one Space; `oam` is short for `oam_link_simulator`.

    Raises:
        ValueError: there is no Space of this name.
    """
    known = names()
    chosen = ALIASES.get(name, name)
    if chosen not in known:
        short = {folder: alias for alias, folder in ALIASES.items()}
        raise ValueError(
            f"SPACE must be one of {', '.join(short.get(other, other) for other in known)}; got {name!r}."
        )
    return spaces_folder() / chosen


def load(name: str) -> ModuleType:
    """
    The module of a Space's `app.py`, with `build_demo` and the arguments of `launch` in `LAUNCH`.

    Raises:
        ImportError: Gradio or Plotly is not installed.
    """
    path = space_path(name)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if missing := [needed for needed in ("gradio", "plotly") if importlib.util.find_spec(needed) is None]:
        raise ImportError(f"the Spaces need {' and '.join(missing)}: pip install 'mimo-hf[spaces]'")
    spec = importlib.util.spec_from_file_location(f"mimo_hf_space_{path.name}", path / "app.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{path / 'app.py'} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def launch(name: str, *, port: int | None = None, host: str = "127.0.0.1", **options: Any) -> Any:
    """
    Serves a Space until it is interrupted.

    Args:
        name: of the folder in `spaces/`, or its short name.
        port: None: the first free one from 7860.
        host: address to listen on. The default is reached from this machine only.
        options: passed to Gradio's `launch`; with `prevent_thread_lock=True` this returns at once.

    Returns:
        What Gradio's `launch` returns: the app, its local address, its public address or None.

    Raises:
        ValueError: there is no Space of this name, or nothing can listen on `host` and `port`.
    """
    space_path(name)
    check_address(host, port)
    module = load(name)
    demo = module.build_demo()
    arguments = {**module.LAUNCH, "server_name": host, "server_port": port, **options}
    return demo.launch(**arguments)


def check_address(host: str, port: int | None) -> None:
    """
    Tries the address. Gradio would ask again and again.

    Raises:
        ValueError: `host` is no address of this machine, or `port` is out of range, taken or not allowed.
    """
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"`port` must be from 1 to 65535; got {port}.")
    no_address = f"`host` {host} is no address of this machine; give 127.0.0.1, or 0.0.0.0 for all of its addresses."
    if host and not host.strip("0123456789."):  # a name server must not be asked for what is meant as numbers
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(no_address) from None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(
                f"`port` must be free on {host}; got {port}, which is taken. Leave it out for a free one, or give "
                "another."
            ) from None
        if error.errno == errno.EACCES:
            raise ValueError(f"`port` must be 1024 or above for this user; got {port}.") from None
        raise ValueError(no_address) from None
    except UnicodeError:  # of a name that no encoding of host names takes
        raise ValueError(no_address) from None
