"""Collect whole songs from Debian's games, under licences that permit training on them: the records
among the sources of mixes.py.

python recipes/apollo_small/gather_records.py --out records

records.tsv lists the packages, to be installed with apt (cdogs-sdl-data needs Debian 13 or newer),
and their songs, without those under other licences (GPL alone, CC BY-SA). ``--root`` is the folder
of packages unpacked elsewhere (dpkg-deb -x). OUT/SOURCES.tsv names the makers.
"""

import csv
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from apollo_plugin import audio
from apollo_plugin.cli.terminal import run, script_parser
from apollo_plugin.errors import DataError
from apollo_plugin.files import atomic_write

PEAK = 0.98


@dataclass(frozen=True)
class Source:
    """Songs of one maker.

    Args:
        package: Debian's.
        maker: name that the licence asks for.
        licence: SPDX identifier.
        folder: their folder, or an archive that contains them (ZIP as ``.pk3``, or Edgar's
            ``.pak``).
        names: patterns of files, or of folders whose files are one song's stems.
    """

    package: str
    maker: str
    licence: str
    folder: str
    names: tuple[str, ...]


def sources() -> list[Source]:
    """Read the sources of records.tsv."""
    path = Path(__file__).with_name("material") / "records.tsv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [Source(*row[:4], tuple(row[4].split("|"))) for row in rows[1:]]


def songs(source: Source, root: Path) -> dict[str, list[bytes]]:
    """Read each song's name and the contents of its file, or of its stems."""
    place = root / source.folder
    if place.is_dir():
        found = {
            path.stem: path
            for path in sorted(place.iterdir())
            if _is_of(source, path.name) and (path.is_dir() or path.suffix == ".ogg")
        }
        return {
            name: (
                [file.read_bytes() for file in sorted(path.glob("*.ogg"))]
                if path.is_dir()
                else [path.read_bytes()]
            )
            for name, path in found.items()
        }
    return {
        Path(name).stem: [data]
        for name, data in _archived(place, lambda name: _is_of(source, Path(name).name))
    }


def _archived(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Read names and contents of the wanted members of an archive."""
    if archive.suffix == ".pk3":
        with zipfile.ZipFile(archive) as members:
            for name in sorted(filter(wanted, members.namelist())):
                yield name, members.read(name)
        return
    # Edgar's: zlib streams, then entries of a name of 256 bytes, the size, the size of its stream
    # and its position; at the end the position of the entries and their number.
    with open(archive, "rb") as file:
        file.seek(-8, 2)
        begin, count = struct.unpack("<2I", file.read(8))
        file.seek(begin)
        for name, _, size, at in struct.iter_unpack("<256s3I", file.read(268 * count)):
            name = name.split(b"\0")[0].decode()
            if wanted(name):
                file.seek(at)
                yield name, zlib.decompress(file.read(size))


def _is_of(source: Source, name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in source.names)


def write(files: list[bytes], path: Path) -> Path:
    """Write one file as it is, or the sum of several as FLAC; returns the written path."""
    if len(files) == 1:
        path = path.with_name(f"{path.name}.ogg")
        with atomic_write(path) as beside:
            beside.write_bytes(files[0])
        return path
    parts = [soundfile.read(BytesIO(data), dtype="float32", always_2d=True) for data in files]
    length = max(len(wav) for wav, _ in parts)
    mix = sum(np.pad(wav, ((0, length - len(wav)), (0, 0))) for wav, _ in parts)
    path = path.with_name(f"{path.name}.flac")
    mix = mix * (PEAK / max(PEAK, np.abs(mix).max()))
    audio.write(path, mix.T, parts[0][1], "FLAC", "PCM_16")
    return path


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"), help="where packages lie")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    every = sources()
    there = [source for source in every if (args.root / source.folder).exists()]
    missing = sorted({source.package for source in every} - {source.package for source in there})
    if missing:
        print(f"not installed and left out: {' '.join(missing)}", file=sys.stderr)
    if not there:
        raise DataError(f"'{args.root}' holds none of the packages; apt install those above")
    args.out.mkdir(parents=True, exist_ok=True)
    rows = ["file\tmaker\tlicence\tpackage"]
    for source in tqdm(there, unit="source"):
        for name, files in songs(source, args.root).items():
            path = write(files, args.out / f"{source.package}__{name.replace(' ', '_')}")
            rows.append(f"{path.name}\t{source.maker}\t{source.licence}\t{source.package}")
    with atomic_write(args.out / "SOURCES.tsv") as beside:
        beside.write_text("\n".join(rows) + "\n")
    print(f"{len(rows) - 1} songs in '{args.out}'")


if __name__ == "__main__":
    run(main)
