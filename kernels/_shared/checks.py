"""What every attention asks of its arguments, before a backend sees them, and which backend that is."""

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import torch

from .tiles import DTYPES, HEAD_DIMS

BACKENDS = ("triton", "reference")
SHAPES = "[B, H, n, d], [B, K, T, d] and [B, K, T, dv]"


def check_tensors(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sinks: torch.Tensor | None,
    kv_start: torch.Tensor | None,
    names: Sequence[str] = "qkv",
):
    """
    Args:
        q, k, v: `[B, H, n, d]`, `[B, K, T, d]` and `[B, K, T, dv]`, of one type on one device.
        sinks: `[H]`, or None.
        kv_start: `[B]`, integers, or None.
        names: of the first three, as the user knows them.
    """
    tensors = (q, k, v)
    called = "`{}`, `{}` and `{}`".format(*names)
    shown = ", ".join(f"{name} {list(x.shape)}" for name, x in zip(names, tensors, strict=True))
    if any(x.dim() != 4 for x in tensors):
        raise ValueError(f"{called} must be {SHAPES}; got {shown}.")
    batch, heads, queries, head_dim = q.shape
    kv_heads, slots = k.shape[1:3]
    if k.shape != (batch, kv_heads, slots, head_dim) or v.shape[:3] != k.shape[:3]:
        raise ValueError(f"{called} must be {SHAPES} with equal B, d, K, T; got {shown}.")
    if kv_heads == 0 or heads % kv_heads or heads == 0:
        raise ValueError(f"`{names[0]}` must have a multiple of `{names[1]}`'s heads; got {heads} and {kv_heads}.")
    if not 1 <= queries <= slots:
        raise ValueError(
            f"`{names[1]}` must have a slot for each query, and `{names[0]}` a query; got {slots} slots and {queries} "
            "queries. Pass the keys of the cache and of the queries together."
        )
    if not q.dtype == k.dtype == v.dtype or not q.dtype.is_floating_point:
        types = ", ".join(f"{name} {x.dtype}" for name, x in zip(names, tensors, strict=True))
        raise TypeError(f"{called} must be of one floating-point type; got {types}.")
    if sinks is not None and (sinks.shape != (heads,) or not sinks.dtype.is_floating_point):
        raise ValueError(
            f"`sinks` must be one floating-point logit a head, [{heads}]; got {list(sinks.shape)} {sinks.dtype}."
        )
    if kv_start is not None and (kv_start.shape != (batch,) or kv_start.dtype not in (torch.int32, torch.int64)):
        raise ValueError(f"`kv_start` must be int32 or int64, [{batch}]; got {list(kv_start.shape)} {kv_start.dtype}.")
    named = dict(zip(names, tensors, strict=True)) | ({} if sinks is None else {"sinks": sinks})
    check_devices(named)


def check_devices(tensors: dict[str, torch.Tensor]):
    if len({x.device for x in tensors.values()}) > 1:
        places = ", ".join(f"{name} on {x.device}" for name, x in tensors.items())
        raise ValueError(f"`{'`, `'.join(tensors)}` must be on one device; got {places}. Move them to one.")


def check_number(name: str, value: object, least: int, what: str):
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be a number of {what}, at least {least}; got {value!r}.")


def backend_of(q: torch.Tensor, backend: str | None) -> str:
    if backend is None:
        return "triton" if q.is_cuda else "reference"
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be {', '.join(map(repr, BACKENDS))} or None; got {backend!r}.")
    return backend


def triton_operations(package: str | None, q: torch.Tensor, v: torch.Tensor, name: str = "q") -> ModuleType:
    """`triton_attention` of a kernel's package, if Triton is there and takes these tensors; `name` is that of q."""
    remedy = 'pass backend="reference" for PyTorch'
    dims = (q.shape[-1], v.shape[-1])
    if dims not in HEAD_DIMS:
        known = ", ".join(f"{d}/{dv}" for d, dv in HEAD_DIMS)
        raise ValueError(f"`backend='triton'` must go with head dims d/dv {known}; got {dims[0]}/{dims[1]}: {remedy}.")
    if q.dtype not in DTYPES:
        raise ValueError(f"`{name}` must be float32, float16 or bfloat16 for 'triton'; got {q.dtype}: {remedy}.")
    try:
        operations = import_module(".triton_attention", package)
    except ImportError as error:
        raise ImportError(f"backend 'triton' needs Triton (pip install triton): {error}; or {remedy}") from error
    if q.is_cuda:
        capability = torch.cuda.get_device_capability(q.device)
        if torch.version.cuda and capability < (8, 0):
            raise ValueError(
                f"`{name}` must be on a GPU of compute capability 8.0 or higher for backend 'triton'; {q.device} has "
                f"{capability[0]}.{capability[1]}: {remedy}."
            )
    elif not operations.INTERPRETED:
        raise ValueError(f"`{name}` must be a CUDA tensor for backend 'triton'; got {q.device}. Move it, or {remedy}.")
    return operations


def placing(q: torch.Tensor, scale: float | None, kv_start: torch.Tensor | None) -> tuple[float, torch.Tensor | None]:
    """scale and kv_start as the Triton kernels want them."""
    if kv_start is not None:
        kv_start = kv_start.to(device=q.device, dtype=torch.int32).contiguous()
    return q.shape[-1] ** -0.5 if scale is None else float(scale), kv_start
