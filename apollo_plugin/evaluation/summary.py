"""Means over pairs with their confidence intervals.

A mean that counts a pair for the model and not for the MP3 would compare different music. So a pair
with any undefined metric (the MP3 is silent, a library failed) is left out of all means, and each
summary tells their number.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.mixing import KINDS, OWN_KINDS, kbps_name
from .measure import INPUT, Row, row_key

_N_BOOTSTRAP = 1000


def mean(rows: Sequence[Row], column: str) -> float:
    """Mean of the finite values of a column; NaN if there are none."""
    values = np.array([row[column] for row in rows], dtype=float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def interval(rows: Sequence[Row], column: str, less: str | None = None) -> tuple[float, float]:
    """Compute the 95 % confidence interval of :func:`mean`, by bootstrap over the pairs.

    The pairs of one mix at several bit rates are drawn together, as they are not independent.

    Args:
        rows: of the pairs.
        column: name of the metric.
        less: name of a metric to subtract from it.
    """
    sums: dict[tuple, list[float]] = {}
    for row in rows:
        value = row[column] - (row[less] if less else 0.0)
        if math.isfinite(value):
            total = sums.setdefault((row["kind"], row["name"]), [0.0, 0])
            total[0] += value
            total[1] += 1
    if len(sums) < 2:
        return math.nan, math.nan
    table = np.array(list(sums.values()))
    random = np.random.default_rng(0)
    drawn = (table[random.integers(len(table), size=len(table))] for _ in range(_N_BOOTSTRAP))
    means = [total / count for total, count in (sample.sum(0) for sample in drawn)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the metrics in rows."""
    return [key.removeprefix(INPUT) for key in rows[0] if key.startswith(INPUT)]


def incomplete(*tables: Sequence[Row]) -> dict[str, str]:
    """Find the pairs to leave out of all means, as one of their metrics is undefined.

    A column without any value (ViSQOL of pairs shorter than a second) excludes no pair.

    Args:
        tables: rows of one model each, over the same pairs.

    Returns:
        key of the pair -> the reason in a few words.
    """
    left_out: dict[str, str] = {}
    for rows in tables:
        columns = [prefix + name for name in metrics_of(rows) for prefix in (INPUT, "")]
        columns = [column for column in columns if not math.isnan(mean(rows, column))]
        for row in rows:
            for column in columns:
                if not math.isfinite(row[column]):
                    reason = row.get("reason") or f"{column} is {row[column]}"
                    left_out.setdefault(row_key(row), reason)
    return left_out


def summarise(rows: Sequence[Row], left_out: Collection[str] | None = None) -> dict[str, Any]:
    """Compute all means for ``final_metrics.json``.

    Args:
        rows: of the pairs.
        left_out: keys of the pairs to leave out; by default those of :func:`incomplete`.

    Returns:
        ``<metric>``, ``input_<metric>`` and ``<metric>_imp``: means over all pairs, named as in
        Asteroid; ``intervals`` of the same names; ``by_kind`` and ``by_kbps``: the same for each
        group; ``n_pairs``: number of pairs counted, and ``n_left_out``: of pairs left out.
    """
    left_out = incomplete(rows) if left_out is None else left_out
    groups = {
        "by_kind": {kind: [r for r in rows if r["kind"] == kind] for kind in (*KINDS, *OWN_KINDS)},
        "by_kbps": {
            kbps_name(kbps): [r for r in rows if r["kbps"] == kbps]
            for kbps in sorted({row["kbps"] for row in rows})
        },
    }
    return {
        **_group(rows, left_out),
        **{
            name: {key: _group(members, left_out) for key, members in group.items() if members}
            for name, group in groups.items()
        },
    }


def _group(rows: Sequence[Row], left_out: Collection[str]) -> dict[str, Any]:
    counted = [row for row in rows if row_key(row) not in left_out]
    figures: dict[str, Any] = {"n_pairs": len(counted), "n_left_out": len(rows) - len(counted)}
    intervals = {}
    for name in metrics_of(rows):
        figures[name], figures[INPUT + name] = mean(counted, name), mean(counted, INPUT + name)
        gains = [{"gain": row[name] - row[INPUT + name]} for row in counted]
        figures[name + "_imp"] = mean(gains, "gain")
        intervals[name] = interval(counted, name)
        intervals[INPUT + name] = interval(counted, INPUT + name)
        intervals[name + "_imp"] = interval(counted, name, INPUT + name)
    return {**figures, "intervals": intervals}
