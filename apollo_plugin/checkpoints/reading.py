"""What a checkpoint file holds, of any model; nothing of it is executed, nor believed unchecked."""

import collections
import io
import json
import pickle
import re
import struct
import threading
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError
from .claims import UNPLAIN
from .inspection import Inspection

# Bytes of what describes the tensors: a zip's directory, a pickle, the header of safetensors.
_MOST_DESCRIPTION = 32 << 20
_LFS = rb"version https://git-lfs\.github\.com/spec/"
# How files begin that are mistaken for checkpoints.
_OTHERS = (
    (_LFS, "a Git LFS pointer and not the weights; fetch those with `git lfs pull`"),
    (
        rb"(?is)(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--)",
        "an HTML page; download again",
    ),
    (rb"(\xef\xbb\xbf)?\s*<(\?xml|Error|svg)", "an XML page; download again"),
    (rb"GGUF", "a GGUF file, which Apollo has no use for"),
    (rb"\x89HDF\r\n", "an HDF5 file"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x1f\x8b|BZh\d|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "a compressed file; unpack it"),
    (rb"RIFF|fLaC|OggS|ID3|FORM....AIF", "a sound file"),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|%PDF", "a picture or a document"),
    (rb"\x08[\x01-\x0a]\x12.{0,30}(pytorch|onnx|tf2onnx)", "an ONNX file; it takes weights"),
    (rb"\s*[\[{]\s*[\"\]}\n]", "JSON; it takes weights"),
    (rb"(?s).{257}ustar", "a tar archive; unpack it, or save it with torch 1.6 or later"),
)
_SAFETENSORS_TYPES = {"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2", "BOOL", "U8", "I8", "I16"}
_SAFETENSORS_TYPES |= {"U16", "I32", "U32", "I64", "U64", "C64"}
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# What safetensors, zipfile and torch raise on files that are broken or something else.
_DAMAGE: tuple[type[Exception], ...] = (SafetensorError, zipfile.BadZipFile, struct.error)
_DAMAGE += (EOFError, OSError, RuntimeError, AttributeError, LookupError, TypeError, ValueError)
_DAMAGE += (AssertionError, ArithmeticError, MemoryError)
# torch keeps the names that its unpickler may fill in one place for all threads.
_UNPICKLING = threading.Lock()


def read(path: Path, name: str) -> Any:
    """What a checkpoint of any model holds; nothing of it is executed.

    Settings that were pickled beside the weights, NumPy's numbers, arrays and random states among
    them, come as empty stand-ins.

    Args:
        path: of the file.
        name: for messages.

    Raises:
        CheckpointError: where it is something else, damaged, or more than tensors and settings, or
            where it would unpack to more than it weighs.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
        if not head:
            raise CheckpointError(f"'{name}' is empty")
        is_safetensors = path.suffix == ".safetensors" or head[8:9] == b"{"
        for beginning, what in _OTHERS:
            if re.match(beginning, head) and not (is_safetensors and head[8:9] == b"{"):
                raise CheckpointError(f"'{name}' is {what}")
        if is_safetensors and not head.startswith(b"PK"):
            return _read_safetensors(path, name, size)
        return _read_pickle(path, name, size, head)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{name}' is refused: its pickle holds more than tensors and settings"
        ) from error
    except RecursionError as error:
        raise CheckpointError(f"'{name}' is refused: its settings are nested too deep") from error
    except _DAMAGE as error:
        raise CheckpointError(f"'{name}' is truncated, damaged or no checkpoint") from error


def read_json(text: str | bytes) -> Any:
    """Settings in JSON, without the numbers that JSON does not have.

    Raises:
        ValueError: for anything else.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    return json.loads(text, parse_constant=refuse)


def _read_safetensors(path: Path, name: str, size: int) -> dict[str, Any]:
    with path.open("rb") as file:
        (n_header,) = struct.unpack("<Q", file.read(8))
    if n_header > min(size, _MOST_DESCRIPTION):
        raise CheckpointError(f"'{name}' is truncated, damaged or no checkpoint")
    with safe_open(path, "pt") as file:
        state = {}
        for key in file.keys():  # noqa: SIM118
            kind = file.get_slice(key).get_dtype()
            if kind not in _SAFETENSORS_TYPES:
                raise CheckpointError(f"'{name}' holds tensors of {kind}; {UNPLAIN}")
            state[key] = file.get_tensor(key)
        args = (file.metadata() or {}).get("model_args", "null")
    return {"state_dict": state, "model_args": read_json(args)}


def _read_pickle(path: Path, name: str, size: int, head: bytes) -> Any:
    if head.startswith(b"PK\x03\x04"):
        settings = _inspect_archive(path, name, size)
    elif head.startswith(_LEGACY_MAGIC):
        settings = _inspect_legacy(path, name, size)
    else:
        # A pickle that torch did not write is looked into for what it names.
        with path.open("rb") as file:
            Inspection(io.BytesIO(file.read(_MOST_DESCRIPTION)), name, {}, 0)
        raise CheckpointError(f"'{name}' is a pickle without tensors, or no checkpoint")
    stand_ins: list[Any] = [(_STAND_INS[kind], setting) for setting, kind in settings.items()]
    with _UNPICKLING, torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def _inspect_archive(path: Path, name: str, size: int) -> dict[str, str]:
    """Checks a zip as ``torch.save`` writes it; the names of settings in its pickle."""
    _check_directory(path, name, size)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next(iter(entries), "").partition("/")[0]
        pickled = entries.get(f"{root}/data.pkl")
        # Readers choose differently among namesakes; torch's does not tell case apart.
        if len({key.lower() for key in entries}) < len(archive.infolist()):
            raise CheckpointError(f"'{name}' is refused: it holds two files of one name")
        if f"{root}/constants.pkl" in entries:
            raise CheckpointError(f"'{name}' is a TorchScript program; it takes a state dict")
        if pickled is None:
            raise CheckpointError(f"'{name}' is a zip archive without weights of torch's")
        unpacked = sum(entry.file_size for entry in entries.values())
        if unpacked > 2 * size + _MOST_DESCRIPTION or pickled.file_size > _MOST_DESCRIPTION:
            raise CheckpointError(f"'{name}' is refused: it unpacks to {unpacked:,} bytes")
        start = f"{root}/data/"
        n_bytes = {
            key.removeprefix(start): entry.file_size
            for key, entry in entries.items()
            if key.startswith(start)
        }
        return Inspection(io.BytesIO(archive.read(pickled)), name, n_bytes, unpacked).settings


def _check_directory(path: Path, name: str, size: int) -> None:
    """Bounds a zip's directory before it is read. It has to end the file, as torch writes it:
    readers look for it in different ways."""
    with path.open("rb") as file:
        file.seek(max(0, size - 98))
        tail = file.read()
    end = tail[-22:]
    if len(tail) < 98 or end[:4] != b"PK\x05\x06" or end[20:] != b"\0\0":
        raise CheckpointError(f"'{name}' is truncated, damaged or no checkpoint")
    n_directory = struct.unpack("<I", end[12:16])[0]
    if tail[-42:-38] == b"PK\x06\x07":
        (where,) = struct.unpack("<Q", tail[-34:-26])
        if tail[:4] != b"PK\x06\x06" or where != size - 98:
            raise CheckpointError(f"'{name}' is refused: its directory is not where it should be")
        (n_directory,) = struct.unpack("<Q", tail[40:48])
    if n_directory > _MOST_DESCRIPTION:
        raise CheckpointError(f"'{name}' is refused: its directory takes {n_directory:,} bytes")


def _inspect_legacy(path: Path, name: str, size: int) -> dict[str, str]:
    """Checks a file as torch wrote it before 1.6: five pickles, and the storages one by one."""
    with path.open("rb") as file:
        pickles = io.BytesIO(file.read(_MOST_DESCRIPTION))
    for _ in range(3):  # magic number, protocol and system
        Inspection(pickles, name, {}, 0)
    content = Inspection(pickles, name, None, size)
    keys = Inspection(pickles, name, {}, 0).value
    if type(keys) is not list or sorted(map(str, keys)) != sorted(content.storages):
        raise CheckpointError(f"'{name}' is truncated, damaged or no checkpoint")
    if pickles.tell() + sum(8 + n for n in content.storages.values()) > size:
        raise CheckpointError(f"'{name}' is truncated")
    return content.settings


# ---------------------------------------------------------------------------- settings, thrown away


class _Mapping:
    """Stands in for settings that a pickle puts keys into: torch's unpickler fills no other type
    than dictionaries."""

    def __new__(cls, *args: Any) -> Any:
        return collections.OrderedDict()


class _List:
    """Likewise for those that are appended to."""

    def __new__(cls, *args: Any) -> Any:
        return []


class _Object:
    """Likewise for those that take a state of their own kind."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_STAND_INS = {"mapping": _Mapping, "list": _List, "object": _Object}
