"""Recognition of files and streams other than PCM by their first bytes."""

import io
import re
from collections.abc import Callable

from mutagen.mp3 import HeaderNotFoundError, MPEGFrame

# Bytes needed for that: they hold two frames of each codec at usual rates.
HEAD_BYTES = 1 << 13
# Marks at the beginning of files; (?s:.) is any byte.
_MARKS = {
    rb"RIFX": "a big-endian WAV",
    rb"RIFF(?s:.){4}AVI ": "an AVI",
    rb"RIFF(?s:.){4}WEBP": "a WebP picture",
    rb"RIFF": "RIFF",
    rb"fLaC": "FLAC",
    rb"OggS(?s:.){0,200}OpusHead": "Opus",
    rb"OggS": "Ogg",
    rb"ID3[\x02-\x04]": "an MP3",
    rb"FORM": "AIFF",
    rb"caff": "CAF",
    rb"riff\x2e\x91\xcf\x11": "W64",
    rb"\.snd": "AU",
    rb"\x1aE\xdf\xa3": "Matroska or WebM",
    rb"(?s:.){4}(?:ftyp|styp|sidx|moov|moof|mdat|free|skip|wide)": "MP4",
    rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "Windows Media",
    rb"FLV\x01": "FLV",
    rb"wvpk": "WavPack",
    rb"TTA1": "True Audio",
    rb"MAC ": "Monkey's Audio",
    rb"MP\+|MPCK": "Musepack",
    rb"#!AMR": "AMR",
    rb"DSD |FRM8": "DSD",
    rb"\.RMF": "RealMedia",
    rb"ADIF": "AAC",
    rb"tBaK": "TAK",
    rb"OFR ": "OptimFROG",
    rb"ajkg": "Shorten",
    rb"TWIN": "TwinVQ",
    rb"(?:ea3|EA3)[\x01\x03]": "ATRAC",
    rb"\x02?#!SILK": "SILK",
    rb"(?s:.){4}\xf8\x72\x6f[\xba\xbb]": "TrueHD or MLP",
    rb"Creative Voice File\x1a": "VOC",
    rb"NIST_1A": "NIST Sphere",
    rb"\.SoX|XoS\.": "a SoX file",
    rb"\x64\xa3[\x01-\x04]\x00|\x00[\x01-\x04]\xa3\x64": "IRCAM",
    rb"nut/multimedia": "NUT",
    rb"\x06\x0e\x2b\x34\x02\x05\x01\x01": "MXF",
    rb"\xb7\xd8\x00\x20\x37\x49\xda\x11": "WTV",
    rb"[FCZ]WS[\x01-\x40]": "Flash",
    rb"\0\0\x01\xba": "an MPEG programme stream",
    rb"MThd": "MIDI",
    rb"\xff\xd8\xff": "a JPEG",
    rb"\x89PNG": "a PNG",
    rb"GIF8[79]a": "a GIF picture",
    rb"PK\x03\x04|\x1f\x8b\x08|7z\xbc\xaf|BZh|\xfd7zXZ|Rar!\x1a|\x28\xb5\x2f\xfd": "an archive",
    rb"%PDF": "a PDF",
    rb"\x7fELF": "a program",
    rb"HTTP/[\d.]+ \d{3}|ICY \d{3}": "an HTTP answer",
    rb"(?:\xff\xfe(?:[\t-~]\0){9}|\xfe\xff(?:\0[\t-~]){9})": "text in UTF-16",
}
# Long marks of parts of streams, which may begin in their middle; once is enough.
_PARTS = {
    rb"OggS\x00[\x00-\x07]": "Ogg",
    # A cluster: its size, perhaps a checksum, its time.
    rb"(?s)\x1f\x43\xb6\x75(?:\x01.{7}|[\x10-\x1f].{3}|[\x20-\x3f].{2}|[\x40-\x7f].|\xff)"
    rb"(?:\xbf\x84.{4})?\xe7": "Matroska or WebM",
    rb"moof\0\0\0\x10mfhd": "MP4",
    rb"wvpk(?s:.){4}[\x02-\x10]\x04": "WavPack",
}
_TEXTS = {r"\s*<(!doctype html|html)": "an HTML page"}
# Kinds in which no decoder could find sound.
_NO_SOUND = re.compile("JPEG|PNG|picture|archive|PDF|program$|text|HTML|HTTP|MIDI")
_LEAST_TEXT, _MOST_TEXT = 16, 512
# Constant and periodic samples have fewer distinct values.
_LEAST_DIFFERENT = 10
# Equal frames of coded silence have no more.
_MOST_OF_SILENCE = 64
_MOST_OF_SILENT_GSM = 16
_AC3_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
# Sync word of DTS in words of 16 and of 14 bits, in both byte orders; that of S/PDIF (IEC 61937).
_WORDS = {
    rb"\x7f\xfe\x80\x01|\xfe\x7f\x01\x80|\x1f\xff\xe8\x00\x07|\xff\x1f\x00\xe8": "DTS",
    rb"\x72\xf8\x1f\x4e|\xf8\x72\x4e\x1f": "a coded stream for S/PDIF",
}
# Bytes of a frame of raw GSM, and number of frames that is proof.
_GSM_FRAME, _LEAST_GSM = 33, 60
_TS_BEGIN, _TS_PACKETS, _LEAST_PACKETS, _MOST_PACKETS = 0x47, (188, 192, 204), 5, 20


def kind_of(head: bytes) -> str | None:
    """Name the kind of data that is not PCM; None if it may be PCM.

    Args:
        head: its first bytes, :data:`HEAD_BYTES` if there are as many.
    """
    for mark, kind in _MARKS.items():
        if re.match(mark, head):
            return kind
    parts = (kind for mark, kind in _PARTS.items() if re.search(mark, head))
    return next(parts, None) or frames_in(head) or _text(head)


def frames_in(head: bytes) -> str | None:
    """Name the codec whose frames follow each other in these bytes; None for PCM.

    Several frames must stand where the one before says: in noise that happens by chance once in a
    billion.
    """
    for mark, kind in _WORDS.items():
        places = [found.start() for found in re.finditer(mark, head)]
        # The data may begin in the middle of a frame.
        if len(places) >= 2 and places[1] - places[0] >= 64 and len(set(_steps(places))) <= 2:
            return kind
    for size in _TS_PACKETS:
        for begin in range(min(size, len(head))):
            if head[begin] != _TS_BEGIN:
                continue
            n_packets = min(max(_LEAST_PACKETS, (len(head) - begin) // size), _MOST_PACKETS)
            packets = [head[begin + i * size :][:size] for i in range(n_packets)]
            # A tone with the period of a packet makes all packets equal, but for rounding.
            if all(map(_is_packet, packets)) and len(set(packets)) > 2 and _differ(packets):
                return "an MPEG transport stream"
    for mark, (kind, fixed, most, size_of) in _SYNCS.items():
        for found in re.finditer(mark, head):
            if _follow_each_other(head, found.start(), fixed, most, size_of):
                return kind
    return "GSM" if _is_gsm(head) else None


def holds_sound(kind: str) -> bool:
    """True if a decoder could find sound in data of this kind."""
    return not _NO_SOUND.search(kind)


def _is_packet(packet: bytes) -> bool:
    return len(packet) > 4 and packet[0] == _TS_BEGIN and bool(packet[3] & 0x30)


def _differ(frames: list[bytes]) -> bool:
    """True if some frame differs from the one before in half of its bytes."""
    return any(
        2 * sum(a != b for a, b in zip(*pair)) >= len(pair[0]) for pair in zip(frames, frames[1:])
    )


def _steps(places: list[int]) -> list[int]:
    return [after - before for before, after in zip(places, places[1:])]


def _follow_each_other(
    head: bytes, place: int, fixed: bytes, most: int, size_of: Callable[[bytes], int]
) -> bool:
    begin, n, said = place, 0, None
    frames: list[bytes] = []
    while place + len(fixed) <= len(head) and n < most:
        now = head[place : place + len(fixed)]
        size, now = size_of(now), bytes(a & b for a, b in zip(now, fixed))
        if not size or now != (said or now):
            return False
        frames.append(head[place : place + size])
        place, n, said = place + size, n + 1, now
    n_different = len(set(head[begin:place]))
    # Frames of silence are equal; those of a PCM tone with their period have many values too. Of
    # all beginnings MPEG's has the fewest bits, and of its lengths many are a tone's period.
    is_weak = size_of is mpeg_size
    is_periodic = is_weak and n > 1 and n_different > _MOST_OF_SILENCE and not _differ(frames)
    enough = n >= (max(2, most - 1) if begin == 0 else most)
    return enough and n_different >= _LEAST_DIFFERENT and not is_periodic


def mpeg_size(head: bytes) -> int:
    """Bytes of a frame of MPEG audio, by its header; 0 for other data."""
    file = io.BytesIO(head)
    try:
        MPEGFrame(file)  # steps over the frame
    except HeaderNotFoundError:
        return 0
    return file.tell()


def _adts_size(head: bytes) -> int:
    if head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else 0


def _ac3_size(head: bytes) -> int:
    if head[:2] != b"\x0b\x77":
        return 0
    if 10 < head[5] >> 3 <= 16:  # E-AC-3
        return 2 * ((head[2] & 7) << 8 | head[3]) + 2
    rate, index = head[4] >> 6, (head[4] & 63) >> 1
    if head[5] >> 3 > 10 or rate > 2 or index >= len(_AC3_KBPS):
        return 0
    kbps = _AC3_KBPS[index]
    return (4 * kbps, 2 * (320 * kbps // 147 + (head[4] & 1)), 6 * kbps)[rate]


def _loas_size(head: bytes) -> int:
    if head[0] != 0x56 or head[1] & 0xE0 != 0xE0:
        return 0
    return ((head[1] & 31) << 8 | head[2]) + 3


def _sbc_size(head: bytes) -> int:
    """Length of a frame of Bluetooth's SBC whose checksum is right."""
    mode, n_bands = head[1] >> 2 & 3, 8 if head[1] & 1 else 4
    n_channels, n_blocks, joint = 2 if mode else 1, 4 * (head[1] >> 4 & 3) + 4, mode == 3
    # The checksum is of the parameters, the joint bands and the scale factors.
    n_checked = n_bands * joint + 4 * n_bands * n_channels
    coded = int.from_bytes(head[4:24], "big") >> (160 - n_checked)
    checked, remainder = (head[1] << 8 | head[2]) << n_checked | coded, 0x0F
    for place in reversed(range(16 + n_checked)):
        bit = checked >> place & 1 ^ remainder >> 7
        remainder = remainder << 1 & 0xFF ^ 0x1D * bit
    if remainder != head[3] or not 2 <= head[2] <= 250:
        return 0
    n_bits = n_blocks * head[2] * (n_channels if mode < 2 else 1) + n_bands * joint
    return 4 + n_bands * n_channels // 2 + -(-n_bits // 8)


def _is_gsm(head: bytes) -> bool:
    """True if all bytes are frames of raw GSM, of which only the first four bits are known. Of loud
    constant PCM other bytes would have these too."""
    if len(head) < _LEAST_GSM * _GSM_FRAME or len(set(head)) < _LEAST_DIFFERENT:
        return False
    # A tone with the period of one or two frames has equal ones, as silence has, and more values.
    places = range(0, len(head) - _GSM_FRAME + 1, _GSM_FRAME)
    frames = {head[place:][:_GSM_FRAME] for place in places}
    if len(frames) <= 2 and len(set(head)) > _MOST_OF_SILENT_GSM:
        return False
    begins = range(_GSM_FRAME)
    return sum(all(x >> 4 == 0xD for x in head[begin::_GSM_FRAME]) for begin in begins) == 1


# First bytes of a frame, mask of the bits that all frames share, number of frames that is proof (at
# the very beginning one less, but two), and length. MPEG's layer I is left out: it is not in use,
# and begins like small negative numbers.
_SYNCS: dict[bytes, tuple[str, bytes, int, Callable[[bytes], int]]] = {
    rb"\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd]": ("MPEG audio (MP3)", b"\0\xff\x0c\0\0\0", 4, mpeg_size),
    rb"\xff[\xf0\xf1\xf8\xf9]": ("AAC (ADTS)", b"\0\xff\xff\xf0\0\0\0", 3, _adts_size),
    rb"\x0b\x77": ("AC-3", b"\xff\xff\0\0\xc0\xf8", 2, _ac3_size),
    rb"\x56[\xe0-\xff]": ("AAC (LATM)", b"\xff\xe0\0", 4, _loas_size),
    rb"\x9c": ("SBC", b"\xff\xff\xff" + bytes(21), 4, _sbc_size),
}


def _text(head: bytes) -> str | None:
    head = head[:_MOST_TEXT]
    try:
        text = head.decode() if len(head) < _MOST_TEXT else head[:-3].decode(errors="ignore")
        if len(text.encode()) < len(head) - 6:
            return None
    except UnicodeDecodeError:
        return None
    if len(text) < _LEAST_TEXT or len(set(text)) < _LEAST_DIFFERENT:
        return None
    if not all(c.isprintable() or c in "\t\r\n\f" for c in text):
        return None
    known = (kind for mark, kind in _TEXTS.items() if re.match(mark, text, re.IGNORECASE))
    return next(known, "text")
