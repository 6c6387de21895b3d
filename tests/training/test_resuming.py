"""A resumed run does what its command says; what cannot be resumed is refused in one line."""

import copy
import errno
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
import yaml
from helpers import (
    Mortal,
    Noisy,
    limited_files,
    load_plain,
    needs_limits,
    with_args,
    with_settings,
)
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from apollo_plugin.errors import one_line
from apollo_plugin.training import TrainingError, load_conf, resuming, run, train
from apollo_plugin.training.system import ApolloSystem


@pytest.fixture
def begun(conf):
    """One epoch of a run, and its configuration."""
    conf = with_settings(conf, epochs=1)
    train(conf, Noisy(), Noisy(2))
    return conf


def groups(exp):
    checkpoint = load_plain(exp / "checkpoints" / "last.ckpt")
    return [state["param_groups"][0] for state in checkpoint["optimizer_states"]]


def test_another_rate_decay_and_schedule(begun, tmp_path, monkeypatch):
    """The rates that steps are made with, against the formula, and what the checkpoint keeps."""
    conf = copy.deepcopy(with_args(with_settings(begun, epochs=4), resume=1))
    conf["optim"] |= dict(
        g_lr=2e-4, d_lr=5e-5, weight_decay=0.3, lr_decay=0.5, lr_step=1, g_betas=[0.7, 0.9]
    )
    used = []
    step = ApolloSystem._step

    def spy(self, optimizer, network, *args):
        if network is self.model:
            used.append((self.current_epoch, optimizer.param_groups[0]["lr"]))
        assert optimizer.param_groups[0]["weight_decay"] == 0.3
        return step(self, optimizer, network, *args)

    monkeypatch.setattr(ApolloSystem, "_step", spy)
    train(conf, Noisy(), Noisy(2))
    assert {epoch for epoch, _ in used} == {1, 2, 3}
    for epoch, rate in used:
        assert rate == pytest.approx(2e-4 * 0.5**epoch)
    generator, discriminator = groups(tmp_path / "exp")
    assert generator["lr"] == pytest.approx(2e-4 * 0.5**4)
    assert list(generator["betas"]) == [0.7, 0.9]
    assert discriminator["lr"] == pytest.approx(5e-5 * 0.5**4)
    saved = yaml.safe_load((tmp_path / "exp" / "conf.yml").read_text())
    assert saved["optim"] == conf["optim"]


def test_settings_are_applied_by_the_schedule_of_each_optimizer():
    """A rate is what its schedule would have come to; other schedules keep what they have."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(4)]
    optimizers = [torch.optim.SGD([w], 0.8, weight_decay=0.25) for w in weights]
    schedulers = [
        StepLR(optimizers[2], 3, 0.5),  # by another step and factor
        ExponentialLR(optimizers[1], 0.9),
        StepLR(optimizers[3], 2, 0.1),
    ]
    group = dict(lr=0.1, weight_decay=0.0, params=[7])
    checkpoint = dict(
        optimizer_states=[dict(param_groups=[dict(group)]) for _ in optimizers],
        lr_schedulers=[
            dict(step_size=2, gamma=0.5, base_lrs=[0.8], last_epoch=8, _last_lr=[0.1]),
            dict(gamma=0.7, base_lrs=[0.2], last_epoch=8, _last_lr=[0.3]),
            dict(step_size=2, gamma=0.1, base_lrs=[0.8], last_epoch=8, _last_lr=[0.1]),
        ],
    )
    kept = copy.deepcopy(checkpoint["lr_schedulers"][1])
    resuming.apply_settings(checkpoint, optimizers, schedulers)
    groups = [state["param_groups"][0] for state in checkpoint["optimizer_states"]]
    # None: as configured; another kind: untouched; 8 // 3 = 2 falls; the same: to the last bit.
    assert [each["lr"] for each in groups] == [0.8, 0.1, 0.8 * 0.5**2, 0.1]
    assert [each["weight_decay"] for each in groups] == [0.25, 0.0, 0.25, 0.25]
    assert all(each["params"] == [7] for each in groups)
    changed = checkpoint["lr_schedulers"]
    assert (changed[0]["step_size"], changed[0]["_last_lr"]) == (3, [0.2])
    assert changed[1] == kept and changed[2]["_last_lr"] == [0.1]


def test_a_run_that_did_not_know_an_option_yet(begun, tmp_path):
    """It had the option's default, and goes on with nothing else."""
    path = tmp_path / "exp" / "conf.yml"
    kept = yaml.safe_load(path.read_text())
    del kept["model"]["gain_shape"]
    path.write_text(yaml.safe_dump(kept))
    other = copy.deepcopy(with_args(with_settings(begun, epochs=2), resume=1))
    other["model"]["gain_shape"] = "bin"
    with pytest.raises(TrainingError, match="trained with gain_shape band, not bin"):
        train(other, Noisy(), Noisy(2))
    assert train(with_args(with_settings(begun, epochs=2), resume=1), Noisy(), Noisy(2))


def test_another_patience(begun):
    """Rates of nothing: no epoch is better than the second, the first without an average."""
    still = copy.deepcopy(begun)
    still["optim"] |= dict(g_lr=0.0, d_lr=0.0)
    still = with_args(with_settings(still, ema_decay=0.0), resume=1)
    more = with_settings(still, epochs=9, early_stop=2)
    assert train(more, Noisy(), Noisy(2))["epochs"] == 4
    longer = with_settings(still, epochs=9, early_stop=4)
    assert train(longer, Noisy(), Noisy(2))["epochs"] == 6


@pytest.mark.parametrize("before, after", [(0.0, 0.9), (0.9, 0.0)])
def test_a_running_average_that_comes_or_goes(conf, tmp_path, before, after):
    train(with_settings(conf, epochs=1, ema_decay=before), Noisy(), Noisy(2))
    first = load_plain(tmp_path / "exp" / "checkpoints" / "last.ckpt")["state_dict"]
    resumed = with_args(with_settings(conf, epochs=2, ema_decay=after), resume=1)
    assert train(resumed, Noisy(), Noisy(2))["epochs"] == 2
    state = load_plain(tmp_path / "exp" / "checkpoints" / "last.ckpt")["state_dict"]
    averaged = [key for key in state if key.startswith("average.module.")]
    assert bool(averaged) == bool(after)
    if after:
        assert state["average.n_averaged"] == 2
        key = "layers.0.roformer.qkv.weight"
        begins, ends = first[f"model.{key}"], state[f"model.{key}"]
        assert (state[f"average.module.{key}"] - ends).norm() <= (begins - ends).norm()


def test_another_loss_begins_its_scores_anew(begun, tmp_path):
    """Scores a hundred times as high: the old best would never be passed."""
    conf = copy.deepcopy(with_args(with_settings(begun, epochs=3, early_stop=1), resume=1))
    conf["loss"]["reconstruction"] = 100.0
    metrics = train(conf, Noisy(), Noisy(2))
    assert metrics["best_val_loss"] > 1
    best = json.loads((tmp_path / "exp" / "best_k_models.json").read_text())
    assert min(best.values()) == pytest.approx(metrics["best_val_loss"])


def test_a_moved_run_keeps_its_best(conf, tmp_path):
    conf = with_settings(conf, epochs=3, save_top_k=2)
    train(conf, Noisy(), Noisy(2))
    before = json.loads((tmp_path / "exp" / "best_k_models.json").read_text())
    shutil.move(tmp_path / "exp", tmp_path / "other" / "new name")
    exp = tmp_path / "other" / "new name"
    # Nothing gets better: what is best has to be of before.
    frozen = copy.deepcopy(conf)
    frozen["optim"] |= dict(g_lr=1.0, d_lr=1.0)
    moved = with_args(with_settings(frozen, epochs=5), resume=1, exp_dir=str(exp))
    metrics = train(moved, Noisy(), Noisy(2))
    assert metrics["best_val_loss"] == pytest.approx(min(before.values()))
    files = {path.name for path in (exp / "checkpoints").iterdir()}
    assert files == {*before, "last.ckpt"} and not (tmp_path / "exp").exists()
    state = load_plain(exp / "checkpoints" / "last.ckpt")["callbacks"]
    (kept,) = [value for key, value in state.items() if key.startswith("BestModels")]
    assert set(kept["best_k_models"]) == set(before) and str(tmp_path) not in str(kept)


def test_a_best_checkpoint_that_was_removed_is_not_missed(begun, tmp_path):
    for path in (tmp_path / "exp" / "checkpoints").glob("epoch*"):
        path.unlink()
    assert train(with_args(with_settings(begun, epochs=2), resume=1), Noisy(), Noisy(2))
    assert len(list((tmp_path / "exp" / "checkpoints").glob("epoch*"))) == 1


def test_epochs_that_make_no_sense(begun, tmp_path):
    with pytest.raises(TrainingError, match="nothing to train with epochs 0"):
        train(with_settings(begun, epochs=0), Noisy(), Noisy(2))
    train(with_args(with_settings(begun, epochs=2), resume=1), Noisy(), Noisy(2))
    with pytest.raises(TrainingError, match="has trained 2 epochs, more than epochs 1; set more"):
        train(with_args(begun, resume=1), Noisy(), Noisy(2))
    # All of them: nothing is left to do, and what is there stays.
    last = tmp_path / "exp" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    assert train(with_args(with_settings(begun, epochs=2), resume=1), Noisy(), Noisy(2)) is None
    assert last.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_last_checkpoint(begun, tmp_path, damage):
    exp = tmp_path / "exp"
    last = exp / "checkpoints" / "last.ckpt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 0xFF
    cases = dict(cut=data[: len(data) // 2], flipped=data, empty=b"", text=b"<html>")
    last.write_bytes(cases[damage])
    with pytest.raises(TrainingError, match="last.ckpt' is damaged.*copy 'epoch=0") as error:
        train(with_args(with_settings(begun, epochs=2), resume=1), Noisy(), Noisy(2))
    assert "\n" not in str(error.value)
    # The cure cures.
    (best,) = (exp / "checkpoints").glob("epoch*")
    shutil.copy(best, last)
    assert train(with_args(with_settings(begun, epochs=2), resume=1), Noisy(), Noisy(2))


@pytest.mark.parametrize("name, method", [("ckpt", "bytes"), ("best_k_models.json", "text")])
def test_a_full_disk(begun, tmp_path, monkeypatch, name, method):
    """As the system says it: without the name of a file."""
    last = tmp_path / "exp" / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    monkeypatch.setattr(Path, f"write_{method}", full_disk)
    line = rf"^'.*/exp/.*{name}': No space left on device; the last .* kept, --resume 1 continues"
    with pytest.raises(TrainingError, match=line) as error:
        train(with_args(with_settings(begun, epochs=2), resume=1), Noisy(), Noisy(2))
    monkeypatch.undo()
    assert "\n" not in str(error.value)
    assert last.read_bytes() == before and not list((tmp_path / "exp").rglob("*.part"))
    done = with_args(with_settings(begun, epochs=2), resume=1)
    monkeypatch.setattr(run, "keep_freed_memory", lambda every_size: None)
    assert train(done, Noisy(), Noisy(2))["epochs"] == 2


def test_a_disk_that_was_full_in_the_first_epoch(conf, monkeypatch):
    """There is nothing to resume, and the message says so."""
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(TrainingError, match="no epoch was complete yet.* without --resume$"):
            train(conf, Noisy(), Noisy(2))
        with pytest.raises(TrainingError, match="no epoch was complete yet, so start it again$"):
            train(conf, Noisy(), Noisy(2), by_itself=True)
    assert train(with_settings(conf, epochs=1), Noisy(), Noisy(2))["epochs"] == 1


def test_a_disk_that_is_full_for_tensorboard(begun, tmp_path, monkeypatch):
    """Its thread meets the error, and the main thread at the next value; one line is enough."""

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    monkeypatch.setattr(RecordWriter, "write", write)
    with pytest.raises(TrainingError, match="^'.*/exp': No space left on device; the last .* kept"):
        train(with_args(with_settings(begun, epochs=60), resume=1), Noisy(), Noisy(2))
    assert not seen and threading.excepthook == seen.append


@needs_limits
def test_a_disk_that_is_full_for_the_lock(begun, tmp_path):
    with limited_files(10), pytest.raises(OSError) as caught:
        train(with_args(with_settings(begun, epochs=2), resume=1), Noisy(), Noisy(2))
    assert one_line(caught.value).startswith(f"'{tmp_path / 'exp' / '.lock'}': ")
    assert train(with_args(with_settings(begun, epochs=2), resume=1), Noisy(), Noisy(2))


def full_disk(path, data):
    if isinstance(data, str) and data.startswith("data:"):  # conf.yml still found room
        return path.write_bytes(data.encode())
    with path.open("wb") as file:
        file.write((data.encode() if isinstance(data, str) else bytes(data))[:100])
    raise OSError(errno.ENOSPC, "No space left on device")


def test_other_channels_for_the_discriminator(begun):
    mono = {**begun, "data": {**begun["data"], "mono": True}}
    with pytest.raises(TrainingError, match="trained with mono False, not True; set mono False"):
        train(with_args(with_settings(mono, epochs=2), resume=1), Noisy(), Noisy(2))


def test_the_other_processes_end_with_the_first(begun, monkeypatch, capsys):
    """As rank 1 under torchrun sees a finished run, and one that is there already."""
    monkeypatch.setattr(resuming.rank_zero_only, "rank", 1)
    data = Mortal()
    assert train(begun, data, Noisy(2)) is None
    (run.Path(begun["main_args"]["exp_dir"]) / "train_metrics.json").unlink()
    with pytest.raises(SystemExit) as ended:
        train(begun, data, Noisy(2))
    assert ended.value.code == 1 and not data.asked and not capsys.readouterr().err


def test_conf_of_the_run_is_what_was_asked_for_last(begun, tmp_path):
    train(with_args(with_settings(begun, epochs=2, log_every=7), resume=1), Noisy(), Noisy(2))
    assert load_conf(tmp_path / "exp" / "conf.yml")["training"]["log_every"] == 7
