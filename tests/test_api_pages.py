"""The API pages build without a complaint, and hold what they are for."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "docs" / "api.py"


def test_api_pages(tmp_path):
    pytest.importorskip("pdoc")
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Warn:" not in done.stderr, done.stderr
    assert 'id="Apollo"' in (tmp_path / "apollo_plugin.html").read_text()
    model = (tmp_path / "apollo_plugin" / "model.html").read_text()
    assert "feature_dim" in model and "from_pretrained" in model
    for wing in ("network/apollo", "losses/spectral", "audio/reading", "checkpoints/loading"):
        assert (tmp_path / "apollo_plugin" / f"{wing}.html").stat().st_size > 1e4
