"""Many files: which are restored, where each result goes, and in which process."""

from .api import restore_file, restore_files
from .work import Result, Task

__all__ = ["Result", "Task", "restore_file", "restore_files"]
