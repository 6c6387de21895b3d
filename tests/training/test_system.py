"""Each step moves its own network; schedules, EMA, AMP, accumulation; NaN is stopped and named."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from helpers import Noisy, small_model
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

from apollo_plugin import ApolloSystem, MultiResolutionSTFTDiscriminator
from apollo_plugin.losses import GeneratorLoss
from apollo_plugin.metrics import si_sdr
from apollo_plugin.training.batches import item_indices
from apollo_plugin.training.system import TrainingError, require_precision


def make_system(train_set=None, batch_size=2, gan=True, lr=1e-3, optimizer=AdamW, **options):
    torch.manual_seed(0)
    model = small_model(residual=True, n_layers=1).train()
    optimizers, discriminator = [optimizer(model.parameters(), lr)], None
    if gan:
        discriminator = MultiResolutionSTFTDiscriminator(windows=(64, 256), channels=2)
        optimizers.append(optimizer(discriminator.parameters(), lr))
    return ApolloSystem(
        model,
        optimizers,
        GeneratorLoss(windows=(64, 256), per_item=True),
        DataLoader(train_set or Noisy(), batch_size),
        DataLoader(Noisy(2), 1),
        [StepLR(each, 2, 0.98) for each in optimizers],
        {"training": {"names": ["a", "b"], "nothing": None, "rate": 0.1}},
        discriminator=discriminator,
        **options,
    )


def fit(system, max_epochs=1, **options):
    trainer = pl.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(system)
    return trainer


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


def test_each_step_reaches_its_own_network_alone(monkeypatch):
    system = make_system()
    seen = []
    step = ApolloSystem._step

    def spy(self, optimizer, network, *args):
        other = self.discriminator if network is self.model else self.model
        mine, theirs = weights(network), weights(other)
        done = step(self, optimizer, network, *args)
        moved = (weights(network) - mine).abs()
        assert (moved > 0).float().mean() > 0.99 and torch.equal(weights(other), theirs)
        assert all(p.grad is None for p in other.parameters())
        seen.append("generator" if network is self.model else "discriminator")
        return done

    monkeypatch.setattr(ApolloSystem, "_step", spy)
    fit(system)
    assert seen == ["discriminator", "generator"] * 2


def test_the_generator_is_judged_by_the_new_discriminator():
    """One step by hand, with the public parts alone."""
    system, twin = make_system(Noisy(2), optimizer=SGD), make_system(Noisy(2), optimizer=SGD)
    fit(system)
    model, judge, loss_func = twin.model, twin.discriminator, twin.loss_func
    items = Noisy(2)
    items.set_epoch(0)
    coded, original = (torch.stack(x) for x in zip(items[0], items[1]))
    est = model(coded)
    for optimizer, network, loss in (
        (twin.optimizer[1], judge, "discriminator"),
        (twin.optimizer[0], model, "generator"),
    ):
        if loss == "discriminator":
            fake, real = judge.judge(est.detach(), original)
            value = loss_func.adversarial.discriminator_loss(fake.scores, real.scores)
        else:
            value, _ = loss_func(est, original, *judge.judge(est, original))
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
    torch.testing.assert_close(weights(system.model), weights(model), rtol=0, atol=1e-7)
    torch.testing.assert_close(weights(system.discriminator), weights(judge), rtol=0, atol=1e-7)


def test_learning_rates_fall_every_two_epochs():
    system = make_system(Noisy(2))
    trainer = fit(system, max_epochs=5, limit_val_batches=0)
    for optimizer in trainer.optimizers:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 0.98**2)


def test_the_data_hear_of_epochs():
    data = Noisy(2)
    fit(make_system(data), max_epochs=3)
    assert data.asked == [(epoch, index) for epoch in range(3) for index in range(2)]


def test_gradients_are_clipped_by_norm():
    free = make_system(optimizer=SGD, gan=False)
    bound = make_system(optimizer=SGD, gan=False, gradient_clip=1e-3)
    start = weights(free.model)
    for system in (free, bound):
        fit(system, limit_train_batches=1)
    assert (weights(bound.model) - start).norm() == pytest.approx(1e-3 * 1e-3, rel=1e-2)
    assert (weights(free.model) - start).norm() > 1e-5


def test_plain_regression_learns():
    system = make_system(gan=False, lr=3e-3)
    before = fit(copy.deepcopy(system), limit_train_batches=0).validate(system, verbose=False)
    after = fit(system, max_epochs=8).callback_metrics
    assert after["val_loss"] < 0.9 * before[0]["val_loss"]
    assert after["val_loss_coded"] == pytest.approx(before[0]["val_loss_coded"])
    assert after["val_reconstruction"] == pytest.approx(after["val_loss"].item(), rel=1e-5)
    assert "discriminator/loss" not in after and 5 < after["val_si_snr_coded"] < 20


def test_accumulated_batches_are_one_batch():
    whole = make_system(batch_size=4, gan=False, optimizer=SGD)
    parts = make_system(batch_size=1, gan=False, optimizer=SGD, accumulate=4)
    for system in (whole, parts):
        fit(system)
        assert system.n_steps == 1
    torch.testing.assert_close(weights(whole.model), weights(parts.model), rtol=0, atol=1e-7)


def test_what_is_left_of_an_epoch_makes_a_step():
    system = make_system(Noisy(3), batch_size=1, accumulate=2)
    fit(system)
    assert system.n_steps == 2


def test_warm_up_without_the_discriminator():
    system = make_system(warmup_steps=1)
    start = weights(system.discriminator)
    fit(system, limit_train_batches=1)
    assert torch.equal(weights(system.discriminator), start)
    fit(system, limit_train_batches=1)
    assert not torch.equal(weights(system.discriminator), start)


def test_the_running_average():
    system = make_system(Noisy(6), batch_size=1, gan=False, ema_decay=0.3)
    kept = []
    update = system.average.update_parameters

    def spy(model):
        update(model)
        kept.append((weights(model), weights(system.best_weights)))

    system.average.update_parameters = spy
    fit(system)
    average = kept[0][0]  # the first step is where it begins
    for index, (new, mean) in enumerate(kept):
        if index:
            weight = max(1 - 0.3, 10 / (10 + index))
            average = (1 - weight) * average + weight * new
        torch.testing.assert_close(mean, average, rtol=1e-4, atol=1e-7)
    assert system.best_weights is not system.model
    assert not any(p.requires_grad for p in system.average.parameters())


def test_bfloat16_is_close():
    exact, rough = make_system(), make_system()
    fit(exact, precision="32-true")
    fit(rough, precision="bf16-mixed")
    for name in ("loss", "val_loss"):
        a, b = (system.trainer.callback_metrics[name] for system in (exact, rough))
        assert torch.isfinite(b) and a != b and abs(a - b) < 0.03 * a
    assert next(rough.model.parameters()).dtype == torch.float32


def test_recomputing_changes_nothing():
    kept, anew = make_system(), make_system(recompute=True)
    for system in (kept, anew):
        fit(system)
    torch.testing.assert_close(weights(kept.model), weights(anew.model), rtol=0, atol=1e-5)


def test_a_broken_item_is_named():
    with pytest.raises(
        TrainingError, match=r"epoch 0, batch 1 \(items 2, 3\): the coded signal of item 3"
    ):
        fit(make_system(Noisy(broken=3)))


def test_a_broken_network_is_stopped_before_it_steps():
    system = make_system()
    with torch.no_grad():
        next(system.discriminator.parameters()).fill_(float("inf"))
    before = weights(system.model)
    with pytest.raises(TrainingError, match="discriminator/loss is nan.*lower the learning rate"):
        fit(system)
    assert torch.equal(weights(system.model), before)


@pytest.mark.parametrize(
    "options, complaint",
    [
        (dict(ema_decay=1.0), "ema_decay 1.0 has to be in"),
        (dict(accumulate=0), "accumulate 0 1 or more"),
        (dict(warmup_steps=-1), "warmup_steps -1"),
        (dict(gradient_clip=0), "gradient_clip 0 positive"),
    ],
)
def test_settings_that_make_no_sense(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        make_system(**options)


def test_an_optimizer_for_each_network():
    model = small_model()
    with pytest.raises(ValueError, match="1 optimizers do not fit a discriminator"):
        ApolloSystem(
            model,
            AdamW(model.parameters()),
            GeneratorLoss(),
            None,
            discriminator=MultiResolutionSTFTDiscriminator(),
        )


@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_float16_is_refused(precision):
    """Its gradients are scaled when they are clipped."""
    with pytest.raises(ValueError, match=f"precision {precision}.*use bf16-mixed or 32-true"):
        require_precision(precision)


def test_float16_is_refused_of_any_trainer(monkeypatch):
    system = make_system()
    monkeypatch.setattr(pl.Trainer, "precision", "16-mixed")
    with pytest.raises(ValueError, match="precision 16-mixed"):
        fit(system)


def test_items_of_a_shuffling_sampler_are_named_truly():
    """As Lightning's under DDP: shuffled by the epoch, and another share for each process."""
    from torch.utils.data import DistributedSampler, RandomSampler

    data = Noisy(10)
    for rank in range(2):
        sampler = DistributedSampler(data, 2, rank, shuffle=True)
        sampler.set_epoch(3)
        loader = DataLoader(data, 2, sampler=sampler)
        data.asked.clear()
        seen = [[item for _, item in data.asked[-len(batch[0]) :]] for batch in loader]
        assert [item_indices(loader, index) for index in range(3)] == seen
    loader = DataLoader(data, 2, sampler=RandomSampler(data))
    assert item_indices(loader, 0) == []


class Apples(torch.Tensor):
    """As on a Mac's GPU: no double precision before it is on the CPU."""

    def _refuse(self, *args, **kwargs):
        raise TypeError("Cannot convert a MPS Tensor to float64")

    double = _refuse

    def to(self, *args, **kwargs):
        if torch.float64 in (*args, *kwargs.values()):
            self._refuse()
        return super().to(*args, **kwargs)

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_validation_on_a_mac():
    system = make_system(gan=False)
    coded, original = (x[None] for x in Noisy()[0])
    apples = [x.as_subclass(Apples) for x in (coded, original)]
    with torch.no_grad():
        system._figures.add(system.model(apples[0]), *apples, system.val_loader, 0)
    expected = si_sdr(coded[0], original[0])
    means = system._figures.means.reduce()
    assert means["val_si_snr_coded"] == pytest.approx(expected, abs=1e-3)
