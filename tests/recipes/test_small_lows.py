"""train_lows.py: tokens that learn to remove coding noise below the cut-off."""

import argparse

import numpy as np
import pytest
import torch
from helpers import encoded, read, tone

from apollo_plugin import Apollo, checkpoints
from apollo_plugin.data.demo import mixture

RATE = 44100
OPTIONS = dict(
    feature_dim=16, n_layers=1, n_heads=2, residual=True, band_gain=True, excitation=True,
    envelope_dim=176, envelope_kernel=3,
)  # fmt: skip


@pytest.fixture
def lows(recipe):
    import train_lows

    return train_lows


def arguments(folder, **changed):
    options = dict(device="cpu", lr=1e-3, out=folder, seconds=0.5, batch=2, slots=4, seed=0)
    return argparse.Namespace(**options | changed)


def waves(*hertz, n=RATE):
    return sum(torch.sin(2 * torch.pi * f / RATE * torch.arange(n)) for f in hertz)[None]


def test_gains_are_those_of_errors_by_octave(lows):
    measure = lows.Lows(RATE)
    original = waves(100, 300, 700, 1500, 3000)
    coded = original + 0.1 * waves(350, 1600, 9000)
    # Of the two errors that count one is halved and one stays.
    est = original + 0.05 * waves(350) + 0.1 * waves(1600)
    gains = measure.gains(est, coded, original).squeeze(1)
    enough = 1e-5 / 0.01  # of a tone that stands for its octave
    halved = 10 * np.log10((1 + enough) / (0.25 + enough))
    expected = [10 * np.log10((2 + 5 * enough) / (1.25 + 5 * enough)), 0, halved, 0, 0, 0]
    np.testing.assert_allclose(gains, expected, atol=0.02)
    # What comes as good as this needs no help.
    better = measure.gains(original, original + 3e-4 * waves(350), original)
    assert better.abs().max() < 0.1


def test_changes_of_highs_are_found_and_lows_are_free(lows):
    measure = lows.Lows(RATE)
    before = waves(300, 8000)
    assert measure.change(before, before).item() == 0
    assert measure.change(before + 0.5 * waves(1000), before).item() < 0.01
    power = 1e-4**0.5  # of the change that counts 3 dB
    changed = measure.change(before + power * waves(9000), before).item()
    assert changed == pytest.approx(10 * np.log10(2), abs=0.01)


def test_tokens_learn_and_nothing_else_does(lows, tmp_path):
    torch.manual_seed(0)
    model = Apollo(**OPTIONS)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    training = lows.Training(model, arguments(tmp_path, lr=5e-3))
    training.n_steps = 50  # warm
    original = torch.from_numpy(mixture(2.0, seed=4))[:1]
    coded = read(encoded(tmp_path / "a.mp3", original, "libmp3lame", kbps=24))[0][:1]
    # Of a codec that takes 3 dB as well.
    pair = torch.stack([x.reshape(4, -1) for x in (0.7 * coded, original)])
    rows = [training.step(pair, 1.0) for _ in range(40)]
    assert np.mean([row[0] for row in rows[-5:]]) > np.mean([row[0] for row in rows[:5]]) + 1
    new = Apollo.from_pretrained(training.write())
    assert new.get_model_args() == model.get_model_args()
    changed = {name for name, value in new.state_dict().items() if not value.equal(start[name])}
    parts = {name.split(".")[0] for name in changed}
    # The gains of bands are the tokens', too, whatever their name.
    assert parts >= {"decoders", "encoders", "layers", "envelope"}
    assert not parts & {"highs"}


def test_a_resumed_training_is_an_uninterrupted_one(lows, tmp_path):
    torch.manual_seed(0)
    model = Apollo(**OPTIONS)
    checkpoints.save(model, tmp_path / "model.safetensors")

    def fresh():
        return lows.Training(Apollo.from_pretrained(tmp_path / "model.safetensors"), args)

    args = arguments(tmp_path)
    pair = 0.1 * torch.randn(2, 2, RATE // 2)
    one, other = fresh(), fresh()
    for training in (one, other):
        torch.manual_seed(1)
        for _ in range(2):
            training.step(pair, 1.0)
    torch.save(other.state(), tmp_path / "state")
    other = fresh()
    other.resume(torch.load(tmp_path / "state", weights_only=True))
    for training in (one, other):
        torch.manual_seed(2)
        training.step(pair, 0.5)
    assert one.n_steps == other.n_steps == 3
    for name, value in one.average.state_dict().items():
        assert value.equal(other.average.state_dict()[name]), name


def test_as_a_user_runs_it(real_sounds, tmp_path, command):
    torch.manual_seed(0)
    checkpoints.save(Apollo(**OPTIONS), tmp_path / "small.safetensors")
    run = ("train_lows.py", tmp_path / "small.safetensors", "--real", real_sounds)
    more = ("--out", tmp_path / "out", "--slots", 4, "--batch", 1, "--seconds", 0.5)
    done = command(*run, *more, "--minutes", 0.05)
    assert done.returncode == 0, done.stderr
    assert "steps: '" in done.stdout
    model = Apollo.from_pretrained(tmp_path / "out" / "model.safetensors")
    assert model(tone(2000)).isfinite().all()
    for wrong, reason in (
        (("--seconds", 0.1), "take 0.4 or more"),
        (("--real", tmp_path), "holds no"),
    ):
        done = command(*run, *more, "--minutes", 0.05, *wrong)
        assert done.returncode != 0 and reason in done.stderr and "Traceback" not in done.stderr
