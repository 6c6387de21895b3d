"""Keys have types and ranges: what is meant is taken, the rest is refused in one line."""

import argparse
import math
import sys

import pytest
import yaml
from helpers import LOCAL, Noisy

from apollo_plugin.errors import SettingError
from apollo_plugin.training import Run, TrainingError, load_conf, parse_model_conf, train
from apollo_plugin.training.config import compare, keys_in
from apollo_plugin.training.keys import APOLLO, APOLLO_HEAD, SRGAN, SRGAN_HEAD
from apollo_plugin.training.schema import convert_types, keys_of, render

BASES = {"conf.yml": (APOLLO, APOLLO_HEAD), "conf_srgan.yml": (SRGAN, SRGAN_HEAD)}


@pytest.mark.parametrize("name", BASES)
def test_the_recipes_files_are_made_of_the_schema(name):
    """After a change to keys.py: python tools/make_conf.py."""
    assert (LOCAL / name).read_text() == render(*BASES[name])
    conf = yaml.safe_load((LOCAL / name).read_text())
    assert {group: list(conf[group]) for group in conf} == {
        group: list(keys_of(cls)) for group, cls in BASES[name][0].items()
    }
    assert convert_types(conf, BASES[name][0]) == conf == load_conf(LOCAL / name)


def loaded(tmp_path, text, base="conf.yml"):
    (tmp_path / "mine.yml").write_text(text)
    return load_conf(tmp_path / "mine.yml", LOCAL / base)


@pytest.mark.parametrize(
    "group, text, value",
    [
        ("optim", "g_lr: 1e-3", 0.001),  # text, says YAML
        ("optim", "g_lr: '0.002'", 0.002),
        ("optim", "g_lr: 1", 1),
        ("optim", "g_betas: [0, '1e-1']", [0, 0.1]),
        ("optim", "gradient_clip: inf", math.inf),
        ("optim", "gradient_clip: .inf", math.inf),
        ("training", "epochs: '2'", 2),
        ("training", "epochs: 1e0", 1),
        ("training", "epochs: 3.0", 3),
        ("training", "recompute: 'no'", False),
        ("training", "recompute: 1", True),
        ("training", "recompute: On", True),
        ("training", "devices: auto", None),
        ("training", "devices: -1", None),
        ("training", "devices: '-1'", None),
        ("training", "devices: null", None),
        ("training", "devices: '2'", 2),
        ("training", "precision: 32", "32"),
        ("training", "save_top_k: -1", -1),
        ("training", "early_stop: 0", 0),
        ("loss", "snr_below: '8000'", 8000),
        ("loss", "snr_below: cutoff", "cutoff"),
        ("loss", "snr_below: null", None),
        ("loss", "snr_below: none", None),
        ("model", "bands: '[1, 2]'", [1, 2]),
        ("model", "bands: '40'", 40),
        ("model", "bands: 160 Hz", "160 Hz"),
        ("model", "bands: ' 160.0hz'", "160 Hz"),
        ("data", "bit_rates: [64.0]", [64]),
        ("data", "n_items: 2147483647", 2**31 - 1),
        ("data", "n_items: 1", 1),
        ("data", "mixture_share: 1", 1),
        ("optim", "g_betas: [0, 0.999]", [0, 0.999]),
    ],
)
def test_what_is_meant_is_taken(tmp_path, group, text, value):
    got = loaded(tmp_path, f"{group}: {{{text}}}")[group][text.split(":")[0]]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    "group, text, allowed",
    [
        ("training", "batch_size: 0", "is 0; it has to be a whole number, 1 or more"),
        ("training", "num_workers: -1", "is -1; it has to be a whole number, 0 or more"),
        ("training", "early_stop: -1", "is -1; it has to be a whole number, 0 or more"),
        ("optim", "lr_step: 0", "is 0; it has to be a whole number, 1 or more"),
        ("training", "epochs: two", "is 'two'; it has to be a whole number, 0 or more"),
        ("training", "epochs: 1.5", "is 1.5; it has to be a whole number"),
        ("training", "epochs: true", "is True; it has to be a whole number"),
        ("training", "epochs: [1]", r"is \[1\]; it has to be a whole number"),
        ("training", "epochs: .inf", "is inf; it has to be a whole number"),
        ("training", "epochs:", "is None; it has to be a whole number"),
        ("training", "devices: 0", "is 0; it has to be null or a whole number or auto or -1"),
        ("training", "devices: many", "is 'many'; it has to be null or a whole number or auto"),
        ("training", "recompute: maybe", "is 'maybe'; it has to be true or false"),
        ("training", "recompute: 2", "is 2; it has to be true or false"),
        ("training", "precision: [1]", r"is \[1\]; it has to be a word"),
        ("training", "ema_decay: 1.0", "is 1.0; it has to be a number, 0 or more and below 1"),
        ("training", "save_top_k: -2", "is -2; it has to be a whole number, -1 or more"),
        ("optim", "g_lr: fast", "is 'fast'; it has to be a number, 0 or more"),
        ("optim", "g_lr: .nan", "is nan; it has to be a number"),
        ("optim", "g_betas: [0.9]", r"is \[0.9\]; it has to be a list of 2 numbers"),
        ("optim", "g_betas: 0.9", "is 0.9; it has to be a list of 2 numbers"),
        ("optim", "g_betas: [0.9, 1.0]", "and below 1"),
        ("data", "bit_rates: []", r"is \[\]; it has to be a list of whole numbers, 8 to 512"),
        ("data", "mixture_share: 1.1", "is 1.1; it has to be a number, 0 to 1"),
        ("data", "segment: {a: 1}", "it has to be a number, above 0"),
        ("data", "n_items: 1e30", "it has to be a whole number, 1 or more"),
        ("data", "n_items: 2147483648", "is 2147483648; it has to be a whole number, 1 or more"),
        ("optim", "g_betas: [0.1, 0.2, 0.3]", "it has to be a list of 2 numbers"),
        ("loss", "mel: 100000000000000000000", "it has to be a number, 0 or more"),
        ("model", "n_layers: 65536", "is 65536; it has to be a whole number, 1 to 100"),
        ("discriminator", "windows: [64, 0]", "it has to be a list of whole numbers, 2 or more"),
        ("data", "segment: .inf", "is inf; it has to be a number, above 0"),
        ("data", "gain_db: 1000", "is 1000; it has to be a number, 0 to 120"),
        ("data", "tilt_db: 1000", "is 1000; it has to be a number, 0 to 48"),
        ("data", "level_db: 1000", "is 1000; it has to be a number, 0 to 120"),
        ("data", "bit_rates: !!binary aGVsbG8=", "it has to be a list of whole numbers, 8 to"),
        ("data", "bit_rates: '[1'", r"is '\[1'; it has to be a list of whole numbers"),
        ("data", "bit_rates: '& a'", "is '& a'; it has to be a list of whole numbers"),
        ("model", "sample_rate: 1e30", "it has to be a number, 1000 to 768000"),
        ("model", "sample_rate: 1", "it has to be a number, 1000 to 768000"),
        ("loss", "snr_below: never", "is 'never'; it has to be null or a number or cutoff"),
        ("loss", "mel: -1", "is -1; it has to be a number, 0 or more"),
        ("model", "bands: 0", "it has to be a whole number or a list of whole numbers or a width"),
        ("model", "bands: wide", "is 'wide'; .* or a width such as '160 Hz', 1 or more"),
    ],
)
def test_the_rest_is_refused_in_one_line(tmp_path, group, text, allowed):
    key = text.split(":")[0]
    with pytest.raises(SettingError, match=rf"mine.yml': {group}.{key} is .*") as caught:
        loaded(tmp_path, f"{group}: {{{text}}}")
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingError, match=allowed):
        loaded(tmp_path, f"{group}: {{{text}}}")


def test_a_configuration_from_python_is_checked_too(conf):
    conf["training"]["batch_size"] = 0
    with pytest.raises(SettingError, match="training.batch_size is 0; it has to be a whole number"):
        train(conf, Noisy(), Noisy(2))
    conf["training"].update(batch_size="2", epochs="1", recompute="no")
    assert train(conf, Noisy(), Noisy(2))["epochs"] == 1


def test_only_a_bound_on_gradients_may_be_infinite():
    taken = set()
    for groups in (APOLLO, SRGAN):
        for group in groups.values():
            for name, key in keys_of(group).items():
                for value in (math.inf, -math.inf, "1e400", [math.inf] * (key.length or 1)):
                    try:
                        key.convert(value, name)
                        taken.add((name, str(value)))
                    except SettingError:
                        pass
    words = {name for name in taken if name[1] != "1e400"}
    assert words == {("gradient_clip", "inf")}
    # A word is a word, whatever it looks like.
    assert {name for name, _ in taken} == {"gradient_clip", "codec", "gain_shape", "precision"}


def test_srgans_own_types(tmp_path):
    conf = loaded(tmp_path, "model: {hop: '128', dilations: [1, '2']}", "conf_srgan.yml")
    assert conf["model"]["hop"] == 128 and conf["model"]["dilations"] == [1, 2]
    for text in (
        "width: 1e9",
        "width: 1",
        "window: 1e9",
        "channels: [1, 2]",
        "channels: [1, 2, 1e9]",
    ):
        with pytest.raises(SettingError, match="it has to be a .*, . to 65536"):
            loaded(tmp_path, f"model: {{{text}}}", "conf_srgan.yml")
    with pytest.raises(SettingError, match="model.width is 'wide'; it has to be a whole number"):
        loaded(tmp_path, "model: {width: wide}", "conf_srgan.yml")


@pytest.mark.parametrize("name", ["apollo", "srgan"])
def test_help_names_every_key_with_its_meaning_and_range(monkeypatch, capsys, name):
    monkeypatch.setattr(sys, "argv", ["train.py", "--model", name, "--help"])
    with pytest.raises(SystemExit):
        parse_model_conf(argparse.ArgumentParser(), LOCAL)
    text = " ".join(capsys.readouterr().out.split())
    conf = load_conf(LOCAL / ("conf.yml" if name == "apollo" else "conf_srgan.yml"))
    for group in keys_in(conf).values():
        for key, about in group.items():
            assert f"--{key} X" in text
            for part in (about.about, about.allowed):
                assert " ".join(part.split()).replace("-", "") in text.replace("-", "").replace(
                    "- ", ""
                ), key


def parsed(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    return parse_model_conf(parser, LOCAL)


def test_a_command_line(monkeypatch, tmp_path):
    (tmp_path / "mine.yml").write_text("training: {epochs: 7, log_every: 3}")
    options = "--epochs 1e1 --windows [64,128] --devices auto --recompute no --g_lr 1e-4 --seed 3"
    conf = parsed(monkeypatch, "--conf", str(tmp_path / "mine.yml"), *options.split())
    assert conf["training"]["epochs"] == 10 and conf["training"]["log_every"] == 3
    assert conf["discriminator"]["windows"] == [64, 128] and conf["optim"]["g_lr"] == 1e-4
    assert conf["training"]["devices"] is None and conf["training"]["recompute"] is False
    assert conf["main_args"] == dict(seed=3, model="apollo")
    for options, line in (
        (("--epochs", "two"), "--epochs is 'two'; it has to be a whole number, 0 or more"),
        (("--windows", "64"), "--windows is '64'; it has to be a list of whole numbers, 2 or more"),
        (("--snr", "-1"), "--snr is '-1'; it has to be a number, 0 or more"),
    ):
        with pytest.raises(SettingError) as caught:
            parsed(monkeypatch, *options)
        assert str(caught.value) == line


@pytest.mark.parametrize(
    "older, bands",
    [
        ({"n_bands": 40}, 40),
        ({"n_bands": 80, "band_width_hz": "1.6e2", "band_bins": None}, "160 Hz"),
        ({"band_bins": "[200, 242]"}, [200, 242]),
        ({"n_bands": 80, "band_width_hz": "null", "band_bins": None}, 80),
    ],
)
def test_older_keys_of_bands_mean_what_they_meant(conf, monkeypatch, tmp_path, older, bands):
    """In a file with all keys and in one with some, on a command line, from Python, in a resume."""
    (tmp_path / "mine.yml").write_text(yaml.safe_dump({"model": older}))
    partial = load_conf(tmp_path / "mine.yml", LOCAL / "conf.yml")
    assert partial["model"]["bands"] == bands and not older.keys() & partial["model"].keys()
    whole = {**conf, "model": {**older, **conf["model"]}}
    del whole["model"]["bands"]
    (tmp_path / "whole.yml").write_text(yaml.safe_dump(whole))
    assert load_conf(tmp_path / "whole.yml")["model"] == {**conf["model"], "bands": bands}
    options = [f"--{key}={value}" for key, value in older.items()]
    assert parsed(monkeypatch, *options)["model"]["bands"] == bands
    with_older = {**conf, "model": {**conf["model"], **older}}
    assert Run(with_older).conf["model"] == {**conf["model"], "bands": bands}
    compare(Run(with_older).conf, load_conf(tmp_path / "whole.yml"), tmp_path)
    with pytest.raises(TrainingError, match="was trained with bands .*, not 33; set bands"):
        compare({**conf, "model": {**conf["model"], "bands": 33}}, partial, tmp_path)


def test_older_keys_of_bands_are_no_keys_of_srgan(monkeypatch, tmp_path):
    with pytest.raises(SystemExit):
        parsed(monkeypatch, "--model", "srgan", "--n_bands", "40")
    with pytest.raises(SettingError, match="band_width_hz is 'wide'; it has to be a number of Hz"):
        parsed(monkeypatch, "--band_width_hz", "wide")
    (tmp_path / "mine.yml").write_text("model: {band_bins: [442], band_width_hz: 160}")
    with pytest.raises(SettingError, match="both lay out bands; give one of them"):
        load_conf(tmp_path / "mine.yml", LOCAL / "conf.yml")


def test_keys_that_no_schema_knows_have_the_type_of_their_default(tmp_path):
    base = "model: {hop: 2, own: 3, words: [a], share: 0.5, nothing: null, yes_: true}"
    (tmp_path / "base.yml").write_text(base)
    (tmp_path / "mine.yml").write_text(
        "model: {own: '4', share: 1e-1, nothing: 5, yes_: 'off', words: [b, c]}"
    )
    conf = load_conf(tmp_path / "mine.yml", tmp_path / "base.yml")["model"]
    assert conf == dict(hop=2, own=4, words=["b", "c"], share=0.1, nothing=5, yes_=False)
    (tmp_path / "mine.yml").write_text("model: {own: x}")
    with pytest.raises(SettingError, match="model.own is 'x'; it has to be a whole number"):
        load_conf(tmp_path / "mine.yml", tmp_path / "base.yml")
