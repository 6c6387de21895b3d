"""A folder of static files served to this machine, isolated: ``apollo-demo --static``."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ..errors import ApolloError, SettingError
from .terminal import tell

# Default output folder of docs/web/build.py.
SITE = Path(__file__).parents[2] / "docs" / "web" / "site"
# The page may load from this server only; its workers run WebAssembly, and no code made from text.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "connect-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'"
)
# The second and third isolate the page, which browsers require for threads.
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class _Handler(SimpleHTTPRequestHandler):
    # The machine's own table of types may lack these.
    extensions_map = {  # noqa: RUF012
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".json": "application/json",
        ".onnx": "application/octet-stream",
    }

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def send_head(self):
        if "\0" in self.translate_path(self.path):  # not a file name: open() would raise
            self.send_error(404)
            return None
        return super().send_head()

    def list_directory(self, path):
        self.send_error(404)

    def log_message(self, format, *args) -> None:
        pass


def server(folder: Path, host: str, port: int) -> ThreadingHTTPServer:
    """Make a server of the folder's files, not yet serving.

    Args:
        folder: the one written by docs/web/build.py.
        host: address to bind to.
        port: likewise; 0 for any.

    Raises:
        SettingError: if the folder holds no page.
        OSError: if the port is taken.
    """
    if not (folder / "index.html").is_file():
        raise SettingError(f"'{folder}' holds no page; python docs/web/build.py -o DIR makes one")
    return ThreadingHTTPServer((host, port), partial(_Handler, directory=str(folder)))


def serve_static(folder: Path, host: str, port: int, open_browser: bool = False) -> int:
    """Serve the folder until interrupted; arguments are those of :func:`server`.

    Raises:
        ApolloError: if the folder holds no page, or the port is taken.
    """
    try:
        with server(folder, host, port) as running:
            address = f"http://{host}:{running.server_port}"
            tell(f"apollo-demo: {address} (Ctrl-C ends it)")
            if open_browser:
                import webbrowser

                webbrowser.open(address)
            running.serve_forever()
    except KeyboardInterrupt:  # the usual end
        pass
    except OSError as error:
        raise no_address(host, port, error) from error
    return 0


def no_address(host: str, port: int, error: OSError) -> ApolloError:
    """Make a one-line error for an address that cannot be bound."""
    reason = (str(error).splitlines() or ["no address"])[0]
    return ApolloError(f"{host}:{port}: {reason}")
