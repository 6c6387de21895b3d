"""Restoration of emptied highs: an optional part of the network, not in the paper."""
