"""Texts with times, and ratings: conversion between frames of ID3 and fields."""

import re
from collections.abc import Iterable
from typing import Any

from mutagen.id3 import POPM, SYLT

_LINE = re.compile(r"\[(\d+):(\d\d(?:\.\d+)?)\] ?(.*)")
_KEYS = re.compile(r"cuesheet|syncedlyrics|chapter\d+\D*")
# Numbers that Windows Media Player writes for 0 to 5 stars; others are rounded to them.
_STARS = (0, 1, 64, 128, 196, 255)
_LANGUAGE, _ENCODING, _MILLISECONDS, _LYRICS = "XXX", 3, 2, 1


def is_timed(key: str, values: Iterable[str]) -> bool:
    """Return True if a field holds times: a cue sheet, chapters, synchronised lyrics."""
    lrc = key.startswith("lyrics") and any(re.search(r"^\[\d+:\d\d", v, re.M) for v in values)
    return bool(_KEYS.fullmatch(key)) or lrc


def lrc(frame: Any) -> str | None:
    """Format synchronised lyrics as text, each line with its time; None without times in ms."""
    if frame.format != _MILLISECONDS or frame.type != _LYRICS:
        return None
    lines = []
    for text, ms in frame.text:
        minutes, ms = divmod(ms, 60_000)
        lines.append(f"[{minutes:02}:{ms / 1000:05.2f}]{' '.join(text.split())}")
    return "\n".join(lines)


def lyrics_frame(text: str) -> SYLT | None:
    """Make a frame of such lyrics; None unless each line has its time."""
    found = [_LINE.fullmatch(line) for line in text.splitlines() if line.strip()]
    if not found or None in found:
        return None
    timed = [(m[3], round(60_000 * int(m[1]) + 1000 * float(m[2]))) for m in found if m]
    return SYLT(
        encoding=_ENCODING, lang=_LANGUAGE, format=_MILLISECONDS, type=_LYRICS, desc="", text=timed
    )


def rating(number: int) -> str | None:
    """Convert ID3's rating of 1 to 255 to one of 20 to 100, by stars; None for 0, unknown."""
    stars = min(range(1, 6), key=lambda each: abs(_STARS[each] - number))
    return str(20 * stars) if number else None


def rating_frame(text: str) -> POPM | None:
    """Make a frame of a rating of 1 to 5 or 6 to 100; None for any other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not 0 < value <= 100:
        return None
    stars = round(value if value <= 5 else value / 20)
    return POPM(email="", rating=_STARS[min(max(stars, 1), 5)], count=0)
