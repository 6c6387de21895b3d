"""Any sound file in, any sound file out."""

from ..errors import AudioError
from .crossover import high_pass
from .loudness import Level, Meter, album_loudness
from .reading import SUFFIXES, Reading, probe, read, read_all, read_part
from .resampling import resample
from .writing import FORMATS, UNCLIPPED, check_writable, default_subtype, write

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "UNCLIPPED",
    "AudioError",
    "Level",
    "Meter",
    "Reading",
    "album_loudness",
    "check_writable",
    "default_subtype",
    "high_pass",
    "probe",
    "read",
    "read_all",
    "read_part",
    "resample",
    "write",
]
