"""Stage 0: check that the data sets are complete; download or make them on request."""

import argparse
from pathlib import Path

from apollo_plugin.cli.terminal import run
from apollo_plugin.data import own, parallel, tracks
from apollo_plugin.data.demo_sets import write_demo_sets
from apollo_plugin.data.download import fetch_musdb18hq
from apollo_plugin.errors import ApolloError, DataError, SettingError

WHERE = """\
MUSDB18-HQ: https://doi.org/10.5281/zenodo.3338373 (22 GB, non-commercial); --download 1 fetches it.
MoisesDB: https://developer.moises.ai/research (83 GB, CC BY-NC-SA 4.0); accept its licence there,
unpack it and pass the folder that holds moisesdb_v0.1/."""
# Number of songs in the complete sets.
WHOLE = {"musdb18hq/train": 100, "musdb18hq/test": 50, "moisesdb": 240}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=WHERE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--musdb18hq_dir", type=Path, help="folder with train/ and test/")
    parser.add_argument("--moisesdb_dir", type=Path, help="folder with moisesdb_v0.1/")
    parser.add_argument("--songs_dir", type=Path, help="folder of songs without stems")
    parser.add_argument("--pairs_dir", type=Path, help="folder with original/ and coded/")
    parser.add_argument("--download", type=int, default=0, help="1: download MUSDB18-HQ")
    parser.add_argument("--demo", type=int, default=0, help="1: make small synthetic sets")
    parser.add_argument("--n_jobs", type=int, help="number of processes")
    parser.add_argument("--dask", help="address of a Dask scheduler, instead of processes")
    return parser.parse_args()


def provide_sets(args: argparse.Namespace) -> None:
    """Make the synthetic data sets, or download MUSDB18-HQ, if requested."""
    if args.demo:
        sets = {args.musdb18hq_dir.parent, args.moisesdb_dir.parent}
        names = {args.musdb18hq_dir.name, args.moisesdb_dir.name}
        if len(sets) != 1 or names != {"musdb18hq", "moisesdb"}:
            raise SettingError(
                "--demo 1 makes the folders musdb18hq and moisesdb in one place; leave out "
                "--musdb18hq_dir and --moisesdb_dir"
            )
        with parallel.executor(args.n_jobs, args.dask) as pool:
            n_made = write_demo_sets(sets.pop(), pool)
        print(f"{n_made} synthetic songs made, the others existed")
    elif args.download:
        if not args.musdb18hq_dir:
            raise SettingError("--download 1 needs --musdb18hq_dir, the folder to download to")
        fetch_musdb18hq(args.musdb18hq_dir)


def list_songs(args: argparse.Namespace, problems: list[str]) -> list[tracks.Song]:
    """List the songs of the data sets; print where to get a set that is missing."""
    songs = []
    for root, read in (
        (args.musdb18hq_dir, tracks.musdb18hq),
        (args.moisesdb_dir, tracks.moisesdb),
    ):
        if not root:
            continue
        try:
            songs += read(root, problems)
        except ApolloError:
            print(WHERE)
            raise
    return songs


def main():
    args = parse_arguments()
    provide_sets(args)
    own_dirs = args.songs_dir or args.pairs_dir
    if not (args.musdb18hq_dir or args.moisesdb_dir or own_dirs):
        print(WHERE)
        raise SettingError(
            "pass --musdb18hq_dir, --moisesdb_dir, --songs_dir or --pairs_dir (or --demo 1)"
        )

    problems: list[str] = []
    songs = list_songs(args, problems)
    # Their content is checked in stage 1.
    n_files = len(own.sounds(args.songs_dir)) if args.songs_dir else 0
    n_pairs = len(own.pair_files(args.pairs_dir, problems)) if args.pairs_dir else 0
    for line in problems:
        print(line)
    if not songs and not n_files and not n_pairs:
        raise DataError("none of the songs can be used")
    for part, n_whole in WHOLE.items():
        n_songs = sum(song.id.startswith(part + "/") for song in songs)
        given = args.moisesdb_dir if part == "moisesdb" else args.musdb18hq_dir
        if not given:
            print(f"{part}: not given, so not used")
        elif args.demo or n_songs == n_whole:
            print(f"{part}: {n_songs} songs")
        else:
            print(f"{part}: {n_songs} of {n_whole} songs are complete")
    if own_dirs:
        print(f"your own material: {n_files} songs, {n_pairs} pairs")


if __name__ == "__main__":
    run(main)
