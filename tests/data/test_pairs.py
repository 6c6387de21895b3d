"""The fixed pairs: what is made, kept, made again; interruption and a full disk."""

import json
import os
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import pytest
import soundfile
import torch
from helpers import read, snr

from apollo_plugin.audio import AudioError
from apollo_plugin.data import pairs
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.dataset import PairDataset
from apollo_plugin.data.mixing import KINDS
from apollo_plugin.data.pairs import make_pairs
from apollo_plugin.errors import DataError


@pytest.fixture
def split(prepared, tmp_path):
    for name in ("tracks.json", "segments.json"):
        (tmp_path / name).write_bytes((prepared / "test" / name).read_bytes())
    return tmp_path


def make(root, n_pairs=2, bit_rates=(32, 128), n_threads=2, **options):
    with ThreadPoolExecutor(n_threads) as pool:
        return make_pairs(root, n_pairs, pool, bit_rates=bit_rates, **{"seconds": 0.5, **options})


def state(root):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*.flac")}


def test_what_is_made(split):
    assert make(split) == (16, [])
    data = PairDataset(split)
    assert len(data) == 16 and {pair.kind for pair in data.pairs} == set(KINDS)
    for pair in data.pairs:
        about = json.loads((pair.folder / "mix.json").read_text())
        stems = [part["stem"] for part in about["parts"]]
        assert (about["kbps"], about["kind"]) == (pair.kbps, pair.kind)
        assert ("vocals" in stems) == (pair.kind in ("vocals", "multi_stems_vocals"))
        assert (len(stems) == 1) == (pair.kind in ("vocals", "single_stem"))
        coded, original, _ = pair.read()
        assert coded.shape == original.shape == (2, 22050)
        assert max(coded.abs().max(), original.abs().max()) > 0.999
        spectra = [torch.fft.rfft(wav.sum(0), 44100) for wav in (coded, original)]
        assert torch.fft.irfft(spectra[0] * spectra[1].conj()).argmax() == 0
        assert soundfile.info(pair.folder / "mp3.flac").subtype == "PCM_24"


def test_one_mix_at_all_bit_rates(split):
    make(split)
    low, high = (split / str(kbps) / "multi_stems" / "00001" for kbps in (32, 128))
    mixes = [json.loads((folder / "mix.json").read_text()) for folder in (low, high)]
    assert mixes[0]["parts"] == mixes[1]["parts"]
    a, b = (read(folder / "original.flac")[0] for folder in (low, high))
    scale = (a * b).sum() / b.square().sum()
    assert snr(a, scale * b) > 90


def test_the_coded_signal_is_that_of_the_codec(split):
    make(split, 1, (48,))
    pair = PairDataset(split).pairs[0]
    coded, original, rate = pair.read()
    # Noise depends on level: at the gain of the mix the pair is the codec's, at another it is not.
    figures = [snr(mp3(original * g, rate, 48) / g, coded) for g in torch.linspace(0.05, 1, 96)]
    assert max(figures) > 15


def test_second_run_makes_nothing(split):
    make(split)
    before = state(split)
    assert make(split)[0] == 0 and state(split) == before


def test_what_is_missing_or_half_is_made_again(split):
    make(split)
    before = {path: content for path, (_, content) in state(split).items()}
    folders = [pair.folder for pair in PairDataset(split).pairs]
    for name in ("original.flac", "mp3.flac", "mix.json"):
        (folders[5] / name).unlink()
    (folders[2] / "mix.json").write_text('{"kbps"')
    (folders[3] / "mp3.flac").unlink()
    (folders[4] / "original.flac").write_bytes(b"fLaC")
    assert make(split)[0] == 4
    assert {path: content for path, (_, content) in state(split).items()} == before


def test_more_and_fewer_pairs(split):
    make(split, 1)
    assert make(split, 3)[0] == 16 and len(PairDataset(split)) == 24
    assert make(split, 2)[0] == 0 and len(PairDataset(split)) == 16


def test_another_seed_or_length_is_another_set(split):
    make(split)
    assert make(split, seed=1)[0] == 16 and make(split, seconds=0.4, seed=1)[0] == 16


def test_other_sound_in_the_same_files(split):
    make(split)
    found = json.loads((split / "segments.json").read_text())
    changed = next(iter(found["keys"]))
    found["keys"][changed] = "as stage 2 writes it when a file has changed"
    (split / "segments.json").write_text(json.dumps(found))
    affected = [
        path
        for path in split.rglob("mix.json")
        if any(part["song"] == changed for part in json.loads(path.read_text())["parts"])
    ]
    assert 0 < make(split)[0] == len(affected) < 16


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"seconds": 0}, "segment 0 has to"),
        ({"seconds": -1}, "segment -1"),
        ({"seconds": 1e-5}, "segment 1e-05 has to lie between a sample and"),
        ({"seconds": float("nan")}, "segment nan"),
        ({"seconds": 100}, "the 6.0 s of active"),
        ({"n_pairs": -1}, "number of pairs -1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_sizes_that_make_no_sense(split, options, reason):
    with pytest.raises(ValueError, match=reason):
        make(split, **options)


def test_mixtures_that_are_all_silent(split, monkeypatch):
    monkeypatch.setattr(pairs, "LEAST_DB", 2.0)
    with pytest.raises(AudioError, match="50 mixtures in a row were silent"):
        make(split, 1, (32,), 1)


def test_processes_give_what_threads_give(split, prepared, tmp_path):
    from apollo_plugin.data.parallel import executor

    make(split, 1)
    expected = {path: content for path, (_, content) in state(split).items()}
    for path in expected:
        path.unlink()
        (path.parent / "mix.json").unlink(missing_ok=True)
    with executor(2) as pool:
        assert make_pairs(split, 1, pool, bit_rates=(32, 128), seconds=0.5)[0] == 8
    assert {path: content for path, (_, content) in state(split).items()} == expected


def test_killed_leaves_nothing_that_counts(split, monkeypatch):
    make(split)
    real, calls = pairs._write, []

    def killed(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(pairs, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        make(split, seed=5, n_threads=1)
    # The old list is gone, so no later stage takes a mixture of old and new for a set.
    with pytest.raises(DataError, match="run stage 3"):
        PairDataset(split)
    monkeypatch.undo()
    assert make(split, seed=5)[0] <= 13 and len(PairDataset(split)) == 16


def test_a_full_disk_stops_and_says_where(split, monkeypatch):
    def full(path, *args):
        raise AudioError(f"'{path}' cannot be written: No space left on device")

    monkeypatch.setattr(pairs, "write", full)
    with pytest.raises(AudioError, match=r"could not be made: .*No space left"):
        make(split)
    assert not list(split.rglob("*.flac")) and not (split / "pairs.json").exists()
    assert not [p for p in split.rglob("*") if p.name.endswith(".part")]


def test_a_kind_without_stems_is_said(split):
    found = json.loads((split / "segments.json").read_text())
    for stems in found["starts"].values():
        stems.pop("vocals", None)
    (split / "segments.json").write_text(json.dumps(found))
    n_made, notes = make(split, 1)
    assert n_made == 4 and len(notes) == 2 and "no pairs of kind vocals" in notes[0]


def test_a_song_that_is_gone(split):
    text = (split / "tracks.json").read_text()
    (split / "tracks.json").write_text(text.replace(".wav", ".gone"))
    with pytest.raises(AudioError, match=r"could not be made: .*\.gone' cannot be read"):
        make(split)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(split):
    split.chmod(0o500)
    with pytest.raises((AudioError, OSError), match="Permission"):
        make(split)
    split.chmod(0o700)


def test_pairs_tell_their_level_and_quiet_ones_are_made_anew(split):
    """As an earlier version left them: without a level, made of whatever was drawn first."""
    make(split)
    abouts = sorted(split.rglob("mix.json"))
    values = [json.loads(path.read_text()) for path in abouts]
    assert all(-60 <= value["level_db"] < 0 for value in values)
    for path, value in zip(abouts, values):
        del value["level_db"]
        path.write_text(json.dumps(value))
    assert make(split)[0] == len(abouts)
    assert make(split)[0] == 0


class Elsewhere(Executor):
    """Works in another folder, as a cluster does."""

    def __init__(self, folder):
        self.folder = folder

    def submit(self, function, /, *args, **kwargs):
        future, here = Future(), os.getcwd()
        os.chdir(self.folder)
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        finally:
            os.chdir(here)
        return future


def test_workers_stand_in_another_folder(split, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(split.parent)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert make_pairs(split.name, 1, Elsewhere(elsewhere), bit_rates=(64,), seconds=0.5)[0] == 4
    assert not list(elsewhere.iterdir()) and len(PairDataset(split)) == 4
