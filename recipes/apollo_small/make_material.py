"""Make songs of several stems as training material of the bundled checkpoints, free for anyone to
use and reproduce.

python recipes/apollo_small/make_material.py --samples FOLDER --real FOLDER --out data

Sound sources: a folder of audio samples (CC0: Sonic Pi's), a folder of real sounds in subfolders
named by instrument, a General MIDI sound font played by fluidsynth (Debian: fluidsynth,
fluid-soundfont-gm; MIT), and this package's own voice. They are sequenced, pitched, filtered,
reverberated, panned and levelled like records, half of them bright and loud. Every tenth sound and
program is played in validation and test songs only. The songs lie under ``OUT/songs``;
``OUT/{train,valid,test}/tracks.json`` list them, like stage 1 of the recipe musdb18hq_moises, so
that its stage 2 comes next.
"""

from functools import partial
from pathlib import Path

from material.song import make_song
from material.sounds import Sources
from tqdm import tqdm

from apollo_plugin.cli.terminal import run, script_parser
from apollo_plugin.data import parallel, splits, tracks
from apollo_plugin.errors import DataError


def main():
    parser = script_parser(__doc__)
    parser.add_argument("--samples", type=Path, required=True, help="folder of audio samples")
    parser.add_argument("--real", type=Path, help="folder of folders of real sounds")
    parser.add_argument("--real_valid", type=Path, help="the same, for validation and test only")
    parser.add_argument(
        "--font", type=Path, default=Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"), help="sound font"
    )
    parser.add_argument("--no_font", action="store_true", help="only what samples and voice play")
    parser.add_argument("--out", type=Path, required=True, help="folder for songs and lists")
    parser.add_argument("--n_train", type=int, default=100, help="songs")
    parser.add_argument("--n_valid", type=int, default=10)
    parser.add_argument("--n_test", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=36.0, help="length of a song")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n_jobs", type=int, help="processes")
    args = parser.parse_args()
    font = None if args.no_font else args.font
    for path in (args.samples, font, args.real, args.real_valid):
        if path and not path.exists():
            raise DataError(f"'{path}' does not exist")
    pools = ["valid"] * args.n_valid + ["test"] * args.n_test + ["train"] * args.n_train
    sources = Sources(args.samples, font, args.real, args.real_valid)
    work = partial(make_song, out=args.out, sources=sources, seconds=args.seconds, seed=args.seed)
    songs: dict[str, list] = {name: [] for name in splits.SPLITS}
    jobs = [(pool, index) for index, pool in enumerate(pools)]
    with parallel.executor(args.n_jobs) as pool:
        for (name, _), song in parallel.each(pool, work, jobs, len(jobs), "songs", "song"):
            if isinstance(song, Exception):
                raise song
            songs[name].append(song)
    for name, members in songs.items():
        tracks.save(sorted(members, key=lambda s: s.id), args.out / name / "tracks.json")
    tqdm.write(f"{len(jobs)} songs in '{args.out}'")


if __name__ == "__main__":
    run(main)
