"""Loudness of albums, measured when all their tracks are restored."""

import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .. import audio, tags
from ..errors import ApolloError, Uncoded
from ..files import is_special
from ..settings import Job, Settings
from .work import Result

# Names of folders of one disc: "CD1", "Disc 2 - Live", "Album (CD 2)".
_DISC = re.compile(
    r"(?:^|[\W_])(?:cd|dis[ck]|disque|side|lp|vinyl)[\W_]*(?:\d{1,2}|[a-d])(?![^\W_])",
    re.IGNORECASE,
)


def add_gains(
    results: Sequence[Result], kept: Sequence[Job], settings: Settings, bars: bool = False
) -> None:
    """Write the gain of albums to the tags of results whose sources had one.

    Args:
        results: of this run.
        kept: results of an earlier run.
        settings: the ones they were made with.
        bars: show a bar over the albums, on terminals.

    Warns:
        UserWarning: for tags that cannot be written.
    """
    albums: dict[tuple[Path, str], dict[Job, tags.Track]] = defaultdict(dict)
    left = [each.job for each in results if isinstance(each.error, Uncoded)]
    for each in results:
        if each.restored and each.restored.of_album:
            track = each.restored.of_album
            albums[_home(each.job, track.album)][each.job] = track
    folders = {folder for folder, _ in albums}
    # Files left unchanged belong to their album too.
    for job, place in [(job, job.target) for job in kept] + [(job, job.source) for job in left]:
        near = not folders.isdisjoint(job.source.absolute().parents[:2])
        found = _measured_track(job, place) if near else None
        if found and (home := _home(job, found.album)) in albums:
            albums[home][job] = found
    for tracks in tqdm(
        albums.values(), unit="album", desc="loudness", disable=None if bars else True
    ):
        levels = [track.level for track in tracks.values()]
        for job, track in tracks.items():
            if job in left or is_special(job.target):
                continue
            try:
                tags.add_album_gain(job.target, settings.format, track.kinds, levels)
            except ApolloError as error:
                warnings.warn(str(error), stacklevel=2)


def _home(job: Job, album: str) -> tuple[Path, str]:
    """Key of a track's album: its folder and title; the discs of a title are in one folder."""
    folder = job.source.absolute().parent
    return folder.parent if album and _DISC.search(folder.name) else folder, album


def _measured_track(job: Job, place: Path) -> tags.Track | None:
    """Measure a track of an album: an earlier result, or a source without one."""
    source = tags.read(job.source)
    if not source.has_album_gain:
        return None
    try:
        level = audio.measure(place)
    except ApolloError:
        return None
    return tags.Track(source.album, frozenset(source.loudness), level)
