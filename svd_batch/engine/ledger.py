"""Bytes of living storages and FLOPs, followed operation by operation."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count


def _flash_cpu_flops(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _onednn_flops(states: Tensor, *others: Any, **__: Any) -> int:
    weight = next(tensor for tensor in reversed(others[:2]) if isinstance(tensor, Tensor) and tensor.ndim == 2)
    return 2 * states.numel() * int(weight.shape[0])


def _formula(func: Any) -> Any:
    """Return how to count an operation's FLOPs; torch has no formula for what a CPU alone does."""
    name = str(func)
    if name.startswith("aten._scaled_dot_product_flash_attention_for_cpu"):
        return _flash_cpu_flops
    if name.startswith("mkldnn._linear_pointwise"):
        return _onednn_flops
    return flop_registry.get(func._overloadpacket)


def cpu_workspace_bytes(func: Any, args: Any, result: Any) -> int:
    """Return what a CPU kernel takes beside its result and gives back: for convolutions that is an activation's worth.

    oneDNN reorders what goes in, then what comes out, but for what is in the channels_last layout; the fallback for
    volumes unfolds its input for the whole batch.
    Source: ConvParams::use_mkldnn in torch's aten/src/ATen/native/Convolution.cpp, and the allocations of 2.13.
    """
    if func is not torch.ops.aten.convolution.default:
        return 0
    states, weight = args[0], args[1]
    unfolds = weight.ndim == 5 and (torch.get_num_threads() == 1 or math.prod(states.shape[:4]) <= 20480)
    if unfolds:
        return int(math.prod(weight.shape[2:]) * states.nbytes)
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        return 0 if states.is_contiguous(memory_format=torch.channels_last) else int(states.nbytes)
    return max(int(states.nbytes), int(result.nbytes))


def gpu_workspace_bytes(func: Any, args: Any, result: Any) -> int:
    """Return what cuDNN takes beside its result and gives back: a convolution turns both to its own layout.

    Source: what torch's allocator gave out on an H200 with cuDNN 9, where it holds to within 1 % (docs/log.md). On an
    H100 stock diffusers decoded with less: cuDNN chooses by the card, so this is the most.
    """
    return int(args[0].nbytes) + int(result.nbytes) if func is torch.ops.aten.convolution.default else 0


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of living storages and FLOPs, operation by operation.

    A storage is entered when an operation first returns a tensor of it and struck out when it is released, so views
    and operations in place cost nothing. `workspace` tells what a kernel takes and gives back within a call, from
    (operation, arguments, result). `is_gpu`: the tensors stand for a GPU's, whose group norm hands out the plain layout
    whatever it was given, and copies what has another.
    Source: native_group_norm in torch's aten/src/ATen/native/group_norm.cpp.
    """

    def __init__(self, workspace: Callable[[Any, Any, Any], int], *, is_gpu: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._workspace, self._is_gpu = workspace, is_gpu
        self.live_bytes = self._layers_bytes = 0
        self._known: dict[int, Any] = {}
        self._counts = True
        self.repeat = 1.0
        """How many operations like this one the next ones stand for."""
        self.restart()

    def restart(self) -> None:
        """Begin to count FLOPs and peaks anew; what lives goes on living."""
        self.flops = 0.0
        self.peak_bytes = self.live_bytes
        self.peak_with_layers_bytes = self.live_bytes + self._layers_bytes

    def enter(self, tensor: Tensor) -> None:
        """Follow a tensor's storage from now on."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        num_bytes = storage.nbytes() if self._counts else 0
        self._known[key] = finalizer = weakref.finalize(storage, self._strike, key, num_bytes)
        finalizer.atexit = False
        self.live_bytes += num_bytes
        self._look()

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Enter what comes without counting it, so that views of it cost nothing either."""
        self._counts = False
        yield
        self._counts = True

    def add_layer(self, num_bytes: int) -> None:
        """Count the weights of a layer that begins to run (ends, below zero)."""
        self._layers_bytes += num_bytes
        self._look()

    def _look(self, workspace_bytes: int = 0) -> None:
        most = self.live_bytes + workspace_bytes
        self.peak_bytes = max(self.peak_bytes, most)
        self.peak_with_layers_bytes = max(self.peak_with_layers_bytes, most + self._layers_bytes)

    def _strike(self, key: int, num_bytes: int) -> None:
        self.live_bytes -= num_bytes
        del self._known[key]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and enter what is new in its results."""
        if self._is_gpu and func is torch.ops.aten.native_group_norm.default:
            args = (args[0].contiguous(), *args[1:])
            self.enter(args[0])
        if str(func) == "mkldnn._linear_pointwise.binary":  # torch tells no shape of its result
            result = args[0].new_empty(*args[0].shape[:-1], args[2].shape[0])
        else:
            result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.enter(leaf)
        self._look(self._workspace(func, args, result))
        formula = _formula(func)
        if formula is not None:
            self.flops += self.repeat * formula(*args, **(kwargs or {}), out_val=result)
        return result
