"""Compiled layers give the numbers of plain ones, and a compiler that is missing or fails harms
nothing."""

import subprocess
import sys
import warnings

import pytest
import torch
from helpers import small_model, snr, tone

from apollo_plugin import cli
from apollo_plugin.network import compiling
from apollo_plugin.network.compiling import compiled, has_compiler
from apollo_plugin.network.precision import convert

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(not has_compiler(CPU), reason="no C++ compiler here")


@needs_compiler
def test_the_same_numbers():
    model, wav = small_model(n_layers=1, causal=True), tone(9000)
    fast = compiled(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert snr(fast.restore(wav, block_seconds=0.1), model.restore(wav)) > 90
    assert all(part._fast for part in parts(fast)) and len(parts(fast)) == 4
    assert not parts(model), "the model itself is as it was"


def parts(model):
    found = [vars(module).get("forward") for module in model.modules()]
    return [part for part in found if isinstance(part, compiling._Compiled)]


def failing(function):
    def fail(*args):
        raise RuntimeError("cc1plus: out of\npatience")

    return fail


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.filterwarnings("ignore:.*has no bfloat16 products")
def test_a_compiler_that_fails(monkeypatch, precision):
    monkeypatch.setattr(compiling, "has_compiler", lambda device: True)
    monkeypatch.setattr(torch, "compile", failing)
    model, wav = convert(small_model(), precision), tone(5000)
    with pytest.warns(UserWarning, match="failed, going on without it: cc1plus: out of patience"):
        restored = compiled(model).restore(wav)
    assert snr(restored, model.restore(wav)) > 90


def test_too_little_memory_is_no_failure_of_the_compiler(monkeypatch):
    def fail(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(compiling, "has_compiler", lambda device: True)
    monkeypatch.setattr(torch, "compile", lambda function: fail)
    with pytest.raises(torch.OutOfMemoryError):
        compiled(small_model())(tone(1000))


def test_no_compiler(monkeypatch, recwarn):
    monkeypatch.setattr(compiling, "has_compiler", lambda device: False)
    model, wav = small_model(), tone(3000)
    assert torch.equal(compiled(model).restore(wav), model.restore(wav)) and not recwarn.list
    assert not has_compiler(torch.device("meta"))


def test_from_the_command_line(tmp_path, tiny_checkpoint, monkeypatch, capsys):
    from apollo_plugin import Apollo, audio

    monkeypatch.setattr(compiling, "has_compiler", lambda device: True)
    monkeypatch.setattr(torch, "compile", failing)
    audio.write(tmp_path / "a.wav", tone(20000), 44100)
    options = ["--checkpoint", str(tiny_checkpoint), "--compile", "--device", "cpu"]
    assert cli.main([str(tmp_path / "a.wav"), *options]) == 0
    # Said once, in one line.
    assert capsys.readouterr().err.count("apollo-restore: the compiler failed") == 1
    expected = Apollo.from_pretrained(tiny_checkpoint).restore(tone(20000))
    assert snr(audio.read(tmp_path / "a_restored.wav")[0], expected) > 90


@needs_compiler
def test_several_files_are_compiled_one_after_another(tmp_path):
    """PyTorch's compiler in two threads ends the process with a segmentation fault."""
    from apollo_plugin import audio, checkpoints

    checkpoints.save(small_model(n_layers=1), tmp_path / "m.safetensors")
    for name in "abc":
        audio.write(tmp_path / "in" / f"{name}.wav", tone(30000), 44100)
    command = [sys.executable, "-m", "apollo_plugin.cli", tmp_path / "in", "-o", tmp_path / "out"]
    options = ["--checkpoint", tmp_path / "m.safetensors", "--compile", "--device", "cpu"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("->") == 3, done.stderr


@pytest.mark.skipif(
    "onednn" not in torch.backends.quantized.supported_engines, reason="no oneDNN int8 here"
)
def test_copies_of_int8_layers_stay_what_they_are(monkeypatch):
    monkeypatch.setattr(compiling, "has_compiler", lambda device: False)
    model, wav = convert(small_model(), "int8"), tone(20000)
    assert torch.equal(compiled(model).restore(wav), model.restore(wav))
