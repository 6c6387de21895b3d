"""``apollo-export``: a model as ONNX or ``torch.export`` programs, or in the authors' layout."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .arguments import add_version, refuse_others
from .terminal import command, tell, waiting

# Copies of apollo_plugin.export's, which imports torch; a test compares them.
FORMATS, KINDS, PRECISIONS = ("onnx", "torch"), ("whole", "stream"), ("fp32", "int8")
_PUBLISHED = "published"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``apollo-export``; returns the exit status."""
    return command("apollo-export", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.format == _PUBLISHED:
        taken = ("format", "out", "overwrite")
        refuse_others(parser, vars(args), f"--format {_PUBLISHED}", taken)
    with waiting("starting"):
        from .. import export
        from ..checkpoints.hub import save_published
        from ..errors import ExportError
        from ..model import Apollo, RestorationModel

    name = Path(args.checkpoint.rstrip("/")).stem or "apollo"
    if args.format == _PUBLISHED:
        path = args.out / f"{name}_published.bin"
        paths = {"weights": path, "configuration": path.with_suffix(".yaml")}
    else:
        name += "_int8" * (args.precision == "int8")
        kinds = KINDS if args.kind == "both" else (args.kind,)
        paths = {
            kind: args.out / f"{name}{'_stream' * (kind == 'stream')}{export.FORMATS[args.format]}"
            for kind in kinds
        }
    for path in paths.values():
        if path.exists() and not args.overwrite:
            raise ExportError(f"'{path}' is there already and kept; --overwrite replaces it")
    if args.format == _PUBLISHED:
        with waiting(f"loading {args.checkpoint}"):
            model = RestorationModel.from_pretrained(args.checkpoint)
        for path in save_published(model, paths["weights"]):
            tell(f"{path}  ({path.stat().st_size / 1e6:.3g} MB)")
        return 0
    with waiting(f"loading {args.checkpoint}"):
        apollo = Apollo.from_pretrained(args.checkpoint)
    for kind, path in paths.items():
        with waiting(f"writing {path} and comparing it with the model"):
            error = export.export(apollo, path, kind, args.format, args.precision)
            text = f"within {error:.1g} of the model"
            if args.precision == "int8":
                text = f"{export.snr(apollo, path, kind):.1f} dB SNR to the model"
        tell(f"{path}  ({path.stat().st_size / 1e6:.1f} MB, {text})")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="apollo-export",
        description="Writes a model as ONNX or torch.export programs, compared with the model; or "
        "its weights in the layout of the authors' implementation.",
        epilog="docs/export.md shows how to run them with onnxruntime and numpy only.",
    )
    add = parser.add_argument
    add("checkpoint", nargs="?", default="apollo-small", help="bundled name, file or Hub id")
    add("-o", "--out", type=Path, default=Path("."), metavar="DIR", help="folder for the files")
    add("--kind", choices=(*KINDS, "both"), default="both", help="(%(default)s)")
    add("--format", choices=(*FORMATS, _PUBLISHED), default="onnx", help="(%(default)s)")
    add(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="precision of the weights in ONNX files (%(default)s)",
    )
    add("--overwrite", action="store_true", help="replace files that exist")
    add_version(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
