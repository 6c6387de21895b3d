"""Matrix products, which are nearly all of the work, and what can be done in the same pass.

In float32 on a CPU, PyTorch's own choice (MKL) reaches less than half of what oneDNN does on AMD's
processors, and oneDNN applies SiLU or adds a tensor while the result is still in registers. PyTorch
carries oneDNN; its compiler emits these calls, and here they are made without a compiler.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    silu: bool = False,
    plus: torch.Tensor | None = None,
) -> torch.Tensor:
    """``F.linear``, then SiLU or the addition of ``plus``, differentiable.

    Args:
        x: ``(..., in_features)``.
        weight: ``(out_features, in_features)``.
        bias: ``(out_features,)`` or None.
        silu: apply SiLU to the result.
        plus: ``(..., out_features)``, added to the result.

    Example:
        >>> import torch.nn.functional as F
        >>> x, weight = torch.randn(3, 4), torch.randn(2, 4)
        >>> torch.allclose(linear(x, weight, silu=True), F.silu(x @ weight.T), atol=1e-6)
        True
    """
    if not _onednn_does(x):
        y = F.linear(x, weight, bias)
        y = F.silu(y) if silu else y
        return y if plus is None else plus + y
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        y = _Linear.apply(x, weight, bias)
        y = F.silu(y) if silu else y
        return y if plus is None else plus + y
    if plus is not None:
        return _ONEDNN.binary(x, plus, weight, bias, "add")
    return _ONEDNN(x, weight, bias, "swish" if silu else "none", [], "")


def _onednn_does(x: torch.Tensor) -> bool:
    """Float32 on a CPU, run as it is written; compilers and exporters choose for themselves."""
    return (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and _ONEDNN is not None
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )


class _Linear(torch.autograd.Function):
    """``F.linear`` with all three products of a training step by oneDNN."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _ONEDNN(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)
        grad_x = _ONEDNN(grad, weight.T, None, "none", [], "") if needs_x else None
        grad_weight = (
            _ONEDNN(rows.T, x.flatten(0, -2).T, None, "none", [], "") if needs_weight else None
        )
        return grad_x, grad_weight, rows.sum(0) if needs_bias else None
