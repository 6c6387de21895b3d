"""Files and folders in, restored files out."""

import contextlib
import glob
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import soundfile
import torch
from scipy.signal import firwin, kaiserord, oaconvolve
from tqdm import tqdm

from . import audio
from .errors import AudioError

if TYPE_CHECKING:
    from .network.apollo import ApolloNetwork

# An activation's size in a block of Apollo.restore; the widest layers make eight of it. Twice this
# size is no faster; eight times takes half as long again and 1.5 GB more (full size, two cores).
_BLOCK_BYTES = 2 << 20
# A GPU wants more to do at once.
_GPU_BLOCK_BYTES = 64 << 20
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
        if self.keep_below is not None and not 0 < self.keep_below < float("inf"):
            raise ValueError(f"keep-below {self.keep_below} Hz has to be positive")
        if not 0 <= self.mix <= 1:
            raise ValueError(f"mix {self.mix} has to lie between 0 and 1")
        if self.format not in audio.FORMATS:
            raise ValueError(f"unknown format {self.format}; known: {', '.join(audio.FORMATS)}")
        if self.subtype and not soundfile.check_format(self.format, self.subtype):
            known = ", ".join(soundfile.available_subtypes(self.format))
            raise ValueError(f"{self.format} has no subtype {self.subtype}; it has {known}")


@torch.no_grad()
def restore_wav(
    model: "ApolloNetwork",
    wav: torch.Tensor,
    block_seconds: float | None = None,
    progress: Callable[[int], None] | bool | None = None,
) -> torch.Tensor:
    """Restores a signal of any length at the model's rate, block by block; the result is that of
    ``model(wav)``.

    Memory beyond the signal and its restoration depends on ``block_seconds`` only.

    Args:
        model: an Apollo.
        wav: ``(..., time)``, on any device; blocks are moved to the model's.
        block_seconds: length of a block; unless given, such that caches hold the activations.
        progress: True for a progress bar, or a function that is told how many more samples
            are done.

    Returns:
        restored signal of the same shape, type and device as ``wav``.

    Raises:
        ValueError: for an empty signal or a block of no length.
    """
    streams = model._streams(wav)
    if block_seconds is None:
        frame_bytes = 4 * len(streams) * model.filterbank.n_bands * model._args["feature_dim"]
        on_cpu = next(model.parameters()).device.type == "cpu"
        n_frames = max(1, (_BLOCK_BYTES if on_cpu else _GPU_BLOCK_BYTES) // frame_bytes)
        block_seconds = n_frames * model.filterbank.stride / model.sample_rate
    if not block_seconds > 0:
        raise ValueError(f"block_seconds {block_seconds} has to be positive")
    n_block = max(1, round(min(block_seconds * model.sample_rate, streams.shape[-1])))
    bar = None
    if progress is True:
        bar = tqdm(total=wav.shape[-1], unit="sample", unit_scale=True, desc="restoring")
    tell = bar.update if bar else (progress or (lambda n: None))
    device = next(model.parameters()).device
    restored, state, begin, start = torch.empty_like(streams), None, 0, 0
    n_samples = streams.shape[-1]
    while begin < n_samples:
        end = min(begin + n_block, n_samples)
        try:
            out, state = model.step(streams[:, begin:end].to(device), state, end == n_samples)
        except torch.OutOfMemoryError:
            if n_block == 1:
                raise
            # The step left its state as it was, so half of the block can be tried.
            n_block = (n_block + 1) // 2
            warnings.warn(
                f"out of memory on {device}; going on with blocks of "
                f"{n_block / model.sample_rate:.3g} s",
                stacklevel=2,
            )
            continue
        restored[:, start : start + out.shape[-1]] = out
        start += out.shape[-1]
        tell(end - begin)
        begin = end
    if bar:
        bar.close()
    return restored.reshape(wav.shape)


def restore_audio(
    model: "ApolloNetwork",
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
    """Finds all files and decides where their restorations go, each to a place of its own.

    ``a.mp3`` becomes ``a_restored.wav``, in ``out_dir`` or beside the input; the tree below a
    folder is kept. Where the input's folder holds another ``a``, say ``a.flac``, the extension
    stays in the name: ``a.mp3_restored.wav``. Inputs of one name from several folders keep their
    folder's name below ``out_dir``. In folders and globs, results of before are left out.

    Args:
        inputs: files, folders (searched for audio, to any depth) or globs.
        out_dir: folder for the results.
        settings: gives the extension.

    Returns:
        the jobs, and a line for each input that cannot be restored.
    """
    found, problems = _find(inputs)
    extension = "." + settings.format.lower()
    jobs: dict[Path, Job] = {}
    crowded = Counter(_target(path, below, out_dir, extension) for path, below in found.values())
    for path, below in found.values():
        target = _target(path, below, out_dir, extension)
        if crowded[target] > 1:
            root = path.absolute().parents[len(below.parts)].name
            target = _target(path, root / below, out_dir, extension)
        # By inode: a link to an input is that input.
        if _identity(target) in found:
            problems.append(
                f"'{path}': its result '{target}' is an input; choose another -o folder"
            )
        elif os.path.isdir(target):
            problems.append(
                f"'{path}': its result '{target}' is a folder; choose another -o folder"
            )
        elif target in jobs:
            other = jobs[target].source
            problems.append(f"'{path}': its result would be that of '{other}'; restore it apart")
        else:
            jobs[target] = Job(path, target)
    return list(jobs.values()), problems


def sources(inputs: Sequence[str | os.PathLike]) -> tuple[list[Path], list[str]]:
    """All files of the inputs, as :func:`plan` finds them, and a line for each that is missing."""
    found, problems = _find(inputs)
    return [path for path, _ in found.values()], problems


def _find(
    inputs: Sequence[str | os.PathLike],
) -> tuple[dict[tuple[int, int], tuple[Path, Path]], list[str]]:
    """Files by their inode, each with its folder relative to the input's; and what went wrong."""
    _namesakes.cache_clear()
    found: dict[tuple[int, int], tuple[Path, Path]] = {}
    problems: list[str] = []
    for item in inputs:
        files = list(_expand(str(item), problems))
        if not files:
            what = "holds no audio files" if os.path.isdir(item) else "does not exist"
            problems.append(f"'{item}' {what}")
        for path, below in files:
            identity = _identity(path)
            if identity is None:
                problems.append(f"'{path}' cannot be reached: a broken link or no permission")
            else:
                found.setdefault(identity, (path, below))
    return found, problems


def _target(path: Path, below: Path, out_dir: str | os.PathLike | None, extension: str) -> Path:
    place = Path(out_dir) / below if out_dir else path.parent
    stem = path.name if len(_namesakes(path.parent).get(path.stem, ())) > 1 else path.stem
    return place / f"{stem}{MARK}{extension}"


@lru_cache(maxsize=64)
def _namesakes(folder: Path) -> dict[str, list[str]]:
    """Names of the audio files of a folder by their stem."""
    names: dict[str, list[str]] = {}
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if _is_audio(name):
                names.setdefault(Path(name).stem, []).append(name)
    return names


def _is_audio(name: str) -> bool:
    return Path(name).suffix.lower() in audio.SUFFIXES and not name.startswith(".")


def _is_result(path: Path) -> bool:
    """Whether this is what an earlier run made of a file beside it."""
    source = path.stem.removesuffix(MARK)
    names = _namesakes(path.parent)
    return source != path.stem and (
        source in names or any(source in same for same in names.values())
    )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _expand(item: str, problems: list[str]) -> Iterable[tuple[Path, Path]]:
    """Files of an input, each with its folder relative to the input's."""
    path = Path(item)
    if item and os.path.isdir(path):
        visited = set()
        complain = lambda error: problems.append(  # noqa: E731
            f"'{error.filename}' cannot be searched: {error.strerror}"
        )
        for folder, folders, names in os.walk(path, onerror=complain, followlinks=True):
            # A link may lead back up.
            visited.add(_identity(Path(folder)))
            folders[:] = [
                name
                for name in sorted(folders)
                if _identity(Path(folder, name)) not in visited
                and not _is_result(Path(folder, f"{name}.wav"))  # stems of a file beside it
            ]
            for name in sorted(names):
                if _is_audio(name) and not _is_result(Path(folder, name)):
                    yield Path(folder, name), Path(folder).relative_to(path)
    elif os.path.lexists(path) and item:
        yield path, Path()
    elif glob.has_magic(item):
        for match in sorted(glob.glob(item, recursive=True)):
            if os.path.isfile(match) and not _is_result(Path(match)):
                yield Path(match), Path()


def restore_file(
    model: "ApolloNetwork",
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
    audio.check_writable(settings.format, settings.subtype, sample_rate, wav.shape[0])
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
        raise AudioError(
            f"'{job.source}' made the model overflow; its peak is {wav.abs().max():.3g}, scale it"
        )
    return audio.write(job.target, restored, sample_rate, settings.format, settings.subtype)
