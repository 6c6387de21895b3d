"""Collection of decoded samples: limited, cut to the requested part, joined at one rate; and
resampling."""

from pathlib import Path

import numpy as np
import soxr

from ..errors import AudioError
from ..memory import available_bytes
from .kinds import HEAD_BYTES, frames_in

# Rates and channels that are read, restored and written.
MIN_RATE, MAX_RATE, MAX_CHANNELS = 1_000, 1_000_000, 64
# Memory grows by a sixteenth, and at least by this.
_STEP_BYTES = 1 << 24


def check_bounds(path: Path, sample_rate: int, n_channels: int) -> None:
    """Raise an AudioError for rates and numbers of channels out of bounds."""
    if not MIN_RATE <= sample_rate <= MAX_RATE:
        raise AudioError(
            f"'{path}' has a sample rate of {sample_rate} Hz; "
            f"rates from {MIN_RATE} to {MAX_RATE} Hz are taken"
        )
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise AudioError(f"'{path}' has {n_channels} channels; from 1 to {MAX_CHANNELS} are taken")


class Miscalled(AudioError):
    """A codec's frames where samples should be."""


class Head:
    """The first samples after silence, as 16-bit integers, which may be the frames of a codec."""

    def __init__(self, path: Path):
        self._path = path
        self._words: bytes | None = b""  # None after they were examined

    def add(self, block: np.ndarray) -> None:
        """Add a block ``(time, channels)``, and examine all when there is enough."""
        if self._words is None:
            return
        if not self._words:  # skip silence
            sounding = block.any(1)
            block = block[sounding.argmax() if sounding.any() else len(block) :]
        words = 32768 * block[: (HEAD_BYTES - len(self._words)) // (2 * block.shape[1]) + 1]
        with np.errstate(invalid="ignore"):  # NaN is reported later
            integers = words.clip(-32768, 32767).astype("<i2")
        if not np.array_equal(integers, words):
            self._words = None
            return
        self._words += integers.tobytes()
        if len(self._words) >= HEAD_BYTES:
            self.examine()

    def examine(self) -> None:
        """Raise :class:`Miscalled` if what was added so far is the frames of a codec."""
        kind, self._words = frames_in(self._words or b""), None
        if kind:
            raise Miscalled(
                f"'{self._path}' holds {kind} in place of samples; "
                "ffmpeg -i FILE -f s16le - | ffmpeg -i - new.wav may decode it"
            )


class Samples:
    """Collector of a file's blocks.

    If the rate changes midway, the rest is resampled to the first rate. Samples of 16 bits that are
    the frames of a codec, as on DTS CDs, raise :class:`Miscalled`.

    Args:
        path: of the file, for errors.
        start: seconds to skip at the beginning.
        duration: seconds to keep; None for all.
        max_seconds: longer files are refused before they fill the memory.
        keep: False to count samples only.
    """

    def __init__(
        self,
        path: Path,
        start: float = 0.0,
        duration: float | None = None,
        max_seconds: float = float("inf"),
        keep: bool = True,
    ):
        self.path, self.start, self.duration = path, start, duration
        self.max_seconds, self.keep = max_seconds, keep
        self.sample_rate = self.n_channels = 0
        # Layout of the first block, as in layouts.py; later blocks are mixed to it.
        self.layout = ""
        # Seconds decoded so far, including the skipped ones.
        self.seconds = 0.0
        self.notes: list[str] = []
        self.joined = np.empty((0, 1), np.float32)
        self._parts: list[_Part] = []
        self._changes: list[str] = []
        self.head = Head(path)

    @property
    def full(self) -> bool:
        """True if the whole requested part has been collected."""
        return bool(self._parts) and self._parts[-1].wanted <= 0

    def add(self, block: np.ndarray, sample_rate: int, expected: int = 0) -> None:
        """Add a block ``(time, channels)`` with as many channels as the first.

        Args:
            block: floating point, full scale 1.0.
            sample_rate: of the block, in Hz.
            expected: declared number of samples at this rate.
        """
        if not self._parts or sample_rate != self._parts[-1].sample_rate:
            self._begin(block.shape[1], sample_rate, expected)
        self.seconds += len(block) / sample_rate
        if self.seconds > self.max_seconds:
            raise AudioError(f"'{self.path}' is longer than {self.max_seconds:g} s")
        self._parts[-1].add(block, self.keep)
        self.head.add(block)

    def _begin(self, n_channels: int, sample_rate: int, expected: int) -> None:
        check_bounds(self.path, sample_rate, n_channels)
        if not self._parts:
            self.sample_rate, self.n_channels = sample_rate, n_channels
            unwanted = round(self.start * sample_rate)
            wanted = float("inf") if self.duration is None else round(self.duration * sample_rate)
            expected = min(expected, round(min(self.max_seconds * sample_rate, 1e18)))
        else:
            last = self._parts[-1]
            self._changes.append(
                f"its rate changes from {last.sample_rate} to {sample_rate} Hz at "
                f"{self.seconds:.1f} s; brought to {self.sample_rate} Hz"
            )
            ratio = sample_rate / last.sample_rate
            unwanted, wanted = round(last.unwanted * ratio), last.wanted
            if wanted < float("inf"):
                wanted = round(wanted * ratio)  # nothing of a sample is left over
            expected = 0
            last.shrink()
        part = _Part(self.path, sample_rate, n_channels, unwanted, wanted)
        part.reserve(min(max(0, expected - unwanted), wanted) if self.keep else 0)
        self._parts.append(part)

    def change(self, text: str) -> None:
        """Note a change within the file; many changes make one line."""
        self._changes.append(text)

    def fresh(self) -> "Samples":
        """An empty collection with the same parameters."""
        return Samples(self.path, self.start, self.duration, self.max_seconds, self.keep)

    def take(self, other: "Samples") -> None:
        """Take over the content of another collection."""
        self.__dict__.update(other.__dict__)

    def skip(self, sample_rate: int, n_samples: int) -> int:
        """Skip samples before the start, for a reader that can seek.

        Args:
            sample_rate: of the file, in Hz.
            n_samples: length of the file.

        Returns:
            number of skipped samples.
        """
        passed = min(round(self.start * sample_rate), n_samples)
        self.start, self.seconds = 0.0, passed / sample_rate
        return passed

    def drop(self, n_samples: int) -> None:
        """Remove the samples added last."""
        if self._parts and n_samples:
            n_samples = min(n_samples, self._parts[-1].n)
            self._parts[-1].n -= n_samples
            self.seconds -= n_samples / self._parts[-1].sample_rate

    def join(self) -> int:
        """Join all parts at the first rate.

        Returns:
            number of samples; :attr:`joined` holds them as ``(time, channels)``.
        """
        self.head.examine()
        if self._changes:
            more = f"; {len(self._changes) - 1} more such changes" if self._changes[1:] else ""
            self.notes.append(self._changes[0] + more)
        parts, self._parts, rate = self._parts, [], self.sample_rate
        if not self.keep:
            return sum(-(-part.n * rate // part.sample_rate) for part in parts)
        arrays = [part.shrink() for part in parts]
        for index, part in enumerate(parts):
            if part.sample_rate != rate and len(arrays[index]):
                arrays[index] = soxr.resample(arrays[index], part.sample_rate, rate, quality="VHQ")
        if arrays:
            self.joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        return len(self.joined)


class _Part:
    """Samples of one rate, in an array that grows in place."""

    def __init__(self, path: Path, sample_rate: int, n_channels: int, unwanted: int, wanted: float):
        self.path, self.sample_rate = path, sample_rate
        self.unwanted, self.wanted, self.n = unwanted, wanted, 0
        self._array = np.empty((0, n_channels), np.float32)

    def add(self, block: np.ndarray, keep: bool) -> None:
        skipped = min(self.unwanted, len(block))
        self.unwanted -= skipped
        block = block[skipped:]
        if len(block) > self.wanted:
            block = block[: int(self.wanted)]
        self.wanted -= len(block)
        end = self.n + len(block)
        if keep:
            if end > len(self._array):
                step = _STEP_BYTES // (4 * self._array.shape[1])
                self.reserve(end + max(end // 16, step))
            self._array[self.n : end] = block
        self.n = end

    def reserve(self, n_samples: float) -> None:
        shape = (int(n_samples), self._array.shape[1])
        n_bytes = 4 * shape[0] * shape[1]
        free = available_bytes()
        if free is not None and n_bytes - self._array.nbytes > free:
            raise AudioError(
                f"'{self.path}' does not fit the memory: its samples take "
                f"{n_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; read a part of it"
            )
        if len(self._array):
            # Grow the memory in place, without a second copy.
            self._array.resize(shape, refcheck=False)
        else:
            self._array = np.empty(shape, np.float32)

    def shrink(self) -> np.ndarray:
        """Release the unused memory."""
        if len(self._array) > self.n:
            self._array.resize((self.n, self._array.shape[1]), refcheck=False)
        return self._array


def resample(
    wav: np.ndarray, old_rate: int, new_rate: int, n_samples: int | None = None
) -> np.ndarray:
    """Resample with linear phase at soxr's highest quality, between any rates.

    Args:
        wav: ``(channels, time)``.
        old_rate: of ``wav``, in Hz.
        new_rate: of the result, in Hz.
        n_samples: length of the result; ``time * new_rate / old_rate`` rounded up unless given.

    Returns:
        float32 ``(channels, n_samples)``; ``wav`` itself if the rates are equal.
    """
    if old_rate == new_rate:
        return np.asarray(wav)
    if n_samples is None:
        n_samples = -(-wav.shape[-1] * new_rate // old_rate)
    # A copy: for a single sample NumPy 1 keeps strides that soxr refuses.
    samples = np.array(np.asarray(wav).T, dtype=np.float32, order="C")
    resampled = soxr.resample(samples, old_rate, new_rate, quality="VHQ")
    # soxr rounds lengths differently, by a sample at most.
    missing = n_samples - len(resampled)
    if missing > 0:
        resampled = np.pad(resampled, ((0, missing), (0, 0)))
    return resampled[:n_samples].T
