"""What is done and told when all files are through."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from .. import audio, tags
from ..errors import ApolloError
from ..files import is_special
from ..restore import Restored
from ..settings import Job, Settings
from .terminal import say

Results = Sequence[tuple[Job, Restored]]


def end(results: Results, kept: Sequence[Job], left: Sequence[Job], settings: Settings) -> None:
    """Ends a run.

    Args:
        results: what was restored.
        kept: what was restored before.
        left: what was left as it is.
        settings: how.
    """
    _add_album_gains(results, kept, left, settings)
    _say_notes(results)
    _say_level([restored for _, restored in results], settings)


def _add_album_gains(
    results: Results, kept: Sequence[Job], left: Sequence[Job], settings: Settings
) -> None:
    """Tells the loudness of albums, which is known only now, where the sources told it."""
    albums: dict[tuple[Path, str], dict[Job, tags.Track]] = defaultdict(dict)
    for job, restored in results:
        if restored.of_album:
            albums[job.source.parent, restored.of_album.album][job] = restored.of_album
    folders = {folder for folder, _ in albums}
    # What was left as it is belongs to its album, too.
    for job, place in [(job, job.target) for job in kept] + [(job, job.source) for job in left]:
        track = _measured_track(job, place) if job.source.parent in folders else None
        if track and (job.source.parent, track.album) in albums:
            albums[job.source.parent, track.album][job] = track
    for tracks in tqdm(albums.values(), unit="album", desc="loudness", disable=None):
        levels = [track.level for track in tracks.values()]
        for job, track in tracks.items():
            if job in left or is_special(job.target):
                continue
            try:
                tags.add_album_gain(job.target, settings.format, track.kinds, levels)
            except ApolloError as error:
                say(str(error))


def _measured_track(job: Job, place: Path) -> tags.Track | None:
    """A track of an album as it is: a result of before, or a source that has none."""
    source = tags.read(job.source)
    if not source.has_album_gain:
        return None
    try:
        level = audio.measure(place)
    except ApolloError:
        return None
    return tags.Track(source.album, frozenset(source.loudness), level)


def _say_notes(results: Results) -> None:
    """What happened to tags, each thing once."""
    where: dict[str, list[Job]] = defaultdict(list)
    for job, restored in results:
        for note in restored.notes:
            where[note].append(job)
    for note, jobs in where.items():
        more = f" and {len(jobs) - 1} more" if jobs[1:] else ""
        say(f"'{jobs[0].source}'{more}: {note}")


def _say_level(results: Sequence[Restored], settings: Settings) -> None:
    """Which headroom would have kept a run from clipping, between samples too."""
    peak = max((each.true_peak for each in results), default=0.0)
    if not settings.clips or peak <= 1:
        return
    over = 20 * math.log10(peak)
    n_clipped = sum(each.n_clipped for each in results)
    n_over = sum(each.true_peak > 1 for each in results)
    # Rounded up: it has to be enough.
    headroom = math.ceil(10 * (settings.headroom + over)) / 10
    say(
        f"{n_clipped} samples were clipped, {n_over} of {len(results)} result(s) go beyond full "
        f"scale (true peak +{over:.1f} dB); --headroom {headroom:g} would have kept all of it"
    )
