"""Large files from the web: resumed where they broke off, believed only by their checksum."""

import os
import shutil
import zipfile
from pathlib import Path

import requests
from tqdm import tqdm

from .. import files
from ..errors import DataError
from ..files import atomic_write

MUSDB18HQ_URL = "https://zenodo.org/records/3338373/files/musdb18hq.zip?download=1"
MUSDB18HQ_SHA256 = "baac80d0483c61d74b2e5f3be75fa557eec52898339e6aa45c1fa48833c5d21d"
# A broken connection loses what is not a whole block.
_BLOCK = 1 << 16


def download(url: str, path: str | os.PathLike, sha256: str) -> Path:
    """Downloads a file; a broken download goes on where it ended.

    Args:
        url: of the file.
        path: where it goes; until it is whole it is called ``<path>.part``.
        sha256: of the whole file, in hexadecimal.

    Raises:
        AudioError: where the server does not answer or sends something else.
    """
    path = Path(path)
    if path.is_file() and _sha256(path) == sha256:
        return path
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    there = part.stat().st_size if part.is_file() else 0
    try:
        asked = {"Range": f"bytes={there}-"} if there else {}
        with requests.get(url, headers=asked, stream=True, timeout=60) as answer:
            # 416: all of it is there already.
            if answer.status_code != 416:
                answer.raise_for_status()
                resumed = answer.status_code == 206
                there = there if resumed else 0
                total = there + int(answer.headers.get("Content-Length", 0))
                with (
                    part.open("ab" if resumed else "wb") as file,
                    tqdm(
                        total=total or None,
                        initial=there,
                        desc=path.name,
                        unit="B",
                        unit_scale=True,
                        disable=None,
                    ) as bar,
                ):
                    for block in answer.iter_content(_BLOCK):
                        there += file.write(block)
                        bar.update(len(block))
                if there < total:  # urllib3 1 does not say so
                    raise requests.ConnectionError(f"{there} of {total} bytes came")
    except requests.RequestException as error:
        raise DataError(f"'{url}' did not come whole: {error}; run it again to go on") from error
    if _sha256(part) != sha256:
        part.unlink()
        raise DataError(f"'{url}' sent another file than was published; it was removed")
    os.replace(part, path)
    return path


def unzip(archive: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Unpacks an archive to a folder that appears whole or not at all.

    Args:
        archive: a ZIP file.
        folder: must not exist yet.

    Raises:
        AudioError: where the archive is damaged or would write outside of the folder.
    """
    try:
        with zipfile.ZipFile(archive) as file, atomic_write(folder) as beside:
            beside.mkdir()
            for item in tqdm(file.infolist(), desc=Path(folder).name, unit="file", disable=None):
                if not (beside / item.filename).resolve().is_relative_to(beside.resolve()):
                    raise DataError(f"'{archive}' would write outside of its folder")
                file.extract(item, beside)
    except zipfile.BadZipFile as error:
        raise DataError(f"'{archive}' is damaged: {error}; remove it and run again") from error


def fetch_musdb18hq(
    root: str | os.PathLike,
    url: str = MUSDB18HQ_URL,
    sha256: str = MUSDB18HQ_SHA256,
    n_bytes: float = 53e9,
) -> None:
    """Downloads MUSDB18-HQ to ``root``, if it is not there.

    Args:
        root: folder for ``train/`` and ``test/``.
        url: of the archive.
        sha256: of the archive.
        n_bytes: disk space that the archive (22.7 GB) and what is in it (30 GB) take.

    Raises:
        AudioError: where it cannot be had, or there is too little room.
    """
    root = Path(root)
    if (root / "train").is_dir() and (root / "test").is_dir():
        return  # unpacked whole or not at all
    if root.exists() and any(root.iterdir()):
        raise DataError(f"'{root}' is not empty; name a new folder for the download")
    if root.exists():
        root.rmdir()
    archive = root.with_name("musdb18hq.zip")
    archive.parent.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in archive.parent.glob(archive.name + "*"))
    free, needed = shutil.disk_usage(archive.parent).free, n_bytes - there
    if free < needed:
        raise DataError(f"'{root}' needs {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free")
    download(url, archive, sha256)
    unzip(archive, root)
    archive.unlink()


def _sha256(path: Path) -> str:
    size = path.stat().st_size
    with tqdm(total=size, desc="checksum", unit="B", unit_scale=True, disable=None) as bar:
        return files.sha256(path, bar.update)
