"""Checkpoints of every layout in use: find, read, save and share, without executing anything."""

from ..errors import CheckpointError
from .loading import BUNDLED, build, load, save
from .reading import read

__all__ = ["BUNDLED", "CheckpointError", "build", "load", "read", "save"]
