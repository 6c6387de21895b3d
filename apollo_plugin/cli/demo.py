"""``apollo-demo``, a web page: drop a file, hear it before and after, download the result.

It binds to this machine only, keeps uploads in a temporary folder that is removed at the end, and
neither the server nor the page contacts any other machine. ``guard.py`` controls access.
"""

import argparse
import os
import sys
import tempfile
import time
import types
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.choose import Choice, load
from ..errors import ApolloError, SettingError, install, one_line
from .arguments import add_version, refuse_others
from .guard import Guard, Room
from .static import SITE, no_address, serve_static
from .terminal import command, say, tell, waiting
from .upload import Limits

if TYPE_CHECKING:
    from ..engine.protocol import Engine

# The browser may load from this server only, fonts and scripts included. Gradio's page has inline
# scripts and styles.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
        "connect-src 'self' data: blob:; worker-src 'self' blob:; frame-src 'self'; "
        "manifest-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def serve(
    engines: dict[str, "Engine"],
    limits: Limits,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = False,
    names: Collection[str] = (),
) -> None:
    """Serve the page until interrupted.

    Args:
        engines: by the name shown on the page.
        limits: of uploads.
        host: address to bind to.
        port: likewise.
        open_browser: show the page.
        names: further host names that requests may use.

    Raises:
        OSError: if the port is taken.
        ImportError: if gradio is not installed.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="apollo-demo-", ignore_cleanup_errors=True)
        )
        # Read by gradio at import and when the page is built.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        with waiting("loading the page"):
            from starlette.middleware import Middleware

            from .gradio_page import build, style, theme

            stack.enter_context(_errors_in_one_line())
            room = Room(Path(folder), limits.total_megabytes * 1_000_000)
            page = build(engines, limits, room)
        room.sweep_always()
        stack.callback(page.close, verbose=False)
        page.launch(
            server_name=host,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=f"{limits.megabytes}mb",
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            theme=theme(),
            css=style(),
            app_kwargs={
                "middleware": [
                    Middleware(
                        Guard,
                        room=room,
                        upload_bytes=limits.megabytes << 20,
                        names={host, *names},
                        headers=_HEADERS,
                    )
                ]
            },
        )
        tell(f"apollo-demo: http://{host}:{port} (Ctrl-C ends it)")
        while True:
            time.sleep(1)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    """Report malformed requests, for which gradio would print a traceback, in one line; errors of
    our own work do not get there."""
    from gradio import queueing, routes

    def say_it() -> None:
        error = sys.exc_info()[1]
        say(f"refused: {type(error).__name__}: {one_line(error) if error else ''}")

    modules: tuple[Any, ...] = queueing, routes
    before = [(module, module.traceback) for module in modules]
    for module, _ in before:
        module.traceback = types.SimpleNamespace(print_exc=say_it)
    try:
        yield
    finally:
        for module, kept in before:
            module.traceback = kept


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``apollo-demo``; returns the exit status."""
    return command("apollo-demo", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args, limits = _parse(argv)
    if args.static:
        return serve_static(args.static, args.host, args.port, args.open)
    names = dict.fromkeys(args.checkpoint or ["apollo-small"])
    try:
        with waiting(f"loading {', '.join(names)}"):
            engines = {name: load(Choice(name, device="cpu")) for name in names}
        serve(engines, limits, args.host, args.port, args.open, args.allow_host)
    except KeyboardInterrupt:  # the usual end
        pass
    except ImportError as error:
        raise ApolloError(f"the page needs {error.name}: {install('demo')}") from error
    except OSError as error:
        raise no_address(args.host, args.port, error) from error
    return 0


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Limits]:
    parser = argparse.ArgumentParser(prog="apollo-demo", description="A page to try Apollo on.")
    add = parser.add_argument
    add(
        "--checkpoint",
        action="append",
        metavar="NAME",
        help="bundled name, file or Hub id; repeat it to offer a choice (apollo-small)",
    )
    add("--host", default="127.0.0.1", help="address to bind to (%(default)s: this machine only)")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="also answer under this host name, as for a proxy; can be repeated",
    )
    add("--port", type=int, default=7860, help="(%(default)s)")
    add("--max-mb", type=int, default=Limits.megabytes, help="size of an upload (%(default)s)")
    add(
        "--max-total-mb",
        type=int,
        default=Limits.total_megabytes,
        help="size of all stored uploads and results, kept for an hour (%(default)s)",
    )
    add("--max-minutes", type=float, default=Limits.minutes, help="its minutes (%(default)s)")
    add("--static", type=Path, nargs="?", const=SITE, help="serve the page built by docs/web")
    add("--open", action="store_true", help="show the page in a browser")
    add_version(parser)
    args = parser.parse_args(argv)
    if args.static:
        refuse_others(parser, vars(args), "--static", ("static", "host", "port", "open"))
    try:
        limits = Limits(args.max_mb, args.max_minutes, args.max_total_mb)
        if not 0 < args.port < 65536:
            raise SettingError(f"port {args.port} is none")
    except SettingError as error:
        parser.error(str(error))
    return args, limits


if __name__ == "__main__":
    sys.exit(main())
