"""Every snippet of the walk-through runs, one after the other, and says what it says."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from apollo_plugin.cli.arguments import _parser
from apollo_plugin.metrics import lsd

DOCS = Path(__file__).parent.parent / "docs"
TEXT = (DOCS / "walkthrough.md").read_text()
SMALL = "Apollo(feature_dim=16, n_layers=1, n_heads=2, tcn_blocks=1)"


def test_snippets_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    for snippet in re.findall(r"```python\n(.*?)```", TEXT, re.S):
        # A shorter song than a reader has patience for, and a smaller program.
        snippet = snippet.replace("song(8.0", "song(1.2")
        snippet = snippet.replace("export(model,", f"export({SMALL},")
        exec(compile(snippet, "walkthrough.md", "exec"), names)
    assert lsd(names["restored"], names["original"]) < lsd(names["coded"], names["original"]) - 1
    assert names["stems_after"].shape == (2, *names["coded"].shape)
    assert "(1, 2, 2, 52920) ['first', 'second']" in capsys.readouterr().out.replace(
        "torch.Size([1, 2, 2, 52920])", "(1, 2, 2, 52920)"
    )
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"song.wav", "gentle.wav", "apollo.onnx", "my-apollo", "runs"}
    for key, value in names["model"].state_dict().items():
        assert torch.equal(value, names["again"].state_dict()[key])
    for trained in ("tuned", "own"):
        after = names[trained].state_dict()
        assert any(not torch.equal(v, after[key]) for key, v in names["model"].state_dict().items())
    # Asteroid's validation ran on the pair that it was given.
    own = names["own"].eval()
    with torch.no_grad():
        losses = [names["plain"].loss_func(own(x), y).item() for x, y in names["pairs"]]
    got = names["trainer"].callback_metrics["val_loss"].item()
    assert got == pytest.approx(sum(losses) / len(losses), rel=1e-3)


def test_commands_are_understood():
    commands = re.findall(r"^apollo-restore (.*)$", TEXT, re.M)
    assert commands
    for command in commands:
        assert _parser().parse_args(shlex.split(command)).inputs


@pytest.mark.parametrize("page", ["walkthrough.md", "export.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", (DOCS / page).read_text()):
        assert (DOCS / target).is_file()
