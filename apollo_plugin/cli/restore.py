"""``apollo-restore``: restores MP3s and other coded music from the command line."""

import argparse
import os
import signal
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from ..errors import SeparatorError

if TYPE_CHECKING:
    import threading

    from ..model import Apollo
    from ..pipelines import SeparateThenRestore
    from ..restore import Job, Settings

# Anything that imports torch is imported once the arguments are known to be right.

_EPILOG = """\
examples:
  apollo-restore song.mp3                      writes song_restored.wav beside it
  apollo-restore ~/Music/old -o restored       a whole folder, its tree kept
  apollo-restore "takes/*.mp3" --format FLAC   quote globs, or let the shell expand them
  apollo-restore song.mp3 --keep-below 5000    touch nothing under 5 kHz
  apollo-restore song.mp3 --report page.html   a page to hear and see what was done
  apollo-restore --diagnose ~/Music/old        where each file was cut off, if it was
  apollo-restore song.mp3 --stems HDEMUCS_HIGH_MUSDB      vocals, drums ... one by one
  apollo-restore --demo                        hear what it does: needs no file and no network

The output keeps rate, channels and length. It is 32-bit float WAV, which cannot clip, unless
--format says otherwise. Where a folder holds a.mp3 and a.flac, the results are
a.mp3_restored.wav and a.flac_restored.wav. In folders, hidden files and results of before are
left out. Results that exist are kept unless --overwrite is given. A name that begins with a
dash is written ./-name. The exit status is 0 only if every file came out.
"""
_DEMO_SECONDS = 8.0
_DEMO_KBPS = 32
# Beyond the songs that the bundled checkpoint was trained on.
_DEMO_SEED = 1000
_DEMO_FOLDER = "apollo_demo"
# More threads than this would wait for Python's lock.
_MOST_AT_ONCE = 4


class _Stopped(Exception):
    """Ends the work on a file after an interrupt."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if bool(args.inputs) == args.demo or (args.demo and args.stems):
        parser.error(
            "name some files or folders, or --demo" if not args.demo else "--demo is alone"
        )
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs} has to be 1 or more")
    if args.reference and not args.report:
        parser.error("--reference is for --report")
    if args.out and not os.path.isdir(args.out):
        named_like_a_file = args.out.suffix.lower() in (".wav", ".flac", ".mp3", ".ogg", ".aiff")
        if named_like_a_file or os.path.exists(args.out):
            parser.error(f"-o {args.out}: -o takes a folder")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names know more letters than some terminals
            stream.reconfigure(errors="backslashreplace")
    try:
        if argv is None:  # as a command: a polite end cleans up as an interrupt does
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        if args.diagnose:
            return _diagnose(args)
        with warnings.catch_warnings():
            # In one line, without the place in the code.
            warnings.showwarning = lambda message, *_, **__: _say(str(message))
            return _demo(parser, args) if args.demo else _restore(parser, args)
    except KeyboardInterrupt:
        _say("interrupted; what was finished is whole, nothing else was written")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="apollo-restore",
        description="Gives music back what MP3 and other lossy coding took from it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "inputs", nargs="*", metavar="INPUT", help="files, folders (searched to any depth) or globs"
    )
    add("-o", "--out", type=Path, metavar="DIR", help="folder for the results (beside each input)")
    add(
        "--checkpoint",
        default="apollo-small",
        metavar="NAME",
        help="bundled name, file, folder or Hugging Face Hub id (%(default)s)",
    )
    add(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda", "mps"),
        help="where to compute (%(default)s)",
    )
    add(
        "--precision",
        choices=("fp32", "bf16", "int8"),
        help="bf16 and int8 (CPU only) are faster and good to 40 and 30 dB; fp32, on CUDA bf16",
    )
    add(
        "--compile",
        action="store_true",
        help="compile the model first: a minute more at the start, for hours of music on a GPU",
    )
    add(
        "--jobs",
        type=int,
        default=_MOST_AT_ONCE,
        metavar="N",
        help="most files at a time (%(default)s); each is held in memory whole",
    )
    add("--keep-below", type=float, metavar="HZ", help="leave everything under HZ as it came")
    add("--mix", type=float, default=1.0, metavar="0..1", help="0 is as it came, 1 is restored (1)")
    add(
        "--format",
        default="WAV",
        type=str.upper,
        help="WAV, FLAC, AIFF, OGG, MP3, CAF, W64, RF64 or AU (%(default)s)",
    )
    add(
        "--subtype",
        type=str.upper,
        help="FLOAT, PCM_16, PCM_24 ... (FLOAT where the format has it)",
    )
    add(
        "--stems",
        metavar="SEPARATOR",
        help="separate first, restore each stem, write the stems and their remix to a folder: a "
        "torchaudio bundle (HDEMUCS_HIGH_MUSDB), an Asteroid model's Hub id or its file",
    )
    add("--overwrite", action="store_true", help="restore again what is there already")
    add(
        "--report",
        type=Path,
        metavar="PAGE.html",
        help="also write a page to listen to inputs and results side by side",
    )
    add("--reference", type=Path, metavar="FILE", help="the original of the input, for --report")
    add(
        "--diagnose",
        action="store_true",
        help="restore nothing; tell for each file where a codec cut it off",
    )
    add("--demo", action="store_true", help="make a few seconds of music, code and restore them")
    return parser


def _write(line: str, stream: TextIO) -> None:
    """A line that stays one, whatever a file is called, and that nobody has to read."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    try:
        tqdm.write(line, file=stream)
        stream.flush()
    except OSError:  # the reader went away; the work goes on
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _say(line: str) -> None:
    _write(f"apollo-restore: {line}", sys.stderr)


def _load(args: argparse.Namespace) -> "Apollo":
    import torch

    from ..errors import CheckpointError
    from ..memory import keep_freed_memory
    from ..model import Apollo
    from ..network.precision import convert

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    device = args.device
    if device == "auto":
        device = next(name for name, there in available.items() if there)
    elif not available[device]:
        raise CheckpointError(f"this machine has no {device} device; leave --device out")
    keep_freed_memory()
    model = Apollo.from_pretrained(args.checkpoint).to(device)
    precision = args.precision or ("bf16" if device == "cuda" else "fp32")
    try:
        model = convert(model, precision)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if args.compile:
        from ..network.compiling import compiled

        model = compiled(model)
    return model


def _settings(parser: argparse.ArgumentParser, args: argparse.Namespace) -> "Settings":
    from ..restore import Settings

    try:
        return Settings(args.keep_below, args.mix, args.format, args.subtype, args.overwrite)
    except ValueError as error:
        parser.error(str(error))


def _restore(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    from ..data.parallel import each, threads
    from ..errors import CheckpointError
    from ..restore import plan

    settings = _settings(parser, args)
    jobs, problems = plan(args.inputs, args.out, settings)
    for problem in problems:
        _say(problem)
    if args.report:
        from ..errors import AudioError
        from ..report import check_target

        try:
            check_target(args.report, args.overwrite)
            if args.reference and len(jobs) != 1:
                raise AudioError(f"--reference is the original of one file; there are {len(jobs)}")
            if args.reference and not args.reference.is_file():
                raise AudioError(f"reference '{args.reference}' is no file")
        except AudioError as error:
            _say(str(error))
            return 1
    results = {job: _result(job, settings, args.stems) for job in jobs}
    due = [job for job in jobs if settings.overwrite or not os.path.exists(results[job])]
    for job in jobs:
        if job not in due:
            _say(f"'{results[job]}' is there already and kept; --overwrite makes it anew")
    failed = len(problems)
    if due:
        try:
            model = _load(args)
            pipeline = _pipeline(model, args.stems, settings) if args.stems else None
        except CheckpointError as error:
            _say(str(error))
            return 1
        # The compiler of PyTorch does not bear several threads.
        alone = pipeline or args.compile
        n_at_once = 1 if alone else min(args.jobs, _files_at_once(model, len(due)))
        with threads(n_at_once) as (pool, stop):
            work = partial(_restore_one, model, settings, pipeline, results, stop)
            # One file needs no bar over files.
            hidden = None if len(due) > 1 else True
            for _, done in each(pool, work, due, len(due), "files", "file", hidden):
                if isinstance(done, Exception):  # a defect
                    raise done
                failed += not done
    if args.report and not _report(
        args, [(job.source.name, job.source, results[job]) for job in jobs]
    ):
        return 1
    if failed:
        _say(f"{failed} of {len(jobs) + len(problems)} failed")
    return 1 if failed else 0


def _files_at_once(model: "Apollo", n_files: int) -> int:
    """Files that are restored side by side, so that one is read and written while another is
    computed, and cores need not wait for each other: 1.2 times as many songs an hour on two."""
    import torch

    device = next(model.parameters()).device.type
    most = {"cpu": torch.get_num_threads(), "cuda": 2}.get(device, 1)
    return min(n_files, most, _MOST_AT_ONCE)


def _result(job: "Job", settings: "Settings", stems: str | None) -> Path:
    """What is there once a job is done."""
    if not stems:
        return job.target
    from ..pipelines import REMIX, stems_target

    return stems_target(job, settings, REMIX)


def _pipeline(model: "Apollo", name: str, settings: "Settings") -> "SeparateThenRestore":
    from asteroid.models import BaseModel

    from .. import separators
    from ..errors import CheckpointError
    from ..pipelines import SeparateThenRestore

    try:
        separator = separators.load(name).to(next(model.parameters()).device)
        # Asteroid's separators are trained without regard to the level.
        match_level = isinstance(separator.model, BaseModel)
        return SeparateThenRestore(
            separator,
            model,
            match_level=match_level,
            keep_below=settings.keep_below,
            mix=settings.mix,
        )
    except SeparatorError as error:
        raise CheckpointError(str(error)) from error


def _restore_one(
    model: "Apollo",
    settings: "Settings",
    pipeline: "SeparateThenRestore | None",
    results: Mapping["Job", Path],
    stop: "threading.Event",
    job: "Job",
) -> bool:
    from ..errors import AudioError
    from ..pipelines import restore_stems
    from ..restore import restore_file

    if stop.is_set():
        return False
    result = results[job]
    begin = time.perf_counter()
    bar = tqdm(
        unit="s",
        desc=job.source.name,
        leave=False,
        disable=None,
        bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} s of audio [{elapsed}<{remaining}]",
    )

    seconds = 0.0

    def progress(n_done: int, n_total: int) -> None:
        nonlocal seconds
        if stop.is_set():
            raise _Stopped
        seconds += n_done / model.sample_rate
        bar.total = n_total / model.sample_rate
        bar.update(n_done / model.sample_rate)

    step_now = None

    def stem_progress(step: str, n_seconds: float, n_total: float) -> None:
        nonlocal seconds, step_now
        if stop.is_set():
            raise _Stopped
        if step != step_now:
            step_now, seconds = step, n_total
            bar.set_description(f"{job.source.name}, {step}")
            bar.reset(n_total)
        bar.update(n_seconds)

    try:
        if pipeline:
            n_clipped = restore_stems(pipeline, job, settings, stem_progress)
        else:
            n_clipped = restore_file(model, job, settings, progress)
    except _Stopped:
        return False
    except AudioError as error:
        _say(str(error))
        return False
    except (MemoryError, RuntimeError) as error:
        # Out of memory, on the device or off it; anything else is a defect to be reported.
        _say(f"'{job.source}' failed: {' '.join(str(error).split())[:200] or 'out of memory'}")
        return False
    finally:
        bar.close()
    speed = seconds / (time.perf_counter() - begin)
    _write(f"{job.source} -> {result}  ({seconds:.1f} s, {speed:.1f} times real time)", sys.stdout)
    if n_clipped:
        _say(f"'{result}': {n_clipped} samples clipped; float WAV would keep them")
    return True


def _report(args: argparse.Namespace, files: Sequence[tuple[str, Path, Path]]) -> bool:
    """Writes the listening page of (name, input, result) triples; what failed is left out."""
    from .. import report
    from ..errors import AudioError
    from ..metrics import METRICS, unavailable
    from ..report.comparison import compare_files

    metrics = METRICS
    if args.reference:
        missing = unavailable()
        for reason in missing.values():
            _say(reason)
        metrics = tuple(name for name in METRICS if name not in missing)
    restored = [(name, source, target) for name, source, target in files if target.is_file()]
    shown = restored[: report.MAX_ITEMS]
    if len(shown) < len(restored):
        _say(f"the page holds the first {len(shown)} of {len(restored)} files")
    options = {"seconds": report.excerpt_seconds(len(shown)), "metrics": metrics}
    items = []
    for name, source, target in tqdm(
        shown, unit="file", desc="page", disable=None if len(shown) > 1 else True
    ):
        try:
            items.append(compare_files(name, source, target, args.reference, **options))
        except AudioError as error:
            _say(str(error))
    if not items:
        _say(f"'{args.report}' is not written: there is nothing to show")
        return False
    try:
        size = report.write(args.report, items, intro=f"Restored by {args.checkpoint}.")
    except AudioError as error:
        _say(str(error))
        return False
    _write(f"{args.report}  ({len(items)} file(s), {size / 1e6:.1f} MB)", sys.stdout)
    return len(items) == len(shown)


def _diagnose(args: argparse.Namespace) -> int:
    from ..audio import read
    from ..diagnose import diagnose
    from ..errors import AudioError
    from ..restore import sources

    files, problems = sources(args.inputs)
    failed = len(problems)
    for problem in problems:
        _say(problem)
    for path in files:
        try:
            _write(f"{path}: {diagnose(*read(path))}", sys.stdout)
        except AudioError as error:
            _say(str(error))
            failed += 1
    return 1 if failed else 0


def _demo(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    import torch

    from .. import audio
    from ..data.codecs import mp3
    from ..data.demo import mixture
    from ..errors import AudioError, CheckpointError
    from ..metrics import lsd, si_sdr
    from ..report import check_target
    from ..restore import restore_audio

    settings = _settings(parser, args)
    folder, rate = args.out or Path(_DEMO_FOLDER), 44100
    extension = settings.format.lower()
    targets = [folder / f"{name}.{extension}" for name in ("original", "mp3", "restored")]
    # The folder of its own it may write again; in the user's it asks.
    if args.out and not settings.overwrite:
        for target in targets:
            if os.path.exists(target):
                _say(f"'{target}' is there already and kept; --overwrite makes it anew")
                return 1
    try:
        if args.report:
            check_target(args.report, args.overwrite)
        model = _load(args)
        original = torch.from_numpy(mixture(_DEMO_SECONDS, seed=_DEMO_SEED, sample_rate=rate))
        coded = mp3(original, rate, _DEMO_KBPS)
        with tqdm(total=coded.shape[-1], unit="sample", unit_scale=True, disable=None) as bar:
            restored = restore_audio(
                model, coded, rate, settings.keep_below, settings.mix, progress=bar.update
            )
        for target, wav in zip(targets, (original, coded, restored)):
            audio.write(target, wav, rate, settings.format, settings.subtype)
    except (AudioError, CheckpointError) as error:
        _say(str(error))
        return 1
    if args.report:
        args.reference = targets[0]
        if not _report(args, [("apollo-restore --demo", targets[1], targets[2])]):
            return 1
    for line in (
        f"{_DEMO_SECONDS:g} s of synthetic music in '{folder}', MP3 at {_DEMO_KBPS} kbit/s.",
        "LSD is the log-spectral distance to the original (lower is better); SI-SNR is in dB.",
        f"{'':16}{'SI-SNR':>8}{'LSD':>8}",
        *(
            f"{target.name:16}{si_sdr(wav, original):8.2f}{lsd(wav, original):8.2f}"
            for target, wav in zip(targets[1:], (coded, restored))
        ),
    ):
        _write(line, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
