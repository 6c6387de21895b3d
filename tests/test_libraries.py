"""Libraries that do not load: what needs them says so, all else goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from helpers import save, tone

import apollo_plugin
from apollo_plugin.errors import does_not_load, library_at_fault

ROOT = Path(__file__).parent.parent
# Of torchaudio: of another torch, of another CUDA, not there, and a defect.
CAUSES = {
    "symbol": """
try:
    raise OSError("/opt/lib/libtorchaudio.so: undefined symbol: torch_library_impl")
except OSError as error:
    raise OSError("Could not load this library: /opt/lib/libtorchaudio.so") from error
""",
    "CUDA": "raise RuntimeError('PyTorch has CUDA version 13.2 whereas TorchAudio has 13.0.')",
    "missing": "raise ModuleNotFoundError('No module named torchaudio', name='torchaudio')",
    "defect": "{}['key']",
}


@pytest.fixture
def command(tmp_path, tiny_checkpoint, python):
    """Runs a program of this Python in which a library is another one."""

    def run(library, source, *arguments):
        # The loaded Python has the others already.
        program = python if library == "torchaudio" else sys.executable
        folder = tmp_path / "libraries" / library
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(source)
        path = os.pathsep.join([str(folder.parent), str(ROOT)])
        return subprocess.run(
            [program, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        )

    return run


RESTORE = "import sys; from apollo_plugin.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("cause", CAUSES)
def test_restoring_takes_no_torchaudio(cause, command, tmp_path, tiny_checkpoint):
    song = save(tmp_path / "song.wav", tone(30000))
    done = command(
        "torchaudio", CAUSES[cause], "-c", RESTORE, song, "--checkpoint", tiny_checkpoint,
        "--report", "page.html", "--reference", song,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert soundfile.info(tmp_path / "song_restored.wav").frames == 30000
    assert (tmp_path / "page.html").is_file()


def test_separators_say_what_they_lack(command, tmp_path, tiny_checkpoint):
    song = save(tmp_path / "song.wav", tone(3000))
    arguments = (song, "--checkpoint", tiny_checkpoint, "--stems", "HDEMUCS_HIGH_MUSDB")
    done = command("torchaudio", CAUSES["symbol"], "-c", RESTORE, *arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "apollo-restore: 'HDEMUCS_HIGH_MUSDB' needs torchaudio, which does not load "
        "(libtorchaudio.so: undefined symbol: torch_library_impl); reinstall torch and torchaudio, "
        "both from the same index"
    ]


def test_asteroid_does_without_its_stoi_loss_and_only_that(command):
    program = """if True:
        import apollo_plugin, asteroid.losses, asteroid.models
        from asteroid.losses import SingleSrcNegSTOI, pairwise_neg_sisdr
        print(asteroid.models.get("Apollo").__name__)
        try:
            import torch_stoi
        except ModuleNotFoundError as error:
            print(error, "|", error.__cause__)
        try:
            SingleSrcNegSTOI(sample_rate=8000)
        except ModuleNotFoundError as error:
            print(error)
    """
    done = command("torchaudio", CAUSES["CUDA"], "-c", program)
    assert done.stdout.splitlines() == [
        "Apollo",
        "torch_stoi needs torchaudio, which does not load | PyTorch has CUDA version 13.2 "
        "whereas TorchAudio has 13.0.",
        "No module named 'torch_stoi'",
    ], done.stderr


def test_with_a_torchaudio_that_loads_asteroid_has_it_all(command):
    program = "import apollo_plugin, asteroid.losses; print(asteroid.losses.SingleSrcNegSTOI)"
    done = command("torchaudio", "from types import SimpleNamespace as transforms", "-c", program)
    assert done.stdout.strip() == "<class 'asteroid.losses.stoi.NegSTOILoss'>", done.stderr


@pytest.mark.parametrize("library", ["soxr", "torch", "asteroid"])
def test_what_is_needed_and_broken_ends_in_one_line(library, command, tmp_path, tiny_checkpoint):
    song = save(tmp_path / "song.wav", tone(3000))
    source = "raise ImportError('/usr/lib/x86/libbroken.so.3: cannot open shared object file')"
    done = command(library, source, "-c", RESTORE, song, "--checkpoint", tiny_checkpoint)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"apollo-restore: the library {library} does not load (libbroken.so.3: cannot open shared "
        "object file); install apollo-plugin anew, in a virtual environment of its own"
    ]


def test_other_errors_are_nobody_else_s():
    def caught(action):
        with pytest.raises(Exception) as info:
            action()
        return info.value

    assert library_at_fault(caught(lambda: __import__("no_such_library.part"))) == "no_such_library"
    assert library_at_fault(caught(lambda: soundfile.read("no such file"))) is None
    assert library_at_fault(caught(lambda: int("x"))) is None


@pytest.mark.parametrize(
    "text, told",
    [
        ("Could not load /a/b/lib.so", "Could not load lib.so"),
        ("'/a/b.so': no ELF", "'b.so': no ELF"),
        (
            "see https://pytorch.org/get-started and 1/2",
            "see https://pytorch.org/get-started and 1/2",
        ),
        ("two\nlines", "two lines"),
        ("", "OSError"),
    ],
)
def test_causes_in_print(text, told):
    assert does_not_load(OSError(text)) == told


def test_only_asteroids_stoi_is_told_as_missing(monkeypatch):
    find = apollo_plugin._WithoutTorchaudio.find_spec
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    assert find("torch") is None
    with pytest.raises(ModuleNotFoundError, match="torch_stoi needs torchaudio") as caught:
        find("torch_stoi")
    assert caught.value.name == "torch_stoi"
