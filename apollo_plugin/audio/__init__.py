"""Any sound file in, any sound file out."""

from ..errors import AudioError
from .reading import SUFFIXES, Reading, probe, read, read_all, read_part
from .resampling import resample
from .writing import FORMATS, check_writable, default_subtype, write

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "AudioError",
    "Reading",
    "check_writable",
    "default_subtype",
    "probe",
    "read",
    "read_all",
    "read_part",
    "resample",
    "write",
]
