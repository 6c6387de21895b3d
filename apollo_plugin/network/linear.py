"""Matrix products, which are nearly all of the work, and what can be done in the same pass.

In float32 on a CPU, PyTorch's own choice (MKL) reaches less than half of what oneDNN does on AMD's
processors, and oneDNN applies SiLU or adds a tensor while the result is still in registers. PyTorch
carries oneDNN; its compiler emits these calls, and here they are made without a compiler.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
# For fewer rows, a stream's, oneDNN's preparations take longer than MKL's whole product.
_LEAST_ROWS = 256


def linear(
    x: torch.Tensor,
    layer: nn.Module,
    silu: bool = False,
    plus: torch.Tensor | None = None,
) -> torch.Tensor:
    """A linear layer, then SiLU or the addition of ``plus``; differentiable in float32.

    Args:
        x: ``(..., in_features)``; taken to the type of the layer's weights.
        layer: ``nn.Linear``, or what :func:`apollo_plugin.precision.convert` put in its place.
        silu: apply SiLU to the result.
        plus: ``(..., out_features)``, added to the result; decides its type.

    Example:
        >>> import torch
        >>> x, layer = torch.randn(3, 4), torch.nn.Linear(4, 2)
        >>> torch.allclose(linear(x, layer, plus=layer(x)), 2 * layer(x), atol=1e-6)
        True
    """
    if type(layer) is not nn.Linear:
        return _then(layer(x), silu, plus)
    if is_watched(layer):
        return _then(layer(x.to(layer.weight.dtype)), silu, plus)
    weight, bias = layer.weight, layer.bias
    if weight.dtype == torch.bfloat16 and _lacks_bfloat16(x):
        # Its numbers multiplied in float32: what torch would do itself takes ten times as long.
        wide = x.bfloat16().float(), weight.float(), None if bias is None else bias.float()
        return _linear(*wide, silu, plus).to(torch.bfloat16 if plus is None else plus.dtype)
    return _linear(x.to(weight.dtype), weight, bias, silu, plus)


def _linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    silu: bool,
    plus: torch.Tensor | None,
) -> torch.Tensor:
    if not _onednn_does(x):
        return _then(F.linear(x, weight, bias), silu, plus)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _then(_Linear.apply(x, weight, bias), silu, plus)
    if plus is not None and plus.dtype == x.dtype:
        return _ONEDNN.binary(x, plus, weight, bias, "add")
    y = _ONEDNN(x, weight, bias, "swish" if silu else "none", [], "")
    return y if plus is None else plus + y


def is_watched(layer: nn.Module) -> bool:
    """True if something is to hear of a module's call, or takes part in it: hooks, of which
    counters of operations and ``torch.nn.utils.prune`` are made. Then it is called, and what it
    gives is its own output."""
    everywhere = torch.nn.modules.module
    return any(
        getattr(place, name.format(kind))
        for kind in ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
        for place, name in ((layer, "_{}"), (everywhere, "_global_{}"))
    )


def _then(y: torch.Tensor, silu: bool, plus: torch.Tensor | None) -> torch.Tensor:
    y = F.silu(y) if silu else y
    return y if plus is None else plus + y


def _onednn_does(x: torch.Tensor) -> bool:
    """On a CPU, run as it is written; compilers and exporters choose for themselves."""
    # Them first: a program holds for any number of rows, and a question would become its condition.
    return bool(
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch._C._are_functorch_transforms_active()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() >= _LEAST_ROWS * x.shape[-1] > 0
        and not torch.is_autocast_enabled("cpu")
        and _ONEDNN is not None
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


def _lacks_bfloat16(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and not _does_bfloat16()


@lru_cache(maxsize=1)
def _does_bfloat16() -> bool:
    """True if oneDNN multiplies bfloat16 here. It is tried: the processor's instructions and
    ``ONEDNN_MAX_CPU_ISA`` both have a word in it."""
    one = torch.ones(16, 16, dtype=torch.bfloat16)
    try:
        return _ONEDNN is not None and bool((_ONEDNN(one, one, None, "none", [], "") == 16).all())
    except RuntimeError:
        return False


class _Linear(torch.autograd.Function):
    """``F.linear`` with the two large products of a training step by oneDNN."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _ONEDNN(x, weight, bias, "none", [], "")

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows, grad_x = grad.flatten(0, -2), None
        if needs_x and torch.is_grad_enabled():  # of this a derivative is asked for
            grad_x = grad @ weight
        elif needs_x:
            grad_x = _ONEDNN(grad, weight.T, None, "none", [], "")
        # Many rows, few columns: here oneDNN would copy both factors, MKL takes them as they lie.
        grad_weight = rows.T @ x.flatten(0, -2) if needs_weight else None
        return grad_x, grad_weight, rows.sum(0) if needs_bias else None
