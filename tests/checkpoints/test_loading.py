"""Every layout of checkpoint loads to the same numbers; nothing in a file is ever executed."""

import collections
import hashlib
import itertools
import os
import pickle
import sys
import types

import pytest
import torch
from helpers import GOLDEN, small_model, snr, tone
from safetensors.torch import save_file

from apollo_plugin import Apollo, checkpoints
from apollo_plugin.checkpoints import CheckpointError, arguments, loading
from apollo_plugin.checkpoints import published_layout as published


def published_state() -> dict[str, torch.Tensor]:
    file = GOLDEN / "published_layout.bin"
    return torch.load(file, weights_only=True)["state_dict"]


def assert_golden(model, golden):
    assert not model.training
    with torch.no_grad():
        assert snr(model(golden["input"]), golden["output"]) >= 90


def test_a_model_that_is_refused_half_built_leaves_gradients_on(monkeypatch):
    """The limit may fall into initialisation too, which switches them off for a while."""
    model = small_model(n_layers=1, tcn_blocks=1)
    monkeypatch.setattr(arguments, "_CALLS_PER_TENSOR", 0)
    for n_calls in itertools.count():
        monkeypatch.setattr(arguments, "_CALLS_ELSE", n_calls)
        try:
            arguments.verify(Apollo, (), model.get_model_args(), model.state_dict())
            break
        except CheckpointError as error:
            assert "larger model" in str(error) and torch.is_grad_enabled()
    assert n_calls > 40


@pytest.mark.parametrize("file", ["published_layout.bin", "lightning_layout.ckpt"])
def test_golden_layouts(file, golden):
    model = Apollo.from_pretrained(GOLDEN / file)
    assert_golden(model, golden)
    args = model.get_model_args()
    assert (args["feature_dim"], args["n_layers"], args["n_heads"]) == (32, 2, 8)
    assert args["sample_rate"] == 44100
    assert_golden(Apollo.from_pretrained(str(GOLDEN / file)), golden)


@pytest.mark.parametrize(
    "layout",
    ["bare", "model prefix", "compiled", "ddp", "safetensors", "half", "no tables", "folder"],
)
def test_layouts_made_of_the_golden_weights(layout, golden, tmp_path):
    state, path = published_state(), tmp_path / "weights.bin"
    prefix = {"model prefix": "model.", "compiled": "_orig_mod.", "ddp": "module.model."}
    state = {prefix.get(layout, "") + key: value for key, value in state.items()}
    if layout == "no tables":
        state = {key: value for key, value in state.items() if "_freq" not in key}
    if layout == "half":
        state = {key: value.half() for key, value in state.items()}
    if layout in ("safetensors", "folder"):
        path = tmp_path / "model.safetensors"
        save_file({key: value.contiguous() for key, value in state.items()}, path)
        path = tmp_path if layout == "folder" else path
    else:
        torch.save({"state_dict": state} if layout == "model prefix" else state, path)
    model = Apollo.from_pretrained(path)
    if layout == "half":
        with torch.no_grad():
            assert snr(model(golden["input"]), golden["output"]) > 45
    else:
        assert_golden(model, golden)


def test_rotation_tables_of_the_file_are_those_we_compute():
    from apollo_plugin.network.layers import rotary

    cos, sin = rotary(100, 4)
    state = published_state()
    theirs = state["net.0.band_net.cos_freq"], state["net.0.band_net.sin_freq"]
    torch.testing.assert_close(cos[:, 0, 0, :2], theirs[0][:, ::2])
    torch.testing.assert_close(sin[:, 0, 0, 2:], theirs[1][:, ::2])


def test_qkv_order_against_plain_indexing():
    n_heads, head_dim = 2, 4
    rows = torch.arange(24.0)[:, None]
    ours = published._reorder_qkv(rows, n_heads)[:, 0].reshape(3, n_heads, head_dim)
    for head in range(n_heads):
        for part in range(3):
            theirs = [head * 12 + part * 4 + i for i in range(4)]
            if part < 2:  # pairs (0, 1), (2, 3) come to lie half a head apart
                theirs = [theirs[i] for i in (0, 2, 1, 3)]
            assert ours[part, head].tolist() == theirs


@pytest.mark.parametrize("half", [False, True])
def test_own_safetensors(half, tmp_path):
    model = small_model(causal=True, residual=True, band_gain=True, sample_rate=16000, bands=20)
    path = tmp_path / "own.safetensors"
    checkpoints.save(model, path, half=half)
    assert os.listdir(tmp_path) == ["own.safetensors"]
    loaded = Apollo.from_pretrained(path)
    assert loaded.get_model_args() == model.get_model_args()
    wav = tone(3000)
    with torch.no_grad():
        assert snr(loaded(wav), model(wav)) > (45 if half else 140)


def test_serialize_round_trips_through_a_dict():
    model = small_model()
    wav = tone(2000)
    loaded = Apollo.from_pretrained(model.serialize())
    with torch.no_grad():
        assert torch.equal(loaded(wav), model(wav))


def test_arguments_overwrite_those_of_the_file():
    assert Apollo.from_pretrained(GOLDEN / "published_layout.bin", causal=True).latency == 882


def test_bundled_checkpoints_are_what_they_were():
    assert "apollo-small" in checkpoints.BUNDLED
    for name, (file, digest) in checkpoints.BUNDLED.items():
        path = loading.WEIGHTS / file
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
        assert path.stat().st_size <= 4e6
        assert not Apollo.from_pretrained(name).training


def test_a_bundled_file_that_changed_is_refused(monkeypatch):
    file, _ = checkpoints.BUNDLED["apollo-small"]
    monkeypatch.setitem(checkpoints.BUNDLED, "apollo-small", (file, "0" * 64))
    with pytest.raises(CheckpointError, match="sha256"):
        Apollo.from_pretrained("apollo-small")


# ----------------------------------------------------------------------------------- OmegaConf


def test_settings_pickled_by_omegaconf_are_skipped(golden, tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    settings = omegaconf.OmegaConf.create({"model": {"layers": 6, "rates": [24, 32]}, "lr": 1e-3})
    state = {f"audio_model.{key}": value for key, value in published_state().items()}
    state["discriminator.weight"] = torch.zeros(3)
    path = tmp_path / "epoch.ckpt"
    content = {
        "epoch": 3,
        "state_dict": state,
        "hyper_parameters": settings,
        "callbacks": {"best": collections.defaultdict(list, a=[1])},
    }
    torch.save(content, path)
    assert_golden(Apollo.from_pretrained(path), golden)


def test_settings_of_a_module_that_is_not_installed(golden, tmp_path, monkeypatch):
    """A stand-in for OmegaConf that exists while the file is written only."""
    module = types.ModuleType("omegaconf.dictconfig")

    class DictConfig(dict):
        def __reduce__(self):
            return DictConfig, (), {"_content": 1}

    DictConfig.__module__, DictConfig.__qualname__ = module.__name__, "DictConfig"
    module.DictConfig = DictConfig
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    path = tmp_path / "epoch.ckpt"
    torch.save({"state_dict": published_state(), "hyper_parameters": DictConfig()}, path)
    monkeypatch.delitem(sys.modules, "omegaconf.dictconfig")
    assert_golden(Apollo.from_pretrained(path), golden)


# ------------------------------------------------------------------------------------- bad input


class Evil:
    """Pickles to a call that leaves a mark."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("kind", ["zip", "alone", "legacy", "bare pickle", "eval"])
def test_hostile_pickles_are_refused_and_not_run(kind, tmp_path):
    path, mark = tmp_path / "evil.ckpt", tmp_path / "executed"
    content = {"state_dict": published_state(), "hyper_parameters": Evil(mark)}
    if kind == "zip":
        torch.save(content, path)
    elif kind == "alone":
        torch.save(Evil(mark), path)
    elif kind == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps(Evil(mark)))
    else:

        class Eval:
            def __reduce__(self):
                return eval, (f"__import__('os').mkdir({str(mark)!r})",)

        torch.save({"state_dict": published_state(), "x": Eval()}, path)
    with pytest.raises(CheckpointError, match=r"evil\.ckpt") as caught:
        Apollo.from_pretrained(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    "file", ["published_layout.bin", "model.safetensors", "lightning_layout.ckpt"]
)
@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.99])
def test_truncated_files(file, share, tmp_path):
    source = GOLDEN / file
    if file == "model.safetensors":
        source = tmp_path / "source.safetensors"
        checkpoints.save(small_model(), source)
    content = source.read_bytes()
    path = tmp_path / file
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")) as caught:
        Apollo.from_pretrained(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, reason",
    [
        ({"state_dict": {"encoder.weight": torch.zeros(3)}}, "another model"),
        ({"state_dict": {}}, "another model"),
        ({}, "another model"),
        ([1, 2], "no state dict"),
        (torch.zeros(3), "no state dict"),
        ({"state_dict": 5}, "no state dict"),
        ({"BN.0.1.weight": torch.zeros(4, 11, 1)}, "lacks|no plain Apollo"),
        ({"encoders.0.0.weight": torch.zeros(3)}, "arguments"),
        ({"state_dict": {"encoders.0.0.weight": torch.zeros(3)}, "model_args": {}}, "does not fit"),
        (
            {"state_dict": {"encoders.0.0.weight": torch.zeros(3)}, "model_args": {"wings": 2}},
            "wings",
        ),
    ],
)
def test_other_contents(content, reason, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        Apollo.from_pretrained(path)
    assert "other.pth" in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_tensors_and_sizes(tmp_path):
    path = tmp_path / "odd.pth"
    for value in (float("nan"), 1j):
        package = small_model().serialize()
        key = next(iter(package["state_dict"]))
        package["state_dict"][key] = package["state_dict"][key] * value
        torch.save(package, path)
        with pytest.raises(CheckpointError, match=r"odd\.pth' (is damaged|holds .*complex)"):
            Apollo.from_pretrained(path)
    for argument in ("n_layers", "feature_dim"):
        package = small_model().serialize()
        package["model_args"][argument] = 10**9
        torch.save(package, path)
        with pytest.raises(CheckpointError, match=argument):
            Apollo.from_pretrained(path)
    names = ("BN.0.1.weight", "output.0.1.bias", "net.0.seq_net.blocks.0.conv.0.weight")
    torch.save({name: torch.tensor(1.0) for name in names}, path)
    with pytest.raises(CheckpointError, match="no plain Apollo"):
        Apollo.from_pretrained(path)


def test_a_tensor_too_few_or_too_many(tmp_path):
    for change in (
        lambda state: state.pop("net.1.band_net.MLP.1.weight"),
        lambda state: state.pop("output.40.1.bias"),
        lambda state: state.update({"net.0.band_net.extra": torch.zeros(2)}),
        lambda state: state.update({"net.0.band_net.output.weight": torch.zeros(2, 2, 1)}),
    ):
        state = published_state()
        change(state)
        torch.save(state, tmp_path / "changed.bin")
        with pytest.raises(CheckpointError, match=r"changed\.bin"):
            Apollo.from_pretrained(tmp_path / "changed.bin")


@pytest.mark.parametrize("name", ["apollo-smal", "no/such/file.ckpt/", "", "missing.ckpt", "/none"])
def test_names_that_stand_for_nothing(name, monkeypatch):
    # The environment's variable counts when huggingface_hub is imported only.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="no checkpoint|Hub|holds none"):
        Apollo.from_pretrained(name)


# ----------------------------------------------------------------------------------------- the Hub


@pytest.fixture
def hub(monkeypatch):
    """Answers for the Hub: {file: path}; every request is written down."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    files, asked = {}, []

    def download(repo, file):
        asked.append((repo, file))
        if files.get("offline"):
            raise LocalEntryNotFoundError("no network")
        if "fails" in files:
            raise files["fails"]
        if file not in files:
            raise EntryNotFoundError("404")
        return str(files[file])

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    files["asked"] = asked
    return files


@pytest.mark.parametrize(
    "error, message",
    [
        ("Cannot send a request, as the client has been closed.", "Hub cannot be reached"),
        ("No space left on device", "download of 'owner/name' failed: No space left on device"),
    ],
)
def test_a_download_that_fails(hub, error, message):
    hub["fails"] = RuntimeError(error)
    with pytest.raises(CheckpointError, match=message):
        Apollo.from_pretrained("owner/name")


def test_hub_id(hub, golden):
    hub["pytorch_model.bin"] = GOLDEN / "published_layout.bin"
    assert_golden(Apollo.from_pretrained("JusperLee/Apollo"), golden)
    assert hub["asked"][0] == ("JusperLee/Apollo", "model.safetensors")


def test_hub_file(hub, golden):
    hub["sub/a.ckpt"] = GOLDEN / "lightning_layout.ckpt"
    assert_golden(Apollo.from_pretrained("owner/name/sub/a.ckpt"), golden)


def test_hub_without_network_or_file(hub):
    with pytest.raises(CheckpointError, match=r"has none of model\.safetensors"):
        Apollo.from_pretrained("owner/name")
    hub["offline"] = True
    hub["asked"].clear()
    with pytest.raises(CheckpointError, match="cannot be reached"):
        Apollo.from_pretrained("owner/name")
    assert len(hub["asked"]) == 1


def test_a_misspelt_path_does_not_ask_the_hub(hub):
    with pytest.raises(CheckpointError, match="no such file"):
        Apollo.from_pretrained("weights/my.pth")
    assert not hub["asked"]


# ------------------------------------------------------------------------------- layers that went


def older(model, tonality=-3.0):
    """A state dict with the guides and heads that models with excitation once had."""
    state, gone = {}, {}
    for key, value in model.state_dict().items():
        name = key.replace("highs.path.", "envelope_path.")
        state[name.removeprefix("highs.")] = value
    for guide, n in (("early_guide", 5), ("late_guide", 2)):
        for index, (n_bands, n_sub) in enumerate(((79, 1), (1, 9))):
            gone[f"{guide}.maps.{index}.weight"] = torch.zeros(n_bands, 16, n * n_sub)
            gone[f"{guide}.maps.{index}.bias"] = torch.zeros(n_bands, 16)
    for width, n_bands, n_sub in ((5, 79, 1), (47, 1, 9)):
        head = f"excitation.heads.{width}"
        gone[f"{head}.0.weight"] = torch.rand(n_bands, 16)
        gone[f"{head}.1.weight"] = torch.zeros(n_bands, 3 * n_sub, 16)
        bias = torch.zeros(n_bands, 3, n_sub)
        bias[:, 1] = tonality
        gone[f"{head}.1.bias"] = bias.flatten(1)
    del state["excitation.tonality"]
    return state | gone, gone


def test_files_with_layers_of_zeros_load_without_them(tmp_path):
    model, path = small_model(n_layers=1, excitation=True, envelope_dim=176), tmp_path / "a.pth"
    torch.nn.init.constant_(model.highs.excitation.tonality, -3.0)
    state, gone = older(model)
    torch.save({"model_args": model.get_model_args(), "state_dict": state}, path)
    loaded, by_hand = Apollo.from_pretrained(path), Apollo(**model.get_model_args())
    by_hand.load_state_dict(state)
    for key, value in model.state_dict().items():
        assert value.equal(loaded.state_dict()[key]) and value.equal(by_hand.state_dict()[key]), key
    assert set(state) >= set(gone)  # what was given stays as it is
    # As a part of something larger, such as a system in training.
    outer = torch.nn.ModuleDict({"model": Apollo(**model.get_model_args())})
    outer.load_state_dict({f"model.{key}": value for key, value in state.items()})
    assert outer["model"].highs.excitation.tonality == -3


def test_files_whose_layers_were_trained_are_refused_in_one_line(tmp_path):
    model, path = small_model(n_layers=1, excitation=True, envelope_dim=176), tmp_path / "a.pth"
    state, gone = older(model)
    for key in gone:
        if key.endswith(".0.weight") and "heads" in key:
            continue  # of the norms before zeros
        state[key].flatten()[0] += 0.5
        torch.save({"model_args": model.get_model_args(), "state_dict": state}, path)
        with pytest.raises(CheckpointError, match="trained, and this version has no such") as error:
            Apollo.from_pretrained(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        with pytest.raises(RuntimeError, match="trained, and this version has no such layer"):
            model.load_state_dict(state)
        state[key].flatten()[0] -= 0.5
    state["excitation.heads.5.1.bias"] = torch.zeros(4)
    torch.save({"model_args": model.get_model_args(), "state_dict": state}, path)
    with pytest.raises(CheckpointError, match="cannot be used"):
        Apollo.from_pretrained(path)
