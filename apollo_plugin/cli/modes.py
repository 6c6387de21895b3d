"""What ``apollo-restore`` does beside restoring files: ``--diagnose`` and ``--demo``."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .. import audio
from ..data.codecs import mp3
from ..data.demo import mixture
from ..diagnose import Diagnosis
from ..diagnose import diagnose as diagnosis_of
from ..errors import SettingError
from ..metrics import lsd, si_sdr
from ..report import check_target
from ..restore import restore_audio
from ..settings import Settings
from . import report
from .loading import load
from .options import Options
from .plan import sources
from .terminal import Bar, Failures, tell, told

_DEMO_RATE = 44100
_DEMO_SECONDS = 8.0
_DEMO_KBPS = 32
# Beyond the songs that the bundled checkpoint was trained on.
_DEMO_SEED = 1000
_DEMO_FOLDER = "apollo_demo"


def diagnose(options: Options) -> int:
    """Tells of each file where a codec cut it off; returns the exit status."""
    files, problems = sources(options)
    failures = Failures()
    for problem in problems:
        failures.add("", problem)
    for path in files:
        try:
            wav, rate = audio.read(path, **options.reading())
            found = diagnosis_of(wav, rate)
        except Exception as error:
            failures.add(path, error)
            if options.json:
                tell(json.dumps({"file": str(path), "error": told(error)}))
            continue
        if options.json:
            tell(json.dumps({"file": str(path), "seconds": wav.shape[1] / rate, **_values(found)}))
        else:
            tell(f"{path}: {found}")
    return failures.end()


def _values(found: Diagnosis) -> dict[str, Any]:
    verdict = "silent" if found.silent else "uncoded" if found.cutoff is None else "cut off"
    return {"verdict": verdict, **asdict(found), "like_kbps": found.like_kbps}


def demo(options: Options, settings: Settings) -> int:
    """Makes, codes and restores some seconds of music, and measures them; returns the exit
    status."""
    folder = options.out or Path(_DEMO_FOLDER)
    extension = settings.format.lower()
    targets = [folder / f"{name}.{extension}" for name in ("original", "mp3", "restored")]
    _check_demo(options, targets)
    model = load(options)
    original = torch.from_numpy(mixture(_DEMO_SECONDS, seed=_DEMO_SEED, sample_rate=_DEMO_RATE))
    coded = mp3(original, _DEMO_RATE, _DEMO_KBPS)
    bar = Bar("demo")
    how = settings.keep_below, settings.mix, settings.keep_level
    try:
        restored = restore_audio(model, coded, _DEMO_RATE, *how, progress=bar.progress)
    finally:
        bar.close()
    for target, wav in zip(targets, (original, coded, restored)):
        audio.write(target, wav, _DEMO_RATE, settings.format, settings.subtype)
    if options.report:
        shown = report.Shown("apollo-restore --demo", targets[1], targets[2])
        if report.write(options, [shown], targets[0]):
            return 1
    tell(f"{_DEMO_SECONDS:g} s of synthetic music in '{folder}', MP3 at {_DEMO_KBPS} kbit/s.")
    tell("LSD is the log-spectral distance to the original (lower is better); SI-SNR is in dB.")
    tell(f"{'':16}{'SI-SNR':>8}{'LSD':>8}")
    for target, wav in zip(targets[1:], (coded, restored)):
        tell(f"{target.name:16}{si_sdr(wav, original):8.2f}{lsd(wav, original):8.2f}")
    return 0


def _check_demo(options: Options, targets: list[Path]) -> None:
    # The folder of its own it may write again; in the user's it asks.
    if options.out and not options.overwrite:
        for target in targets:
            if os.path.exists(target):
                raise SettingError(
                    f"'{target}' is there already and kept; --overwrite makes it anew"
                )
    if options.report:
        check_target(options.report, options.overwrite)
