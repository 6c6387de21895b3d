"""Evaluation of a model on pairs of coded and original music, with tables and figures."""

from .experiment import CHECKPOINT, evaluate_experiment
from .measure import ROWS_FILE, choose, evaluate_pair, evaluate_pairs, examples, write_csv

__all__ = [
    "CHECKPOINT",
    "ROWS_FILE",
    "choose",
    "evaluate_experiment",
    "evaluate_pair",
    "evaluate_pairs",
    "examples",
    "write_csv",
]
