"""A page to try it, ``apollo-demo``: drop a file, hear it as it came and restored, download it.

It binds to this machine only, keeps what it is given in a temporary folder that goes when it ends,
and neither the server nor the page asks anything of any other machine. What others may ask of it is
in ``guard.py``.
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
from .arguments import add_version
from .guard import Guard, Room
from .static import SITE, no_address, serve_static
from .terminal import command, say, tell, waiting
from .upload import Limits

if TYPE_CHECKING:
    from ..engine.protocol import Engine

# The browser is told to load from here only, fonts and scripts included. Gradio's page has scripts
# and styles in it.
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
    """Serves the page until interrupted.

    Args:
        engines: by the name that they are offered under.
        limits: of uploads.
        host: address to bind to.
        port: likewise.
        open_browser: show the page.
        names: of this machine that requests may come under, beside its own.

    Raises:
        OSError: where the port is taken.
        ImportError: where gradio is not installed.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="apollo-demo-", ignore_cleanup_errors=True)
        )
        # Read by gradio as it is imported and as the page is built.
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
    """What gradio would show the traceback of, nonsense that was sent to it, is said in a line; of
    what fails in our own work it is not told."""
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
    except KeyboardInterrupt:  # that is how it ends
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
        help="bundled name, file or Hub id; give it again for a choice (apollo-small)",
    )
    add("--host", default="127.0.0.1", help="address to bind to (%(default)s: this machine only)")
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer under this name too, as a proxy needs it; give it again for more",
    )
    add("--port", type=int, default=7860, help="(%(default)s)")
    add("--max-mb", type=int, default=Limits.megabytes, help="size of a file (%(default)s)")
    add(
        "--max-total-mb",
        type=int,
        default=Limits.total_megabytes,
        help="uploads and results that are kept at a time, an hour at most (%(default)s)",
    )
    add("--max-minutes", type=float, default=Limits.minutes, help="its length (%(default)s)")
    add("--static", type=Path, nargs="?", const=SITE, help="serve the page that docs/web makes")
    add("--open", action="store_true", help="show the page in a browser")
    add_version(parser)
    args = parser.parse_args(argv)
    try:
        limits = Limits(args.max_mb, args.max_minutes, args.max_total_mb)
        if not 0 < args.port < 65536:
            raise SettingError(f"port {args.port} is none")
    except SettingError as error:
        parser.error(str(error))
    return args, limits


if __name__ == "__main__":
    sys.exit(main())
