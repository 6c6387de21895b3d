"""A training run from a configuration: what the recipe's ``train.py`` calls."""

import difflib
import logging
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_only
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Dataset

from ..errors import TrainingError
from ..files import atomic_write, write_json
from ..losses import GeneratorLoss, MultiResolutionSTFTDiscriminator
from ..memory import keep_freed_memory
from ..model import Apollo
from . import callbacks, memory
from .system import ApolloSystem

# Lightning's advertisements and what its own code is warned of.
_NOISE = ("GPU available", "TPU available", "💡")
logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
    lambda record: not record.getMessage().startswith(_NOISE)
)
warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated")
# While gradients are accumulated or warmed up an epoch may end before an optimizer's first step.
warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step\\(\\)` before")

Conf = dict[str, dict[str, Any]]


def load_conf(path: str | os.PathLike, base: str | os.PathLike | None = None) -> Conf:
    """Reads a configuration of two levels.

    Args:
        path: YAML file.
        base: file with every key there is; ``path`` then holds only what differs from it.

    Raises:
        ValueError: for keys that ``base`` does not have, and files that are no configuration.
    """
    try:
        conf = yaml.safe_load(Path(path).read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(conf, dict) or not all(isinstance(group, dict) for group in conf.values()):
        raise ValueError(f"'{path}' has to hold groups of keys, as local/conf.yml does")
    if base is None:
        return conf
    merged = load_conf(base)
    for name, group in conf.items():
        _require(name, merged, f"'{path}' has no group")
        for key, value in group.items():
            _require(key, merged[name], f"'{path}': {name} has no key")
            merged[name][key] = value
    return merged


def _require(name: str, known: Mapping[str, Any], complaint: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(str(name), known, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
        raise ValueError(f"{complaint} '{name}'; {hint}")


def make_system(conf: Conf, train_set: Dataset, valid_set: Dataset) -> ApolloSystem:
    """Networks, optimizers and loaders of a configuration.

    Raises:
        ValueError: for settings that fit neither each other nor the data.
        CheckpointError: for an ``init_from`` that cannot be used; all in one line.
    """
    settings, optim = conf["training"], conf["optim"]
    n_processes = n_devices(conf) * settings["num_nodes"]
    if len(train_set) < settings["batch_size"] * n_processes:
        raise ValueError(
            f"{len(train_set)} items an epoch do not fill one batch of {settings['batch_size']} "
            f"in {n_processes} processes; raise n_items or lower batch_size"
        )
    model = _make_model(conf)
    # The published optimizers: AdamW, the discriminator's with a shorter memory.
    decay = dict(weight_decay=optim["weight_decay"])
    optimizers = [AdamW(model.parameters(), optim["g_lr"], optim["g_betas"], **decay)]
    discriminator = None
    if conf["discriminator"]["adversarial_training"]:
        discriminator = MultiResolutionSTFTDiscriminator(
            conf["discriminator"]["windows"], _n_channels(conf), conf["discriminator"]["channels"]
        )
        optimizers.append(
            AdamW(discriminator.parameters(), optim["d_lr"], optim["d_betas"], **decay)
        )
    workers = dict(num_workers=settings["num_workers"], pin_memory=torch.cuda.is_available())
    system = ApolloSystem(
        model,
        optimizers,
        GeneratorLoss(**conf["loss"], per_item=True, sample_rate=conf["model"]["sample_rate"]),
        # In order: an item of the mixtures is random as it is.
        DataLoader(train_set, settings["batch_size"], drop_last=True, **workers),
        DataLoader(valid_set, 1, **workers),
        [StepLR(optimizer, optim["lr_step"], optim["lr_decay"]) for optimizer in optimizers],
        conf,
        discriminator=discriminator,
        warmup_steps=settings["warmup_steps"],
        gradient_clip=optim["gradient_clip"],
        accumulate=settings["accumulate"],
        ema_decay=settings["ema_decay"],
        recompute=settings["recompute"],
    )
    if settings["compile"]:
        # Layer by layer, inside of what is recomputed; the running average stays as it is.
        for layer in model.layers:
            for module in (layer.roformer, *layer.tcn):
                module.forward = torch.compile(module.forward)
    return system


def _n_channels(conf: Conf) -> int:
    return 1 if conf["data"]["mono"] else 2


def n_devices(conf: Conf) -> int:
    """Processes on one machine: as many as the configuration says, or one for each GPU."""
    return conf["training"]["devices"] or max(1, torch.cuda.device_count())


def _make_model(conf: Conf) -> Apollo:
    init_from = conf["main_args"].get("init_from")
    if not init_from:
        return Apollo(**conf["model"])
    model = Apollo.from_pretrained(init_from)
    if model.sample_rate != conf["model"]["sample_rate"]:
        raise ValueError(
            f"'{init_from}' works at {model.sample_rate:g} Hz, the data at "
            f"{conf['model']['sample_rate']:g}; start from another checkpoint"
        )
    model = widened(model, max(conf["model"]["kernel_size"], model.get_model_args()["kernel_size"]))
    conf["model"] = model.get_model_args()
    return model.train()


def widened(model: Apollo, kernel_size: int) -> Apollo:
    """The same function with longer convolutions over time, whose new taps start from zero.

    Args:
        model: any Apollo.
        kernel_size: in frames, no less than the model's.
    """
    args, state = model.get_model_args(), model.state_dict()
    more = kernel_size - args["kernel_size"]
    wide = Apollo(**{**args, "kernel_size": kernel_size})
    ahead = 0 if args["causal"] else more // 2
    for name in state:
        if name.endswith("conv.weight"):
            state[name] = nn.functional.pad(state[name], (more - ahead, ahead))
    wide.load_state_dict(state)
    return wide


def train(conf: Conf, train_set: Dataset, valid_set: Dataset) -> dict[str, Any] | None:
    """Trains and leaves ``conf.yml``, ``checkpoints/``, ``logs/``, ``best_k_models.json``,
    ``best_model.pth`` and, at the end, ``train_metrics.json`` in ``exp_dir``.

    Args:
        conf: groups as in the recipe's ``local/conf.yml``, and ``main_args`` with ``exp_dir``,
            ``seed``, ``resume`` and ``init_from``.
        train_set: items ``(coded, original)``.
        valid_set: likewise.

    Returns:
        the figures of ``train_metrics.json``; None where the run had been finished before.

    Raises:
        TrainingError: where a run is there already, there is none to resume, memory does not
            suffice or numbers ran away.
    """
    exp_dir = Path(conf["main_args"]["exp_dir"])
    last = exp_dir / "checkpoints" / "last.ckpt"
    resume = bool(conf["main_args"].get("resume"))
    if rank_zero_only.rank == 0:
        if not resume and (exp_dir / "train_metrics.json").exists():
            rank_zero_info(f"'{exp_dir}' holds a finished training, which is kept")
            return None
        if not resume and last.exists():
            raise TrainingError(f"'{exp_dir}' holds a run; pass --resume 1 or another --tag")
    if resume:
        if not last.exists():
            raise TrainingError(f"nothing to resume: '{last}' is missing; leave --resume away")
        _compare(conf, load_conf(exp_dir / "conf.yml"), exp_dir)
    pl.seed_everything(conf["main_args"]["seed"], workers=True, verbose=False)
    keep_freed_memory(every_size=True)
    system = make_system(conf, train_set, valid_set)
    trainer = make_trainer(conf)
    if rank_zero_only.rank == 0:
        with atomic_write(exp_dir / "conf.yml") as beside:
            beside.write_text(yaml.safe_dump(conf, sort_keys=False))
    _require_memory(conf, system, trainer.strategy.root_device)
    start = time.monotonic()
    try:
        trainer.fit(system, ckpt_path=last if resume else None, weights_only=True)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise TrainingError(f"out of memory: {_CURE}") from error
    if trainer.interrupted:
        raise KeyboardInterrupt
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    metrics |= dict(
        epochs=trainer.current_epoch,
        steps=int(system.n_steps),
        seconds=round(time.monotonic() - start, 1),
        best_val_loss=float(trainer.checkpoint_callback.best_model_score),
    )
    if trainer.is_global_zero:
        write_json(exp_dir / "train_metrics.json", metrics)
    return metrics


def make_trainer(conf: Conf, **overrides: Any) -> pl.Trainer:
    """Lightning's Trainer: one process, or DDP under torchrun, SLURM or its own launcher.

    Args:
        conf: as in :func:`train`.
        **overrides: arguments of the Trainer.
    """
    settings, exp_dir = conf["training"], Path(conf["main_args"]["exp_dir"])
    strategy = "auto"
    if n_devices(conf) * settings["num_nodes"] > 1:
        # Each step reaches one of the two networks.
        strategy = DDPStrategy(find_unused_parameters=conf["discriminator"]["adversarial_training"])
    plugins: list[Any] = [callbacks.WholeFiles()]
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
            EarlyStopping("val_loss", patience=settings["early_stop"]),
            callbacks.BestModels(exp_dir, settings["save_top_k"]),
            callbacks.Examples(settings["n_examples"]),
            callbacks.EpochLine(),
        ]
    if "logger" not in overrides:
        options["logger"] = _make_logger(exp_dir)
    return pl.Trainer(**{**options, **overrides})


def _make_logger(exp_dir: Path) -> TensorBoardLogger:
    try:
        return TensorBoardLogger(exp_dir, name="logs", version="")
    except ModuleNotFoundError as error:
        raise TrainingError("TensorBoard is missing; pip install 'apollo-plugin[train]'") from error


def _compare(conf: Conf, before: Conf, exp_dir: Path) -> None:
    """A run goes on with the networks it has; everything else may change."""
    if conf["main_args"].get("init_from"):
        conf["model"] = before["model"]
    for name in ("model", "discriminator"):
        for key in {**conf[name], **before.get(name, {})}:
            old, new = before.get(name, {}).get(key), conf[name].get(key)
            if old != new:
                raise TrainingError(
                    f"'{exp_dir}' was trained with {key} {old}, not {new}; pass --{key} {old} or "
                    "train anew under another --tag"
                )
    conf["main_args"]["init_from"] = None


_CURE = "set --recompute true, or lower --batch_size or --segment"


def _require_memory(conf: Conf, system: ApolloSystem, device: torch.device) -> None:
    settings = conf["training"]
    with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in settings["precision"]):
        needed = memory.training_bytes(
            system.model,
            _n_channels(conf) * settings["batch_size"],
            conf["data"]["segment"],
            settings["recompute"],
            device,
        )
    if device.type == "cpu":
        # The holes that a heap of large and small blocks gets, measured at full size.
        needed = int(needed * (3 if settings["recompute"] else 1.3))
    free = memory.available_bytes(device)
    if free is not None and needed > free:
        raise TrainingError(
            f"a step takes about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free on "
            f"{device}: {_CURE}"
        )
