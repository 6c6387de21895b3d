"""SDR of MUSDB's test songs separated from MP3, with restoration before, after, and without."""

import argparse
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apollo_plugin import Apollo, audio, metrics, separators
from apollo_plugin.cli.terminal import run
from apollo_plugin.data import tracks
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.tracks import Song
from apollo_plugin.errors import AudioError, DataError, SeparatorError, SettingError
from apollo_plugin.files import atomic_write, write_json
from apollo_plugin.pipelines import RestoreThenSeparate, SeparateThenRestore
from apollo_plugin.separators import Separator

SOURCES = ("vocals", "drums", "bass", "other")
# In the order of the table.
WAYS = ("original", "mp3", "mp3, restored before", "mp3, restored after")
_RATE = 44100


def score_song(
    song: Song, separator: Separator, restorer: Apollo, kbps: int, seconds: float | None = None
) -> dict[str, dict[str, float]]:
    """Score one song.

    Args:
        song: song of MUSDB18-HQ; its ``mixture.wav`` is beside its stems.
        separator: separator into MUSDB's four sources, in any order.
        restorer: an Apollo.
        kbps: bit rate of the MP3 in kbit/s.
        seconds: length of an excerpt from the middle; by default the whole song.

    Returns:
        way (one of ``WAYS``) -> source -> SDR in dB.

    Raises:
        AudioError: if a file cannot be read.
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
        sdr = metrics.bss_eval_v4(references, separated[way]().numpy(), _RATE)
        scores[way] = dict(zip(separator.sources, sdr))
    return scores


def score_songs(
    songs: Iterable[Song],
    separator: Separator,
    restorer: Apollo,
    out: Path,
    settings: dict[str, Any],
) -> Iterator[tuple[str, dict | AudioError]]:
    """Score songs one by one, each to a file of its own; results of earlier runs with the same
    settings are read from these files.

    Args:
        songs: songs of MUSDB18-HQ.
        separator: see :func:`score_song`.
        restorer: an Apollo.
        out: folder for ``<song>.json``.
        settings: ``kbps``, ``seconds``, and any others that distinguish runs.

    Yields:
        id of the song, and its scores or the error.
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


def weights_digest(model: Apollo) -> str:
    """Compute the sha256 of a model's arguments and tensors, in the order of its state dict."""
    digest = hashlib.sha256(json.dumps(model.get_model_args()).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def table(scores: list[dict[str, dict[str, float]]]) -> str:
    """Tabulate medians over songs for each way and source, and their means, as Markdown."""
    lines = [f"| SDR (museval, dB) | {' | '.join(SOURCES)} | mean |", "| --- " * 6 + "|"]
    for way in WAYS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a source that is silent in all songs
            medians = [np.nanmedian([song[way][source] for song in scores]) for source in SOURCES]
            cells = [*medians, np.nanmean(medians)]
        lines.append(f"| {way} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--musdb18hq_dir", required=True, help="folder with test/<song>/{mixture,vocals,...}.wav")
    add("--separator", default="HDEMUCS_HIGH_MUSDB", help="bundle, Hub id or file (%(default)s)")
    add(
        "--sources",
        nargs=4,
        metavar="NAME",
        help="names of the separator's sources, if it has none",
    )
    add("--checkpoint", default="apollo-small", help="checkpoint of the restorer (%(default)s)")
    add("--kbps", type=int, default=64, help="bit rate of the MP3 (%(default)s)")
    add("--seconds", type=float, help="length of an excerpt of each song (whole songs)")
    add("--out", type=Path, default=Path("exp/pipelines"), help="folder (%(default)s)")
    args = parser.parse_args()
    missing = metrics.unavailable(("sdr_v4",))
    if missing:
        raise SettingError(missing["sdr_v4"])
    problems: list[str] = []
    songs = tracks.musdb18hq(args.musdb18hq_dir, problems)
    songs = [song for song in songs if song.id.startswith("musdb18hq/test/")]
    separator = separators.load(args.separator, sources=args.sources)
    restorer = Apollo.from_pretrained(args.checkpoint)
    settings = {key: getattr(args, key) for key in ("separator", "checkpoint", "kbps", "seconds")}
    # Scores belong to weights, not to the name of their file.
    settings["weights"] = weights_digest(restorer)
    scored = []
    for name, scores in score_songs(songs, separator, restorer, args.out, settings):
        if isinstance(scores, Exception):
            problems.append(f"{scores}; song left out")
            continue
        scored.append(scores)
        means = (sum(way[s] for s in SOURCES) / len(SOURCES) for way in scores.values())
        print(f"{name}: {', '.join(f'{mean:.2f}' for mean in means)}", flush=True)
    for line in problems:
        print(line)
    if not scored:
        raise DataError("no song could be scored")
    with atomic_write(args.out / "table.md") as beside:
        beside.write_text(table(scored) + "\n")
    print(table(scored))
    return 1 if problems else 0


if __name__ == "__main__":
    run(main)
