"""Makes what an envelope path learns from: band energies of mixes, coded in several ways.

python recipes/apollo_small/make_energies.py --data data/train --out energies/train --n_mixes 2000

``--data`` is a split that stages 1 and 2 of the recipe musdb18hq_moises have prepared. A mix is
rendered once and coded as MP3 at two of the paper's bit rates and once by another codec or rate
(``EVERYDAY``), since mixing costs more than coding. Each mix becomes a file ``NUMBER.npz``: for
each coding the ``features`` of :class:`EnvelopePath` in half precision, the ``log_gains`` of the
original, and how it was coded. Files are a function of ``--seed`` and their number alone and those
that are there are kept, so the command goes on where it was stopped, and any number of trainings
may read what is there meanwhile.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from song import balanced

from apollo_plugin import audio
from apollo_plugin.cli.terminal import run
from apollo_plugin.data.codecs import BIT_RATES, CODECS, EVERYDAY, draw_codec
from apollo_plugin.data.mixing import Library, Mix, draw_stems
from apollo_plugin.errors import DataError
from apollo_plugin.files import atomic_write
from apollo_plugin.network.envelope import EnvelopePath
from apollo_plugin.network.filterbank import ApolloSTFT

RATE = 44100
OTHERS = {name: share for name, share in EVERYDAY.items() if name != "mp3"}


def draw(library: Library, random: np.random.Generator, seconds: float) -> Mix:
    """One mix in five is of stems of several songs, the others are songs balanced anew: what
    shares a beat lets the lows tell of the highs, as on records."""
    if random.random() < 0.2:
        stems = draw_stems(random, library.stems, None)
        return library.draw(random, stems, seconds, 0)
    mix = library.draw_song(random, seconds, 0)
    parts = [p for p in mix.parts if random.random() > 0.2] or mix.parts
    gains = random.normal(0, 4, len(parts))
    parts = tuple(replace(part, gain_db=float(gain)) for part, gain in zip(parts, gains))
    return replace(mix, parts=parts)


def make(
    library: Library, index: int, seed: int, seconds: float, fixed: bool, real: Path | None
) -> dict | None:
    """Arrays of one mix; None where it is silent.

    Args:
        library: songs to draw from.
        index: number of the mix.
        seed: of everything random, with the number.
        seconds: length of the mix.
        fixed: code it as MP3 at each of the paper's bit rates, as validation wants it.
        real: folder of folders of recordings, which half of the mixes are made of.
    """
    random = np.random.default_rng((seed, index))
    if real and random.random() < 0.5:
        wav = torch.from_numpy(recorded(real, random, seconds)).float()
    else:
        mix = draw(library, random, seconds)
        tilt_db = 0.0 if random.random() < 0.5 else random.uniform(-1.5, 1.5)
        wav = torch.from_numpy(library.sum(replace(mix, tilt_db=tilt_db), RATE))
    if wav.abs().max() < 1e-2:
        return None
    wav = wav * 10 ** (-random.uniform(0, 12) / 20)  # coding noise depends on level
    if fixed:
        codings = [("mp3", kbps) for kbps in BIT_RATES]
    else:
        rates = random.choice(BIT_RATES, 2, replace=False, p=(0.19, 0.19, 0.19, 0.19, 0.16, 0.08))
        other = draw_codec(random, OTHERS)
        codings = [*(("mp3", int(kbps)) for kbps in rates), (other, int(random.choice(BIT_RATES)))]
    return energies(wav, codings)[0]


def recorded(folder: Path, random: np.random.Generator, seconds: float) -> np.ndarray:
    """One to four recordings of different kinds at once, each repeated as long as need be: what
    highs do beside what lows, which songs of instruments played by rote do not tell."""
    kinds = sorted(path for path in folder.iterdir() if any(path.glob("*.flac")))
    if not kinds:
        raise DataError(f"'{folder}' holds no folders with FLAC files")
    total = np.zeros((2, round(seconds * RATE)))
    for kind in random.permutation(len(kinds))[: random.integers(1, 5)]:
        files = sorted(kinds[kind].glob("*.flac"))
        wav, rate = audio.read(files[random.integers(len(files))])
        wav = wav[:2].expand(2, -1).double().numpy()
        if rate != RATE or not wav.any():
            continue
        start = random.integers(wav.shape[1])
        rows = [np.resize(np.roll(row, -start), total.shape[1]) for row in wav]
        total += balanced(np.stack(rows), random)
    return 0.9 * total / max(1e-9, np.abs(total).max())


@torch.no_grad()
def energies(wav: torch.Tensor, codings: list[tuple[str, int]]) -> tuple[dict, list[torch.Tensor]]:
    """Features of a mix coded in each way and the log gains of the original, as they are saved; and
    the coded signals.

    Args:
        wav: ``(2, time)``.
        codings: codec and kbit/s of each.
    """
    coded = [CODECS[name](wav, RATE, kbps) for name, kbps in codings]
    stft, path = ApolloSTFT(882, 882, sample_rate=RATE), EnvelopePath()
    wavs = torch.cat([wav, *coded])
    spec, _ = stft.analysis(wavs, stft.initial_analysis(len(wavs), wavs), last=True)
    spec = torch.view_as_real(spec)
    features = path.features(spec[2:]).unflatten(0, (len(codings), 2))
    arrays = dict(
        features=features.half().numpy(),
        log_gains=path.log_gains(spec[:2]).half().numpy(),
        codecs=np.array([name for name, _ in codings]),
        kbps=np.array([kbps for _, kbps in codings]),
    )
    return arrays, coded


def save(arrays: dict, file: Path) -> None:
    with atomic_write(file) as beside, beside.open("wb") as out:
        np.savez(out, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a split, stages 1 and 2 done")
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("--n_mixes", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a mix")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fixed", action="store_true", help="every bit rate of MP3: validation")
    parser.add_argument("--real", type=Path, help="folder of folders of recordings, for half of it")
    parser.add_argument("--wait", type=Path, help="pause while this file exists")
    args = parser.parse_args()
    torch.set_num_threads(1)
    library = Library(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    start, n_made = time.time(), 0
    for index in range(args.n_mixes):
        file = args.out / f"{index:06d}.npz"
        if file.exists():
            continue
        while args.wait and args.wait.exists():
            time.sleep(5)
        arrays = make(library, index, args.seed, args.seconds, args.fixed, args.real)
        if arrays is None:
            continue
        save(arrays, file)
        n_made += 1
        if n_made % 50 == 0:
            print(f"{index + 1} of {args.n_mixes}, {(time.time() - start) / n_made:.2f} s a mix")


if __name__ == "__main__":
    run(main)
