"""The exported streaming step, run by onnxruntime: for files and streams, without PyTorch."""

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, check_time_is_last, one_line
from ..files import sha256
from .protocol import INPUT_PEAK, Progress, Wav, check_block, scaled

# Memory of the activations of one call, which fits into caches. For apollo-small that is 50 hops of
# stereo, the fastest of 25 to 200; for the full size 12, the fastest of 10 to 25.
_CALL_BYTES = 2 << 20
# Seconds of signal between progress reports, at which threads wait for each other.
_BLOCK_SECONDS = 1.0
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
# Number of frames of a signal whose end is unknown.
_ENDLESS = 2**30
_KEYS = ("sample_rate", "window", "hop", "latency", "delay_hops", "state", "model_args")


class OnnxEngine:
    """A streaming step exported by ``apollo-export --kind stream``; see
    :class:`~apollo_plugin.engine.protocol.Engine`.

    Each thread computes channels of its own and never waits inside a matrix product.

    Args:
        path: of the ONNX file.
        n_threads: number of channels of a file computed at a time; streams give each thread two.

    Raises:
        CheckpointError: if the file is missing, damaged or something else.
    """

    name, device = "onnx", "cpu"

    def __init__(self, path: str | os.PathLike, n_threads: int = 1):
        import onnxruntime

        self._n_threads = max(1, n_threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
            text = session.get_modelmeta().custom_metadata_map.get("apollo", "{}")
            info = json.loads(text)
        except Exception as error:  # onnxruntime has a class for each error code
            raise CheckpointError(f"'{path}' cannot be loaded: {one_line(error, 200)}") from error
        if info.get("kind") != "stream" or not all(key in info for key in _KEYS):
            raise CheckpointError(
                f"'{path}' is no streaming step of apollo-export; apollo-export --kind stream "
                "writes one"
            )
        self._session = session
        _, end, *self._state = session.get_inputs()
        self._end_type: Any = _TYPES[end.type]
        arguments = info["model_args"]
        self.sample_rate, self.hop = int(info["sample_rate"]), int(info["hop"])
        self.latency, self.delay = int(info["latency"]), int(info["delay_hops"])
        self.adds = bool(arguments.get("residual"))
        self.input_peak = arguments.get("input_peak", INPUT_PEAK)
        self.origin = info.get("origin") or f"{Path(path).name} (sha256 {sha256(path)[:16]})"
        self.n_bytes = 2 * os.path.getsize(path)
        self._frame_bytes = 4 * math.prod(info["state"]["context_0"][2:])

    def restore(self, wav: Wav, level: float = 1.0, progress: Progress | None = None) -> Wav:
        """See :meth:`.protocol.Engine.restore`."""
        wav = np.asarray(wav, np.float32)
        if wav.ndim != 2 or wav.size == 0:
            raise ValueError(f"wav of shape {wav.shape} holds no samples (channels, time)")
        check_time_is_last(wav.shape)
        n_samples, n_block = wav.shape[1], round(_BLOCK_SECONDS * self.sample_rate)
        restored, done = np.empty_like(wav, order="C"), 0
        stream = OnnxStream(self, len(wav), self._n_threads)
        for begin in range(0, n_samples, n_block):
            end = min(begin + n_block, n_samples)
            parts = [stream.feed(wav[:, begin:end] / level)]
            if end == n_samples:
                parts.append(stream.flush())
            for part in parts:
                here = slice(done, done + part.shape[1])
                restored[:, here] = scaled(wav[:, here], part, level, self.adds)
                done = here.stop
            if progress:
                progress("restoring", end / self.sample_rate, n_samples / self.sample_rate)
        return restored

    def stream(self, n_channels: int) -> "OnnxStream":
        """See :meth:`.protocol.Engine.stream`."""
        # A single thread for stereo, so that the other cores of a live chain are free.
        return OnnxStream(self, n_channels, min(self._n_threads, n_channels // 2))

    def initial_state(self, n_streams: int) -> list[np.ndarray]:
        """Zeros as the state at the beginning of a signal, in the order of the step's inputs."""
        state = []
        for each in self._state:
            shape = [size if isinstance(size, int) else n_streams for size in each.shape]
            state.append(np.zeros(shape, _TYPES[each.type]))
        return state

    def step(
        self, hops: np.ndarray, state: list[np.ndarray], n_frames: int | None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run the step on any number of hops, in calls whose activations fit into caches.

        Args:
            hops: float32 ``(streams, hops, hop)``.
            state: after the previous hops.
            n_frames: of the whole signal; None while unknown.

        Returns:
            as many restored hops, delayed by :attr:`delay` hops, and the state.
        """
        end = _ENDLESS if n_frames is None else n_frames
        most, parts = max(1, _CALL_BYTES // (len(hops) * self._frame_bytes)), []
        names = [each.name for each in self._state]
        for begin in range(0, hops.shape[1], most):
            call = np.ascontiguousarray(hops[:, begin : begin + most])
            given = {"wav": call, "end": np.array(end, self._end_type)}
            out, *state = self._session.run(None, {**given, **dict(zip(names, state))})
            parts.append(out)
        return (parts[0] if len(parts) == 1 else np.concatenate(parts, 1)), state


class OnnxStream:
    """A live signal; see :class:`~apollo_plugin.engine.protocol.Stream`.

    Args:
        engine: runs the step.
        n_channels: of the signal.
        n_threads: among which the channels are divided.
    """

    def __init__(self, engine: OnnxEngine, n_channels: int, n_threads: int = 1):
        if n_channels < 1:
            raise ValueError(f"n_channels {n_channels} has to be 1 or more")
        groups = np.array_split(np.arange(n_channels), max(1, min(n_threads, n_channels)))
        self._groups = [slice(group[0], group[-1] + 1) for group in groups]
        # The caller's thread takes the first group: one thread less to wake.
        self._pool = ThreadPoolExecutor(len(groups) - 1) if len(groups) > 1 else None
        self._engine, self._n_channels = engine, n_channels
        self.latency = engine.latency
        self._begin()

    def _begin(self) -> None:
        sizes = [group.stop - group.start for group in self._groups]
        self._states = [self._engine.initial_state(size) for size in sizes]
        # Samples that do not fill a hop yet, and the newest ones, for the reflection at the end.
        self._rest = self._newest = np.empty((self._n_channels, 0), np.float32)
        self._n_in = self._n_out = 0
        self._n_early = self._engine.delay  # hops of zeros to drop at the start

    def feed(self, block: Wav) -> Wav:
        """See :meth:`.protocol.Stream.feed`."""
        check_block(block, self._n_channels)
        hop = self._engine.hop
        samples = np.concatenate((self._rest, block), 1, dtype=np.float32)
        self._n_in += block.shape[1]
        n = samples.shape[1] // hop * hop
        self._rest = samples[:, n:]
        if n == 0:
            return samples[:, :0]
        whole = samples[:, :n]
        self._newest = np.concatenate((self._newest, whole[:, -hop - 1 :]), 1)[:, -hop - 1 :]
        return self._run(whole, None)

    def flush(self) -> Wav:
        """See :meth:`.protocol.Stream.flush`."""
        hop, n_in, n_out = self._engine.hop, self._n_in, self._n_out
        if n_in == 0:
            return self._rest
        n_frames = 1 + n_in // hop
        end = np.concatenate((self._newest, self._rest), 1)
        # Reflect the end, repeatedly if the signal is short, and flush the delayed hops.
        period = max(1, 2 * (end.shape[1] - 1))
        place = np.arange(end.shape[1], end.shape[1] + n_frames * hop - n_in) % period
        mirrored = end[:, np.minimum(place, period - place)]
        late = np.zeros((self._n_channels, self._engine.delay * hop), np.float32)
        out = self._run(np.concatenate((self._rest, mirrored, late), 1), n_frames)
        self._begin()
        return out[:, : n_in - n_out]

    def _run(self, samples: Wav, n_frames: int | None) -> Wav:
        hops = samples.reshape(self._n_channels, -1, self._engine.hop)

        def step(group: slice, state: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
            return self._engine.step(hops[group], state, n_frames)

        work = zip(self._groups[1:], self._states[1:])
        others = [self._pool.submit(step, *each) for each in work] if self._pool else []
        first = step(self._groups[0], self._states[0])
        outs, self._states = zip(first, *(other.result() for other in others))
        out = np.concatenate(outs) if len(outs) > 1 else outs[0]
        early = min(self._n_early, out.shape[1])
        self._n_early -= early
        out = out[:, early:].reshape(self._n_channels, -1)
        self._n_out += out.shape[1]
        return out
