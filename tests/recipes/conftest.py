"""Parts that the tests of recipes/apollo_small share."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

RECIPE = Path(__file__).parents[2] / "recipes" / "apollo_small"


@pytest.fixture
def recipe(monkeypatch):
    """The recipe's folder, whose modules import each other."""
    monkeypatch.syspath_prepend(str(RECIPE))
    return RECIPE


@pytest.fixture(scope="session")
def command(python):
    """Runs a script of the recipe."""

    def done(name, *arguments):
        script = [python, RECIPE / name, *map(str, arguments)]
        return subprocess.run(script, capture_output=True, text=True, timeout=600, check=False)

    return done


@pytest.fixture(scope="module")
def real_sounds(tmp_path_factory):
    """Ten recordings a kind; each is a click train of its own interval."""
    root = tmp_path_factory.mktemp("real")
    for kind in ("drums", "cymbals", "percussion", "vocals_sung", "guitars"):
        (root / kind).mkdir()
        for index in range(10):
            wav = np.zeros(30000, np.float32)
            wav[500 :: 3000 + 100 * index] = 0.5
            soundfile.write(root / kind / f"{index}.flac", wav, 44100)
    return root
