"""Other modes of ``apollo-restore``: ``--diagnose`` and ``--demo``."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .. import audio, tags
from ..batch.api import restore_file
from ..batch.plan import sources
from ..diagnose import Diagnosis
from ..engine.choose import load
from ..errors import SettingError
from ..restore import diagnose_file
from ..settings import Settings
from .options import Options
from .terminal import Bar, Failures, tell, told, waiting

_VERDICTS: dict[str, Callable[[Diagnosis], bool]] = {
    "silent": lambda found: found.silent,
    "uncoded": lambda found: found.uncoded,
    "coded": lambda found: found.cutoff is None,
    "cut off": lambda found: True,
}
_DEMO_FOLDER = "apollo_demo"
_FIGURES = (
    "SI-SNR (in dB, higher is better) compares sample by sample: it falls where highs are made, "
    "whose level can be told from the music but whose phase is lost. LSD (lower is better) "
    "compares spectra, as ears do."
)


def diagnose(options: Options) -> int:
    """Print the cut-off frequency of each file; return the exit status."""
    files, problems = sources(options.inputs, options.places())
    failures = Failures()
    for problem in problems:
        failures.add("", problem)
    for path in files:
        try:
            wav, rate, _ = audio.read_all(path, **options.reading()).warn(path)
            found = diagnose_file(path, wav, rate)
            mark = tags.mark.find(path, tags.read(path))
        except Exception as error:
            failures.add(path, error)
            if options.json:
                tell(json.dumps({"file": str(path), "error": told(error)}))
            continue
        if options.json:
            values = {"seconds": wav.shape[1] / rate, "restored": mark or None, **_values(found)}
            tell(json.dumps({"file": str(path), **values}))
        else:
            tell(f"{path}: {f'a restoration ({mark}): ' * bool(mark)}{found}")
    return failures.end()


def _values(found: Diagnosis) -> dict[str, Any]:
    verdict = next(name for name, holds in _VERDICTS.items() if holds(found))
    return {"verdict": verdict, **asdict(found), "like_kbps": found.like_kbps}


def demo(options: Options, settings: Settings) -> int:
    """Code and restore the package's excerpt of music, measure it, and write all files with a
    listening page; return the exit status."""
    from ..data import excerpt
    from ..data.codecs import mp3
    from ..metrics import lsd, si_sdr
    from . import report

    folder = options.out or Path(_DEMO_FOLDER)
    page = options.report or folder / "page.html"
    options = replace(options, report=page)
    extension = settings.format.lower()
    targets = [folder / f"{name}.{extension}" for name in ("original", "mp3", "restored")]
    _check_demo(options, targets, page)
    choice = options.choice()
    with waiting(f"loading {options.checkpoint}"):
        engine = load(choice)
    original, rate = excerpt.excerpt()
    coded = mp3(original, rate, excerpt.KBPS)
    for target, wav in zip(targets, (original, coded)):
        audio.write(target, wav, rate, settings.format, settings.subtype)
    with Bar("demo") as bar:
        restore_file(
            targets[1],
            targets[2],
            engine=engine,
            progress=bar.progress,
            format=settings.format,
            subtype=settings.subtype,
            keep_below=settings.keep_below,
            mix=settings.mix,
            keep_level=settings.keep_level,
        )
    notes = [excerpt.CREDIT, excerpt.HEARD]
    shown = report.Shown(excerpt.TITLE, targets[1], targets[2], "MP3", tuple(notes))
    with waiting("writing the page"):
        if report.write(options, page, [shown], targets[0]):
            return 1
    tell(f"{excerpt.TITLE}: {original.shape[1] / rate:.1f} s in '{folder}'.")
    for note in notes:
        tell(note)
    tell(f"{'':16}{'SI-SNR':>8}{'LSD':>8}")
    for target in targets[1:]:
        wav, _ = audio.read(target)
        tell(f"{target.name:16}{si_sdr(wav, original):8.2f}{lsd(wav, original):8.2f}")
    tell(_FIGURES)
    tell(f"open {page}")
    return 0


def _check_demo(options: Options, targets: list[Path], page: Path) -> None:
    from .. import report

    # Its own folder may be overwritten; the user's only with --overwrite.
    if options.out and not options.overwrite:
        for target in targets:
            if os.path.exists(target):
                raise SettingError(
                    f"'{target}' is there already and kept; --overwrite makes it anew"
                )
    report.check_target(page, options.overwrite)
