"""Draws the picture of the README from what ``apollo-restore --demo`` wrote.

python docs/spectrogram.py apollo_demo docs/spectrogram.png      (needs matplotlib)
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile

TITLES = {"original": "original", "mp3": "MP3, 32 kbit/s", "restored": "restored by apollo-small"}


def main(folder: str, picture: str) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), sharey=True, layout="constrained")
    for axis, (name, title) in zip(axes, TITLES.items()):
        wav, rate = soundfile.read(Path(folder, f"{name}.wav"), always_2d=True)
        frames = np.lib.stride_tricks.sliding_window_view(wav[:, 0], 2048)[::256]
        power = np.abs(np.fft.rfft(frames * np.hanning(2048))) ** 2
        image = axis.imshow(
            10 * np.log10(power.T + 1e-8),
            origin="lower",
            aspect="auto",
            extent=(0, len(wav) / rate, 0, rate / 2000),
            vmin=-70,
            vmax=40,
            cmap="magma",
        )
        axis.set(title=title, xlabel="seconds")
    axes[0].set_ylabel("kHz")
    figure.colorbar(image, ax=axes, label="dB")
    figure.savefig(picture, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
