"""torch.compile for the layers, where there is a compiler and for as long as it works."""

import copy
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .apollo import ApolloNetwork


def compiled(model: "ApolloNetwork") -> "ApolloNetwork":
    """A copy of a model whose layers are compiled when they first run; the numbers are the same.

    Where no compiler is installed (a C++ compiler for CPUs, Triton for CUDA) it runs as it was.
    The start takes about a minute, so it is for hours of audio: see the benchmark for what it
    brings. Call it from one thread only: PyTorch's compiler does not bear several.

    Args:
        model: an Apollo in any precision, on the device where it will run.

    Warns:
        UserWarning: one line, where a compiler is there and fails; the layer goes on without it.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if has_compiler(next(model.parameters()).device):
        for layer in model.layers:
            for module in (layer.roformer, *layer.tcn):
                module.forward = _Compiled(module.forward)
    return model


def has_compiler(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs for a device."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return has_triton()
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        return device.type == "cpu" and bool(get_cpp_compiler())
    except Exception:  # torch names its reasons in several ways
        return False


class _Compiled:
    def __init__(self, plain: Callable[..., Any]):
        self._plain = plain
        self._fast: Callable[..., Any] | None = torch.compile(plain)

    def __call__(self, *args: Any) -> Any:
        if self._fast is not None:
            try:
                return self._fast(*args)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                self._fast = None
                reason = " ".join(str(error).split())[:120]
                warnings.warn(f"the compiler failed, going on without it: {reason}", stacklevel=2)
        return self._plain(*args)
