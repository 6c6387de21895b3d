"""Training: systems with their optimizer steps, runs from a configuration, and publishing."""

from ..errors import TrainingError
from .build import make_system, make_trainer, n_devices
from .config import load_conf, parse_conf, parse_model_conf
from .publishing import publish
from .run import train
from .srgan import SRGANSystem
from .system import ApolloSystem

__all__ = [
    "ApolloSystem",
    "SRGANSystem",
    "TrainingError",
    "load_conf",
    "make_system",
    "make_trainer",
    "n_devices",
    "parse_conf",
    "parse_model_conf",
    "publish",
    "train",
]
