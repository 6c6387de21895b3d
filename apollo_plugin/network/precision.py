"""Lower precision for restoring: the linear layers of the modules, which are 99 % of the work.

The rest, the stream of features between the layers above all, stays in float32, so that errors do
not add up from layer to layer.
"""

import copy
import warnings

import torch
from torch import nn

PRECISIONS = ("fp32", "bf16", "int8")
_ENGINE = "onednn"


def convert(model: nn.Module, precision: str) -> nn.Module:
    """A copy of a model that restores in another precision; not for training.

    Args:
        model: an Apollo in float32, on the device where it will run.
        precision: ``"fp32"`` (the model itself); ``"bf16"``: products of bfloat16, half the time
            where the processor has them (AVX-512 BF16, AMX, CUDA); ``"int8"``, CPU only: weights of
            8 bits, one scale a row, and activations of 8 bits, one scale a product.

    Raises:
        ValueError: for an unknown precision, or one that the device does not have.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}'; known: {', '.join(PRECISIONS)}")
    if precision == "fp32":
        return model
    device = next(model.parameters()).device
    if precision == "int8":
        if device.type != "cpu":
            raise ValueError(f"precision int8 runs on CPUs, not on {device}; bf16 is its best")
        if _ENGINE not in torch.backends.quantized.supported_engines:
            raise ValueError("this PyTorch has no int8 products for this processor; use fp32")
    elif not _bf16_pays(device):
        warnings.warn(
            f"{device} has no bfloat16 products; precision bf16 is slower than fp32 here",
            stacklevel=2,
        )
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(model.layers.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(
                    module, name, Int8Linear(child) if precision == "int8" else child.bfloat16()
                )
    return model


def _bf16_pays(device: torch.device) -> bool:
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
        weight = layer.weight.detach().float()
        scale = weight.abs().amax(1).clamp(min=1e-12) / 127
        zero = torch.zeros(len(weight), dtype=torch.int64)
        quantized = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
        bias = None if layer.bias is None else layer.bias.detach().float()
        with engine():
            self._packed = torch.ops.quantized.linear_prepack(quantized, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() == 0 or not torch.isfinite(x.sum()):
            # Scales come from the values: what is not finite has none.
            return x.new_full((*x.shape[:-1], self._packed.unpack()[0].shape[0]), float("nan"))
        # Eight whole bits: this engine's sums cannot overflow.
        return torch.ops.quantized.linear_dynamic(x, self._packed, False)


class engine:
    """Chooses oneDNN, which has VNNI and AMX, for packing; products follow the packed weights."""

    def __enter__(self):
        self._before = torch.backends.quantized.engine
        if _ENGINE in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = _ENGINE

    def __exit__(self, *_):
        torch.backends.quantized.engine = self._before
