"""Lines on what was found: cut-offs, what was left alone, and checkpoints at hand."""

import dataclasses
import json
import math

import huggingface_hub
import pytest
import soundfile
import torch
from helpers import save, tone, tree

from apollo_plugin import Apollo, audio
from apollo_plugin.checkpoints import BUNDLED
from apollo_plugin.cli import listing, main
from apollo_plugin.data.codecs import encode_mp3


def noise(seconds):
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(2, round(44100 * seconds), generator=generator)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Two MP3s at 64 kbit/s (11.2 kHz), one at 32 (5.7), one never coded, silence, junk."""
    folder = tmp_path_factory.mktemp("album") / "in"
    folder.mkdir()
    for name, kbps, seconds in (("a", 64, 2), ("b", 64, 1), ("c", 32, 1)):
        (folder / f"{name}.mp3").write_bytes(encode_mp3(noise(seconds), kbps=kbps))
    save(folder / "white.wav", noise(1))
    save(folder / "silent.wav", torch.zeros(2, 44100))
    (folder / "junk.wav").write_bytes(b"RIFF")
    return folder


def rows(text):
    """The table, by its first column."""
    lines = text[text.index("cut off at") :].splitlines()[1:]
    return {line[:24].strip(): line[24:].split() for line in lines}


def test_a_folder_ends_in_a_table(run, album, tmp_path):
    status, text, _ = run(album, "-o", tmp_path / "out")
    table = rows(text)
    assert status == 1
    a, b, c = (audio.probe(album / f"{name}.mp3")[0] / 44100 for name in "abc")
    assert table["about 11 kHz"] == ["2", f"{a + b:.1f}"]
    assert table["about 6 kHz"] == ["1", f"{c:.1f}"]
    assert table["not cut off"] == ["2", "2.0"] and table["failed"] == ["1"]
    assert table["restored"][:2] == ["5", f"{a + b + c + 2:.1f}"]
    assert "left, looks uncoded" not in table
    # Again, with one of them gone.
    (tmp_path / "out" / "a_restored.wav").unlink()
    (tmp_path / "out" / "c_restored.wav").unlink()
    table = rows(run(album, "-o", tmp_path / "out")[1])
    assert table["restored"][0] == "2" and table["kept from before"] == ["3"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_looks_uncoded_is_left_alone(run, album, tmp_path, jobs):
    status, text, err = run(album, "-o", tmp_path / "out", "--skip-uncoded", "--jobs", jobs)
    assert status == 1 and "1 of 6 failed" in err
    assert tree(tmp_path / "out") == [f"{name}_restored.wav" for name in "abc"]
    assert "white.wav' is left as it is: looks uncoded" in text
    assert "silent.wav' is left as it is: silent" in text
    assert rows(text)["left, looks uncoded"] == ["2"] and "not cut off" not in rows(text)


def test_a_single_file_needs_no_table(run, album, tmp_path):
    status, text, _ = run(album / "a.mp3", "-o", tmp_path / "out")
    assert status == 0 and len(text.splitlines()) == 1
    status, text, _ = run(album / "white.wav", "-o", tmp_path / "out", "--skip-uncoded")
    assert status == 0 and "left as it is" in text and tree(tmp_path / "out") == ["a_restored.wav"]


def test_diagnoses_as_json(run, album):
    status, text, err = run(album, "--diagnose", "--json")
    found = {
        each.pop("file").rpartition("/")[2]: each for each in map(json.loads, text.splitlines())
    }
    assert status == 1 and len(found) == 6
    assert found["a.mp3"]["verdict"] == "cut off" and found["a.mp3"]["like_kbps"] == 64
    assert found["a.mp3"]["cutoff"] == pytest.approx(11200, abs=300)
    assert found["c.mp3"]["like_kbps"] == 32 and found["a.mp3"]["sample_rate"] == 44100
    assert found["white.wav"]["verdict"] == "uncoded" and found["white.wav"]["cutoff"] is None
    assert found["silent.wav"]["verdict"] == "silent" and found["silent.wav"]["seconds"] == 1
    assert "junk.wav" in found["junk.wav"]["error"] and "junk.wav" in err


def told(capsys, *options):
    assert main(["--list", *options]) == 0
    return capsys.readouterr().out


def test_the_bundled_checkpoints_are_listed_as_they_are(capsys):
    every = {each["name"]: each for each in map(json.loads, told(capsys, "--json").splitlines())}
    assert list(every)[: len(BUNDLED)] == list(BUNDLED)
    for name in BUNDLED:
        each = every[name]
        model = Apollo.from_pretrained(name)
        assert each["parameters"] == sum(weight.numel() for weight in model.parameters())
        assert each["licence"] == "MIT" and each["here"] and each["purpose"]
    text = told(capsys)
    assert all(f"{name}  (" in text for name in every) and text.count(
        "licence of the weights"
    ) == len(every)


def test_a_checkpoint_in_print(monkeypatch, capsys):
    each = listing.Known("a/b", 66.54, 16_539_308, "MIT", "music", True)
    monkeypatch.setattr(listing, "known", lambda: [each, dataclasses.replace(each, here=False)])
    first, *_, second, purpose, size, last = told(capsys).splitlines()
    assert (first, second) == ("a/b  (here)", "a/b  (downloaded when it is first used)")
    assert purpose == "    music" and last.startswith("--checkpoint takes others too: ")
    assert size == "    66.5 MB, 16.54 M parameters; licence of the weights: MIT"
    assert len(told(capsys, "--json").splitlines()) == 2


def test_without_the_hubs_client_nothing_of_it_is_here(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert told(capsys).count("downloaded when") == 4


@pytest.mark.parametrize("index, args", [(0, {}), (1, {"feature_dim": 384})])
def test_sizes_of_published_models(index, args):
    model = Apollo(**args)
    assert listing._SIZES[index] == sum(math.prod(weight.shape) for weight in model.parameters())


def test_what_is_on_this_machine_is_known_without_a_network(tmp_path, monkeypatch, capsys):
    """A cache in the Hub's layout."""
    repo = tmp_path / "models--JusperLee--Apollo"
    file = repo / "snapshots" / ("0" * 40) / "pytorch_model.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    look = huggingface_hub.try_to_load_from_cache

    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *names: look(*names, cache_dir=tmp_path)
    )
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asks the network"))
    text = told(capsys)
    assert "JusperLee/Apollo  (here)" in text and text.count("downloaded when") == 3
    file.unlink()
    assert "JusperLee/Apollo  (downloaded" in told(capsys)


def test_a_rate_with_room_is_no_cut_off_that_is_skipped(run, tmp_path):
    """A file of 22.05 kHz ends at 11 kHz by its rate: uncoded, as it is."""
    soundfile.write(tmp_path / "a.wav", noise(1).T.numpy(), 22050)
    status, text, _ = run(tmp_path / "a.wav", "--skip-uncoded", "-o", tmp_path / "out")
    assert status == 0 and "left as it is" in text


def test_bad_input(run, tmp_path):
    save(tmp_path / "a.wav", tone(500))
    for options in (["--diagnose", "--json"], ["--skip-uncoded"]):
        status, _, err = run(tmp_path / "missing.wav", *options)
        assert status == 1 and "does not exist" in err
