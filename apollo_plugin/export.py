"""Export of models to ONNX and ``torch.export``, for use without this package.

There are two programs: the whole signal, and the streaming step with its state as inputs and
outputs.
"""

import copy
import json
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .data.codecs import mp3
from .data.demo import mixture
from .errors import ExportError, install
from .files import atomic_write
from .model import Apollo
from .network.exportable import WholeSignal
from .network.highs.exportable import stream_step
from .network.lean import lean

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
KINDS = ("whole", "stream")
PRECISIONS = ("fp32", "int8")
# Largest difference of an exported program from the model, full scale 1.0.
TOLERANCE = 1e-4
# Least SNR of an int8 program in dB; less is an error of the quantization.
_LEAST_SNR = 10.0
# The first opset with attention and rotary embedding.
_OPSET = 23
# Size of a weight below which half precision is not worth a cast.
_LEAST_HALVED = 64


def metadata(model: Apollo, kind: str) -> dict[str, Any]:
    """Metadata for a host: rate, sizes in samples, the state's shapes, the checkpoint's name."""
    bank = model.filterbank
    info = {
        "kind": kind,
        "sample_rate": int(model.sample_rate),
        "window": bank.kernel_size,
        "hop": bank.stride,
        "model_args": model.get_model_args(),
        "origin": model.origin,
    }
    if kind == "stream":
        step = stream_step(model)
        shapes = {name: list(value.shape) for name, value in step.initial_state(1).items()}
        # Of one stream; the first axis is that of streams.
        info.update(latency=model.latency, delay_hops=step.delay, state=shapes)
    return info


def program(model: Apollo, kind: str, onnx_operators: bool = False) -> torch.export.ExportedProgram:
    """The ``torch.export`` program of a model, for any number of streams and any length.

    Args:
        model: an Apollo.
        kind: ``"whole"`` for :class:`WholeSignal`, ``"stream"`` for its :func:`stream_step`.
        onnx_operators: use ONNX's own operators if they are faster there, see
            :mod:`apollo_plugin.network.lean`.

    Raises:
        ExportError: for a model that cannot be exported.
    """
    if kind not in KINDS:
        raise ExportError(f"unknown kind '{kind}'; known: {', '.join(KINDS)}")
    model = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    if onnx_operators:
        lean(model)
    streams = torch.export.Dim("streams", min=1)
    if kind == "whole":
        module: nn.Module = WholeSignal(model)
        arguments: tuple = (torch.zeros(2, 10 * model.filterbank.kernel_size),)
        n_min = model.filterbank.kernel_size // 2 + 1
        shapes: tuple = ({0: streams, 1: torch.export.Dim.DYNAMIC(min=n_min)},)
    else:
        module = stream_step(model)
        state = module.initial_state(2)
        arguments = (torch.zeros(2, 4, module.hop), torch.tensor(0), *state.values())
        first = {0: streams}
        hops = torch.export.Dim.DYNAMIC(min=1)
        shapes = ({0: streams, 1: hops}, None, None, (first,) * (len(state) - 1))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Guards on time // hop that torch's solver cannot prove are checked at run time.
        return torch.export.export(
            module,
            arguments,
            dynamic_shapes=shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def export(
    model: Apollo,
    path: str | os.PathLike,
    kind: str = "whole",
    format: str = "onnx",
    precision: str = "fp32",
) -> float:
    """Write a program atomically, after it has been run and compared with the model.

    Metadata are a JSON text under ``"apollo"``: in the ONNX file's metadata, or in the extra files
    of ``torch.export.load(path, extra_files={"apollo": ""})``.

    Args:
        model: an Apollo.
        path: of the file.
        kind: ``"whole"`` or ``"stream"``.
        format: ``"onnx"`` or ``"torch"``.
        precision: ``"fp32"``, or ``"int8"`` for the weights of ONNX's matrix products, by
            onnxruntime's dynamic quantization; see :func:`snr`.

    Returns:
        the largest difference from the model's output on a second of coded music.

    Raises:
        ExportError: for an unknown kind, format or precision, a missing package, a model that
            cannot be exported, or a program that differs from the model by more than 1e-4 (in
            int8: whose SNR is below 10 dB).
    """
    if format not in FORMATS:
        raise ExportError(f"unknown format '{format}'; known: {', '.join(FORMATS)}")
    if precision not in PRECISIONS or (precision == "int8" and format != "onnx"):
        raise ExportError(f"precision '{precision}' is none of {format}; fp32, or int8 of onnx")
    if format == "onnx":
        try:
            import onnx, onnxruntime, onnxscript  # noqa: E401, F401, I001
        except ImportError as error:
            raise ExportError(f"ONNX needs {error.name}: {install('export')}") from error
    path = Path(path)
    try:
        with atomic_write(path, FORMATS[format]) as beside:
            info = metadata(model, kind)
            exported = program(model, kind, onnx_operators=format == "onnx")
            if format == "onnx":
                _save_onnx(exported, info, beside, precision)
            else:
                extra = {"apollo": json.dumps(info)}
                torch.export.save(exported, beside, extra_files=extra)
            est, ref = _outputs(model, beside, kind)
            difference = float(np.abs(est - ref).max())
            if not (
                difference <= TOLERANCE if precision == "fp32" else _snr(est, ref) >= _LEAST_SNR
            ):
                raise ExportError(
                    f"'{path}' would differ from the model by {difference:.2g}; not written"
                )
    except OSError as error:
        raise ExportError(f"'{path}' cannot be written: {error.strerror or error}") from error
    return difference


def _save_onnx(
    exported: torch.export.ExportedProgram, info: dict[str, Any], path: Path, precision: str
) -> None:
    import onnx
    from onnx_ir import passes
    from onnxscript import optimizer
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules import common

    names = ["wav", *(["end", *info["state"]] if info["kind"] == "stream" else ())]
    outs = ["restored", *(f"next_{name}" for name in names[2:])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in ("onnxscript", "torch.onnx"):  # they warn that torchvision is missing
            logging.getLogger(logger).setLevel(logging.ERROR)
        written: Any = torch.onnx.export(
            exported,
            input_names=names,
            output_names=outs,
            dynamo=True,
            verbose=False,
            opset_version=_OPSET,
            optimize=False,
        )
    # The exporter's own optimization treats terms up to 1e-8 as zeros and removes them.
    passes.common.InlinePass()(written.model)
    optimizer.fold_constants(written.model)
    _fix_shapes(written.model)
    rewrite(written.model, pattern_rewrite_rules=[common.max_min_rule])
    optimizer.remove_unused_nodes(written.model)
    passes.common.LiftConstantsToInitializersPass(True, size_limit=0)(written.model)
    passes.common.DeduplicateInitializersPass()(written.model)
    passes.common.CommonSubexpressionEliminationPass()(written.model)
    proto = written.model_proto
    if precision == "int8":
        proto = _quantized(proto)
    _slim(proto)
    onnx.helper.set_model_props(proto, {"apollo": json.dumps(info)})
    onnx.save(proto, path)


def _quantized(proto: Any) -> Any:
    """Quantize the weights of matrix products to 8 bits, with a scale per column; inputs are
    quantized dynamically. To be called before weights are stored in half precision: products after
    a cast are not quantized. Stacked matrices stay, for which onnxruntime has no kernel, and so do
    the Fourier transform's, which are constants."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kept = {
        tensor.name
        for tensor in proto.graph.initializer
        if len(tensor.dims) > 2 or not tensor.name.startswith("model.")
    }
    # Some exporters give stacked matrices' views a shape that onnx finds to be another.
    del proto.graph.value_info[:]
    logging.getLogger().addFilter(_quiet)
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "int8.onnx"
            quantize_dynamic(
                proto,
                target,
                per_channel=True,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_exclude=[node.name for node in proto.graph.node if kept & set(node.input)],
            )
            return onnx.load(target)
    finally:
        logging.getLogger().removeFilter(_quiet)


def _quiet(record: logging.LogRecord) -> bool:
    """Filter out onnxruntime's advice to preprocess."""
    return "pre-processing" not in record.getMessage()


# Operators that give the same values another shape.
_VIEWS = ("Reshape", "Squeeze", "Unsqueeze")


def _fix_shapes(model: Any) -> None:
    """Write shapes of reshaped tensors as constants, which the exporter puts together from the
    numbers of streams and hops at each call: a size that stays where it is is 0, a single other one
    -1. What is reshaped twice is reshaped once. A hop has so many operators that their number is
    its time."""
    import onnx_ir

    for node in model.graph:
        if node.op_type != "Reshape" or node.outputs[0].shape is None:
            continue
        source = node.inputs[0]
        while (before := source.producer()) and before.op_type in _VIEWS:
            source = before.inputs[0]
        if source.shape is None:
            continue
        old, new = ([*value.shape] for value in (source, node.outputs[0]))
        sizes = [
            size if isinstance(size, int) else 0 if old[place : place + 1] == [size] else -1
            for place, size in enumerate(new)
        ]
        if old == new and not node.outputs[0].is_graph_output():
            node.outputs[0].replace_all_uses_with(source)
        elif sizes.count(-1) < 2:
            shape = onnx_ir.val(f"{node.name}_shape", const_value=onnx_ir.tensor(sizes))
            model.graph.register_initializer(shape)
            node.replace_input_with(0, source)
            node.replace_input_with(1, shape)
            node.attributes.pop("allowzero", None)  # by which a 0 would be one


def _slim(proto: Any) -> None:
    """Store weights whose values fit half precision, as in most checkpoints, as such; runtimes cast
    them when they load. The exporter's notes on nodes are removed."""
    import onnx

    casts = []
    for tensor in proto.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if half.size < _LEAST_HALVED or not np.array_equal(half, values):
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}_half"))
        casts.append(
            onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*proto.graph.node]
    for node in nodes:
        del node.metadata_props[:]
    del proto.graph.node[:]
    proto.graph.node.extend(casts + nodes)


def difference(model: Apollo, path: str | os.PathLike, kind: str) -> float:
    """Largest absolute difference of an exported program's output from the model's, on 1 s of
    stereo music coded as MP3; the streaming step gets it in pieces of 1 to 29 hops."""
    est, ref = _outputs(model, path, kind)
    return float(np.abs(est - ref).max())


def snr(model: Apollo, path: str | os.PathLike, kind: str) -> float:
    """Signal-to-noise ratio in dB of a program's output to the model's, on the same music."""
    return _snr(*_outputs(model, path, kind))


def _snr(est: np.ndarray, ref: np.ndarray) -> float:
    est, ref = est.astype(np.float64), ref.astype(np.float64)
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(np.square(ref).sum() / np.square(est - ref).sum()))


def _outputs(model: Apollo, path: str | os.PathLike, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A program's output and the model's."""
    rate = round(model.sample_rate)
    # Uncoded music would be left unchanged. MP3 has few rates; any is treated as 44.1 kHz here.
    music = torch.from_numpy(mixture(1.0, seed=7, sample_rate=rate)[:, : rate - 77])
    wav = mp3(music, kbps=32).numpy()
    run = _runner(Path(path))
    model = copy.deepcopy(model).float().cpu()
    with torch.no_grad():
        expected = model(torch.from_numpy(wav)).numpy()
    if kind == "whole":
        (restored,) = run({"wav": wav})
        return restored, expected
    step = stream_step(model)
    hop, n_samples = step.hop, wav.shape[1]
    n_frames = 1 + n_samples // hop
    padded = np.pad(wav, ((0, 0), (0, n_frames * hop - n_samples)), "reflect")
    hops = np.pad(padded.reshape(2, -1, hop), ((0, 0), (0, step.delay), (0, 0)))
    state = {name: value.numpy() for name, value in step.initial_state(2).items()}
    parts, start = [], 0
    while start < hops.shape[1]:
        piece = np.ascontiguousarray(hops[:, start : start + 1 + start % 29])
        out, *new = run({"wav": piece, "end": np.array(n_frames), **state})
        state = dict(zip(state, new))
        parts.append(out)
        start += piece.shape[1]
    restored = np.concatenate(parts, 1).reshape(2, -1)[:, step.delay * hop :][:, :n_samples]
    return restored, expected


def _runner(path: Path):
    if path.suffix == FORMATS["onnx"]:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.export.load(path).module()

    @torch.no_grad()
    def run(inputs):
        out = loaded(*(torch.from_numpy(np.asarray(value)) for value in inputs.values()))
        return [part.numpy() for part in (out if isinstance(out, tuple) else (out,))]

    return run
