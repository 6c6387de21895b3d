"""FFmpeg's inputs and outputs: opened containers, and frames as arrays."""

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

# Demuxers of single sound or video files, without those that open other files, URLs or devices.
FORMATS = (
    "aa aac aax ac3 ac4 act adp adx aea aiff aix amr amrnb amrwb ape apm aptx aptx_hd asf "
    "asf_o ast au avi avr bonk brstm bfstm caf codec2 dsf dss dts dtshd dxa eac3 epaf f4v "
    "flac flv g722 g723_1 g726 g726le g729 gsm gxf hca hcom iamf iff ilbc ircam kvag laf lc3 "
    "live_flv loas lvf matroska mlp mmf mov mp3 mpc mpc8 mpeg mpegts msf mtaf mxf nistsphere "
    "nsv nut ogg oma osq paf pvf qcp qoa rka rm rso sbc sds shn siff sln smjpeg sol sox swf "
    "tak truehd tta txd vag vividas voc vqf w64 wav wavarc wsaud wtv wv wve xa xmv xwma "
).split()
# FFmpeg's options for opening inputs.
ONLY_SOUND = {"format_whitelist": ",".join(FORMATS)}
# Number of planes from which on a frame has to be converted first.
_MOST_PLANES = 8


class Window(io.RawIOBase):
    """File object over one link of a file, with the compression flags of ID3 frames cleared."""

    def __init__(self, data: mmap.mmap, link: Link, suffix: str):
        self._data, self._begin, self._size = data, link.begin, link.end - link.begin
        self._place = 0
        self._packed = [at - link.begin for at in packed_frames(data, link.begin, link.end)]
        # FFmpeg recognises some formats only by their suffix.
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
    """Open a file by FFmpeg to read its metadata; see :class:`Window`.

    Args:
        path: of the file.
        errors: treatment of texts that are not in ``encoding``, as in ``bytes.decode``.
        encoding: of texts.

    Raises:
        OSError: if it cannot be opened, or is not a regular file: a pipe may never end.
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
    """Take a stream's channel layout by FFmpeg's name, and the number of channels.

    Call it once, before anything is decoded. PyAV frees the memory of a custom channel order
    whenever it is read, and again with the stream, which crashes the process. So a custom order is
    removed from the stream, whose frames then have none.
    """
    layout = stream.codec_context.layout
    name, n_channels = layout.name, layout.nb_channels
    if " channels (" in name:
        stream.codec_context.layout = f"{n_channels} channels"
        name = name.partition("(")[2].rstrip(")")
    return name, n_channels


def to_float(frame: "av.AudioFrame") -> np.ndarray:
    """Convert a frame of any sample type to float32 ``(time, channels)``, full scale 1.0."""
    # PyAV reads past the eighth plane's pointer, and does not support 64-bit integers.
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
