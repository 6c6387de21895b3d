"""Make validation material for the choice of checkpoints: recordings as MP3 at 24 to 96 kbit/s.

python recipes/apollo_small/make_valid.py FOLDER --energies energies/valid --pairs pairs

FOLDER holds recordings in WAV or FLAC, of 44.1 kHz and independent of the training material. Songs
made of the training's instruments would favour models that memorise the instruments, however
different the notes. Each recording gives a file of band energies for train_envelope.py, and a pair
per bit rate for measure.py. Existing files are replaced.
"""

from pathlib import Path

import torch
from make_energies import RATE, energies, save
from tqdm import tqdm

from apollo_plugin import audio
from apollo_plugin.cli.terminal import run, script_parser
from apollo_plugin.errors import DataError

BIT_RATES = (24, 32, 48, 64, 96)
PEAK = 0.9


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--energies", type=Path, required=True, help="folder of the energies")
    parser.add_argument("--pairs", type=Path, required=True, help="folder of the pairs")
    parser.add_argument("--seconds", type=float, default=6.0, help="most of a recording")
    args = parser.parse_args()
    files = sorted(path for path in args.folder.rglob("*") if path.suffix in (".wav", ".flac"))
    if not files:
        raise DataError(f"'{args.folder}' holds no WAV or FLAC files")
    torch.set_num_threads(1)
    args.energies.mkdir(parents=True, exist_ok=True)
    for index, file in enumerate(tqdm(files, unit="file")):
        samples, rate = audio.read(file)
        if rate != RATE:
            raise DataError(f"'{file}' has {rate} Hz; resample it to {RATE} Hz first")
        wav = torch.from_numpy(samples)[:2, : round(args.seconds * RATE)].expand(2, -1)
        if not wav.any():
            raise DataError(f"'{file}' is silent")
        wav = PEAK * wav / wav.abs().max()
        arrays, coded = energies(wav, [("mp3", kbps) for kbps in BIT_RATES])
        save(arrays, args.energies / f"{index:06d}.npz")
        for kbps, signal in zip(BIT_RATES, coded):
            folder = args.pairs / f"{kbps}k" / f"{index:02d}"
            for name, part in (("original", wav), ("mp3", signal.clamp(-1, 1))):
                audio.write(folder / f"{name}.flac", part.numpy(), RATE, "FLAC", "PCM_24")


if __name__ == "__main__":
    run(main)
