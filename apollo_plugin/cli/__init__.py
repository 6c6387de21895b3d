"""The commands."""

from .restore import main

__all__ = ["main"]
