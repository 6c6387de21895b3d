"""The page of ``apollo-demo``: content and style."""

import html
import inspect
import os
import re
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from .guard import Room
from .terminal import is_mendable, say_defect, told
from .upload import Limits, restore_upload

if TYPE_CHECKING:
    import gradio

    from ..engine.protocol import Engine

_ABOUT = """\
# Apollo
Gives music back what MP3 took from it. Nothing leaves this machine."""
# In the colours of the listening page.
_STYLE = """
#example { border: 1px solid var(--line); }
h1, h2 { font-family: var(--text); font-weight: 600; letter-spacing: -.012em; }
#page iframe { width: 100%; height: 50rem; border: 1px solid var(--line); border-radius: .6rem; }
"""


def build(engines: dict[str, "Engine"], limits: Limits, room: Room) -> "gradio.Blocks":
    """Build the page.

    Args:
        engines: by the name shown on the page.
        limits: of uploads.
        room: folder of uploads and results.
    """
    import gradio

    from .. import audio
    from ..data import excerpt

    def restore(path, name, keep_below, mix, progress=gradio.Progress()):  # noqa: B008
        if not path:
            raise gradio.Error("Drop a file first.", print_exception=False)
        progress(0, desc="reading")
        show = lambda step, done, total: progress(done / total, desc=step)  # noqa: E731
        try:
            how = engines[name], Path(path), keep_below, mix, limits
            done = restore_upload(*how, progress=show, room=room)
        except Exception as error:  # a file that fails does not end the page
            if not is_mendable(error):
                say_defect(error)
            line = told(error).replace(f"{Path(path).parent}{os.sep}", "")
            raise gradio.Error(html.escape(line), print_exception=False) from error
        # In a sandboxed frame that may run its own script only; on one line, as Markdown requires.
        inside = html.escape(done.page).replace("\n", "&#10;")
        frame = f'<iframe sandbox="allow-scripts" srcdoc="{inside}"></iframe>'
        return gradio.Column(visible=True), frame, *map(str, done[:3]), html.escape(done.line)

    def example() -> str:
        path = Path(tempfile.mkdtemp(dir=room.folder)) / "orchestra.mp3"
        path.write_bytes(excerpt.coded())
        return str(path)

    page = gradio.Blocks(title="Apollo", analytics_enabled=False)
    with page:
        gradio.Markdown(_ABOUT)
        with gradio.Row():
            with gradio.Column(scale=1, min_width=320):
                upload = gradio.File(
                    label=f"Music, up to {limits.megabytes} MB and {limits.minutes:g} minutes",
                    file_types=sorted(audio.SUFFIXES),
                    elem_id="upload",
                )
                names = list(engines)
                name = gradio.Dropdown(
                    names, value=names[0], label="Checkpoint", visible=len(names) > 1
                )
                keep_below = gradio.Slider(
                    0, 16000, 0, step=100, label="Keep below (Hz)", info="0: restore everything"
                )
                mix = gradio.Slider(
                    0, 1, 1, step=0.05, label="Mix", info="0: as it came, 1: restored"
                )
                button = gradio.Button("Restore", variant="primary", elem_id="restore")
                trial = gradio.Button("Try an orchestra", elem_id="example")
                gradio.Markdown(excerpt.CREDIT)
            with gradio.Column(scale=3, min_width=480):
                line = gradio.Markdown("The result appears here.", elem_id="line", min_height=60)
                # Empty outputs are hidden.
                with gradio.Column(visible=False) as result:
                    # Gradio's own component for HTML needs `eval`, which the page may not use.
                    shown = gradio.Markdown(
                        elem_id="page", sanitize_html=False, latex_delimiters=[]
                    )
                    with gradio.Row():
                        came, heard = (
                            # Without the button that shares a sound on a public site.
                            gradio.Audio(label=label, elem_id=key, interactive=False, buttons=[])
                            for key, label in (
                                ("came", "All of it, as it came"),
                                ("restored", "All of it, restored"),
                            )
                        )
                    kept = gradio.File(
                        label="Restored, as a file",
                        interactive=False,
                        height=120,
                        elem_id="download",
                    )
        given = [upload, name, keep_below, mix]
        results = [result, shown, came, heard, kept, line]
        example_given = trial.click(example, None, upload, api_visibility="private")
        for event in (button.click, example_given.then):
            event(restore, given, results, show_progress_on=line, api_visibility="private")
    return page.queue(default_concurrency_limit=1, max_size=8, api_open=False)


def theme() -> "gradio.Theme":
    """Gradio's theme in the colours and fonts of the listening page."""
    import gradio

    # Its names by the page's.
    colours = {
        "paper": "body_background_fill background_fill_primary",
        "raised": "background_fill_secondary block_background_fill block_label_background_fill "
        "input_background_fill button_secondary_background_fill",
        "ink": "body_text_color block_title_text_color button_secondary_text_color",
        "soft": "block_label_text_color body_text_color_subdued block_info_text_color",
        "line": "border_color_primary block_border_color input_border_color "
        "button_secondary_background_fill_hover",
        "accent": "button_primary_background_fill button_primary_background_fill_hover "
        "slider_color color_accent loader_color link_text_color",
        "on-accent": "button_primary_text_color",
    }
    letters = gradio.themes.Base(
        font=["var(--label)", "system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    values = {
        name: f"var(--{colour})" for colour, names in colours.items() for name in names.split()
    }
    # The colours themselves switch between light and dark; some have no dark variant.
    night = {f"{name}_dark": value for name, value in values.items()}
    known = inspect.signature(letters.set).parameters
    return letters.set(**values, **{name: night[name] for name in night if name in known})


def style() -> str:
    """Style sheet: the listening page's light and dark colours, which are its first two rules, and
    styles that gradio's themes do not cover."""
    page = (files("apollo_plugin") / "report" / "page.html").read_text("utf-8")
    day, night = re.findall(r"^ *:root \{.*?\}", page, re.S | re.M)[:2]
    return f"{day}\n@media (prefers-color-scheme: dark) {{ {night} }}\n{_STYLE}"
