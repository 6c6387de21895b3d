"""Container facts that decoders do not report: declared lengths, ends, concatenated files."""

import mmap
import re
import struct
import zlib
from dataclasses import dataclass, replace

from .joined import extents, skip_tags, unexplained
from .kinds import mpeg_size

# Tags in a frame of MPEG audio without sound that gives the number of frames with sound.
_MPEG_TAG = re.compile(
    rb"\xff[\xe2-\xff]..(?:"
    rb"(?:.{9}|.{17}|.{32})(?:..)?(?:Xing|Info)\0\0\0([\x01-\x0f])(?P<count>....)"
    rb"|.{32}VBRI.{10}(?P<vbri>....))",
    re.DOTALL,
)
_MPEG_SYNC = re.compile(rb"\xff[\xe2-\xff]")
_FREE_FORMAT = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\0-\x0b]")
# First bytes of a FLAC file: its mark and the header of STREAMINFO, which has 34 bytes.
_FLAC = re.compile(rb"fLaC[\0\x80]\0\0\x22")
# What programs write that pipe a WAV and cannot know its length: everything, or 2 GiB, about.
_UNKNOWN_SIZES = (range(0x7FFE0000, 0x80000001), range(0xFFFE0000, 0x100000000))
_OGG_PAGE = struct.Struct("<4sBBqIIIB")
_BITS_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# Bytes that are searched for the first frame.
_HEAD = 4096


@dataclass(frozen=True)
class Link:
    """One of several concatenated files: Ogg, FLAC and WAV files are read one after the other.

    Args:
        begin: its first byte.
        end: the byte after its last.
        fault: missing or damaged parts, as its container shows them.
        note: doubts that its container leaves.
        cut: True if ``fault`` is a missing end.
        last_sample: end of its only stream, if it is Ogg and gives one.
    """

    begin: int
    end: int
    fault: str | None = None
    note: str | None = None
    cut: bool = False
    last_sample: int | None = None


def skip_id3(data: mmap.mmap | bytes) -> int:
    """Position of the sound, after any number of ID3v2 tags."""
    return min(skip_tags(data, 0), len(data)) if data[:3] == b"ID3" else 0


def is_mpeg(head: bytes) -> bool:
    """True if a file's first bytes (after ID3) may be MPEG audio, or are empty."""
    return bool(_MPEG_SYNC.match(head)) or not head.strip(b"\0")


def is_mpeg_frame(packet: bytes) -> bool:
    """True if a packet begins like a frame of MPEG audio."""
    return bool(_MPEG_SYNC.match(packet))


def is_cut_frame(packet: bytes) -> bool:
    """True if a frame of MPEG audio is shorter than its header says."""
    return mpeg_size(packet) > len(packet)


def promised_frames(frame: bytes) -> int:
    """Number of MPEG frames declared by a Xing, Info or VBRI tag in these bytes; 0 without one."""
    tag = _MPEG_TAG.search(frame[: 1 << 20])
    if not tag:
        return 0
    if tag["vbri"]:
        return int.from_bytes(tag["vbri"], "big")
    return int.from_bytes(tag["count"], "big") if tag[1][0] & 1 else 0


def mpeg_head(data: mmap.mmap | bytes) -> int:
    """Number of frames declared by the tag at the beginning of an MP3; 0 without one."""
    begin = skip_id3(data)
    first = _MPEG_SYNC.search(data[begin : begin + _HEAD])
    return promised_frames(data[begin + first.start() :][:256]) if first else 0


def is_free_format(data: mmap.mmap | bytes) -> bool:
    """True if an MP3's first frame is free-format: of a bit rate outside the standard's table."""
    begin = skip_id3(data)
    return bool(_FREE_FORMAT.match(data[begin : begin + 4]))


def links(data: mmap.mmap) -> list[Link]:
    """List the files that are concatenated in a file: one, in most."""
    begin = skip_id3(data)
    head = data[begin : begin + 12]
    if head.startswith(b"OggS"):
        return _ogg_links(data, begin)
    if head.startswith(b"fLaC"):
        starts = [0] + [m.start() for m in _FLAC.finditer(data, begin + 8)]
        return [Link(*ends) for ends in zip(starts, [*starts[1:], len(data)])]
    places = extents(data, begin)
    if not places:
        return [Link(0, len(data))]
    rest = unexplained(data, places[-1][1])
    if rest is None and len(places) == 1:
        return [_link(data, 0, len(data))]
    found = [_link(data, *place) for place in places]
    return [*found[:-1], replace(found[-1], note=rest)]


def _link(data: mmap.mmap, begin: int, end: int) -> Link:
    """Compare the declared size of a WAV's chunk of samples with its actual size."""
    place = begin or skip_id3(data)
    if data[place : place + 4] != b"RIFF":
        return Link(begin, end)
    begin, place = place, place + 12
    while place + 8 <= end:
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"data":
            there = end - place - 8
            if there < size and tells_size(size):
                fault = f"its WAV header promises {size} bytes of samples, {there} are there"
                return Link(begin, end, fault, cut=True)
            break
        place += 8 + size + (size & 1)
    return Link(begin, end)


def tells_size(size: int) -> bool:
    """True if a size in a header of WAV or RF64 is one, and not what programs write that do not
    know it: 0, everything, or 2 GiB, about."""
    return 0 < size < 1 << 62 and not any(size in unknown for unknown in _UNKNOWN_SIZES)


def has_open_size(data: mmap.mmap, link: Link) -> bool:
    """True if a WAV declares no samples but has some, as programs that write to pipes leave it."""
    head = data[link.begin : link.begin + 12]
    size = int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and head[8:] == b"WAVE" and size + 8 < link.end - link.begin


@dataclass
class _Chain:
    """One link of a chain of Ogg streams, collected page by page."""

    begin: int
    pages: dict[int, int]
    sounding: set[int]
    open: set[int]
    last: int = 0
    n_missing: int = 0
    n_damaged: int = 0
    cut: bool = False

    def link(self, end: int) -> Link:
        if self.n_damaged or self.n_missing:
            fault = f"{self.n_damaged} of its Ogg pages are damaged, {self.n_missing} missing"
            return Link(self.begin, end, fault)
        if self.cut:
            return Link(self.begin, end, "its last Ogg page is cut", cut=True)
        note = "it ends without Ogg's mark of an end and may be cut short" if self.open else None
        last = self.last if len(self.pages) == 1 and self.last else None
        return Link(self.begin, end, note=note, last_sample=last)


def _ogg_links(data: mmap.mmap, begin: int) -> list[Link]:
    """Walk through all pages; check chained streams, checksums, gaps and the end."""
    found: list[Link] = []
    chain = _Chain(begin, {}, set(), set())
    in_heads = True
    place = begin
    while (place := data.find(b"OggS", place)) >= 0:
        head = data[place : place + _OGG_PAGE.size]
        if len(head) < _OGG_PAGE.size:
            chain.cut = True
            break
        _, _, flags, granule, serial, number, crc, n_segments = _OGG_PAGE.unpack(head)
        body = place + _OGG_PAGE.size + n_segments
        end = body + sum(data[place + _OGG_PAGE.size : body])
        if end > len(data):
            chain.cut = True
            break
        if _ogg_crc(data[place:end]) != crc:
            chain.n_damaged += 1
            place += 4
            continue
        begins = bool(flags & 2)
        if begins and not in_heads:
            found.append(chain.link(place))
            chain = _Chain(place, {}, set(), set())
        in_heads = begins
        # A recording that began in mid-stream lacks pages between its headers and its sound.
        if serial in chain.sounding:
            chain.n_missing += max(0, number - chain.pages.get(serial, number) - 1)
        chain.pages[serial] = number
        if granule > 0:
            chain.sounding.add(serial)
            chain.last = max(chain.last, granule)
        chain.open.discard(serial) if flags & 4 else chain.open.add(serial)
        place = end
    return [*found, chain.link(len(data))]


def _ogg_crc(page: bytes) -> int:
    """Ogg's checksum of a page: it runs from the highest bit, zlib's from the lowest."""
    page = (page[:22] + bytes(4) + page[26:]).translate(_BITS_REVERSED)
    reflected = zlib.crc32(page, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)
