"""The scripts behind the bundled checkpoints: material, energies, trainings and measurements."""

import argparse
import struct
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import encoded, read, small_model, tone
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter1d
from scipy.signal import correlate2d

from apollo_plugin import Apollo, checkpoints
from apollo_plugin.data.demo import mixture
from apollo_plugin.errors import CheckpointError
from apollo_plugin.losses import GeneratorLoss
from apollo_plugin.network.highs.envelope import EnvelopePath
from apollo_plugin.training import load_conf

RECIPE = Path(__file__).parents[2] / "recipes" / "apollo_small"


def test_a_short_run(tmp_path, command):
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for index in range(3):
        soundfile.write(sounds / f"{index}.wav", tone(30000 + index).T.numpy(), 44100)
    (sounds / "notes.txt").write_text("not a sound")
    options = "--steps 3 --batch 2 --seconds 0.3 --songs 2 --validate-every 2 --threads 1".split()
    options += ["--n-valid", 4]
    states = []
    for name in ("first", "second"):
        out = tmp_path / f"{name}.safetensors"
        done = command("train.py", "--samples", sounds, "--out", out, *options)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("epoch 2 of 2") == 1
        states.append(Apollo.from_pretrained(tmp_path / f"{name}.safetensors").state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
    fresh = Apollo(feature_dim=48, n_layers=2, n_heads=4, tcn_blocks=2, tcn_ratio=3, residual=True)
    assert any(
        not torch.equal(v, states[0][k]) for k, v in fresh.state_dict().items() if k in states[0]
    )
    # The schedule: a share of the rate in the warm-up, over the four steps of two epochs.
    last = torch.load(tmp_path / "first" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["lr_schedulers"][0]["last_epoch"] == 4
    assert last["lr_schedulers"][0]["_last_lr"] == [0.0]  # the end of the cosine
    # A run that was stopped, as this one is by what its end leaves, goes on; its epochs are there.
    (tmp_path / "first" / "train_metrics.json").unlink()
    done = command(
        "train.py", "--samples", sounds, "--out", tmp_path / "first.safetensors", *options
    )
    assert done.returncode == 0 and "epoch 1 of" not in done.stderr, done.stderr
    assert (tmp_path / "first" / "train_metrics.json").exists()
    # What ends early or is refused says what to do without options that this command lacks.
    for changes, words in (
        (("--steps", 1), "more than epochs 1; set more, or start a new training in another folder"),
        (("--steps", 7, "--snr-weight", 1e39), "is kept, the same command continues after it"),
    ):
        done = command(
            "train.py", "--samples", sounds, "--out", tmp_path / "first.safetensors", *options,
            *changes,
        )  # fmt: skip
        assert done.returncode != 0 and words in done.stderr, done.stderr


def test_a_segment_is_the_same_whenever_it_is_asked_for(recipe):
    from train import Mixtures

    sounds = [tone(20000, 1).numpy(), tone(50000).numpy(), np.zeros((2, 3000), np.float32)]
    data = Mixtures(sounds, 5, 13230, seed=4)
    again = Mixtures(sounds, 5, 13230, seed=4)
    _ = again[1]
    for index in (3, 0):
        for a, b in zip(data[index], again[index]):
            assert torch.equal(a, b) and a.shape == (13230,) and torch.isfinite(a).all()
    assert not torch.equal(data[0][1], data[1][1])
    again.set_epoch(2)
    assert torch.equal(again[1][0], Mixtures(sounds, 20, 13230, seed=4)[11][0])


def test_a_folder_without_sounds(tmp_path, command):
    done = command("train.py", "--samples", tmp_path, "--out", tmp_path / "out.safetensors")
    assert done.returncode != 0 and "holds no audio files" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("path", sorted(RECIPE.glob("conf*.yml")), ids=lambda p: p.stem)
def test_configurations_differ_from_the_recipe_s_in_known_keys(path):
    base = RECIPE.parent / "musdb18hq_moises" / "local" / "conf.yml"
    conf = load_conf(path, base)
    model = Apollo(**conf["model"])
    name = "apollo-small-streaming" if "streaming" in path.stem else "apollo-small"
    bundled = Apollo.from_pretrained(name).get_model_args()
    bundled |= dict(excitation=False, envelope_dim=0, envelope_kernel=13)  # the tokens alone
    assert {**model.get_model_args(), "kernel_size": bundled["kernel_size"]} == bundled
    if "finish" in path.stem:
        assert model.get_model_args() == bundled
    GeneratorLoss(**conf["loss"])


# ------------------------------------------------------------------------------------- material


def song(real, pool="train", seed=0, seconds=2):
    from material.sounds import CHORDS, Song, Sources

    sources = Sources(real, Path("none"), real)
    random = np.random.default_rng(seed)
    return Song(random, pool, sources, seconds * 44100, 0.5, 48, CHORDS[0])


def test_every_tenth_real_sound_is_held_out(recipe, real_sounds):
    from material.sounds import choose_real

    heard = {}
    for pool in ("train", "valid"):
        some = song(real_sounds, pool)
        heard[pool] = {choose_real(some, ("guitars",)).tobytes() for _ in range(80)}
    assert len(heard["train"]) == 9 and len(heard["valid"]) == 1
    assert not heard["train"] & heard["valid"]
    with pytest.raises(ValueError, match="no folder harps or lutes"):
        choose_real(song(real_sounds), ("harps", "lutes"))


def test_an_excerpt_begins_with_an_onset(recipe):
    from material.sounds import excerpt

    wav = np.zeros((2, 44100))
    wav[:, 20000:20100] = 1.0
    sound = excerpt(wav, np.random.default_rng(0))
    assert 0 < np.flatnonzero(sound[0])[0] < 1000
    assert np.abs(sound).max() == 1 and abs(sound[0, -1]) < 0.01


def test_real_sounds_are_played(recipe, real_sounds):
    from material.performers import real_kit, real_notes, real_phrases

    for performer, kinds in (
        (real_kit, ()),
        (real_phrases, (("vocals_sung",),)),
        (real_notes, (("guitars",),)),
    ):
        wavs = [performer(song(real_sounds), *kinds) for _ in range(2)]
        assert np.array_equal(*wavs) and wavs[0].shape == (2, 88200) and np.abs(wavs[0]).max() > 0.1


def test_stems_of_a_loud_song_add_up_to_a_compressed_record(recipe):
    from material.song import brightened, squashed

    random = np.random.default_rng(1)
    stems = {name: 0.1 * random.standard_normal((2, 44100)) for name in ("a", "b")}
    stems["a"][:, :22050] *= 0.03
    stems["b"][:, :22050] *= 0.03
    mix = stems["a"] + stems["b"]
    squashed_mix = sum(squashed(stems, np.random.default_rng(2)).values())

    def contrast(wav):
        return np.std(wav[:, 24000:]) / np.std(wav[:, :20000])

    def crest(wav):
        return np.abs(wav[:, 24000:]).max() / np.std(wav[:, 24000:])

    assert contrast(squashed_mix) < 0.5 * contrast(mix)
    assert crest(squashed_mix) < crest(mix)
    # One gain for all: where both stems agree in sign they still do.
    assert (np.sign(squashed_mix) == np.sign(mix)).all()
    bright = sum(brightened(stems, np.random.default_rng(2)).values())
    spectra = [np.abs(np.fft.rfft(wav)).mean(0) for wav in (bright, mix)]
    gain = spectra[0] / spectra[1]
    assert gain[-2000:].mean() > 1.2 and abs(gain[:100].mean() - 1) < 0.05


# ------------------------------------------------------------------ energies, envelope, measuring


def test_from_recordings_to_an_envelope(prepared, real_sounds, tmp_path, command):
    pytest.importorskip("av")
    energies, valid = tmp_path / "energies", tmp_path / "valid"
    options = ("--real", real_sounds, "--out", energies, "--n_mixes", 2, "--seconds", 2)
    assert command("make_energies.py", *options).returncode == 0
    first = (energies / "000000.npz").stat().st_mtime_ns
    with np.load(energies / "000001.npz") as arrays:
        before = arrays["features"]
        assert before.shape == (3, 2, 201, 440) and len(arrays["codecs"]) == 3
    (energies / "000001.npz").unlink()
    done = command("make_energies.py", *options)
    assert done.returncode == 0, done.stderr
    assert (energies / "000000.npz").stat().st_mtime_ns == first
    with np.load(energies / "000001.npz") as arrays:
        np.testing.assert_array_equal(arrays["features"], before)
    records = tmp_path / "records"
    records.mkdir()
    soundfile.write(records / "a.flac", tone(44100).T.numpy(), 44100)
    options = (records, "--energies", valid, "--pairs", tmp_path / "pairs", "--seconds", 1)
    assert command("make_valid.py", *options).returncode == 0

    train = ("--real", real_sounds, "--valid", valid, "--out", tmp_path / "out", "--batch", 2)
    short = ("--seconds", 1.2, "--slots", 4, "--ridge_batches", 2)
    done = command("train_envelope.py", *train, *short, "--minutes", 0.04)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    for name, causal in (("small", False), ("streaming", True)):
        assert f"{name}  heard" in done.stdout
        path = EnvelopePath(n_features=384, kernel_size=25, causal=causal)
        fresh = path.encoder.weight.clone()
        path.load_state_dict(load_file(tmp_path / "out" / f"{name}.safetensors"))
        assert not torch.equal(path.encoder.weight, fresh)
        assert (tmp_path / "out" / f"{name}_2.safetensors").is_file()
    # Measured on the validation pairs of stage 3, the baseline beside.
    small = tmp_path / "small.safetensors"
    checkpoints.save(small_model(), small)
    done = command(
        "measure.py", prepared / "valid", small, "--energies", energies, "--no_visqol",
        "--n_most", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| 24 |", "| 64 |"))]
    assert len(rows) == 4 and "nan" not in "".join(rows)


def test_a_training_goes_on_where_it_was_stopped(recipe, real_sounds, tmp_path, monkeypatch):
    import train_envelope
    from material.mixes import load
    from material.stream import Stream

    monkeypatch.setattr(train_envelope, "SAVED_EVERY", 0.0)
    stream = Stream(load(real_sounds, None, None, None), 1, 4, 2.0, 0)
    steps = []
    for minutes in (0.04, 0.08):
        args = argparse.Namespace(
            models=["small"], device="cpu", lr=1e-3, similarity=1.0, out=tmp_path, valid=None,
            batch=1, seconds=1.2, slots=4, seed=0, init_from=None, ridge_batches=1, minutes=minutes,
            features=176, kernel=5,
        )  # fmt: skip
        train_envelope.train(stream, args)
        state = torch.load(tmp_path / "state", weights_only=True)
        steps.append((state["small"]["n_steps"], state["used"]))
    stream.close()
    assert 0 < steps[0][0] < steps[1][0] and steps[0][1] < 0.04 * 60 < steps[1][1]


# ------------------------------------------------------------------------ mixes that are drawn


class Mean:
    """A generator that draws what is most likely."""

    def normal(self, mean, spread, size=None):
        return np.full(size, mean) if size else mean

    def uniform(self, low, high):
        return high

    def random(self):
        return 0.5


def test_mastering_gives_white_noise_the_spectrum_of_records(recipe):
    from material.mixes import RECORD_DB, RECORD_HZ, mastered

    noise = np.random.default_rng(0).standard_normal((2, 5 * 44100)).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(mastered(noise, Mean(), (0.0, 1.0))))).mean(0)
    hertz = np.fft.rfftfreq(noise.shape[1], 1 / 44100)
    level = [10 * np.log10(power[np.abs(hertz / f - 1) < 0.05].mean()) for f in RECORD_HZ[3:-2]]
    expected = np.array(RECORD_DB[3:-2], float)  # within 15 dB of the median
    found = np.array(level) - np.mean(level) + expected.mean()
    assert np.abs(found - expected).max() < 2.5
    silence = mastered(np.zeros((2, 44100), np.float32), Mean(), (0.0, 1.0))
    assert np.isfinite(silence).all() and not silence.any()


def test_faster_is_higher_and_as_long(recipe):
    from material.mixes import _faster

    wav = (20000 * np.sin(2 * np.pi * 1000 / 44100 * np.arange(44100))).astype(np.int16)[None]
    higher = _faster(wav, 100, 20000, 1.5)
    assert higher.shape == (2, 20000) and (higher[0] == higher[1]).all()
    peak = np.abs(np.fft.rfft(higher[0] * np.hanning(20000))).argmax() * 44100 / 20000
    assert abs(peak - 1500) < 3
    assert np.abs(higher).max() == pytest.approx(20000 / 32768, rel=0.05)
    same = _faster(wav, 44000, 300, 1.0)  # goes on from the beginning
    np.testing.assert_array_equal(same[:1] * 32768, np.c_[wav[:, 44000:], wav[:, :200]])


def test_batches_are_mixes_and_what_codecs_leave_of_them(recipe, real_sounds):
    from material.mixes import DataError, draw, load
    from material.stream import HEARD, Stream

    bank = load(real_sounds, None, None, None)
    one, other = (draw(bank, np.random.default_rng(3), 30000) for _ in range(2))
    assert one.shape == (2, 30000) and np.isfinite(one).all()
    np.testing.assert_array_equal(one, other)
    stream = Stream(bank, 1, 4, 1.0, 0)
    stream.wait(2)
    coded, original = stream.batch(np.random.default_rng(0), 6, 20000)
    assert coded.shape == original.shape == (6, 20000)
    lows = torch.fft.rfft(torch.stack((coded, original)))[
        ..., :900
    ]  # 2 kHz, which every codec keeps
    for a, b in zip(*torch.fft.irfft(lows)):
        assert torch.corrcoef(torch.stack((a, b)))[0, 1] > 0.7
    # No more are drawn than are heard.
    stream.wait(5)
    time.sleep(0.5)
    assert stream.n_made == 4 + 6 // HEARD + 1
    stream.batch(np.random.default_rng(0), 2 * HEARD, 20000)
    stream.wait(8)
    stream.close()
    for process in stream.processes:
        process.join()
    with pytest.raises(DataError, match="has ended"):
        stream.batch(np.random.default_rng(0), 1, 20000)


def test_similarity_is_a_textbook_s(recipe):
    from highs.similarity import _C1, _C3, HOP, SLOPES, WINDOW, Dissimilarity, hearing_bands

    random = torch.Generator().manual_seed(0)
    est, ref = (2 * torch.randn(1, 60, 88, generator=random) for _ in range(2))
    measure = Dissimilarity(88, noise=False)
    assert measure(ref, ref, torch.zeros_like(ref)).item() == pytest.approx(0, abs=1e-3)
    weight = hearing_bands(88)[0].double().numpy()
    hann = np.hanning(WINDOW + 2)[1:-1]
    levels = []
    for x in (est, ref):
        energy = np.exp(2 * x[0].double().numpy()) @ weight
        windows = [hann / hann.sum() @ energy[i : i + WINDOW] for i in range(0, 60 - 7, HOP)]
        levels.append(10 * np.log10(np.array(windows).T + 1e-6))
    floor = np.maximum(*levels).max(0) - 45
    levels = [np.maximum(level, floor) for level in levels]
    lowest = min(level.min() for level in levels)
    a, b = ((level - lowest)[measure.counted] for level in levels)
    around = np.outer(*[np.exp(-2 * np.array([1.0, 0.0, 1.0]))] * 2)

    def mean(x):
        return correlate2d(np.pad(x, 1, mode="edge"), around / around.sum(), "valid")

    one, other = mean(a), mean(b)
    spread = np.sqrt((mean(a * a) - one**2) * (mean(b * b) - other**2))
    similar = (2 * one * other + _C1) / (one**2 + other**2 + _C1)
    similar = similar * (mean(a * b) - one * other + _C3) / (spread + _C3)
    found = measure(est, ref, torch.zeros_like(ref)).item()
    slopes = np.array(SLOPES)[:, None]
    assert found == pytest.approx(1 - (slopes * similar).sum() / slopes.sum() / 27, abs=2e-3)
    visqol = pytest.importorskip("visqol.nsim").GAUSSIAN_WINDOW
    np.testing.assert_allclose(visqol, around / around.sum(), atol=2e-3)


def test_only_noise_varies_by_chance(recipe):
    from highs.similarity import Dissimilarity

    ref, measure = torch.randn(1, 60, 88), Dissimilarity(88)
    nothing, everything = torch.zeros_like(ref), torch.ones_like(ref)
    assert measure(ref, ref, nothing) < 1e-3 < 2e-3 < measure(ref, ref, everything)


def test_recordings_for_validation(tmp_path, command):
    folder = tmp_path / "records"
    folder.mkdir()
    soundfile.write(folder / "a.flac", tone(60000).T.numpy(), 44100)
    soundfile.write(folder / "b.wav", tone(50000, 1).T.numpy(), 44100)
    options = (folder, "--energies", tmp_path / "e", "--pairs", tmp_path / "p", "--seconds", 1)
    done = command("make_valid.py", *options)
    assert done.returncode == 0, done.stderr
    for index in range(2):
        with np.load(tmp_path / "e" / f"{index:06d}.npz") as arrays:
            assert arrays["kbps"].tolist() == [24, 32, 48, 64, 96]
            assert arrays["features"].shape == (5, 2, 101, 440)
        for kbps in (24, 96):
            pair = tmp_path / "p" / f"{kbps}k" / f"{index:02d}"
            original, rate = soundfile.read(pair / "original.flac")
            coded, _ = soundfile.read(pair / "mp3.flac")
            assert original.shape == coded.shape == (44100, 2) and rate == 44100
            assert np.abs(original).max() == pytest.approx(0.9, abs=1e-4)
            noise = np.mean((coded - original) ** 2) / np.mean(original**2)
            assert 1e-8 < noise < 0.1  # it is coded, and lies where the original does
    soundfile.write(folder / "c.wav", np.zeros(9000), 44100)
    done = command("make_valid.py", *options)
    assert done.returncode == 1 and done.stderr.strip().endswith("c.wav' is silent")


def test_ridge_is_least_squares(recipe):
    from highs.ridge import Ridge

    random = np.random.default_rng(0)
    x = random.standard_normal((500, 4))
    y = x @ random.standard_normal((4, 3)) + 2 + 0.1 * random.standard_normal((500, 3))
    ridge = Ridge(4, 3)
    for part in (slice(0, 100), slice(100, 500)):
        ridge.add(torch.from_numpy(x[part]), torch.from_numpy(y[part]))
    weight, bias = ridge.solve()
    expected = np.linalg.lstsq(np.c_[x, np.ones(500)], y, rcond=None)[0]
    np.testing.assert_allclose(np.c_[weight, bias], expected.T, atol=0.02)


def test_pairs_are_filtered_alike(recipe):
    from train_envelope import relevelled

    torch.manual_seed(0)
    pair = torch.randn(1, 3, 8192).repeat(2, 1, 1) * torch.tensor([1.0, 0.5])[:, None, None]
    coded, original = relevelled(pair)
    torch.testing.assert_close(0.5 * coded, original, rtol=1e-4, atol=1e-5)
    level = 20 * (original.std(-1) / pair[1].std(-1)).log10()
    assert level.unique().numel() == 3 and level.min() > -25 and level.max() < 15


def test_assembled_it_is_the_checkpoint_with_highs_beside(recipe, tmp_path):
    from assemble import SMOOTHING, TONALITY, assembled, smoothing

    torch.manual_seed(0)
    model = Apollo(feature_dim=16, n_layers=1, n_heads=2, residual=True, band_gain=True)
    path = EnvelopePath()
    envelope = tmp_path / "envelope.safetensors"
    save_file(path.state_dict(), envelope)
    new = assembled(model, [envelope]).eval()
    assert new.get_model_args() == {
        **model.get_model_args(), "excitation": True, "envelope_dim": 256
    }  # fmt: skip
    found, expected = new.highs.path.state_dict(), path.state_dict()
    for name in expected.keys() - {"decoder.weight", "decoder.bias"}:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)
    # Levels are smoothed over frequency by a Gaussian, as SciPy has it, above the source region.
    matrix = smoothing(88)
    assert matrix[:16].equal(torch.eye(88)[:16])
    levels = np.random.default_rng(0).normal(size=88)
    smooth = gaussian_filter1d(levels[16:], SMOOTHING, truncate=8)
    np.testing.assert_allclose((matrix.double() @ levels)[45:70], smooth[29:54], atol=1e-5)
    # What was coded coarsely is changed by the tokens; above their edge the path expects nothing.
    wav = torch.from_numpy(mixture(4.0, seed=3))[:1]
    wav = read(encoded(tmp_path / "a.mp3", wav, "libmp3lame", kbps=32))[0][:1]
    with torch.no_grad():
        # Of what they change below 4 kHz, a share is kept.
        held = assembled(model.eval(), [envelope], low=0.25).eval()
        changes = [(net(wav) - wav)[:, 88200:] for net in (model, new, held)]
        alone, whole, kept = (torch.fft.rfft(change).abs()[0] for change in changes)
        hertz = torch.fft.rfftfreq(changes[0].shape[1], 1 / 44100)

        def ratio(one, other, low, high):
            inside = (hertz > low) & (hertz < high)
            return (one[inside].norm() / other[inside].norm()).item()

        assert ratio(whole, alone, 300, 3700) == pytest.approx(1, rel=0.02)
        assert ratio(whole, alone, 8000, 20000) < 0.2
        assert ratio(kept, whole, 300, 3700) == pytest.approx(0.25, rel=0.02)
        assert ratio(kept, whole, 4800, 20000) == pytest.approx(1, rel=0.02)
        # Expecting more than there is, it fills above 4.25 kHz alone.
        path.decoder.bias += 6
        save_file(path.state_dict(), envelope)
        louder = assembled(model, [envelope]).eval()
        added = (louder(wav) - new(wav))[0, 88200:]
    added = torch.fft.rfft(torch.hann_window(len(added)) * added).abs().square()
    assert added[hertz < 4000].sum() < 1e-3 * added[hertz > 4300].sum()
    # Of two paths the mean; every share of the tile as it was chosen.
    second = tmp_path / "second.safetensors"
    save_file(EnvelopePath().state_dict(), second)
    mean = assembled(model, [envelope, second])
    torch.testing.assert_close(mean.highs.path.decoder.bias, torch.full((88,), 3.0))
    assert mean.highs.excitation.tonality == TONALITY
    longer = tmp_path / "longer.safetensors"
    save_file(EnvelopePath(n_features=180, kernel_size=5).state_dict(), longer)
    options = assembled(model, [longer]).get_model_args()
    assert options["envelope_dim"] == 180 and options["envelope_kernel"] == 5
    other = EnvelopePath(n_blocks=3).state_dict()
    save_file(other, envelope)
    with pytest.raises(CheckpointError, match="does not fit"):
        assembled(model, [envelope])
    save_file(other | {"more": torch.zeros(1)}, envelope)
    with pytest.raises(CheckpointError, match="two kinds"):
        assembled(model, [second, envelope])


# -------------------------------------------------------------------------------------- records


def edgar_archive(members):
    """``.pak`` as the Legend of Edgar has it: zlib streams, then a table of 268 bytes a row."""
    streams, table = b"", b""
    for name, data in members.items():
        stream = zlib.compress(data)
        sizes = (len(data), len(stream), len(streams))
        table += name.encode().ljust(256, b"\0") + struct.pack("<3I", *sizes)
        streams += stream
    return streams + table + struct.pack("<2I", len(streams), len(members))


@pytest.fixture
def packages(tmp_path):
    """Files that five packages leave on a machine: stems, archives, and what is not ours."""
    root = tmp_path / "root"
    games = root / "usr/share/games"
    sectoid = games / "fretsonfire/data/songs/sectoid"
    naev = root / "usr/share/naev/dat/snd/music"
    track = games / "supertuxkart/data/tracks/ancient_colosseum_labyrinth"
    for folder in (sectoid / "A song", naev, track, games / "ufoai/base"):
        folder.mkdir(parents=True)
    (sectoid / "library.ini").write_text("no sound")
    for name, n, amplitude in (("guitar", 30000, 0.6), ("song", 40000, 0.9)):
        wav = amplitude * np.stack([np.sin(0.03 * np.arange(n))] * 2, 1)
        soundfile.write(sectoid / "A song" / f"{name}.ogg", wav, 44100)
    for path in (naev / "empire1.ogg", naev / "agriculture.ogg", track / "Battle_Theme_1.ogg"):
        soundfile.write(path, tone(20000).T.numpy(), 44100)
    with zipfile.ZipFile(games / "ufoai/base/0music.pk3", "w") as archive:
        for name in ("David01", "azrael1", "PsymongN1"):
            archive.write(track / "Battle_Theme_1.ogg", f"music/{name}.ogg")
    sound = (track / "Battle_Theme_1.ogg").read_bytes()
    names = ("gfx/cat.png", "music/Battle.ogg", "music/Undead Rising.ogg", "music/Red Curtain.ogg")
    (games / "edgar").mkdir()
    (games / "edgar/edgar.pak").write_bytes(edgar_archive(dict.fromkeys(names, sound)))
    return root


def test_songs_of_packages_are_gathered(packages, tmp_path, command):
    out = tmp_path / "records"
    done = command("gather_records.py", "--root", packages, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "left out: cdogs-sdl-data gamine-data" in done.stderr
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "SOURCES.tsv",
        "edgar-data__Battle.ogg",
        "edgar-data__Red_Curtain.ogg",
        "fretsonfire-songs-sectoid__A_song.flac",
        "naev-data__empire1.ogg",
        "supertuxkart-data__Battle_Theme_1.ogg",
        "ufoai-music__David01.ogg",
        "ufoai-music__azrael1.ogg",
    ]  # and nothing whose licence forbids it
    rows = [row.split("\t") for row in (out / "SOURCES.tsv").read_text().splitlines()]
    assert sorted(row[0] for row in rows[1:]) == names[1:] and all(len(row) == 4 for row in rows)
    naev = packages / "usr/share/naev/dat/snd/music/empire1.ogg"
    assert (out / names[4]).read_bytes() == naev.read_bytes()
    assert len({(out / names[k]).read_bytes() for k in (1, 2, 5, 6, 7)}) == 1
    # Stems add up, the longest to its end, and below full scale.
    mix, rate = soundfile.read(out / names[3])
    assert mix.shape == (40000, 2) and rate == 44100
    assert np.abs(mix).max() == pytest.approx(0.98, abs=2e-3)
    assert mix[100:29000].std() / mix[31000:].std() == pytest.approx(1.5 / 0.9, rel=0.02)
    again = command("gather_records.py", "--root", packages, "--out", out)
    assert again.returncode == 0 and sorted(path.name for path in out.iterdir()) == names
    nothing = command("gather_records.py", "--root", tmp_path / "empty", "--out", tmp_path / "none")
    assert nothing.returncode == 1 and "holds none of the packages" in nothing.stderr
    assert "Traceback" not in nothing.stderr and not (tmp_path / "none").exists()


def test_records_are_heard_in_mixes(recipe, real_sounds, packages, tmp_path, command):
    from material.mixes import RECORDS, DataError, draw, load

    out = tmp_path / "records"
    command("gather_records.py", "--root", packages, "--out", out)
    bank = load(real_sounds, None, None, out)
    assert len(bank.kinds[RECORDS]) == 7
    # A tone of some 2100 Hz, where no other sound of these has a line.
    for sound in bank.kinds[RECORDS]:
        sound[:] = (9000 * np.sin(0.3 * np.arange(sound.shape[1]))).astype(np.int16)
    random = np.random.default_rng(0)
    powers = [np.square(np.abs(np.fft.rfft(draw(bank, random, 30000)))).sum(0) for _ in range(40)]
    peaked = [p[1000:].max() > 0.02 * p.sum() for p in powers]
    assert 13 < sum(peaked) < 35  # six in ten
    (out / "broken.ogg").write_bytes(b"OggS and then nothing")
    with pytest.raises(DataError, match=r"broken.ogg' cannot be read"):
        load(real_sounds, None, None, out)


def test_dark_mixes_lose_6_or_12_db_an_octave(recipe, monkeypatch):
    from material import mixes

    noise = np.random.default_rng(0).standard_normal((2, 2 * 44100)).astype(np.float32)
    monkeypatch.setattr(mixes, "OF_DARK", 1.0)
    monkeypatch.setattr(mixes, "DARKEST", 2000)
    monkeypatch.setattr(mixes, "LEAST_DARK", 2000.001)
    slopes = set()
    for seed in range(12):
        power = np.abs(np.fft.rfft(mixes.mastered(noise, np.random.default_rng(seed), (0, 0)))) ** 2
        low, high = (power[:, 2 * f - 400 : 2 * f + 400].mean() for f in (8000, 16000))
        slopes.add(round(10 * np.log10(low / high) / 6))
    assert slopes == {1, 2}


@pytest.mark.parametrize("causal", [False, True])
def test_a_wider_path_does_what_the_narrower_one_did(recipe, causal):
    from highs.widening import widened

    torch.manual_seed(0)
    narrow = EnvelopePath(n_features=176, kernel_size=5, causal=causal)
    with torch.no_grad():
        for parameter in narrow.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    wide = EnvelopePath(n_features=200, kernel_size=9, causal=causal)
    wide.load_state_dict(widened(narrow.state_dict(), wide))
    features = torch.randn(2, 50, 440)
    one, other = (path(features, path.initial_contexts(2), last=True)[0] for path in (narrow, wide))
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
    # And every new weight can be learnt: in three steps all of them move.
    before = {name: weight.clone() for name, weight in wide.state_dict().items()}
    optimizer = torch.optim.Adam(wide.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        wide(features, wide.initial_contexts(2), last=True)[0].square().mean().backward()
        optimizer.step()
    for name, weight in wide.state_dict().items():
        assert (weight != before[name]).float().mean() > 0.9, name
    for other in (EnvelopePath(n_features=300), EnvelopePath(n_features=176, n_blocks=3)):
        with pytest.raises(CheckpointError, match="no narrower path"):
            widened(other.state_dict(), wide)


# ----------------------------------------------------------------------------- what bands lack


def test_what_lies_above_a_low_pass_of_an_original_is_not_known(recipe):
    from highs.levels import FALL, UNKNOWN, WITHIN, known

    levels = torch.zeros(5, 30, 88)
    levels[1, :, 66:] = -4.0  # 35 dB
    levels[2, :, 80:] = -4.0  # every converter's
    levels[3] -= torch.linspace(0, 6, 88)  # steep, but no edge
    levels[4, :29, 70:] = UNKNOWN - 1  # a single frame is enough to know
    there = known(levels)
    assert there.shape == (5, 1, 88)
    assert there[[0, 2, 3, 4]].all()
    assert there[1, 0, : 66 - WITHIN].all() and not there[1, 0, 66:].any()
    levels[4, :, 70:] = UNKNOWN - 1
    assert known(levels)[4, 0].sum() < 71 and UNKNOWN < -FALL


def test_mean_errors_are_what_a_bias_adds(recipe, tmp_path):
    from highs.levels import SMOOTH, mean_errors, validate

    torch.manual_seed(0)
    levels = torch.randn(2, 40, 88)
    levels[..., 80:] = -6.9  # an original without anything there
    features = torch.cat((levels, torch.zeros(2, 40, 352)), -1)
    arrays = dict(
        features=features.expand(2, -1, -1, -1).numpy(),
        log_gains=levels.numpy(),
        kbps=np.array([24, 96]),
    )
    np.savez(tmp_path / "000000.npz", **arrays)
    path = EnvelopePath()  # expects what it is given
    assert mean_errors(path, [tmp_path]).abs().max() < 1e-5
    with torch.no_grad():
        path.decoder.bias += 0.5
    found = mean_errors(path, [tmp_path, tmp_path])
    assert not found[:16].any() and not found[80:].any()  # 24 kbit/s keep what is below 4 kHz
    torch.testing.assert_close(found[20:80], torch.full((60,), 0.5))
    dark = arrays | dict(log_gains=np.where(np.arange(88) < 66, levels - 0.5, levels - 4))
    (tmp_path / "coded").mkdir()
    np.savez(tmp_path / "coded/000000.npz", **dark)
    found = mean_errors(path, [tmp_path / "coded"])  # which had been coded before is no guide
    assert not found[66:].any() and found[20] == pytest.approx(1.0)
    found = mean_errors(path, [], [tmp_path])
    assert not found[64:].any() and found[63] == pytest.approx(0.5)
    bias = validate(path, tmp_path)[24][0]
    assert bias == pytest.approx(0.5 * 8.685889638, rel=1e-4)
    # One band that is wrong by 1 is a bell of sum 1.
    with torch.no_grad():
        path.decoder.bias[:] = 0
        path.decoder.bias[40] = 1
    found = mean_errors(path, [tmp_path])
    assert found.sum() == pytest.approx(1, abs=0.02) and found.argmax() == 40
    assert found[43] / found[40] == pytest.approx(np.exp(-0.5 * (3 / SMOOTH) ** 2), rel=0.02)


@pytest.mark.parametrize(
    "name, arguments, reason",
    [
        ("measure.py", ("{}",), "holds no folders such as 32k"),
        (
            "train_envelope.py",
            ("--real", "{}", "--out", "{}/e", "--minutes", "1"),
            "no folders with recordings",
        ),
        (
            "train_envelope.py",
            ("--real", "{}", "--out", "{}/e", "--minutes", "1", "--seconds", "0.4"),
            "0.52 or more",
        ),
        ("train.py", ("--samples", "{}", "--out", "{}/start"), "/start: name a file, such as"),
        ("train.py", ("--samples", "{}", "--out", "{}/folder.old"), ".old: name a file, such as"),
        ("make_material.py", ("--samples", "{}/no", "--out", "{}"), "/no' does not exist"),
    ],
)
def test_one_line_says_what_is_missing(tmp_path, name, arguments, reason, command):
    (tmp_path / "folder.old").mkdir()
    done = command(name, *(argument.format(tmp_path) for argument in arguments))
    assert done.returncode != 0 and reason in done.stderr and "Traceback" not in done.stderr
