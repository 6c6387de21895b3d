"""What restoration is worth to a separator: museval's SDR of stems separated from MP3s."""

import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import audio
from .data.codecs import mp3
from .data.tracks import Song
from .errors import AudioError, SeparatorError
from .files import write_json
from .pipelines import RestoreThenSeparate, SeparateThenRestore
from .separators import Separator

if TYPE_CHECKING:
    from .model import Apollo

SOURCES = ("vocals", "drums", "bass", "other")
# In the order of the table.
WAYS = ("original", "mp3", "mp3, restored before", "mp3, restored after")
_RATE = 44100


def museval_sdr(references: np.ndarray, estimates: np.ndarray) -> list[float]:
    """SDR of BSSEval v4 as museval has it: 512 taps for the whole signal, scores of frames of 1 s.

    Args:
        references: ``(sources, channels, time)`` at 44.1 kHz.
        estimates: likewise.

    Returns:
        for each source the median over the frames in dB; NaN for a source that is silent in all.

    Raises:
        AudioError: where museval cannot be imported: it takes ffmpeg and ffprobe on the PATH.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import museval
    except (ImportError, RuntimeError) as error:
        raise AudioError(
            f"museval cannot be imported: {str(error).splitlines()[0]}; it takes ffmpeg and ffprobe"
        ) from error
    arrays = (np.moveaxis(part, 1, 2).astype(np.float64) for part in (references, estimates))
    # Frames where a source or its estimate is silent are NaN.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        sdr = museval.evaluate(*arrays)[0]
        sdr[~np.isfinite(sdr)] = np.nan
        return [float(median) for median in np.nanmedian(sdr, 1)]


def score_song(
    song: Song, separator: Separator, restorer: "Apollo", kbps: int, seconds: float | None = None
) -> dict[str, dict[str, float]]:
    """Scores of one song.

    Args:
        song: of MUSDB18-HQ; its ``mixture.wav`` lies beside its stems.
        separator: whose sources are MUSDB's four, in any order.
        restorer: an Apollo.
        kbps: bit rate of the MP3 in kbit/s.
        seconds: length of the excerpt, from the song's middle; the whole song unless given.

    Returns:
        way (one of ``WAYS``) -> source -> SDR in dB.

    Raises:
        AudioError: for a file that cannot be read.
        SeparatorError: for other sources than MUSDB's.
    """
    if sorted(separator.sources or ()) != sorted(SOURCES):
        raise SeparatorError(
            f"the separator's sources are {', '.join(separator.sources or ['unknown'])}; "
            f"expected {', '.join(SOURCES)}"
        )
    length = max(stem.seconds for stem in song.stems.values())
    part = min(seconds or length, length)
    place = ((length - part) / 2, part, _RATE)
    references = np.stack([song.stems[source].read(*place) for source in separator.sources])
    folder = Path(song.stems["vocals"].files[0]).parent
    mixture = torch.from_numpy(audio.read_part(folder / "mixture.wav", *place))
    mixture = mixture.expand(2, -1).contiguous()
    coded = mp3(mixture, _RATE, kbps)
    separated = {
        "original": lambda: separator(mixture, _RATE),
        "mp3": lambda: separator(coded, _RATE),
        "mp3, restored before": lambda: RestoreThenSeparate(restorer, separator)(coded),
        "mp3, restored after": lambda: SeparateThenRestore(separator, restorer)(coded),
    }
    scores = {}
    for way in WAYS:
        sdr = museval_sdr(references, separated[way]().numpy())
        scores[way] = dict(zip(separator.sources, sdr))
    return scores


def score_songs(
    songs: Iterable[Song],
    separator: Separator,
    restorer: "Apollo",
    out: Path,
    settings: dict[str, Any],
) -> Iterator[tuple[str, dict | AudioError]]:
    """Scores songs one by one, each to a file of its own; songs scored under the same settings
    before are read from there.

    Args:
        songs: of MUSDB18-HQ.
        separator: see :func:`score_song`.
        restorer: an Apollo.
        out: folder for ``<song>.json``.
        settings: ``kbps``, ``seconds``, and whatever else tells runs apart.

    Yields:
        the song's id, and its scores or what was wrong with it.
    """
    for song in songs:
        path = out / f"{song.id.split('/')[-1]}.json"
        try:
            before = json.loads(path.read_bytes())
        except (OSError, ValueError):
            before = {}
        if before.get("settings") == settings:
            yield song.id, before["scores"]
            continue
        try:
            scores = score_song(song, separator, restorer, settings["kbps"], settings["seconds"])
        except AudioError as error:
            yield song.id, error
        else:
            write_json(path, {"settings": settings, "scores": scores})
            yield song.id, scores


def table(scores: list[dict[str, dict[str, float]]]) -> str:
    """Markdown: the median over songs for each way and source, and their mean."""
    lines = [f"| SDR (museval, dB) | {' | '.join(SOURCES)} | mean |", "| --- " * 6 + "|"]
    for way in WAYS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a source that is silent in all songs
            medians = [np.nanmedian([song[way][source] for song in scores]) for source in SOURCES]
            cells = [*medians, np.nanmean(medians)]
        lines.append(f"| {way} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join(lines)
