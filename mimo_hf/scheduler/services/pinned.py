"""An accelerate hook that brings a module to its device in one copy for each dtype, and takes it off for nothing."""

import mmap
import weakref
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import send_to_device

ALIGNMENT = 64  # elements


class PinnedHostHook(ModelHook):
    """
    Moves a module to its device at the first forward and keeps it there until `offload()`, as the hook of accelerate's
    `cpu_offload_with_hook` does, but from one flat host buffer per dtype, page-locked and filled once. Weights must not
    change while it is attached: `offload` drops the device copy and writes nothing back. Tied tensors stay tied.

    Args:
        execution_device: where the module runs.
        prev_module_hook: offloaded first, as in a pipeline of models of which one at a time is on the device.
    """

    def __init__(self, execution_device: Any, prev_module_hook: "PinnedHostHook | None" = None):
        self.device = torch.device(execution_device)
        self.prev_module_hook = prev_module_hook
        self.resident = False
        self.module: torch.nn.Module | None = None
        self._host: dict[torch.dtype, torch.Tensor] = {}
        self._slots: list[tuple[torch.Tensor, torch.dtype, int, torch.Size]] = []

    def init_hook(self, module: torch.nn.Module) -> torch.nn.Module:
        self.module = module
        sizes: dict[torch.dtype, int] = {}
        for tensor in [*module.parameters(), *module.buffers()]:  # both give a tied tensor once
            start = sizes.get(tensor.dtype, 0)
            self._slots.append((tensor, tensor.dtype, start, tensor.shape))
            sizes[tensor.dtype] = start + -(-tensor.numel() // ALIGNMENT) * ALIGNMENT
        self._host = {dtype: _page_locked(size, dtype, self.device) for dtype, size in sizes.items()}
        for tensor, dtype, start, shape in self._slots:
            self._host[dtype][start : start + shape.numel()].view(shape).copy_(tensor.detach())
        self._point_at(self._host)
        return module

    @property
    def nbytes(self) -> int:
        """Device memory of the weights and buffers."""
        return sum(flat.numel() * flat.element_size() for flat in self._host.values())

    def restore(self):
        """One copy for each dtype, on a stream of its own."""
        if self.resident:
            return
        if self.device.type == "cuda":
            stream = torch.cuda.Stream(self.device)
            with torch.cuda.stream(stream):
                flats = {dtype: flat.to(self.device, non_blocking=True) for dtype, flat in self._host.items()}
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(stream)
            for flat in flats.values():
                flat.record_stream(current)
        else:
            flats = {dtype: flat.to(self.device, copy=True) for dtype, flat in self._host.items()}
        self._point_at(flats)
        self.resident = True

    def offload(self):
        """Drops the device copy."""
        if self.resident:
            self._point_at(self._host)
            self.resident = False

    def remove(self):
        """Takes the hook off; the module is an ordinary one in host memory again."""
        if self.module is not None:
            remove_hook_from_module(self.module)

    def _point_at(self, flats: dict[torch.dtype, torch.Tensor]):
        for tensor, dtype, start, shape in self._slots:
            tensor.data = flats[dtype][start : start + shape.numel()].view(shape)

    def pre_forward(self, module: torch.nn.Module, *args, **kwargs):
        if self.prev_module_hook is not None:
            self.prev_module_hook.offload()
        self.restore()
        return send_to_device(args, self.device), send_to_device(kwargs, self.device)

    def detach_hook(self, module: torch.nn.Module) -> torch.nn.Module:
        self.offload()
        for tensor, *_ in self._slots:
            tensor.data = tensor.data.clone()
        self._slots, self._host, self.module = [], {}, None
        return module


def pinned_offload_with_hook(
    model: torch.nn.Module, execution_device: Any, prev_module_hook: PinnedHostHook | None = None
) -> tuple[torch.nn.Module, PinnedHostHook]:
    """accelerate's `cpu_offload_with_hook`, with page-locked memory: the model and the hook to `offload()` or `remove()`."""
    hook = PinnedHostHook(execution_device, prev_module_hook)
    return add_hook_to_module(model, hook, append=True), hook


def _page_locked(size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """
    Host memory of exactly this size, registered with the CUDA driver as long as it lives. (`Tensor.pin_memory` rounds up to a
    power of two.)
    """
    if device.type != "cuda" or not size:
        return torch.empty(size, dtype=dtype)
    memory = mmap.mmap(-1, size * dtype.itemsize)
    flat = torch.frombuffer(memory, dtype=dtype)
    cudart = torch.cuda.cudart()
    code = int(cudart.cudaHostRegister(flat.data_ptr(), size * dtype.itemsize, 0))
    if code != 0:
        raise RuntimeError(f"cudaHostRegister of {size * dtype.itemsize} bytes failed with code {code}.")
    weakref.finalize(memory, cudart.cudaHostUnregister, flat.data_ptr())
    return flat
