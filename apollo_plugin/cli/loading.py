"""The model that was asked for, on the device that was asked for."""

from argparse import Namespace

import torch

from ..errors import DeviceError
from ..memory import keep_freed_memory
from ..model import RestorationModel
from ..network.precision import convert, default_precision
from .options import Options


def load(options: Options | Namespace) -> RestorationModel:
    """The checkpoint on its device, in its precision, of a command that has options for these.

    Raises:
        CheckpointError: where there is none of that name, or it cannot be used.
        DeviceError: for a device or a precision that this machine does not have.
    """
    device = _device(options.device)
    keep_freed_memory()
    model = RestorationModel.from_pretrained(options.checkpoint).to(device)
    return convert(model, options.precision or default_precision(device))


def _device(name: str) -> str:
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(device for device, there in available.items() if there)
    if not available[name]:
        raise DeviceError(f"this machine has no {name} device; leave --device out")
    return name
