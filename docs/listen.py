"""Makes the listening page of docs/listen, its sounds and the picture of the README.

python docs/listen.py      (needs the extra `eval`)

They are of the excerpt that comes with the package and of the bundled apollo-small, so they are
made anew with it.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile

from apollo_plugin.cli import main as apollo_restore
from apollo_plugin.data.excerpt import KBPS

DOCS = Path(__file__).parent
TITLES = {"original": "original", "mp3": f"MP3, {KBPS} kbit/s", "restored": "restored"}


def picture(folder: Path, path: Path) -> None:
    """Draws the spectrograms of the sounds in a folder beside each other."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), sharey=True, layout="constrained")
    for axis, (name, title) in zip(axes, TITLES.items()):
        wav, rate = soundfile.read(folder / f"{name}.flac", always_2d=True)
        frames = np.lib.stride_tricks.sliding_window_view(wav[:, 0], 2048)[::128]
        power = np.abs(np.fft.rfft(frames * np.hanning(2048))) ** 2
        image = axis.imshow(
            10 * np.log10(power.T + 1e-8),
            origin="lower",
            aspect="auto",
            extent=(0, len(wav) / rate, 0, rate / 2000),
            vmin=-50,
            vmax=40,
            cmap="magma",
        )
        axis.set(title=title, xlabel="seconds")
    axes[0].set_ylabel("kHz")
    figure.colorbar(image, ax=axes, label="dB")
    figure.savefig(path, dpi=80, metadata={"Software": None})


def main() -> int:
    folder = DOCS / "listen"
    arguments = ["--demo", "--overwrite", "--device", "cpu", "--format", "FLAC"]
    arguments += ["--subtype", "PCM_16", "-o", folder, "--report", folder / "index.html"]
    status = apollo_restore([str(argument) for argument in arguments])
    if status == 0:
        picture(folder, DOCS / "spectrogram.png")
    return status


if __name__ == "__main__":
    sys.exit(main())
