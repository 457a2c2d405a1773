"""
A warning for those who import mimo_hf and forget `register()`: transformers' own MiMo-V2-Flash drops MTP heads in silence.

Nothing is imported for it. When transformers loads its module of that model, the trunk there learns to warn: transformers' own
model of any task is built around it, ours and those of a published folder around a subclass.
"""

import importlib.util
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from importlib.abc import MetaPathFinder
from types import ModuleType

MODULE = "transformers.models.mimo_v2_flash.modeling_mimo_v2_flash"
TRUNK = "MiMoV2FlashModel"


def watch():
    """Makes transformers' own class warn, now or when it is imported; calling it again changes nothing."""
    if MODULE in sys.modules:
        _mark(sys.modules[MODULE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds one module, as the finders after it would, and marks its trunk when it has run."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType):
            execute(module)
            _mark(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _mark(module: ModuleType):
    trunk = getattr(module, TRUNK)
    if not hasattr(trunk.__init__, "_warns_of_lost_heads"):
        trunk.__init__ = _warning(trunk, trunk.__init__)


def _warning(trunk: type, build: Callable) -> Callable:
    @wraps(build)
    def __init__(self, config, *args, **kwargs):
        num_heads = getattr(config, "num_mtp_layers", 0)
        if type(self) is trunk and num_heads:
            warnings.warn(
                f"transformers' own MiMo-V2-Flash drops the {num_heads} MTP heads of this checkpoint; call "
                "`mimo_hf.register()` before `from_pretrained`, use mimo_hf's class of the same name, or pass "
                "`trust_remote_code=True` for a folder that `mimo-hf publish` has written.",
                stacklevel=2,
            )
        build(self, config, *args, **kwargs)

    vars(__init__)["_warns_of_lost_heads"] = True
    return __init__
