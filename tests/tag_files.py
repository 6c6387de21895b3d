"""Files with tags of every kind, which all say the same."""

import base64
import io
import json
import struct
import subprocess
from pathlib import Path

import mutagen
import soundfile
from helpers import encoded, save, tone
from mutagen.apev2 import APEv2, APEValue
from mutagen.asf import ASF, ASFByteArrayAttribute
from mutagen.flac import FLAC, Picture
from mutagen.id3 import ID3, Frames
from mutagen.mp4 import MP4, MP4Cover
from mutagen.wave import WAVE
from PIL import Image

from apollo_plugin import tags
from apollo_plugin.data.codecs import encode_mp3
from apollo_plugin.restore import write_result
from apollo_plugin.settings import Settings

SAID = {
    "title": ["Tïtle"],
    "artist": ["One"],
    "album": ["The album"],
    "tracknumber": ["3"],
    "tracktotal": ["12"],
    "date": ["1999"],
    "genre": ["Jazz"],
    "comment": ["a ćomment"],
}
FORMATS = ("WAV", "FLAC", "AIFF", "OGG", "MP3")
WAV = tone(24000)


def picture(format: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 16), "red").save(file, format)
    return file.getvalue()


COVER = picture()


def ffprobe(path: Path) -> dict[str, str]:
    command = ["ffprobe", "-v", "error", "-show_entries", "format_tags:stream_tags", "-of", "json"]
    shown = json.loads(subprocess.run([*command, path], capture_output=True, check=True).stdout)
    found = dict(shown["format"].get("tags", {}))
    for stream in shown.get("streams", []):
        found |= stream.get("tags", {})
    return {key.lower().replace("_", " "): value for key, value in found.items()}


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    """Of RIFF, with its padding byte; of another size than it says, where one is given."""
    told = len(body) if size is None else size
    return name + struct.pack("<I", told) + body + b"\0" * (len(body) & 1)


def seven(n: int) -> bytes:
    """A size as ID3 writes it: four groups of seven bits."""
    return bytes(n >> shift & 127 for shift in (21, 14, 7, 0))


def ebml_number(value: int, width: int) -> bytes:
    """A number of EBML: as many zero bits as bytes follow, a one, the value."""
    return (1 << 7 * width | value).to_bytes(width, "big")


def element(code: int, *content: bytes, size: bytes | None = None) -> bytes:
    """Of Matroska."""
    body = b"".join(content)
    coded = code.to_bytes((code.bit_length() + 7) // 8, "big")
    return coded + (ebml_number(len(body), 4) if size is None else size) + body


def simple(name: str, text: str | bytes, *inner: bytes) -> bytes:
    """A tag of Matroska: its name, its text or bytes, and tags of its own."""
    value = element(0x4485, text) if isinstance(text, bytes) else element(0x4487, text.encode())
    return element(0x67C8, element(0x45A3, name.encode()), value, *inner)


def tag(level: int | None, *content: bytes, **of: int) -> bytes:
    """Tags of a level, of tracks, editions, chapters or attachments."""
    codes = dict(track=0x63C5, edition=0x63C9, chapter=0x63C4, attachment=0x63C6)
    targets = [element(codes[kind], bytes([uid])) for kind, uid in of.items()]
    targets += [element(0x68CA, bytes([level]))] if level else []
    return element(0x7373, element(0x63C0, *targets), *content)


def frames(**more) -> list:
    """Of an ID3 tag that says what SAID says."""
    named = dict(TIT2="title", TPE1="artist", TALB="album", TDRC="date", TCON="genre")
    found = [Frames[name](3, SAID[key]) for name, key in named.items()]
    found += [Frames["TRCK"](3, ["3/12"]), Frames["COMM"](3, "eng", "", SAID["comment"])]
    found.append(Frames["APIC"](3, "image/jpeg", 3, "", COVER))
    return found + [Frames[name](*arguments) for name, arguments in more.items()]


def with_id3(path: Path, **more) -> Path:
    path.write_bytes(encode_mp3(WAV, kbps=96))
    tag = ID3()
    for frame in frames(**more):
        tag.add(frame)
    tag.save(path)
    return path


def with_comments(path: Path, **more) -> Path:
    """A FLAC or Ogg file."""
    codec = {".flac": "flac", ".opus": "libopus"}.get(path.suffix)
    encoded(path, WAV, codec, 48000) if codec else soundfile.write(path, WAV.T.numpy(), 48000)
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    file.tags[:] = [(key.upper(), value) for key, values in SAID.items() for value in values]
    file.tags.extend(more.items())
    cover = Picture()
    cover.data, cover.type, cover.mime = COVER, 3, "image/jpeg"
    if isinstance(file, FLAC):
        file.add_picture(cover)
    else:
        block = base64.b64encode(cover.write()).decode()
        file.tags.append(("METADATA_BLOCK_PICTURE", block))
    file.save()
    return path


def id3_of_2_2(path: Path) -> Path:
    """Written by hand: mutagen reads that version only."""

    def frame(name: str, body: bytes) -> bytes:
        return name.encode() + struct.pack(">I", len(body))[1:] + body

    texts = dict(TT2="title", TP1="artist", TAL="album", TYE="date", TCO="genre")
    body = b"".join(
        frame(name, b"\1" + SAID[key][0].encode("utf-16")) for name, key in texts.items()
    )
    body += frame("TRK", b"\0" + b"3/12")
    comment = SAID["comment"][0].encode("utf-16")
    body += frame("COM", b"\1eng" + "".encode("utf-16") + b"\0\0" + comment)
    body += frame("PIC", b"\0JPG\3\0" + COVER)
    size = bytes((len(body) >> shift) & 127 for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\2\0\0" + size + body + encode_mp3(WAV, kbps=96))
    return path


def id3_of_2_3(path: Path) -> Path:
    with_id3(path)
    tag = ID3(path)
    tag.update_to_v23()
    tag.save(path, v2_version=3)
    return path


def atoms(path: Path, codec: str = "aac") -> Path:
    file = MP4(encoded(path, WAV, codec))
    named = {"©nam": "title", "©ART": "artist", "©alb": "album", "©day": "date", "©gen": "genre"}
    for name, key in {**named, "©cmt": "comment"}.items():
        file[name] = SAID[key]
    file["trkn"] = [(3, 12)]
    file["covr"] = [MP4Cover(COVER, MP4Cover.FORMAT_JPEG)]
    file["----:com.apple.iTunes:MusicBrainz Album Id"] = [b"an-id"]
    file.save()
    return path


def ape(path: Path) -> Path:
    encoded(path, WAV, "wavpack")
    tag = APEv2()
    for key in ("title", "artist", "album", "genre", "comment"):
        tag[key.title()] = SAID[key]
    tag["Year"], tag["Track"] = SAID["date"][0], "3/12"
    tag["Cover Art (Front)"] = APEValue(b"front.jpg\0" + COVER, 1)
    tag.save(path)
    return path


def windows_media(path: Path) -> Path:
    file = ASF(encoded(path, WAV, "wmav2", kbps=96))
    named = {
        "Title": "title",
        "Author": "artist",
        "WM/AlbumTitle": "album",
        "WM/Year": "date",
        "WM/Genre": "genre",
        "Description": "comment",
    }
    for name, key in named.items():
        file[name] = SAID[key]
    file["WM/TrackNumber"] = ["3/12"]
    mime = "image/jpeg\0".encode("utf-16-le") + b"\0\0"
    body = struct.pack("<BI", 3, len(COVER)) + mime + COVER
    file["WM/Picture"] = [ASFByteArrayAttribute(body)]
    file.save()
    return path


def riff_info(path: Path, encoding: str = "utf-8", id3: bool = False) -> Path:
    save(path, WAV)
    named = dict(INAM="title", IART="artist", IPRD="album", ICRD="date", IGNR="genre")
    body = b"INFO"
    for name, key in named.items():
        text = SAID[key][0].encode(encoding) + b"\0"
        body += struct.pack("<4sI", name.encode(), len(text)) + text + b"\0" * (len(text) & 1)
    data = path.read_bytes() + struct.pack("<4sI", b"LIST", len(body)) + body
    path.write_bytes(data[:4] + struct.pack("<I", len(data) - 8) + data[8:])
    if id3:
        file = WAVE(path)
        file.add_tags()
        for frame in frames():
            if frame.FrameID in ("TRCK", "COMM", "APIC"):
                file.tags.add(frame)
        file.save()
    return path


SOURCES = {
    "a.mp3": with_id3,
    "id3v2.2.mp3": id3_of_2_2,
    "id3v2.3.mp3": id3_of_2_3,
    "a.flac": with_comments,
    "a.ogg": with_comments,
    "a.opus": with_comments,
    "a.m4a": atoms,
    "a.wv": ape,
    "a.wma": windows_media,
    "a.wav": lambda path: riff_info(path, id3=True),
}


def carried(source: Path, target: Path, whole: bool = True, **settings):
    """Writes WAV with the tags of a source; what is to be told of it."""
    written = Settings(format={"aif": "AIFF"}.get(target.suffix[1:], target.suffix[1:].upper()))
    return write_result(target, WAV, 48000, written, tags.read(source, whole))
