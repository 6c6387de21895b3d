"""Prints the table of the model card: SI-SNR, SDR, LSD and ViSQOL of the MP3, of a checkpoint and
of the paper's model, and the SI-SNR of music that was never coded to what the checkpoint makes of
it.

python recipes/apollo_small/measure.py FOLDER [CHECKPOINT]

FOLDER holds one folder a bit rate (``24k``, ``32k`` ...) with ``original.wav``, ``mp3.wav`` and,
where known, ``paper_restored.wav``. Each excerpt is measured whole, as the mean of its channels.
"""

import argparse
import statistics
from pathlib import Path

from apollo_plugin import Apollo, audio
from apollo_plugin.cli.terminal import run
from apollo_plugin.metrics import evaluate, si_sdr
from apollo_plugin.restore import restore_audio

METRICS = dict(si_sdr="SI-SNR in dB", sdr="SDR in dB", lsd="LSD", visqol="ViSQOL")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("checkpoint", nargs="?", default="apollo-small")
    args = parser.parse_args()
    folders = sorted(args.folder.glob("*k"), key=lambda path: int(path.name.rstrip("k")))
    if not folders:
        raise SystemExit(f"'{args.folder}' holds no folders such as 32k")
    model = Apollo.from_pretrained(args.checkpoint)
    print(f"| kbit/s | {' | '.join(METRICS.values())} | uncoded: SI-SNR in dB |")
    print("| ---" * (len(METRICS) + 2) + " |")
    visqol = []
    for folder in folders:
        original, rate = audio.read(folder / "original.wav")
        coded, _ = audio.read(folder / "mp3.wav")
        wavs = [coded, restore_audio(model, coded, rate)]
        if (folder / "paper_restored.wav").is_file():
            wavs.append(audio.read(folder / "paper_restored.wav")[0])
        rows = [evaluate(wav, original, rate, tuple(METRICS)) for wav in wavs]
        visqol.append(rows[1]["visqol"])
        cells = [", ".join(f"{row[name]:.2f}" for row in rows) for name in METRICS]
        untouched = si_sdr(restore_audio(model, original, rate), original)
        print(f"| {folder.name.rstrip('k')} | {' | '.join(cells)} | {untouched:.1f} |", flush=True)
    print(f"\nMP3, restored, paper's model. Mean ViSQOL, restored: {statistics.fmean(visqol):.2f}")


if __name__ == "__main__":
    run(main)
