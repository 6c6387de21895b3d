"""What stands between the page of ``apollo-demo`` and whoever else can reach it.

A browser may be led here by any page that its user has open: by a form that posts to this machine,
or by a name that its owner lets point to it (DNS rebinding). So requests are answered only under
names that are ours, and only pages of ours may send anything. What is sent is bounded, each request
and all that is kept together, and what is kept goes after a while.
"""

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import AudioError, one_line
from .terminal import say

_SWEEP_SECONDS, _KEPT_SECONDS = 300.0, 3600.0
# Of requests that bring no file: settings of a few numbers, names of sounds.
_SMALL_BYTES = 1 << 20
# What a form takes beside its file.
_FORM_BYTES = 1 << 16
# Of a request that is too large so many are heard out, so that a browser hears the answer.
_HEARD_BYTES = 1 << 30
_SAFE = ("GET", "HEAD", "OPTIONS")


class Room:
    """A folder with a bound on all that it holds, in which nothing grows old.

    Args:
        folder: to keep things in.
        n_bytes: that may be kept.
    """

    def __init__(self, folder: Path, n_bytes: int):
        self.folder, self.n_bytes = folder, n_bytes
        self._lock = threading.Lock()
        self._coming = 0
        self._n_coming = 0

    def used(self) -> int:
        """Bytes of all files in the folder."""
        return sum(status.st_size for _, status in self._files())

    def check(self, n_bytes: int) -> None:
        """Raises an AudioError where so many bytes more are too many."""
        if self.used() + n_bytes > self.n_bytes:
            raise AudioError(
                f"this page may keep {self.n_bytes / 1e6:.0f} MB, and has no room for "
                f"{n_bytes / 1e6:.0f} MB more; what is older than an hour goes by itself"
            )

    def begin(self, n_bytes: int) -> bool:
        """Keeps room for an upload, until :meth:`end`; False where there is none."""
        with self._lock:
            if self.used() + self._coming + n_bytes > self.n_bytes:
                return False
            self._coming += n_bytes
            self._n_coming += 1
            return True

    def end(self, n_bytes: int) -> None:
        """Says that an upload has ended, well or not. What is whole lies in folders of its own, so
        what lies beside these was broken off, once no other is under way."""
        with self._lock:
            self._coming -= n_bytes
            self._n_coming -= 1
            if not self._n_coming:
                for path in self.folder.iterdir():
                    if path.is_file():
                        path.unlink(missing_ok=True)

    def sweep(self, now: float | None = None) -> None:
        """Removes what has been here for an hour."""
        now = time.time() if now is None else now
        for path, status in list(self._files()):
            # A copy that is handed out again has a new change time.
            if now - max(status.st_mtime, status.st_ctime) > _KEPT_SECONDS:
                path.unlink(missing_ok=True)

    def sweep_always(self) -> None:
        """Sweeps from now on, as long as the program runs."""

        def go_on() -> None:
            while True:
                time.sleep(_SWEEP_SECONDS)
                with suppress(OSError):
                    self.sweep()

        threading.Thread(target=go_on, daemon=True).start()

    def _files(self) -> Any:
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = Path(folder, name)
                with suppress(OSError):  # gone meanwhile
                    yield path, path.lstat()


class Guard:
    """Refuses requests to other names, from other pages, and of too many bytes (ASGI).

    Args:
        app: what answers the others.
        room: where uploads go.
        upload_bytes: of one upload.
        names: of this machine, beside its addresses, its own name and localhost.
        headers: added to every answer.
    """

    def __init__(
        self,
        app: Any,
        room: Room,
        upload_bytes: int,
        names: Collection[str],
        headers: dict[str, str],
    ):
        self.app, self.room, self.upload_bytes = app, room, upload_bytes
        self.names = {"localhost", socket.gethostname(), socket.getfqdn(), *names}
        self.names = {name.lower() for name in self.names}
        self.headers = [(name.lower().encode(), text.encode()) for name, text in headers.items()]

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] != "websocket":  # which the page has no use for
            await self.app(scope, receive, send)

    async def _answer(self, scope: dict, receive: Any, send: Any) -> None:
        began, body = False, _Body(receive)

        async def send_with_headers(message: dict) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                message = {**message, "headers": [*message.get("headers", ()), *self.headers]}
            await send(message)

        async def refuse(status: int, reason: str) -> None:
            if began:
                return
            await body.hear_out()
            head = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send_with_headers(
                {"type": "http.response.start", "status": status, "headers": head}
            )
            await send({"type": "http.response.body", "body": reason.encode()})

        told = {name: value.decode("latin-1") for name, value in scope["headers"]}
        reason = self._refusal(scope["method"], told)
        if reason:
            await refuse(403, reason)
            return
        from starlette.requests import ClientDisconnect  # of gradio's

        uploads = scope["path"].rstrip("/").endswith("/upload")
        most = self.upload_bytes + _FORM_BYTES if uploads else _SMALL_BYTES
        length = told.get(b"content-length", "")
        n_bytes = int(length) if length.isdecimal() else most
        if length.isdecimal() and n_bytes > most:
            await refuse(413, f"more than {most} bytes are not taken")
            return
        if uploads and not self.room.begin(n_bytes):
            await refuse(507, "this page holds as much as it may; try again in an hour")
            return
        body.most = most
        try:
            await self.app(scope, body, send_with_headers)
        except ClientDisconnect:  # nobody is there to be answered
            pass
        except _TooMany:
            await refuse(413, f"more than {most} bytes are not taken")
        except Exception as error:  # nonsense has to be answered too
            say(f"{scope['method']} {scope['path']}: {type(error).__name__}: {one_line(error)}")
            await refuse(400, "this request makes no sense here")
        finally:
            if uploads:
                self.room.end(n_bytes)

    def _refusal(self, method: str, headers: dict[bytes, str]) -> str:
        """Why a request is refused, if it is."""
        host = headers.get(b"host", "")
        if not self._is_ours(host):
            return f"this page is not called {host!r}; apollo-demo --allow-host NAME says otherwise"
        if method in _SAFE:
            return ""
        origin = headers.get(b"origin")
        if origin is None:
            # Programs send neither; browsers, which send one of the two, tell what sent them.
            same = headers.get(b"sec-fetch-site", "none") in ("same-origin", "none")
        else:
            same = origin.partition("://")[2].lower() == host.lower()
        return "" if same else "other pages may not send anything here"

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self.names:
            return True
        try:  # an address cannot be made to point elsewhere; only a name can
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class _TooMany(Exception):
    """More bytes than a request may have."""


class _Body:
    """What a request brings, up to ``most`` bytes."""

    def __init__(self, receive: Any):
        self.receive, self.most = receive, _HEARD_BYTES
        self.n_bytes, self.is_whole = 0, False

    async def __call__(self) -> dict:
        message = await self.receive()
        self.n_bytes += len(message.get("body", b""))
        self.is_whole = not message.get("more_body", False)
        if self.n_bytes > self.most:
            raise _TooMany
        return message

    async def hear_out(self) -> None:
        """Takes what is still to come and lets it go."""
        self.most = _HEARD_BYTES
        with suppress(_TooMany):
            while not self.is_whole:
                await self()
