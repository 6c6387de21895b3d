"""The output that all commands share."""

import os
import sys

import pytest

import apollo_plugin
from apollo_plugin.cli import demo, export, restore, stream, terminal


@pytest.mark.parametrize(
    "command, main",
    {
        "apollo-restore": restore.main,
        "apollo-stream": stream.main,
        "apollo-export": export.main,
        "apollo-demo": demo.main,
    }.items(),
)
def test_every_command_tells_its_version(command, main, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert not caught.value.code
    assert capsys.readouterr().out == f"{command} {apollo_plugin.__version__}\n"


class Screen:
    """A terminal that keeps what was written to it."""

    def __init__(self, is_terminal):
        self.is_terminal, self.text = is_terminal, ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return self.is_terminal


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_line_while_one_waits(monkeypatch, is_terminal):
    monkeypatch.setattr(sys, "stderr", Screen(is_terminal))
    monkeypatch.setattr(os, "environ", {**os.environ, "COLUMNS": "80"})
    with pytest.raises(KeyError), terminal.waiting("loading a\nname"):
        assert ("loading a\\nname ..." in sys.stderr.text) == is_terminal
        raise KeyError
    # It is gone afterwards, whatever happened: blanks over it, from the start of the line.
    assert sys.stderr.text.endswith("\r" if is_terminal else "")
    assert sys.stderr.text.split("\r")[-2 if is_terminal else -1].strip() == ""
