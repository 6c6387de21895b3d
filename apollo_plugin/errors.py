"""What can go wrong that a user can mend. Anything else that is raised is a defect."""

import json
import re
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution


class ApolloError(Exception):
    """Base of the errors below: one line that names the thing, what is wrong, and what helps."""


class SettingError(ApolloError, ValueError):
    """A setting out of range, or settings that exclude each other."""


class AudioError(ApolloError, ValueError):
    """A sound file that cannot be read or written."""


class RateError(AudioError, RuntimeError):
    """A sound file of another sample rate than the model's; Asteroid promises a RuntimeError."""


class TagError(ApolloError):
    """Tags that cannot be written."""


class Uncoded(ApolloError):
    """A sound file that is left as it is, because no codec took anything from it."""


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
    """Whether an error says that memory ran out: Python's, NumPy's, or a device's in PyTorch."""
    if isinstance(error, MemoryError):
        return True
    # torch.OutOfMemoryError is one; on a CPU its allocator raises a plain RuntimeError.
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "cannot allocate" in text
    )


def library_at_fault(error: BaseException) -> str | None:
    """Name of the library that raised an error, whichever, while it was imported, or that is not
    there to be imported; None for any other error."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if frame.f_code.co_name == "<module>" and name not in ("__main__", _PACKAGE):
            return name
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return missing.partition(".")[0] if missing else None


def does_not_load(error: BaseException) -> str:
    """Why a library does not load, on one line: its first cause, and files without their folders.

    Example:
        >>> does_not_load(OSError("/usr/lib/libtorch.so: undefined symbol: _ZN3c10"))
        'libtorch.so: undefined symbol: _ZN3c10'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"(^|[\s'\"(])/(?:[^\s/]+/)+", r"\1", one_line(error))


_PACKAGE = __name__.partition(".")[0]
# Of sound; no file here has more.
_MAX_CHANNELS = 64


def check_time_is_last(shape: Sequence[int], name: str = "wav") -> None:
    """Raises a ValueError for ``(time, channels)``, as soundfile gives it: what has more channels
    than samples, and more than sound has."""
    if len(shape) > 1 and shape[-2] > max(shape[-1], _MAX_CHANNELS):
        raise ValueError(
            f"{name} of shape {tuple(shape)} has {shape[-2]} channels of {shape[-1]} sample(s); "
            f"time is the last axis: pass {name}.T"
        )


def install(extra: str = "") -> str:
    """The command that installs all that the package needs, and an extra: by name, or in the clone
    that this was installed from."""
    extra = f"[{extra}]" if extra else ""
    try:
        # PEP 610: written by pip where a package came from no index.
        origin = json.loads(distribution("apollo-plugin").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        origin = {"dir_info": {}}
    if "dir_info" in origin:
        return f"pip install '.{extra}' in the clone of apollo-plugin"
    return f"pip install 'apollo-plugin{extra}'"


def one_line(error: BaseException, limit: int = 300) -> str:
    """An error's message on one line of at most ``limit`` characters.

    Args:
        error: any exception; an ``OSError`` is told by the system's own words and its file's name.
        limit: longer messages end in three dots.

    Example:
        >>> one_line(FileNotFoundError(2, "No such file or directory", "a.wav"))
        "'a.wav': No such file or directory"
    """
    if isinstance(error, OSError) and error.strerror:
        text = f"'{error.filename}': {error.strerror}" if error.filename else error.strerror
    else:
        text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def printable(text: str) -> str:
    """Text that stays on its line and in its direction: what cannot be printed, such as marks that
    turn what follows from right to left, is spelt out. What joins letters and emoji stays.

    Example:
        >>> printable("a\\n\\u202e3pm.exe")
        'a\\\\n\\\\u202e3pm.exe'
    """
    return "".join(c if c.isprintable() or c in "\u200c\u200d" else repr(c)[1:-1] for c in text)
