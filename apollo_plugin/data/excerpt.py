"""Four seconds of recorded music in the package, restored by ``--demo`` and the pages."""

from importlib.resources import as_file, files

import numpy as np
import soundfile

from .codecs import encode_mp3

# Bit rate of the coded version.
KBPS = 64
TITLE = f"An orchestra, MP3 at {KBPS} kbit/s"
CREDIT = (
    "The orchestra is from the sounds of sms-tools by the Music Technology Group (UPF), "
    "CC BY 4.0, cut to 4 s."
)
# Relation of the bundled models to the excerpt.
HEARD = (
    "apollo-small was not trained on it; it is one of the recordings that checkpoints may be "
    "chosen by."
)


def excerpt() -> tuple[np.ndarray, int]:
    """Read the excerpt; it was recorded in mono, and both channels hold it.

    Returns:
        float32 ``(2, time)``, full scale 1.0, and its sample rate in Hz.
    """
    with as_file(files("apollo_plugin") / "demo" / "orchestra.flac") as path:
        wav, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return np.repeat(wav.T, 2, 0), rate


def coded() -> bytes:
    """Code the excerpt as an MP3 file of :data:`KBPS`."""
    return encode_mp3(*excerpt(), kbps=KBPS)
