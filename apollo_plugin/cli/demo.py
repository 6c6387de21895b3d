"""A page to try it, ``apollo-demo``: drop a file, hear it as it came and restored, download it.

It binds to this machine only, keeps what it is given in a temporary folder that goes when it ends,
and neither the server nor the page asks anything of any other machine.
"""

import argparse
import html
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ApolloError, SettingError
from .static import SITE, no_address, serve_static
from .terminal import command, is_mendable, say_defect, tell, told

if TYPE_CHECKING:
    import gradio
    import torch

    from ..model import Apollo
    from ..restore import Progress

# What is decoded is bounded by the length; these two bound it per second.
_MAX_RATE, _MAX_CHANNELS = 192000, 2
_SWEEP_SECONDS, _KEPT_SECONDS = 300, 3600
# The browser is told to load from here only, fonts and scripts included.
_POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
_ABOUT = """\
# Apollo
Gives music back what MP3 took from it. Nothing leaves this machine."""


@dataclass(frozen=True)
class Limits:
    """What the page takes.

    Args:
        megabytes: of an upload.
        minutes: of its sound.

    Raises:
        SettingError: for limits that let nothing through.
    """

    megabytes: int = 100
    minutes: float = 15.0

    def __post_init__(self) -> None:
        if self.megabytes < 1 or not 0 < self.minutes < float("inf"):
            raise SettingError(f"limits of {self.megabytes} MB and {self.minutes} min are none")


def restore_upload(
    model: "Apollo",
    path: Path,
    keep_below: float,
    mix: float,
    limits: Limits,
    progress: "Progress | None" = None,
) -> tuple[Path, Path, Path, str]:
    """Restores one upload into a new folder beside it.

    Args:
        model: an Apollo.
        path: of the upload.
        keep_below: in Hz, 0 for none.
        mix: share of the restoration.
        limits: of the sound.
        progress: told of the work.

    Returns:
        the sound as it came and restored, 16 bit, for listening; restored, floating point, for
        keeping; a line about it.

    Raises:
        AudioError: one line; the file is called by its name only.
    """
    from .. import audio
    from ..errors import AudioError
    from ..restore import restore_audio

    begin = time.perf_counter()
    try:
        wav, rate = _read(path, limits)
    except AudioError as error:
        raise AudioError(str(error).replace(str(path), path.name)) from error
    restored = restore_audio(model, wav, rate, keep_below or None, mix, progress=progress)
    if not restored.isfinite().all():
        raise AudioError(f"'{path.name}' made the model overflow; scale it")
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    came, heard, kept = (
        folder / f"{path.stem}{end}.wav" for end in ("", "_restored_16bit", "_restored")
    )
    audio.write(came, wav, rate, subtype="PCM_16")
    audio.write(heard, restored, rate, subtype="PCM_16")
    audio.write(kept, restored, rate)
    seconds, took = wav.shape[-1] / rate, time.perf_counter() - begin
    line = f"{path.name}: {seconds:.1f} s at {rate} Hz, restored in {took:.1f} s"
    return came, heard, kept, line


def _read(path: Path, limits: Limits) -> tuple["torch.Tensor", int]:
    from .. import audio
    from ..errors import AudioError

    try:
        _, rate, n_channels = audio.probe(path)
    except AudioError:  # for PyAV, which decodes no more than the limit
        return audio.read(path, max_seconds=60 * limits.minutes)
    if n_channels > _MAX_CHANNELS or rate > _MAX_RATE:
        raise AudioError(
            f"'{path}' has {n_channels} channels at {rate} Hz; this page takes up to "
            f"{_MAX_CHANNELS} at {_MAX_RATE} Hz"
        )
    return audio.read(path, max_seconds=60 * limits.minutes)


def build(models: dict[str, "Apollo"], limits: Limits) -> "gradio.Blocks":
    """The page.

    Args:
        models: by the name that they are offered under.
        limits: of uploads.
    """
    import gradio

    from .. import audio

    def restore(path, name, keep_below, mix, progress=gradio.Progress()):  # noqa: B008
        if not path:
            raise gradio.Error("Drop a file first.", print_exception=False)
        progress(0, desc="reading")
        show = lambda step, done, total: progress(done / total, desc=step)  # noqa: E731
        try:
            came, heard, kept, line = restore_upload(
                models[name], Path(path), keep_below, mix, limits, show
            )
        except Exception as error:  # the page goes on, whatever happens to a file
            if not is_mendable(error):
                say_defect(error)
            line = told(error).replace(f"{Path(path).parent}{os.sep}", "")
            raise gradio.Error(html.escape(line), print_exception=False) from error
        return str(came), str(heard), str(kept), line

    page = gradio.Blocks(
        title="Apollo", analytics_enabled=False, delete_cache=(_SWEEP_SECONDS, _KEPT_SECONDS)
    )
    with page:
        gradio.Markdown(_ABOUT)
        with gradio.Row():
            with gradio.Column():
                upload = gradio.File(
                    label=f"Music, up to {limits.megabytes} MB and {limits.minutes:g} minutes",
                    file_types=sorted(audio.SUFFIXES),
                    elem_id="upload",
                )
                names = list(models)
                name = gradio.Dropdown(names, value=names[0], label="Checkpoint")
                keep_below = gradio.Slider(
                    0, 16000, 0, step=100, label="Keep below (Hz)", info="0: restore everything"
                )
                mix = gradio.Slider(
                    0, 1, 1, step=0.05, label="Mix", info="0: as it came, 1: restored"
                )
                button = gradio.Button("Restore", variant="primary", elem_id="restore")
            with gradio.Column():
                line = gradio.Textbox(label="Progress", interactive=False, elem_id="line")
                # Without the button that shares a sound on a public site.
                player = dict(interactive=False, buttons=[])
                came = gradio.Audio(label="As it came", elem_id="came", **player)
                heard = gradio.Audio(label="Restored", elem_id="restored", **player)
                kept = gradio.File(
                    label="Restored, as a file", interactive=False, height=120, elem_id="download"
                )
        button.click(
            restore,
            [upload, name, keep_below, mix],
            [came, heard, kept, line],
            show_progress_on=line,
            api_visibility="private",
        )
    return page.queue(default_concurrency_limit=1, max_size=8, api_open=False)


def serve(
    models: dict[str, "Apollo"],
    limits: Limits,
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = False,
) -> None:
    """Serves the page until interrupted.

    Args:
        models: by the name that they are offered under.
        limits: of uploads.
        host: address to bind to.
        port: likewise.
        open_browser: show the page.

    Raises:
        OSError: where the port is taken.
        ImportError: where gradio is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="apollo-demo-", ignore_cleanup_errors=True) as folder:
        # Read by gradio as it is imported and as the page is built.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        import gradio
        from starlette.middleware import Middleware

        page = build(models, limits)
        try:
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
                theme=gradio.themes.Default(
                    font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
                ),
                app_kwargs={"middleware": [Middleware(_Policy)]},
            )
            tell(f"apollo-demo: http://{host}:{port} (Ctrl-C ends it)")
            while True:
                time.sleep(1)
        finally:
            page.close(verbose=False)


class _Policy:
    """Adds the content security policy to every answer."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", _POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), policy]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``apollo-demo``; returns the exit status."""
    return command("apollo-demo", lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    args, limits = _parse(argv)
    if args.static:
        return serve_static(args.static, args.host, args.port, args.open)
    from ..model import Apollo

    names = dict.fromkeys(args.checkpoint or ["apollo-small"])
    try:
        models = {name: Apollo.from_pretrained(name) for name in names}
        serve(models, limits, args.host, args.port, args.open)
    except KeyboardInterrupt:  # that is how it ends
        pass
    except ImportError as error:
        cure = "pip install 'apollo-plugin[demo]'"
        raise ApolloError(f"the page needs {error.name}: {cure}") from error
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
    add("--port", type=int, default=7860, help="(%(default)s)")
    add("--max-mb", type=int, default=Limits.megabytes, help="size of a file (%(default)s)")
    add("--max-minutes", type=float, default=Limits.minutes, help="its length (%(default)s)")
    add("--static", type=Path, nargs="?", const=SITE, help="serve the page that docs/web makes")
    add("--open", action="store_true", help="show the page in a browser")
    args = parser.parse_args(argv)
    try:
        limits = Limits(args.max_mb, args.max_minutes)
        if not 0 < args.port < 65536:
            raise SettingError(f"port {args.port} is none")
    except SettingError as error:
        parser.error(str(error))
    return args, limits


if __name__ == "__main__":
    sys.exit(main())
