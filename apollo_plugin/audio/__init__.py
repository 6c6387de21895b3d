"""Any sound file in, any sound file out."""

from ..errors import AudioError
from .reading import (
    FORMATS,
    SUFFIXES,
    check_writable,
    default_subtype,
    probe,
    read,
    read_part,
    resample,
    write,
)

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
