"""Downloads of large files: resumed after a break, verified by their checksum."""

import os
import shutil
import zipfile
from pathlib import Path

import requests
from tqdm import tqdm

from .. import files
from ..errors import DataError
from ..files import atomic_write, naming

MUSDB18HQ_URL = "https://zenodo.org/records/3338373/files/musdb18hq.zip?download=1"
MUSDB18HQ_SHA256 = "baac80d0483c61d74b2e5f3be75fa557eec52898339e6aa45c1fa48833c5d21d"
# Bytes written at a time: a broken connection loses one incomplete block at most.
_BLOCK = 1 << 16


def download(url: str, path: str | os.PathLike, sha256: str) -> Path:
    """Download a file, resuming an interrupted download.

    Args:
        url: of the file.
        path: target; until it is complete the file is called ``<path>.part``.
        sha256: checksum of the complete file, in hexadecimal.

    Raises:
        AudioError: if the server does not answer or sends another file.
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
            # 416: the file is complete already.
            if answer.status_code != 416:
                answer.raise_for_status()
                resumed = answer.status_code == 206
                there = there if resumed else 0
                total = there + int(answer.headers.get("Content-Length", 0))
                with (
                    naming(part),
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
                if there < total:  # urllib3 1 raises nothing
                    raise requests.ConnectionError(f"{there} of {total} bytes were received")
    except requests.RequestException as error:
        raise DataError(f"download of '{url}' broke off: {error}; run again to resume") from error
    if _sha256(part) != sha256:
        part.unlink()
        raise DataError(f"checksum of '{url}' is not the published one; the file was removed")
    os.replace(part, path)
    return path


def unzip(archive: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Unpack an archive to a folder; the folder appears complete or not at all.

    Args:
        archive: a ZIP file.
        folder: must not exist yet.

    Raises:
        AudioError: if the archive is damaged or would write outside of the folder.
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
    """Download MUSDB18-HQ to ``root``, unless it is there.

    Args:
        root: folder for ``train/`` and ``test/``.
        url: of the archive.
        sha256: of the archive.
        n_bytes: disk space of the archive (22.7 GB) and its content (30 GB).

    Raises:
        AudioError: if the download fails, or disk space is too small.
    """
    root = Path(root)
    if (root / "train").is_dir() and (root / "test").is_dir():
        return  # unpacked completely or not at all
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
