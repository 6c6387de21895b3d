"""What is released: the wheel, in an environment that knows nothing of this folder."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import read, tone

from apollo_plugin import audio
from apollo_plugin.data.codecs import encode_mp3

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # From a copy: a build leaves its own folders beside the sources.
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "apollo_plugin"):
        os.symlink(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", folder, source], check=True, timeout=120)
    return next(folder.glob("*.whl"))


def test_it_holds_what_is_needed_and_no_more(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "apollo_plugin").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(ROOT)) in names
    assert not any(name.startswith(("tests/", "recipes/", "docs/")) for name in names)
    assert wheel.stat().st_size < 12e6


def test_it_restores_in_a_bare_environment(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    scripts = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    # Libraries come from here, as plain folders: this package's own entry is not followed.
    site = sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")})
    Path(site, "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", scripts / "python", "install", "-q"]
    # This folder's own installation is seen among the libraries, and not to be minded.
    subprocess.run([*install, "--no-deps", "--ignore-installed", wheel], check=True, timeout=120)
    (tmp_path / "song.mp3").write_bytes(encode_mp3(tone(22050), 44100, 64))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [scripts / "apollo-restore", "song.mp3", "--report", "page.html"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    length = read(tmp_path / "song.mp3")[0].shape[-1]
    assert audio.probe(tmp_path / "song_restored.wav")[0] == length
    assert (tmp_path / "page.html").stat().st_size > 1e4
    where = subprocess.run(
        [scripts / "python", "-c", "import apollo_plugin; print(apollo_plugin.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert where.stdout.startswith(site)
