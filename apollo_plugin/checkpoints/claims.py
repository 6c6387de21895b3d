"""Objects that ``torch.save`` names in a pickle, each checked before it is made."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch

from ..errors import CheckpointError

# Largest number of steps in a pickle; the largest checkpoints in use take some 200 000.
_MOST_STEPS = 400_000
_MOST_ITEMS = 2**48
_MOST_NUMBER_KEYS, _MOST_TUPLE_KEYS = 50_000, 1000
# Types of items by storage class, and types without a class.
_STORAGES = {"Double": torch.float64, "Float": torch.float32, "Half": torch.float16}
_STORAGES |= {"BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32}
_STORAGES |= {"Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool}
_STORAGES |= {"ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128}
_STORAGES |= {"Untyped": torch.uint8}
_TYPES = {"uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"}
_TYPES |= {"float8_e5m2fnuz", "float8_e8m0fnu"}
UNPLAIN = "weights are dense floats of 16, 32 or 64 bits"


class Name(str):
    """Qualified name in a pickle."""

    __slots__ = ()


class Storage(NamedTuple):
    """Memory of a storage in the file, and the type of its items."""

    kind: torch.dtype
    data: torch.Tensor


class Value:
    """Stand-in for a set, size, device or complex number, which nothing can be added to."""


class Claims:
    """Claims of a pickle on its tensors, checked against the content of the file.

    Args:
        name: name of the file, for messages.
        n_bytes: size of each storage in the file, by key; None if not known yet.
        most: largest size of all storages together, in bytes.

    Attributes:
        storages: memory for each storage that the pickle announces, by key; uint8, to be filled.
    """

    def __init__(self, name: str, n_bytes: dict[str, int] | None, most: int):
        self.name, self.n_bytes, self.most = name, n_bytes, most
        self.storages: dict[str, torch.Tensor] = {}
        self._kinds: dict[str, torch.dtype] = {}
        self._n_steps = self._n_number_keys = self._n_tuple_keys = 0

    def refuse(self, why: str) -> NoReturn:
        raise CheckpointError(f"'{self.name}' is refused: {why}, which no weights need")

    def require(self, condition: bool, what: str) -> None:
        if not condition:
            self.refuse(f"its pickle {what}")

    def cost(self, n: int) -> None:
        self._n_steps += n
        self.require(self._n_steps <= _MOST_STEPS, f"takes more than {_MOST_STEPS:,} steps")

    def check_key(self, key: Any) -> None:
        """Refuse suspicious keys: hashes of other keys than text are predictable, so many keys can
        be made to collide, and hashing a deeply nested one crashes the process."""
        if type(key) is str:
            return
        parts = key if type(key) is tuple else (key,)
        for part in parts:
            small = type(part) is int and abs(part) < 2**31
            plain = small or part is None or type(part) in (str, bool)
            self.require(plain, "has keys that are neither text nor numbers")
        self._n_number_keys += 1
        self._n_tuple_keys += type(key) is tuple
        few = self._n_number_keys <= _MOST_NUMBER_KEYS and self._n_tuple_keys <= _MOST_TUPLE_KEYS
        self.require(few and len(parts) <= 8, "has too many keys that are no text")

    def _storage(self, where: Any) -> Storage:
        plain = type(where) is tuple and len(where) in (5, 6) and where[5:] in ((), (None,))
        self.require(plain and where[0] == "storage", "refers to an object that is no storage")
        _, kind, key, location, n_items = where[:5]
        plain = type(kind) is Name and type(key) is type(location) is str and type(n_items) is int
        self.require(plain and 0 <= n_items < _MOST_ITEMS, "refers to an object that is no storage")
        dtype = _STORAGES[kind.rpartition(".")[2].removesuffix("Storage")]
        n_bytes = dtype.itemsize * n_items
        if key not in self.storages:
            self.most -= n_bytes
            if self.most < 0 or (self.n_bytes is not None and self.n_bytes.get(key) != n_bytes):
                raise CheckpointError(
                    f"'{self.name}' is damaged: it lacks some of a tensor's {n_bytes:,} bytes"
                )
            self.storages[key] = torch.empty(n_bytes, dtype=torch.uint8)
            self._kinds[key] = dtype
        same = self._kinds[key] == dtype and len(self.storages[key]) == n_bytes
        self.require(same, "gives a storage two sizes")
        return Storage(dtype, self.storages[key])

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
    ) -> torch.Tensor:
        """Run ``_rebuild_tensor``, or version 2 with ``requires_grad, hooks[, metadata]``."""
        self.require(isinstance(storage, Storage), "makes a tensor of an object that is no storage")
        self._check_rest(rest)
        numbers = (offset, *size, *stride)
        plain = all(type(number) is int and 0 <= number < _MOST_ITEMS for number in numbers)
        if not plain or len(size) != len(stride) or len(size) > 16 or math.prod(size) >= 2**62:
            raise ValueError("no shape")
        items = storage.data.view(storage.kind)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if offset > len(items) or (all(size) and last >= len(items)):
            raise CheckpointError(f"'{self.name}' is damaged: a tensor reaches out of its storage")
        return items.as_strided(size, stride, offset)

    def _tensor_of_type(self, storage: Any, *rest: Any) -> torch.Tensor:
        """Run ``_rebuild_tensor_v3``, which names a type without a storage class."""
        self.require(isinstance(storage, Storage), "makes a tensor of an object that is no storage")
        offset, size, stride, requires_grad, hooks, kind, *metadata = rest
        self.require(type(kind) is Name, "makes a tensor of no type")
        word = kind.removeprefix("torch.")
        if word not in _TYPES:
            raise CheckpointError(
                f"'{self.name}' holds tensors of {ascii(kind)[1:-1][:60]}; {UNPLAIN}"
            )
        dtype = getattr(torch, word)
        whole = len(storage.data) // dtype.itemsize * dtype.itemsize
        items = Storage(dtype, storage.data[:whole])
        return self._tensor(items, offset, size, stride, requires_grad, hooks, *metadata)

    def _parameter(self, tensor: Any, *rest: Any) -> torch.Tensor:
        self.require(isinstance(tensor, torch.Tensor), "makes a parameter without a tensor")
        self._check_rest(rest)
        return tensor

    def _check_rest(self, rest: tuple[Any, ...]) -> None:
        kinds: tuple[Any, ...] = (bool, dict, (dict, type(None)))
        plain = len(rest) <= 3 and all(isinstance(value, k) for value, k in zip(rest, kinds))
        hooked = any(isinstance(value, dict) and value for value in rest)
        self.require(plain and not hooked, "makes a tensor with hooks")

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """Run ``_codecs.encode``, by which ``torch.save`` writes bytes; models need no bytes, so
        these are dropped. Other codecs may be slow, or decompress."""
        plain = type(text) is str and encoding in ("latin1", "latin-1")
        self.require(plain, "encodes text")
        return b""

    def _bytearray(self, *arguments: Any) -> bytes:
        if len(arguments) != 1:
            return self._encode(*arguments) if arguments else b""
        self.require(type(arguments[0]) is bytes, "makes memory")
        return b""

    def _set_of(self, items: Any = ()) -> Value:
        self.require(type(items) in (list, tuple), "makes a set of something else")
        self.cost(len(items))
        for item in items:
            self.check_key(item)
        return Value()

    def _value(self, *arguments: Any) -> Value:
        """Replace ``torch.Size((2, 3))``, ``torch.device("cpu", 0)`` or ``complex(1.0, 2.0)``."""
        numbers = arguments[0] if arguments and type(arguments[0]) is tuple else arguments
        plain = len(numbers) <= 64 and all(type(n) in (int, float, str) for n in numbers)
        self.require(plain, "makes no plain value")
        return Value()


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda self: {},
    "torch._utils._rebuild_tensor": Claims._tensor,
    "torch._utils._rebuild_tensor_v2": Claims._tensor,
    "torch._utils._rebuild_tensor_v3": Claims._tensor_of_type,
    "torch._utils._rebuild_parameter": Claims._parameter,
    "_codecs.encode": Claims._encode,
    "builtins.bytearray": Claims._bytearray,
    "builtins.set": Claims._set_of,
    "builtins.complex": Claims._value,
    "torch.Size": Claims._value,
    "torch.device": Claims._value,
}
