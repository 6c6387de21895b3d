"""Parts of a training, of a configuration: networks, loss, optimizers, loaders, Trainer."""

import logging
import os
from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Dataset

from .. import checkpoints
from ..data.parallel import no_processes
from ..errors import CheckpointError, SettingError, TrainingError, install
from ..losses import GeneratorLoss, MultiResolutionSTFTDiscriminator, SRGANCritic, SRGANLoss
from ..memory import available_bytes
from ..model import Apollo, RestorationModel
from ..network.older import in_todays_names
from . import callbacks
from .ending import Signals
from .models import trainable
from .schema import Conf
from .system import ApolloSystem, require_precision

# Lightning's advertisements.
_NOISE = ("GPU available", "TPU available", "💡")
logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
    lambda record: not record.getMessage().startswith(_NOISE)
)


def make_system(conf: Conf, train_set: Dataset, valid_set: Dataset | None) -> ApolloSystem:
    """Make the system of a configuration, of the parts below, as the recipe's ``train.py`` does.

    Args:
        conf: see :class:`~apollo_plugin.training.Run`.
        train_set: items ``(coded, original)``.
        valid_set: likewise; without it, or with an empty one, nothing is validated.

    Raises:
        ValueError: for settings that fit neither each other nor the data.
        CheckpointError: for an ``init_from`` that cannot be used; all in one line.
    """
    train_loader, valid_loader = make_loaders(conf, train_set, valid_set)
    model, discriminator = make_model(conf), make_discriminator(conf)
    optimizers = make_optimizers(conf, model, discriminator)
    return trainable(conf).system(
        model,
        optimizers,
        make_loss(conf),
        train_loader,
        valid_loader,
        make_schedules(conf, optimizers),
        conf,
        discriminator=discriminator,
        **system_options(conf),
    )


def make_loaders(
    conf: Conf, train_set: Dataset, valid_set: Dataset | None
) -> tuple[DataLoader, DataLoader | None]:
    """Make the loaders of training items, in batches, and of validation pairs, one by one."""
    settings = conf["training"]
    n_processes, n_items = n_devices(conf) * settings["num_nodes"], len(cast(Sized, train_set))
    if n_items < settings["batch_size"] * n_processes:
        raise SettingError(
            f"{n_items} items an epoch do not fill one batch of {settings['batch_size']} "
            f"in {n_processes} processes; raise n_items or lower batch_size"
        )
    # Where processes cannot share memory this one loads its items itself.
    n_workers = 0 if no_processes() else settings["num_workers"]
    workers: dict[str, Any] = dict(num_workers=n_workers, pin_memory=torch.cuda.is_available())
    return (
        # In order: an item of the mixtures is random as it is.
        DataLoader(train_set, settings["batch_size"], drop_last=True, **workers),
        DataLoader(valid_set, 1, **workers) if valid_set else None,
    )


def make_discriminator(conf: Conf) -> MultiResolutionSTFTDiscriminator | SRGANCritic | None:
    """Make the discriminators of Table I or SR-GAN's critic; None without adversarial training."""
    adversarial = conf["discriminator"]["adversarial_training"]
    return trainable(conf).discriminator(conf) if adversarial else None


def make_loss(conf: Conf) -> GeneratorLoss | SRGANLoss:
    """Make the generator's loss, the weighted sum of ``conf["loss"]``."""
    return trainable(conf).loss(conf)


def make_optimizers(conf: Conf, model: nn.Module, discriminator: nn.Module | None) -> list[AdamW]:
    """Make an AdamW for each network, as published: the discriminator's has a shorter memory."""
    optim = conf["optim"]
    networks = {"g": model} if discriminator is None else {"g": model, "d": discriminator}
    return [
        AdamW(
            network.parameters(),
            lr=optim[f"{name}_lr"],
            betas=optim[f"{name}_betas"],
            weight_decay=optim["weight_decay"],
        )
        for name, network in networks.items()
    ]


def make_schedules(conf: Conf, optimizers: Iterable[torch.optim.Optimizer]) -> list[StepLR]:
    """Make a schedule of each optimizer's learning rate, in epochs."""
    optim = conf["optim"]
    return [StepLR(optimizer, optim["lr_step"], optim["lr_decay"]) for optimizer in optimizers]


def system_options(conf: Conf) -> dict[str, Any]:
    """Collect the settings of the steps, keyword arguments of the system: warm-up, clipping,
    accumulation, running average, and those of one model only."""
    common = {key: conf["training"][key] for key in ("warmup_steps", "accumulate", "ema_decay")}
    return (
        common | {"gradient_clip": conf["optim"]["gradient_clip"]} | trainable(conf).options(conf)
    )


def n_devices(conf: Conf) -> int:
    """Processes on one machine: as many as the configuration says, or one for each GPU."""
    return conf["training"]["devices"] or max(1, torch.cuda.device_count())


def make_model(conf: Conf) -> RestorationModel:
    """Make the network of ``conf["model"]``, or load that of ``--init_from``, whose arguments then
    replace the group's."""
    parts = trainable(conf)
    init_from = conf["main_args"].get("init_from")
    if not init_from:
        model = _made(parts.network, conf["model"])
        if envelope_from := conf["main_args"].get("envelope_from"):
            load_envelope_path(model, envelope_from)
        return model
    model = parts.network.from_pretrained(init_from)
    if model.sample_rate != conf["model"]["sample_rate"]:
        raise SettingError(
            f"'{init_from}' works at {model.sample_rate:g} Hz, the data at "
            f"{conf['model']['sample_rate']:g}; start from another checkpoint"
        )
    if parts.lengthened:
        model = parts.lengthened(model, conf["model"]["kernel_size"])
    conf["model"] = model.get_model_args()
    return model.train()


def _made(cls: type[RestorationModel], settings: Mapping[str, Any]) -> RestorationModel:
    """A network of settings, if they make one and it fits the memory. Where there is no GPU for
    them, that is gradients and their two moments too."""
    try:
        with torch.device("meta"):
            n_weights = sum(weight.numel() for weight in cls(**settings).parameters())
        n_bytes = (4 if torch.cuda.is_available() else 16) * n_weights
        free = available_bytes()
        if free is not None and n_bytes > free:
            raise TrainingError(
                f"to train {n_weights / 1e6:.2f} M parameters takes {n_bytes / 1e9:.1f} GB of "
                f"memory, {free / 1e9:.1f} GB are free: choose a smaller model, or another machine"
            )
        return cls(**settings)
    except ValueError as error:
        raise SettingError(str(error)) from error


def load_envelope_path(model: Apollo, source: str | os.PathLike) -> None:
    """Weights of an envelope path that was trained alone, or of another Apollo's.

    Args:
        model: an Apollo with an envelope path.
        source: file of its weights, named as the path names them or as Apollo does.

    Raises:
        SettingError: where the model has none.
        CheckpointError: for a file that is none, or of a path of another shape.
    """
    path, prefix = model.highs and model.highs.path, "highs.path."
    if path is None:
        raise SettingError(
            f"'{source}' is for an envelope path; set excitation and envelope_dim, such as 256"
        )
    if not Path(source).is_file():
        raise CheckpointError(f"no envelope path '{source}': no such file")
    content = checkpoints.read(Path(source), str(source))
    try:
        state = in_todays_names(content.get("state_dict", content))
        of_apollo = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        path.load_state_dict(of_apollo or state)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"'{source}' is not this envelope path: {reason[:300]}") from error


def make_trainer(
    conf: Conf, forget_scores: bool = False, validated: bool = True, **overrides: Any
) -> pl.Trainer:
    """Lightning's Trainer: one process, or DDP under torchrun, SLURM or its own launcher.

    Args:
        conf: see :class:`~apollo_plugin.training.Run`.
        forget_scores: those in the checkpoint that is resumed belong to another loss.
        validated: whether there are validation pairs.
        **overrides: arguments of the Trainer.
    """
    settings, exp_dir = conf["training"], Path(conf["main_args"]["exp_dir"])
    require_precision(settings["precision"])
    strategy: str | DDPStrategy = "auto"
    if n_devices(conf) * settings["num_nodes"] > 1:
        # Each step reaches one of the two networks.
        strategy = DDPStrategy(find_unused_parameters=conf["discriminator"]["adversarial_training"])
    plugins: list[Any] = [callbacks.AtomicCheckpointIO()]
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        # Its own requeueing would stop within an epoch; sbatch --requeue with --resume 1 does not.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    options = dict(
        default_root_dir=exp_dir,
        max_epochs=settings["epochs"],
        devices=n_devices(conf),
        num_nodes=settings["num_nodes"],
        strategy=strategy,
        precision=settings["precision"],
        plugins=plugins,
        num_sanity_val_steps=1,
        log_every_n_steps=settings["log_every"],
        enable_model_summary=False,
        enable_progress_bar=os.isatty(2),
    )
    if "callbacks" not in overrides:
        options["callbacks"] = [
            *([callbacks.Patience(settings["early_stop"], forget_scores)] if validated else ()),
            callbacks.BestModels(exp_dir, settings["save_top_k"], forget_scores, validated),
            callbacks.Examples(settings["n_examples"]),
            callbacks.EpochLine(),
            Signals(),
        ]
    if "logger" not in overrides:
        options["logger"] = make_logger(exp_dir)
    return pl.Trainer(**{**options, **overrides})


def make_logger(exp_dir: Path) -> TensorBoardLogger:
    try:
        return TensorBoardLogger(exp_dir, name="logs", version="")
    except ModuleNotFoundError as error:
        raise TrainingError(f"TensorBoard is missing; {install('train')}") from error
