"""Own training with ApolloSystem: any schedule, logger and Trainer, and data of many shapes."""

import json
import warnings
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from helpers import (
    LENGTH,
    Noisy,
    load_plain,
    needs_processes,
    small_model,
    tone,
    with_args,
    with_settings,
)
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.optim import SGD
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, IterableDataset

from apollo_plugin import Apollo, ApolloSystem, MultiResolutionSTFTDiscriminator
from apollo_plugin.errors import SettingError
from apollo_plugin.losses import GeneratorLoss
from apollo_plugin.training import TrainingError, callbacks, train
from apollo_plugin.training.batches import collate
from apollo_plugin.training.callbacks import BestModels, EpochLine, Examples
from apollo_plugin.training.schedules import end_epoch, end_step, normalize


def make_system(scheduler=None, data=None, valid=None, batch_size=2, n_channels=2, **options):
    torch.manual_seed(0)
    model = small_model(residual=True, n_layers=1).train()
    optimizers = [SGD(model.parameters(), 0.1)]
    if "discriminator" in options:
        optimizers.append(SGD(options["discriminator"].parameters(), 0.2))
    return ApolloSystem(
        model,
        optimizers,
        GeneratorLoss(windows=(64, 256), per_item=True),
        DataLoader(data or Noisy(), batch_size),
        valid if isinstance(valid, DataLoader) else DataLoader(valid or Noisy(2), 1),
        scheduler(optimizers) if scheduler else None,
        **options,
    )


def fit(system, max_epochs=1, **options):
    defaults = dict(logger=False, enable_checkpointing=False, accelerator="cpu")
    quiet = dict(enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(max_epochs=max_epochs, **{**defaults, **quiet, **options})
    trainer.fit(system)
    return trainer


# ------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("how", ["bare", "monitor", "interval"])
def test_a_plateau(how):
    """Rates of nothing gain nothing: halved after the epoch that is not better than the first."""

    def scheduler(optimizers):
        plateau = ReduceLROnPlateau(optimizers[0], factor=0.5, patience=0)
        mapping = dict(scheduler=plateau, monitor="val_reconstruction")
        return dict(bare=plateau, monitor=mapping, interval=mapping | dict(interval="epoch"))[how]

    system = make_system(scheduler, gradient_clip=1e-30)
    seen = []
    system.on_train_epoch_start = lambda: seen.append(system.optimizer[0].param_groups[0]["lr"])
    fit(system, max_epochs=4)
    assert seen == pytest.approx([0.1, 0.1, 0.05, 0.025])


def test_a_plateau_of_what_is_not_measured():
    def scheduler(optimizers):
        return dict(scheduler=ReduceLROnPlateau(optimizers[0]), monitor="val_los")

    with pytest.raises(TrainingError, match="follows 'val_los', which is not measured; known: ep"):
        fit(make_system(scheduler))


def test_one_cycle_by_step():
    """As many steps as it says: one more would be an error of its own."""
    used = []

    def scheduler(optimizers):
        cycle = OneCycleLR(optimizers[0], 0.5, total_steps=6)
        return dict(scheduler=cycle, interval="step")

    system = make_system(scheduler)
    step = system.optimizer[0].step
    group = system.optimizer[0].param_groups[0]
    system.optimizer[0].step = lambda *args, **kw: (used.append(group["lr"]), step(*args, **kw))
    fit(system, max_epochs=3)
    twin = SGD([torch.zeros(1, requires_grad=True)], 0.1)
    cycle, expected = OneCycleLR(twin, 0.5, total_steps=6), []
    for _ in range(6):
        expected.append(twin.param_groups[0]["lr"])
        twin.step()
        cycle.step()
    assert used == pytest.approx(expected) and len(used) == 6


def test_a_schedule_by_step_for_each_network_and_every_other_step():
    judge = MultiResolutionSTFTDiscriminator((64, 256), channels=2)

    def scheduler(optimizers):
        return [
            dict(scheduler=StepLR(optimizers[0], 1, 0.5), interval="batch", frequency=2),
            dict(scheduler=StepLR(optimizers[1], 1, 0.1), frequency=2),
        ]

    system = make_system(scheduler, discriminator=judge)
    trainer = fit(system, max_epochs=2)  # four steps, two epochs
    rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
    assert rates == pytest.approx([0.1 * 0.5**2, 0.2 * 0.1])


class Steps:
    """A schedule that notes when it is stepped."""

    def __init__(self, optimizer=None):
        self.optimizer, self.now, self.seen = optimizer, 0, []

    def step(self):
        self.seen.append(self.now)


def test_every_so_many_steps_and_epochs():
    mine, other = object(), object()
    configs = [
        dict(scheduler=Steps(mine), interval="step", frequency=3),
        dict(scheduler=Steps(other), interval="step"),
        dict(scheduler=Steps(mine), frequency=3),
        dict(scheduler=Steps(mine)),
    ]
    configs = normalize(configs)
    for now in range(1, 8):
        for config in configs:
            config["scheduler"].now = now
        end_step(None, configs, mine, now)
        # Epochs count from 0, steps from 1.
        end_epoch(SimpleNamespace(current_epoch=now - 1), configs, True)
    seen = [config["scheduler"].seen for config in configs]
    assert seen == [[3, 6], [], [3, 6], [1, 2, 3, 4, 5, 6, 7]]


def test_the_same_checkpoint_stays_best_when_another_is_no_better(tmp_path, monkeypatch):
    """Without checkpoints of epochs Lightning keeps no score; a draw is no improvement."""
    best = BestModels(tmp_path, save_top_k=0)
    monkeypatch.setattr(ModelCheckpoint, "on_train_epoch_end", lambda *_: None)
    trainer = SimpleNamespace(is_global_zero=True, save_checkpoint=lambda *_, **how: None)
    kept = []
    for epoch, score in enumerate((2.0, 2.0, 3.0, 1.5)):
        trainer.callback_metrics = {"val_loss": torch.tensor(score)}
        weights = SimpleNamespace(serialize=lambda epoch=epoch: {"epoch": epoch})
        loader = SimpleNamespace(dataset=None)
        module = SimpleNamespace(train_loader=loader, best_weights=weights)
        best.on_train_epoch_end(trainer, module)
        kept.append(load_plain(tmp_path / "best_model.pth")["epoch"])
    assert kept == [0, 0, 0, 3] and best.best_model_score == 1.5


def test_the_line_of_an_epoch(monkeypatch):
    said, now = [], iter([100.0, 112.4, 200.0, 207.6])
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(callbacks, "rank_zero_info", said.append)
    figures = dict(epoch_loss=1.23456)
    trainer = SimpleNamespace(current_epoch=4, max_epochs=20, callback_metrics=figures)
    line = EpochLine()
    for more in ({}, dict(val_loss=2.0, val_reconstruction=0.5, val_si_snr=-3.456)):
        figures |= more | {f"{name}_coded": 2 * value for name, value in more.items()}
        line.on_train_epoch_start(trainer, None)
        line.on_train_epoch_end(trainer, None)
    assert said == [
        "epoch 5 of 20, 12 s: loss 1.2346",
        "epoch 5 of 20, 8 s: loss 1.2346, val_loss 2.0000 (coded 4.0000), "
        "reconstruction 0.5000 (coded 1.0000), SI-SNR -3.46 dB (coded -6.91)",
    ]


def test_as_many_examples_as_asked_for():
    """The coded ones once, in the first epoch; sound is the mean of the channels, clipped."""
    logged = []
    log = SimpleNamespace(
        add_audio=lambda tag, wav, epoch, rate: logged.append((tag, wav, epoch, rate)),
        add_image=lambda *_, **how: None,
    )
    trainer = SimpleNamespace(sanity_checking=False, is_global_zero=True, logger=None)
    module = SimpleNamespace(model=SimpleNamespace(sample_rate=8000.0))
    coded, restored = torch.full((1, 2, 4096), 3.0), torch.zeros(1, 2, 4096)
    restored[0, 1] = 0.5
    batch = (coded, coded)

    def validate(epoch, n_batches=4):
        trainer.current_epoch = epoch
        for index in range(n_batches):
            Examples(2).on_validation_batch_end(trainer, module, restored, batch, index)

    validate(0)
    trainer.logger = SimpleNamespace(experiment=log)
    for name, value in (("sanity_checking", True), ("is_global_zero", False)):
        before = getattr(trainer, name)
        setattr(trainer, name, value)
        validate(0)
        setattr(trainer, name, before)
    assert not logged
    validate(0)
    names = ("restored", "coded", "original")
    assert [entry[0] for entry in logged] == [f"example_{i}/{n}" for i in range(2) for n in names]
    assert logged[0][1].unique() == 0.25 and logged[1][1].unique() == 1
    assert {entry[2:] for entry in logged} == {(0, 8000)}
    logged.clear()
    validate(1)
    assert [(entry[0], entry[2]) for entry in logged] == [
        ("example_0/restored", 1),
        ("example_1/restored", 1),
    ]


@pytest.mark.parametrize(
    "scheduler, complaint",
    [
        ("cosine", "str is no schedule"),
        (["cosine"], "str is no schedule"),
        ({"interval": "step"}, "dict is no schedule"),
    ],
)
def test_what_is_no_schedule(scheduler, complaint):
    with pytest.raises(SettingError, match=complaint):
        make_system(lambda _: scheduler)


def test_intervals_that_make_no_sense():
    for wrong in (dict(interval="week"), dict(frequency=0)):
        with pytest.raises(SettingError, match="has to be 'epoch' or 'step'"):
            make_system(lambda opts, wrong=wrong: dict(scheduler=StepLR(opts[0], 1), **wrong))


# -------------------------------------------------------------------------------- loggers, trainers


def test_loggers(tmp_path):
    logger = CSVLogger(tmp_path)
    fit(make_system(), logger=logger, log_every_n_steps=1, callbacks=[Examples(1)])
    text = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    assert {"loss", "val_loss", "epoch_loss", "lr/generator"} <= set(text.split("\n")[0].split(","))
    fit(make_system(), logger=False, callbacks=[Examples(1)])


class Endless(IterableDataset):
    def __iter__(self):
        yield from (Noisy()[index % 4] for index in range(10**6))


def test_an_endless_data_set():
    system = make_system(data=Endless(), accumulate=2)
    fit(system, limit_train_batches=3)
    assert system.n_steps == 2  # the last batch makes a step of its own
    system = make_system(data=Endless(), accumulate=2)
    fit(system, max_epochs=-1, max_steps=2)
    assert system.n_steps == 2


def test_no_validation(conf, tmp_path):
    metrics = train(with_settings(conf, epochs=2, ema_decay=0.0), Noisy(), None)
    assert "best_val_loss" not in metrics and metrics["epochs"] == 2
    exp = tmp_path / "exp"
    kept = Apollo.from_pretrained(exp / "best_model.pth").state_dict()
    last = load_plain(exp / "checkpoints" / "last.ckpt")["state_dict"]
    for name, value in kept.items():
        assert torch.equal(value, last[f"model.{name}"])
    resumed = with_args(with_settings(conf, epochs=3, ema_decay=0.0), resume=1)
    assert train(resumed, Noisy(), [])["epochs"] == 3


@pytest.mark.parametrize("top_k", [-1, 0, 1])
def test_how_many_checkpoints_are_kept(conf, tmp_path, top_k):
    """Resumed in the middle; the best is the lowest of what TensorBoard has."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    conf["optim"] |= dict(g_lr=0.05, d_lr=0.0)
    conf = with_settings(conf, save_top_k=top_k, ema_decay=0.0)
    train(with_settings(conf, epochs=3), Noisy(), Noisy(2))
    metrics = train(with_args(with_settings(conf, epochs=5), resume=1), Noisy(), Noisy(2))
    exp = tmp_path / "exp"
    scores = EventAccumulator(str(exp / "logs")).Reload().Scalars("val_loss")
    values = [score.value for score in scores]
    assert len(values) == 5
    assert metrics["best_val_loss"] == pytest.approx(min(values))
    files = list((exp / "checkpoints").glob("epoch*"))
    assert len(files) == {-1: 5, 0: 0, 1: 1}[top_k]
    # The last is there whether it is among the best or not.
    assert load_plain(exp / "checkpoints" / "last.ckpt")["epoch"] == 4
    if top_k:
        best = json.loads((exp / "best_k_models.json").read_text())
        assert set(best) == {path.name for path in files}


# ------------------------------------------------------------------------------------------- items


class Items(Dataset):
    def __init__(self, *pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def test_items_of_one_channel_and_of_none():
    """The numbers of (batch, 1, time) and of (batch, time) are equal."""
    pairs = [tuple(x[:1] for x in Noisy()[index]) for index in range(4)]
    bare = [tuple(x[0] for x in pair) for pair in pairs]
    figures = []
    for items in (pairs, bare):
        torch.manual_seed(1)
        judge = MultiResolutionSTFTDiscriminator((64, 256), n_channels=1, channels=2)
        system = make_system(data=Items(*items), valid=Items(*items[:2]), discriminator=judge)
        figures.append(dict(fit(system, callbacks=[Examples(1)]).callback_metrics))
    assert set(figures[0]) == set(figures[1])
    torch.testing.assert_close(*figures, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_workers", [0, pytest.param(1, marks=needs_processes)])
def test_lengths_that_differ(n_workers):
    uneven = Items(*[tuple(x[:, : LENGTH - index] for x in Noisy()[index]) for index in range(2)])
    with pytest.raises(ValueError, match=r"different shapes: \(2, 4410\) and \(2, 4410\), \(2, 4"):
        fit(make_system(valid=DataLoader(uneven, 2, num_workers=n_workers)))
    metrics = fit(make_system(valid=DataLoader(uneven, 1))).callback_metrics
    assert torch.isfinite(metrics["val_loss"])


@pytest.mark.parametrize(
    "item, complaint",
    [
        ((torch.ones(2, 900), torch.ones(2, 800)), r"shape \(2, 2, 900\), the original \(2, 2, 8"),
        ((torch.ones(1, 900), torch.ones(2, 900)), "they have to be equal"),
        ((torch.ones(2, 900).int(),) * 2, "coded signal of a batch is torch.int32"),
        ((torch.ones(1, 1, 2, 900),) * 2, r"has shape \(2, 1, 1, 2, 900\); expected"),
        ((torch.ones(2, 0),) * 2, "has shape"),
        ((torch.ones(2, 900),) * 3, "the loader gave 3 items"),
        (torch.ones(2, 900), "the loader gave Tensor"),
        (("a", "b"), "coded signal of a batch is tuple|list"),
    ],
)
def test_batches_that_are_none(item, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        fit(make_system(data=Items(item, item)), num_sanity_val_steps=0)
    assert "\n" not in str(caught.value)


def test_items_that_no_collate_takes():
    """Of one shape, or of none: the error stays torch's."""
    for items in ([object(), object()], [(torch.ones(2), object())] * 2):
        with pytest.raises(TypeError, match="default_collate|batch must contain"):
            collate(items)


def test_items_of_validation_that_tell_nothing():
    """Silent and NaN ones are named and left out; the mean is that of the others."""
    good, other = Noisy()[0], Noisy()[1]
    silent, broken = (good[0], torch.zeros_like(good[1])), (good[0] * float("nan"), good[1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        system = make_system(valid=Items(good, silent, broken, other), gradient_clip=1e-30)
        mixed = fit(system, max_epochs=2).callback_metrics
    lines = [str(w.message) for w in caught if "left out" in str(w.message)]
    assert lines == [
        "validation item 1 is left out: its original is silent",
        "validation item 2 is left out: its coded signal holds NaN or infinity",
    ]
    plain = fit(make_system(valid=Items(good, other), gradient_clip=1e-30)).callback_metrics
    for name in ("val_loss", "val_loss_coded", "val_si_snr"):
        assert mixed[name] == pytest.approx(plain[name].item(), rel=1e-5), name
    nothing = make_system(valid=Items(silent, broken))
    with pytest.raises(TrainingError, match="no item of validation can be used"):
        fit(nothing)


def test_a_model_that_gives_nan_is_not_validated():
    system = make_system()
    system.validation_loss = lambda *_: torch.tensor(float("nan"))
    system._figures.losses = (system.validation_loss, system._figures.losses[1])
    with pytest.raises(TrainingError, match="val_loss is nan in epoch 0; lower the learning rate"):
        fit(system)


def test_tone_is_no_silence():
    quiet = Items(*[(1e-3 * tone(LENGTH), 1e-4 * tone(LENGTH))] * 2)
    assert fit(make_system(valid=quiet)).callback_metrics["val_loss_coded"] > 1
