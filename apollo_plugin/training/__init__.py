"""Training: the two optimizers' steps, a run from a configuration, what is published of it."""

from ..errors import TrainingError
from .publishing import publish
from .run import load_conf, make_system, make_trainer, n_devices, train
from .system import ApolloSystem

__all__ = [
    "ApolloSystem",
    "TrainingError",
    "load_conf",
    "make_system",
    "make_trainer",
    "n_devices",
    "publish",
    "train",
]
