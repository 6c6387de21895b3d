"""Downloads from a server of our own: resumed, checked, unpacked whole or not at all."""

import contextlib
import hashlib
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import requests

from apollo_plugin.data.download import download, fetch_musdb18hq, unzip
from apollo_plugin.errors import DataError


class Server(BaseHTTPRequestHandler):
    content = b""
    breaks_after = None
    ranges: list = []  # noqa: RUF012

    def do_GET(self):
        asked = self.headers.get("Range")
        Server.ranges.append(asked)
        start = int(asked.split("=")[1].rstrip("-")) if asked else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        body = self.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.breaks_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def url(tmp_path):
    archive = tmp_path / "made.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("train/A - B/vocals.wav", b"RIFF" * 50000)
        file.writestr("test/C - D/vocals.wav", b"x")
    Server.content, Server.breaks_after, Server.ranges = archive.read_bytes(), None, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/a.zip"
    server.shutdown()


def digest():
    return hashlib.sha256(Server.content).hexdigest()


def test_resumed_where_it_broke_off(url, tmp_path):
    path = tmp_path / "new" / "a.zip"
    Server.breaks_after = 100000
    with pytest.raises(DataError, match="broke off.*run again"):
        download(url, path, digest())
    there = path.with_name("a.zip.part").stat().st_size
    assert not path.exists() and there in (65536, 100000)  # urllib3 2, 1
    Server.breaks_after = None
    assert download(url, path, digest()).read_bytes() == Server.content
    assert Server.ranges == [None, f"bytes={there}-"] and not path.with_name("a.zip.part").exists()
    download(url, path, digest())
    assert len(Server.ranges) == 2  # it was there


def test_all_of_it_was_there_already(url, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(Server.content)
    assert download(url, tmp_path / "a.zip", digest()).read_bytes() == Server.content


def test_another_file_is_not_believed(url, tmp_path):
    with pytest.raises(DataError, match="checksum of .* is not the published one"):
        download(url, tmp_path / "a.zip", "0" * 64)
    assert not (tmp_path / "a.zip").exists() and not (tmp_path / "a.zip.part").exists()


def test_no_server(tmp_path):
    with pytest.raises(DataError, match="broke off"):
        download("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", "0")


def test_the_data_set(url, tmp_path):
    root = tmp_path / "musdb"
    fetch_musdb18hq(root, url, digest(), n_bytes=1e6)
    assert (root / "train" / "A - B" / "vocals.wav").stat().st_size == 200000
    assert not (tmp_path / "musdb18hq.zip").exists()
    n_asked = len(Server.ranges)
    fetch_musdb18hq(root, url, digest())
    assert len(Server.ranges) == n_asked  # it was there
    (tmp_path / "other" / "x").mkdir(parents=True)
    with pytest.raises(DataError, match="not empty"):
        fetch_musdb18hq(tmp_path / "other", url, digest())
    with pytest.raises(DataError, match="needs 1000000000 GB"):
        fetch_musdb18hq(tmp_path / "new", url, digest(), n_bytes=1e18)


def test_room_for_the_data_set(url, tmp_path, monkeypatch):
    """For what is not there yet, to the byte; an empty folder is as good as none."""
    root = tmp_path / "musdb"
    root.mkdir()
    (tmp_path / "musdb18hq.zip.part").write_bytes(Server.content[:1000])
    free = 10**9 - 1001
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(DataError, match=rf"^'{root}' needs 1 GB, 1 GB are free$"):
        fetch_musdb18hq(root, url, digest(), n_bytes=10**9)
    free += 1
    fetch_musdb18hq(root, url, digest(), n_bytes=10**9)
    assert Server.ranges == ["bytes=1000-"] and (root / "test").is_dir()


def test_a_connection_that_ends_early_without_an_error(monkeypatch, tmp_path):
    """As urllib3 1 leaves it; what came is kept."""
    answer = SimpleNamespace(
        status_code=200,
        headers={"Content-Length": "10"},
        raise_for_status=lambda: None,
        iter_content=lambda size: [b"abc", b"defg"],
    )
    monkeypatch.setattr(requests, "get", lambda *_, **how: contextlib.nullcontext(answer))
    with pytest.raises(DataError, match="broke off: 7 of 10 bytes were received; run again to"):
        download("http://x", tmp_path / "a.zip", "0")
    assert (tmp_path / "a.zip.part").read_bytes() == b"abcdefg"
    answer.headers = {}  # of unknown length
    with pytest.raises(DataError, match="checksum"):
        download("http://x", tmp_path / "a.zip", "0")


def test_archives_that_are_broken_or_malicious(tmp_path):
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="damaged"):
        unzip(tmp_path / "bad.zip", tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        file.writestr("../outside.txt", "x")
    with pytest.raises(DataError, match="outside"):
        unzip(tmp_path / "evil.zip", tmp_path / "deep" / "out")
    assert not (tmp_path / "outside.txt").exists() and not (tmp_path / "deep" / "out").exists()
