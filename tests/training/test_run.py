"""A run from a configuration: what it leaves, resume, fine-tuning, and a user's mistakes."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import (
    LENGTH,
    LOCAL,
    Killed,
    Mortal,
    Noisy,
    load_plain,
    small_model,
    tiny_srgan,
    tone,
    with_args,
    with_settings,
)
from safetensors.torch import save_file

from apollo_plugin import Apollo, checkpoints, training
from apollo_plugin.checkpoints import CheckpointError
from apollo_plugin.errors import SettingError
from apollo_plugin.network.highs.envelope import EnvelopePath
from apollo_plugin.training import build, callbacks, load_conf, memory, run, train
from apollo_plugin.training.models import widened
from apollo_plugin.training.system import ApolloSystem, TrainingError


def test_what_a_run_leaves(conf, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    conf = with_settings(conf, epochs=2)
    metrics = train(conf, Noisy(), Noisy(2))
    exp = tmp_path / "exp"
    assert json.loads((exp / "train_metrics.json").read_text()) == metrics
    assert metrics["epochs"] == 2 and metrics["steps"] == 4
    best = json.loads((exp / "best_k_models.json").read_text())
    assert min(best.values()) == pytest.approx(metrics["best_val_loss"])
    assert set(best) | {"last.ckpt"} == {path.name for path in (exp / "checkpoints").iterdir()}
    saved = yaml.safe_load((exp / "conf.yml").read_text())
    assert saved["optim"]["g_lr"] == 0.001 and saved["data"]["n_items"] == 4
    # The best checkpoint's running average.
    state = load_plain(exp / "checkpoints" / min(best, key=best.get))["state_dict"]
    model = Apollo.from_pretrained(exp / "best_model.pth")
    # The score belongs to the average, so that is what the checkpoint itself loads.
    kept = Apollo.from_pretrained(exp / "checkpoints" / min(best, key=best.get)).state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[f"average.module.{key}"]), key
        assert torch.equal(value, kept[key]), key
    # What the data set says of itself is published with the model.
    assert load_plain(exp / "best_model.pth")["licenses"] == [{"title": "noise"}]
    assert not torch.equal(
        state["average.module.layers.0.roformer.qkv.weight"],
        state["model.layers.0.roformer.qkv.weight"],
    )
    assert model(tone(LENGTH)).shape == (2, LENGTH)
    last = Apollo.from_pretrained(exp / "checkpoints" / "last.ckpt")
    assert last.get_model_args() == model.get_model_args()
    events = EventAccumulator(str(exp / "logs")).Reload()
    tags = events.Tags()
    assert {"val_loss", "val_loss_coded", "val_si_snr", "lr/generator"} <= set(tags["scalars"])
    for kind in ("audio", "images"):
        assert set(tags[kind]) == {f"example_0/{n}" for n in ("coded", "original", "restored")}
    assert len(events.Audio("example_0/restored")) == 2


def test_a_resumed_run_is_an_uninterrupted_one(conf, tmp_path):
    whole = Mortal()
    train(conf, whole, Noisy(2))
    broken = with_args(conf, exp_dir=str(tmp_path / "broken"))
    first, second = Mortal(4, dies_at=(2, 1)), Mortal()
    with pytest.raises(Killed):
        train(broken, first, Noisy(2))
    assert first.asked[-1] == (2, 0)
    assert not (tmp_path / "broken" / "train_metrics.json").exists()
    train(with_args(broken, resume=1), second, Noisy(2))
    assert first.asked[:8] + second.asked == whole.asked
    one, other = (
        load_plain(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("exp", "broken")
    )
    assert one["epoch"] == other["epoch"] == 3 and one["global_step"] == other["global_step"]
    torch.testing.assert_close(one["state_dict"], other["state_dict"], rtol=0, atol=0)
    for key in ("optimizer_states", "lr_schedulers"):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
    a, b = (
        json.loads((tmp_path / n / "best_k_models.json").read_text()) for n in ("exp", "broken")
    )
    assert a == b
    states = [Apollo.from_pretrained(tmp_path / n / "best_model.pth") for n in ("exp", "broken")]
    torch.testing.assert_close(*(s.state_dict() for s in states), rtol=0, atol=0)


def test_a_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "checkpoints" / "last.ckpt"
    files = callbacks.AtomicCheckpointIO()
    files.save_checkpoint({"step": 1}, path)

    def half(target, data, write=Path.write_bytes):
        write(target, bytes(data)[:9])
        raise Killed

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(Killed):
        files.save_checkpoint({"step": 2}, path)
    assert files.load_checkpoint(path, weights_only=True) == {"step": 1}
    assert [found.name for found in path.parent.iterdir()] == ["last.ckpt"]


def test_early_stopping(conf):
    conf["optim"]["g_lr"] = conf["optim"]["d_lr"] = 0.0
    metrics = train(with_settings(conf, epochs=9, early_stop=2, ema_decay=0.0), Noisy(), Noisy(2))
    assert metrics["epochs"] == 3


def test_a_finished_run_is_kept_and_a_broken_one_not_overwritten(conf, tmp_path):
    short = with_settings(conf, epochs=1)
    train(short, Noisy(), Noisy(2))
    last = tmp_path / "exp" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    assert train(short, Noisy(), Noisy(2)) is None
    (tmp_path / "exp" / "train_metrics.json").unlink()
    with pytest.raises(TrainingError, match="holds a run; pass --resume 1 or another --tag"):
        train(short, Noisy(), Noisy(2))
    assert last.read_bytes() == before
    longer = with_args(with_settings(conf, epochs=2), resume=1)
    assert train(longer, Noisy(), Noisy(2))["epochs"] == 2
    wider = {**longer, "model": {**conf["model"], "feature_dim": 32}}
    with pytest.raises(
        TrainingError, match="trained with feature_dim 16, not 32; set feature_dim 16"
    ):
        train(wider, Noisy(), Noisy(2))


def test_nothing_to_resume(conf):
    with pytest.raises(TrainingError, match="nothing to resume: '.*last.ckpt' is missing"):
        train(with_args(conf, resume=1), Noisy(), Noisy(2))


def test_fine_tuning(conf, tmp_path, tiny_checkpoint):
    conf["optim"]["g_lr"] = 0.0
    conf["discriminator"]["adversarial_training"] = False
    train(
        with_settings(with_args(conf, init_from=str(tiny_checkpoint)), epochs=1), Noisy(), Noisy(2)
    )
    tuned = Apollo.from_pretrained(tmp_path / "exp" / "best_model.pth")
    source = Apollo.from_pretrained(tiny_checkpoint)
    assert tuned.get_model_args() == source.get_model_args()
    torch.testing.assert_close(tuned.state_dict(), source.state_dict())
    saved = yaml.safe_load((tmp_path / "exp" / "conf.yml").read_text())
    assert saved["model"]["band_gain"] is True
    # A resumed run needs the checkpoint no more.
    tiny_checkpoint.unlink()
    resumed = with_args(conf, init_from=str(tiny_checkpoint), resume=1)
    assert train(with_settings(resumed, epochs=2), Noisy(), Noisy(2))["epochs"] == 2


def test_a_wrong_init_from(conf, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint 'nowhere.ckpt': no such file"):
        train(with_args(conf, init_from="nowhere.ckpt"), Noisy(), Noisy(2))
    checkpoints.save(small_model(sample_rate=16000), tmp_path / "slow.safetensors")
    with pytest.raises(ValueError, match="works at 16000 Hz, the data at 44100"):
        train(with_args(conf, init_from=str(tmp_path / "slow.safetensors")), Noisy(), Noisy(2))
    assert not (tmp_path / "exp" / "conf.yml").exists()


def test_fewer_items_than_a_batch(conf):
    with pytest.raises(ValueError, match="1 items an epoch do not fill one batch of 2"):
        train(conf, Noisy(1), Noisy(2))


def test_too_little_memory(conf, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1e6)
    with pytest.raises(TrainingError, match="0.0 GB are free on cpu: set --recompute true"):
        train(conf, Noisy(), Noisy(2))
    monkeypatch.setattr(memory, "available_bytes", lambda device: None)
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ):

        def fails(self, batch, batch_nb, error=error):
            raise error

        monkeypatch.setattr(ApolloSystem, "training_step", fails)
        with pytest.raises(TrainingError, match="out of memory: set --recompute true"):
            train(conf, Noisy(), Noisy(2))


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("trainning: {epochs: 2}", "has no group 'trainning'; did you mean 'training'?"),
        ("model: {n_layer: 2}", "model has no key 'n_layer'; did you mean 'n_layers'?"),
        ("loss: {qqqq: 2}", "loss has no key 'qqqq'; known: reconstruction"),
        ("model: 3", "has to hold groups of keys"),
        ("model: {n_layers", "is not YAML"),
    ],
)
def test_configurations_with_mistakes(tmp_path, text, complaint):
    (tmp_path / "mine.yml").write_text(text)
    with pytest.raises(ValueError, match=complaint.replace("?", r"\?")) as error:
        load_conf(tmp_path / "mine.yml", LOCAL / "conf.yml")
    assert "mine.yml" in str(error.value) and "\n" not in str(error.value)


def test_the_configurations_of_the_recipe():
    """The paper's values; keys are unique, as asteroid's parser needs them; the demo is smaller."""
    paper, demo = load_conf(LOCAL / "conf.yml"), load_conf(
        LOCAL / "conf_demo.yml", LOCAL / "conf.yml"
    )
    keys = [key for group in paper.values() for key in group]
    assert len(keys) == len(set(keys))
    model = Apollo(**paper["model"])
    # Pairs have a peak of 1, so what is restored gets it.
    assert model.get_model_args() == Apollo(input_peak=1.0).get_model_args()
    assert (paper["data"]["n_items"], paper["training"]["epochs"]) == (40000, 500)
    assert (paper["optim"]["g_lr"], paper["optim"]["d_lr"]) == (1e-3, 1e-4)
    assert (paper["optim"]["lr_decay"], paper["optim"]["lr_step"]) == (0.98, 2)
    count = sum(p.numel() for p in Apollo(**demo["model"]).parameters())
    assert count < 0.02 * sum(p.numel() for p in model.parameters())


def test_the_picture_of_a_sine():
    """From white to black in 100 dB: four tones in steps of 20 dB."""
    n, places = torch.arange(44100), [100, 300, 500, 700]
    tones = [
        10.0 ** -(k + 1) * torch.sin(2 * torch.pi * b * n / 2048) for k, b in enumerate(places)
    ]
    picture = callbacks._spectrogram(torch.stack(tones).sum(0)).flip(0)[:, 20]
    expected = torch.tensor([1.0, 0.8, 0.6, 0.4])
    torch.testing.assert_close(picture[places], expected, rtol=0, atol=1e-3)
    assert picture.shape == (1025,) and picture[200] == picture[900] == 0
    assert not callbacks._spectrogram(torch.zeros(4096)).isnan().any()


def test_weights_are_foreseen_five_times():
    """As such, as gradients, as AdamW's two moments and as a running average."""
    model = small_model().train()
    before = memory.training_bytes(model, 2, 1.0)
    model.further = torch.nn.Parameter(torch.zeros(1_000_000))
    assert memory.training_bytes(model, 2, 1.0) == before + 5 * 4_000_000


def test_what_a_step_takes_is_foreseen():
    """The estimate against what the allocator was asked for, with and without recomputing."""
    model = small_model(feature_dim=32, n_heads=4).train()
    wav = tone(44100)
    for recompute in (False, True):
        foreseen = memory.training_bytes(model, 2, 1.0, recompute)
        with torch.profiler.profile(profile_memory=True) as profile:
            if recompute:
                with memory.recomputed(model):
                    est = model(wav)
            else:
                est = model(wav)
            est.square().mean().backward()
        level = peak = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                level += event.nbytes()
                peak = max(peak, level)
        assert 0.6 * peak < foreseen < 2 * peak, recompute


def test_the_estimate_term_by_term(monkeypatch):
    """Activations grow with frames and channels; beside them weights, four times the flow of
    gradients, and where layers are recomputed forty times a piece's."""
    monkeypatch.setattr(memory, "_PROBE_SECONDS", 0.02)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")

    def foreseen(*args, device=cuda, **how):
        return memory.training_bytes(model, *args, device=device, **how)

    for model in (small_model(n_layers=1), tiny_srgan(), small_model(n_layers=1).double()):
        weights = sum(p.nbytes for p in model.parameters())
        rate, hop = model.sample_rate, model.filterbank.stride
        frames = {s: s * rate / hop + 2 * model.filterbank.margin for s in (0.5, 6.0)}
        half, whole = foreseen(3, 0.5) - 5 * weights, foreseen(2, 6.0) - 5 * weights
        assert whole == pytest.approx(half * 2 / 3 * frames[6.0] / frames[0.5], rel=1e-5)
        flow = 2 * frames[6.0] * model.frame_bytes * next(model.parameters()).element_size() / 4
        # A critic stores as much four times, and its weights with theirs.
        critic = torch.nn.Linear(1000, 1000)
        of_critic = foreseen(2, 6.0, critic=critic) - 5 * weights - whole
        assert of_critic == pytest.approx(4 * 4 * 1_001_000 + 4 * (whole - 4 * flow), rel=1e-5)
        if isinstance(model, Apollo):
            on = [foreseen(2, 6.0, True, device=device) for device in (cpu, cuda)]
            assert flow > 1 << 20
            assert on[1] - on[0] == pytest.approx(40 * (flow - (1 << 20)), rel=1e-5)
            # Recomputed, the inputs of layers alone are stored.
            assert on[0] < 5 * weights + whole


def test_pieces_are_as_large_as_they_may_be():
    """A megabyte on a CPU, at least one row; on a GPU all."""
    for shape, axis, size in (((1, 3000, 64), 1, 4096), ((4, 9, 500, 16), 2, 455)):
        assert memory._piece_size(torch.zeros(shape), axis) == size
        row = 4 * torch.zeros(shape).numel() // shape[axis]
        assert size * row <= 1 << 20 < (size + 1) * row
    assert memory._piece_size(torch.zeros(1, 2, 300_000), 1) == 1
    assert memory._piece_size(torch.zeros(1, 2, 300_000, device="meta"), 1) == 2


def test_a_step_that_does_not_fit_is_refused(conf, monkeypatch):
    """The estimate and 30 % more on a CPU, three times as much where layers are recomputed."""
    asked = []
    monkeypatch.setattr(memory, "training_bytes", lambda *args: asked.append(args) or 10**9)
    system = SimpleNamespace(model="model", discriminator="judge")
    for recompute, device, needed in (
        (False, "cpu", 1.3),
        (True, "cpu", 3.0),
        (False, "cuda", 1.0),
        (True, "cuda", 1.0),
    ):
        settings = with_settings(conf, recompute=recompute, batch_size=3)
        for free in (needed * 1e9, None, 1e15):
            monkeypatch.setattr(memory, "available_bytes", lambda _, free=free: free)
            run._require_memory(settings, system, torch.device(device))
        monkeypatch.setattr(memory, "available_bytes", lambda _, n=needed: n * 1e9 - 1)
        with pytest.raises(TrainingError) as caught:
            run._require_memory(settings, system, torch.device(device))
        assert str(caught.value) == (
            f"a step needs about {needed} GB of memory, {needed} GB are free on {device}: set "
            "--recompute true, or lower --batch_size or --segment"
        )
        channels = 1 if conf["data"]["mono"] else 2
        seconds = conf["data"]["segment"]
        expected = ("model", 3 * channels, seconds, recompute, torch.device(device), None)
        assert asked[-1] == expected


@pytest.mark.parametrize("cuda, each", [(False, 16), (True, 4)])
def test_a_network_that_does_not_fit_is_refused(cuda, each, conf, monkeypatch):
    """Weights alone where a GPU holds their gradients and moments."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    n_weights = sum(p.numel() for p in Apollo(**conf["model"]).parameters())
    n_bytes = each * n_weights
    monkeypatch.setattr(build, "available_bytes", lambda: n_bytes)
    assert sum(p.numel() for p in build.make_model(conf).parameters()) == n_weights
    monkeypatch.setattr(build, "available_bytes", lambda: n_bytes - 1)
    line = f"^to train {n_weights / 1e6:.2f} M parameters takes {n_bytes / 1e9:.1f} GB of memory, "
    with pytest.raises(TrainingError, match=line):
        build.make_model(conf)


def test_processes_and_their_loaders(conf, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert build.n_devices(with_settings(conf, devices=None)) == 3
    assert build.n_devices(with_settings(conf, devices=2)) == 2
    many = with_settings(conf, devices=2, num_nodes=3, batch_size=2, num_workers=0)
    train_loader, valid_loader = build.make_loaders(many, Noisy(12), Noisy(3))
    assert len(train_loader) == 6 and len(valid_loader) == 3 and train_loader.drop_last
    with pytest.raises(SettingError, match="^11 items an epoch do not fill one batch of 2 in 6 pr"):
        build.make_loaders(many, Noisy(11), None)
    assert len(build.make_loaders(many, Noisy(13), None)[0]) == 6
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert build.n_devices(with_settings(conf, devices=None)) == 1


def test_a_trainer_of_several_processes(conf, monkeypatch):
    """Each step reaches one network, so the other's parameters are unused; SLURM requeues none."""
    made = []
    monkeypatch.setattr(build.pl, "Trainer", lambda **how: made.append(how))
    monkeypatch.setattr(build.SLURMEnvironment, "detect", lambda: True)
    for n_nodes, elastic in ((1, False), (2, True)):
        monkeypatch.setattr(build.TorchElasticEnvironment, "detect", lambda e=elastic: e)
        build.make_trainer(with_settings(conf, devices=1, num_nodes=n_nodes), validated=False)
    alone, several = made
    assert alone["strategy"] == "auto" and several["devices"] == 1 and several["num_nodes"] == 2
    assert several["strategy"]._ddp_kwargs == {"find_unused_parameters": True}
    assert [type(plugin).__name__ for plugin in alone["plugins"]] == [
        "AtomicCheckpointIO",
        "SLURMEnvironment",
    ]
    assert not alone["plugins"][1].auto_requeue and len(several["plugins"]) == 1
    assert len(alone["callbacks"]) == 4


def test_without_tensorboard_its_extra_is_named(tmp_path, monkeypatch):
    def missing(*args, **how):
        raise ModuleNotFoundError

    monkeypatch.setattr(build, "TensorBoardLogger", missing)
    with pytest.raises(TrainingError, match="^TensorBoard is missing; pip install .*train"):
        build.make_logger(tmp_path)


def test_available_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (123, 456))
    assert memory.available_bytes(torch.device("cuda")) == 123
    assert 1e8 < memory.available_bytes(torch.device("cpu")) < 1e14


def test_recomputing_gives_the_same_gradients(monkeypatch):
    """In pieces of one frame and one band, and in one piece."""
    wav, gradients, outputs = tone(3000), [], []
    for piece in (None, 1, 1 << 30):
        model = small_model(residual=True).train()
        if piece is None:
            est = model(wav)
        else:
            monkeypatch.setattr(memory, "_PIECE_BYTES", piece)
            with memory.recomputed(model):
                est = model(wav)
        est.square().sum().backward()
        outputs.append(est.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        assert "forward" not in vars(model.layers[0].roformer)
    for index in (1, 2):
        torch.testing.assert_close(outputs[0], outputs[index], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients[0], gradients[index], rtol=1e-3, atol=1e-4)


def test_compiled_layers_give_the_same_numbers(conf, tmp_path, monkeypatch):
    """Traced by torch.compile; a backend that needs no C++ compiler."""
    compiled = []

    def compile_(function, compile_=torch.compile):
        compiled.append(function)
        return compile_(function, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_)
    conf = with_settings(conf, epochs=1)
    train(conf, Noisy(2), Noisy(1))
    other = with_args(with_settings(conf, compile=True), exp_dir=str(tmp_path / "compiled"))
    train(other, Noisy(2), Noisy(1))
    assert len(compiled) == 2
    one, two = (load_plain(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("exp", "compiled"))
    torch.testing.assert_close(one["state_dict"], two["state_dict"], rtol=0, atol=1e-5)


def test_an_unknown_precision(conf):
    conf = with_settings(conf, precision="7-bit")
    with pytest.raises(ValueError, match="7-bit"):
        training.make_trainer(conf)


@pytest.mark.parametrize("causal", [False, True])
def test_longer_convolutions_change_nothing_at_first(conf, tmp_path, causal):
    model, wav = small_model(causal=causal, kernel_size=5), tone(9000)
    wide = widened(model, 11)
    assert wide.get_model_args() == {**model.get_model_args(), "kernel_size": 11}
    with torch.no_grad():
        torch.testing.assert_close(wide(wav), model(wav), rtol=0, atol=1e-6)
    assert (wide.latency == model.latency) == causal
    # As a run begins; a kernel that is longer already stays.
    checkpoints.save(model, tmp_path / "short.safetensors")
    for asked, got in ((11, 11), (3, 5)):
        conf["model"]["kernel_size"] = asked
        begun = build.make_model(with_args(conf, init_from=str(tmp_path / "short.safetensors")))
        assert begun.get_model_args()["kernel_size"] == got and begun.training


@pytest.mark.parametrize("megabytes, how", [(16, "False"), (64, "True")])
def test_freed_memory_is_kept(megabytes, how):
    """In a process of its own: pages of a block that comes again are not asked for again."""
    code = """if True:
        import ctypes, resource, sys
        from apollo_plugin import memory
        libc = ctypes.CDLL(None)
        libc.malloc.restype = ctypes.c_void_p
        size = int(sys.argv[1]) << 20
        if sys.argv[2] != "plain":
            memory.keep_freed_memory(every_size=sys.argv[2] == "True")
        faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):  # the heap settles in the first or the second round
            before = faults()
            for _ in range(5):
                together = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size))) for _ in range(3)]
                for place in together:
                    libc.memset(place, 1, ctypes.c_size_t(size))
                for place in together:
                    libc.free(place)
        print(faults() - before)
    """
    command = [sys.executable, "-c", code, str(megabytes)]
    # Left alone, glibc raises its threshold by itself, and gives back what happens to lie on top.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    options = dict(capture_output=True, text=True, check=True, env=env)
    kept, given_back = (
        int(subprocess.run([*command, way], **options).stdout) for way in (how, "plain")
    )
    if platform.libc_ver()[0] == "glibc":
        assert kept < 200 and kept < given_back / 4


def test_a_run_with_all_options_starts_from_a_trained_envelope_path(conf, tmp_path):
    trained = EnvelopePath(n_features=176)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.normal_(0, 0.01)
    save_file(trained.state_dict(), tmp_path / "envelope.safetensors")
    options = dict(bands=[100, 100, 242], excitation=True, envelope_dim=176)
    conf["model"].update(options)
    begun = with_args(conf, envelope_from=str(tmp_path / "envelope.safetensors"))
    model = build.make_model(begun)
    for name, value in model.highs.path.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name]), name
    # Out of a whole Apollo as well.
    checkpoints.save(model, tmp_path / "apollo.safetensors")
    again = build.make_model(with_args(conf, envelope_from=str(tmp_path / "apollo.safetensors")))
    assert torch.equal(again.highs.path.encoder.weight, trained.encoder.weight)
    # Longer convolutions are the tokens' alone.
    assert widened(model, 11).highs.path.ahead == trained.ahead
    train(with_settings(begun, epochs=1), Noisy(), Noisy(2))
    args = Apollo.from_pretrained(tmp_path / "exp" / "best_model.pth").get_model_args()
    assert {key: args[key] for key in options} == options


def test_an_envelope_path_that_does_not_fit(conf, tmp_path):
    file = tmp_path / "envelope.safetensors"
    save_file(EnvelopePath(n_features=180).state_dict(), file)
    with pytest.raises(SettingError, match="set excitation and envelope_dim"):
        build.make_model(with_args(conf, envelope_from=str(file)))
    conf["model"].update(excitation=True, envelope_dim=176)
    with pytest.raises(CheckpointError, match="is not this envelope path.*size mismatch"):
        build.make_model(with_args(conf, envelope_from=str(file)))
    with pytest.raises(CheckpointError, match="no envelope path 'nowhere.safetensors'"):
        build.make_model(with_args(conf, envelope_from="nowhere.safetensors"))
