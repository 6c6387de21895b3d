"""Both orders of separation and restoration against the steps done by hand."""

import warnings

import asteroid.separate
import numpy as np
import pytest
import soundfile
import torch
from asteroid.models import ConvTasNet
from helpers import at_one_level, resample, small_model, snr, tone

from apollo_plugin.batch import stems
from apollo_plugin.batch.plan import Places, plan
from apollo_plugin.cli import main
from apollo_plugin.engine.torch import TorchEngine
from apollo_plugin.pipelines import (
    RestoreThenSeparate,
    SeparateThenRestore,
    _distribute_remainder,
)
from apollo_plugin.restore import restore_audio
from apollo_plugin.separators import Separator, SeparatorError
from apollo_plugin.settings import Settings

RATE = 44100


def restorer(**options):
    return small_model(n_layers=1, residual=True, band_gain=True, **options)


def conv_tasnet():
    torch.manual_seed(0)
    return ConvTasNet(2, n_filters=32, n_blocks=2, n_repeats=1, sample_rate=8000).eval()


def smooth(wav):
    """A stereo separator: the mean of 31 samples, and the rest."""
    low = torch.nn.functional.avg_pool1d(wav, 31, 1, 15)
    return torch.stack((low, wav - low), 1)


@torch.no_grad()
def conv_tasnet_by_hand(model, wav):
    """``(channels, time)`` -> ``(2, channels, time)``: resampled, each channel apart, and back."""
    low = resample(wav, RATE, 8000)
    stems = torch.stack([model(channel) for channel in low], 1)
    return torch.stack([resample(stem, 8000, RATE, wav.shape[-1]) for stem in stems])


def each_at_one_level(model, stems):
    return torch.stack([at_one_level(model, stem) for stem in stems])


def rescaled(stems, wav):
    """The scaling that asteroid.separate gives every result."""
    return stems * wav.abs().sum() / stems.abs().sum()


# -------------------------------------------------------------------------- asteroid.separate


@torch.no_grad()
@pytest.mark.parametrize("n_channels", [1, 2])
def test_separate_with_asteroids_conv_tasnet_at_8_khz(n_channels):
    model, separator, wav = restorer(), conv_tasnet(), tone(30000, n_channels)
    after = asteroid.separate.separate(SeparateThenRestore(separator, model), wav[None])
    by_hand = each_at_one_level(model, conv_tasnet_by_hand(separator, wav))
    assert after.shape == (1, 2, 30000) if n_channels == 1 else (1, 2, 2, 30000)
    assert snr(after.reshape(by_hand.shape), rescaled(by_hand, wav)) > 90
    before = asteroid.separate.separate(RestoreThenSeparate(model, separator), wav[None])
    by_hand = conv_tasnet_by_hand(separator, at_one_level(model, wav))
    assert snr(before.reshape(by_hand.shape), rescaled(by_hand, wav)) > 90


@torch.no_grad()
def test_separate_with_a_stereo_function():
    model, wav = restorer(), tone(30000)
    array = asteroid.separate.separate(SeparateThenRestore(smooth, model), wav.numpy())
    stems = each_at_one_level(model, smooth(wav[None])[0])
    assert snr(torch.from_numpy(array), rescaled(stems, wav)) > 90
    array = asteroid.separate.separate(RestoreThenSeparate(model, smooth), wav.numpy())
    stems = smooth(at_one_level(model, wav)[None])[0]
    assert snr(torch.from_numpy(array), rescaled(stems, wav)) > 90


@torch.no_grad()
def test_separate_with_a_file(tmp_path):
    """Asteroid takes the first channel of a file and resamples it."""
    wav, pipeline = tone(24000, 1, 22050), SeparateThenRestore(conv_tasnet(), restorer())
    soundfile.write(tmp_path / "a.wav", wav[0].numpy(), 22050, "FLOAT")
    asteroid.separate.separate(pipeline, str(tmp_path / "a.wav"), resample=True)
    for index in (1, 2):
        written, rate = soundfile.read(tmp_path / f"a_est{index}.wav")
        assert rate == 22050 and abs(len(written) - 24000) <= 1 and np.abs(written).max() > 0


def test_a_pipeline_of_a_known_number_of_channels_is_refused_others():
    separator = Separator(smooth, in_channels=2)
    with pytest.raises(RuntimeError, match="2-channel inputs but found audio with 1"):
        asteroid.separate.separate(SeparateThenRestore(separator, restorer()), tone(5000, 1))


# ------------------------------------------------------------------------------------ the laws


def test_shapes_types_and_modes():
    pipeline = SeparateThenRestore(smooth, restorer().train())
    wav = tone(5000).double()
    assert not pipeline.training and pipeline.sample_rate == RATE
    assert pipeline(wav[0]).shape == (2, 5000) and pipeline(wav).shape == (2, 2, 5000)
    batch = pipeline(torch.stack((wav, wav.flip(0), 2 * wav)))
    assert batch.shape == (3, 2, 2, 5000) and batch.dtype == torch.float64
    assert snr(batch[1], pipeline(wav).flip(1)) > 90
    assert pipeline.sources == ["source1", "source2"] and not batch.requires_grad


@torch.no_grad()
def test_one_restorer_a_source():
    low, high, wav = restorer(), restorer(kernel_size=3), tone(20000)
    models = {"low": low, "high": high}
    after = SeparateThenRestore(smooth, models)
    stems = smooth(wav[None])[0]
    assert after.sources == ["low", "high"]
    restored = [at_one_level(low, stems[0]), at_one_level(high, stems[1])]
    assert snr(after(wav), torch.stack(restored)) > 90
    before = RestoreThenSeparate(models, smooth)
    ways = [smooth(at_one_level(model, wav)[None])[0] for model in (low, high)]
    assert snr(before(wav), torch.stack((ways[0][0], ways[1][1]))) > 90
    # In the separator's order, not in the mapping's.
    named = SeparateThenRestore(Separator(smooth, sources=["high", "low"]), models)
    restored = [at_one_level(high, stems[0]), at_one_level(low, stems[1])]
    assert snr(named(wav), torch.stack(restored)) > 90


@torch.no_grad()
@pytest.mark.parametrize("n_samples", [100, 2048, 30001])
def test_stems_that_sum_to_the_restored_mixture(n_samples):
    model, wav = restorer(), tone(n_samples)
    third = lambda wav: smooth(wav) / 3  # noqa: E731
    options = dict(sum_to_mixture=True)
    for pipeline in (
        SeparateThenRestore(third, model, **options),
        RestoreThenSeparate(model, third, **options),
        SeparateThenRestore(third, {"a": restorer(), "b": model, "mixture": model}, **options),
        RestoreThenSeparate({"a": restorer(), "b": model, "mixture": model}, third, **options),
    ):
        assert snr(pipeline(wav).sum(0), at_one_level(model, wav)) > 110


def test_the_remainder_goes_where_the_energy_is():
    """The first source sounds in the first half, the second in the second, both too quietly."""
    n = 40960
    wav = tone(n)
    first = torch.arange(n) < n // 2
    quiet = lambda wav: torch.stack((wav * first, wav * ~first), 1) / 2  # noqa: E731
    model = restorer()
    stems = RestoreThenSeparate(model, quiet, sum_to_mixture=True, mix=0.0)(wav)
    far = slice(0, n // 2 - 2048), slice(n // 2 + 2048, n)
    assert snr(stems[0][:, far[0]], wav[:, far[0]]) > 100
    assert snr(stems[1][:, far[1]], wav[:, far[1]]) > 100
    assert stems[1][:, far[0]].abs().max() < 1e-6
    assert stems[0][:, far[1]].abs().max() < 1e-6
    silent = RestoreThenSeparate(model, lambda wav: 0 * smooth(wav), sum_to_mixture=True, mix=0.0)
    assert snr(silent(wav)[1], wav / 2) > 100


@pytest.mark.parametrize("n_samples", [1, 1000, 2048, 2049, 3072, 3073, 9000])
def test_shares_of_the_remainder(n_samples):
    """By energies of 2048 samples each, interpolated between the centres of these."""
    generator = np.random.default_rng(0)
    swell = np.linspace(0, 1, n_samples)
    stems = (
        generator.normal(size=(3, 2, n_samples)) * np.stack((swell, 1 - swell, 0 * swell))[:, None]
    )
    mixture = generator.normal(size=(2, n_samples))
    starts = np.arange(0, n_samples, 2048)
    energy = np.stack([np.square(stems[..., s : s + 2048]).mean((1, 2)) for s in starts], 1)
    shares = energy / energy.sum(0)
    place = np.arange(n_samples) + 0.5
    shares = np.stack([np.interp(place, starts + 1024, share) for share in shares])
    expected = stems + shares[:, None] * (mixture - stems.sum(0))
    found = torch.from_numpy(stems).float()
    _distribute_remainder(torch.from_numpy(mixture).float(), found)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_level_matching():
    """A separator that gives its stems any level."""
    model, wav = restorer(), tone(30000)
    loud = lambda wav: smooth(wav) * torch.tensor([7.0, 0.01])[:, None, None]  # noqa: E731
    gains = [
        (wav.flatten() @ stem.flatten() / stem.square().sum()).item()
        for stem in smooth(wav[None])[0]
    ]
    matched = SeparateThenRestore(loud, model, match_level=True, mix=0.0)(wav)
    for stem, plain, gain in zip(matched, smooth(wav[None])[0], gains):
        assert snr(stem, gain * plain) > 90
    # What a restorer does to the level is set back.
    model.decoders[0][-1].bias.data[:, -1] = 3.0
    changed = SeparateThenRestore(smooth, model)(wav)
    restored = SeparateThenRestore(smooth, model, match_level=True)(wav)
    for stem, before, free in zip(restored, matched, changed):
        assert abs((stem * before).sum() / stem.square().sum() - 1) < 1e-4
        assert abs((free * before).sum() / free.square().sum() - 1) > 1e-2
    assert not SeparateThenRestore(lambda w: -smooth(w), model, match_level=True)(wav).any()


@torch.no_grad()
def test_windows_and_blocks_change_nothing():
    model, wav = restorer(), tone(120000)
    whole = SeparateThenRestore(smooth, model)(wav)
    parts = SeparateThenRestore(smooth, model, window_seconds=0.5, overlap_seconds=0.1)(wav)
    assert snr(parts, whole) > 100


@torch.no_grad()
def test_another_rate_than_the_restorers():
    """Stems of the file's own rate, restored as files of that rate are."""
    model, wav = restorer(), tone(30000, 2, 48000)
    pipeline = SeparateThenRestore(smooth, model, sample_rate=48000, keep_below=3000.0, mix=0.5)
    for stem, plain in zip(pipeline(wav), smooth(wav[None])[0]):
        assert snr(stem, restore_audio(model, plain, 48000, 3000.0, 0.5)) > 90
    told = []
    stems = pipeline.restore(wav, 48000, lambda *step: told.append(step))
    assert snr(stems, pipeline(wav)) > 100
    for step in ("separating", "restoring source1", "restoring source2"):
        done = [(seconds, total) for name, seconds, total in told if name == step]
        assert [seconds for seconds, _ in done] == sorted({seconds for seconds, _ in done})
        assert done[-1][0] == done[-1][1] and abs(done[-1][1] - 30000 / 48000) < 1e-3


# --------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "restorers, options, message",
    [
        ("apollo-small", {}, "is str; expected an Apollo"),
        ({"a": None}, {}, "restorer of 'a' is NoneType"),
        ({}, {}, "the restorers are for no source; the separator's sources are unknown"),
        ({"a": "model"}, {"sources": ["a", "b"]}, "are for a; .* sources are a, b"),
        (
            {"a": "model", "b": "model"},
            {"sum_to_mixture": True},
            "needs a restorer of the 'mixture'",
        ),
        ("model", {"separator_rate": 0.5, "window_seconds": 0}, "overlap_seconds"),
    ],
)
def test_pipelines_that_cannot_be(restorers, options, message):
    model = restorer()
    if isinstance(restorers, dict):
        restorers = {k: model if v == "model" else v for k, v in restorers.items()}
    restorers = model if restorers == "model" else restorers
    for make in (SeparateThenRestore, lambda s, r, **o: RestoreThenSeparate(r, s, **o)):
        with pytest.raises(SeparatorError, match=message):
            make(smooth, restorers, **options)


@pytest.mark.parametrize(
    "wav, error, message",
    [
        (torch.zeros(2, 0), ValueError, "expected"),
        (
            torch.zeros(1, 1, 2, 9),
            ValueError,
            r"\(1, 1, 2, 9\); expected \(batch, channels, time\)",
        ),
        (torch.zeros(2, 9, dtype=torch.int), TypeError, "int32; expected a floating"),
        (np.zeros((2, 9)), TypeError, "float64; expected a floating point tensor"),
    ],
)
def test_signals_that_are_none(wav, error, message):
    with pytest.raises(error, match=message):
        SeparateThenRestore(smooth, restorer())(wav)


# ------------------------------------------------------------------------------ apollo-restore


@pytest.fixture
def separator_file(tmp_path):
    path = tmp_path / "separator" / "model.pth"
    path.parent.mkdir()
    torch.save(conv_tasnet().serialize(), path)
    return path


def run(capsys, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = main([*map(str, arguments), "--device", "cpu"])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_stems_from_the_command_line(tmp_path, tiny_checkpoint, separator_file, capsys):
    from apollo_plugin import Apollo

    music, wav = tmp_path / "music", tone(24000, 2, 48000)
    music.mkdir()
    soundfile.write(music / "song.wav", wav.T.numpy(), 48000, "FLOAT")
    arguments = [music, "--stems", separator_file, "--checkpoint", tiny_checkpoint]
    status, out, err = run(capsys, *arguments)
    assert status == 0, err
    folder = music / "song_restored"
    assert sorted(p.name for p in folder.iterdir()) == ["remix.wav", "source1.wav", "source2.wav"]
    assert f"-> {folder / 'remix.wav'}" in out
    model = Apollo.from_pretrained(tiny_checkpoint)
    pipeline = SeparateThenRestore(conv_tasnet(), model, sample_rate=48000, match_level=True)
    expected = pipeline(wav)
    read = {p.stem: torch.from_numpy(soundfile.read(p)[0].T) for p in folder.iterdir()}
    assert snr(read["source2"], expected[1]) > 90 and snr(read["remix"], expected.sum(0)) > 90
    # The stems are no input of the next run, and are kept.
    found = plan([str(music)], Places(), Settings())
    assert [job.source.name for job in found.jobs] == ["song.wav"]
    status, _, err = run(capsys, *arguments)
    assert status == 0 and "remix.wav' is there already and kept" in err
    (folder / "remix.wav").write_bytes(b"")
    status, _, _ = run(capsys, *arguments, "--overwrite", "--format", "flac")
    assert status == 0 and soundfile.info(folder / "source1.flac").samplerate == 48000


@pytest.mark.parametrize("model, is_matched", [(conv_tasnet(), True), (smooth, False)])
def test_stems_of_asteroids_models_have_their_level_matched(monkeypatch, model, is_matched):
    """They are trained at arbitrary ones."""
    monkeypatch.setattr(stems.separators, "load", lambda name: Separator(model, sources=["a", "b"]))
    settings = Settings(keep_below=3.0, mix=0.5, keep_level=True)
    pipeline = stems.load_pipeline(TorchEngine(restorer()), "a name", settings)
    assert pipeline.match_level == is_matched and pipeline.sources == ["a", "b"]
    assert (pipeline.keep_below, pipeline.mix, pipeline.keep_level) == (3.0, 0.5, True)


def test_a_separator_that_does_not_exist(tmp_path, tiny_checkpoint, capsys):
    soundfile.write(tmp_path / "a.wav", tone(5000).T.numpy(), RATE)
    arguments = [tmp_path / "a.wav", "--checkpoint", tiny_checkpoint, "--stems", "nothing"]
    status, _, err = run(capsys, *arguments)
    assert status == 1 and err.startswith("apollo-restore: no separator 'nothing'")
    assert err.count("\n") == 1 and not (tmp_path / "a_restored").exists()


def test_a_file_of_other_channels_than_the_separators(
    tmp_path, tiny_checkpoint, capsys, monkeypatch
):
    from apollo_plugin import separators

    monkeypatch.setattr(
        separators, "load", lambda name: Separator(smooth, in_channels=2, sources=["a", "b"])
    )
    soundfile.write(tmp_path / "mono.wav", tone(5000, 1)[0].numpy(), RATE)
    soundfile.write(tmp_path / "stereo.wav", tone(5000).T.numpy(), RATE)
    arguments = [tmp_path, "--checkpoint", tiny_checkpoint, "--stems", "x", "-o", tmp_path / "out"]
    status, _, err = run(capsys, *arguments)
    assert status == 1 and "mono.wav': the separator takes 2 channels, the signal has 1" in err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["stereo_restored"]
