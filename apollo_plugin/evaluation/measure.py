"""Metrics of a checkpoint and of the untouched MP3 on the fixed test pairs; parallel, resumable.

Each measured pair is a line of ``evaluation.jsonl``, so the results of an interrupted run are kept;
lines of another checkpoint, pair or set of metrics are measured again.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from ..data.dataset import Pair, PairDataset
from ..data.mixing import kbps_name
from ..data.parallel import each
from ..errors import AudioError, CheckpointError, DataError
from ..files import atomic_write, naming, sha256
from ..metrics import METRICS, evaluate
from ..report import MAX_ITEMS
from ..report.comparison import Comparison, compare
from ..restore import restore_audio

if TYPE_CHECKING:
    from ..model import RestorationModel

ROWS_FILE = "evaluation.jsonl"
# Prefix of the metrics of the MP3.
INPUT = "input_"
_LINES_SHOWN = 3
# To be raised when the columns or the computation of a metric change.
_ROW_VERSION = "3"

Row = dict[str, Any]


@dataclass(frozen=True)
class MeasureJob:
    """A pair to evaluate: by which checkpoint, of which sha256, by which metrics and where."""

    checkpoint: str
    digest: str
    pair: Pair
    metrics: tuple[str, ...]
    device: str


def evaluate_pairs(
    checkpoint: str | os.PathLike,
    test_dir: str | os.PathLike,
    exp_dir: str | os.PathLike,
    pool: Executor,
    metrics: Sequence[str] = METRICS,
    device: str = "cpu",
) -> list[Row]:
    """Measure model and MP3 on every pair that has not been measured yet.

    Args:
        checkpoint: file of the model.
        test_dir: result of stage 3.
        exp_dir: folder for the rows.
        pool: executor that does the work.
        metrics: names from :data:`apollo_plugin.metrics.METRICS`.
        device: device that runs the model.

    Returns:
        a row for each pair: ``kbps``, ``kind``, ``name``, each metric, each metric of the MP3 with
        the prefix ``input_``, and the ``reason`` if one of them could not be computed.

    Raises:
        DataError: if there are no pairs, or some could not be measured (the others are kept).
        CheckpointError: if the model cannot be loaded, or has another sample rate.
    """
    # Workers of a cluster have another working folder.
    checkpoint, exp_dir = Path(checkpoint).absolute(), Path(exp_dir)
    pairs = PairDataset(Path(test_dir).absolute()).pairs
    digest = sha256(checkpoint)
    _check_rate(_model(str(checkpoint), digest, "cpu"), checkpoint, pairs[0])
    rows_file = exp_dir / ROWS_FILE
    marks = {_key(pair): _mark(pair, digest, metrics) for pair in pairs}
    done = {key: row for key, mark, row in _read_rows(rows_file) if marks.get(key) == mark}
    todo = [
        MeasureJob(str(checkpoint), digest, pair, tuple(metrics), device)
        for pair in pairs
        if _key(pair) not in done
    ]
    failed: list[str] = []
    lines = (json.dumps([key, marks[key], row]) + "\n" for key, row in done.items())
    with atomic_write(rows_file) as beside:
        beside.write_text("".join(lines))
    with naming(rows_file), rows_file.open("a", buffering=1) as file:
        for job, outcome in each(pool, evaluate_pair, todo, len(todo), "evaluation", "pair"):
            if isinstance(outcome, Exception):
                failed.append(str(outcome))
                continue
            key = _key(job.pair)
            done[key] = outcome
            # One write per line, so that the file holds complete lines.
            file.write(json.dumps([key, marks[key], outcome]) + "\n")
    if failed:
        shown = "; ".join(failed[:_LINES_SHOWN])
        raise DataError(
            f"{len(failed)} of {len(pairs)} pairs could not be evaluated: {shown}"
            f"{' ...' * (len(failed) > _LINES_SHOWN)}; the others are kept, run again once these "
            "are repaired"
        )
    return [done[_key(pair)] for pair in sorted(pairs, key=lambda p: (p.kbps, p.kind, p.name))]


def evaluate_pair(job: MeasureJob) -> Row:
    """Measure one pair, in a worker process."""
    # One thread, as workers share the cores already. Numba reads it on first use.
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    pair = job.pair
    coded, original, rate = _read(pair)
    model = _model(job.checkpoint, job.digest, job.device)
    if rate != int(model.sample_rate):
        raise DataError(f"'{pair.folder}' is at {rate} Hz; run stage 3 again")
    restored = restore_audio(model, coded, rate)
    row: Row = {"kbps": pair.kbps, "kind": pair.kind, "name": pair.name}
    missing: list[str] = []
    for prefix, wav in ((INPUT, coded), ("", restored)):
        reasons: dict[str, str] = {}
        try:
            figures = evaluate(wav, original, rate, job.metrics, reasons)
        except ValueError as error:
            raise AudioError(f"'{pair.folder}': {error}") from error
        row.update({prefix + name: value for name, value in figures.items()})
        missing += [f"{prefix}{name}: {reason}" for name, reason in reasons.items()]
    return {**row, "reason": "; ".join(missing)}


def examples(
    rows: Sequence[Row],
    test_dir: str | os.PathLike,
    checkpoint: str | os.PathLike,
    n_examples: int,
    device: str = "cpu",
) -> Iterator[Comparison]:
    """Restore pairs for the listening page, of all bit rates and kinds in turn."""
    checkpoint = Path(checkpoint)
    model = _model(str(checkpoint), sha256(checkpoint), device)
    pairs = {_key(pair): pair for pair in PairDataset(test_dir).pairs}
    for row in choose(rows, min(n_examples, MAX_ITEMS)):
        coded, original, rate = _read(pairs[row_key(row)])
        kind = row["kind"].replace("_", " ").capitalize()
        name = f"{kind} at {kbps_name(row['kbps'])} kbit/s, {row['name']}"
        restored = restore_audio(model, coded, rate)
        item = compare(name, coded, restored, rate, original, metrics=())
        names = [key.removeprefix(INPUT) for key in row if key.startswith(INPUT)]
        figures = [{n: row[prefix + n] for n in names} for prefix in (INPUT, "")]
        versions = [replace(v, metrics=m) for v, m in zip(item.versions, [*figures, {}])]
        yield replace(item, versions=versions)


def _read(pair: Pair) -> tuple[np.ndarray, np.ndarray, int]:
    coded, original, rate = pair.read()
    return coded.numpy(), original.numpy(), rate


def choose(rows: Sequence[Row], count: int) -> list[Row]:
    """Choose so many diverse rows: each bit rate and kind once before any comes twice."""
    cases: dict[tuple, list[Row]] = {}
    for row in rows:
        cases.setdefault((row["kbps"], row["kind"]), []).append(row)
    rates, kinds = (sorted({case[i] for case in cases}) for i in (0, 1))
    # Along the diagonals, so that few examples still show every bit rate and kind.
    order = [
        (rate, kinds[(i + turn) % len(kinds)])
        for turn in range(len(kinds))
        for i, rate in enumerate(rates)
    ]
    order = [case for case in order if case in cases]
    deepest = max(map(len, cases.values()), default=0)
    chosen = [cases[c][depth] for depth in range(deepest) for c in order if depth < len(cases[c])]
    return chosen[:count]


def write_csv(path: str | os.PathLike, rows: Sequence[Row]) -> None:
    """Write ``all_metrics.csv``, a row for each pair, completely or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows({**row, "kbps": kbps_name(row["kbps"])} for row in rows)
    with atomic_write(path) as beside:
        beside.write_text(text.getvalue())


@lru_cache(maxsize=1)
def _model(checkpoint: str, digest: str, device: str) -> "RestorationModel":
    """Load the model once per process, and again if a file of that name has another digest."""
    from ..model import RestorationModel

    return RestorationModel.from_pretrained(checkpoint).to(device)


def _check_rate(model: "RestorationModel", checkpoint: Path, pair: Pair) -> None:
    path = pair.folder / "mp3.flac"
    try:
        rate = soundfile.info(path).samplerate
    except soundfile.SoundFileError:
        return  # reading the pair reports it better
    if rate != int(model.sample_rate):
        raise CheckpointError(
            f"'{checkpoint}' has a sample rate of {int(model.sample_rate)} Hz and the pairs have "
            f"{rate} Hz; evaluate a checkpoint of their rate, or make pairs of its rate"
        )


def _key(pair: Pair) -> str:
    return f"{pair.kbps}/{pair.kind}/{pair.name}"


def row_key(row: Row) -> str:
    """Key of the pair of a row: bit rate, kind and name."""
    return f"{row['kbps']}/{row['kind']}/{row['name']}"


def _mark(pair: Pair, digest: str, metrics: Sequence[str]) -> str:
    """Hash of everything that a row depends on: checkpoint, metrics, the pair's files."""
    state = [_ROW_VERSION, digest, ",".join(metrics)]
    for name in ("mp3.flac", "original.flac"):
        try:
            status = (pair.folder / name).stat()
            state += [str(status.st_size), str(status.st_mtime_ns)]
        except OSError:
            state.append("missing")
    return hashlib.sha256(" ".join(state).encode()).hexdigest()[:16]


def _read_rows(path: Path) -> Iterator[tuple[str, str, Row]]:
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            key, mark, row = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was killed
        yield key, mark, row
