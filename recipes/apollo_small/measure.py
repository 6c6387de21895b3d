"""Prints the table of the model card: SI-SNR and LSD of the MP3, of a checkpoint and of the paper.

python recipes/apollo_small/measure.py FOLDER [CHECKPOINT]

FOLDER holds one folder a bit rate (``24k``, ``32k`` ...) with ``original.wav``, ``mp3.wav`` and,
where known, ``paper_restored.wav``. Each excerpt is measured whole, as the mean of its channels.
"""

import argparse
from pathlib import Path

from apollo_plugin import Apollo, audio
from apollo_plugin.metrics import lsd, si_sdr
from apollo_plugin.restore import restore_audio


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
    print("| kbit/s | SI-SNR in dB: MP3, restored, paper's model | LSD: MP3, restored, paper's |")
    print("| --- | --- | --- |")
    for folder in folders:
        original, rate = audio.read(folder / "original.wav")
        coded, _ = audio.read(folder / "mp3.wav")
        rows = [coded, restore_audio(model, coded, rate)]
        if (folder / "paper_restored.wav").is_file():
            rows.append(audio.read(folder / "paper_restored.wav")[0])
        cells = [
            ", ".join(f"{measure(wav, original):.2f}" for wav in rows) for measure in (si_sdr, lsd)
        ]
        print(f"| {folder.name.rstrip('k')} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
