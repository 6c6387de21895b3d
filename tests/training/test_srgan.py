"""SR-GAN's training: whose weights a step moves, seeds, resuming, settings, memory."""

import argparse
import copy

import pytest
import pytorch_lightning as pl
import torch
from helpers import (
    LOCAL,
    TINY_SRGAN,
    Killed,
    Mortal,
    Noisy,
    load_plain,
    tiny_srgan,
    tone,
    with_args,
    with_settings,
)
from torch.optim import SGD
from torch.utils.data import DataLoader

from apollo_plugin import SRGAN, checkpoints
from apollo_plugin.errors import CheckpointError, SettingError
from apollo_plugin.losses import Signal, SRGANCritic, SRGANLoss
from apollo_plugin.model import RestorationModel
from apollo_plugin.training import SRGANSystem, build, load_conf, memory, parse_model_conf, train
from apollo_plugin.training.models import MODELS, model_name
from apollo_plugin.training.system import TrainingError

SMALL = """
data: {n_items: 4, segment: 0.1}
training:
  {epochs: 2, batch_size: 2, num_workers: 0, ema_decay: 0.9, save_top_k: 2, n_examples: 1,
   devices: 1}
"""


@pytest.fixture
def conf(tmp_path):
    (tmp_path / "small.yml").write_text(SMALL)
    conf = load_conf(tmp_path / "small.yml", LOCAL / "conf_srgan.yml")
    conf["model"] |= {k: list(v) if type(v) is tuple else v for k, v in TINY_SRGAN.items()}
    conf["main_args"] = dict(exp_dir=str(tmp_path / "exp"), data_dir="data", seed=3, model="srgan")
    return conf


def tiny_critic(**options):
    sizes = {**TINY_SRGAN, **options}
    sizes = {k: sizes[k] for k in ("window", "channels", "n_rows", "width", "dilations")}
    return SRGANCritic(**sizes)


def make_system(data=None, gan=True, **loss):
    model = tiny_srgan(residual=True).train()
    critic, optimizers = None, [SGD(model.parameters(), 1e-3)]
    if gan:
        critic = tiny_critic()
        optimizers.append(SGD(critic.parameters(), 1e-3))
    return SRGANSystem(
        model,
        optimizers,
        SRGANLoss(window=256, hop=64, **loss),
        DataLoader(data or Noisy(2), 2),
        DataLoader(Noisy(1), 1),
        discriminator=critic,
        gradient_clip=float("inf"),
        seed=5,
    )


def fit(system, **options):
    options = (
        dict(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False) | options
    )
    trainer = pl.Trainer(**options, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(system)
    return trainer


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()]).clone()


def test_a_step_by_hand():
    """The critic's step, then the generator's against what became of it."""
    system, twin = make_system(), make_system()
    z, _, share = [], [], []
    draw = system._draw
    system._draw = lambda *place: z.append(draw(*place)) or z[0]
    fit(system)
    (z, _, share), items = z[0], Noisy(2)
    items.set_epoch(0)
    coded, original = (torch.stack(x) for x in zip(items[0], items[1]))
    model, critic, loss = twin.model, twin.discriminator, twin.loss_func
    est = model.spectrum(coded, z)
    given, real = loss.spectrum(coded), loss.spectrum(original)
    value, _ = loss.critic_loss(critic, est.detach(), real, given, share)
    value.backward()
    twin.optimizer[1].step()
    (-critic(est, given).mean()).backward()
    twin.optimizer[0].step()
    start = make_system()
    for name in ("model", "discriminator"):
        now, by_hand = weights(getattr(system, name)), weights(getattr(twin, name))
        torch.testing.assert_close(now, by_hand, rtol=0, atol=1e-7)
        assert (now != weights(getattr(start, name))).float().mean() > 0.5


def test_noise_follows_from_the_place():
    """Of an epoch and a batch, not of what was drawn before."""
    system, drawn = make_system(Noisy(4)), []
    draw = system._draw
    system._draw = lambda *place: drawn.append(draw(*place)) or drawn[-1]
    fit(system, max_epochs=2)
    assert len(drawn) == 4 and all(z.shape == (2, 4) and s.shape == (4,) for z, _, s in drawn)
    flat = [torch.cat([part.flatten() for part in parts]) for parts in drawn]
    assert len({tuple(one.tolist()) for one in flat}) == 4
    again = make_system(Noisy(4))
    again._draw = lambda wav, place: copy.deepcopy(drawn[place])
    torch.manual_seed(77)
    fit(again)
    fresh = make_system(Noisy(4))
    fit(fresh)
    assert torch.equal(weights(fresh.model), weights(again.model))


def test_what_is_logged():
    values = fit(make_system(reconstruction=1.0, profile=0.1)).callback_metrics
    parts = ("loss/adversarial", "loss/reconstruction", "loss/profile", "discriminator/distance")
    for name in (
        *parts,
        "discriminator/loss",
        "discriminator/gradient_penalty",
        "loss",
        "val_loss",
    ):
        assert torch.isfinite(values[name]), name
    adversarial, reconstruction, profile = (values[name].item() for name in parts[:3])
    total = adversarial + reconstruction + 0.1 * profile
    assert values["loss"].item() == pytest.approx(total, rel=1e-5)
    assert values["val_loss_coded"] > 0 and 5 < values["val_si_snr_coded"] < 20


@pytest.mark.parametrize("loss", [{}, dict(reconstruction=1.0), dict(magnitude=2.0)])
def test_highs_of_the_right_level_are_preferred_to_silence(loss):
    """Against noise above 6 kHz: none of it, and other noise of the same level."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, 2, 44100, generator=generator)
    spectra = torch.fft.rfft(noise)
    edge = 6000 * spectra.shape[-1] // 22050
    ref = torch.fft.irfft(spectra[0], 44100)
    coded, filled = (torch.cat((spectra[0, ..., :edge], x[..., edge:]), -1)
                     for x in (0 * spectra[0], spectra[1]))  # fmt: skip
    coded, filled = (Signal(torch.fft.irfft(x, 44100)) for x in (coded, filled))
    system = make_system(**loss)
    ref = Signal(ref)
    silent, right = (system.validation_loss(x, ref, coded) for x in (coded, filled))
    assert right < 0.6 * silent
    # The error of the parts, which chose before, has it the other way round.
    parts = [system.loss_func.spectrum(x) for x in (ref, coded, filled)]
    errors = [(part - parts[0]).abs().mean() for part in parts[1:]]
    assert errors[0] < errors[1]
    # And magnitudes by the textbook: |sqrt(|re|) + j sqrt(|im|)|, their mean absolute error.
    roots = [
        torch.stft(x.wav.flatten(0, 1), 256, 64, window=torch.hann_window(256), return_complex=True)
        for x in (ref, filled)
    ]
    roots = [(x.real.abs() + x.imag.abs()).sqrt()[:, :-1] for x in roots]
    assert right == pytest.approx((roots[0] - roots[1]).abs().mean().item(), rel=0.02)


def test_without_a_critic():
    system = make_system(gan=False, reconstruction=1.0)
    values = fit(system).callback_metrics
    assert "discriminator/loss" not in values and values["loss"] == values["loss/reconstruction"]


def test_bfloat16_is_close():
    exact, rough = (make_system(reconstruction=1.0) for _ in range(2))
    fit(exact)
    fit(rough, precision="bf16-mixed")
    for name in ("discriminator/gradient_penalty", "loss/reconstruction", "val_loss"):
        a, b = (system.trainer.callback_metrics[name] for system in (exact, rough))
        assert torch.isfinite(b) and abs(a - b) < 0.05 * a, name


# -------------------------------------------------------------------------------------- whole runs


def test_a_run_and_its_files(conf, tmp_path):
    conf["loss"]["reconstruction"] = 1.0
    metrics = train(conf, Noisy(), Noisy(2))
    assert metrics["epochs"] == 2 and metrics["steps"] == 4
    for file in ("best_model.pth", "checkpoints/last.ckpt"):
        model = RestorationModel.from_pretrained(tmp_path / "exp" / file)
        assert type(model) is SRGAN and model.get_model_args()["noise_dim"] == 4
    state = load_plain(tmp_path / "exp" / "checkpoints" / "last.ckpt")["state_dict"]
    averaged = state["average.module.spread.weight"]
    assert torch.equal(model.spread.weight, averaged)
    assert not torch.equal(averaged, state["model.spread.weight"])
    # From its weights another run begins.
    conf["main_args"] |= dict(init_from=str(tmp_path / "exp" / "best_model.pth"))
    best = load_plain(tmp_path / "exp" / "best_model.pth")["state_dict"]["spread.weight"]
    assert torch.equal(build.make_model(conf).spread.weight, best)


def test_a_killed_run_goes_on_with_the_same_bits(conf, tmp_path):
    whole = with_args(conf, exp_dir=str(tmp_path / "whole"))
    train(whole, Noisy(), Noisy(2))
    with pytest.raises(Killed):
        train(conf, Mortal(dies_at=(1, 2)), Noisy(2))
    train(with_args(conf, resume=1), Noisy(), Noisy(2))
    one, other = (
        load_plain(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"]
        for name in ("whole", "exp")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_another_model_is_not_resumed(conf, tmp_path):
    train(with_settings(conf, epochs=1), Noisy(), Noisy(2))
    other = load_conf(LOCAL / "conf_demo.yml", LOCAL / "conf.yml")
    other["main_args"] = dict(conf["main_args"], model="apollo", resume=1)
    with pytest.raises(TrainingError, match="holds a run of srgan, not of apollo; set model sr"):
        train(other, Noisy(), Noisy(2))
    conf["model"]["noise_dim"] = 5
    with pytest.raises(TrainingError, match="trained with noise_dim 4, not 5"):
        train(with_args(conf, resume=1), Noisy(), Noisy(2))


# ---------------------------------------------------------------------------------- configurations


def test_the_configurations_of_the_recipe():
    apollo = load_conf(LOCAL / "conf.yml")
    conf = load_conf(LOCAL / "conf_srgan.yml")
    demo = load_conf(LOCAL / "conf_srgan_demo.yml", LOCAL / "conf_srgan.yml")
    keys = [key for group in conf.values() for key in group]
    assert len(keys) == len(set(keys))
    # The same data and the same training, but for what only Apollo's layers can do.
    assert conf["data"] == apollo["data"]
    common = {k: v for k, v in apollo["training"].items() if k not in ("recompute", "compile")}
    assert conf["training"] == common
    with torch.device("meta"):
        model, small = SRGAN(**conf["model"]), SRGAN(**demo["model"])
        assert model.get_model_args() == SRGAN(input_peak=1.0).get_model_args()
        critic = MODELS["srgan"].discriminator(conf)
    assert sum(p.numel() for p in critic.parameters()) == 163_285_439
    assert sum(p.numel() for p in small.parameters()) < 0.02 * 322e6
    assert SRGANLoss(**conf["loss"]).weights == SRGANLoss().weights


def test_the_command_line_has_the_keys_of_the_model(monkeypatch, capsys, tmp_path):
    def parsed(*words):
        monkeypatch.setattr("sys.argv", ["train.py", *words])
        return parse_model_conf(argparse.ArgumentParser(allow_abbrev=False), LOCAL)

    conf = parsed("--model", "srgan", "--noise_dim", "5", "--dilations", "[1, 2]")
    assert conf["model"]["noise_dim"] == 5 and conf["model"]["dilations"] == [1, 2]
    assert conf["main_args"]["model"] == "srgan" and conf["optim"]["gradient_clip"] == float("inf")
    assert model_name(conf) == "srgan" and model_name(parsed("--feature_dim", "16")) == "apollo"
    for words in (
        ["--noise_dim", "5"],
        ["--model", "gan"],
        ["--model", "srgan", "--n_layers", "2"],
    ):
        with pytest.raises(SystemExit):
            parsed(*words)
        assert words[-2] in capsys.readouterr().err
    (tmp_path / "mine.yml").write_text("training: {recompute: true}")
    with pytest.raises(SettingError, match="training has no key 'recompute'"):
        parsed("--model", "srgan", "--conf", str(tmp_path / "mine.yml"))


@pytest.mark.parametrize(
    "group, key, value, complaint",
    [
        ("model", "width", 15, "width 15 even"),
        ("model", "window", 200, "hop 64|hop"),
        ("loss", "adversarial", -1.0, "loss.adversarial is -1.0"),
        ("loss", "adversarial", 0.0, "adversarial, reconstruction and magnitude has"),
    ],
)
def test_settings_that_make_no_sense(conf, group, key, value, complaint):
    conf[group][key] = value
    conf["model"]["hop"] = 128
    with pytest.raises(SettingError, match=complaint):
        train(conf, Noisy(), Noisy(2))


def test_warming_up_takes_the_reconstruction_loss(conf):
    with pytest.raises(
        SettingError, match=r"without a critic .*in warmup_steps.* one of the weights recon"
    ):
        train(with_settings(conf, warmup_steps=1), Noisy(), Noisy(2))


def test_a_start_from_the_other_model(conf, tmp_path, tiny_checkpoint):
    conf["main_args"]["init_from"] = str(tiny_checkpoint)
    with pytest.raises(CheckpointError, match="holds an Apollo, not an SRGAN"):
        train(conf, Noisy(), Noisy(2))
    checkpoints.save(tiny_srgan(sample_rate=8000), tmp_path / "other.safetensors")
    conf["main_args"]["init_from"] = str(tmp_path / "other.safetensors")
    with pytest.raises(SettingError, match="works at 8000 Hz, the data at 44100"):
        train(conf, Noisy(), Noisy(2))


# ---------------------------------------------------------------------------------------- memory


def test_too_little_memory(conf, monkeypatch):
    """For the weights, before any are made, and for a step."""
    full = load_conf(LOCAL / "conf_srgan.yml") | {"main_args": conf["main_args"]}
    monkeypatch.setattr(build, "available_bytes", lambda: 4_000_000_000)
    with pytest.raises(TrainingError, match=r"322.53 M parameters takes 5.2 GB.*4.0 GB are free"):
        build.make_model(full)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1e6)
    with pytest.raises(TrainingError, match="free on cpu: lower --batch_size or --segment"):
        train(conf, Noisy(), Noisy(2))


def test_what_a_step_takes_is_foreseen():
    model = tiny_srgan(n_rows=16, width=32).train()
    critic = tiny_critic(n_rows=16, width=32)
    loss = SRGANLoss(window=256, hop=64)
    coded, original = tone(44100)[None], tone(44100).flip(-1)[None]
    foreseen = memory.training_bytes(model, 2, 1.0, critic=critic)
    with torch.profiler.profile(profile_memory=True) as profile:
        est = model.spectrum(coded, torch.zeros(4))
        given, real = loss.spectrum(coded), loss.spectrum(original)
        loss.critic_loss(critic, est.detach(), real, given, torch.rand(2))[0].backward()
        loss(est, real, critic(est, given))[0].backward()
    level = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    assert 0.6 * peak < foreseen < 2 * peak
