"""The evaluation of pipelines: museval's numbers, a set in MUSDB's layout, and what is wrong."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from asteroid.models import ConvTasNet
from helpers import small_model, snr

from apollo_plugin import metrics
from apollo_plugin.data import tracks
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.demo import song
from apollo_plugin.pipelines import RestoreThenSeparate, SeparateThenRestore
from apollo_plugin.separators import Separator, SeparatorError

SCRIPT = Path(__file__).parents[2] / "recipes/musdb18hq_moises/local/eval_pipelines.py"
script = SimpleNamespace(**runpy.run_path(str(SCRIPT)))
SOURCES, WAYS = script.SOURCES, script.WAYS
needs_ffmpeg = pytest.mark.needs("ffmpeg", "ffprobe")  # museval does


def stems_of(seed):
    """Two seconds of a song, its synthesiser's five stems as MUSDB's four."""
    five = song(2.5, seed)
    four = {name: five[name] for name in ("vocals", "drums", "bass")}
    return {**four, "other": five["guitar"] + five["piano"]}


@pytest.fixture(scope="module")
def musdb(tmp_path_factory):
    root = tmp_path_factory.mktemp("musdb18hq")
    for subset, name, seed in (("train", "A - B", 1), ("test", "C - D", 2), ("test", "E - F", 3)):
        folder = root / subset / name
        folder.mkdir(parents=True)
        stems = stems_of(seed)
        for stem, wav in {**stems, "mixture": sum(stems.values())}.items():
            soundfile.write(folder / f"{stem}.wav", wav.T, 44100, "FLOAT")
    return root


def bands(wav):
    """A separator: four bands of the spectrum, one for each of MUSDB's sources."""
    spec = torch.fft.rfft(wav)
    edges = [0, *(int(len(spec[0, 0]) * share) for share in (0.01, 0.05, 0.2)), len(spec[0, 0])]
    parts = []
    for low, high in zip(edges, edges[1:]):
        part = torch.zeros_like(spec)
        part[..., low:high] = spec[..., low:high]
        parts.append(torch.fft.irfft(part, n=wav.shape[-1]))
    return torch.stack(parts, 1)


@needs_ffmpeg
def test_sdr_of_noise_at_known_levels():
    """Estimates with white noise 20 and 3 dB below white sources."""
    generator = np.random.default_rng(0)
    references = generator.standard_normal((2, 2, 2 * 44100))
    noise = generator.standard_normal(references.shape)
    gains = 10.0 ** (-np.array([20, 3]) / 20)
    sdr = metrics.bss_eval_v4(references, references + gains[:, None, None] * noise, 44100)
    # The 512 taps explain a little of the noise.
    assert np.allclose(sdr, [20, 3], atol=0.3)


def snr_of_each(references, estimates, sample_rate=44100):
    """In museval's place, which takes five seconds a call."""
    return [snr(torch.tensor(e), torch.tensor(r)) for e, r in zip(estimates, references)]


@torch.no_grad()
def test_each_way_is_its_pipeline(musdb, monkeypatch):
    monkeypatch.setattr(metrics, "bss_eval_v4", snr_of_each)
    test_song = next(s for s in tracks.musdb18hq(musdb, []) if s.id.endswith("C - D"))
    names = ["bass", "vocals", "other", "drums"]
    separator, model = Separator(bands, sources=names), small_model(n_layers=1, residual=True)
    scores = script.score_song(test_song, separator, model, kbps=48)
    assert tuple(scores) == WAYS
    stems = stems_of(2)
    mixture = torch.from_numpy(sum(stems.values()))
    coded = mp3(mixture, kbps=48)
    by_hand = {
        "original": bands(mixture[None])[0],
        "mp3": bands(coded[None])[0],
        "mp3, restored before": RestoreThenSeparate(model, separator)(coded),
        "mp3, restored after": SeparateThenRestore(separator, model)(coded),
    }
    references = np.stack([stems[name] for name in names])
    for way, estimate in by_hand.items():
        expected = snr_of_each(references, estimate.numpy())
        assert np.allclose([scores[way][name] for name in names], expected, atol=0.02), way
    assert len({json.dumps(way) for way in scores.values()}) == 4


def test_the_table_is_the_median_of_the_songs():
    songs = [
        {way: {s: float(i + j) for j, s in enumerate(SOURCES)} for way in WAYS} for i in (0, 1, 5)
    ]
    songs[2]["mp3"]["drums"] = float("nan")
    lines = script.table(songs).splitlines()
    assert lines[2] == "| original | 1.00 | 2.00 | 3.00 | 4.00 | 2.50 |"
    assert lines[3] == "| mp3 | 1.00 | 1.50 | 3.00 | 4.00 | 2.38 |"
    assert len(lines) == 2 + len(WAYS) and all(line.count("|") == 7 for line in lines)


# -------------------------------------------------------------------------------- as a command


@pytest.fixture
def run(monkeypatch, capsys):
    """The script in this process, to its exit status, output and errors."""

    def run_(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        with pytest.raises(SystemExit) as exited:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        captured = capsys.readouterr()
        return exited.value.code, captured.out, captured.err

    return run_


@pytest.fixture(scope="module")
def separator_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("separator") / "model.pth"
    torch.manual_seed(0)
    model = ConvTasNet(4, n_filters=16, n_blocks=1, n_repeats=1, sample_rate=8000)
    torch.save(model.serialize(), path)
    return path


@needs_ffmpeg
def test_the_script(run, musdb, separator_file, tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "bss_eval_v4", snr_of_each)
    root, out = shutil.copytree(musdb, tmp_path / "musdb"), tmp_path / "out"
    arguments = ["--musdb18hq_dir", root, "--separator", separator_file, "--out", out]
    arguments += ["--kbps", 32, "--seconds", 1.2, "--sources", *SOURCES]
    (root / "test" / "E - F" / "mixture.wav").unlink()
    status, printed, errors = run(*arguments)
    assert status == 1 and "mixture.wav' cannot be read" in printed and errors == ""
    assert sorted(p.name for p in out.iterdir()) == ["C - D.json", "table.md"]
    assert (out / "table.md").read_text() in printed and "nan" not in printed
    # What was scored is not scored again.
    content = json.loads((out / "C - D.json").read_text())
    content["scores"]["mp3"]["vocals"] = 77.0
    (out / "C - D.json").write_text(json.dumps(content))
    shutil.rmtree(root / "test" / "E - F")
    status, printed, _ = run(*arguments)
    assert status == 0 and "| mp3 | 77.00 |" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--musdb18hq_dir", "no/such"], "'no/such' holds no MUSDB18-HQ"),
        (["--separator", "nothing"], "no separator 'nothing'"),
        ([], "sources are unknown; expected vocals, drums, bass, other"),
        (["--sources", "a", "b", "c", "d"], "sources are a, b, c, d; expected vocals"),
    ],
)
@needs_ffmpeg
def test_the_script_is_given_something_wrong(
    run, arguments, message, musdb, separator_file, tmp_path
):
    basic = ["--musdb18hq_dir", musdb, "--separator", separator_file, "--out", tmp_path]
    status, _, errors = run(*basic, "--seconds", 1, *arguments)
    assert status == 1 and message in errors and errors.count("\n") == 1, errors


# ------------------------------------------------------------------------------------- bad input


def test_without_museval(run, musdb, separator_file, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # where no ffmpeg is
    basic = ["--musdb18hq_dir", musdb, "--separator", separator_file, "--out", tmp_path / "out"]
    status, _, errors = run(*basic, "--sources", *SOURCES)
    assert status == 1 and "museval needs ffmpeg and ffprobe" in errors and errors.count("\n") == 1


@needs_ffmpeg
def test_scores_belong_to_weights(run, musdb, separator_file, tmp_path, monkeypatch):
    """Another model under the same name is scored anew."""
    monkeypatch.setattr(metrics, "bss_eval_v4", snr_of_each)
    path, found = tmp_path / "model.pth", []
    for causal in (False, True):
        torch.save(small_model(n_layers=1, residual=True, causal=causal).serialize(), path)
        options = ["--checkpoint", path, "--seconds", 0.5, "--out", tmp_path / "out"]
        options += ["--musdb18hq_dir", musdb, "--separator", separator_file, "--sources", *SOURCES]
        assert run(*options)[0] == 0
        content = json.loads((tmp_path / "out" / "C - D.json").read_text())
        found.append((content["settings"]["weights"], content["scores"]["mp3, restored before"]))
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]


def test_a_separator_of_other_sources(musdb):
    with pytest.raises(SeparatorError, match="sources are a, b, c, d; expected vocals"):
        script.score_song(
            tracks.musdb18hq(musdb, [])[0],
            Separator(bands, sources=list("abcd")),
            small_model(n_layers=1),
            64,
        )


def test_a_damaged_score_is_made_again(musdb, tmp_path, monkeypatch):
    songs = tracks.musdb18hq(musdb, [])[:1]
    (tmp_path / "A - B.json").write_text("{")
    monkeypatch.setitem(script.score_songs.__globals__, "score_song", lambda *_: {"mp3": {}})
    settings = {"kbps": 64, "seconds": None}
    first = list(script.score_songs(songs, None, None, tmp_path, settings))
    assert first == [(songs[0].id, {"mp3": {}})]
    assert json.loads((tmp_path / "A - B.json").read_text())["settings"] == settings
