"""``--report``: the listening page of the results."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from .. import report
from ..errors import SettingError
from ..files import is_same_file
from ..metrics import METRICS, unavailable
from ..report.comparison import compare_files
from ..settings import Job
from .options import Options
from .terminal import Failures, say, tell


class Shown(NamedTuple):
    """A file on the page.

    Args:
        name: its title.
        source: the file before restoration.
        restored: its restoration.
        label: name of the input's coding, if its suffix does not give it.
        notes: lines below its name.
        headroom: attenuation of the restoration in dB.
    """

    name: str
    source: Path
    restored: Path
    label: str | None = None
    notes: tuple[str, ...] = ()
    headroom: float = 0.0


def check(options: Options, page: Path, jobs: Sequence[Job]) -> None:
    """Raise an ApolloError if the page cannot be made, before anything is restored."""
    report.check_target(page, options.overwrite)
    reference = options.reference
    if reference and len(jobs) != 1:
        raise SettingError(f"--reference is the original of one file; there are {len(jobs)}")
    if reference and not reference.is_file():
        raise SettingError(f"reference '{reference}' is no file")
    for given in (*(job.source for job in jobs), *([reference] if reference else ())):
        if is_same_file(page, given):
            raise SettingError(f"--report {page} is an input; name another page")
    for job in jobs:
        if reference and is_same_file(job.target, reference):
            raise SettingError(f"reference '{reference}' would be the result; name another by -o")
    for reason in unavailable().values() if options.reference else ():
        say(reason)


def write(
    options: Options, page: Path, files: Sequence[Shown], reference: Path | None = None
) -> int:
    """Write the page; files without a result are left out, and those that fail are reported.

    Returns:
        the exit status.
    """
    missing = unavailable() if reference else {}
    metrics = tuple(name for name in METRICS if name not in missing)
    restored = [file for file in files if file.restored.is_file()]
    shown = restored[: report.MAX_ITEMS]
    if len(shown) < len(restored):
        say(f"the page holds the first {len(shown)} of {len(restored)} files")
    seconds = report.excerpt_seconds(len(shown))
    items, failures = [], Failures()
    for file in tqdm(shown, unit="file", desc="page", disable=None if len(shown) > 1 else True):
        try:
            items.append(
                compare_files(
                    file.name,
                    file.source,
                    file.restored,
                    reference,
                    reading=options.reading(),
                    label=file.label,
                    notes=file.notes,
                    headroom=file.headroom,
                    seconds=seconds,
                    metrics=metrics,
                )
            )
        except Exception as error:
            failures.add(file.source, error)
    status = failures.end()
    if not items:
        say(f"'{page}' is not written: there is nothing to show")
        return 1
    folder = os.path.commonpath([file.source.absolute().parent for file in shown])
    title = items[0].name if len(items) == 1 else os.path.basename(folder) or folder
    intro = f"Restored by {options.checkpoint}."
    size = report.write(page, items, title, intro)
    tell(f"{page}  ({len(items)} file(s), {size / 1e6:.1f} MB)")
    return status
