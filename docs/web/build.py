"""Builds the page that restores music in a browser: a folder of static files for any web server.

The player is the listening page's, the models are exported ones, the runtime is onnxruntime-web.
"""

import argparse
import gzip
import hashlib
import html
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import torch

from apollo_plugin.cli.static import HEADERS, POLICY, SITE
from apollo_plugin.cli.terminal import run, say, tell
from apollo_plugin.data import excerpt
from apollo_plugin.errors import ApolloError
from apollo_plugin.network.base import INPUT_PEAK
from apollo_plugin.report.plots import RANGE_DB, STOPS
from apollo_plugin.restore import model_level

HERE = Path(__file__).parent
RUNTIME = HERE / "node_modules" / "onnxruntime-web"
RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
)
PROGRAM = "ort-wasm-simd-threaded.wasm"
MOST_BYTES = 15_000_000


def install() -> None:
    """Brings the runtime that package-lock.json names, unless it is there.

    Raises:
        ApolloError: where npm is missing or brings nothing.
    """
    version = json.loads((HERE / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    have = RUNTIME / "package.json"
    if have.exists() and json.loads(have.read_text())["version"] == version:
        return
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(HERE)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except FileNotFoundError as error:
        raise ApolloError("the page's runtime comes from npm, which is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ApolloError("npm ci brought nothing for five minutes") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[0]
        raise ApolloError(f"npm ci failed: {reason}") from error


def build(folder: Path, models: Mapping[str, Path]) -> int:
    """Writes the folder, whole or not at all; one of before is replaced.

    Args:
        folder: of the page.
        models: ``restore`` and ``live``: streaming steps as ``apollo-export`` writes them.

    Returns:
        bytes in all.

    Raises:
        ApolloError: where the folder holds something else, or would be too large to host.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "sw.js").exists():
        raise ApolloError(f"'{folder}' is there already and no page of before")
    install()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        site = Path(beside) / "site"
        shutil.copytree(HERE / "src", site)
        report = files("apollo_plugin.report")
        (site / "player.js").write_text(report.joinpath("page.js").read_text("utf-8"), "utf-8")
        style = report.joinpath("page.html").read_text("utf-8")
        style = style.partition("<style>\n")[2].partition("</style>")[0]
        (site / "player.css").write_text(style, "utf-8")
        least = model_level(torch.zeros(1), 1.0)
        shared = {"STOPS": STOPS, "RANGE_DB": RANGE_DB}
        shared |= {"INPUT_PEAK": INPUT_PEAK, "LEAST_PEAK": least}
        lines = [f"export const {name} = {json.dumps(value)};\n" for name, value in shared.items()]
        (site / "shared.js").write_text("".join(lines))
        _fill(site / "index.html", policy=POLICY, credit=html.escape(excerpt.CREDIT))
        (site / "excerpt.mp3").write_bytes(excerpt.coded())
        (site / "ort").mkdir()
        for name in RUNTIME_FILES:
            shutil.copyfile(RUNTIME / "dist" / name, site / "ort" / name)
        # A quarter of its size; the page unpacks it, since few plain hosts would.
        packed = gzip.compress((RUNTIME / "dist" / PROGRAM).read_bytes(), mtime=0)
        (site / "ort" / f"{PROGRAM}.packed").write_bytes(packed)
        (site / "ort" / "LICENCES.txt").write_text(licences(), "utf-8")
        (site / "models").mkdir()
        for name, path in models.items():
            shutil.copyfile(path, site / "models" / f"{name}.onnx")
            (site / "models" / f"{name}.json").write_text(_metadata(path))
        names = sorted(p.relative_to(site).as_posix() for p in site.rglob("*") if p.is_file())
        names.remove("sw.js")
        version = hashlib.sha256()
        for name in names:
            version.update(name.encode() + (site / name).read_bytes())
        _fill(
            site / "sw.js",
            version=version.hexdigest()[:16],
            files=json.dumps(["./", *names]),
            headers=json.dumps(HEADERS),
        )
        size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
        if size > MOST_BYTES:
            raise ApolloError(f"the page would be {size / 1e6:.1f} MB; {MOST_BYTES / 1e6:g} fit")
        if folder.exists():
            folder.replace(Path(beside) / "before")
        site.replace(folder)
    return size


def licences() -> str:
    """The terms of the runtime: onnxruntime's, which come with its Python package and not with that
    of npm, and those of the packages that npm brings along."""
    wheel = files("onnxruntime")
    parts = [
        wheel.joinpath(name).read_text("utf-8") for name in ("LICENSE", "ThirdPartyNotices.txt")
    ]
    for about in sorted((HERE / "node_modules").glob("**/package.json")):
        found = json.loads(about.read_text("utf-8"))
        texts = sorted(about.parent.glob("LICENSE*"))
        if "license" in found and "version" in found:
            parts.append(f"{found['name']} {found['version']}: {found['license']}\n")
            parts += [text.read_text("utf-8") for text in texts]
    return f"\n{'-' * 100}\n\n".join(parts)


def _fill(path: Path, **values: str) -> None:
    text = path.read_text("utf-8")
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    path.write_text(text, "utf-8")


def _metadata(path: Path) -> str:
    import onnx

    model = onnx.load(path)
    return next(entry.value for entry in model.metadata_props if entry.key == "apollo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=SITE, help="folder (%(default)s)")
    parser.add_argument("--restore", default="apollo-small", help="checkpoint for files")
    parser.add_argument(
        "--live", default="apollo-small-streaming", help="checkpoint for live sound"
    )
    args = parser.parse_args()
    say("1 of 4: the runtime, by npm")
    install()
    from apollo_plugin import Apollo
    from apollo_plugin.export import export

    with tempfile.TemporaryDirectory() as folder:
        models = {}
        for step, name in enumerate(("restore", "live"), 2):
            checkpoint = getattr(args, name)
            say(f"{step} of 4: {checkpoint}, exported and compared with itself (a minute or more)")
            models[name] = Path(folder) / f"{name}.onnx"
            export(Apollo.from_pretrained(checkpoint), models[name], "stream")
        say("4 of 4: the folder")
        size = build(args.out, models)
    tell(f"{args.out}  ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run(main)
