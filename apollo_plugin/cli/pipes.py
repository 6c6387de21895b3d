"""``-`` for an input or a result: whole files through pipes, by way of temporary ones."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..errors import AudioError, one_line
from .options import Options
from .terminal import refuse_terminal, speaking_of

_INPUT, _OUTPUT = "standard input", "standard output"
_FOR_PIPES = "- is for pipes and redirections"


@contextmanager
def unpiped(options: Options, format: str) -> Iterator[Options]:
    """Options whose input and result are files; a result goes to standard output at the end, if it
    came to be.

    Args:
        options: what was typed.
        format: of the result.

    Raises:
        SettingError: where a pipe is a terminal.
        AudioError: where there is no room for what comes.
    """
    if not (options.from_pipe or options.to_pipe):
        yield options
        return
    with tempfile.TemporaryDirectory(prefix="apollo_") as folder:
        source, target = Path(folder, "stdin"), Path(folder, f"stdout.{format.lower()}")
        names = {str(source): _INPUT, str(target): _OUTPUT}
        with speaking_of(names, results_to_stderr=options.to_pipe):
            if options.from_pipe:
                refuse_terminal(sys.stdin, _INPUT, _FOR_PIPES)
                _spool(source)
                options = replace(options, inputs=(str(source),))
            if options.to_pipe:
                refuse_terminal(sys.stdout, _OUTPUT, _FOR_PIPES)
                options = replace(options, out=target)
            yield options
            if target.exists():
                _send(target)


def _spool(place: Path) -> None:
    try:
        with place.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    except OSError as error:
        raise AudioError(
            f"{_INPUT} cannot be kept in '{tempfile.gettempdir()}', TMPDIR names another folder: "
            f"{one_line(error)}"
        ) from error


def _send(place: Path) -> None:
    try:
        with place.open("rb") as result:
            shutil.copyfileobj(result, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AudioError(f"{_OUTPUT} cannot be written: {one_line(error)}") from error
