"""Argument parser of ``apollo-restore``, and options shared with other commands."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..engine.choose import DEVICES, ENGINES
from ..errors import SettingError
from ..formats import MARK
from .options import Options
from .terminal import waiting

if TYPE_CHECKING:
    from ..settings import Settings

_EPILOG = """\
examples:
  apollo-restore song.mp3                      writes song_restored.wav beside it
  apollo-restore song.mp3 -o new.flac          writes new.flac
  apollo-restore ~/Music/old -o restored       a whole folder, its tree kept
  apollo-restore "takes/*.mp3" --format FLAC   quote globs, or let the shell expand them
  apollo-restore song.mp3 --keep-below 5000    touch nothing under 5 kHz
  apollo-restore song.mp3 --start 60 --duration 10        ten seconds, to try
  apollo-restore old_22khz.mp3 --rate 44100    room for the highs that its rate left out
  apollo-restore song.mp3 --report page.html   a page to hear and see what was done
  apollo-restore --diagnose ~/Music/old        where each file was cut off, if it was
  apollo-restore song.mp3 --stems HDEMUCS_HIGH_MUSDB      vocals, drums ... one by one
  curl https://a/song.mp3 | apollo-restore - -o - | aplay      a file through pipes
  apollo-restore --demo                        hear what it does: needs no file and no network

The output keeps rate, channels and length. It is 32-bit float WAV, which cannot clip, unless
--format says otherwise. Where a folder holds a.mp3 and a.flac, the results are
a.mp3_restored.wav and a.flac_restored.wav. In folders, what is hidden, results of before and the
folder given by -o are left out. Results that exist are kept unless --overwrite is given. A name
that begins with a dash is written ./-name. The exit status is 0 only if every file came out.
"""
# Options that modes other than restoring take; those of computing change no result.
_COMPUTING = ("checkpoint", "device", "engine", "precision", "jobs", "dask")
_TAKEN = {
    "list": ("json",),
    "diagnose": ("out", "suffix", "track", "start", "duration", "salvage", "json"),
    "demo": ("out", "overwrite", "format", "subtype", "keep_below", "mix", "level", "report"),
}


def parse(argv: Sequence[str] | None) -> tuple[Options, "Settings"]:
    """Parse options and their settings; wrong usage ends the program with status 2."""
    parser = _parser()
    args = vars(parser.parse_args(argv))
    for mode, taken in _TAKEN.items():
        if args[mode]:
            refuse_others(parser, args, f"--{mode}", (mode, *_COMPUTING, *taken))
    if args["suffix"] is None:
        args["suffix"] = "" if args["copy_others"] else MARK
    options = Options(**{**args, "inputs": tuple(args["inputs"])})
    try:
        options.check()
        with waiting("starting"):
            return options, options.settings()
    except SettingError as error:
        parser.error(str(error))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="apollo-restore",
        description="Restores what MP3 and other lossy coding removed from music.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="files, folders (searched to any depth) or globs; - is standard input",
    )
    for name, group in (
        ("results", _add_results),
        ("restoring", _add_restoring),
        ("reading", _add_reading),
        ("computing", _add_computing),
        ("other work", _add_modes),
    ):
        group(parser.add_argument_group(name).add_argument)
    unknown = {action.dest for action in parser._actions} - {f.name for f in fields(Options)}
    assert unknown <= {"help"}, unknown
    add_version(parser)
    return parser


def refuse_others(
    parser: argparse.ArgumentParser, args: Mapping[str, Any], mode: str, taken: Collection[str]
) -> None:
    """End the program with status 2 for an option that would be ignored.

    Args:
        parser: of the command.
        args: parsed arguments by name.
        mode: option that has the others ignored, for the message.
        taken: names of those that it takes.
    """
    for action in parser._actions:
        ignored = action.option_strings and action.dest not in ("help", "version", *taken)
        if ignored and args[action.dest] != action.default:
            parser.error(f"{mode} takes no {action.option_strings[-1]}; leave it out")


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add ``--version``."""
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")


def _add_results(add: Any) -> None:
    add(
        "-o",
        "--out",
        type=Path,
        metavar="DIR|FILE",
        help="folder for the results, or the name of a single one; - is standard output (beside "
        "each input)",
    )
    add(
        "--suffix",
        metavar="TEXT",
        help=f"suffix of results' names ({MARK}; nothing with --copy-others)",
    )
    add(
        "--format",
        type=str.upper,
        help="WAV, FLAC, AIFF, OGG, MP3, CAF, W64, RF64 or AU (that of -o FILE, else WAV)",
    )
    add("--subtype", type=str.upper, help="FLOAT, PCM_16, PCM_24 ... (FLOAT if the format has it)")
    add(
        "--rate",
        type=int,
        metavar="HZ",
        help="sample rate of the result (the input's); a higher one makes room for highs",
    )
    add(
        "--headroom",
        type=float,
        default=0.0,
        metavar="DB",
        help="attenuate all results by DB, so that integers do not clip (%(default)s)",
    )
    add("--dither", action="store_true", help="add TPDF dither to 16-bit results")
    add(
        "--no-tags",
        dest="tags",
        action="store_false",
        help="leave out tags and covers, except for the mark of a restoration; otherwise they are "
        "carried over if the format has them",
    )
    add("--skip-uncoded", action="store_true", help="leave out files that look uncoded")
    add(
        "--copy-others",
        action="store_true",
        help="make -o DIR a complete library: also copy covers, lyrics, cue sheets, playlists and "
        "what --skip-uncoded left out; names in them are adapted, results keep their names",
    )
    add("--overwrite", action="store_true", help="replace results that exist")


def _add_restoring(add: Any) -> None:
    add_checkpoint(add, "apollo-small")
    add("--keep-below", type=float, metavar="HZ", help="leave everything below HZ unchanged")
    add_level(add)
    add("--mix", type=float, default=1.0, metavar="0..1", help="0 is unchanged, 1 is restored (1)")
    add("--again", action="store_true", help="restore files that are restorations already")
    add(
        "--stems",
        metavar="SEPARATOR",
        help="separate first, restore each stem, write the stems and their remix to a folder: a "
        "torchaudio bundle (HDEMUCS_HIGH_MUSDB), an Asteroid model's Hub id or its file",
    )


def _add_reading(add: Any) -> None:
    add("--track", type=int, metavar="N", help="number of the sound track, from 1 on")
    add("--start", type=float, default=0.0, metavar="S", help="skip the first S seconds")
    add("--duration", type=float, metavar="S", help="restore only S seconds, as a trial")
    add(
        "--salvage",
        action="store_true",
        help="restore what can be decoded of damaged files, and report what is missing",
    )


def _add_computing(add: Any) -> None:
    add_device(add)
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="files at a time, each in a process with a model of its own (as many as cores and "
        "memory allow)",
    )
    add(
        "--dask",
        metavar="ADDRESS",
        help="restore on a Dask cluster whose workers see the same files",
    )


def _add_modes(add: Any) -> None:
    add(
        "--report",
        type=Path,
        metavar="PAGE.html",
        help="also write a page that plays inputs and results side by side",
    )
    add("--reference", type=Path, metavar="FILE", help="the original of the input, for --report")
    add(
        "--diagnose",
        action="store_true",
        help="restore nothing; print the frequency at which a codec cut each file off",
    )
    add(
        "--list",
        action="store_true",
        help="restore nothing; list known checkpoints, and which of them are on this machine",
    )
    add("--json", action="store_true", help="print --diagnose or --list as JSON, one per line")
    add(
        "--demo",
        action="store_true",
        help="code and restore four seconds of an orchestra, and write a page to listen to",
    )


def add_checkpoint(add: Any, default: str) -> None:
    """Add ``--checkpoint``."""
    add(
        "--checkpoint",
        default=default,
        metavar="NAME",
        help="bundled name, file, folder or Hugging Face Hub id (%(default)s)",
    )


def add_level(add: Any) -> None:
    """Add ``--level``."""
    add(
        "--level",
        default="model",
        choices=("model", "keep"),
        help="model: scale the sound to the peak that the model was trained at, and back; keep: "
        "leave its level (%(default)s)",
    )


def add_device(add: Any) -> None:
    """Add ``--device``, ``--engine`` and ``--precision``."""
    add("--device", default="auto", choices=DEVICES, help="device to compute on (%(default)s)")
    add(
        "--engine",
        default="auto",
        choices=ENGINES,
        help="onnx is onnxruntime, for bundled checkpoints and files of apollo-export, on a CPU in "
        "fp32; torch runs everything (%(default)s: onnx where it can)",
    )
    add(
        "--precision",
        choices=("fp32", "bf16", "int8"),
        help="bf16 and int8 (CPU only) are faster, to 40 and 30 dB of fp32 (fp32, on CUDA bf16)",
    )
