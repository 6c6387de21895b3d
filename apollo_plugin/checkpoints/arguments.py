"""Validation of a model's arguments from a file, before the model is built."""

import inspect
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import CheckpointError, one_line
from .published_layout import State

# Upper bound of any rate, width or count.
_LARGEST = 10_000_000
_LONGEST = 4096
# Hz, ms.
_RATES, _WINDOWS_MS = (1000, 1_000_000), (1, 1000)
# Errors that a class raises for invalid arguments.
_BUILDING = (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError)
# Limits of torch calls for each tensor of a model, which takes about four, and for all else.
_CALLS_PER_TENSOR, _CALLS_ELSE = 12, 200


def verify(
    cls: type[torch.nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any], state: State
) -> None:
    """Check the arguments of a model against the tensors that it is to load.

    Each argument needs the type of the signature and a plausible size. The model is then built
    without memory, on the meta device, which is aborted once it is larger than the state dict.

    Args:
        cls: class of the model.
        args, kwargs: its arguments.
        state: tensors by the names of ``cls().state_dict()``.

    Raises:
        CheckpointError: with the argument or tensor that does not fit; without the file's name.
    """
    signature = inspect.signature(cls)
    try:
        values = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise CheckpointError(one_line(error)) from error
    hints = typing.get_type_hints(cls.__init__)
    for key, value in values.items():
        hint = hints.get(key, Any)
        if not (_fits(value, hint) and _is_bounded(value)):
            kind = str(getattr(hint, "__name__", hint))
            raise CheckpointError(
                f"its {key} is {_short(value)}; expected {kind} of a plausible size"
            )
    _check_window(signature, values, state)
    shapes = _state_shapes(cls, args, kwargs, len(state))
    arguments = ", ".join(f"{key}={_short(value)}" for key, value in values.items())
    for key in sorted({*shapes, *state}):
        want, have = shapes.get(key), tuple(state[key].shape) if key in state else None
        if want != have:
            problem = (
                f"it lacks {key}" if have is None
                else f"it also holds {ascii(key)[1:-1][:80]}" if want is None
                else f"{key} has shape {have} and not {want}"
            )  # fmt: skip
            raise CheckpointError(f"{problem}, with {arguments}")


def _fits(value: Any, hint: Any) -> bool:
    """Return True if a plain value is of the type in a signature; integers count as floats."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_fits(value, one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is not None:  # list[int], Sequence[float], tuple[int, ...]
        inner = next(iter(typing.get_args(hint)), Any)
        return type(value) in (list, tuple) and all(_fits(one, inner) for one in value[:_LONGEST])
    if hint is None or hint is type(None):
        return value is None
    if hint is Any:
        return value is None or type(value) in (bool, int, float, str, list, tuple)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def _is_bounded(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= _LONGEST and all(
            not isinstance(one, (list, tuple)) and _is_bounded(one) for one in value
        )
    if isinstance(value, str):
        return len(value) <= _LONGEST
    return value is None or abs(value) <= _LARGEST  # False for NaN


def _check_window(signature: inspect.Signature, values: Mapping[str, Any], state: State) -> None:
    """Check that sample rate and window are plausible, and that there are no more bins than
    weights, as each bin of the STFT has weights of its own."""
    defaults = {key: parameter.default for key, parameter in signature.parameters.items()}
    settings = {**defaults, **values}
    rate, win_ms = settings.get("sample_rate"), settings.get("win_ms")
    n_weights = sum(value.numel() for value in state.values())
    if not isinstance(rate, (int, float)) or not isinstance(win_ms, (int, float)):
        return
    usual = _RATES[0] <= rate <= _RATES[1] and _WINDOWS_MS[0] <= win_ms <= _WINDOWS_MS[1]
    if not usual or rate * win_ms / 2000 > n_weights:
        raise CheckpointError(
            f"its sample_rate is {_short(rate)}, its win_ms {_short(win_ms)}; expected "
            f"{_RATES[0]:,} to {_RATES[1]:,} Hz and {_WINDOWS_MS[0]} to {_WINDOWS_MS[1]:,} ms"
        )


class _CallLimit(TorchFunctionMode):
    """Limit of torch calls, to abort the building of a model with too many tensors."""

    def __init__(self, n_calls: int):
        super().__init__()
        self.n_left = n_calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.n_left -= 1
        result = func(*args, **(kwargs or {}))
        # Calls without a tensor are let through: one may restore the state after no_grad.
        if self.n_left < 0 and isinstance(result, torch.Tensor):
            raise CheckpointError("they describe a larger model than the file holds")
        return result


def _state_shapes(
    cls: type[torch.nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any], n_tensors: int
) -> dict[str, tuple[int, ...]]:
    """Compute the shapes of a model's state dict on the meta device."""
    limit = _CallLimit(_CALLS_ELSE + _CALLS_PER_TENSOR * n_tensors)
    arguments = ", ".join(f"{key}={_short(value)}" for key, value in kwargs.items())
    try:
        with torch.device("meta"), limit:
            model = cls(*args, **kwargs)
        return {key: tuple(value.shape) for key, value in model.state_dict().items()}
    except CheckpointError as error:
        raise CheckpointError(f"{error}: {arguments}") from error
    except _BUILDING as error:
        raise CheckpointError(f"{one_line(error, 200)}, with {arguments}") from error


def _short(value: Any) -> str:
    return ascii(reprlib.repr(value))[1:-1][:60]
