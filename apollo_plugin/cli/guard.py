"""Access control of the page of ``apollo-demo``.

Any page open in the user's browser may send requests here: by a form that posts to this machine, or
by a host name of its own that resolves to it (DNS rebinding). So requests are answered only under
this machine's names, and only pages served here may send data. Each request and all stored files
are limited in size, and stored files are removed after a while.
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
# Limit of requests without a file: settings of a few numbers, names of sounds.
_SMALL_BYTES = 1 << 20
# Bytes of a form besides its file.
_FORM_BYTES = 1 << 16
# Bytes of a too large request that are still read, so that a browser gets the answer.
_HEARD_BYTES = 1 << 30
_SAFE = ("GET", "HEAD", "OPTIONS")


class Room:
    """A folder limited in total size, whose old files are removed.

    Args:
        folder: for the files.
        n_bytes: limit of all files.
    """

    def __init__(self, folder: Path, n_bytes: int):
        self.folder, self.n_bytes = folder, n_bytes
        self._lock = threading.Lock()
        self._coming = 0
        self._n_coming = 0

    def used(self) -> int:
        """Total size of all files in the folder, in bytes."""
        return sum(status.st_size for _, status in self._files())

    def check(self, n_bytes: int) -> None:
        """Raise an AudioError if ``n_bytes`` more would exceed the limit."""
        if self.used() + n_bytes > self.n_bytes:
            raise AudioError(
                f"this page may keep {self.n_bytes / 1e6:.0f} MB, and has no room for "
                f"{n_bytes / 1e6:.0f} MB more; what is older than an hour goes by itself"
            )

    def begin(self, n_bytes: int) -> bool:
        """Reserve room for an upload, until :meth:`end`; False if there is none."""
        with self._lock:
            if self.used() + self._coming + n_bytes > self.n_bytes:
                return False
            self._coming += n_bytes
            self._n_coming += 1
            return True

    def end(self, n_bytes: int) -> None:
        """End an upload, complete or not. Complete ones lie in folders of their own; files beside
        these are remains of aborted ones, which are removed when no upload is in progress."""
        with self._lock:
            self._coming -= n_bytes
            self._n_coming -= 1
            if not self._n_coming:
                for path in self.folder.iterdir():
                    if path.is_file():
                        path.unlink(missing_ok=True)

    def sweep(self, now: float | None = None) -> None:
        """Remove files that are older than an hour."""
        now = time.time() if now is None else now
        for path, status in list(self._files()):
            # A copy that is served again has a new change time.
            if now - max(status.st_mtime, status.st_ctime) > _KEPT_SECONDS:
                path.unlink(missing_ok=True)

    def sweep_always(self) -> None:
        """Remove old files periodically, as long as the program runs."""

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
                with suppress(OSError):  # removed meanwhile
                    yield path, path.lstat()


class Guard:
    """ASGI middleware that refuses requests to other names, from other pages, or too large.

    Args:
        app: the application that answers all others.
        room: folder of uploads.
        upload_bytes: limit of one upload.
        names: of this machine, besides its addresses, its own name and localhost.
        headers: added to every response.
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
        elif scope["type"] != "websocket":  # the page uses none
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
        from starlette.requests import ClientDisconnect  # installed with gradio

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
        except ClientDisconnect:  # nobody to answer
            pass
        except _TooMany:
            await refuse(413, f"more than {most} bytes are not taken")
        except Exception as error:  # malformed requests need an answer too
            say(f"{scope['method']} {scope['path']}: {type(error).__name__}: {one_line(error)}")
            await refuse(400, "this request makes no sense here")
        finally:
            if uploads:
                self.room.end(n_bytes)

    def _refusal(self, method: str, headers: dict[bytes, str]) -> str:
        """Reason for refusing a request; None to accept it."""
        host = headers.get(b"host", "")
        if not self._is_ours(host):
            return f"this page is not called {host!r}; apollo-demo --allow-host NAME says otherwise"
        if method in _SAFE:
            return ""
        origin = headers.get(b"origin")
        if origin is None:
            # Programs send neither; browsers send one of the two, which names the page.
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
        try:  # addresses are safe: only names can be made to resolve elsewhere
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class _TooMany(Exception):
    """Request larger than permitted."""


class _Body:
    """Body of a request, up to ``most`` bytes."""

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
        """Read and discard the rest."""
        self.most = _HEARD_BYTES
        with suppress(_TooMany):
            while not self.is_whole:
                await self()
