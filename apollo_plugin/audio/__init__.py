"""Any sound file in, any sound file out."""

from ..errors import AudioError
from ..formats import FORMATS
from .coding import Coding, coding
from .filtering import high_pass
from .layouts import lost as lost_layout
from .layouts import low_channels
from .loudness import Level, Meter, album_loudness
from .reading import SUFFIXES, Reading, measure, probe, read, read_all, read_part
from .samples import resample
from .writing import UNCLIPPED, check_room, check_writable, default_subtype, write

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "UNCLIPPED",
    "AudioError",
    "Coding",
    "Level",
    "Meter",
    "Reading",
    "album_loudness",
    "check_room",
    "check_writable",
    "coding",
    "default_subtype",
    "high_pass",
    "lost_layout",
    "low_channels",
    "measure",
    "probe",
    "read",
    "read_all",
    "read_part",
    "resample",
    "write",
]
