"""Restoration of a file or many from Python, by file names."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.choose import Choice, load
from ..engine.protocol import Engine, Progress
from ..errors import SettingError
from ..files import is_same_file
from ..formats import MARK, format_of, refusal
from ..restore import Restored
from ..restore import restore_file as restore_job
from ..settings import Job, Settings
from . import albums, plan, pool
from .work import Result, Task

_READING = ("track", "start", "duration", "salvage")


@dataclass(frozen=True)
class Batch:
    """The outcome for many files.

    Args:
        results: of each file: restored, kept from before (neither ``restored`` nor ``error``) or
            failed (``error``).
        problems: a line for each unusable input.
    """

    results: list[Result]
    problems: list[str]


def restore_file(
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    checkpoint: str = "apollo-small",
    device: str = "auto",
    precision: str | None = None,
    engine: str | Engine = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> Restored:
    """Restore one sound file as ``apollo-restore`` does, tags included.

    Args:
        source: any sound file.
        target: of the result, in the format of its suffix. An existing file is replaced.
        checkpoint: bundled name, file, folder, Hugging Face Hub id or exported ONNX file.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        precision: ``"fp32"``, ``"bf16"`` or ``"int8"``; the device's best unless given.
        engine: ``"auto"``, ``"onnx"`` or ``"torch"``; or one from
            :func:`apollo_plugin.engine.choose.load`, which is then used for file after file.
        progress: called with the step's name, the seconds of audio done, and those in all.
        **settings: fields of :class:`~apollo_plugin.settings.Settings`; and ``track``, ``start``,
            ``duration``, ``salvage`` of :func:`apollo_plugin.audio.read`.

    Returns:
        facts about the result: samples clipped, true peak, notes on tags.

    Raises:
        ApolloError: one line on what is wrong; nothing is written then.
    """
    source, target = Path(source), Path(target)
    named = format_of(target)
    chosen = {"format": named, "overwrite": True, **settings}
    if named is None:
        raise SettingError(refusal(target))
    if chosen["format"] != named:
        raise SettingError(f"'{target}' is no name for format {chosen['format']}")
    if is_same_file(target, source):
        raise SettingError(f"'{target}' is the source itself; name another target")
    if isinstance(engine, str):
        engine = load(Choice(checkpoint, device, precision, engine))
    return restore_job(engine, Job(source, target), _settings(chosen), progress)


def restore_files(
    inputs: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike | None = None,
    *,
    jobs: int | None = None,
    checkpoint: str = "apollo-small",
    device: str = "auto",
    precision: str | None = None,
    engine: str = "auto",
    suffix: str = MARK,
    progress: Callable[[Result, int, int], object] | None = None,
    **settings: Any,
) -> Batch:
    """Restore files and whole folders as ``apollo-restore`` does, several at a time. A file that
    fails does not stop the rest.

    On Windows and macOS a script calls this below ``if __name__ == "__main__":``, as everything
    that starts processes.

    Args:
        inputs: files, folders (searched to any depth) and globs; or a single one.
        out: folder of the results; beside each input unless given.
        jobs: files at a time; unless given, as many as cores and memory allow.
        checkpoint: see :func:`restore_file`; likewise the next three.
        device: likewise.
        precision: likewise.
        engine: likewise, by name.
        suffix: added to the names of the results.
        progress: called with each result, the number of results so far, and the total.
        **settings: see :func:`restore_file`; results that exist are kept unless ``overwrite``.

    Returns:
        a result for each file, and a line for each unusable input.

    Raises:
        ApolloError: if no file can be restored: for settings, checkpoint or device.
    """
    # A name is a sequence of letters, of which "/" is a folder.
    inputs = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    how = _settings(settings)
    task = Task(Choice(checkpoint, device, precision, engine), how)
    places = plan.Places(None if out is None else Path(out), suffix=suffix)
    todo = plan.plan([os.fspath(each) for each in inputs], places, how)
    kept = [job for job in todo.jobs if job not in todo.due]
    results = [Result(job) for job in kept]
    for done in pool.outcomes(task, todo.due, jobs=jobs) if todo.due else ():
        results.append(done)
        if progress:
            progress(done, len(results), len(todo.jobs))
    albums.add_gains(results, kept, how)
    return Batch(results, todo.problems)


def _settings(given: dict[str, Any]) -> Settings:
    reading = {key: given.pop(key) for key in _READING if key in given}
    return Settings(**{**given, "reading": {**given.get("reading", {}), **reading}})
