"""A length that a container tells can refuse a file; one that is guessed cannot."""

import io
import os
import random
import struct
from fractions import Fraction
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


def promise_of(data, format, n_streams=1, index=0, reached=0.0, start=None, **given):
    """Of a container whose streams are alike."""
    fields = dict(duration=None, time_base=Fraction(1, 1000), start_time=start, disposition=0)
    streams = Streams(SimpleNamespace(**{**fields, **given}, n=n) for n in range(n_streams))
    container = SimpleNamespace(
        format=SimpleNamespace(name=format), duration=7_500_000, streams=streams
    )
    return promised_seconds(container, streams[index], data, Link(0, len(data)), reached)


ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def asf(play, preroll, flags=2, before=b""):
    body = bytes(40) + struct.pack("<QQQI", play, 99, preroll, flags)
    return bytes(30) + before + ASF_PROPERTIES + struct.pack("<Q", 24 + len(body)) + body


def ebml(number, body, width=1):
    """An element whose size is written in so many bytes."""
    return number + (1 << 7 * width | len(body)).to_bytes(width, "big") + body


INFO, DURATION = b"\x15\x49\xa9\x66", b"\x44\x89"


def matroska(*inner, width=1):
    return b"\x1a\x45\xdf\xa3 head " + ebml(INFO, b"".join(inner), width)


def avi(*streams, riff=1234):
    """Streams of ``(kind, scale, rate, length)``."""
    heads = [
        b"strh" + bytes(4) + kind + bytes(16) + struct.pack("<4I", scale, rate, 5, length)
        for kind, scale, rate, length in streams
    ]
    return b"RIFF" + struct.pack("<I", riff) + b"AVI " + b"".join(heads)


AUDS, VIDS = b"auds", b"vids"


@pytest.mark.parametrize(
    "format, data, seconds",
    [
        ("asf", asf(35_000_000, 1250), 2.25),
        ("asf", asf(35_000_000, 1250, flags=3), 0),
        ("asf", asf(1_000_000, 1250), 0),
        ("asf", asf(35_000_000, 1250)[:-1], 0),
        ("asf", asf(35_000_000, 1250, before=bytes(16) + struct.pack("<Q", 24)), 2.25),
        ("asf", asf(35_000_000, 1250, before=bytes(16) + struct.pack("<Q", 23)), 0),
        ("asf", asf(35_000_000, 1250, before=999 * (bytes(16) + struct.pack("<Q", 24))), 2.25),
        ("asf", asf(35_000_000, 1250, before=1000 * (bytes(16) + struct.pack("<Q", 24))), 0),
        ("flv", b"FLV\0\x08duration\0" + struct.pack(">d", 2.25), 2.25),
        ("flv", b"FLV\0\x08duration\0" + struct.pack(">d", 2.25)[:-1], 0),
        *(("flv", b"\0\x08duration\0" + struct.pack(">d", s), 0) for s in (0, -1, 1e9, 1e300)),
        ("flv", b"\0\x08duration\0" + struct.pack(">d", 9.9e8), 9.9e8),
        ("flv", struct.pack(">d", 2.25) * 9, 0),
        # A megabyte is searched.
        *(
            ("flv", bytes((1 << 20) - n) + b"\0\x08duration\0" + struct.pack(">d", 2.25), seconds)
            for n, seconds in ((19, 2.25), (18, 0))
        ),
        ("avi", avi((AUDS, 2, 9, 18)), 4),
        ("avi", avi((VIDS, 1, 1, 3), (AUDS, 2, 9, 18)), 4),
        ("avi", avi((AUDS, 2, 0, 18)), 0),
        ("avi", avi((AUDS, 2, 9, 18), riff=0), 0),
        ("avi", avi((AUDS, 2, 9, 18), riff=2**32 - 1), 0),
        ("avi", avi((VIDS, 2, 9, 18)), 0),
        # The container's own length, if Info holds one in whatever place.
        ("matroska,webm", matroska(ebml(DURATION, bytes(8))), 7.5),
        ("matroska,webm", matroska(ebml(b"\xec", bytes(5)), ebml(DURATION, bytes(4))), 7.5),
        (
            "matroska,webm",
            matroska(ebml(b"\xec", bytes(300), 2), ebml(DURATION, b""), width=3),
            7.5,
        ),
        ("matroska,webm", INFO + b"\x80" + matroska(ebml(DURATION, bytes(8)), width=8), 7.5),
        ("matroska,webm", matroska(ebml(b"\xec", DURATION)), 0),
        ("matroska,webm", matroska(ebml(b"\xec", b"x")) + DURATION, 0),
        ("matroska,webm", matroska(ebml(DURATION, bytes(8)))[:-10], 0),
        ("matroska,webm", b"", 0),
        # What FFmpeg finds in the header, and kinds that declare nothing.
        ("wav", b"", 7.5),
        ("mp3", b"", 0),
        ("mov,mp4", b"", 7.5),
    ],
)
def test_lengths_of_heads(format, data, seconds):
    assert promise_of(data, format) == pytest.approx(seconds, rel=1e-12)


def test_lengths_of_streams_and_of_all_together():
    two = avi((AUDS, 2, 9, 18), (AUDS, 1, 4, 5))
    assert [promise_of(two, "avi", 2, index) for index in (0, 1)] == [4, 1.25]
    assert promise_of(two, "avi", 3, 2) == 0
    # Of the only stream, whose start is not part of its sound, before its container's.
    assert promise_of(b"", "wav", duration=1250) == 1.25
    assert promise_of(b"", "wav", duration=1250, start=500) == 1.25
    assert promise_of(b"", "wav", start=500) == 7.0 and promise_of(b"", "wav", start=-500) == 7.5
    assert promise_of(asf(35_000_000, 1250), "asf", start=250, duration=99) == 2.0
    # A container's length is that of its longest stream: reached, if within a second.
    several = [promise_of(b"", "mov", 2, reached=seconds) for seconds in (0, 6.49, 6.5, 8)]
    assert several == [7.5, 7.5, 0, 0]
    picture = av.stream.Disposition.attached_pic
    assert promise_of(b"", "mov", 2, reached=8, disposition=int(picture)) == 0
    cover = SimpleNamespace(disposition=int(picture | av.stream.Disposition.default))
    sound = SimpleNamespace(duration=None, time_base=1, start_time=2, disposition=0)
    container = SimpleNamespace(
        format=SimpleNamespace(name="mov"), duration=7_500_000, streams=Streams([sound, cover])
    )
    assert promised_seconds(container, sound, b"", Link(0, 0), 8.0) == 5.5
    container.duration = None
    assert promised_seconds(container, sound, b"", Link(0, 0), 8.0) <= 0


@pytest.mark.parametrize("begin", [0, 11])
def test_lengths_of_the_part_that_is_read(begin):
    data = b"ID3\4\0\0\0\0\0\1x" + asf(35_000_000, 1250)
    stream = SimpleNamespace(duration=None, time_base=1, start_time=None, disposition=0)
    container = SimpleNamespace(
        format=SimpleNamespace(name="asf"), duration=1, streams=Streams([stream])
    )
    assert promised_seconds(container, stream, data, Link(begin, len(data)), 0) == 2.25
    assert promised_seconds(container, stream, data, Link(begin, len(data) - 1), 0) == 0
    # A WAV without a size declares none, whatever FFmpeg makes of it.
    container.format.name, container.duration = "wav", 7_500_000
    data = data[:11] + b"RIFF\0\0\0\0WAVE" + bytes(88)
    assert promised_seconds(container, stream, data, Link(11, 111), 0) == 0
    assert (
        promised_seconds(container, stream, data.replace(b"RIFF\0", b"RIFF\x5c"), Link(11, 111), 0)
        == 7.5
    )
