"""``apollo-restore``: restores MP3s and other coded music from the command line."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from .model import Apollo
    from .restore import Job, Settings

# Anything that imports torch is imported once the arguments are known to be right.

_EPILOG = """\
examples:
  apollo-restore song.mp3                      writes song_restored.wav beside it
  apollo-restore ~/Music/old -o restored       a whole folder, its tree kept
  apollo-restore "takes/*.mp3" --format FLAC   quote globs, or let the shell expand them
  apollo-restore song.mp3 --keep-below 5000    touch nothing under 5 kHz
  apollo-restore --demo                        hear what it does: needs no file and no network

The output keeps rate, channels and length. It is 32-bit float WAV, which cannot clip, unless
--format says otherwise. The exit status is 0 only if every file came out.
"""
_DEMO_SECONDS = 8.0
_DEMO_KBPS = 32


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if bool(args.inputs) == args.demo:
        parser.error(
            "name some files or folders, or --demo" if not args.demo else "--demo is alone"
        )
    if args.out and ((args.out.exists() and not args.out.is_dir()) or _looks_like_file(args.out)):
        parser.error(f"-o {args.out}: -o takes a folder")
    try:
        return _demo(args) if args.demo else _restore(parser, args)
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
        help="bundled name, Hugging Face Hub id or file (%(default)s)",
    )
    add(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda", "mps"),
        help="where to compute (%(default)s)",
    )
    add("--keep-below", type=float, metavar="HZ", help="leave everything under HZ as it came")
    add("--mix", type=float, default=1.0, metavar="0..1", help="share of the restoration (1)")
    add(
        "--format",
        default="WAV",
        type=str.upper,
        help="WAV, FLAC, OGG, MP3, AIFF ... (%(default)s)",
    )
    add(
        "--subtype",
        type=str.upper,
        help="FLOAT, PCM_16, PCM_24 ... (FLOAT where the format has it)",
    )
    add("--overwrite", action="store_true", help="restore again what is there already")
    add("--demo", action="store_true", help="make a few seconds of music, code and restore them")
    return parser


def _looks_like_file(path: Path) -> bool:
    from_suffix = path.suffix.lower() in (".wav", ".flac", ".mp3", ".ogg", ".aiff")
    return from_suffix and not path.is_dir()


def _say(line: str) -> None:
    tqdm.write(f"apollo-restore: {line}", file=sys.stderr)


def _load(args: argparse.Namespace) -> "Apollo":
    import torch

    from .checkpoints import CheckpointError
    from .model import Apollo

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
    return Apollo.from_pretrained(args.checkpoint).to(device)


def _restore(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    from .checkpoints import CheckpointError
    from .restore import Settings, plan

    try:
        settings = Settings(args.keep_below, args.mix, args.format, args.subtype, args.overwrite)
    except ValueError as error:
        parser.error(str(error))
    jobs, problems = plan(args.inputs, args.out, settings)
    for problem in problems:
        _say(problem)
    due = [job for job in jobs if settings.overwrite or not job.target.exists()]
    for job in jobs:
        if job not in due:
            _say(f"'{job.target}' is there already and kept; --overwrite makes it anew")
    failed = len(problems)
    if due:
        try:
            model = _load(args)
        except CheckpointError as error:
            _say(str(error))
            return 1
        # One file needs no bar over files.
        for job in tqdm(due, unit="file", desc="files", disable=None if len(due) > 1 else True):
            failed += not _restore_one(model, job, settings)
    if failed:
        _say(f"{failed} of {len(jobs) + len(problems)} failed")
    return 1 if failed else 0


def _restore_one(model: "Apollo", job: "Job", settings: "Settings") -> bool:
    from .audio import AudioError
    from .restore import restore_file

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
        seconds += n_done / model.sample_rate
        bar.total = n_total / model.sample_rate
        bar.update(n_done / model.sample_rate)

    try:
        n_clipped = restore_file(model, job, settings, progress)
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
    tqdm.write(f"{job.source} -> {job.target}  ({seconds:.1f} s, {speed:.1f} times real time)")
    if n_clipped:
        _say(f"'{job.target}': {n_clipped} samples clipped; float WAV would keep them")
    return True


def _demo(args: argparse.Namespace) -> int:
    import torch

    from . import audio
    from .checkpoints import CheckpointError
    from .data.codecs import mp3
    from .data.demo import mixture
    from .metrics import lsd, si_sdr
    from .restore import restore_audio

    folder = args.out or Path("apollo_demo")
    try:
        model = _load(args)
        rate = 44100
        original = torch.from_numpy(mixture(_DEMO_SECONDS, seed=1, sample_rate=rate))
        coded = mp3(original, rate, _DEMO_KBPS)
        bar = tqdm(total=coded.shape[-1], unit="sample", unit_scale=True, disable=None)
        restored = restore_audio(model, coded, rate, args.keep_below, args.mix, progress=bar.update)
        bar.close()
        for name, wav in (("original", original), ("mp3", coded), ("restored", restored)):
            audio.write(folder / f"{name}.wav", wav, rate)
    except (audio.AudioError, CheckpointError) as error:
        _say(str(error))
        return 1
    print(f"{_DEMO_SECONDS:g} s of synthetic music in '{folder}', MP3 at {_DEMO_KBPS} kbit/s")
    print(f"{'':14}{'SI-SNR (dB)':>12}{'LSD':>8}")
    for name, wav in (("mp3.wav", coded), ("restored.wav", restored)):
        print(f"{name:14}{si_sdr(wav, original):12.2f}{lsd(wav, original):8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
