"""Training: the two optimizers' steps, a run from a configuration, what is published of it."""

from ..errors import TrainingError
from .build import make_system, make_trainer, n_devices
from .config import load_conf, parse_conf
from .publishing import publish
from .run import train
from .system import ApolloSystem

__all__ = [
    "ApolloSystem",
    "TrainingError",
    "load_conf",
    "make_system",
    "make_trainer",
    "n_devices",
    "parse_conf",
    "publish",
    "train",
]
