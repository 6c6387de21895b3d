"""Files to restore, and settings of a restoration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from . import audio
from .audio.samples import MAX_RATE, MIN_RATE
from .errors import SettingError

# In dB: beyond it nothing is left in 16 bits.
_MAX_HEADROOM = 60.0


@dataclass(frozen=True)
class Job:
    """One file to restore.

    Args:
        source: the file.
        target: path of its restoration; for stems, of their sum.
    """

    source: Path
    target: Path


@dataclass(frozen=True)
class Settings:
    """Settings of a restoration.

    Args:
        keep_below: in Hz; everything below it stays unchanged.
        mix: 0 (unchanged) to 1 (restored).
        again: restore files that are restorations already.
        keep_level: give files to the model at their own level.
        format: soundfile's name of the output's container.
        subtype: soundfile's name of the output's sample type; float where possible unless given.
        overwrite: replace results that exist.
        rate: of the output in Hz; the input's unless given.
        reading: further arguments of :func:`apollo_plugin.audio.read`, by name: ``track``,
            ``start``, ``duration``, ``salvage``.
        headroom: attenuation of integer results in dB.
        dither: add dither to 16-bit results.
        tags: carry tags and covers from sources to results.
        diagnose: look for the frequency at which a codec cut sources off.
        skip_uncoded: leave out sources that look uncoded.

    Raises:
        SettingError: for values out of range, and for subtypes that the format does not have or
            that need no headroom or dither.
    """

    keep_below: float | None = None
    mix: float = 1.0
    format: str = "WAV"
    subtype: str | None = None
    overwrite: bool = False
    rate: int | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    headroom: float = 0.0
    dither: bool = False
    tags: bool = True
    diagnose: bool = False
    skip_uncoded: bool = False
    keep_level: bool = False
    again: bool = False

    def __post_init__(self) -> None:
        if self.keep_below is not None and not 0 < self.keep_below < float("inf"):
            raise SettingError(f"keep-below {self.keep_below} Hz has to be positive")
        if not 0 <= self.mix <= 1:
            raise SettingError(f"mix {self.mix} has to lie between 0 and 1")
        if self.rate is not None and not MIN_RATE <= self.rate <= MAX_RATE:
            raise SettingError(f"rate {self.rate} Hz has to lie between {MIN_RATE} and {MAX_RATE}")
        if self.format not in audio.FORMATS:
            raise SettingError(f"unknown format {self.format}; known: {', '.join(audio.FORMATS)}")
        if self.subtype and not soundfile.check_format(self.format, self.subtype):
            known = ", ".join(soundfile.available_subtypes(self.format))
            raise SettingError(f"{self.format} has no subtype {self.subtype}; it has {known}")
        if not 0 <= self.headroom <= _MAX_HEADROOM:
            raise SettingError(
                f"headroom {self.headroom} dB has to lie between 0 and {_MAX_HEADROOM:g}"
            )
        if self.headroom and not self.clips:
            raise SettingError(f"headroom is for integers; {self.sample_type} cannot clip")
        if self.dither and self.sample_type != "PCM_16":
            raise SettingError(f"dither is for subtype PCM_16, and this is {self.sample_type}")

    @property
    def sample_type(self) -> str:
        """soundfile's name of the output's sample type, also if it is the default."""
        return self.subtype or audio.default_subtype(self.format)

    @property
    def clips(self) -> bool:
        """True if the output clips samples beyond full scale."""
        return self.sample_type not in audio.UNCLIPPED
