"""``--list``: known checkpoints, and which of them are on this machine."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..bundled import BUNDLED, WEIGHTS
from .options import Options
from .terminal import tell


@dataclass(frozen=True)
class Known:
    """A checkpoint.

    Args:
        name: as given to ``--checkpoint``.
        megabytes: size of the file.
        parameters: their number.
        licence: of the weights, as their authors state it.
        purpose: its use.
        here: True if it is on this machine.
    """

    name: str
    megabytes: float
    parameters: int
    licence: str
    purpose: str
    here: bool = False


_MUSIC = "music from MP3s of 24 to 128 kbit/s"
_PURPOSES = {
    "apollo-small": f"{_MUSIC}; small and quick",
    "apollo-small-streaming": f"{_MUSIC}, live, 20 ms late",
}
# Published Apollos: 256 x 6, 384 x 6, 384 x 8.
_SIZES = 16_539_308, 36_604_076, 48_434_348
_UNSTATED = "none stated that we know of; see its page"
_ON_HUB = (
    Known("JusperLee/Apollo", 66.5, _SIZES[0], "CC BY-SA 4.0", f"{_MUSIC}; the authors' own"),
    Known(
        "Sucial/MSST-WebUI/All_Models/single_stem_models/apollo_model_uni.ckpt",
        146.5,
        _SIZES[1],
        _UNSTATED,
        "any lossy music; Lew's universal model",
    ),
    Known(
        "baicai1145/Apollo-vocal-msst/model_apollo_vocals_ep_54.ckpt",
        194.0,
        _SIZES[2],
        _UNSTATED,
        "voices that were separated from music",
    ),
    Known(
        "Politrees/UVR_resources/models/Apollo/apollo_edm_big_by_essid.ckpt",
        222.0,
        _SIZES[0],
        _UNSTATED,
        "electronic music; by essid",
    ),
)
# Default files of Hub ids given without one.
_AUTHORS_FILE = "pytorch_model.bin"


def listing(options: Options) -> int:
    """Print all checkpoints; return the exit status."""
    for each in known():
        if options.json:
            tell(json.dumps(asdict(each)))
            continue
        where = "here" if each.here else "downloaded when it is first used"
        tell(f"{each.name}  ({where})")
        tell(f"    {each.purpose}")
        size = f"{each.megabytes:.1f} MB, {each.parameters / 1e6:.2f} M parameters"
        tell(f"    {size}; licence of the weights: {each.licence}")
    if not options.json:
        tell("--checkpoint takes others too: owner/name or owner/name/file of the Hub, or a path.")
    return 0


def known() -> Iterator[Known]:
    """Bundled checkpoints and known ones on the Hub; needs no network."""
    for name, (weights, _) in BUNDLED.items():
        path = WEIGHTS / weights
        card = path.with_suffix(".md").read_text(encoding="utf-8")
        stated = re.search(r"^\| licence \| (.+?) \|$", card, re.MULTILINE)
        licence = stated[1] if stated else "none stated"
        size = path.stat().st_size / 1e6
        yield Known(name, size, _parameters(path), licence, _PURPOSES[name], True)
    for each in _ON_HUB:
        owner, model, *file = each.name.split("/", 2)
        here = _is_cached(f"{owner}/{model}", file[0] if file else _AUTHORS_FILE)
        yield replace(each, here=here)


def _is_cached(repo: str, file: str) -> bool:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # the light installation
        return False
    return isinstance(try_to_load_from_cache(repo, file), str)


def _parameters(path: Path) -> int:
    """Number of parameters by the header of safetensors: its length in eight bytes, then JSON."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(math.prod(each["shape"]) for name, each in header.items() if name[:2] != "__")
