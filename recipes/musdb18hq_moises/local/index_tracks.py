"""Stage 1: index the songs and stems of all data sets, and divide them into splits."""

import argparse
from functools import partial
from pathlib import Path

from apollo_plugin.cli.terminal import run
from apollo_plugin.data import own, tracks
from apollo_plugin.data.splits import save_splits, split
from apollo_plugin.errors import SettingError


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--musdb18hq_dir", type=Path, help="folder with train/ and test/")
    parser.add_argument("--moisesdb_dir", type=Path, help="folder with moisesdb_v0.1/")
    parser.add_argument("--songs_dir", type=Path, help="folder of songs without stems")
    parser.add_argument("--pairs_dir", type=Path, help="folder with original/ and coded/")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the splits")
    parser.add_argument(
        "--allow_lossy",
        type=int,
        default=0,
        help="1: include songs of --songs_dir that are cut off themselves",
    )
    args = parser.parse_args()
    problems: list[str] = []
    lossy: list[str] | None = [] if args.allow_lossy else None
    songs: list[tracks.Song] = []
    sources = (
        (args.musdb18hq_dir, tracks.musdb18hq),
        (args.moisesdb_dir, tracks.moisesdb),
        (args.songs_dir, partial(own.songs, lossy=lossy)),
        (args.pairs_dir, own.pairs),
    )
    for root, read in sources:
        if root:
            songs += read(root, problems)
    for line in (*problems, *(lossy or ())):
        print(line)
    if not songs:
        raise SettingError(
            "none of the songs can be used"
            if any(root for root, _ in sources)
            else "pass --musdb18hq_dir, --moisesdb_dir, --songs_dir or --pairs_dir"
        )
    splits = split(songs, args.seed)
    save_splits(splits, args.data_dir)
    for name, members in splits.items():
        hours = sum(max(s.seconds for s in song.stems.values()) for song in members) / 3600
        print(f"{name}: {len(members)} songs, {hours:.2f} hours")
        if not members:
            print(f"{name}: empty, but stages 3 to 5 need songs; add some of other artists")
    if problems:
        print(f"{len(problems)} songs or pairs left out")
    if lossy:
        print(f"{len(lossy)} songs are cut off: models will learn to leave their highs empty")


if __name__ == "__main__":
    run(main)
