"""Errors that a user can fix, any other exception is a defect; and signals that end a run."""

import json
import re
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution

# Signals by which schedulers, containers and users end a run.
END_SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU")


class ApolloError(Exception):
    """Base of the errors below: one line that names the object, what is wrong, and the cure."""


class SettingError(ApolloError, ValueError):
    """A setting out of range, or settings that exclude each other."""


class AudioError(ApolloError, ValueError):
    """A sound file that cannot be read or written."""


class RateError(AudioError, RuntimeError):
    """A sound file of another sample rate than the model's; a RuntimeError too, as in Asteroid."""


class TagError(ApolloError):
    """Tags that cannot be written."""


class Uncoded(ApolloError):
    """A sound file that is left unchanged, since no codec removed anything from it."""


class DataError(ApolloError, ValueError):
    """A data set, an index or a result that is missing or damaged."""


class DeviceError(ApolloError, RuntimeError):
    """A device, a precision or an amount of memory that this machine does not have."""


class CheckpointError(ApolloError, ValueError):
    """A checkpoint that cannot be found, read or used."""


class TrainingError(ApolloError, RuntimeError):
    """A training that cannot begin or go on."""


class SeparatorError(ApolloError, ValueError):
    """A separation model that cannot be loaded or used."""


class ExportError(ApolloError, ValueError):
    """A model that cannot be exported."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for errors of exhausted memory: Python's, NumPy's, or a device's in PyTorch."""
    if isinstance(error, MemoryError):
        return True
    # torch.OutOfMemoryError is a RuntimeError; on a CPU torch's allocator raises a plain one.
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "cannot allocate" in text
    )


def library_at_fault(error: BaseException) -> str | None:
    """Name of the library that is missing or raised the error while it was imported; None for any
    other error."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and name not in ("__main__", _PACKAGE):
            return name
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return missing.partition(".")[0] if missing else None


def does_not_load(error: BaseException) -> str:
    """Reason that a library does not load, in one line: the first cause, without folders of files.

    Example:
        >>> does_not_load(OSError("/usr/lib/libtorch.so: undefined symbol: _ZN3c10"))
        'libtorch.so: undefined symbol: _ZN3c10'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"(^|[\s'\"(])/(?:[^\s/]+/)+", r"\1", one_line(error))


_PACKAGE = __name__.partition(".")[0]
# Most channels of sound; no file here has more.
_MAX_CHANNELS = 64


def check_time_is_last(shape: Sequence[int], name: str = "wav") -> None:
    """Raise a ValueError for the shape ``(time, channels)`` of soundfile: more channels than
    samples, and more than sound has."""
    if len(shape) > 1 and shape[-2] > max(shape[-1], _MAX_CHANNELS):
        raise ValueError(
            f"{name} of shape {tuple(shape)} has {shape[-2]} channels of {shape[-1]} sample(s); "
            f"time is the last axis: pass {name}.T"
        )


def install(extra: str = "") -> str:
    """Command that installs the package's requirements and an extra: by name, or in the clone that
    it was installed from."""
    extra = f"[{extra}]" if extra else ""
    try:
        # PEP 610: written by pip for packages that did not come from an index.
        origin = json.loads(distribution("apollo-plugin").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {"dir_info": {}}
    if "dir_info" in origin:
        return f"pip install '.{extra}' in the clone of apollo-plugin"
    return f"pip install 'apollo-plugin{extra}'"


def one_line(error: BaseException, limit: int = 300) -> str:
    """An error's message on one line of at most ``limit`` characters.

    Args:
        error: any exception; of an ``OSError`` the system's message and the file's name.
        limit: longer messages end in three dots.

    Example:
        >>> one_line(FileNotFoundError(2, "No such file or directory", "a.wav"))
        "'a.wav': No such file or directory"
    """
    if isinstance(error, OSError) and error.strerror:
        text = f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    if text == "AF_UNIX path too long":  # of multiprocessing's socket, in the temporary folder
        text += "; set TMPDIR to a folder with a shorter path"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    """Escape unprintable characters, such as line breaks and marks that reverse the direction of
    text. Characters that join letters and emoji stay.

    Example:
        >>> printable("a\\n\\u202e3pm.exe")
        'a\\\\n\\\\u202e3pm.exe'
    """
    return "".join(c if c.isprintable() or c in "\u200c\u200d" else repr(c)[1:-1] for c in text)
