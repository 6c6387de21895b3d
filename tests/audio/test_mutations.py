"""A sample of broken files: each is read, or refused in one line, in time and memory."""

import sys
from pathlib import Path

import pytest
from helpers import needs_processes

sys.path.insert(0, str(Path(__file__).parent))  # its processes import it by name
from mutations import run


@needs_processes
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_sample_of_broken_files():
    problems = []
    counts = run(list(range(200)), problems.append)
    assert not problems
    assert counts["refused"] > 50 and counts["read"] > 50 and counts.total() == 200
