"""Vorbis comments of Ogg and FLAC: conversion between comments and fields."""

import base64
import binascii
from typing import Any

from mutagen.flac import FLAC, CueSheet, CueSheetTrackIndex, MetadataBlock, Picture, error

from ..audio.layouts import FLAC_MASK
from .model import Tags, key_of

_PICTURE = "metadata_block_picture"
# Pictures in the form used before the standard one.
_OLD_PICTURE = "coverart"
# Codes of FLAC's blocks that are neither comments, pictures, padding nor on the coding.
_APPLICATION, CUESHEET_CODE = 2, 5
CUESHEET, _OF_PROGRAMS = "CUESHEET", "APPLICATION"
# Largest block of FLAC, and overhead of a comment, in bytes.
_BLOCK_BYTES, _BESIDE = 2**24 - 1, 64


def read(tags: Tags, file: Any) -> None:
    """Add comments, pictures and FLAC's other blocks."""
    for name, value in file.tags or []:
        key = key_of(name)
        if key in (_PICTURE, _OLD_PICTURE):
            _read_picture(tags, key, value)
        elif key != "coverartmime" and not tags.is_stale(key):
            tags.add(key, [value])
            tags.comments.append((name, value))
    for picture in getattr(file, "pictures", ()):
        tags.add_picture(picture.data, picture.type, picture.desc, picture.mime)
    for block in getattr(file, "metadata_blocks", ()):
        if block.code in (_APPLICATION, CUESHEET_CODE):
            tags.blocks.append(block)
            tags.rate = file.info.sample_rate
            tags.other.append(CUESHEET if block.code == CUESHEET_CODE else _OF_PROGRAMS)


def _read_picture(tags: Tags, key: str, value: str) -> None:
    try:
        data = base64.b64decode(value)
        if key == _OLD_PICTURE:
            tags.add_picture(data, 3, "")
        else:
            picture = Picture(data)
            tags.add_picture(picture.data, picture.type, picture.desc, picture.mime)
    except (binascii.Error, ValueError, error):
        tags.notes.append("a cover that is no picture was left out")


def fill(file: Any, tags: Tags, extra: dict[str, str]) -> list[str]:
    """Replace a file's comments by tags and further fields, without saving it; return the names of
    tags that it cannot hold."""
    if file.tags is None:
        file.add_tags()
    # The layout of the channels is a comment too, written with the sound.
    comments = [(FLAC_MASK, value) for value in file.tags.get(FLAC_MASK, [])] + tags.comments
    commented = {key_of(name) for name, _ in tags.comments}
    for key, values in tags.text.items():
        if key not in commented:
            comments += [(key.upper(), value) for value in values]
    comments += [(key.upper(), value) for key, value in extra.items()]
    left = [name for name, _ in comments if not _is_name(name)]
    comments = [(name, value) for name, value in comments if _is_name(name)]
    if isinstance(file, FLAC):
        left += [name for name in tags.other if name not in (CUESHEET, _OF_PROGRAMS)]
        file.clear_pictures()
        for picture in tags.pictures:
            if len(picture.write()) <= _BLOCK_BYTES:
                file.add_picture(picture)
            else:
                left.append(f"a picture of {len(picture.data) / 1e6:.0f} MB")
        ratio = file.info.sample_rate / (tags.rate or file.info.sample_rate)
        file.metadata_blocks += [_copy_block(block, ratio) for block in tags.blocks]
    else:
        left += tags.other
        coded = [base64.b64encode(picture.write()).decode() for picture in tags.pictures]
        comments += [(_PICTURE.upper(), value) for value in coded]
    file.tags[:], longest = _limit_size(comments)
    left += longest
    return left


def _is_name(name: str) -> bool:
    return bool(name) and all(" " <= c <= "}" and c != "=" for c in name)


def _copy_block(block: Any, ratio: float) -> MetadataBlock:
    """Copy a block, with positions scaled by the ratio of the sample rates."""
    copy: Any = MetadataBlock(block.write())
    if block.code == CUESHEET_CODE and ratio != 1:
        copy = CueSheet(block.write())
        # Positions of a CD would be counted in its sectors.
        copy.compact_disc, copy.lead_in_samples = False, 0
        for track in copy.tracks:
            track.start_offset = round(track.start_offset * ratio)
            for place, index in enumerate(track.indexes):
                moved = round(index.index_offset * ratio)
                track.indexes[place] = CueSheetTrackIndex(index.index_number, moved)
    copy.code = block.code
    return copy


def _limit_size(comments: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[str]]:
    """Remove the longest comments until a block of FLAC can hold the others; return both.

    Ogg could hold more, but mutagen would take minutes to write it.
    """
    remaining, left = list(comments), []
    sizes = [len(name) + len(value.encode()) + _BESIDE for name, value in remaining]
    while sum(sizes) + _BESIDE > _BLOCK_BYTES:
        longest = max(range(len(sizes)), key=sizes.__getitem__)
        name, _ = remaining.pop(longest)
        name = "a picture" if name.lower() == _PICTURE else name
        left.append(f"{name} of {sizes.pop(longest) / 1e6:.0f} MB")
    return remaining, left
