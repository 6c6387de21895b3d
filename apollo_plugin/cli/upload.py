"""The work on one upload to the page of ``apollo-demo``."""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import SettingError
from .guard import Room

if TYPE_CHECKING:
    import numpy as np

    from ..engine.protocol import Engine, Progress

# Decoded samples are limited by the length in seconds; these two limit them per second.
_MAX_RATE, _MAX_CHANNELS = 192000, 2


@dataclass(frozen=True)
class Limits:
    """Limits of the page.

    Args:
        megabytes: size of an upload.
        minutes: length of its sound.
        total_megabytes: size of all stored uploads and results.

    Raises:
        SettingError: for limits that permit nothing.
    """

    megabytes: int = 100
    minutes: float = 15.0
    total_megabytes: int = 4000

    def __post_init__(self) -> None:
        if self.megabytes < 1 or not 0 < self.minutes < float("inf"):
            raise SettingError(f"limits of {self.megabytes} MB and {self.minutes} min are none")
        if self.total_megabytes < self.megabytes:
            raise SettingError(
                f"{self.total_megabytes} MB in all are less than the {self.megabytes} MB of a file"
            )


class Restoration(NamedTuple):
    """A restored upload.

    Args:
        came: the upload in 16 bits, for listening.
        heard: the restoration, likewise.
        kept: the restoration in floating point, for download.
        page: its listening page.
        line: facts about it.
    """

    came: Path
    heard: Path
    kept: Path
    page: str
    line: str


def restore_upload(
    engine: "Engine",
    path: Path,
    keep_below: float,
    mix: float,
    limits: Limits,
    *,
    progress: "Progress | None" = None,
    room: Room | None = None,
) -> Restoration:
    """Restore one upload into a new folder beside it.

    Args:
        engine: of the checkpoint.
        path: of the upload.
        keep_below: in Hz, 0 for none.
        mix: share of the restoration.
        limits: of the sound.
        progress: called as the work goes on.
        room: for the results; unlimited unless given.

    Raises:
        AudioError: one line, with the file's name but not its folder.
    """
    from .. import audio, report
    from ..batch.api import restore_file
    from ..errors import AudioError
    from ..report.comparison import compare

    begin = time.perf_counter()
    folder = None
    try:
        wav, rate = _read(path, limits)
        if room:  # two of 16 bits, one of 32, and the copies that gradio serves
            room.check(2 * wav.size * (2 + 2 + 4))
        folder = Path(tempfile.mkdtemp(dir=path.parent))
        came, heard, kept = (
            folder / f"{path.stem}{end}.wav" for end in ("", "_restored_16bit", "_restored")
        )
        how: dict[str, Any] = dict(keep_below=keep_below or None, mix=mix)
        restore_file(path, kept, engine=engine, progress=progress, tags=False, again=True, **how)
    except AudioError as error:
        if folder:
            shutil.rmtree(folder)
        raise AudioError(str(error).replace(str(path), path.name)) from error
    restored, _ = audio.read(kept)
    for target, sound in ((came, wav), (heard, restored)):
        audio.write(target, sound, rate, subtype="PCM_16")
    seconds, took = wav.shape[-1] / rate, time.perf_counter() - begin
    line = f"{path.name}: {seconds:.1f} s at {rate} Hz, restored in {took:.1f} s"
    page = report.build([compare(path.name, wav, restored, rate, label="Input")], path.name)
    return Restoration(came, heard, kept, page, line)


def _read(path: Path, limits: Limits) -> tuple["np.ndarray", int]:
    from .. import audio
    from ..errors import AudioError

    _, rate, n_channels = audio.probe(path)
    if n_channels > _MAX_CHANNELS or rate > _MAX_RATE:
        raise AudioError(
            f"'{path}' has {n_channels} channels at {rate} Hz; this page takes up to "
            f"{_MAX_CHANNELS} at {_MAX_RATE} Hz"
        )
    return audio.read(path, max_seconds=60 * limits.minutes)
