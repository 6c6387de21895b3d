"""A length that a container tells can refuse a file; one that is guessed cannot."""

import io
import os
import random
import struct
from types import SimpleNamespace

import av
import pytest
import torch
from helpers import encoded, one_line, read, tone
from mutagen.asf import ASF, ASFByteArrayAttribute

from apollo_plugin import audio
from apollo_plugin.audio.containers import Link
from apollo_plugin.audio.promises import is_timed, promised_seconds

RATE = 44100
WAV = tone(3 * RATE)
# Silence first and loud noise later, or the other way round: the first frames' rate says nothing.
QUIET_LOUD = torch.cat((torch.zeros(2, 4 * RATE), 0.5 * torch.randn(2, 2 * RATE)), -1)


class Pipe(io.RawIOBase):
    """Takes bytes and lets nobody go back, as a pipe does."""

    def __init__(self):
        self.data = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.data += bytes(data)
        return len(data)


def piped(wav, format, codec, **options) -> bytes:
    """The bytes that FFmpeg writes to a pipe: it cannot come back to put a length into the head."""
    pipe = SimpleNamespace(write=(sink := Pipe()).write, name="pipe")
    with av.open(pipe, "w", format=format) as container:
        stream = container.add_stream(codec, rate=RATE, layout="stereo", options=options)
        fmt = stream.codec_context.codec.audio_formats[0].name
        frame = av.AudioFrame.from_ndarray(wav.contiguous().numpy(), "fltp", "stereo")
        frame.sample_rate, frame.pts = RATE, 0
        resampler = av.AudioResampler(fmt, "stereo", RATE, stream.frame_size or None)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return bytes(sink.data)


def promise(path) -> float:
    data = path.read_bytes()
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return promised_seconds(container, stream, data, Link(0, len(data)), 0.0)


def with_cover(path, n_bytes: int):
    file = ASF(path)
    mime = "image/jpeg\0".encode("utf-16-le") + b"\0\0"
    picture = b"\xff\xd8\xff\xe0" + os.urandom(n_bytes)
    body = struct.pack("<BI", 3, len(picture)) + mime + picture
    file["WM/Picture"] = [ASFByteArrayAttribute(body)]
    file.save()
    return path


@pytest.mark.parametrize("n_bytes", [30_000, 300_000, 3_000_000])
def test_a_wma_with_a_cover_is_whole_and_half_of_it_is_not(n_bytes, tmp_path):
    """FFmpeg no longer believes the header then, and guesses from the bit rate."""
    bare = read(encoded(tmp_path / "a.wma", WAV, "wmav2", kbps=96))[0]
    told = promise(tmp_path / "a.wma")
    assert told == pytest.approx(3, abs=0.1)
    path = with_cover(tmp_path / "a.wma", n_bytes)
    assert promise(path) == told
    reading = audio.read_all(path)
    assert torch.equal(torch.from_numpy(reading.wav), bare) and reading.notes == ()
    content = path.read_bytes()
    path.write_bytes(content[: n_bytes + (len(content) - n_bytes) // 2])
    with pytest.raises(audio.AudioError, match=r"truncated: 1\.\d of 3\.\d s are there") as caught:
        read(path)
    one_line(caught, path)


@pytest.mark.parametrize("codec, options", [("libmp3lame", {"global_quality": "236"}), ("aac", {})])
@pytest.mark.parametrize("format", ["flv", "matroska", "avi", "adts", "mp3", "mpegts", "asf"])
@pytest.mark.parametrize("turned", [False, True])
def test_what_was_written_to_a_pipe_is_whole(format, codec, options, turned, tmp_path):
    if (format, codec) in (("adts", "libmp3lame"), ("mp3", "aac")):
        pytest.skip("that container holds one codec")
    wav = QUIET_LOUD.flip(-1) if turned else QUIET_LOUD
    path = tmp_path / f"a.{format}"
    path.write_bytes(piped(wav, format, codec, **options))
    got = read(path)[0]
    assert 0 <= got.shape[-1] - wav.shape[-1] < 6000


@pytest.mark.parametrize(
    "suffix, codec",
    [
        ("flv", "aac"),
        ("mka", "libmp3lame"),
        ("avi", "libmp3lame"),
        ("wma", "wmav2"),
        ("m4a", "aac"),
    ],
)
def test_what_is_told_refuses_a_file_that_was_cut(suffix, codec, tmp_path):
    options = {"movflags": "faststart"} if suffix == "m4a" else {}
    path = encoded(tmp_path / f"a.{suffix}", WAV, codec, kbps=96, **options)
    assert promise(path) == pytest.approx(3, abs=0.1)
    assert read(path)[0].shape[-1] >= WAV.shape[-1] - 2048
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(audio.AudioError, match="truncated") as caught:
        read(path)
    one_line(caught, path)


class Streams(list):
    @property
    def audio(self):
        return self


@pytest.mark.parametrize("n_bytes", [24, 300])
def test_objects_of_windows_media_come_in_any_order(n_bytes, tmp_path):
    """The file's properties, which FFmpeg writes first, behind another object."""
    path = encoded(tmp_path / "a.wma", WAV, "wmav2", kbps=96)
    told, data = promise(path), path.read_bytes()
    other = bytes(16) + n_bytes.to_bytes(8, "little") + bytes(n_bytes - 24)
    path.write_bytes(data[:30] + other + data[30:])
    assert promise(path) == told > 0


@pytest.mark.parametrize("format", ["flv", "asf", "matroska,webm", "avi"])
@pytest.mark.parametrize(
    "content",
    [b"", bytes(100), b"\xff" * 3000, random.Random(0).randbytes(1 << 17)],
    ids=["empty", "zeros", "ones", "random"],
)
def test_heads_of_nonsense_promise_nothing_and_end(format, content):
    """Also around the marks that are looked for."""
    nothing = SimpleNamespace(duration=0, time_base=0, start_time=0, disposition=0)
    container = SimpleNamespace(
        format=SimpleNamespace(name=format), duration=None, streams=Streams([nothing])
    )
    assert is_timed(container)
    for mark in (b"", b"duration\0", b"\x15\x49\xa9\x66", b"strh", b"auds"):
        data = content[:200] + mark + content[200:]
        assert promised_seconds(container, nothing, data, Link(0, len(data)), 0.0) == 0
