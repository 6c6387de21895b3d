"""Lower precision for restoring: the linear layers of the modules, which are 99 % of the work.

The rest, the stream of features between the layers above all, stays in float32, so that errors do
not add up from layer to layer.
"""

import copy
import warnings
from functools import lru_cache
from typing import TypeVar

import torch
from torch import nn

from ..errors import DeviceError, SettingError
from .base import RestorationNetwork

PRECISIONS = ("fp32", "bf16", "int8")
# Chosen for packing; products follow the packed weights. It has VNNI and AMX.
_ENGINE = "onednn"

Network = TypeVar("Network", bound=RestorationNetwork)


def default_precision(device: torch.device | str) -> str:
    """``"bf16"`` for GPUs that have its products, ``"fp32"`` for everything else."""
    device = torch.device(device)
    return "bf16" if device.type == "cuda" and _has_bf16(device) else "fp32"


def convert(model: Network, precision: str) -> Network:
    """A copy of a model that restores in another precision; not for training.

    Args:
        model: an Apollo or an SRGAN in float32, on the device where it will run.
        precision: ``"fp32"`` (the model itself); ``"bf16"``: products of bfloat16, half the time
            where the processor has them (AVX-512 BF16, AMX, CUDA), right and slower elsewhere;
            ``"int8"``, CPU only: weights of 8 bits, one scale a row, and activations of 8 bits (7
            where the processor's sums of products are too short for 8), one scale a product.

    Raises:
        SettingError: for an unknown precision.
        DeviceError: for one that the device does not have.

    Warns:
        UserWarning: one line, where bfloat16 is slower than float32.
    """
    if precision not in PRECISIONS:
        raise SettingError(f"unknown precision '{precision}'; known: {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return model
    device = next(model.parameters()).device
    if precision == "int8":
        if device.type != "cpu":
            raise DeviceError(f"precision int8 runs on CPUs, not on {device}; bf16 is its best")
        if _ENGINE not in torch.backends.quantized.supported_engines:
            raise DeviceError("this PyTorch has no int8 products for this processor; use fp32")
    elif not _has_bf16(device):
        warnings.warn(
            f"{device} has no bfloat16 products; precision bf16 is slower than fp32 here",
            stacklevel=2,
        )
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(model.products.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(
                    module, name, Int8Linear(child) if precision == "int8" else child.bfloat16()
                )
    return model


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


class Int8Linear(nn.Module):
    """A linear layer of 8-bit products: weights scaled by row, activations as they come.

    Args:
        layer: a linear layer in float32, which is left as it is.
    """

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.out_features = layer.out_features
        weight = layer.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        bias = None if layer.bias is None else layer.bias.detach().float()
        self._packed = _pack(weight, scale, bias)
        self._seven_bits = _sums_saturate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() == 0 or not torch.isfinite(x.sum()):
            # Scales come from the values: what is not finite has none.
            return x.new_full((*x.shape[:-1], self.out_features), float("nan"))
        return torch.ops.quantized.linear_dynamic(x, self._packed, self._seven_bits)

    def __deepcopy__(self, memo: dict) -> "Int8Linear":
        # Packed weights never change, and a copy of them would be packed by another engine.
        return copy.copy(self)


def _pack(
    weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.ScriptObject:
    zero = torch.zeros(len(weight), dtype=torch.int64)
    quantized = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = _ENGINE
    try:
        return torch.ops.quantized.linear_prepack(quantized, bias)
    finally:
        torch.backends.quantized.engine = before


@lru_cache(maxsize=1)
def _sums_saturate() -> bool:
    """True if two products of 8 bits are summed in 16: so it is without VNNI, and a large sum comes
    out as little more than half of what it is. Products of 7 by 8 bits always fit.

    It is tried, because nothing tells which instructions the library chose: the processor, its
    hypervisor, ``ONEDNN_MAX_CPU_ISA`` and the library's own taste have a word in it.
    """
    n = 64
    packed = _pack(torch.full((n, n), 127.0), torch.ones(n), None)
    product = torch.ops.quantized.linear_dynamic(torch.full((n, n), 255.0), packed, False)
    return bool((product < 0.99 * 255 * 127 * n).any())
