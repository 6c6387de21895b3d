"""The excerpt of music in the package, and the page of it in docs/listen."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import snr

from apollo_plugin import Apollo
from apollo_plugin.data import excerpt
from apollo_plugin.diagnose import diagnose
from apollo_plugin.restore import restore_audio

ROOT = Path(__file__).parents[2]
FILE = ROOT / "apollo_plugin" / "demo" / "orchestra.flac"
LISTEN = ROOT / "docs" / "listen"


def test_it_is_music_that_was_never_coded():
    wav, rate = excerpt.excerpt()
    assert rate == 44100 and wav.dtype == np.float32 and wav.shape == (2, 3.88 * rate)
    wav = torch.from_numpy(wav)
    assert torch.equal(wav[0], wav[1]) and 0.5 < wav.abs().max() <= 1
    assert diagnose(wav, rate).cutoff is None
    # Its strokes reach 18 kHz: there, they stand out of what lies between them.
    frames = wav[0].unfold(0, 1024, 512) * torch.hann_window(1024)
    hertz = np.fft.rfftfreq(1024, 1 / rate)
    power = torch.fft.rfft(frames).abs().square()[:, (hertz > 17500) & (hertz < 18500)].mean(1)
    assert power.quantile(0.95) > 30 * power.quantile(0.1)  # 15 dB


def test_it_is_small_and_named():
    info = soundfile.info(FILE)
    assert (info.format, info.subtype, info.channels) == ("FLAC", "PCM_16", 1)
    assert 60_000 < FILE.stat().st_size < 200_000
    for path in (FILE.with_suffix(".md"), ROOT / "README.md", LISTEN / "index.html"):
        text = path.read_text("utf-8")
        assert "Music Technology Group" in text and "CC BY 4.0" in text, path


def test_the_page_is_of_the_excerpt_and_of_the_bundled_model():
    """python docs/listen.py makes page, sounds and picture anew."""
    sounds = {path.stem: soundfile.read(path, dtype="float32") for path in LISTEN.glob("*.flac")}
    wav = {name: torch.from_numpy(samples.T) for name, (samples, _) in sounds.items()}
    original, rate = excerpt.excerpt()
    assert all(sound_rate == rate for _, sound_rate in sounds.values())
    assert torch.equal(wav["original"], torch.from_numpy(original))
    restored = restore_audio(Apollo.from_pretrained("apollo-small"), wav["mp3"], rate)
    assert snr(wav["restored"], restored) > 40, "run docs/listen.py"
    assert excerpt.TITLE in (LISTEN / "index.html").read_text("utf-8")


@pytest.mark.parametrize("path", ["index.html", "original.flac", "mp3.flac", "restored.flac"])
def test_the_page_names_no_machine(path):
    content = (LISTEN / path).read_bytes()
    assert str(ROOT).encode() not in content and str(Path.home()).encode() + b"/" not in content
