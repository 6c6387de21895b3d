"""Training items: determinism, what is in them, what goes wrong."""

import os
import shutil

import numpy as np
import pytest
import torch
from helpers import needs_processes
from torch.utils.data import DataLoader

from apollo_plugin.audio import AudioError
from apollo_plugin.data.codecs import BIT_RATES
from apollo_plugin.data.dataset import MixtureDataset, PairDataset
from apollo_plugin.data.mixing import level_db
from apollo_plugin.errors import DataError


def dataset(prepared, **options):
    return MixtureDataset(prepared / "train", **{"n_items": 6, "segment": 0.5, **options})


def items(loader):
    return [torch.stack(item) for item in loader]


def test_an_item(prepared):
    coded, original = dataset(prepared, segment=1.0)[0]
    assert coded.shape == original.shape == (2, 44100) and coded.dtype == torch.float32
    assert max(coded.abs().max(), original.abs().max()) == pytest.approx(1)
    # In line: the peak of the cross-correlation is at 0.
    spectra = [torch.fft.rfft(wav.sum(0), 2 * 44100) for wav in (coded, original)]
    assert torch.fft.irfft(spectra[0] * spectra[1].conj()).argmax() == 0


@needs_processes
@pytest.mark.parametrize("n_workers, persistent", [(1, False), (2, False), (2, True)])
def test_the_same_whatever_the_workers(prepared, n_workers, persistent):
    data = dataset(prepared)
    expected = {}
    for epoch in (0, 1):
        data.set_epoch(epoch)
        expected[epoch] = items(data[i] for i in range(len(data)))
    loader = DataLoader(
        data,
        None,
        num_workers=n_workers,
        persistent_workers=persistent,
        multiprocessing_context="fork",
    )
    for epoch in (1, 0):
        data.set_epoch(epoch)
        for item, wanted in zip(items(loader), expected[epoch]):
            assert torch.equal(item, wanted)


def test_seed_epoch_and_index_make_a_difference(prepared):
    data, other = dataset(prepared), dataset(prepared, seed=1)
    first = data[0][1]
    assert not torch.equal(first, data[1][1]) and not torch.equal(first, other[0][1])
    data.set_epoch(1)
    assert not torch.equal(first, data[0][1])
    data.set_epoch(0)
    assert torch.equal(first, data[0][1])


def test_the_bit_rate_is_drawn_for_each_item(prepared):
    data = dataset(prepared)
    drawn = [data.draw(np.random.default_rng(i)) for i in range(600)]
    counts = {kbps: sum(mix.kbps == kbps for mix in drawn) for kbps in BIT_RATES}
    assert sum(counts.values()) == 600 and min(counts.values()) > 60
    assert {mix.kbps for mix in (dataset(prepared, bit_rates=[96]).draw(np.random.default_rng(0)),)}


def test_share_of_real_mixtures(prepared):
    data = dataset(prepared, mixture_share=0.5)
    drawn = [data.draw(np.random.default_rng(i)) for i in range(400)]
    share = np.mean([all(part.gain_db == 0 for part in mix.parts) for mix in drawn])
    assert 0.4 < share < 0.6


def test_options(prepared):
    data = dataset(prepared, max_stems=2, gain_db=1.0, sample_rate=48000, segment=0.25)
    drawn = [data.draw(np.random.default_rng(i)) for i in range(100)]
    assert {len(mix.parts) for mix in drawn} == {1, 2}
    assert max(abs(part.gain_db) for mix in drawn for part in mix.parts) <= 1
    assert data[0][0].shape == (2, 12000)


def test_level(prepared):
    plain, quiet = dataset(prepared), dataset(prepared, level_db=20.0)
    levels = []
    for index in range(6):
        (coded, original), (coded_q, original_q) = plain[index], quiet[index]
        level = original_q.abs().max() / original.abs().max()
        torch.testing.assert_close(original_q, level * original)
        torch.testing.assert_close(coded_q, level * coded)
        levels.append(level.item())
    assert 0.1 <= min(levels) < 0.6 and max(levels) <= 1 and len(set(levels)) == 6


def test_mono_is_one_of_the_channels(prepared):
    both, one = dataset(prepared), dataset(prepared, mono=True)
    channels = set()
    for index in range(6):
        (coded, original), (coded_one, original_one) = both[index], one[index]
        assert coded_one.shape == original_one.shape == (1, original.shape[1])
        channel = next(c for c in range(2) if torch.equal(original[c], original_one[0]))
        assert torch.equal(coded[channel], coded_one[0])
        channels.add(channel)
    assert channels == {0, 1}


def test_a_channel_that_is_silent_is_drawn_anew(prepared, monkeypatch):
    data = dataset(prepared, mono=True)
    left = np.stack((np.full(22050, 0.5), np.zeros(22050))).astype(np.float32)
    monkeypatch.setattr(data.library, "sum", lambda *_: left)
    assert all(data[index][1].min() > 0 for index in range(6))


def test_mixes_of_nothing_but_rounding_are_drawn_anew(prepared, monkeypatch):
    """Levels before the division by the peak, after which all mixes are as loud."""
    data, levels = dataset(prepared, segment=0.5), []
    bare = data.library.sum

    def sum_(mix, sample_rate):
        wav = bare(mix, sample_rate)
        # Every second one 70 dB below full scale.
        wanted = -70 if len(levels) % 2 == 0 else -50
        wav *= np.float32(10 ** ((wanted - level_db(wav)) / 20))
        levels.append(wanted)
        return wav

    monkeypatch.setattr(data.library, "sum", sum_)
    for index in range(4):
        coded, original = data[index]
        assert levels[-1] == -50 and max(coded.abs().max(), original.abs().max()) == 1
    assert len(levels) == 8
    monkeypatch.setattr(data.library, "sum", lambda *_: bare(*_) * np.float32(1e-5))
    with pytest.raises(AudioError, match="20 mixtures in a row were silent, below -60 dB"):
        data[0]


def test_level_is_the_rms():
    wav = 0.1 * np.sin(np.arange(44100) / 7)
    assert level_db(wav) == pytest.approx(-23.01, abs=0.01)
    assert level_db(np.zeros(9)) == -np.inf


def test_tilts_are_drawn(prepared):
    data = dataset(prepared, tilt_db=3.0)
    tilts = [data.draw(np.random.default_rng(i)).tilt_db for i in range(200)]
    assert -3 <= min(tilts) < -2 and 2 < max(tilts) <= 3
    assert {dataset(prepared).draw(np.random.default_rng(i)).tilt_db for i in range(9)} == {0.0}


def test_another_codec(prepared):
    pytest.importorskip("av")
    coded, original = dataset(prepared, codec="aac")[0]
    assert coded.shape == original.shape and not torch.equal(coded, dataset(prepared)[0][0])


def test_infos_name_the_licences(prepared):
    infos = dataset(prepared).get_infos()
    assert infos["dataset"] == "MUSDB18-HQ and MoisesDB" and infos["task"]
    licenses = infos["licenses"]
    assert len(licenses) == 2 and all(item["non_commercial"] for item in licenses)
    assert {"title", "author", "license", "license_link"} <= set(licenses[0]) & set(licenses[1])


def test_material_of_no_known_data_set_is_one_s_own(prepared):
    data = dataset(prepared)
    data.library.songs = {"train/0001": None, **data.library.songs}
    infos = data.get_infos()
    assert infos["dataset"] == "MUSDB18-HQ and MoisesDB and songs of one's own"
    assert len(infos["licenses"]) == 3


def test_asteroid_s_package_takes_the_infos(prepared):
    from asteroid.models.publisher import make_license_notice

    infos = dataset(prepared).get_infos()
    notice = make_license_notice("Apollo", infos["licenses"], "Me")
    assert "MoisesDB" in notice and "MUSDB18-HQ" in notice


# ---------------------------------------------------------------------------------- the fixed pairs


def test_pairs(prepared):
    data = PairDataset(prepared / "test")
    assert len(data) == 8
    coded, original = data[3]
    assert coded.shape == original.shape == (2, 66150)
    assert data.pairs[3].kbps in (24, 64) and data.pairs[3].name == "00000"
    assert torch.equal(data.pairs[3].read()[0], coded) and data.pairs[3].read()[2] == 44100


def test_pairs_that_do_not_fit(prepared, tmp_path):
    root = tmp_path / "test"
    shutil.copytree(prepared / "test", root)
    data = PairDataset(root)
    folder = data.pairs[0].folder
    short, rate = data[0][0][:, :-1], 44100
    import soundfile

    soundfile.write(folder / "mp3.flac", short.T.numpy(), rate)
    with pytest.raises(AudioError, match=r"66149.*66150.*run stage 3 again"):
        data[0]
    os.remove(folder / "mp3.flac")
    with pytest.raises(AudioError, match="cannot be read"):
        data[0]


def test_no_pairs(tmp_path):
    with pytest.raises(DataError, match="run stage 3 first"):
        PairDataset(tmp_path)
    (tmp_path / "pairs.json").write_text("[]")
    with pytest.raises(DataError, match="lists no pairs"):
        PairDataset(tmp_path)


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "options, reason",
    [
        (
            {"n_items": 0},
            "n_items 0 has to be positive, segment 0.5 a sample, max_stems 8 1 to 11$",
        ),
        ({"level_db": -0.1}, "level_db -0.1 and tilt_db 0.0 have to be 0 or more"),
        ({"level_db": float("inf")}, "level_db inf"),
        ({"tilt_db": float("inf")}, "tilt_db inf"),
        ({"segment": 0.0}, "segment 0.0"),
        ({"segment": 1e-5}, "segment 1e-05 a sample"),
        ({"segment": 7.0}, "segment 7.0 s exceeds the 6.0 s"),
        ({"max_stems": 0}, "max_stems 0"),
        ({"max_stems": 12}, "max_stems 12"),
        ({"tilt_db": -1.0}, "tilt_db -1.0"),
        ({"tilt_db": float("nan")}, "tilt_db nan"),
        ({"codec": "flac"}, "unknown codec 'flac'; known: mp3"),
    ],
)
def test_wrong_options(prepared, options, reason):
    with pytest.raises(ValueError, match=reason):
        dataset(prepared, **options)


def test_options_at_their_ends(prepared):
    dataset(prepared, segment=1 / 44100)
    longest = dataset(prepared, n_items=1, segment=6.0, max_stems=11, uncoded_share=1.0)
    assert len(longest) == 1
    random = np.random.default_rng(0)
    drawn = [longest.draw(random) for _ in range(200)]
    assert {mix.codec for mix in drawn} == {"uncoded"}
    assert max(len(mix.parts) for mix in drawn) == min(11, len(longest.library.stems))
    dataset(prepared, max_stems=1)


def test_index_out_of_range(prepared):
    for index in (6, -1):
        with pytest.raises(IndexError):
            dataset(prepared)[index]


def test_a_song_that_is_gone_is_named(prepared, tmp_path):
    text = (prepared / "train" / "tracks.json").read_text()
    (tmp_path / "tracks.json").write_text(text.replace(".wav", ".gone"))
    shutil.copy(prepared / "train" / "segments.json", tmp_path)
    with pytest.raises(AudioError, match=r"\.gone' cannot be read"):
        MixtureDataset(tmp_path, n_items=1)[0]


def test_a_share_of_the_items_is_not_coded(prepared):
    """And asks for no change; a share outside of 0 to 1 is refused."""
    data = dataset(prepared, uncoded_share=0.5, bit_rates=[32], n_items=40)
    same = [torch.equal(coded, original) for coded, original in (data[i] for i in range(40))]
    assert 8 <= sum(same) <= 32
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="uncoded_share"):
            dataset(prepared, uncoded_share=share)


def test_everyday_codecs(prepared):
    pytest.importorskip("av")
    data = dataset(prepared, codec="everyday", n_items=40)
    random = np.random.default_rng(0)
    drawn = [data.draw(random).codec for _ in range(200)]
    assert 0.35 < drawn.count("mp3") / 200 < 0.65 and len(set(drawn)) >= 8
    for coded, original in (data[index] for index in range(8)):
        assert coded.shape == original.shape and torch.isfinite(coded).all()
    with pytest.raises(ValueError, match="unknown codec 'ogg'"):
        dataset(prepared, codec="ogg")
