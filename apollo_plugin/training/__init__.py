"""Training: systems with their optimizer steps, runs from a configuration, and publishing."""

from ..errors import TrainingError
from .build import (
    make_discriminator,
    make_loaders,
    make_loss,
    make_model,
    make_optimizers,
    make_schedules,
    make_system,
    make_trainer,
    n_devices,
    system_options,
)
from .config import load_conf, parse_conf, parse_model_conf
from .models import trainable
from .publishing import publish
from .run import Run, train
from .srgan import SRGANSystem
from .system import ApolloSystem

__all__ = [
    "ApolloSystem",
    "Run",
    "SRGANSystem",
    "TrainingError",
    "load_conf",
    "make_discriminator",
    "make_loaders",
    "make_loss",
    "make_model",
    "make_optimizers",
    "make_schedules",
    "make_system",
    "make_trainer",
    "n_devices",
    "parse_conf",
    "parse_model_conf",
    "publish",
    "system_options",
    "train",
    "trainable",
]
