"""Models as folders, and what would be uploaded to the Hub; no network."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import yaml
from helpers import GOLDEN, small_model, tiny_srgan, tone
from huggingface_hub import ModelCard, split_torch_state_dict_into_shards
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from apollo_plugin import Apollo
from apollo_plugin.checkpoints import CheckpointError
from apollo_plugin.checkpoints.cards import model_card
from apollo_plugin.checkpoints.download import HUB_FILES, download, n_bytes, read_any, shards
from apollo_plugin.checkpoints.hub import save_published
from apollo_plugin.cli.export import main


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
    model, wav = small_model(residual=True, causal=True, bands="160 Hz"), tone(5000)
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
    assert 'from_pretrained("my model")' in card.text and "| `bands` | 160 Hz |" in card.text


@torch.no_grad()
def test_weights_of_other_programs_take_their_arguments_from_the_configuration(tmp_path):
    model, wav = small_model(n_heads=4), tone(5000)
    folder = model.save_pretrained(tmp_path)
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    assert torch.equal(Apollo.from_pretrained(folder)(wav), model(wav))
    for content in ("{}", "[1]", "no json", '{"model_args": 3}'):
        (folder / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match="does not hold its model's arguments"):
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


# ------------------------------------------------------------------ as huggingface_hub has it


@torch.no_grad()
def test_its_options_reach_the_hub_and_the_model_its_device(tmp_path, monkeypatch):
    model, wav = small_model(), tone(5000)
    folder = model.save_pretrained(tmp_path)
    asked = []

    def download(repo, file, **options):
        asked.append(options)
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    options = dict(revision="v1", token="t", cache_dir=str(tmp_path), local_files_only=True)
    loaded = Apollo.from_pretrained("owner/name", map_location="cpu", causal=False, **options)
    assert torch.equal(loaded(wav), model(wav)) and asked == [options] * 2
    assert next(Apollo.from_pretrained(folder, map_location="meta").parameters()).is_meta
    # What is not given is not passed on; a bundled name or a path takes no notice.
    asked.clear()
    Apollo.from_pretrained("owner/name", revision=None)
    assert asked == [{}, {}]
    Apollo.from_pretrained(folder, revision="v1")
    assert Apollo.from_pretrained(model.serialize(), token="t").get_model_args()


def test_without_the_network_other_files_of_the_cache_are_looked_for(tmp_path, monkeypatch):
    torch.save(small_model().serialize(), tmp_path / "model.pth")

    def download(repo, file, **options):
        if file != "model.pth" or repo != "a/b":
            raise LocalEntryNotFoundError("not in the cache")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert Apollo.from_pretrained("a/b", local_files_only=True)
    with pytest.raises(CheckpointError, match=r"'a/c' has none of .* in the cache"):
        Apollo.from_pretrained("a/c", local_files_only=True)
    with pytest.raises(CheckpointError, match="the Hugging Face Hub cannot be reached"):
        Apollo.from_pretrained("a/b")


def test_files_say_whose_tensors_they_are(tmp_path):
    """huggingface_hub's own reader takes the folder: it asks for this."""
    model = small_model()
    folder = model.save_pretrained(tmp_path)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"
    twin = small_model()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    huggingface_hub.load_torch_model(twin, folder, strict=True)
    for name, value in model.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value), name


def in_shards(model, folder):
    """As huggingface_hub splits it, arguments in config.json."""
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    split = split_torch_state_dict_into_shards(state, max_shard_size="20KB")
    assert split.is_sharded
    for file, names in split.filename_to_tensors.items():
        save_file({name: state[name] for name in names}, folder / file, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = dict(metadata=split.metadata, weight_map=split.tensor_to_filename)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return sorted(split.filename_to_tensors)


@torch.no_grad()
def test_sharded_weights(tmp_path, monkeypatch):
    model, wav = small_model(), tone(5000)
    files = in_shards(model, tmp_path)
    assert torch.equal(Apollo.from_pretrained(tmp_path)(wav), model(wav))
    asked = []

    def download(repo, file, **options):
        asked.append(file)
        if not (tmp_path / file).exists():
            raise huggingface_hub.errors.EntryNotFoundError("no")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert torch.equal(Apollo.from_pretrained("a/b")(wav), model(wav))
    assert set(files) < set(asked)
    (tmp_path / files[0]).unlink()
    with pytest.raises(CheckpointError, match=f"lists '{files[0]}', which is missing"):
        Apollo.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        *("", "{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}'),
        *('{"weight_map": {"a": 3}}', '{"weight_map": {"a": "x.bin"}}', '{"weight_map": 1}'),
    ],
)
def test_an_index_that_is_none(tmp_path, index):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(
        CheckpointError, match="is damaged, or not an index of safetensors"
    ) as caught:
        Apollo.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


# -------------------------------------------------------------------------- the authors' layout


def test_the_published_file_comes_out_as_it_went_in(tmp_path, published):
    """Names, shapes, tables and numbers of the authors' own file: so theirs loads it strictly."""
    golden = torch.load(GOLDEN / "published_layout.bin", weights_only=True)["state_dict"]
    path, config = save_published(published, tmp_path / "out" / "a.bin")
    package = torch.load(path, weights_only=True)
    assert set(package["state_dict"]) == set(golden) and package["model_name"] == "Apollo"
    for name, value in golden.items():
        assert torch.equal(package["state_dict"][name], value), name
    settings = yaml.safe_load(config.read_text())
    assert settings["model"] == dict(sr=44100, win=20, feature_dim=32, layer=2)
    assert settings["audio"]["sample_rate"] == 44100 and package["model_args"] == settings["model"]


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, dict(win_ms=10), dict(sample_rate=48000)])
def test_what_we_train_and_back(tmp_path, options):
    model, wav = small_model(n_heads=8, feature_dim=32, **options), tone(9000)
    path, _ = save_published(model, tmp_path / "a.bin")
    again = Apollo.from_pretrained(path)
    assert again.get_model_args() == model.get_model_args()
    assert torch.equal(again(wav), model(wav))
    # Without what stands beside the weights the window has to be told.
    torch.save(torch.load(path, weights_only=True)["state_dict"], tmp_path / "bare.bin")
    if options.get("win_ms"):
        with pytest.raises(CheckpointError, match="bare.bin.*pass sample_rate and win_ms"):
            Apollo.from_pretrained(tmp_path / "bare.bin")
    bare = Apollo.from_pretrained(tmp_path / "bare.bin", **options or dict(win_ms=20))
    assert torch.equal(bare(wav), model(wav))


@pytest.mark.parametrize(
    "options, named",
    [
        (dict(n_heads=4, causal=True), "n_heads 4, causal True"),
        (dict(residual=True, band_gain=True), "residual True, band_gain True"),
        (dict(bands="160 Hz"), "bands 160 Hz"),
        (dict(gain_shape="bin"), "gain_shape bin"),
        (dict(kernel_size=5, tcn_blocks=1), "kernel_size 5, tcn_blocks 1"),
        (dict(excitation=True, envelope_dim=176), "excitation True, envelope_dim 176"),
        (dict(bands=40), "bands 40"),
    ],
)
def test_what_the_published_network_does_not_have(tmp_path, options, named):
    model = small_model(**{"n_heads": 8, "feature_dim": 32, "n_layers": 1, **options})
    with pytest.raises(CheckpointError, match="the published network has no ") as caught:
        save_published(model, tmp_path / "a.bin")
    assert all(part in str(caught.value) for part in named.split(", "))
    assert not list(tmp_path.iterdir())


def test_srgan_has_no_published_layout(tmp_path):
    with pytest.raises(CheckpointError, match="an SRGAN has no published layout"):
        save_published(tiny_srgan(), tmp_path / "a.bin")


def test_the_command(tmp_path, capsys):
    assert (
        main([str(GOLDEN / "published_layout.bin"), "--format", "published", "-o", str(tmp_path)])
        == 0
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["published_layout_published.bin", "published_layout_published.yaml"]
    assert main(
        [str(GOLDEN / "published_layout.bin"), "--format", "published", "-o", str(tmp_path)]
    )
    assert "is there already and kept" in capsys.readouterr().err
    assert main(["apollo-small", "--format", "published", "-o", str(tmp_path)]) == 1
    assert "does not fit the published layout: the published network has no" in (
        capsys.readouterr().err
    )


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


# ------------------------------------------------------------------------------ word for word


def test_every_part_of_a_card():
    model = small_model(sample_rate=48000)
    sources = [
        dict(
            title="One", title_link="http://one", author="A", license="CC BY", non_commercial=True
        ),
        dict(title="Two", title_link="", author="B", license="CC0"),
        dict(title="Three", title_link=None, author="C", license="?", non_commercial=None),
        dict(title="Four", title_link=None, author="D", license="MIT", non_commercial=False),
    ]
    text = model_card(model, "OWNER/it", "other", "FIGURES", "DATA", sources)
    assert ModelCard(text).data.license_name == "non-commercial-training-data"
    assert "\n# it\n" in text and 'from_pretrained("OWNER/it")' in text
    n_weights = sum(value.numel() for value in model.state_dict().values())
    assert f"| parameters | {n_weights:,} |\n| sample rate | 48000 Hz |\n" in text
    assert f"| latency of a stream | {1000 * model.latency / 48000:.0f} ms |" in text
    assert "\n## Figures\n\nFIGURES\n" in text and "\n## Limits\n" in text
    rows = [line for line in text.splitlines() if line.startswith(("| [One", "| T", "| F"))]
    assert rows == [
        "| [One](http://one) | A | CC BY | no |",
        "| Two | B | CC0 | yes |",
        "| Three | C | ? | unknown |",
        "| Four | D | MIT | yes |",
    ]
    plain = model_card(model, "me/it", "mit")
    assert ModelCard(plain).data.license_name is None
    assert not any(f"## {part}" in plain for part in ("Figures", "Training", "Limits"))
    assert "## Limits" in model_card(model, "it", figures="F")
    assert "## Limits" in model_card(model, "it", data="D")
    assert "SR-GAN" in model_card(tiny_srgan(), "it") and "2409.08514" in plain


def index(folder, *names):
    weight_map = {str(n): name for n, name in enumerate(names)}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(dict(weight_map=weight_map)))
    return path


def test_files_of_an_index(tmp_path, monkeypatch):
    path = index(tmp_path, "b.safetensors", "a-1_2.safetensors", "b.safetensors")
    assert shards(path, "it") == ["a-1_2.safetensors", "b.safetensors"]
    (tmp_path / "b.safetensors").write_bytes(bytes(30))
    assert n_bytes(path, "it") == 30  # of those that are there
    (tmp_path / "a-1_2.safetensors").write_bytes(bytes(12))
    assert n_bytes(path, "it") == 42 and n_bytes(tmp_path / "b.safetensors", "it") == 30
    size = path.stat().st_size
    for most, fits in ((size, True), (size - 1, False)):
        monkeypatch.setattr("apollo_plugin.checkpoints.download._MOST_INDEX", most)
        if fits:
            assert len(shards(path, "it")) == 2
        else:
            with pytest.raises(CheckpointError) as caught:
                shards(path, "it")
            assert str(caught.value) == "'it' is damaged, or not an index of safetensors"
    monkeypatch.undo()
    for odd in (".a.safetensors", "a/b.safetensors", "a.safetensors\n", "a safetensors"):
        with pytest.raises(CheckpointError, match="not an index"):
            shards(index(tmp_path, "b.safetensors", odd), "it")


def test_arguments_in_one_of_several_files(tmp_path):
    for name, args in (("a", '{"n": 1}'), ("b", None), ("c", "null")):
        metadata = {"model_args": args} if args else None
        save_file({name: torch.zeros(1)}, tmp_path / f"{name}.safetensors", metadata)
    path = index(tmp_path, "a.safetensors", "b.safetensors", "c.safetensors")
    found = read_any(path, "it")
    assert sorted(found["state_dict"]) == ["a", "b", "c"] and found["model_args"] == {"n": 1}


@pytest.mark.parametrize(
    "error, local, told",
    [
        (OSError("one\ntwo"), False, "download of 'a/b' failed: one"),
        (ValueError(""), False, "download of 'a/b' failed: ValueError"),
        (OSError("one"), True, "download of 'a/b' failed: one"),
        (RuntimeError("the client has been closed"), True, "'a/b' has none of FILES LOCAL"),
        (LocalEntryNotFoundError("no"), True, "'a/b' has none of FILES LOCAL"),
        (EntryNotFoundError("no"), True, "'a/b' has none of FILES LOCAL"),
        (EntryNotFoundError("no"), False, "'a/b' has none of FILES on the Hugging Face Hub"),
        (
            LocalEntryNotFoundError("no"),
            False,
            "'a/b' is not a local file, and the Hugging Face Hub cannot be reached",
        ),
    ],
)
def test_downloads_that_fail(error, local, told, monkeypatch):
    asked = []

    def fetch(repo, file, **options):
        asked.append((repo, file))
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    options = {"local_files_only": True} if local else {}
    with pytest.raises(CheckpointError) as caught:
        download("a/b", options)
    all_files = ", ".join(HUB_FILES)
    where = "in the cache (local_files_only)"
    assert str(caught.value) == told.replace("FILES", all_files).replace("LOCAL", where)
    assert len(asked) == (len(HUB_FILES) if "has none" in told else 1)
    asked.clear()
    with pytest.raises(CheckpointError):
        download("a/b/c/d.pth", options)
    assert asked == [("a/b", "c/d.pth")]


def test_files_beside_an_index_in_a_folder_of_the_hub(tmp_path, monkeypatch):
    path = index(tmp_path, "x.safetensors")
    asked = []

    def fetch(repo, file):
        asked.append(file)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert download(f"a/b/deep/{path.name}", {}) == path
    assert asked == [f"deep/{path.name}", "deep/x.safetensors"]
    asked.clear()
    # A file by name has no configuration beside it, unless it is a model's first or its index.
    download(f"a/b/{path.name}", {})
    assert asked == [path.name, "x.safetensors", "config.json"]


def test_settings_for_other_programs(tmp_path):
    """Chunks of three seconds."""
    model = small_model(n_heads=8, feature_dim=32, n_layers=1, sample_rate=48000, win_ms=10)
    _, config = save_published(model, tmp_path / "a.bin")
    settings = yaml.safe_load(config.read_text())
    assert settings["audio"]["chunk_size"] == 144_000 and settings["audio"]["num_channels"] == 2
    assert settings["model"] == dict(sr=48000, win=10, feature_dim=32, layer=1)
    assert settings["inference"] == dict(batch_size=4, num_overlap=4)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"a\.bin' cannot be written: (Not a dir|File ex)"):
        save_published(model, tmp_path / "file" / "a.bin")
    # A window of 160 samples is the shortest that 80 bands divide.
    for win_ms, more in ((159, ", win_ms 159"), (160, "")):
        options = dict(sample_rate=1000, win_ms=win_ms, bands=20)
        short = small_model(n_heads=8, feature_dim=32, n_layers=1, **options)
        with pytest.raises(CheckpointError, match=f"has no bands 20{more}$"):
            save_published(short, tmp_path / "b.bin")
