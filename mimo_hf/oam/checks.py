"""Checks at the entrance: every error names the argument, the value seen and what is allowed."""

import cmath
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Real = float | int | Tensor


def _tensor(value: Any, name: str) -> Tensor:
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"`{name}` must be a real number or tensor; got {value!r}.") from None
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"`{name}` must be real; got dtype {tensor.dtype}.")
    return tensor.to(torch.float64)


def real(value: Any, name: str) -> Tensor:
    """`value` as a finite float64 tensor. Python numbers and lists never pass through float32."""
    tensor = _tensor(value, name)
    if not (math.isfinite(value) if isinstance(value, float | int) else _finite(tensor)):
        raise ValueError(f"`{name}` must be finite; got {shown(tensor)}.")
    return tensor


def positive(value: Any, name: str, where: str = "") -> Tensor:
    return _bounded(value, name, lambda number: number > 0, f"be greater than zero{where}")


def non_negative(value: Any, name: str) -> Tensor:
    return _bounded(value, name, lambda number: number >= 0, "not be negative")


def _bounded(value: Any, name: str, allows: Callable[[Any], Any], words: str) -> Tensor:
    """`value` as `real` gives it, and within a bound. A number is looked at as it is, a tensor once: a GPU stops once."""
    tensor = _tensor(value, name)
    seen = value if isinstance(value, float | int) else tensor.detach()
    fine = allows(seen) & (seen < math.inf)
    if not bool(fine if isinstance(fine, bool) else fine.all()):
        real(tensor, name)
        raise ValueError(f"`{name}` must {words}; got {shown(tensor)}.")
    return tensor


def count(value: Any, name: str, minimum: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an integer; got {value!r}.")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}; got {value}.")
    return value


def choice(value: Any, name: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}; got {value!r}.")
    return value


def random_generator(seed: int | torch.Generator) -> torch.Generator:
    """The CPU generator itself, or a new one with this seed."""
    if isinstance(seed, torch.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"`seed` must be an integer or a torch.Generator; got {seed!r}.")
    return torch.Generator().manual_seed(seed)


def usable_device(name: torch.device | str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"`device` must be a device that torch knows, such as 'cpu' or 'cuda:0'; got {name!r}."
        ) from error
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        raise ValueError(
            f"`device` must be on this machine; got {str(name)!r}, and torch sees {num_gpus} of that kind. Use 'cpu'."
        )
    return device


def matrix(value: Any, name: str, square: bool = False) -> Tensor:
    """`value` as complex `[..., rows, columns]`, finite."""
    if not isinstance(value, Tensor) or value.dim() < 2:
        raise TypeError(f"`{name}` must be a tensor [..., rows, columns]; got {shown(value)}.")
    if square and value.shape[-1] != value.shape[-2]:
        raise ValueError(
            f"`{name}` must be square; got {list(value.shape)}. See `matched_channel` for unequal counts."
        )
    if not value.is_complex():
        value = value.to(torch.complex128)
    if not _finite(value):
        raise ValueError(f"`{name}` must be finite; it holds NaN or infinity.")
    return value


def _finite(tensor: Tensor) -> bool:
    # A sum is finite only where all its terms are, and costs one pass. It may overflow where they are.
    return cmath.isfinite(tensor.detach().sum().item()) or bool(torch.isfinite(tensor.detach()).all())


def shown(value: Any) -> str:
    """A value as an error message shows it: numbers in full, large tensors by range and shape."""
    if not isinstance(value, Tensor):
        return repr(value)
    if value.numel() == 1:
        return f"{value.item():g}"
    if value.numel() and not value.is_complex():
        return f"values from {float(value.min()):g} to {float(value.max()):g} in a tensor {list(value.shape)}"
    return f"a tensor {list(value.shape)}"
