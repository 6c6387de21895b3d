"""``-`` as an input or a result: whole files through pipes, by temporary files."""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from ..errors import AudioError, one_line
from ..files import pour
from .options import Options
from .terminal import refuse_terminal, speaking_of

_INPUT, _OUTPUT = "standard input", "standard output"
_FOR_PIPES = "- is for pipes and redirections"


@contextmanager
def unpiped(options: Options, format: str) -> Iterator[Options]:
    """Replace pipes in the options by temporary files; at the end a result is copied to standard
    output, if there is one.

    Raises:
        SettingError: if standard input or output is a terminal.
        AudioError: if the disk has no room for the input.
    """
    if not (options.from_pipe or options.to_pipe):
        yield options
        return
    with tempfile.TemporaryDirectory(prefix="apollo_") as folder:
        source, target = Path(folder, "stdin"), Path(folder, f"stdout.{format.lower()}")
        given = options.inputs[0] if options.from_pipe else "-"
        names = {str(source): _INPUT if given == "-" else f"'{given}'", str(target): _OUTPUT}
        with speaking_of(names, results_to_stderr=options.to_pipe):
            if options.from_pipe:
                if given == "-":
                    refuse_terminal(sys.stdin, _INPUT, _FOR_PIPES)
                with ExitStack() as stack:
                    _spool(given, source, stack)
                options = replace(options, inputs=(str(source),))
            if options.to_pipe:
                refuse_terminal(sys.stdout, _OUTPUT, _FOR_PIPES)
                options = replace(options, out=target)
            yield options
            if target.exists():
                _send(target)


def _spool(given: str, place: Path, stack: ExitStack) -> None:
    """Copy an input to a file."""
    try:
        if given != "-" and not _ends(os.stat(given).st_mode):
            raise AudioError(f"'{given}' is a device, no file")
        # Closed by the stack.
        stream = sys.stdin.buffer
        if given != "-":
            stream = stack.enter_context(open(given, "rb"))  # noqa: SIM115
    except OSError as error:
        raise AudioError(f"'{given}' cannot be read: {one_line(error)}") from error
    try:
        with place.open("wb") as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    except OSError as error:
        raise AudioError(
            f"{_INPUT if given == '-' else given} cannot be kept in '{tempfile.gettempdir()}', "
            f"TMPDIR names another folder: {one_line(error)}"
        ) from error


def _ends(mode: int) -> bool:
    """True if the input has an end: devices may have none."""
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _send(place: Path) -> None:
    try:
        with place.open("rb") as result:
            pour(result, sys.stdout.buffer)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AudioError(f"{_OUTPUT} cannot be written: {one_line(error)}") from error
