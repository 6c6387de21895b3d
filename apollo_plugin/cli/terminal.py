"""Messages, progress and exit status of all commands.

Errors that a user can fix (:class:`~apollo_plugin.errors.ApolloError` and the system's) are printed
in one line. Any other is a defect of this package and is reported as one, with its traceback.
"""

import argparse
import importlib.metadata
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

from tqdm import tqdm

from ..errors import (
    END_SIGNALS,
    ApolloError,
    SettingError,
    does_not_load,
    install,
    is_out_of_memory,
    library_at_fault,
    one_line,
    printable,
)
from .interrupts import clean_end, interrupted_status

# Name of the running command, printed before its lines on standard error.
_name = "apollo"
# Names of files in messages, and True if standard output is in use for something else.
_names: dict[str, str] = {}
_results_to_stderr = False


def script_parser(about: str | None) -> argparse.ArgumentParser:
    """Parser of a script's options, with its docstring for help, in its own lines."""
    keep = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=about, formatter_class=keep)


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a script and exit: with 0 on success, 1 and a line on failure. Signals of schedulers end
    it at once, as they leave little time.

    Args:
        main: the script; return the exit status.
    """
    found = [getattr(signal, name) for name in END_SIGNALS if hasattr(signal, name)]
    sys.exit(command(os.path.basename(sys.argv[0]), main, (signal.SIGINT,), found))


def command(
    name: str,
    main: Callable[[], int | None],
    signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
    at_once: Sequence[int] = (),
) -> int:
    """Run a command and return its exit status, after any error too.

    Args:
        name: of the command, for its messages.
        main: its function; return the exit status.
        signals: those that it cleans up after; a second one does not wait for processes.
        at_once: likewise, those whose first one does not wait either.
    """
    global _name
    _name = name
    _open_streams()
    try:
        with _warnings_in_one_line(), clean_end(*signals, at_once=at_once):
            return main() or 0
    except KeyboardInterrupt as end:
        say("interrupted; what was finished is whole, run it again to go on")
        return interrupted_status(end)
    except BrokenPipeError:  # the reader has closed the pipe
        return 1
    except Exception as error:
        if is_mendable(error):
            say(told(error))
        else:
            say_defect(error)
        return 1
    finally:
        _flush()


def is_mendable(error: BaseException) -> bool:
    """True if a user can fix the error; any other is a defect."""
    return (
        isinstance(error, (ApolloError, OSError))
        or is_out_of_memory(error)
        or library_at_fault(error) is not None
    )


def told(error: BaseException) -> str:
    """Describe an error in one line; a defect with its type."""
    if is_out_of_memory(error):
        return f"out of memory ({one_line(error, 120)})"
    library = None if isinstance(error, ApolloError) else library_at_fault(error)
    if library and isinstance(error, ModuleNotFoundError):
        return f"this needs {library}, which is not installed: {install()}"
    if library:
        reason = f"the library {library} does not load ({does_not_load(error)})"
        return f"{reason}; install apollo-plugin anew, in a virtual environment of its own"
    if is_mendable(error):
        return one_line(error, 5000)  # file names may be long, and the reason comes last
    return f"failed by a defect of apollo-plugin: {type(error).__name__}: {one_line(error, 200)}"


def say_defect(error: BaseException) -> None:
    """Report a defect with all that is needed to fix it."""
    version = importlib.metadata.version("apollo-plugin")
    _write("".join(traceback.format_exception(error)).rstrip(), sys.stderr)
    say(f"this is a defect of apollo-plugin {version}; please report the lines above")


class Failures:
    """Counter of a batch's failed items, which reports each in a line; the rest goes on."""

    def __init__(self) -> None:
        self.n = 0
        self._defect: BaseException | None = None

    def add(self, name: object, error: BaseException | str) -> None:
        """Report an item: ``name`` is put before the error unless the error contains it."""
        self.n += 1
        line = error if isinstance(error, str) else told(error)
        say(line if str(name) in line else f"'{name}': {line}")
        if not isinstance(error, str) and not is_mendable(error) and self._defect is None:
            self._defect = error

    def end(self, n_items: int | None = None) -> int:
        """Report the first defect and how many items failed; return the exit status."""
        if self._defect is not None:
            say_defect(self._defect)
        if self.n and n_items:
            say(f"{self.n} of {n_items} failed")
        return 1 if self.n else 0


def say(line: str) -> None:
    """Print a line to standard error, after the command's name."""
    _write(_printable(f"{_name}: {line}"), sys.stderr)


def refuse_terminal(stream: TextIO, name: str, cure: str) -> None:
    """Raise a SettingError if sound would come from a terminal, or go to one."""
    if stream.isatty():
        raise SettingError(f"{name} is a terminal; {cure}")


def tell(line: str) -> None:
    """Print a line of the result to standard output."""
    _write(_printable(line), sys.stderr if _results_to_stderr else sys.stdout)


@contextmanager
def speaking_of(names: dict[str, str], results_to_stderr: bool) -> Iterator[None]:
    """Use other names of files in messages inside the context.

    Args:
        names: names to use, by the files' own.
        results_to_stderr: print the result to standard error, since standard output is in use.
    """
    global _results_to_stderr
    _names.update(names)
    _results_to_stderr = results_to_stderr
    try:
        yield
    finally:
        _names.clear()
        _results_to_stderr = False


def _printable(line: str) -> str:
    """Make a message a single line, whatever a file's name contains."""
    for path, name in _names.items():
        line = line.replace(f"'{path}'", name).replace(path, name)
    return printable(line)


def _write(text: str, stream: TextIO) -> None:
    try:
        tqdm.write(text, file=stream)
        stream.flush()
    except (OSError, ValueError):
        _give_up(stream)


def _give_up(stream: TextIO) -> None:
    """Discard further output to a closed pipe; the work goes on."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            _give_up(stream)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show a line, on a terminal only, during a wait of unknown length."""
    line = _printable(f"{_name}: {text} ...")
    with tqdm(desc=line, bar_format="{desc}", leave=False, disable=None):
        yield


class Bar(tqdm):
    """Progress bar over seconds of audio, called as :data:`apollo_plugin.restore.Progress`; shown
    on a terminal only, and its errors never stop the work."""

    def __init__(self, name: str, **kwargs):
        super().__init__(
            unit="s",
            desc=_printable(name),
            leave=False,
            disable=None,
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]",
            total=1,
            **kwargs,
        )
        self._of, self._step = _printable(name), ""

    def progress(self, step: str, done: float, total: float) -> None:
        if self.disable:
            return
        with suppress(OSError, ValueError):
            if step != self._step:
                self._step = step
                self.set_description(f"{self._of}, {step}", refresh=False)
                self.reset(total)
            self.total = total
            self.update(done - self.n)

    def close(self) -> None:
        with suppress(OSError, ValueError):
            super().close()


def _open_streams() -> None:
    """Open missing standard streams, and let file names in any encoding through."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next opened file would take its number, and get what libraries print.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))  # noqa: SIM115
        elif number and hasattr(stream, "reconfigure"):
            with suppress(ValueError):  # closed
                stream.reconfigure(errors="backslashreplace")


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Print warnings in one line, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(" ".join(str(message).split()))
        yield
