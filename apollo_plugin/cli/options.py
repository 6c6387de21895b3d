"""Parsed options of ``apollo-restore``, and the settings they stand for."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.choose import Choice
from ..errors import SettingError
from ..files import absolute, is_special
from ..formats import BY_SUFFIX, FOREIGN, format_of, refusal

if TYPE_CHECKING:
    from ..batch.plan import Places
    from ..batch.work import Task
    from ..settings import Settings

# Names of standard output, and folders of open file descriptors.
_OUTPUT = re.compile(r"/dev/(stdout|fd/1)|/proc/(self|thread-self)/fd/1")
_LENT = re.compile(r"/dev/(fd/|stdin$)|/proc/[^/]+/(task/[^/]+/)?fd/")


def is_pipe(name: str) -> bool:
    """True if an input is standard input or a pipe, which can be read only once."""
    special = is_special(name) and not Path(name).is_char_device()
    return name == "-" or special or bool(_LENT.match(absolute(name)))


@dataclass(frozen=True)
class Options:
    """Parsed options, by their names on the command line."""

    inputs: tuple[str, ...]
    out: Path | None
    checkpoint: str
    device: str
    precision: str | None
    engine: str
    jobs: int | None
    dask: str | None
    keep_below: float | None
    mix: float
    level: str
    again: bool
    format: str | None
    subtype: str | None
    rate: int | None
    headroom: float
    dither: bool
    tags: bool
    suffix: str
    track: int | None
    start: float
    duration: float | None
    salvage: bool
    stems: str | None
    overwrite: bool
    skip_uncoded: bool
    copy_others: bool
    report: Path | None
    reference: Path | None
    diagnose: bool
    json: bool
    list: bool
    demo: bool

    @property
    def from_pipe(self) -> bool:
        """True if the input can be read only once: standard input, a named pipe, ``<(command)``."""
        return any(map(is_pipe, self.inputs))

    @property
    def to_pipe(self) -> bool:
        """True if the result goes to standard output."""
        return str(self.out) == "-" or bool(_OUTPUT.fullmatch(absolute(self.out or "")))

    @property
    def out_file(self) -> Path | None:
        """The single result, if -o names a file rather than a folder."""
        if self.out is None or os.path.isdir(self.out):
            return None
        if is_special(self.out):
            return self.out
        return self.out if self.out.suffix.lower() in (*BY_SUFFIX, *FOREIGN) else None

    @property
    def out_dir(self) -> Path | None:
        """Folder of the results, if -o names one."""
        return None if self.out_file else self.out

    def reading(self) -> dict[str, Any]:
        """Arguments of :func:`apollo_plugin.audio.read` for the inputs."""
        given = dict(
            track=self.track, start=self.start, duration=self.duration, salvage=self.salvage
        )
        return {name: value for name, value in given.items() if value}

    def choice(self) -> Choice:
        """The checkpoint, with engine, device and precision.

        Raises:
            SettingError: if engine, device, precision and checkpoint exclude each other.
        """
        return Choice(self.checkpoint, self.device, self.precision, self.engine)

    def settings(self) -> "Settings":
        """The settings of the restoration.

        Raises:
            SettingError: for values out of range.
        """
        from ..settings import Settings

        named = format_of(self.out_file) if self.out_file else None
        return Settings(
            self.keep_below,
            self.mix,
            self.format or named or "WAV",
            self.subtype,
            self.overwrite,
            self.rate,
            self.reading(),
            self.headroom,
            self.dither,
            self.tags,
            # For the table at the end of a folder.
            diagnose=len(self.inputs) > 1 or not all(map(os.path.isfile, self.inputs)),
            skip_uncoded=self.skip_uncoded,
            keep_level=self.level == "keep",
            again=self.again,
        )

    def places(self) -> "Places":
        """Places of the results."""
        from ..batch.plan import Places

        return Places(self.out_dir, self.out_file, self.suffix, bool(self.stems))

    def task(self, settings: "Settings") -> "Task":
        """The task of the processes that restore the files."""
        from ..batch.work import Task

        return Task(self.choice(), settings, self.stems)

    def check(self) -> None:
        """Raise a SettingError for contradictory options."""
        rules = (
            (
                not (self.inputs or self.demo or self.list),
                "name some files or folders, or --demo or --list",
            ),
            (self.demo and (self.inputs or self.stems or self.diagnose), "--demo is alone"),
            (self.list and (self.inputs or self.demo or self.diagnose), "--list is alone"),
            (self.json and not (self.diagnose or self.list), "--json is for --diagnose and --list"),
            (self.jobs is not None and self.jobs < 1, f"--jobs {self.jobs} has to be 1 or more"),
            (self.jobs and self.dask, "--jobs is of this machine; a cluster has its own"),
            (len(self.inputs) != 1 and self.from_pipe, "- and pipes are one file: name it alone"),
            (
                self.from_pipe and not (self.out or self.diagnose),
                f"{''.join(self.inputs[:1])}: name its result: -o FILE, -o DIR, or -o - for "
                "standard output",
            ),
            (self.dask and (self.from_pipe or self.to_pipe), "--dask: a cluster cannot see pipes"),
            (
                self.copy_others and not (self.out_dir and any(map(os.path.isdir, self.inputs))),
                "--copy-others is from a folder to another: name one as input and one by -o",
            ),
            (
                self.copy_others and self.stems,
                "--copy-others is for whole songs; leave out --stems",
            ),
            (self.skip_uncoded and self.to_pipe, "--skip-uncoded may leave a pipe empty"),
            (self.reference and not self.report, "--reference is for --report"),
            (
                self.track is not None and self.track < 1,
                f"--track {self.track} has to be 1 or more",
            ),
            (not 0 <= self.start < math.inf, f"--start {self.start:g} s has to be 0 or more"),
            (
                self.duration is not None and not 0 < self.duration < math.inf,
                f"--duration {self.duration} s has to be positive",
            ),
            (self.report and self.rate, "--report compares files of one rate; leave out --rate"),
        )
        for wrong, message in rules:
            if wrong:
                raise SettingError(message)
        self.choice()
        self.places()
        self._check_out()

    def _check_out(self) -> None:
        out, path = self.out, self.out_file
        if self.to_pipe and (self.demo or self.stems):
            raise SettingError(f"-o {out}: several results need a folder")
        if path is None and self.to_pipe:
            return
        if path is None:
            if out and os.path.lexists(out) and not os.path.isdir(out):
                raise SettingError(
                    f"-o {out}: that is neither a folder nor named like a sound file"
                )
            return
        named = format_of(path)
        if named is None and is_special(path):
            named = self.format or "WAV"
        if named is None:
            raise SettingError(f"-o {refusal(path)}")
        if self.format and self.format != named:
            raise SettingError(f"-o {path} is no name for --format {self.format}")
        if self.demo or self.stems or len(self.inputs) > 1:
            raise SettingError(f"-o {path}: several results need a folder")
