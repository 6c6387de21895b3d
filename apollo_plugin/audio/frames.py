"""What goes into FFmpeg and what comes out of it."""

import bisect
import contextlib
import errno
import io
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from .containers import Link
from .joined import packed_frames

# Demuxers of single files of sound or video; none that opens other files, addresses or devices.
FORMATS = (
    "aa aac aax ac3 ac4 act adp adx aea aiff aix amr amrnb amrwb ape apm aptx aptx_hd asf "
    "asf_o ast au avi avr bonk brstm bfstm caf codec2 dsf dss dts dtshd dxa eac3 epaf f4v "
    "flac flv g722 g723_1 g726 g726le g729 gsm gxf hca hcom iamf iff ilbc ircam kvag laf lc3 "
    "live_flv loas lvf matroska mlp mmf mov mp3 mpc mpc8 mpeg mpegts msf mtaf mxf nistsphere "
    "nsv nut ogg oma osq paf pvf qcp qoa rka rm rso sbc sds shn siff sln smjpeg sol sox swf "
    "tak truehd tta txd vag vividas voc vqf w64 wav wavarc wsaud wtv wv wve xa xmv xwma "
).split()
# How FFmpeg opens what it is given.
ONLY_SOUND = {"format_whitelist": ",".join(FORMATS)}
# From so many planes on a frame cannot be taken as it is.
_MOST_PLANES = 8


class Window(io.RawIOBase):
    """A link of a file as a file of its own; no frame of its ID3 tags is compressed."""

    def __init__(self, data: mmap.mmap, link: Link, suffix: str):
        self._data, self._begin, self._size = data, link.begin, link.end - link.begin
        self._place = 0
        self._packed = [at - link.begin for at in packed_frames(data, link.begin, link.end)]
        # FFmpeg knows some formats by their suffix alone.
        self.name = f"audio{suffix}" if suffix.isascii() else "audio"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        end = self._size if n < 0 else min(self._size, self._place + n)
        chunk = self._data[self._begin + self._place : self._begin + end]
        inside = slice(*(bisect.bisect_left(self._packed, at) for at in (self._place, end)))
        if packed := self._packed[inside]:
            plain = bytearray(chunk)
            for at in packed:
                plain[at - self._place] &= 0xF7
            chunk = bytes(plain)
        self._place = max(end, self._place)
        return chunk

    def seek(self, place: int, whence: int = 0) -> int:
        self._place = place + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        return self._place


@contextlib.contextmanager
def opened(
    path: str | os.PathLike, errors: str, encoding: str = "utf-8"
) -> Iterator["av.container.InputContainer"]:
    """A file as FFmpeg shows it, for what it says of itself; see :class:`Window`.

    Args:
        path: of the file.
        errors: what is done with texts that are not in ``encoding``, as in ``bytes.decode``.
        encoding: of texts.

    Raises:
        OSError: for what cannot be opened, and for what is no file: a pipe may never end.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "is no file", str(path))
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        av.open(
            Window(data, Link(0, len(data)), Path(path).suffix),
            metadata_encoding=encoding,
            metadata_errors=errors,
            options=ONLY_SOUND,
        ) as container,
    ):
        yield container


def take_layout(stream: "av.AudioStream") -> tuple[str, int]:
    """A stream's layout of channels by FFmpeg's name, and how many they are.

    To be asked for once, before anything is decoded. PyAV frees the memory of an order that a file
    lays down itself whenever it shows it, and again with the stream: the process ends by that. So
    such an order is taken from the stream, whose frames have none then.
    """
    layout = stream.codec_context.layout
    name, n_channels = layout.name, layout.nb_channels
    if " channels (" in name:
        stream.codec_context.layout = f"{n_channels} channels"
        name = name.partition("(")[2].rstrip(")")
    return name, n_channels


def to_float(frame: "av.AudioFrame") -> np.ndarray:
    """``(time, channels)`` in float32, full scale 1.0, of a frame of any sample type."""
    # PyAV reads past the eighth plane's pointer, and knows no 64-bit integers.
    many = frame.format.is_planar and frame.layout.nb_channels >= _MOST_PLANES
    if many or frame.format.name.startswith("s64"):
        frame = av.AudioResampler("flt").resample(frame)[0]
    array = frame.to_ndarray()
    array = array.T if frame.format.is_planar else array.reshape(-1, frame.layout.nb_channels)
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - 128) / 128
    scale = np.float64(2.0 ** -(8 * array.dtype.itemsize - 1))
    return (array * scale).astype(np.float32)
