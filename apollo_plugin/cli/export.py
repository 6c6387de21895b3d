"""``apollo-export``: a model as ONNX or ``torch.export`` programs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .arguments import add_version
from .terminal import command, tell, waiting

# Of apollo_plugin.export, which imports torch; a test compares them.
FORMATS, KINDS = ("onnx", "torch"), ("whole", "stream")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``apollo-export``; returns the exit status."""
    return command("apollo-export", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    with waiting("starting"):
        from .. import export
        from ..errors import ExportError
        from ..model import Apollo

    kinds = KINDS if args.kind == "both" else (args.kind,)
    name = Path(args.checkpoint.rstrip("/")).stem or "apollo"
    paths = {
        kind: args.out / f"{name}{'_stream' * (kind == 'stream')}{export.FORMATS[args.format]}"
        for kind in kinds
    }
    for path in paths.values():
        if path.exists() and not args.overwrite:
            raise ExportError(f"'{path}' is there already and kept; --overwrite replaces it")
    with waiting(f"loading {args.checkpoint}"):
        model = Apollo.from_pretrained(args.checkpoint)
    for kind, path in paths.items():
        with waiting(f"writing {path} and comparing it with the model"):
            error = export.export(model, path, kind, args.format)
        tell(f"{path}  ({path.stat().st_size / 1e6:.1f} MB, within {error:.1g} of the model)")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="apollo-export",
        description="Writes a model as ONNX or torch.export programs, compared with the model.",
        epilog="docs/export.md shows how to run them with onnxruntime and numpy only.",
    )
    add = parser.add_argument
    add("checkpoint", nargs="?", default="apollo-small", help="bundled name, file or Hub id")
    add("-o", "--out", type=Path, default=Path("."), metavar="DIR", help="folder for the files")
    add("--kind", choices=(*KINDS, "both"), default="both", help="(%(default)s)")
    add("--format", choices=FORMATS, default="onnx", help="(%(default)s)")
    add("--overwrite", action="store_true", help="replace files that exist")
    add_version(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
