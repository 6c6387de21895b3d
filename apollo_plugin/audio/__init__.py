"""Any sound file in, any sound file out."""

from ..errors import AudioError
from .reading import SUFFIXES, probe, read, read_part
from .resampling import resample
from .writing import FORMATS, check_writable, default_subtype, write

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "AudioError",
    "check_writable",
    "default_subtype",
    "probe",
    "read",
    "read_part",
    "resample",
    "write",
]
