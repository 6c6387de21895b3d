"""The listening page: versions of a sound with their pictures and metrics, in one HTML file."""

from .comparison import Comparison, Version, compare, compare_files
from .page import MAX_ITEMS, build, check_target, excerpt_seconds, write
from .tables import Table

__all__ = [
    "MAX_ITEMS",
    "Comparison",
    "Table",
    "Version",
    "build",
    "check_target",
    "compare",
    "compare_files",
    "excerpt_seconds",
    "write",
]
