"""Safe reading of checkpoint files of any model: nothing is executed, every claim is checked."""

import collections
import io
import json
import re
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import CheckpointError, one_line
from .claims import UNPLAIN
from .unpickling import Unpickler

# Largest size of metadata in bytes: a zip's directory, a pickle, the header of safetensors.
_MOST_DESCRIPTION = 32 << 20
# Largest header of safetensors; those in use are ten times smaller.
_MOST_HEADER = 4 << 20
_LFS = rb"version https://git-lfs\.github\.com/spec/"
# First bytes of other files that are mistaken for checkpoints.
_OTHERS = (
    (_LFS, "a Git LFS pointer and not the weights; fetch those with `git lfs pull`"),
    (
        rb"(?is)(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|!--)",
        "an HTML page; download the file again",
    ),
    (rb"(\xef\xbb\xbf)?\s*<(\?xml|Error|svg)", "an XML page; download again"),
    (rb"GGUF", "a GGUF file; weights of Apollo are needed"),
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
# Errors of safetensors, zipfile and torch on damaged or other files.
_DAMAGE: tuple[type[Exception], ...] = (SafetensorError, zipfile.BadZipFile, zlib.error)
_DAMAGE += (struct.error, EOFError, OSError, RuntimeError, LookupError, TypeError, ValueError)
_DAMAGE += (ArithmeticError, MemoryError)
_PIECE = 1 << 20


def read(path: Path, name: str) -> Any:
    """Read the content of a checkpoint of any model, without executing anything.

    Pickled settings beside the weights, such as NumPy's numbers, arrays and random states, are
    replaced by empty stand-ins.

    Raises:
        CheckpointError: if it is no checkpoint, is damaged, holds more than tensors and settings,
            or would unpack to much more than its size.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(min(512, size))
        if not head:
            raise CheckpointError(f"'{name}' is empty")
        is_safetensors = path.suffix == ".safetensors" or head[8:9] == b"{"
        for beginning, kind in _OTHERS:
            if re.match(beginning, head) and not (is_safetensors and head[8:9] == b"{"):
                raise CheckpointError(f"'{name}' is {kind}")
        if is_safetensors and not head.startswith(b"PK"):
            return _read_safetensors(path, name, size)
        return _read_pickle(path, name, size, head)
    except CheckpointError:
        raise
    except RecursionError as error:
        raise CheckpointError(f"'{name}' is refused: its settings are nested too deep") from error
    except _DAMAGE as error:
        raise CheckpointError(f"'{name}' is truncated, damaged or no checkpoint") from error


def read_json(text: str | bytes) -> Any:
    """Parse settings in JSON, strictly: without NaN, infinity or duplicate keys.

    Raises:
        ValueError: for anything else.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(content := dict(pairs)) < len(pairs):
            twice, _ = collections.Counter(key for key, _ in pairs).most_common(1)[0]
            raise ValueError(f"it defines {ascii(twice)[1:-1][:80]} twice")
        return content

    return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)


def _read_safetensors(path: Path, name: str, size: int) -> dict[str, Any]:
    with path.open("rb") as file:
        (n_header,) = struct.unpack("<Q", file.read(8))
        if n_header > min(size, _MOST_HEADER):
            raise CheckpointError(f"'{name}' is truncated, damaged or no checkpoint")
        try:
            read_json(file.read(n_header))
        except ValueError as error:
            raise CheckpointError(f"'{name}' is damaged: {one_line(error, 200)}") from error
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
        return _read_archive(path, name, size)
    with path.open("rb") as file:
        if head.startswith(_LEGACY_MAGIC):
            return _read_legacy(file, name, size)
        # A pickle that torch did not write is followed for a better message.
        Unpickler(io.BytesIO(file.read(_MOST_DESCRIPTION)), name, {}, 0)
    raise CheckpointError(f"'{name}' is a pickle without tensors, or no checkpoint")


def _read_archive(path: Path, name: str, size: int) -> Any:
    """Read a zip of ``torch.save``. No second reader opens the file, which could interpret it
    differently."""
    _check_directory(path, name, size)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        root = next(iter(entries), "").partition("/")[0]
        pickled = entries.get(f"{root}/data.pkl")
        if len(entries) < len(archive.infolist()):
            raise CheckpointError(f"'{name}' is refused: it holds two files of the same name")
        if f"{root}/constants.pkl" in entries:
            raise CheckpointError(f"'{name}' is a TorchScript program; a state dict is needed")
        if pickled is None:
            raise CheckpointError(f"'{name}' is a zip archive without weights of torch")
        unpacked = sum(entry.file_size for entry in entries.values())
        if unpacked > 2 * size + _MOST_DESCRIPTION or pickled.file_size > _MOST_DESCRIPTION:
            raise CheckpointError(f"'{name}' is refused: it unpacks to {unpacked:,} bytes")
        for entry in entries.values():
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise CheckpointError(f"'{name}' is compressed by a method that torch lacks")
            if not entry.CRC:  # torch can be set to write none
                del entry.CRC
        start = f"{root}/data/"
        n_bytes = {
            key.removeprefix(start): entry.file_size
            for key, entry in entries.items()
            if key.startswith(start)
        }
        order = entries.get(f"{root}/byteorder")
        if order and archive.open(order).read(6).decode() != sys.byteorder:
            raise CheckpointError(f"'{name}' was saved on a machine of another byte order")
        with archive.open(pickled) as file:
            content = Unpickler(io.BytesIO(file.read(pickled.file_size)), name, n_bytes, unpacked)
        for key, storage in content.storages.items():
            with archive.open(start + key) as file:
                _fill(storage, file)
    return content.value


def _fill(storage: torch.Tensor, file: IO[bytes]) -> None:
    left = storage.numpy().data
    while left:
        piece = file.read(min(len(left), _PIECE))
        if not piece:
            raise EOFError
        left[: len(piece)] = piece
        left = left[len(piece) :]


def _check_directory(path: Path, name: str, size: int) -> None:
    """Check the size of a zip's directory before it is read. It has to be at the end of the file,
    as torch writes it, since readers search for it in different ways."""
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


def _read_legacy(file: IO[bytes], name: str, size: int) -> Any:
    """Read the format of torch before 1.6: five pickles, and the storages one by one."""
    pickles = io.BytesIO(file.read(_MOST_DESCRIPTION))
    for _ in range(3):  # magic number, protocol and system
        Unpickler(pickles, name, {}, 0)
    content = Unpickler(pickles, name, None, size)
    keys = Unpickler(pickles, name, {}, 0).value
    if type(keys) is not list or sorted(map(str, keys)) != sorted(content.storages):
        raise CheckpointError(f"'{name}' is truncated, damaged or no checkpoint")
    if pickles.tell() + sum(8 + len(data) for data in content.storages.values()) > size:
        raise CheckpointError(f"'{name}' is truncated")
    file.seek(pickles.tell())
    for key in keys:
        file.seek(8, io.SEEK_CUR)  # number of items
        _fill(content.storages[key], file)
    return content.value
