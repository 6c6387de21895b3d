"""Compute band energies of mixes, coded in several ways, for fitting the baseline of ridge.py.

python recipes/apollo_small/make_energies.py --real FOLDER --songs data/songs --out energies/train

A mix (mixes.py) is coded as MP3 at two of the paper's bit rates and once by another codec or rate
(``EVERYDAY``), since mixing costs more than coding. Each mix becomes a file ``NUMBER.npz``: for
each coding the ``features`` of :class:`EnvelopePath` in half precision, the ``log_gains`` of the
original, and its coding. Files depend on ``--seed`` and their number only, and existing ones are
kept, so the command resumes.
"""

import time
from pathlib import Path

import numpy as np
import torch
from material.mixes import MP3_SHARES, RATE, Bank, draw, load

from apollo_plugin.cli.terminal import run, script_parser
from apollo_plugin.data.codecs import BIT_RATES, CODECS, EVERYDAY, draw_codec
from apollo_plugin.files import atomic_write
from apollo_plugin.network.filterbank import ApolloSTFT
from apollo_plugin.network.highs.envelope import EnvelopePath

OTHERS = {name: share for name, share in EVERYDAY.items() if name != "mp3"}


def make(bank: Bank, index: int, seed: int, seconds: float) -> dict | None:
    """Compute the arrays of one mix; None if it is silent.

    Args:
        bank: sounds to draw from.
        index: number of the mix.
        seed: of everything random, together with the number.
        seconds: length of the mix.
    """
    random = np.random.default_rng((seed, index))
    wav = torch.from_numpy(draw(bank, random, round(seconds * RATE))).float()
    if wav.abs().max() < 1e-2:
        return None
    wav = wav * 10 ** (-random.uniform(0, 12) / 20)  # coding noise depends on level
    rates = random.choice(BIT_RATES, 2, replace=False, p=MP3_SHARES)
    other = draw_codec(random, OTHERS), int(random.choice(BIT_RATES))
    return energies(wav, [*(("mp3", int(kbps)) for kbps in rates), other])[0]


@torch.no_grad()
def energies(wav: torch.Tensor, codings: list[tuple[str, int]]) -> tuple[dict, list[torch.Tensor]]:
    """Compute the features of a mix in each coding and the log gains of the original, as saved; and
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
    parser = script_parser(__doc__)
    parser.add_argument("--real", type=Path, required=True, help="folder of folders of recordings")
    parser.add_argument("--songs", type=Path, help="folder of folders of stems, train*")
    parser.add_argument("--loops", type=Path, help="folder of samples, those named loop_*")
    parser.add_argument("--records", type=Path, help="folder of whole songs, gather_records.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("--n_mixes", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a mix")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    bank = load(args.real, args.songs, args.loops, args.records)
    args.out.mkdir(parents=True, exist_ok=True)
    start, n_made = time.time(), 0
    for index in range(args.n_mixes):
        file = args.out / f"{index:06d}.npz"
        if file.exists():
            continue
        arrays = make(bank, index, args.seed, args.seconds)
        if arrays is None:
            continue
        save(arrays, file)
        n_made += 1
        if n_made % 50 == 0:
            print(f"{index + 1} of {args.n_mixes}, {(time.time() - start) / n_made:.2f} s a mix")


if __name__ == "__main__":
    run(main)
