"""Interpreter of pickles that executes nothing that a pickle names.

``torch.load(weights_only=True)`` executes nothing either, but it trusts the file: a storage may
claim more than is there, a tensor may reach out of it, hashing a deeply nested tuple crashes the
process, ``bytearray(10**12)`` exhausts the memory. Here mappings, lists, plain values and tensors
are made, each claim is checked first, and everything that ``torch.save`` does not write is refused.
An accepted file needs no more memory than its size.
"""

import gc
import io
import pickletools
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import CheckpointError
from .claims import CALLS, UNPLAIN, Claims, Name, Value

# Packages of settings beside the weights. Objects of these names are replaced by stand-ins; any
# other name in a pickle is refused. No name is ever imported or called.
_SETTINGS = {"omegaconf", "hydra", "pytorch_lightning", "lightning", "lightning_fabric", "typing"}
_SETTINGS |= {"collections", "pathlib", "enum", "numpy", "argparse", "look2hear", "datetime"}
_SETTINGS |= {"decimal", "fractions", "uuid"}
_BUILTIN_SETTINGS = {"dict", "list", "tuple", "int", "float", "str", "bool", "object", "bytes"}
_BUILTIN_SETTINGS |= {"frozenset", "range", "slice"}
# Asteroid pickles torch's version.
_TORCH_SETTINGS = {"torch.torch_version.TorchVersion"}
# Programs that pickle whole models, by their top-level package.
_PROGRAMS = {"demucs": "Demucs", "ultralytics": "YOLO", "openunmix": "Open-Unmix"}
_PROGRAMS |= {"transformers": "Transformers", "fairseq": "fairseq"}
_ODD_TENSORS = {
    "_rebuild_sparse_tensor": "sparse tensors",
    "_rebuild_nested_tensor": "nested tensors",
    "_rebuild_qtensor": "quantised tensors",
    "_rebuild_meta_tensor_no_storage": "meta tensors, which have no values",
    "_rebuild_wrapper_subclass": "tensors of a class of their own",
    "_rebuild_parameter_with_state": "parameters with attributes",
    "_rebuild_from_type_v2": "tensors of a class of their own",
    "_rebuild_device_tensor_from_numpy": "tensors of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "tensors of another device",
}


class _Setting(dict):
    """Stand-in for an object of a settings class. It keeps keys that are set."""


class Unpickler(Claims):
    """Interpreter of one pickle.

    Args:
        file: file at the begin of the pickle; it is left at its end.
        name: name of the file, for messages.
        n_bytes: size of each storage in the file, by key; None if not known yet.
        most: largest size of all storages together, in bytes.

    Attributes:
        value: the unpickled object. Objects of settings are empty stand-ins, bytes are empty.
        storages: memory of its tensors, by key; uint8, to be filled from the file.

    Raises:
        CheckpointError: in one line, for whatever ``torch.save`` does not write.
    """

    def __init__(self, file: io.BytesIO, name: str, n_bytes: dict[str, int] | None, most: int):
        super().__init__(name, n_bytes, most)
        self._settings: set[str] = set()
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        collects = gc.isenabled()
        # The garbage collector would traverse deeply nested objects again and again, which takes
        # two thirds of the time to refuse a hundred thousand levels.
        gc.disable()
        try:
            self._follow(file)
            self.value = self._stack[-1]
        except CheckpointError:
            raise
        except (ValueError, LookupError, TypeError, OverflowError) as error:
            raise CheckpointError(f"'{name}' is truncated, damaged or no checkpoint") from error
        finally:
            if collects:
                gc.enable()

    def _follow(self, file: io.BytesIO) -> None:
        for opcode, argument, _ in pickletools.genops(file):
            self.cost(1)
            if opcode.name == "STOP":
                return
            if opcode.name in _PLAIN:
                self._stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            elif opcode.name != "PROTO":
                self.refuse(f"its pickle has the instruction {opcode.name}")
        raise ValueError("it has no end")

    def _mark(self, _: Any) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        self.cost(len(items))
        return items

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _tuple(self, n: int | None) -> None:
        items = self._pop_mark() if n is None else [self._stack.pop() for _ in range(n)][::-1]
        self._stack.append(tuple(items))

    def _add(self, items: Iterable[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, _Setting):
            self.require(type(target) is list, "appends to an object that is no list")
            target.extend(items)

    def _set(self, pairs: list[Any]) -> None:
        target = self._stack[-1]
        self.require(isinstance(target, dict), "sets keys of an object that is no mapping")
        if len(pairs) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(pairs[::2], pairs[1::2]):
            self.check_key(key)
            target[key] = value

    def _name(self, argument: str) -> None:
        module, _, attribute = argument.partition(" ")
        # torch writes the names of Python 2.
        module, attribute = NAME_MAPPING.get(
            (module, attribute), (IMPORT_MAPPING.get(module, module), attribute)
        )
        full, root = f"{module}.{attribute}", module.partition(".")[0]
        printed = ascii(full)[1:-1][:100]
        builtin = module == "builtins" and attribute in _BUILTIN_SETTINGS
        if full in CALLS or re.fullmatch(_PARTS_OF_TENSORS, full):
            pass
        elif root in _SETTINGS or full in _TORCH_SETTINGS or builtin:
            self._settings.add(full)
        elif (module == "torch._utils" and attribute in _ODD_TENSORS) or module == "torch._tensor":
            what = _ODD_TENSORS.get(attribute, "tensors of a class of their own")
            raise CheckpointError(f"'{self.name}' holds {what}; {UNPLAIN}")
        elif root in _PROGRAMS:
            raise CheckpointError(
                f"'{self.name}' holds weights of another model than Apollo: its pickle names "
                f"{printed}, of {_PROGRAMS[root]}"
            )
        else:
            self.refuse(f"its pickle names {printed}")
        self._stack.append(Name(full))

    def _call(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        callable_ = type(function) is Name and type(arguments) is tuple
        self.require(callable_, "calls an unnamed object")
        self.cost(len(arguments))
        if function in self._settings:
            self._stack.append(_Setting())
        else:
            self.require(function in CALLS, f"calls {function}")
            self._stack.append(CALLS[function](self, *arguments))

    def _new(self, _: Any) -> None:
        function = self._stack[-2]
        self.require(type(function) is Name and function in self._settings, "makes objects")
        self._call(None)

    def _build(self, _: Any) -> None:
        """Drop attributes, such as the versions in state dicts; models need none."""
        state, target = self._stack.pop(), self._stack[-1]
        plain = type(target) is dict and isinstance(state, dict)
        self.require(isinstance(target, _Setting) or plain, "changes an object")


_PARTS_OF_TENSORS = (
    r"torch\.(\w+Storage|storage\.UntypedStorage|(b?float|u?int|complex)\d\w*|bool|strided)"
)
_PLAIN = {"BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": Value,
}
_STEPS: dict[str, Callable[[Unpickler, Any], None]] = {
    "MARK": Unpickler._mark,
    "BINPUT": Unpickler._put,
    "LONG_BINPUT": Unpickler._put,
    "BINGET": Unpickler._get,
    "LONG_BINGET": Unpickler._get,
    "TUPLE": lambda self, _: self._tuple(None),
    "TUPLE1": lambda self, _: self._tuple(1),
    "TUPLE2": lambda self, _: self._tuple(2),
    "TUPLE3": lambda self, _: self._tuple(3),
    "APPEND": lambda self, _: self._add([self._stack.pop()]),
    "APPENDS": lambda self, _: self._add(self._pop_mark()),
    "SETITEM": lambda self, _: self._set([self._stack.pop(), self._stack.pop()][::-1]),
    "SETITEMS": lambda self, _: self._set(self._pop_mark()),
    "GLOBAL": Unpickler._name,
    "REDUCE": Unpickler._call,
    "NEWOBJ": Unpickler._new,
    "BUILD": Unpickler._build,
    "BINPERSID": lambda self, _: self._stack.append(self._storage(self._stack.pop())),
}
