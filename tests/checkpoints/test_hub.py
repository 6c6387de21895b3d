"""Models as folders, and what would be uploaded to the Hub; no network."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from helpers import small_model, tone
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from apollo_plugin import Apollo
from apollo_plugin.checkpoints import CheckpointError


@pytest.fixture
def api(monkeypatch):
    """Stands in for the Hub: keeps what is uploaded to it."""
    calls = SimpleNamespace(files={}, there=set(), created=None, message=None, error=None)

    def create_repo(self, repo_id, private=None, exist_ok=False):
        if calls.error:
            raise calls.error
        assert exist_ok
        calls.created = (repo_id, private)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, repo_id, folder_path, commit_message, ignore_patterns):
        from pathlib import Path

        paths = [p for p in Path(folder_path).iterdir() if p.name not in (ignore_patterns or ())]
        calls.files = {p.name: p.read_bytes() for p in paths}
        calls.message = commit_message
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/1")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "file_exists", lambda self, repo, name: name in calls.there
    )
    return calls


@torch.no_grad()
def test_a_folder_and_back(tmp_path):
    model, wav = small_model(residual=True, causal=True, band_width_hz=160), tone(5000)
    folder = model.save_pretrained(tmp_path / "deep" / "my model", license="mit")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert torch.equal(Apollo.from_pretrained(folder)(wav), model(wav))
    config = json.loads((folder / "config.json").read_text())
    assert Apollo(**config["model_args"]).get_model_args() == model.get_model_args()
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit" and card.data.pipeline_tag == "audio-to-audio"
    assert 'from_pretrained("my model")' in card.text and "| `band_width_hz` | 160 |" in card.text


@torch.no_grad()
def test_weights_of_other_programs_take_their_arguments_from_the_configuration(tmp_path):
    model, wav = small_model(n_heads=4), tone(5000)
    folder = model.save_pretrained(tmp_path)
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    assert torch.equal(Apollo.from_pretrained(folder)(wav), model(wav))
    for content in ("{}", "[1]", "no json", '{"model_args": 3}'):
        (folder / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match="nothing of its model's arguments"):
            Apollo.from_pretrained(folder)


@torch.no_grad()
def test_from_the_hub_with_its_configuration(tmp_path, monkeypatch):
    model, wav = small_model(), tone(5000)
    folder = model.save_pretrained(tmp_path)
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    asked = []

    def download(repo, file):
        asked.append((repo, file))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert torch.equal(Apollo.from_pretrained("owner/name")(wav), model(wav))
    assert asked == [("owner/name", "model.safetensors"), ("owner/name", "config.json")]


def test_a_card_of_the_users_own(tmp_path):
    model = small_model(n_layers=1)
    model.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("written by hand")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "written by hand"
    (tmp_path / "card.md").write_text("anöther", encoding="utf-8")
    model.save_pretrained(tmp_path, card=tmp_path / "card.md")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "anöther"


@torch.no_grad()
def test_what_is_pushed(api, tmp_path):
    model, wav = small_model(), tone(5000)
    url = model.push_to_hub("me/my-apollo", private=True, license="mit", commit_message="first")
    assert url == "https://huggingface.co/me/my-apollo/commit/1"
    assert api.created == ("me/my-apollo", True) and api.message == "first"
    assert sorted(api.files) == ["README.md", "config.json", "model.safetensors"]
    for name, content in api.files.items():
        (tmp_path / name).write_bytes(content)
    assert torch.equal(Apollo.from_pretrained(tmp_path)(wav), model(wav))
    assert "--checkpoint me/my-apollo" in api.files["README.md"].decode()
    # A card that is there already is somebody's work.
    api.there.add("README.md")
    model.push_to_hub("me/my-apollo")
    assert sorted(api.files) == ["config.json", "model.safetensors"]
    (tmp_path / "card.md").write_text("new")
    model.push_to_hub("me/my-apollo", card=tmp_path / "card.md")
    assert api.files["README.md"] == b"new"


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("repo_id", ["name", "a/b/c", "", "a b/c", "../x", "owner/" + "n" * 200])
def test_ids_that_are_none(repo_id, api):
    with pytest.raises(CheckpointError, match="cannot be pushed to the Hub") as caught:
        small_model(n_layers=1).push_to_hub(repo_id)
    assert "\n" not in str(caught.value) and api.created is None


def test_a_hub_that_says_no(api):
    api.error = OSError("no route\nto host")
    with pytest.raises(CheckpointError, match="'a/b' cannot be pushed to the Hub: no route$"):
        small_model(n_layers=1).push_to_hub("a/b")


def test_folders_and_cards_that_cannot_be(tmp_path, api):
    model = small_model(n_layers=1)
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="file.*: (Not a directory|File exists)"):
        model.save_pretrained(tmp_path / "file" / "below")
    with pytest.raises(CheckpointError, match="missing.md': No such file"):
        model.save_pretrained(tmp_path / "a", card=tmp_path / "missing.md")
    with pytest.raises(CheckpointError, match="'.*file': 'utf-8' codec"):
        model.push_to_hub("a/b", card=tmp_path / "file")
    assert api.created is None and not (tmp_path / "a").exists()
