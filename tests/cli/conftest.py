"""Fixtures of the commands' tests."""

import pytest

from apollo_plugin.cli import main


@pytest.fixture
def run(tiny_checkpoint, capsys):
    """Runs apollo-restore and gives back (status, stdout, stderr)."""

    def run_(*arguments, checkpoint=tiny_checkpoint):
        status = main([*map(str, arguments), "--checkpoint", str(checkpoint), "--device", "cpu"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_
