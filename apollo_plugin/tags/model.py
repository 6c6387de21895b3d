"""What tags say, whatever the format; and the formats' names for it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from mutagen.flac import MetadataBlock, Picture
from mutagen.id3 import ID3

# Ours are the names of Vorbis comments, as MusicBrainz Picard maps them; an underscore is none.
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
# Other names that are in use for the same.
_ALIASES = {
    "album artist": "albumartist",
    "album_artist": "albumartist",
    "track": "tracknumber",
    "totaltracks": "tracktotal",
    "tracktotal": "tracktotal",
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
    "initialkey": "key",
    "musicbrainz album type": "releasetype",
    "musicbrainz album status": "releasestatus",
    "musicbrainz album release country": "releasecountry",
}
# Names of free fields that ID3 and MP4 write in another way than Vorbis comments.
_FREE = {
    key: name
    for name, key in (
        ("MusicBrainz Album Type", "releasetype"),
        ("MusicBrainz Album Status", "releasestatus"),
        ("MusicBrainz Album Release Country", "releasecountry"),
        *(
            (f"{first} {rest}", f"{first}_{rest.replace(' ', '')}".lower())
            for first, rests in (
                (
                    "MusicBrainz",
                    "Artist Id|Album Id|Album Artist Id|Release Group Id|Release Track Id|Work Id|"
                    "Disc Id|Track Id|Original Artist Id|Original Album Id",
                ),
                ("Acoustid", "Id|Fingerprint"),
            )
            for rest in rests.split("|")
        ),
    )
}
_KEYS = {name.lower(): key for key, name in _FREE.items()} | _ALIASES
# What is said of the coded file, not of the music in it.
_OF_THE_CODING = {
    "encoder",
    "encodersettings",
    "encoder_options",
    "encoder options",
    "encoding params",
    "itunpgap",
    "itunsmpb",
    "major_brand",
    "minor_version",
    "compatible_brands",
    "creation_time",
    "handler_name",
    "vendor_id",
    "waveformatextensible_channel_mask",
    "time_reference",
    "umid",
    # Of a track of Matroska, as its writer counted them.
    "duration",
    "bps",
    "number_of_frames",
    "number_of_bytes",
    "_statistics_writing_app",
    "_statistics_writing_date_utc",
    "_statistics_tags",
}
# What loudness is written as, by how the names of its tags begin.
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
# Of a picture that is an address.
_LINK = "-->"


def key_of(name: str) -> str:
    """Our name for a field that a format leaves to the user."""
    name = name.lower().strip()
    # As Picard has them in Windows Media.
    name = re.sub("^(musicbrainz|acoustid)/", r"\1 ", name)
    return _KEYS.get(name, name)


def free_name(key: str) -> str:
    """How ID3 and MP4 call such a field."""
    return _FREE.get(key, key.upper())


@dataclass
class Tags:
    """What a file carries.

    Args:
        text: values by our names, which are those of Vorbis comments in lower case.
        pictures: covers and others, as FLAC has them.
        id3: all frames of an ID3v2 tag, where the file had one, but for pictures that are none,
            loudness and what describes the coded file.
        comments: Vorbis comments as they stand, likewise.
        blocks: FLAC's other metadata.
        chunks: of WAV that are neither sound nor tags.
        other: names of what only the same format can carry: by format.
        rate: of the sound that places in ``blocks`` and ``chunks`` are counted at, in Hz; 0 where
            nobody counts.
        loudness: the ways in which the loudness was written: ``replaygain``, ``r128``,
            ``soundcheck``.
        has_album_gain: whether it was written for an album.
        notes: a line each on what was wrong.
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
        """What tells the album from others in the same folder."""
        return "\0".join(self.text.get("album", []) + self.text.get("albumartist", []))

    def add(self, key: str, values: Iterable[object]) -> None:
        """Takes the values of a field, unless they are of the loudness or the coding.

        Args:
            key: our name.
            values: texts; a null character stands between two.
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
        known = self.text.get(key, [])
        if new := [text for text in dict.fromkeys(texts) if text.strip() and text not in known]:
            self.text[key] = known + new

    def is_stale(self, key: str) -> bool:
        """Whether a field is of the loudness, which is noted, or of the coding."""
        for begin, kind in _LOUDNESS.items():
            if key.startswith(begin):
                self.loudness.add(kind)
                self.has_album_gain |= "album" in key
                return True
        return key in _OF_THE_CODING

    def add_picture(self, data: bytes, kind: int, text: str, mime: str = "") -> bool:
        """Takes a picture.

        Args:
            data: the file.
            kind: ID3's number of what it shows; 3 is the front cover.
            text: what is said of it.
            mime: its type where it is an address.

        Returns:
            whether it is one.
        """
        types = [name for magic, name in _PICTURES if magic.match(data)]
        if not types and mime != _LINK:
            self.notes.append(f"a cover that is no picture ({len(data)} bytes) was left out")
            return False
        picture = Picture()
        picture.data, picture.type = data, kind if 0 <= kind <= 20 else 0
        picture.mime, picture.desc = types[0] if types else _LINK, clean(text)
        self.pictures.append(picture)
        return True


def clean(text: str) -> str:
    """A text that any encoding of Unicode can hold."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def numbered(text: dict[str, list[str]], key: str) -> str:
    """A track's or a disc's number with their total behind a slash, where it is known."""
    total = text.get(key.replace("number", "total"))
    return text[key][0] + (f"/{total[0]}" if total else "")
