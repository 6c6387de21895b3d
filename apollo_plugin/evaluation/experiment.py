"""Stage 5: evaluate experiments on the fixed test pairs: tables, figures and a listening page.

Results belong to a checkpoint. Those of ``best_model.pth`` are in the folder of its experiment,
those of another file in a subfolder of their own; ``final_metrics.json`` holds the sha256 of the
evaluated file.
"""

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from .. import report
from ..errors import CheckpointError, SettingError
from ..files import atomic_write, sha256, write_json
from ..metrics import METRICS, unavailable
from ..report.comparison import Comparison
from ..report.tables import Table, markdown
from .measure import evaluate_pairs, examples, write_csv
from .paper import Entry, by_bit_rate, figure2, gains, table2
from .summary import incomplete, summarise

CHECKPOINT = "best_model.pth"
# File that a training writes when it has finished, and folder that exists from its first epoch on.
FINISHED, _CHECKPOINTS = "train_metrics.json", "checkpoints"
DIGEST = "checkpoint_sha256"
_PAPER_PAIRS = 5000
_REASONS_SHOWN = 3


@dataclass(frozen=True)
class Contender:
    """A checkpoint to evaluate.

    Args:
        name: label in tables and figures.
        checkpoint: its file.
        digest: sha256 of the file.
        folder: folder of its results.
    """

    name: str
    checkpoint: Path
    digest: str
    folder: Path


@dataclass(frozen=True)
class Timing:
    """Name of a device, and the seconds that each run over 1 s of mono took on it."""

    device: str
    seconds: Sequence[float]

    @property
    def ms(self) -> float:
        return 1000 * statistics.mean(self.seconds)


def evaluate_experiment(
    exp_dir: str | os.PathLike,
    test_dir: str | os.PathLike,
    pool: Executor,
    *,
    checkpoint: str | os.PathLike | None = None,
    use_gpu: bool = True,
    n_examples: int = 20,
    iterations: int = 1000,
    metrics: Sequence[str] = METRICS,
    beside: Sequence[str | os.PathLike] = (),
    allow_partial: bool = False,
) -> Iterator[str]:
    """Evaluate an experiment and write ``all_metrics.csv``, ``final_metrics.json``,
    ``table2.md``, ``figure2.png`` and ``report/index.html`` to its folder.

    Args:
        exp_dir: result of stage 4.
        test_dir: result of stage 3.
        pool: executor that measures the pairs.
        checkpoint: file to evaluate; ``best_model.pth`` of ``exp_dir`` by default. The results of
            another file go to ``exp_dir/evaluation_<name of the file>_<its sha256>``.
        use_gpu: compute on a GPU if there is one, and time the models there too.
        n_examples: pairs on the listening page, at most 24.
        iterations: runs for the real-time factor of each model on each device.
        metrics: names from :data:`apollo_plugin.metrics.METRICS`.
        beside: folders of other experiments, for additional rows and curves.
        allow_partial: accept ``best_model.pth`` of an unfinished training.

    Yields:
        lines on progress and results.

    Raises:
        ApolloError: for whatever prevents a result, in one line.
    """
    if n_examples < 0 or iterations < 1:
        raise SettingError(
            f"n_examples {n_examples} has to be 0 or more, and iterations {iterations} 1 or more"
        )
    for folder in (*([exp_dir] if checkpoint is None else ()), *beside):
        require_finished(folder, allow_partial)
    contenders = _contenders(Path(exp_dir), checkpoint, beside)
    ours = contenders[0]
    missing = unavailable(metrics)
    yield from missing.values()
    metrics = [name for name in metrics if name not in missing]
    devices = _devices(use_gpu)
    tables = []
    for contender in contenders:
        if len(contenders) > 1:
            yield f"measuring '{contender.checkpoint}'"
        tables.append(
            evaluate_pairs(
                contender.checkpoint, test_dir, contender.folder, pool, metrics, devices[-1]
            )
        )
    left_out = incomplete(*tables)
    entries, details = [], []
    for contender, rows in zip(contenders, tables):
        yield f"timing '{contender.checkpoint}': {iterations} runs on {' and '.join(devices)}"
        parameters, timings = _time(contender.checkpoint, devices, iterations)
        summary = summarise(rows, left_out)
        rtf_ms = {timing.device: timing.ms for timing in timings}
        entries.append(Entry(contender.name, summary, parameters, rtf_ms))
        details.append(_details(contender, summary, parameters, timings))
    notes = _notes(ours, entries[0].summary, left_out, iterations)
    results = [table2(entries), gains(entries), by_bit_rate(entries)]
    write_csv(ours.folder / "all_metrics.csv", tables[0])
    with atomic_write(ours.folder / "table2.md") as path:
        path.write_text(markdown(results, notes), "utf-8")
    figure2(ours.folder / "figure2.png", entries)
    others = {entry.name: detail for entry, detail in zip(entries[1:], details[1:])}
    # Written last: later stages take it as the sign that the files above are complete.
    write_json(
        ours.folder / "final_metrics.json", {**details[0], **({"beside": others} if others else {})}
    )
    yield markdown(results[:2], notes[:1] if left_out else ())
    items = list(examples(tables[0], test_dir, ours.checkpoint, n_examples, devices[-1]))
    page, size = _write_page(ours, items, results, notes)
    yield f"{len(tables[0])} pairs; listening page: '{page}' ({size / 1e6:.1f} MB)"


def is_finished(exp_dir: str | os.PathLike) -> bool:
    """Return True if the training in a folder has finished, or the folder holds no training."""
    exp_dir = Path(exp_dir)
    return (exp_dir / FINISHED).is_file() or not (exp_dir / _CHECKPOINTS).is_dir()


def require_finished(exp_dir: str | os.PathLike, allow_partial: bool = False) -> None:
    """Raise a CheckpointError for an unfinished training."""
    if not allow_partial and not is_finished(exp_dir):
        raise CheckpointError(
            f"the training in '{exp_dir}' is not finished: continue it (stage 4, --resume 1), or "
            "pass --allow_partial 1"
        )


def _contenders(
    exp_dir: Path, checkpoint: str | os.PathLike | None, beside: Sequence[str | os.PathLike]
) -> list[Contender]:
    """List the experiment first, then those beside it, each under a unique name."""
    best = exp_dir / CHECKPOINT
    file = Path(checkpoint or best)
    digest = _digest(file)
    folder, name = exp_dir, exp_dir.resolve().name
    # A copy of the best checkpoint counts as the best checkpoint.
    if file != best and not (best.is_file() and sha256(best) == digest):
        folder = exp_dir / f"evaluation_{file.stem}_{digest[:8]}"
        name = f"{name}, {file.stem}"
    contenders = [Contender(f"{name} (this model)", file, digest, folder)]
    seen = {folder.resolve()}
    for other in map(Path, beside):
        if other.resolve() in seen:
            raise SettingError(f"'{other}' is given twice; --beside takes other experiments")
        seen.add(other.resolve())
        alone = [Path(x).resolve().name for x in beside].count(other.resolve().name) == 1
        name = other.resolve().name if alone else str(other)
        contenders.append(Contender(name, other / CHECKPOINT, _digest(other / CHECKPOINT), other))
    return contenders


def _digest(checkpoint: Path) -> str:
    if not checkpoint.is_file():
        raise CheckpointError(f"'{checkpoint}' is missing; run stage 4 to its end")
    return sha256(checkpoint)


def _devices(use_gpu: bool) -> list[str]:
    """List the types of available devices, the fastest last."""
    import torch

    return ["cpu", *(["cuda"] if use_gpu and torch.cuda.is_available() else [])]


def _time(checkpoint: Path, devices: Sequence[str], iterations: int) -> tuple[int, list[Timing]]:
    """Count a model's parameters, and time runs over 1 s of mono on each device."""
    from ..model import RestorationModel
    from .timing import real_time_factor

    model = RestorationModel.from_pretrained(checkpoint)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    names = {"cpu": "CPU", "cuda": "GPU"}
    return n_parameters, [
        Timing(names[device], real_time_factor(model.to(device), device, iterations))
        for device in devices
    ]


def _details(
    contender: Contender, summary: Mapping, parameters: int, timings: Sequence[Timing]
) -> dict[str, object]:
    """Entry of a model in ``final_metrics.json``."""
    import torch

    fastest = timings[-1]
    return {
        DIGEST: contender.digest,
        "checkpoint": str(contender.checkpoint),
        **summary,
        "parameters": parameters,
        "rtf_ms": fastest.ms,
        "rtf_runs": len(fastest.seconds),
        "rtf_device": torch.cuda.get_device_name() if fastest.device == "GPU" else "CPU",
        "rtf_ms_by_device": {timing.device: timing.ms for timing in timings},
    }


def _notes(
    ours: Contender, summary: Mapping, left_out: Mapping[str, str], iterations: int
) -> list[str]:
    """Notes below the tables; first on pairs that were left out, if any."""
    notes = []
    if left_out:
        reasons = [f"{key}: {reason}" for key, reason in left_out.items()]
        n_pairs = summary["n_pairs"] + summary["n_left_out"]
        notes.append(
            f"{len(left_out)} of {n_pairs} pairs are left out of all means, because some of their "
            "metrics are undefined: "
            f"{'; '.join(reasons[:_REASONS_SHOWN])}{' ...' * (len(reasons) > _REASONS_SHOWN)}."
        )
    n_case = min(group["n_pairs"] for group in summary["by_kind"].values())
    notes.append(
        f"{n_case} pairs of each kind (the paper: {_PAPER_PAIRS} a case), made by stage 3 from "
        "other music than the paper's, so printed figures are only a guide. RTF: mean of "
        f"{iterations} runs over 1 s of mono (the paper: 1000, on its GPU). Checkpoint: "
        f"`{ours.checkpoint.name}`, SHA-256 {ours.digest[:12]}."
    )
    return notes


def _write_page(
    ours: Contender, items: Sequence[Comparison], tables: Sequence[Table], notes: Sequence[str]
) -> tuple[Path, int]:
    """Write the listening page; return its path and size in bytes."""
    page = ours.folder / "report" / "index.html"
    title = f"Evaluation of {ours.name.removesuffix(' (this model)')}"
    picture = (ours.folder / "figure2.png").read_bytes()
    pictures = [("Figure 2: SDR, SI-SNR and ViSQOL over bit rate", picture)]
    return page, report.write(page, items, title, " ".join(notes), tables, pictures)
