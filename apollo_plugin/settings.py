"""What is to be done with a file: which it is, where its result goes, and how it is restored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from . import audio
from .audio.samples import MAX_RATE, MIN_RATE
from .errors import SettingError

# Beyond it nothing is left in 16 bits.
_MAX_HEADROOM = 60.0


@dataclass(frozen=True)
class Job:
    """One file to restore.

    Args:
        source: the file as it came.
        target: where its restoration goes; of stems, their sum.
    """

    source: Path
    target: Path


@dataclass(frozen=True)
class Settings:
    """How files are restored.

    Args:
        keep_below: in Hz; everything below it stays as it came.
        mix: 0 (untouched) to 1 (restored).
        again: restore what is a restoration already.
        keep_level: models get files at the level that these have.
        format: soundfile's name of the output's container.
        subtype: soundfile's name of the output's sample type; float where possible unless given.
        overwrite: restore again what is there already.
        rate: of the output in Hz; the input's unless given.
        reading: further arguments of :func:`apollo_plugin.audio.read`, by name: ``track``,
            ``start``, ``duration``, ``salvage``.
        headroom: dB by which results in integers are turned down.
        dither: add dither to results in 16 bits.
        tags: carry tags and covers from sources to results.
        diagnose: look where a codec cut sources off.
        skip_uncoded: leave sources alone that look as if none did.

    Raises:
        SettingError: for values out of range, and for subtypes that the format has not or that
            need no headroom or dither.
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
        """soundfile's name of the output's sample type, the default's too."""
        return self.subtype or audio.default_subtype(self.format)

    @property
    def clips(self) -> bool:
        """Whether the output has a full scale that nothing goes beyond."""
        return self.sample_type not in audio.UNCLIPPED
