"""Stage 5: means with confidence intervals, the paper's Table II and Figure 2, listening page."""

import os
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path

from .. import report
from ..files import atomic_write, write_json
from ..metrics import METRICS, unavailable
from ..report.tables import markdown
from .measure import evaluate_pairs, examples, write_csv
from .paper import by_bit_rate, figure2, gains, table2
from .summary import summarise

CHECKPOINT = "best_model.pth"
_PAPER_PAIRS = 5000
# The RTF's runs end after so many seconds; a CPU would need an hour for a thousand.
_RTF_SECONDS = 30.0


def evaluate_experiment(
    exp_dir: str | os.PathLike,
    test_dir: str | os.PathLike,
    pool: Executor,
    checkpoint: str | os.PathLike | None = None,
    use_gpu: bool = True,
    n_examples: int = 20,
    iterations: int = 1000,
    metrics: Sequence[str] = METRICS,
) -> Iterator[str]:
    """Evaluates an experiment and leaves ``all_metrics.csv``, ``final_metrics.json``,
    ``table2.md``, ``figure2.png`` and ``report/index.html`` in its folder.

    Args:
        exp_dir: what stage 4 left.
        test_dir: what stage 3 left.
        pool: where pairs are measured.
        checkpoint: file to evaluate; ``best_model.pth`` of ``exp_dir`` unless given.
        use_gpu: compute on a GPU where there is one.
        n_examples: pairs on the listening page, at most 24.
        iterations: runs for the real-time factor; fewer where they would take over 30 s.
        metrics: which of :data:`apollo_plugin.metrics.METRICS`.

    Yields:
        lines that say what was found.

    Raises:
        ValueError: in one line, for whatever keeps it from a result.
    """
    import torch

    from ..model import Apollo
    from .timing import real_time_factor

    exp_dir, test_dir = Path(exp_dir), Path(test_dir)
    checkpoint = Path(checkpoint or exp_dir / CHECKPOINT)
    if not checkpoint.is_file():
        raise ValueError(f"'{checkpoint}' is missing; run stage 4 to its end")
    if n_examples < 0 or iterations < 1:
        raise ValueError(f"n_examples {n_examples} and iterations {iterations} have to be positive")
    missing = unavailable(metrics)
    yield from missing.values()
    metrics = [name for name in metrics if name not in missing]
    device = "cuda" if use_gpu and torch.cuda.is_available() else "cpu"
    rows = evaluate_pairs(checkpoint, test_dir, exp_dir, pool, metrics, device)
    write_csv(exp_dir / "all_metrics.csv", rows)
    summary = summarise(rows)

    model = Apollo.from_pretrained(checkpoint).to(device)
    times = real_time_factor(model, device, iterations, _RTF_SECONDS)
    rtf_ms = 1000 * statistics.mean(times)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    summary = {
        **summary,
        "parameters": n_parameters,
        "rtf_ms": rtf_ms,
        "rtf_runs": len(times),
        "rtf_device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
    }
    write_json(exp_dir / "final_metrics.json", summary)

    name = f"{exp_dir.resolve().name} (this model)"
    rtf = f"{rtf_ms:.2f} ({'GPU' if device == 'cuda' else 'CPU'})"
    tables = [
        table2(summary, name, n_parameters, rtf),
        gains(summary, name),
        by_bit_rate(summary),
    ]
    n_case = min(group["n_pairs"] for group in summary["by_kind"].values())
    notes = [
        f"{n_case} pairs of each kind (the paper: {_PAPER_PAIRS} a case), mixed by stage 3: other "
        "music than the paper's, so its printed rows are a guide and no comparison. RTF: mean of "
        f"{len(times)} runs over 1 s of mono (the paper: 1000, on its GPU)."
    ]
    text = markdown(tables, notes)
    with atomic_write(exp_dir / "table2.md") as beside:
        beside.write_text(text)
    figure2(exp_dir / "figure2.png", summary, name)
    page = exp_dir / "report" / "index.html"
    size = report.write(
        page,
        list(examples(rows, test_dir, checkpoint, n_examples, device)),
        f"Evaluation of {exp_dir.resolve().name}",
        notes[0],
        tables,
        [
            (
                "Figure 2: SDR, SI-SNR and ViSQOL over bit rate",
                (exp_dir / "figure2.png").read_bytes(),
            )
        ],
    )
    yield markdown(tables[:2])
    yield f"{len(rows)} pairs; listening page: '{page}' ({size / 1e6:.1f} MB)"
