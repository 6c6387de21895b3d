"""The script behind the bundled checkpoint: it learns, repeats itself, and says what it lacks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import tone

from apollo_plugin import Apollo
from apollo_plugin.losses import GeneratorLoss
from apollo_plugin.training import load_conf

SCRIPT = Path(__file__).parents[2] / "recipes" / "apollo_small" / "train.py"


def train(folder, out, *arguments):
    command = [sys.executable, SCRIPT, "--samples", folder, "--out", out, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_a_short_run(tmp_path):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for index in range(3):
        soundfile.write(sounds / f"{index}.wav", tone(30000 + index).T.numpy(), 44100)
    (sounds / "notes.txt").write_text("not a sound")
    options = "--steps 3 --batch 2 --seconds 0.3 --songs 2 --validate-every 2 --threads 1".split()
    states = []
    for name in ("first", "second"):
        done = train(sounds, tmp_path / f"{name}.safetensors", *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("validation") == 3
        states.append(Apollo.from_pretrained(tmp_path / f"{name}.safetensors").state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    fresh = Apollo(feature_dim=48, n_layers=2, n_heads=4, tcn_blocks=2, tcn_ratio=3, residual=True)
    assert any(
        not torch.equal(v, states[0][k]) for k, v in fresh.state_dict().items() if k in states[0]
    )


def test_a_segment_is_the_same_whenever_it_is_asked_for(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from train import Mixtures

    sounds = [tone(20000, 1).numpy(), tone(50000).numpy(), np.zeros((2, 3000), np.float32)]
    data = Mixtures(sounds, 5, 13230, seed=4)
    again = Mixtures(sounds, 5, 13230, seed=4)
    _ = again[1]
    for index in (3, 0):
        for a, b in zip(data[index], again[index]):
            assert torch.equal(a, b) and a.shape == (13230,) and torch.isfinite(a).all()
    assert not torch.equal(data[0][1], data[1][1])


def test_a_folder_without_sounds(tmp_path):
    done = train(tmp_path, tmp_path / "out.safetensors")
    assert done.returncode != 0 and "holds no audio files" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", sorted(SCRIPT.parent.glob("conf*.yml")), ids=lambda p: p.stem)
def test_configurations_differ_from_the_recipe_s_in_known_keys(path):
    base = SCRIPT.parent.parent / "musdb18hq_moises" / "local" / "conf.yml"
    conf = load_conf(path, base)
    model = Apollo(**conf["model"])
    name = "apollo-small-streaming" if "streaming" in path.stem else "apollo-small"
    bundled = Apollo.from_pretrained(name).get_model_args()
    assert {**model.get_model_args(), "kernel_size": bundled["kernel_size"]} == bundled
    if "finish" in path.stem:
        assert model.get_model_args() == bundled
    GeneratorLoss(**conf["loss"])
