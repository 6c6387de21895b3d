"""Channel layouts: the loudspeaker of each channel, by FFmpeg's names (``"5.1(side)"``).

Inside the package channels are in FFmpeg's native order, which is that of WAV's mask. An unknown
layout is ``""``; the order is then the file's.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import av
import soundfile
from mutagen.flac import FLAC

from ..errors import AudioError

# In the order of the bits of WAV's mask, then FFmpeg's further ones.
_IN_MASK = "FL FR FC LFE BL BR FLC FRC BC SL SR TC TFL TFC TFR TBL TBC TBR".split()
_BEYOND = "DL DR WL WR SDL SDR LFE2 TSL TSR BFC BFL BFR SSL SSR TTL TTR BIL BIR".split()
_RANK = {name: rank for rank, name in enumerate([*_IN_MASK, *_BEYOND])}
# Low-frequency channels, which have no highs to restore.
_LOW = ("LFE", "LFE2")
# Layouts by number of channels, for formats that give only that number.
_USUAL = dict(enumerate("mono stereo 3.0 quad 5.0 5.1 6.1 7.1".split(), 1))
# Order of Vorbis and of Opus' family 1, which have no other layouts, by number of channels.
_VORBIS = {
    3: "FL FC FR",
    4: "FL FR BL BR",
    5: "FL FC FR BL BR",
    6: "FL FC FR BL BR LFE",
    7: "FL FC FR SL SR BC LFE",
    8: "FL FC FR SL SR BL BR LFE",
}
# Core Audio's tag for a layout that is given as WAV's mask.
_BY_MASK = 1 << 16
FLAC_MASK = "WAVEFORMATEXTENSIBLE_CHANNEL_MASK"
_GUID = struct.Struct("<I12s")  # of WAV's extensible header: the kind of samples, then a constant
_GUID_END = bytes.fromhex("00001000800000aa00389b71")


def native(layout: str) -> tuple[str, list[int] | None]:
    """Bring a file's layout to the native order.

    Args:
        layout: FFmpeg's name of it, or the names of its channels joined by plus signs.

    Returns:
        its name, ``""`` if the file gives none for more than two channels, and the indices that
        reorder the channels; None if they are in order already.
    """
    names = layout.split("+") if "+" in layout else speakers(layout)
    if len(set(names)) < len(names) or not set(names) <= set(_RANK):
        return usual(len(names)) if len(names) <= 2 else "", None
    order = sorted(range(len(names)), key=lambda index: _RANK[names[index]])
    if order == list(range(len(names))):
        return _joined(names), None
    return _joined([names[index] for index in order]), order


def _joined(names: Sequence[str]) -> str:
    name = av.AudioLayout("+".join(names)).name
    return name if " " not in name else "+".join(names)


def speakers(layout: str) -> list[str]:
    """Names of a layout's channels, in order; none for an unknown one."""
    return [channel.name for channel in av.AudioLayout(layout).channels] if layout else []


def usual(n_channels: int) -> str:
    """Usual layout of a number of channels; ``""`` for more than 8."""
    return _USUAL.get(n_channels, "")


def low_channels(layout: str) -> list[int]:
    """Indices of the low-frequency channels."""
    return [index for index, name in enumerate(speakers(layout)) if name in _LOW]


def weights(layout: str, n_channels: int) -> list[float]:
    """Channel weights of ITU-R BS.1770: surrounds at the sides count more, low-frequency channels
    not at all."""
    names = speakers(layout or usual(n_channels)) or [""] * n_channels
    # Channels called "back" stand at the sides if no others do.
    sides = ("SL", "SR") if "SL" in names else ("BL", "BR")
    return [0.0 if name in _LOW else 1.41 if name in sides else 1.0 for name in names]


def mask(layout: str) -> int:
    """WAV's mask of a layout; 0 for one that is unknown or that it cannot express."""
    names = speakers(layout)
    return sum(1 << _RANK[n] for n in names) if set(names) <= set(_IN_MASK) else 0


def check(format: str, subtype: str, layout: str, n_channels: int) -> None:
    """Raise an AudioError if a format assigns this number of channels to other loudspeakers."""
    if format != "OGG" or n_channels not in _VORBIS or not layout:
        return
    if set(_alike(speakers(layout))) != set(_alike(_VORBIS[n_channels].split())):
        raise AudioError(
            f"{format} ({subtype}) means {usual(n_channels)} by {n_channels} channels, and these "
            f"are {layout}; choose another --format"
        )


def _alike(names: Sequence[str]) -> list[str]:
    """Channel names in which a single pair of surrounds is called "back": formats differ here."""
    if "BL" in names and "SL" in names:
        return list(names)
    return [{"SL": "BL", "SR": "BR"}.get(name, name) for name in names]


def order_of(format: str, layout: str, n_channels: int) -> list[int] | None:
    """Indices from the native order to a format's; None if they are the same."""
    if format != "OGG" or n_channels not in _VORBIS:
        return None
    names = _alike(speakers(layout or usual(n_channels)))
    return [names.index(name) for name in _alike(_VORBIS[n_channels].split())]


def has_place(format: str, subtype: str, layout: str, n_channels: int) -> bool:
    """True if a format can store a layout that needs storing: mono and stereo do not.

    Args:
        format: soundfile's name of it; ``"WAVEX"`` is an extensible WAV.
        subtype: soundfile's name of the sample type.
        layout: the one to write.
        n_channels: its number of channels.
    """
    if n_channels <= 2 and layout in ("", usual(n_channels)):
        return False
    # libsndfile writes its own usual layout into RF64.
    return ((format in _WRITERS and bool(mask(layout))) or format == "RF64") and (
        format != "WAVEX" or soundfile.check_format(format, subtype)
    )


def lost(format: str, subtype: str, layout: str, n_channels: int) -> list[str]:
    """Note on a layout that a format cannot store."""
    kept = format == "OGG" or layout in ("", usual(n_channels)[: 8 * (n_channels <= 2)])
    named = "WAVEX" if format == "WAV" else format
    if kept or (mask(layout) and has_place(named, subtype, layout, n_channels)):
        return []
    return [f"{format} cannot say that its channels are {layout}; left out"]


def write_mask(path: Path, format: str, layout: str) -> None:
    """Write a layout into a file that has none or a wrong one.

    Args:
        path: of the file.
        format: soundfile's name of it, which :func:`has_place`.
        layout: to write.
    """
    with path.open("r+b") as file:
        _WRITERS[format](file, mask(layout))


def _write_wav(file: BinaryIO, bits: int) -> None:
    """Write the mask into an extensible WAV or RF64, which has a field for it."""
    place = file.read(4096).index(b"fmt ") + 8
    file.seek(place + 20)
    file.write(struct.pack("<I", bits))


def _write_w64(file: BinaryIO, bits: int) -> None:
    """Write the mask into a W64, after lengthening its header to that of an extensible WAV."""
    head = bytearray(file.read(80))
    (size,), (kind, n_bits) = struct.unpack_from("<Q", head, 16), struct.unpack_from(
        "<H12xH", head, 64
    )
    more = struct.pack("<HHI", 22, n_bits, bits) + _GUID.pack(kind, _GUID_END)
    (old,) = struct.unpack_from("<Q", head, 56)
    struct.pack_into("<Q", head, 16, size + 64 - old)
    struct.pack_into("<QH", head, 56, 64, 0xFFFE)
    body = file.seek(0, 2)
    place = 40 + old
    while body > place:
        begin = max(place, body - (1 << 20))
        file.seek(begin)
        block = file.read(body - begin)
        file.seek(begin + 64 - old)
        file.write(block)
        body = begin
    file.seek(0)
    file.write(head + more)


def _write_aiff(file: BinaryIO, bits: int) -> None:
    end = file.seek(0, 2)
    chunk = b"\0" * (end % 2) + b"CHAN" + struct.pack(">IIII", 12, _BY_MASK, bits, 0)
    file.write(chunk)
    file.seek(4)
    file.write(struct.pack(">I", end + len(chunk) - 8))


def _write_caf(file: BinaryIO, bits: int) -> None:
    """Write the mask into a CAF, in the space that libsndfile leaves."""
    head = file.read(4096)
    place = head.index(b"free")
    (room,) = struct.unpack_from(">Q", head, place + 4)
    file.seek(place)
    file.write(b"chan" + struct.pack(">QIII", 12, _BY_MASK, bits, 0))
    file.write(b"free" + struct.pack(">Q", room - 24))


def _write_flac(file: BinaryIO, bits: int) -> None:
    flac = FLAC(file)
    if flac.tags is None:
        flac.add_tags()
    flac[FLAC_MASK] = f"0x{bits:04X}"
    file.seek(0)
    flac.save(file)


_WRITERS = {
    "WAVEX": _write_wav,
    "RF64": _write_wav,
    "W64": _write_w64,
    "AIFF": _write_aiff,
    "CAF": _write_caf,
    "FLAC": _write_flac,
}
