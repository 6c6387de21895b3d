"""Gathers whole songs that Debian's games bring along, under licences that let anyone learn from
them: the records among the sources of mixes.py.

apt install fretsonfire-songs-sectoid naev-data ufoai-music supertuxkart-data
python recipes/apollo_small/gather_records.py --out records

Songs under other licences in the same packages (GPL alone, CC BY-SA) are left out. Of packages that
were unpacked elsewhere (dpkg-deb -x), ``--root`` is the folder. OUT/SOURCES.tsv says who made what.
"""

import argparse
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile

from apollo_plugin.cli.terminal import run
from apollo_plugin.errors import DataError
from apollo_plugin.files import atomic_write

PEAK = 0.98


@dataclass(frozen=True)
class Source:
    """Songs of one maker.

    Args:
        package: of Debian.
        maker: whose name the licence asks for.
        licence: SPDX.
        folder: where they lie, or a ZIP archive in which they lie.
        names: patterns of files, or of folders whose files are one song's stems.
    """

    package: str
    maker: str
    licence: str
    folder: str
    names: tuple[str, ...]


_NAEV = "usr/share/naev/dat/snd/music"
_UFOAI = "usr/share/games/ufoai/base/0music.pk3"
SOURCES = (
    Source(
        "fretsonfire-songs-sectoid",
        "Carlos Viola Iborra (Sectoid)",
        "MIT",
        "usr/share/games/fretsonfire/data/songs/sectoid",
        ("*",),
    ),
    Source(
        "naev-data",
        "Nikola Whallon",
        "CC-BY-3.0",
        _NAEV,
        (
            *("ambient[123].ogg", "ambient2_5.ogg", "automat.ogg", "battlesomething?.ogg"),
            *("collective?.ogg", "empire?.ogg", "flf_battle1.ogg", "intrigue.ogg", "intro.ogg"),
            *("landing_sinister.ogg", "nebu_battle?.ogg", "sirius1.ogg", "tension.ogg"),
            *("upbeat.ogg", "zalek?.ogg"),
        ),
    ),
    Source("naev-data", "Zeropage", "CC-BY-3.0", _NAEV, ("ambiphonic.ogg", "void_sensor.ogg")),
    Source("ufoai-music", "David Reeves (Destructavator)", "CC-BY-3.0", _UFOAI, ("David0?.ogg",)),
    Source("ufoai-music", 'Manuel "Vanethian" Marino', "CC-BY-3.0", _UFOAI, ("van_[gmt]*.ogg",)),
    Source("ufoai-music", "azrael1322", "CC-BY-3.0", _UFOAI, ("azrael1.ogg",)),
    Source("ufoai-music", "Karl Macklin", "CC-BY-3.0", _UFOAI, ("karlmacklin_geoscape.ogg",)),
    Source(
        "supertuxkart-data",
        "Typhon306",
        "CC-BY-4.0",
        "usr/share/games/supertuxkart/data/tracks/ancient_colosseum_labyrinth",
        ("Battle_Theme_1.ogg",),
    ),
)


def songs(source: Source, root: Path) -> dict[str, list[bytes]]:
    """Name of each song and its files, several where they are stems."""
    place = root / source.folder
    if not place.exists():
        raise DataError(f"'{place}' does not exist; apt install {source.package}")
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
    with zipfile.ZipFile(place) as archive:
        members = {Path(name).name: name for name in sorted(archive.namelist())}
        return {
            Path(name).stem: [archive.read(member)]
            for name, member in members.items()
            if _is_of(source, name)
        }


def _is_of(source: Source, name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in source.names)


def write(files: list[bytes], path: Path) -> Path:
    """One file as it is, or the sum of several as FLAC; returns what was written."""
    if len(files) == 1:
        path = path.with_name(f"{path.name}.ogg")
        with atomic_write(path) as beside:
            beside.write_bytes(files[0])
        return path
    parts = [soundfile.read(BytesIO(data), dtype="float32", always_2d=True) for data in files]
    length = max(len(wav) for wav, _ in parts)
    mix = sum(np.pad(wav, ((0, length - len(wav)), (0, 0))) for wav, _ in parts)
    path = path.with_name(f"{path.name}.flac")
    with atomic_write(path) as beside:
        mix = mix * (PEAK / max(PEAK, np.abs(mix).max()))
        soundfile.write(beside, mix, parts[0][1], "PCM_16", format="FLAC")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("/"), help="where packages lie")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = ["file\tmaker\tlicence\tpackage"]
    for source in SOURCES:
        for name, files in songs(source, args.root).items():
            path = write(files, args.out / f"{source.package}__{name.replace(' ', '_')}")
            rows.append(f"{path.name}\t{source.maker}\t{source.licence}\t{source.package}")
    with atomic_write(args.out / "SOURCES.tsv") as beside:
        beside.write_text("\n".join(rows) + "\n")
    print(f"{len(rows) - 1} songs in '{args.out}'")


if __name__ == "__main__":
    run(main)
