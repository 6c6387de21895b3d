"""Division of songs into training, validation and test."""

import contextlib
import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import DataError
from .tracks import Song, load, save

SPLITS = ("train", "valid", "test")
# The customary validation songs of MUSDB18, from musdb's mus.yaml.
MUSDB_VALIDATION = (
    "ANiMAL - Rockshow",
    "Actions - One Minute Smile",
    "Alexander Ross - Goodbye Bolero",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Fergessen - Nos Palpitants",
    "James May - On The Line",
    "Johnny Lokke - Promises & Lies",
    "Leaf - Summerghost",
    "Meaxic - Take A Step",
    "Patrick Talbot - A Reason To Leave",
    "Skelpolu - Human Mistakes",
    "Traffic Experiment - Sirens",
    "Triviul - Angelsaint",
    "Young Griffo - Pennies",
)


def split(
    songs: Sequence[Song], seed: int = 0, valid_share: float = 0.1, test_share: float = 0.15
) -> dict[str, list[Song]]:
    """Divide songs into training, validation and test.

    Test songs of MUSDB18-HQ stay test songs and its customary 14 validation songs are for
    validation. The rest is divided by artist, MUSDB18-HQ first; an artist of MoisesDB or of one's
    own songs who is in MUSDB18-HQ too goes to the same split, so that no artist is in two.

    Args:
        songs: songs of any data set, and of one's own.
        seed: seed of the division.
        valid_share: minimum share of a data set's songs for validation.
        test_share: likewise for test; MUSDB18-HQ has test songs of its own.

    Returns:
        ``{"train": [...], "valid": [...], "test": [...]}``, sorted by id.
    """
    splits: dict[str, list[Song]] = {name: [] for name in SPLITS}
    home: dict[str, str] = {}  # artist -> split
    # Test last: an artist of both is a test artist.
    for name in ("valid", "test"):
        splits[name] = [song for song in songs if _fixed_split(song) == name]
        home |= {_artist(song): name for song in splits[name]}
    for dataset in ("musdb18hq", "moisesdb", "songs", "pairs"):
        members = [song for song in songs if song.id.startswith(dataset + "/")]
        divided = dataset != "musdb18hq"
        due = dict(
            test=max(len(members) > 2, round(test_share * len(members))) if divided else 0,
            valid=max(1, round(valid_share * len(members))),
        )
        if any(_fixed_split(song) == "valid" for song in members):
            due["valid"] = 0
        artists: dict[str, list[Song]] = defaultdict(list)
        for song in members:
            if not _fixed_split(song):
                artists[_artist(song)].append(song)
        order = sorted(artists)
        random.Random(f"{seed}/{dataset}").shuffle(order)
        if divided:
            order.sort(key=lambda artist: artist not in home)
        for position, artist in enumerate(order):
            # Training songs of MUSDB18-HQ stay training songs, as is customary. The last artist is
            # for training: a set of one song is a training set.
            if divided and artist in home:
                where = home[artist]
            elif position == len(order) - 1:
                where = "train"
            else:
                where = next((name for name in ("test", "valid") if due[name] > 0), "train")
            splits[where] += artists[artist]
            due[where] = due.get(where, 0) - len(artists[artist])
            home.setdefault(artist, where)
    return {name: sorted(members, key=lambda s: s.id) for name, members in splits.items()}


def _fixed_split(song: Song) -> str | None:
    if song.id.startswith("musdb18hq/test/"):
        return "test"
    if song.id.startswith("musdb18hq/") and song.id.split("/")[-1] in MUSDB_VALIDATION:
        return "valid"
    return None


def _artist(song: Song) -> str:
    return " ".join(song.artist.casefold().split())


def save_splits(splits: Mapping[str, Sequence[Song]], data_dir: str | os.PathLike) -> None:
    """Write ``<split>/tracks.json`` of all splits. If they differ from existing ones, those are
    removed first, with the results of later stages: old and new lists are never mixed.

    Args:
        splits: result of :func:`split`.
        data_dir: folder of the splits.
    """
    folders = {name: Path(data_dir) / name for name in splits}
    with contextlib.suppress(DataError, KeyError, TypeError):
        if all(load(folders[name] / "tracks.json") == list(splits[name]) for name in splits):
            return
    for folder in folders.values():
        for name in ("tracks.json", "segments.json", "pairs.json"):
            (folder / name).unlink(missing_ok=True)
    for name, songs in splits.items():
        save(songs, folders[name] / "tracks.json")
