"""Every checkpoint layout in use: find, read, save, share. Nothing in a file is executed."""

from ..errors import CheckpointError
from .loading import BUNDLED, build, load, save
from .reading import read

__all__ = ["BUNDLED", "CheckpointError", "build", "load", "read", "save"]
