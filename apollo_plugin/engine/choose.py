"""Choice of the engine that runs a checkpoint: onnxruntime or PyTorch."""

import ctypes
import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundled import BUNDLED, WEIGHTS
from ..errors import CheckpointError, DeviceError, SettingError, install
from ..memory import keep_freed_memory, n_cores

if TYPE_CHECKING:
    from .protocol import Engine

# Engines are imported when they are loaded: PyTorch takes seconds.

ENGINES = ("auto", "onnx", "torch")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Choice:
    """A checkpoint, and the engine, device and precision that run it.

    Args:
        checkpoint: bundled name, file, folder, Hub id, or an ONNX file of ``apollo-export``.
        device: one of :data:`DEVICES`.
        precision: ``"fp32"``, ``"bf16"`` or ``"int8"``; the device's best unless given.
        engine: one of :data:`ENGINES`; auto is onnx for bundled checkpoints on a CPU in fp32, and
            torch for everything else.

    Raises:
        SettingError: for an unknown engine or device, or ``"onnx"`` on another device than a CPU or
            in another precision than the file's.
    """

    checkpoint: str = "apollo-small"
    device: str = "auto"
    precision: str | None = None
    engine: str = "auto"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("engine", self.engine, ENGINES),
            ("device", self.device, DEVICES),
        ):
            if value not in known:
                raise SettingError(f"unknown {name} '{value}'; known: {', '.join(known)}")
        if self.is_onnx_file and self.engine == "torch":
            raise SettingError(f"'{self.checkpoint}' is for --engine onnx")
        if self.engine == "onnx" or self.is_onnx_file:
            if self.device not in ("auto", "cpu"):
                raise SettingError(f"--engine onnx runs on CPUs, not on --device {self.device}")
            if self.precision not in (None, "fp32"):
                raise SettingError(
                    f"--engine onnx runs a file as it is; --precision {self.precision} is for "
                    "--engine torch"
                )
            if not self.is_onnx_file and self.checkpoint not in BUNDLED:
                raise SettingError(
                    f"--engine onnx takes {', '.join(BUNDLED)} and files that apollo-export wrote, "
                    f"not '{self.checkpoint}'"
                )

    @property
    def is_onnx_file(self) -> bool:
        """True if the checkpoint is a file of ``apollo-export``."""
        return Path(self.checkpoint).suffix.lower() == ".onnx"

    @property
    def by_onnx(self) -> bool:
        """True if onnxruntime runs it."""
        if self.engine == "onnx" or self.is_onnx_file:
            return True
        return (
            self.engine == "auto"
            and self.precision in (None, "fp32")
            and self.checkpoint in BUNDLED
            and _exported(self.checkpoint).is_file()
            and (self.device == "cpu" or (self.device == "auto" and not _may_have_gpu()))
        )


def load(choice: Choice, n_threads: int | None = None) -> "Engine":
    """Load a checkpoint into its engine.

    Args:
        choice: checkpoint, engine, device and precision.
        n_threads: number of threads; OMP_NUM_THREADS, or as many as there are cores, unless given.

    Raises:
        CheckpointError: if the checkpoint is missing or cannot be used.
        DeviceError: for a device or a precision that this machine does not have, or if PyTorch is
            needed and not installed.
    """
    keep_freed_memory()
    if choice.by_onnx:
        own = os.environ.get("OMP_NUM_THREADS", "")
        n_threads = n_threads or (int(own) if own.isdigit() else n_cores())
        return _load_onnx(choice.checkpoint, n_threads)
    if not has_torch():
        raise DeviceError(f"'{choice.checkpoint}' as asked for needs PyTorch: {install()}")
    from ..model import RestorationModel
    from ..network.precision import convert, default_precision
    from .torch import TorchEngine

    device = find_device(choice.device)
    model = RestorationModel.from_pretrained(choice.checkpoint).to(device)
    model = convert(model, choice.precision or default_precision(device))
    return TorchEngine(model, n_threads)


def has_torch() -> bool:
    """True if PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def _exported(name: str) -> Path:
    return WEIGHTS / f"{name}.onnx"


def _load_onnx(checkpoint: str, n_threads: int) -> "Engine":
    from .onnx import OnnxEngine

    path = _exported(checkpoint) if checkpoint in BUNDLED else Path(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint '{checkpoint}': '{path}' is no file")
    return OnnxEngine(path, n_threads)


def find_device(name: str) -> str:
    """Find a device of PyTorch: ``auto`` is a GPU if there is one; raise a DeviceError for another
    that is missing."""
    import torch

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


def _may_have_gpu() -> bool:
    """True if PyTorch might find a GPU; found without importing it, which takes seconds."""
    if not has_torch():
        return False
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    if os.path.exists("/dev/kfd"):  # AMD
        return True
    try:
        library = "nvcuda.dll" if platform.system() == "Windows" else "libcuda.so.1"
        driver, n = ctypes.CDLL(library), ctypes.c_int()
        failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(n))
        return not failed and n.value > 0
    except (OSError, AttributeError):
        return False
