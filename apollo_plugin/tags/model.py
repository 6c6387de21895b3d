"""Tags independent of the format, and the formats' names of fields."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from mutagen.flac import MetadataBlock, Picture
from mutagen.id3 import ID3

# Our names are those of Vorbis comments, as mapped by MusicBrainz Picard; an underscore means none.
_TABLE = """
title              TIT2  ©nam  Title            Title
artist             TPE1  ©ART  Artist           Author
album              TALB  ©alb  Album            WM/AlbumTitle
albumartist        TPE2  aART  Album Artist     WM/AlbumArtist
tracknumber        TRCK  trkn  Track            WM/TrackNumber
discnumber         TPOS  disk  Disc             WM/PartOfSet
date               TDRC  ©day  Year             WM/Year
genre              TCON  ©gen  Genre            WM/Genre
comment            COMM  ©cmt  Comment          Description
lyrics             USLT  ©lyr  Lyrics           WM/Lyrics
composer           TCOM  ©wrt  Composer         WM/Composer
lyricist           TEXT  _     Lyricist         WM/Writer
conductor          TPE3  _     Conductor        WM/Conductor
remixer            TPE4  _     MixArtist        WM/ModifiedBy
grouping           TIT1  ©grp  Grouping         WM/ContentGroupDescription
subtitle           TIT3  _     Subtitle         WM/SubTitle
discsubtitle       TSST  _     DiscSubtitle     WM/SetSubTitle
bpm                TBPM  tmpo  BPM              WM/BeatsPerMinute
key                TKEY  _     Key              WM/InitialKey
mood               TMOO  _     Mood             WM/Mood
media              TMED  _     Media            WM/Media
language           TLAN  _     Language         WM/Language
isrc               TSRC  _     ISRC             WM/ISRC
copyright          TCOP  cprt  Copyright        Copyright
label              TPUB  _     Label            WM/Publisher
encodedby          TENC  _     EncodedBy        WM/EncodedBy
compilation        TCMP  cpil  Compilation      WM/IsCompilation
originaldate       TDOR  _     _                WM/OriginalReleaseTime
originalartist     TOPE  _     Original Artist  WM/OriginalArtist
originalalbum      TOAL  _     _                WM/OriginalAlbumTitle
titlesort          TSOT  sonm  TitleSort        WM/TitleSortOrder
artistsort         TSOP  soar  ArtistSort       WM/ArtistSortOrder
albumsort          TSOA  soal  AlbumSort        WM/AlbumSortOrder
albumartistsort    TSO2  soaa  AlbumArtistSort  WM/AlbumArtistSortOrder
composersort       TSOC  soco  ComposerSort     WM/ComposerSortOrder
movementname       MVNM  ©mvn  MovementName     _
movement           MVIN  ©mvi  Movement         _
work               _     ©wrk  Work             WM/Work
website            WOAR  _     Weblink          WM/AuthorURL
license            WCOP  _     _                _
releasedate        TDRL  _     _                _
"""
_ROWS = [re.split(r"\s{2,}", line) for line in _TABLE.strip().splitlines()]


def _column(index: int) -> dict[str, str]:
    return {row[0]: row[index] for row in _ROWS if row[index] != "_"}


# From our names to those of ID3v2.4, MP4, APE and ASF.
ID3_NAMES, MP4_NAMES, APE_NAMES, ASF_NAMES = (_column(index) for index in range(1, 5))
# Alternative names in use.
_ALIASES = {
    "album artist": "albumartist",
    "album_artist": "albumartist",
    "track": "tracknumber",
    "totaltracks": "tracktotal",
    "disc": "discnumber",
    "totaldiscs": "disctotal",
    "year": "date",
    "description": "comment",
    "unsyncedlyrics": "lyrics",
    "unsynced lyrics": "lyrics",
    "shareduserrating": "rating",
    "organization": "label",
    "publisher": "label",
    "encoded_by": "encodedby",
    "catalogno": "catalognumber",
    "originalreleaseyear": "originalyear",
    "initialkey": "key",
}
# Names of free fields that differ between ID3 and MP4 and Vorbis comments.
_FREE = {
    "releasetype": "MusicBrainz Album Type",
    "releasestatus": "MusicBrainz Album Status",
    "releasecountry": "MusicBrainz Album Release Country",
} | {
    f"{first}_{rest.replace(' ', '')}".lower(): f"{first} {rest}"
    for first, rests in (
        ("MusicBrainz", "Artist Id|Album Id|Album Artist Id|Release Group Id|Release Track Id"),
        ("MusicBrainz", "Work Id|Disc Id|Track Id|Original Artist Id|Original Album Id"),
        ("Acoustid", "Id|Fingerprint"),
    )
    for rest in rests.split("|")
}
_KEYS = {name.lower(): key for key, name in _FREE.items()} | _ALIASES
# Fields on the coded file, not on the music in it.
_OF_THE_CODING = {"encoder options", "encoding params"}
_OF_THE_CODING |= set(
    "encoder encodersettings encoder_options encoder_settings itunpgap itunsmpb major_brand "
    "minor_version compatible_brands creation_time handler_name vendor_id time_reference umid "
    "waveformatextensible_channel_mask".split()
)
# Statistics of a Matroska track.
_OF_THE_CODING |= set(
    "duration bps number_of_frames number_of_bytes _statistics_writing_app "
    "_statistics_writing_date_utc _statistics_tags".split()
)
# Kinds of loudness tags, by prefixes of their names.
_LOUDNESS = {
    "replaygain_": "replaygain",
    "mp3gain_": "replaygain",
    "r128_": "r128",
    "itunnorm": "soundcheck",
}
_PICTURES = (
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"GIF8[79]a"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (re.compile(rb"BM....\0\0\0\0", re.DOTALL), "image/bmp"),
    (re.compile(rb"II\*\0|MM\0\*"), "image/tiff"),
    (re.compile(rb"....ftyp(?:avif|avis)", re.DOTALL), "image/avif"),
    (re.compile(rb"....ftyp(?:hei|hev|mif1|msf1)", re.DOTALL), "image/heic"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"), "image/jxl"),
)
# MIME type of a picture given by a URL.
_LINK = "-->"


def key_of(name: str) -> str:
    """Convert the name of a user-defined field to ours."""
    name = name.lower().strip()
    # As written by Picard to Windows Media.
    name = re.sub("^(musicbrainz|acoustid)/", r"\1 ", name)
    return _KEYS.get(name, name)


def free_name(key: str) -> str:
    """Name of a user-defined field in ID3 and MP4."""
    return _FREE.get(key, key.upper())


@dataclass
class Tags:
    """Tags of a file.

    Args:
        text: values by our names, which are those of Vorbis comments in lower case.
        pictures: covers and other pictures, in FLAC's form.
        id3: all frames of the file's ID3v2 tag, if any, without invalid pictures, loudness and
            descriptions of the coded file.
        comments: original Vorbis comments, likewise.
        blocks: FLAC's other metadata.
        chunks: chunks of WAV that are neither sound nor tags.
        other: names of metadata that only the same format can carry.
        rate: sample rate in Hz of the positions in ``blocks`` and ``chunks``; 0 if there are none.
        loudness: kinds of loudness tags: ``replaygain``, ``r128``, ``soundcheck``.
        has_album_gain: True if there were loudness tags for the album.
        notes: a line for each problem.
    """

    text: dict[str, list[str]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    id3: ID3 | None = None
    comments: list[tuple[str, str]] = field(default_factory=list)
    blocks: list[MetadataBlock] = field(default_factory=list)
    chunks: list[tuple[bytes, bytes]] = field(default_factory=list)
    rate: int = 0
    other: list[str] = field(default_factory=list)
    loudness: set[str] = field(default_factory=set)
    has_album_gain: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def album(self) -> str:
        """Key that distinguishes albums in the same folder."""
        return "\0".join(self.text.get("album", []) + self.text.get("albumartist", []))

    def add(self, key: str, values: Iterable[object]) -> None:
        """Add the values of a field, unless it is on loudness or the coding.

        Args:
            key: our name of the field.
            values: texts, which may hold several values separated by null characters.
        """
        if self.is_stale(key):
            return
        texts = [clean(part) for value in values for part in str(value).split("\0")]
        if key in ("tracknumber", "discnumber") and texts:
            number, _, total = texts[0].partition("/")
            self._add(key, [number])
            self._add(key.replace("number", "total"), [total])
        else:
            self._add(key, texts)

    def _add(self, key: str, texts: list[str]) -> None:
        old = self.text.get(key, [])
        if new := [text for text in dict.fromkeys(texts) if text.strip() and text not in old]:
            self.text[key] = old + new

    def merge(self, second: "Tags", name: str) -> None:
        """Add what a second tag of the file says and the first does not; note where they differ."""
        other = []
        notes = list(second.notes)
        for key, values in second.text.items():
            if key not in self.text:
                self.text[key] = list(values)
            elif any(not any(x.startswith(v) for x in self.text[key]) for v in values):
                other.append(key)
        if other:
            notes.append(f"{name} differs in {', '.join(other)}; that was left out")
        known = [picture.data for picture in self.pictures]
        self.pictures += [each for each in second.pictures if each.data not in known]
        self.other += second.other
        self.notes += [note for note in notes if note not in self.notes]
        self.loudness |= second.loudness
        self.has_album_gain |= second.has_album_gain

    def is_stale(self, key: str) -> bool:
        """Return True for fields on loudness, whose kind is noted, and on the coding."""
        for begin, kind in _LOUDNESS.items():
            if key.startswith(begin):
                self.loudness.add(kind)
                self.has_album_gain |= "album" in key
                return True
        return key in _OF_THE_CODING

    def add_picture(self, data: bytes, kind: int, text: str, mime: str = "") -> bool:
        """Add a picture.

        Args:
            data: content of the picture's file.
            kind: ID3's number of its kind; 3 is the front cover.
            text: description.
            mime: MIME type if it is a URL.

        Returns:
            True if it is a valid picture.
        """
        types = [name for magic, name in _PICTURES if magic.match(data)]
        if not types and mime != _LINK:
            self.notes.append(f"a cover that is no picture ({len(data)} bytes) was left out")
            return False
        picture = Picture()
        picture.data, picture.type = data, kind if 0 <= kind <= 20 else 0
        picture.mime, picture.desc = types[0] if types else _LINK, clean(text)
        if (data, kind) not in [(each.data, each.type) for each in self.pictures]:
            self.pictures.append(picture)
        return True


def clean(text: str) -> str:
    """Remove characters from a text that not all encodings of Unicode can hold."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def numbered(text: dict[str, list[str]], key: str) -> str:
    """Format a track's or a disc's number, with the total after a slash if it is known."""
    total = text.get(key.replace("number", "total"))
    return text[key][0] + (f"/{total[0]}" if total else "")
