"""A published folder loads everywhere, executes nothing, and says where it comes from."""

import json
import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import small_model, tone

from apollo_plugin import Apollo, checkpoints
from apollo_plugin.checkpoints import CheckpointError
from apollo_plugin.data.dataset import MUSDB_LICENSE, OWN_LICENSE
from apollo_plugin.errors import DataError
from apollo_plugin.evaluation.measure import sha256
from apollo_plugin.training import publishing
from apollo_plugin.training.publishing import publish

SCRIPT = Path(__file__).parents[2] / "recipes/musdb18hq_moises/local/publish.py"


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / "my exp"
    folder.mkdir()
    torch.save(small_model(residual=True).serialize(), folder / "best_model.pth")
    digest = sha256(folder / "best_model.pth")
    metrics = {
        "checkpoint_sha256": digest,
        "sdr": 12.5,
        "n_pairs": 8,
        "by_kind": {"vocals": {"sdr": 1.0}},
        "rtf_device": "CPU",
    }
    (folder / "final_metrics.json").write_text(json.dumps(metrics))
    (folder / "table2.md").write_text("| untouched MP3 | 10.00 |\n")
    (folder / "conf.yml").write_text("training:\n  epochs: 3\n")
    return folder


def replace_model(experiment, package):
    """Another model, measured."""
    torch.save(package, experiment / "best_model.pth")
    path = experiment / "final_metrics.json"
    metrics = json.loads(path.read_text())
    metrics["checkpoint_sha256"] = sha256(experiment / "best_model.pth")
    path.write_text(json.dumps(metrics))


def test_figures_of_another_file_are_not_published(experiment):
    folder, _ = publish(experiment)
    before = (folder / "README.md").read_bytes()
    torch.manual_seed(1)
    torch.save(small_model(causal=True).serialize(), experiment / "best_model.pth")
    with pytest.raises(DataError, match="are of another file than .*best_model.pth.*run stage 5"):
        publish(experiment)
    # As an earlier version left them.
    metrics = json.loads((experiment / "final_metrics.json").read_text())
    del metrics["checkpoint_sha256"]
    (experiment / "final_metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(DataError, match="perhaps of another file"):
        publish(experiment)
    assert (folder / "README.md").read_bytes() == before


def test_all_files_hold_the_model(experiment):
    folder, _ = publish(experiment)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "model.pth", "model.safetensors", "recipe_name.txt"]
    model = Apollo.from_pretrained(experiment / "best_model.pth")
    wav = tone(5000)
    for source in (folder, folder / "model.pth", folder / "model.safetensors"):
        assert torch.equal(Apollo.from_pretrained(source)(wav), model(wav))


def test_asteroids_package(experiment):
    folder, _ = publish(experiment)
    package = torch.load(folder / "model.pth", weights_only=True)
    infos = package["infos"]
    assert (
        package["model_name"] == "Apollo" and package["dataset"] and len(package["licenses"]) == 2
    )
    assert infos["training_config"] == {"training": {"epochs": 3}}
    assert infos["final_metrics"] == {
        "checkpoint_sha256": sha256(experiment / "best_model.pth"),
        "sdr": 12.5,
        "n_pairs": 8,
        "rtf_device": "CPU",
    }
    assert infos["recipe_name"] == (folder / "recipe_name.txt").read_text().strip()
    # What Asteroid's uploader makes of it.
    from asteroid.models.publisher import _populate_publishable, make_license_notice

    populated = _populate_publishable(package, "Somebody", "Somewhere", "somebody")
    assert populated["infos"]["upload_name"] and "MoisesDB" in make_license_notice(
        "x", package["licenses"], "Somebody"
    )


def test_a_configuration_that_is_not_there_is_none(experiment):
    (experiment / "conf.yml").unlink()
    (experiment / "table2.md").unlink()
    folder, _ = publish(experiment)
    package = torch.load(folder / "model.pth", weights_only=True)
    assert package["infos"]["training_config"] == {}
    assert "See final_metrics in model.pth." in (folder / "README.md").read_text("utf-8")


def test_files_that_do_not_hold_the_model_are_not_published(experiment, monkeypatch):
    def save(model, path):
        with torch.no_grad():
            model.decoders[0][-1].bias[0] += 1e-6
        checkpoints.save(model, path)

    monkeypatch.setattr(publishing, "checkpoints", SimpleNamespace(save=save))
    with pytest.raises(
        CheckpointError, match="model.pth' does not hold the model: decoders.0.*dif"
    ):
        publish(experiment)
    assert not (experiment / "publish_dir").exists()


def test_card(experiment):
    folder, _ = publish(experiment)
    text = (folder / "README.md").read_text("utf-8")
    head = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.S)[1])
    assert head["license"] == "cc-by-nc-sa-4.0" and head["pipeline_tag"] == "audio-to-audio"
    assert "| untouched MP3 | 10.00 |" in text and "MUSDB18-HQ" in text and "MoisesDB" in text
    assert "| no |" in text and "| `residual` | True |" in text
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.S)
    names = {"wav": tone(3000)}
    exec(snippet.replace("OWNER/my exp", str(folder)), names)
    assert names["restored"].shape == (2, 3000)


def test_licences_are_those_of_the_data(experiment):
    package = small_model().serialize()
    package.update(dataset="MUSDB18-HQ", task="restoration", licenses=[MUSDB_LICENSE])
    replace_model(experiment, package)
    folder, _ = publish(experiment)
    text = (folder / "README.md").read_text("utf-8")
    assert "license: other" in text and "MoisesDB" not in text
    package.update(dataset="my own songs", licenses=[])
    replace_model(experiment, package)
    assert "license: mit" in (publish(experiment)[0] / "README.md").read_text("utf-8")
    # Whose licence is not known is published without one.
    package.update(licenses=[OWN_LICENSE])
    replace_model(experiment, package)
    text = (publish(experiment)[0] / "README.md").read_text("utf-8")
    assert "license:" not in text.split("---")[1]
    assert "| Recordings of one's own | not told | not told | unknown |" in text
    package.update(licenses=[OWN_LICENSE, MUSDB_LICENSE])
    replace_model(experiment, package)
    assert "license: other" in (publish(experiment)[0] / "README.md").read_text("utf-8")


def test_a_second_time_replaces_the_first(experiment):
    folder, _ = publish(experiment)
    (folder / "stale.txt").write_text("of before")
    publish(experiment)
    assert not (folder / "stale.txt").exists() and (folder / "model.pth").exists()
    assert not list(experiment.glob("*.part")) and not list(experiment.glob(".*"))


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("best_model.pth", None, "run stage 4"),
        ("best_model.pth", b"", "is damaged"),
        ("best_model.pth", b"PK\x03\x04 half a file", "is damaged"),
        (
            "best_model.pth",
            {"state_dict": {}},
            "is no model package: state_dict or model_args is missing",
        ),
        ("best_model.pth", {"state_dict": {}, "model_args": {}, "x": Evil()}, "is damaged"),
        ("final_metrics.json", None, "run stage 5"),
        ("final_metrics.json", b'{"sdr": ', "run stage 5 again"),
        ("final_metrics.json", b"[1, 2]", "run stage 5 again"),
        ("conf.yml", b"a: [1,\nb: }", "not a configuration in YAML"),
    ],
)
def test_bad_input(experiment, capsys, name, content, reason):
    path = experiment / name
    path.unlink()
    if isinstance(content, dict):
        torch.save(content, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises((CheckpointError, ValueError), match=reason) as caught:
        publish(experiment)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out
    assert not (experiment / "publish_dir").exists()


def test_a_model_that_cannot_be_built_leaves_the_last_one(experiment):
    folder, _ = publish(experiment)
    before = (folder / "model.pth").read_bytes()
    package = small_model().serialize()
    package["state_dict"].popitem()
    replace_model(experiment, package)
    with pytest.raises(CheckpointError):
        publish(experiment)
    assert (folder / "model.pth").read_bytes() == before


def test_the_script_prints_the_upload_and_does_not_run_it(experiment, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--exp_dir", str(experiment)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    out = capsys.readouterr().out
    assert not ended.value.code
    assert f"hf upload OWNER/'my exp' '{experiment / 'publish_dir'}' ." in out
    (experiment / "best_model.pth").unlink()
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 1 and len(capsys.readouterr().err.splitlines()) == 1
