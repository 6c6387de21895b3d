"""Restoration of many files: plan, processes, and the work on each."""

from .api import restore_file, restore_files
from .work import Result, Task

__all__ = ["Result", "Task", "restore_file", "restore_files"]
