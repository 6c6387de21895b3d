"""Make a small set of all material of the recipe by this package's synthesiser, for a trial.

python recipes/apollo_small/make_demo.py --out data/demo/sounds

OUT holds ``samples``, ``real``, ``records`` and ``valid``, the folders of the other commands, with
different songs. An OUT that exists is kept.
"""

from pathlib import Path

import numpy as np

from apollo_plugin import audio
from apollo_plugin.cli.terminal import run, script_parser
from apollo_plugin.data.demo import song
from apollo_plugin.files import atomic_write

RATE = 44100
# Names in sounds.py and mixes.py, and the stems that stand for them.
SAMPLES = dict(
    bd_="drums",
    sn_="drums",
    hat_="drums",
    drum_cymbal_="drums",
    drum_tom_="drums",
    tabla_="drums",
    loop_="drums",
    bass_="bass",
    guit_="guitar",
    ambi_="piano",
)
REAL = dict(drums="drums", bass="bass", guitars="guitar", keys="piano", vocals_sung="vocals")
N_EACH, SAMPLE_S, SONG_S = 2, 1.0, 4.0


def sounds() -> dict[str, np.ndarray]:
    """Make each file's name and its samples ``(2, time)``."""
    found = {}
    for index in range(N_EACH):
        stems = song(SONG_S, index, RATE)
        for kind, stem in SAMPLES.items():
            found[f"samples/{kind}{index}"] = stems[stem][:, : round(SAMPLE_S * RATE)]
        stems = song(SONG_S, N_EACH + index, RATE)
        for kind, stem in REAL.items():
            found[f"real/{kind}/{index}"] = stems[stem]
        for number, folder in enumerate(("records", "valid"), 2):
            found[f"{folder}/{index}"] = sum(song(SONG_S, number * N_EACH + index, RATE).values())
    return found


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    if args.out.exists():
        return
    with atomic_write(args.out) as beside:
        for name, wav in sounds().items():
            audio.write(beside / f"{name}.flac", wav, RATE, "FLAC", "PCM_16")


if __name__ == "__main__":
    run(main)
