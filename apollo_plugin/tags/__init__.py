"""Tags and covers of sound files, carried from any format to any other."""

from . import mark
from .files import Track, add_album_gain, read, write
from .model import Tags

__all__ = ["Tags", "Track", "add_album_gain", "mark", "read", "write"]
