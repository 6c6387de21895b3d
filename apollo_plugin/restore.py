"""Files and folders in, restored files out."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from scipy.signal import firwin, kaiserord, oaconvolve

from . import audio

if TYPE_CHECKING:
    from .model import Apollo

# Ends the names of restored files; folders are searched for everything else.
MARK = "_restored"
# The crossover's rise above its frequency in Hz, and what is left below it in dB.
_CROSSOVER_WIDTH = 200.0
_CROSSOVER_DB = 100.0


@dataclass(frozen=True)
class Job:
    """One file to restore.

    Args:
        source: the file as it came.
        target: where its restoration goes.
    """

    source: Path
    target: Path


@dataclass(frozen=True)
class Settings:
    """How files are restored.

    Args:
        keep_below: in Hz; everything below it stays as it came.
        mix: 0 (untouched) to 1 (restored).
        format: soundfile's name of the output's container.
        subtype: soundfile's name of the output's sample type; float where possible unless given.
        overwrite: restore again what is there already.

    Raises:
        ValueError: for values out of range and for subtypes that the format has not.
    """

    keep_below: float | None = None
    mix: float = 1.0
    format: str = "WAV"
    subtype: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        import soundfile

        if self.keep_below is not None and not 0 < self.keep_below < float("inf"):
            raise ValueError(f"keep-below {self.keep_below} Hz has to be positive")
        if not 0 <= self.mix <= 1:
            raise ValueError(f"mix {self.mix} has to lie between 0 and 1")
        if self.format not in soundfile.available_formats():
            raise ValueError(f"unknown format {self.format}; known: {_known_formats()}")
        if self.subtype and not soundfile.check_format(self.format, self.subtype):
            known = ", ".join(soundfile.available_subtypes(self.format))
            raise ValueError(f"{self.format} has no subtype {self.subtype}; it has {known}")


def _known_formats() -> str:
    import soundfile

    return ", ".join(sorted(soundfile.available_formats()))


def restore_audio(
    model: "Apollo",
    wav: torch.Tensor,
    sample_rate: int,
    keep_below: float | None = None,
    mix: float = 1.0,
    **kwargs,
) -> torch.Tensor:
    """Restores a signal of any rate.

    What the model changes is computed at its own rate and added to the signal at the signal's: so
    nothing is lost to resampling, above the model's range too.

    Args:
        model: an Apollo.
        wav: ``(channels, time)``.
        sample_rate: of ``wav``, in Hz.
        keep_below: in Hz; below it the change is removed by a linear-phase crossover.
        mix: share of the change, 0 to 1.
        **kwargs: for :meth:`Apollo.restore`.

    Returns:
        tensor of the shape and rate of ``wav``.
    """
    model_rate = int(model.sample_rate)
    source = audio.resample(wav, sample_rate, model_rate)
    restored = model.restore(source, **kwargs)
    if sample_rate == model_rate and keep_below is None and mix == 1:
        return restored
    change = audio.resample(restored.sub_(source), model_rate, sample_rate, wav.shape[-1])
    if keep_below is not None:
        change = _high_pass(change, keep_below, sample_rate)
    return change.mul_(mix).add_(wav)


def _high_pass(wav: torch.Tensor, cutoff: float, sample_rate: int) -> torch.Tensor:
    nyquist = sample_rate / 2
    if cutoff + _CROSSOVER_WIDTH >= nyquist:
        return torch.zeros_like(wav)
    n_taps, beta = kaiserord(_CROSSOVER_DB, _CROSSOVER_WIDTH / nyquist)
    middle = cutoff + _CROSSOVER_WIDTH / 2
    taps = firwin(n_taps | 1, middle, window=("kaiser", beta), pass_zero=False, fs=sample_rate)
    # Symmetric taps, cut in the middle: no delay, no phase.
    half = len(taps) // 2
    rows = [
        oaconvolve(channel.numpy(), taps.astype("float32"))[half : half + len(channel)]
        for channel in wav
    ]
    return torch.stack([torch.from_numpy(row) for row in rows])


# ------------------------------------------------------------------------------------------- files


def plan(
    inputs: Sequence[str | os.PathLike], out_dir: str | os.PathLike | None, settings: Settings
) -> tuple[list[Job], list[str]]:
    """Finds all files and decides where their restorations go.

    A file ``a.mp3`` becomes ``a_restored.wav``, in ``out_dir`` or beside the input; the tree below
    a folder is kept. Two files of one name but for the extension keep it: ``a.mp3_restored.wav``.

    Args:
        inputs: files, folders (searched for audio, to any depth) or globs.
        out_dir: folder for the results.
        settings: gives the extension.

    Returns:
        the jobs, and a line for each input that stands for no file.
    """
    found: dict[Path, Path] = {}
    problems = []
    for item in inputs:
        files = list(_expand(item))
        if not files:
            what = "holds no audio files" if Path(item).is_dir() else "does not exist"
            problems.append(f"'{item}' {what}")
        for path, below in files:
            # An output of before is no input of now, unless it is asked for by name.
            if path != Path(item) and path.stem.endswith(MARK):
                continue
            found.setdefault(path, below)
    extension = "." + settings.format.lower()
    places = {
        path: Path(out_dir) / below if out_dir else path.parent for path, below in found.items()
    }
    taken = Counter((place, path.stem) for path, place in places.items())
    inputs_on_disk = {_identity(path) for path in found}
    jobs = []
    for path, place in places.items():
        stem = path.stem if taken[place, path.stem] == 1 else path.name
        target = place / f"{stem}{MARK}{extension}"
        # By inode: a link to an input is that input.
        if _identity(target) and _identity(target) in inputs_on_disk:
            problems.append(
                f"'{path}': its result '{target}' is an input; choose another -o folder"
            )
        else:
            jobs.append(Job(path, target))
    return jobs, problems


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _expand(item: str | os.PathLike) -> Iterable[tuple[Path, Path]]:
    """Files of an input, each with its folder relative to the input's."""
    path = Path(item)
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                if Path(name).suffix.lower() in audio.SUFFIXES and not name.startswith("."):
                    yield Path(folder, name), Path(folder).relative_to(path)
    elif path.exists() or path.is_symlink():
        yield path, Path()
    elif glob.has_magic(str(item)):
        for match in sorted(glob.glob(str(item), recursive=True)):
            if Path(match).is_file():
                yield Path(match), Path()


def restore_file(
    model: "Apollo",
    job: Job,
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Restores one file.

    Args:
        model: an Apollo.
        job: which file, and where to.
        settings: how.
        progress: told how many more samples are done, and of how many (at the model's rate).

    Returns:
        number of samples that were clipped by an integer format.

    Raises:
        AudioError: one line with the file, what is wrong and what helps. Nothing is written then.
    """
    wav, sample_rate = audio.read(job.source)
    n_total = -(-wav.shape[-1] * int(model.sample_rate) // sample_rate)
    restored = restore_audio(
        model,
        wav,
        sample_rate,
        settings.keep_below,
        settings.mix,
        progress=progress and (lambda n: progress(n, n_total)),
    )
    # In parts: isfinite makes copies.
    if not all(torch.isfinite(part).all() for part in restored.split(1 << 18, -1)):
        raise audio.AudioError(
            f"'{job.source}' made the model overflow; its peak is {wav.abs().max():.3g}, scale it"
        )
    return audio.write(job.target, restored, sample_rate, settings.format, settings.subtype)
