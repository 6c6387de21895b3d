"""SDR of separating MUSDB's test songs from MP3, with restoration before, after, and without."""

import argparse
from pathlib import Path

from apollo_plugin import Apollo, files, separators
from apollo_plugin.cli.terminal import run
from apollo_plugin.data import tracks
from apollo_plugin.separation_scores import SOURCES, score_songs, table


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--musdb18hq_dir", required=True, help="folder with test/<song>/{mixture,vocals,...}.wav")
    add("--separator", default="HDEMUCS_HIGH_MUSDB", help="bundle, Hub id or file (%(default)s)")
    add("--sources", nargs=4, metavar="NAME", help="the separator's, if it does not name them")
    add("--checkpoint", default="apollo-small", help="of the restorer (%(default)s)")
    add("--kbps", type=int, default=64, help="bit rate of the MP3 (%(default)s)")
    add("--seconds", type=float, help="of the middle of each song; the whole unless given")
    add("--out", type=Path, default=Path("exp/pipelines"), help="folder (%(default)s)")
    args = parser.parse_args()
    problems = []
    songs = tracks.musdb18hq(args.musdb18hq_dir, problems)
    songs = [song for song in songs if song.id.startswith("musdb18hq/test/")]
    separator = separators.load(args.separator, sources=args.sources)
    restorer = Apollo.from_pretrained(args.checkpoint)
    settings = {key: getattr(args, key) for key in ("separator", "checkpoint", "kbps", "seconds")}
    scored = []
    for name, scores in score_songs(songs, separator, restorer, args.out, settings):
        if isinstance(scores, Exception):
            problems.append(f"{scores}; song left out")
            continue
        scored.append(scores)
        means = (sum(way[s] for s in SOURCES) / len(SOURCES) for way in scores.values())
        print(f"{name}: {', '.join(f'{mean:.2f}' for mean in means)}", flush=True)
    for line in problems:
        print(line)
    if not scored:
        raise ValueError("no song could be scored")
    with files.atomic_write(args.out / "table.md") as beside:
        beside.write_text(table(scored) + "\n")
    print(table(scored))
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
