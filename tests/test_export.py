"""Exported programs give the model's numbers, in onnxruntime and in torch, whole and live."""

import json
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import small_model, tone

from apollo_plugin import Apollo, checkpoints, export
from apollo_plugin.cli import export as cli_export
from apollo_plugin.cli.export import main
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.demo import mixture
from apollo_plugin.errors import install
from apollo_plugin.export import ExportError, difference
from apollo_plugin.network.exportable import WholeSignal
from apollo_plugin.network.filterbank import ApolloSTFT
from apollo_plugin.network.fourier import Fourier
from apollo_plugin.network.highs.exportable import stream_step
from apollo_plugin.network.highs.noise import NOISE_PERIOD
from apollo_plugin.network.lean import lean

DOCS = (Path(__file__).parent.parent / "docs" / "export.md").read_text()
VARIANTS = {
    "published": dict(),
    "residual": dict(residual=True, band_gain=True),
    "causal": dict(causal=True, residual=True),
    "paper's bands": dict(bands="160 Hz", kernel_size=3),
    "no context": dict(kernel_size=1, tcn_blocks=1),
    "all that is not published": dict(
        residual=True,
        band_gain=True,
        bands=[5] * 20 + [18] * 19,
        excitation=True,
        envelope_dim=176,
    ),
    "the envelope path waits": dict(
        residual=True, band_gain=True, kernel_size=45, excitation=True, envelope_dim=176
    ),
    "causal, with an envelope": dict(
        residual=True, band_gain=True, causal=True, excitation=True, envelope_dim=176
    ),
}


def model_of(variant, onnx_operators=False):
    model = small_model(n_layers=1, **VARIANTS[variant])
    with torch.no_grad():  # what starts from zeros is to make a difference too
        for parameter in model.parameters():
            if not parameter.any():
                parameter.uniform_(-0.02, 0.02)
    if onnx_operators:
        lean(model)
    return model


# ------------------------------------------------------------------------- the modules themselves


@torch.no_grad()
@pytest.mark.parametrize("size", [882, 960, 160, 441, 97, 8])
def test_small_dfts_are_the_fft(size):
    bank = ApolloSTFT(size, size, bands=2)
    fourier = Fourier(bank)
    wav = torch.randn(2, 3, size, dtype=torch.float64)
    expected = torch.view_as_real(torch.fft.rfft(wav * bank.hann(wav)))
    assert (fourier.spectrum(wav.float()) - expected).abs().max() < 1e-6 * size
    spec = torch.randn(2, 3, bank.n_bins, dtype=torch.complex128)
    expected = torch.fft.irfft(spec, n=size) * bank.hann(wav)
    assert (fourier.frames(torch.view_as_real(spec).float()) - expected).abs().max() < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("onnx_operators", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_signal_is_the_model(variant, onnx_operators):
    model, program = model_of(variant), WholeSignal(model_of(variant, onnx_operators))
    for n_samples in (442, 4410, 9000):
        wav = tone(n_samples)
        wav[:, 2000:4500] = 0
        assert (program(wav) - model(wav)).abs().max() < 2e-5


@torch.no_grad()
@pytest.mark.parametrize("sample_rate", [8000, 22050, 48000])
def test_other_rates_and_windows_of_odd_length(sample_rate):
    wav = tone(6000)
    model = small_model(n_layers=1, sample_rate=sample_rate, bands=20)
    assert (WholeSignal(model)(wav) - model(wav)).abs().max() < 2e-6


def stream(step, wav, sizes):
    """Runs a whole signal through the step in pieces of so many hops."""
    hop, n_samples = step.hop, wav.shape[1]
    n_frames = 1 + n_samples // hop
    padded = np.pad(wav.numpy(), ((0, 0), (0, n_frames * hop - n_samples)), "reflect")
    hops = torch.from_numpy(padded).unflatten(1, (-1, hop))
    hops = torch.nn.functional.pad(hops, (0, 0, 0, step.delay))
    state, parts = list(step.initial_state(len(wav)).values()), []
    while hops.shape[1]:
        out, *state = step(hops[:, : sizes[0]], torch.tensor(n_frames), *state)
        parts.append(out)
        hops, sizes = hops[:, sizes[0] :], sizes[1:] + sizes[:1]
    restored = torch.cat(parts, 1).flatten(1)
    assert not restored[:, : step.delay * hop].any()
    return restored[:, step.delay * hop :][:, :n_samples]


@torch.no_grad()
@pytest.mark.parametrize(
    "variant, n_samples, sizes",
    [
        *((variant, 6001, [1, 3, 2]) for variant in VARIANTS),
        ("all that is not published", 30001, [5]),
        ("residual", 882, [1]),
        ("residual", 4410, [1]),
        ("causal", 4411, [99]),
    ],
)
def test_steps_are_the_model(variant, n_samples, sizes):
    model, wav = model_of(variant), tone(n_samples)
    wav[:, 3000:4500] = 0
    for onnx_operators in (False, True):
        step = stream_step(model_of(variant, onnx_operators))
        assert (stream(step, wav, sizes) - model(wav)).abs().max() < 2e-5


@torch.no_grad()
def test_the_latency_is_the_streamers():
    for variant in VARIANTS:
        model = model_of(variant)
        step = stream_step(model)
        # A hop has to be whole before it goes in.
        assert step.delay * step.hop + step.hop == model.latency
        state = step.initial_state(1)
        shapes = [value.shape for value in state.values()]
        _, *new = step(torch.zeros(1, 5, step.hop), torch.tensor(2**40), *state.values())
        assert [value.shape for value in new] == shapes


@torch.no_grad()
def test_counters_narrowed_to_32_bits_mean_the_same():
    """As OpenVINO narrows them: 2 ** 40 becomes 0."""
    step = stream_step(model_of("all that is not published"))
    state = step.initial_state(2)
    state = {name: value + 0.1 for name, value in state.items()} | {"frame": torch.tensor(5000)}
    wav = tone(4 * step.hop).unflatten(1, (4, step.hop))
    outs = [
        step(wav, torch.tensor(end), *state.values()) for end in (2**40, 0, -1, 2**31 - 1, 5004)
    ]
    for out in outs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(out, outs[0]))
    ended = step(wav, torch.tensor(5000 - step.delay), *state.values())
    assert not ended[0].any() and outs[0][0].abs().amin((0, 2)).all()


@torch.no_grad()
def test_a_stream_of_months_goes_on_as_one_of_hours():
    """The counter goes back by a multiple of the noise's period, before it leaves 31 bits."""
    step = stream_step(model_of("all that is not published"))
    wav, results = tone(6 * step.hop).unflatten(1, (2, 3, step.hop)), []
    for frame in (2**29 - 2, NOISE_PERIOD - 2):
        state = step.initial_state(2) | {"frame": torch.tensor(frame)}
        out, *new = step(wav[:, 0], torch.tensor(2**40), *state.values())
        assert 0 < new[0] < 2**29
        results.append((out, *step(wav[:, 1], torch.tensor(2**40), *new)))
    for index, (one, other) in enumerate(zip(*results)):
        if index != 2:  # the counter itself
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


# ----------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folder of a small checkpoint in half precision with its exports, and the command's words."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="the extra `export` is not installed")
    folder, said = tmp_path_factory.mktemp("exported"), StringIO()
    checkpoints.save(model_of("all that is not published").half(), folder / "tiny.safetensors")
    with redirect_stdout(said):
        assert main([str(folder / "tiny.safetensors"), "-o", str(folder)]) == 0
    return folder, said.getvalue()


def test_a_steps_shapes_are_constants_but_where_two_sizes_are_open(exported):
    """All operators count where a hop is short: the sum of those that only put shapes together."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(exported[0] / "tiny_stream.onnx").graph
    constants = {tensor.name for tensor in graph.initializer}
    shapes = [node.input[1] for node in graph.node if node.op_type == "Reshape"]
    assert len(shapes) > 40 and sum(name in constants for name in shapes) > 0.8 * len(shapes)


@pytest.mark.parametrize("causal", [False, True])
def test_only_what_waits_is_a_state(causal):
    model = Apollo.from_pretrained("apollo-small" + "-streaming" * causal)
    waits = {"spectrum", "tokens", "log_gain"} & stream_step(model).shapes().keys()
    assert waits == (set() if causal else {"spectrum", "tokens"}) and bool(model.n_ahead) != causal


@pytest.mark.parametrize("runtime", ["openvino", "onnx.reference"])
def test_other_runtimes_come_to_the_same_samples(runtime, exported):
    library = pytest.importorskip(runtime, reason=f"{runtime} is not installed")
    folder, _ = exported
    path = folder / "tiny_stream.onnx"
    step = stream_step(Apollo.from_pretrained(folder / "tiny.safetensors"))
    state = step.initial_state(2)
    wav = torch.randn(2, 4, step.hop, generator=torch.Generator().manual_seed(0))
    state["frame"] = torch.tensor(NOISE_PERIOD - 2)
    state = {name: value + 1 for name, value in state.items()}
    values = (wav, torch.tensor(2**40), *state.values())
    inputs = dict(zip(("wav", "end", *state), (value.numpy() for value in values)))
    if runtime == "openvino":
        compiled = library.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = [*compiled(inputs).values()]
    else:
        found = library.ReferenceEvaluator(str(path)).run(None, inputs)
    with torch.no_grad():
        expected = step(*values)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4, rtol=1e-4)
    assert np.abs(found[0] - expected[0].numpy()).max() < 1e-5


def test_torch_export(tmp_path):
    model, kind = model_of("causal"), "stream"
    path = tmp_path / "folder" / "model.pt2"
    assert export.export(model, path, kind, "torch") < export.TOLERANCE
    extra = {"apollo": ""}
    torch.export.load(path, extra_files=extra)
    info = json.loads(extra["apollo"])
    assert info["kind"] == kind and (info["hop"], info["window"]) == (441, 882)
    assert [p.name for p in path.parent.iterdir()] == ["model.pt2"]
    # The comparison tells this model from another.
    torch.manual_seed(1)
    torch.nn.init.normal_(model.decoders[0][-1].weight)
    assert difference(model, path, kind) > export.TOLERANCE
    other = model_of("the envelope path waits")
    assert export.export(other, tmp_path / "waits.pt2", kind, "torch") < export.TOLERANCE


def test_apollo_export_and_the_documented_example(exported, tmp_path, monkeypatch, capsys):
    """The command, then every snippet of docs/export.md, on a real MP3."""
    folder, said = exported
    tiny_checkpoint = folder / "tiny.safetensors"
    import onnx

    coded = mp3(torch.from_numpy(mixture(1.5, seed=3)), kbps=32)[:, :60001]
    soundfile.write(tmp_path / "song.wav", coded.T.numpy(), 44100, "PCM_16")
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert said.count("within") == 2 and "tiny_stream.onnx" in said
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", DOCS, re.S)
    assert len(snippets) == 3
    names: dict = {}
    for snippet in snippets:
        snippet = snippet.replace("apollo-small", "tiny")
        exec(compile(snippet, "export.md", "exec"), names)
    model = Apollo.from_pretrained(tiny_checkpoint)
    wav = torch.from_numpy(names["wav"])
    with torch.no_grad():
        assert np.abs(names["restored"] - model(wav).numpy()).max() < 1e-4
    written, rate = soundfile.read("restored.wav", dtype="float32")
    assert rate == 44100 and np.abs(written.T - names["restored"]).max() < 1e-4
    assert names["info"]["latency"] == model.latency
    assert names["info"]["model_args"] == model.get_model_args()
    # Weights of half precision are stored as such.
    types = {"float32": 0, "float16": 0}
    for tensor in onnx.load("tiny_stream.onnx").graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        types[str(value.dtype)] = types.get(str(value.dtype), 0) + value.size
    n_weights = sum(parameter.numel() for parameter in model.parameters())
    assert types["float16"] > 0.95 * n_weights and types["float32"] < 50000
    # What is there is kept.
    assert main([str(tiny_checkpoint), "-o", str(tmp_path), "--kind", "whole"]) == 1
    assert "is there already and kept" in capsys.readouterr().err


# ------------------------------------------------------------------------------------- bad input


def test_windows_of_odd_length_have_no_exported_step(tmp_path):
    model = small_model(n_layers=1, sample_rate=22050)
    with pytest.raises(ExportError, match="window of 441 samples .* is no two hops"):
        export.export(model, tmp_path / "a.pt2", "stream", "torch")
    assert not list(tmp_path.iterdir())


def test_a_program_that_differs_is_not_written(tmp_path, monkeypatch):
    """This one does not; it is told that it does."""
    real, found = export._outputs, []

    def outputs(*given):
        found.extend(real(*given))
        return np.full((2, 9), np.nan), np.zeros((2, 9))

    monkeypatch.setattr(export, "_outputs", outputs)
    with pytest.raises(ExportError, match="would differ from the model by nan; not written"):
        export.export(model_of("no context"), tmp_path / "a.pt2", "whole", "torch")
    assert not list(tmp_path.iterdir())
    assert np.abs(found[0] - found[1]).max() < export.TOLERANCE < np.abs(found[1]).max()


@pytest.mark.parametrize(
    "precision, error, is_written",
    [
        ("fp32", 1e-4, True),
        ("fp32", 1.01e-4, False),
        ("int8", 10 ** (-10 / 20) * 0.999, True),  # 10 dB below a signal of 1
        ("int8", 10 ** (-10 / 20) * 1.001, False),
    ],
)
def test_how_far_a_program_may_differ(tmp_path, monkeypatch, precision, error, is_written):
    """The largest difference in fp32, the SNR in int8."""
    path = tmp_path / "a.onnx"
    monkeypatch.setattr(export, "program", lambda *_, **__: None)
    monkeypatch.setattr(export, "_save_onnx", lambda *given: given[2].write_bytes(b"x"))
    ref = np.tile([1.0, -1.0], (2, 50))
    monkeypatch.setattr(export, "_outputs", lambda *_: (ref + error, ref))
    model = model_of("causal")
    if is_written:
        assert export.export(model, path, precision=precision) == pytest.approx(error)
        assert export.difference(model, path, "whole") == pytest.approx(error)
        assert export.snr(model, path, "whole") == pytest.approx(-20 * np.log10(error))
    else:
        with pytest.raises(ExportError, match=f"differ from the model by {error:.2g}; not"):
            export.export(model, path, precision=precision)
    assert path.exists() == is_written


def test_what_hosts_are_told(tmp_path):
    model = model_of("all that is not published")
    whole, stream_ = (export.metadata(model, kind) for kind in export.KINDS)
    assert whole == dict(
        kind="whole",
        sample_rate=44100,
        window=882,
        hop=441,
        model_args=model.get_model_args(),
        origin=model.origin,
    )
    state = stream_.pop("state")
    # Beside the hop that has to be whole before it goes in.
    late = dict(latency=model.latency, delay_hops=model.latency // 441 - 1)
    assert stream_ == {**whole, "kind": "stream", **late}
    initial = stream_step(model).initial_state(1)
    assert state == {name: list(value.shape) for name, value in initial.items()}


def test_weights_that_half_precision_holds_are_stored_in_it():
    """From 64 on: smaller ones are not worth a cast."""
    onnx = pytest.importorskip("onnx", reason="the extra `export` is not installed")
    values = {
        "small": np.ones(63, np.float32),
        "whole": np.ones(64, np.float32),
        "fine": np.full(64, 1.0001, np.float32),
        "large": np.full(64, 1e6, np.float32),
        "counts": np.ones(64, np.int64),
    }
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    node = onnx.helper.make_node("Identity", ["whole"], ["y"])
    node.metadata_props.add(key="a", value="b")
    graph = onnx.helper.make_graph([node], "g", [], [], tensors)
    model = onnx.helper.make_model(graph)
    export._slim(model)
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds.pop("whole_half") == onnx.TensorProto.FLOAT16
    assert (
        set(kinds) == values.keys() - {"whole"} and onnx.TensorProto.FLOAT16 not in kinds.values()
    )
    cast, node = model.graph.node
    assert (cast.op_type, *cast.input, *cast.output) == ("Cast", "whole_half", "whole")
    assert cast.attribute[0].i == onnx.TensorProto.FLOAT and not node.metadata_props


@pytest.mark.parametrize(
    "options, names, words",
    [
        ([], ["a.onnx", "a_stream.onnx"], "within 1e-05 of the model"),
        (["--kind", "stream", "--format", "torch"], ["a_stream.pt2"], "within 1e-05 of the model"),
        (["--precision", "int8", "--kind", "whole"], ["a_int8.onnx"], "33.5 dB SNR to the model"),
    ],
)
def test_what_the_command_tells_of_its_files(tmp_path, monkeypatch, capsys, options, names, words):
    asked = []

    def write(model, path, *how):
        asked.append((path.name, *how))
        path.write_bytes(bytes(1_260_000))
        return 1.23e-5

    monkeypatch.setattr(export, "export", write)
    monkeypatch.setattr(export, "snr", lambda *_: 33.46)
    checkpoints.save(model_of("causal"), tmp_path / "a.safetensors")
    assert main([str(tmp_path / "a.safetensors"), "-o", str(tmp_path), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{tmp_path / name}  (1.3 MB, {words})" for name in names]
    kinds = ["stream" if "stream" in name else "whole" for name in names]
    format, precision = "torch" if "torch" in options else "onnx", ("fp32", "int8")[
        "int8" in options
    ]
    assert asked == [(name, kind, format, precision) for name, kind in zip(names, kinds)]


@pytest.mark.parametrize(
    "kind, format, message",
    [
        ("half", "torch", "unknown kind 'half'; known: whole"),
        ("whole", "tf", "unknown format 'tf'"),
    ],
)
def test_unknown_words(kind, format, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export.export(model_of("causal"), tmp_path / "a", kind, format)


@pytest.mark.parametrize("options", [("--precision", "int8"), ("--kind", "stream")])
def test_the_published_layout_has_neither_kinds_nor_precisions(options, tmp_path, capsys):
    """They were ignored."""
    with pytest.raises(SystemExit) as caught:
        main(["apollo-small", "-o", str(tmp_path), "--format", "published", *options])
    assert caught.value.code == 2
    assert f"--format published takes no {options[0]}" in capsys.readouterr().err


def test_a_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ExportError, match=re.escape(f"ONNX needs onnx: {install('export')}")):
        export.export(model_of("causal"), tmp_path / "a.onnx")


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "below"
    assert main(["apollo-small", "-o", str(out), "--kind", "whole", "--format", "torch"]) == 1
    error = capsys.readouterr().err
    assert "cannot be written: Not a directory" in error and error.count("\n") == 1


def test_an_unknown_checkpoint(capsys):
    assert main(["nothing"]) == 1
    assert capsys.readouterr().err.startswith("apollo-export: no checkpoint 'nothing'")


@pytest.mark.parametrize("kind", export.KINDS)
def test_int8_weights(kind, tmp_path, capsys):
    """A quarter of the bytes of the products, and its SNR told truly."""
    import onnx

    model = small_model(n_layers=1, tcn_blocks=1, feature_dim=64, n_heads=4, bands=20)
    checkpoints.save(model, tmp_path / "a.safetensors")
    options = [str(tmp_path / "a.safetensors"), "-o", str(tmp_path), "--kind", kind]
    assert main([*options, "--precision", "int8"]) == 0
    (path,) = tmp_path.glob("a_int8*.onnx")
    told = float(re.search(r"([\d.]+) dB SNR to the model", capsys.readouterr().out)[1])
    assert told == pytest.approx(export.snr(model, path, kind), abs=0.06) and told > 20
    graph = onnx.load(path).graph
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert any(node.op_type == "MatMulInteger" for node in graph.node)
    # What the graph itself takes is in it, too.
    assert path.stat().st_size < 4 * sum(parameter.numel() for parameter in model.parameters())


def test_precisions_that_are_none(tmp_path):
    for options in (dict(precision="int4"), dict(precision="int8", format="torch")):
        with pytest.raises(ExportError, match="fp32, or int8 of onnx"):
            export.export(small_model(n_layers=1), tmp_path / "a.bin", **options)
    assert cli_export.PRECISIONS == export.PRECISIONS
