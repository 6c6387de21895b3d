"""What all commands share: lines, progress, and an exit status that tells the truth.

What a user can mend (:class:`~apollo_plugin.errors.ApolloError` and what the system says) ends in
one line. Anything else is a defect of this package and is shown as one, with its traceback.
"""

import importlib.metadata
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

from tqdm import tqdm

from ..errors import (
    ApolloError,
    SettingError,
    does_not_load,
    install,
    is_out_of_memory,
    library_at_fault,
    one_line,
    printable,
)
from .interrupts import interrupted_status, polite_end

# Of the command that runs, before each of its lines on standard error.
_name = "apollo"
# What else files are called in lines, and whether standard output holds something else.
_names: dict[str, str] = {}
_results_to_stderr = False


def run(main: Callable[[], int | None]) -> NoReturn:
    """Runs a script to its end and exits: with 0 if it came through, 1 and a line if it did not.

    Args:
        main: the script; what it returns is the exit status.
    """
    sys.exit(command(os.path.basename(sys.argv[0]), main, polite=False))


def command(name: str, main: Callable[[], int | None], polite: bool = True) -> int:
    """Runs a command to its exit status, whatever happens in it.

    Args:
        name: of the command, for its lines.
        main: what it does; what it returns is the exit status.
        polite: interrupts and SIGTERM end it with everything cleaned up, a second one without
            waiting for processes.
    """
    global _name
    _name = name
    _open_streams()
    try:
        with _warnings_in_one_line(), polite_end(polite):
            return main() or 0
    except KeyboardInterrupt as end:
        say("interrupted; what was finished is whole, run it again to go on")
        return interrupted_status(end)
    except BrokenPipeError:  # nobody reads any more
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
    """Whether an error is one that a user can mend; else it is a defect."""
    return (
        isinstance(error, (ApolloError, OSError))
        or is_out_of_memory(error)
        or library_at_fault(error) is not None
    )


def told(error: BaseException) -> str:
    """An error in one line; a defect with its type."""
    if is_out_of_memory(error):
        return f"out of memory ({one_line(error, 120)})"
    library = None if isinstance(error, ApolloError) else library_at_fault(error)
    if library and isinstance(error, ModuleNotFoundError):
        return f"this needs {library}, which is not installed: {install()}"
    if library:
        reason = f"the library {library} does not load ({does_not_load(error)})"
        return f"{reason}; install apollo-plugin anew, in a virtual environment of its own"
    if is_mendable(error):
        return one_line(error, 5000)  # names of files may be long, and what is wrong stands last
    return f"failed by a defect of apollo-plugin: {type(error).__name__}: {one_line(error, 200)}"


def say_defect(error: BaseException) -> None:
    """A defect with all that whoever mends it has to know."""
    version = importlib.metadata.version("apollo-plugin")
    _write("".join(traceback.format_exception(error)).rstrip(), sys.stderr)
    say(f"this is a defect of apollo-plugin {version}; please report the lines above{_where()}")


def _where() -> str:
    urls = importlib.metadata.metadata("apollo-plugin").get_all("Project-URL") or []
    issues = [url.partition(",")[2].strip() for url in urls if "issue" in url.lower()]
    return f": {issues[0]}" if issues else ""


class Failures:
    """Counts the items of a batch that failed, each named in a line; one never ends the rest."""

    def __init__(self) -> None:
        self.n = 0
        self._defect: BaseException | None = None

    def add(self, name: object, error: BaseException | str) -> None:
        """Names one: ``name`` is put before the error unless that holds it already."""
        self.n += 1
        line = error if isinstance(error, str) else told(error)
        say(line if str(name) in line else f"'{name}': {line}")
        if not isinstance(error, str) and not is_mendable(error) and self._defect is None:
            self._defect = error

    def end(self, n_items: int | None = None) -> int:
        """Shows the first defect and says how many of so many failed; returns the exit status."""
        if self._defect is not None:
            say_defect(self._defect)
        if self.n and n_items:
            say(f"{self.n} of {n_items} failed")
        return 1 if self.n else 0


# ------------------------------------------------------------------------------- lines and progress


def say(line: str) -> None:
    """A line to standard error, with the command's name before it."""
    _write(_printable(f"{_name}: {line}"), sys.stderr)


def refuse_terminal(stream: TextIO, name: str, cure: str) -> None:
    """Raises a SettingError where sound would come from a terminal, or go to one."""
    if stream.isatty():
        raise SettingError(f"{name} is a terminal; {cure}")


def tell(line: str) -> None:
    """A line of the result, to standard output."""
    _write(_printable(line), sys.stderr if _results_to_stderr else sys.stdout)


@contextmanager
def speaking_of(names: dict[str, str], results_to_stderr: bool) -> Iterator[None]:
    """While this holds, lines call files by other names.

    Args:
        names: by the files' own.
        results_to_stderr: standard output is taken: lines of the result go where others go.
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
    """A line that stays one, whatever a file is called."""
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
    """What nobody reads any more goes nowhere; the work goes on."""
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
    """Shows a line, on a terminal only, while something takes its time that nobody can measure."""
    line = _printable(f"{_name}: {text} ...")
    with tqdm(desc=line, bar_format="{desc}", leave=False, disable=None):
        yield


class Bar(tqdm):
    """A progress bar over seconds of audio, as :data:`apollo_plugin.restore.Progress` tells of
    them; shown on a terminal only, and never in the way of the work."""

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


# ------------------------------------------------------------------------------------ surroundings


def _open_streams() -> None:
    """Standard streams that are there, and that names of files in any encoding go through."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened would be it, and hold what libraries print.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if number == 0 else "w"))  # noqa: SIM115
        elif number and hasattr(stream, "reconfigure"):
            with suppress(ValueError):  # closed
                stream.reconfigure(errors="backslashreplace")


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(" ".join(str(message).split()))
        yield
