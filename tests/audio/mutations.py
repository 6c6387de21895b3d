"""Files that are broken in every way, and a run through the reader with limits:

    python tests/audio/mutations.py 2000

prints how many came in, were refused, ended in another error, hung or took too much memory. The
seeds are made here; every file follows from its number.
"""

import multiprocessing
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import soundfile

SECONDS, BYTES = 10.0, 2 << 30
# Soundfile's format and sample type, or FFmpeg's container, codec and rate.
_PLAIN = {"wav": "PCM_16", "flac": None, "aiff": "PCM_24", "caf": "FLOAT", "w64": "PCM_16"}
_PLAIN |= {"au": "ULAW", "rf64": "PCM_16", "ogg": "VORBIS", "gsm.wav": "GSM610", "f.wav": "FLOAT"}
_CODED = {
    "mp3": ("mp3", "libmp3lame", 44100),
    "m4a": ("mp4", "aac", 44100),
    "aac": ("adts", "aac", 44100),
    "opus": ("ogg", "libopus", 48000),
    "mka": ("matroska", "libopus", 48000),
    "oga": ("ogg", "flac", 44100),
    "alac.m4a": ("mp4", "alac", 44100),
    "wv": ("wv", "wavpack", 44100),
    "tta": ("tta", "tta", 44100),
    "ac3": ("ac3", "ac3", 44100),
    "wma": ("asf", "wmav2", 44100),
    "mp2": ("mp2", "mp2", 44100),
}
_EXTREMES = [b"\0\0\0\0", b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0"]


def seeds(folder: Path, seconds: float = 0.6) -> list[Path]:
    """One small sound in many formats."""
    paths = []
    for suffix, subtype in _PLAIN.items():
        mono = suffix == "gsm.wav"
        wav = _sound(8000 if mono else 44100, seconds)[:, : 1 if mono else 2]
        format = "WAV" if suffix.endswith(".wav") else suffix.upper()
        path = folder / f"seed.{suffix}"
        soundfile.write(path, wav, 8000 if mono else 44100, subtype, format=format)
        paths.append(path)
    for suffix, (container, codec, rate) in _CODED.items():
        path = folder / f"seed.{suffix}"
        with av.open(str(path), "w", format=container) as output:
            stream = output.add_stream(codec, rate=rate, layout="stereo")
            stream.bit_rate = 128_000
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(_sound(rate, seconds).T), "fltp", "stereo"
            )
            frame.sample_rate, frame.pts = rate, 0
            sample_type = stream.codec_context.codec.audio_formats[0].name
            resampler = av.AudioResampler(sample_type, "stereo", rate, stream.frame_size or None)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                output.mux(stream.encode(part))
            output.mux(stream.encode(None))
        paths.append(path)
    return paths


def _sound(rate: int, seconds: float) -> np.ndarray:
    t = np.arange(round(rate * seconds)) / rate
    noise = np.random.default_rng(0).standard_normal((len(t), 2))
    tones = np.sin(2 * np.pi * np.outer(t, [440, 660]))
    return (0.3 * tones + 0.02 * noise).astype(np.float32)


def mutate(content: bytes, other: bytes, number: int) -> bytes:
    """The ``number``-th way to break a file, with parts of another one."""
    draw = random.Random(number)
    data = bytearray(content)
    head = min(len(data), 600)
    for _ in range(draw.choice((1, 1, 2, 4))):
        kind = draw.randrange(7)
        place = draw.randrange(len(data))
        if kind == 0:  # bits
            for _ in range(draw.choice((1, 8, 64))):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        elif kind == 1:  # bits of the head
            for _ in range(draw.choice((1, 4))):
                data[draw.randrange(min(head, len(data)))] ^= 1 << draw.randrange(8)
        elif kind == 2:  # fields of the head at extremes
            at = draw.randrange(min(head, len(data)))
            data[at : at + 4] = draw.choice(_EXTREMES)[: draw.choice((1, 2, 4))]
        elif kind == 3:  # an end that is missing
            del data[max(1, place) :]
        elif kind == 4:  # a hole
            del data[place : place + draw.randrange(1, 3000)]
        elif kind == 5:  # a piece of another file
            begin = draw.randrange(len(other))
            data[place:place] = other[begin : begin + draw.randrange(1, 5000)]
        else:  # noise
            length = draw.randrange(1, 2000)
            data[place : place + length] = draw.randbytes(length)
        if not data:
            data = bytearray(b"\0")
    return bytes(data)


def _work(folder: str, tasks, results) -> None:
    """Reads the files of the numbers that come, with 2 GB of memory to take."""
    from apollo_plugin import audio

    paths = seeds(Path(folder))
    contents = [path.read_bytes() for path in paths]
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + BYTES, own + BYTES))
    for number in iter(tasks.get, None):
        index = number % len(paths)
        path = Path(folder) / f"{number}.{paths[index].name.split('.', 1)[1]}"
        other = contents[(number // len(paths)) % len(paths)]
        path.write_bytes(mutate(contents[index], other, number))
        results.put(("begins", number, ""))
        try:
            audio.read_all(path, salvage=number % 2 == 1)
            outcome, text = "read", ""
        except audio.AudioError as error:
            outcome, text = ("refused", "") if "\n" not in str(error) else ("lines", str(error))
        except BaseException as error:
            outcome = "memory" if isinstance(error, MemoryError) else "error"
            text = f"{type(error).__name__}: {error}"
        path.unlink()
        results.put((outcome, number, text))


def run(numbers: list[int], tell=None) -> Counter:
    """Counts of ``read``, ``refused``, ``lines``, ``error``, ``memory``, ``hung`` and ``crash``."""
    counts: Counter = Counter()
    context = multiprocessing.get_context("spawn")
    rest = list(numbers)
    while rest:
        with tempfile.TemporaryDirectory() as folder:
            tasks, results = context.SimpleQueue(), context.SimpleQueue()
            worker = context.Process(target=_work, args=(folder, tasks, results), daemon=True)
            worker.start()
            limit = time.monotonic() + 60  # for its imports and seeds
            tasks.put(rest[0])
            while rest:
                if results.empty():
                    if worker.is_alive() and time.monotonic() < limit:
                        time.sleep(0.002)
                        continue
                    outcome = "hung" if worker.is_alive() else "crash"
                    text = "" if outcome == "hung" else f"exit status {worker.exitcode}"
                else:
                    outcome, _, text = results.get()
                    if outcome == "begins":
                        limit = time.monotonic() + SECONDS
                        continue
                number = rest.pop(0)
                counts[outcome] += 1
                if tell and outcome not in ("read", "refused"):
                    tell(f"{number}: {outcome} {text}")
                if outcome in ("hung", "crash"):
                    break
                limit = time.monotonic() + SECONDS
                tasks.put(rest[0] if rest else None)
            worker.kill()
            worker.join()
    return counts


if __name__ == "__main__":
    print(dict(run(list(range(int(sys.argv[1]))), print)))
