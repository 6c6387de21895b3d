"""Requests of others' pages and programs to apollo-demo's: by hand-made requests (ASGI)."""

import asyncio
import os
import socket
import time
from types import SimpleNamespace

import pytest

from apollo_plugin.cli import guard
from apollo_plugin.cli.guard import Guard, Room
from apollo_plugin.errors import AudioError

pytest.importorskip("starlette", reason="the extra `demo` is not installed")
MOST = 1000  # of an upload


@pytest.fixture
def room(tmp_path):
    return Room(tmp_path, 200_000)


class Page:
    """Keeps what it is sent, in pieces as gradio does, and says so."""

    def __init__(self, folder, fails=None):
        self.folder, self.fails, self.n_calls = folder, fails, 0

    async def __call__(self, scope, receive, send):
        self.n_calls += 1
        if scope["type"] != "http":
            return
        with (self.folder / f"part{self.n_calls}").open("wb") as file:
            while True:
                message = await receive()
                file.write(message.get("body", b""))
                if not message.get("more_body"):
                    break
        if self.fails:
            raise self.fails
        if self.folder.is_dir() and scope["path"].endswith("/upload"):
            (self.folder / "whole").mkdir(exist_ok=True)
            os.replace(file.name, self.folder / "whole" / "song")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


def ask(guard, method="GET", path="/", body=(b"",), length=None, **headers):
    """The status of the answer, its headers and its text."""
    headers = {"host": "127.0.0.1:7860", **headers}
    if length is not None:
        headers["content-length"] = str(length)
    parts, sent = list(body), []

    async def receive():
        part = parts.pop(0)
        if isinstance(part, Exception):
            raise part
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }
    asyncio.run(guard(scope, receive, send))
    text = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), text.decode()


def guard_of(room, **options):
    page = Page(room.folder, **options)
    return Guard(page, room, MOST, ["music.example"], {"X-Content-Type-Options": "nosniff"}), page


@pytest.mark.parametrize(
    "host, is_ours",
    [
        ("127.0.0.1:7860", True),
        ("localhost:7860", True),
        ("LOCALHOST", True),
        ("[::1]:7860", True),
        ("192.168.1.7", True),  # an address cannot be rebound
        (f"{socket.gethostname()}:7860", True),
        ("music.example", True),
        ("evil.example", False),
        ("evil.example:7860", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_hosts(room, host, is_ours):
    guard, page = guard_of(room)
    status, headers, _ = ask(guard, host=host)
    assert (status, page.n_calls) == ((200, 1) if is_ours else (403, 0))
    assert headers[b"x-content-type-options"] == b"nosniff"
    if not is_ours:
        assert headers[b"connection"] == b"close" and headers[b"content-type"][:10] == b"text/plain"


@pytest.mark.parametrize(
    "method, headers, is_taken",
    [
        ("GET", {"origin": "http://evil.example"}, True),  # without leave to read the answer
        ("POST", {}, True),  # a program
        ("POST", {"origin": "http://127.0.0.1:7860"}, True),
        ("POST", {"sec_fetch_site": "same-origin"}, True),
        ("POST", {"origin": "https://music.example", "host": "music.example"}, True),  # by a proxy
        ("POST", {"origin": "http://evil.example"}, False),
        ("POST", {"origin": "null"}, False),
        ("POST", {"origin": "http://127.0.0.1:80"}, False),
        ("POST", {"origin": "http://localhost:7860"}, False),
        ("POST", {"sec_fetch_site": "cross-site"}, False),
        ("POST", {"sec_fetch_site": "same-site"}, False),
        ("DELETE", {"origin": "http://evil.example"}, False),
    ],
)
def test_who_may_send(room, method, headers, is_taken):
    guard, page = guard_of(room)
    status, _, _ = ask(guard, method, "/gradio_api/upload", [b"x"], **headers)
    assert (status, page.n_calls) == ((200, 1) if is_taken else (403, 0))


FORM = MOST + (1 << 16)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    "path, n_bytes, status",
    [
        ("/gradio_api/upload", FORM, 200),
        ("/gradio_api/upload", FORM + 1, 413),
        ("/gradio_api/upload/", FORM + 1, 413),
        ("/gradio_api/queue/join", 1 << 20, 200),
        ("/gradio_api/queue/join", (1 << 20) + 1, 413),
    ],
)
def test_requests_are_bounded(room, path, n_bytes, status, told):
    """With a told length or none; who sent too much hears the answer."""
    guard, _ = guard_of(room)
    parts = [bytes(n_bytes // 2), bytes(n_bytes - n_bytes // 2)]
    got, _, text = ask(guard, "POST", path, parts, n_bytes if told else None)
    assert got == status and (status == 200 or "not taken" in text)


def test_a_length_that_is_a_lie(room):
    guard, _ = guard_of(room)
    assert ask(guard, "POST", "/gradio_api/upload", [bytes(FORM + 1)], 5)[0] == 413
    assert ask(guard, "POST", "/gradio_api/upload", [b"x"], "-5")[0] == 200


def test_the_room_is_bounded(room):
    guard, page = guard_of(room)
    (room.folder / "song").mkdir()
    (room.folder / "song" / "a.wav").write_bytes(bytes(150_000))
    assert ask(guard, "POST", "/gradio_api/upload", [b"x"], 1)[0] == 200
    status, _, text = ask(guard, "POST", "/gradio_api/upload", [bytes(60_000)], 60_000)
    assert status == 507 and "an hour" in text and page.n_calls == 1
    # Who does not tell how much it will be is counted with the most that it may be.
    assert ask(guard, "POST", "/gradio_api/upload", [b"x"])[0] == 507
    (room.folder / "song" / "a.wav").write_bytes(bytes(150_000))
    left = room.n_bytes - room.used()
    room.check(left)
    with pytest.raises(AudioError, match="may keep 0 MB, and has no room for 0 MB more; what"):
        room.check(left + 1)
    words = "may keep 7 MB, and has no room for 8 MB more"
    with pytest.raises(AudioError, match=words):
        Room(room.folder, 7_100_000).check(7_900_000)


def test_uploads_at_a_time_share_the_room(room):
    assert room.begin(150_000) and not room.begin(50_001) and room.begin(50_000)
    room.end(150_000)
    assert not room.begin(150_001) and room.begin(150_000)


def test_what_was_broken_off_goes_at_once(room):
    from starlette.requests import ClientDisconnect

    guard, _ = guard_of(room)
    assert room.begin(10)  # another that is under way
    (room.folder / "other").write_bytes(b"half")
    with pytest.raises(IndexError):  # nobody is answered
        ask(guard, "POST", "/gradio_api/upload", [bytes(500), ClientDisconnect()], 1000)
    assert {path.name for path in room.folder.iterdir()} == {"other", "part1"}
    room.end(10)
    assert not list(room.folder.iterdir())
    # What is whole stays.
    assert ask(guard, "POST", "/gradio_api/upload", [b"x"], 1)[0] == 200
    assert (room.folder / "whole" / "song").read_bytes() == b"x"


def test_what_is_old_goes(room):
    folder = room.folder / "song" / "result"
    folder.mkdir(parents=True)
    (folder / "a.wav").write_bytes(b"x")
    room.sweep(time.time() + 3595)
    assert (folder / "a.wav").exists() and room.used() == 1
    room.sweep(time.time() + 3601)
    assert not (folder / "a.wav").exists() and room.used() == 0


@pytest.mark.parametrize(
    "work", [lambda room: room.sweep(time.time() + 9e9), lambda room: room.end(1)]
)
def test_what_went_meanwhile_is_gone(room, monkeypatch, work):
    path = room.folder / "song"
    path.touch()
    monkeypatch.setattr(room, "_files", lambda: [(path, path.stat())])
    assert room.begin(1)
    unlink = type(path).unlink

    def twice(self, **how):
        unlink(self)
        unlink(self, **how)

    monkeypatch.setattr(type(path), "unlink", twice)
    work(room)
    assert not path.exists()


def test_old_files_are_looked_for_again_and_again(room, monkeypatch):
    """Also after an error of the disk."""
    waited, swept = [], []

    def sweep():
        swept.append(len(swept))
        raise OSError("no disk")

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) > 2:
            raise SystemExit  # of the thread

    class Thread:
        def __init__(self, target, daemon):
            self.target, self.daemon = target, daemon

        def start(self):
            assert self.daemon
            with pytest.raises(SystemExit):
                self.target()

    monkeypatch.setattr(room, "sweep", sweep)
    monkeypatch.setattr(guard, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(guard, "threading", SimpleNamespace(Thread=Thread))
    room.sweep_always()
    assert len(waited) == 3 and swept == [0, 1]


def test_nonsense_is_said_in_a_line(room, capsys):
    guard, _ = guard_of(room, fails=RuntimeError("it makes\nno sense"))
    assert ask(guard, "POST", "/gradio_api/queue/join", [b"{"])[0] == 400
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "RuntimeError: it makes no sense" in error


def test_an_answer_that_has_begun_gets_no_other(room, capsys):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        raise RuntimeError("too late")

    guard = Guard(app, room, MOST, [], {"X": "y"})
    status, headers, text = ask(guard, "POST", "/gradio_api/upload", [b"x"], 1)
    assert (status, headers, text) == (200, {b"a": b"b", b"x": b"y"}, "")
    line = "POST /gradio_api/upload: RuntimeError: too late\n"
    assert capsys.readouterr().err.endswith(line) and room.begin(room.n_bytes)


def test_websockets_are_none_of_ours(room):
    guard, page = guard_of(room)
    asyncio.run(guard({"type": "websocket", "headers": []}, None, None))
    assert page.n_calls == 0
    asyncio.run(guard({"type": "lifespan"}, None, None))
    assert page.n_calls == 1
