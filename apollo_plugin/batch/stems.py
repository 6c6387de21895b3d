"""``--stems``: a song in, its restored stems and their sum out, with PyTorch, in which all
separators run."""

import torch
from asteroid.models import BaseModel

from .. import separators, tags
from ..engine.protocol import Engine, Progress
from ..errors import AudioError, SeparatorError
from ..pipelines import Pipeline, SeparateThenRestore
from ..restore import Restored, check_finite, read_source, read_tags, write_result
from ..settings import Job, Settings


def load_pipeline(engine: Engine, name: str, settings: Settings) -> SeparateThenRestore:
    """Load a pipeline: a separator by name, then restoration of each stem.

    Raises:
        SeparatorError: if it is missing or cannot be used.
    """
    separator = separators.load(name).to(engine.device)
    return SeparateThenRestore(
        separator,
        engine,
        # Asteroid's separators are trained at arbitrary levels.
        match_level=isinstance(separator.model, BaseModel),
        keep_below=settings.keep_below,
        mix=settings.mix,
        keep_level=settings.keep_level,
    )


def restore_stems(
    pipeline: Pipeline, job: Job, settings: Settings, progress: Progress | None = None
) -> Restored:
    """Restore a file stem by stem, to a folder of stems and their sum.

    Args:
        pipeline: separates and restores.
        job: the file; its target is the sum's, and the stems go beside it.
        settings: format of the files.
        progress: called as the work goes on.

    Returns:
        facts about the results.

    Raises:
        AudioError: one line on the file and what is wrong; nothing is written then.
    """
    n_sources = len(pipeline.sources or ()) or 4
    carried, before = read_tags(job, settings)
    wav, rate, layout, found = read_source(job, settings, n_sources + 1)
    try:
        stems = pipeline.restore(torch.from_numpy(wav), rate, progress).numpy()
    except SeparatorError as error:
        raise AudioError(f"'{job.source}': {error}") from error
    remix = stems.sum(0)
    check_finite(remix, job, wav)
    origin = next(iter(pipeline.engines.values())).origin
    made = tags.mark.make(origin, job.source, found.cutoff, before)
    names = map(_safe, pipeline.sources or ())
    places = [job.target.with_name(f"{name}{job.target.suffix}") for name in names]
    # The remix is written last, so a folder with one is complete.
    written = [
        write_result(place, stem, rate, settings, carried, layout, made)
        for place, stem in [*zip(places, stems), (job.target, remix)]
    ]
    return Restored(
        sum(each.n_clipped for each in written),
        max(each.true_peak for each in written),
        tuple(dict.fromkeys(note for each in written for note in each.notes)),
        diagnosis=found if settings.diagnose else None,
    )


def _safe(name: str) -> str:
    """A source's name as a file name."""
    return "".join(c if c.isalnum() or c in "-_ " else "_" for c in name) or "_"
