"""The wheel that is released, in an environment that knows nothing of this folder."""

import configparser
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from helpers import read, save, tone

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
    assert wheel.stat().st_size < 16e6


@pytest.fixture
def bare(wheel, tmp_path):
    """An environment with the wheel and no library: its folder of commands and its libraries'."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    scripts = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    install = [sys.executable, "-m", "pip", "--python", scripts / "python", "install", "-q"]
    # This folder's own installation is seen among the libraries, and not to be minded.
    subprocess.run([*install, "--no-deps", "--ignore-installed", wheel], check=True, timeout=120)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")}))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(command, *arguments, **options):
        return subprocess.run(
            [scripts / command, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            timeout=300,
            **options,
        )

    (tmp_path / "song.mp3").write_bytes(encode_mp3(tone(22050), 44100, 64))
    return run, install, site


def test_it_restores_in_a_bare_environment(bare, tmp_path):
    run, _, site = bare
    # Libraries come from here, as plain folders: this package's own entry is not followed.
    Path(site, "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = run("apollo-restore", "song.mp3", "--report", "page.html", text=True)
    assert done.returncode == 0, done.stderr
    length = read(tmp_path / "song.mp3")[0].shape[-1]
    assert audio.probe(tmp_path / "song_restored.wav")[0] == length
    assert (tmp_path / "page.html").stat().st_size > 1e4
    where = run("python", "-c", "import apollo_plugin; print(apollo_plugin.__file__)", text=True)
    assert where.stdout.startswith(str(site))


def test_light_requirements_are_those_of_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    known = setup["options"]["install_requires"].split("\n")
    lines = (ROOT / "requirements-light.txt").read_text().splitlines()
    light = [line for line in lines if line and line[0] != "#"]
    assert light == sorted(light) and set(light) <= set(known)


def test_the_light_installation(bare, tmp_path):
    """Without PyTorch: files, streams, the demo; what needs more says so."""
    run, install, site = bare
    few = ["--retries", "1", "--timeout", "20", "-r", ROOT / "requirements-light.txt"]
    done = subprocess.run([*install, *few], capture_output=True, text=True, timeout=390)
    if done.returncode:
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip()[-200:]}")
    assert not list(site.glob("torch*"))
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 300e6
    done = run("apollo-restore", "song.mp3", "-o", "new.flac", "--keep-below", "3000", text=True)
    assert done.returncode == 0, done.stderr
    assert audio.probe(tmp_path / "new.flac") == audio.probe(tmp_path / "song.mp3")
    done = run("apollo-restore", "--demo", text=True)
    assert done.returncode == 0 and "SI-SNR" in done.stdout, done.stderr
    assert (tmp_path / "apollo_demo" / "page.html").stat().st_size > 1e5
    assert run("apollo-restore", "--list").returncode == 0
    done = run("apollo-stream", input=save(tmp_path / "a.wav", tone(9000)).read_bytes())
    assert done.returncode == 0, done.stderr
    (tmp_path / "b.wav").write_bytes(done.stdout)
    assert audio.probe(tmp_path / "b.wav") == (9000, 44100, 2)
    for more in ("--precision=int8", "--checkpoint=someone/else", "--stems=HDEMUCS_HIGH_MUSDB"):
        done = run("apollo-restore", "song.mp3", "-o", "more", more, text=True)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        assert "pip install" in done.stderr and not (tmp_path / "more").exists()
