"""Model cards in Markdown, with the Hub's metadata."""

from collections.abc import Sequence
from typing import Any

from ..network.base import RestorationNetwork

_CARD = """\
# {name}

{about}: it restores music that was coded by MP3 or another lossy codec.

```python
from apollo_plugin import {cls}

model = {cls}.from_pretrained("{id}")
restored = model.restore(wav)  # (channels, time) at {rate:g} Hz
```

```bash
apollo-restore song.mp3 --checkpoint {id}
```

| | |
| --- | --- |
| parameters | {n_parameters:,} |
| sample rate | {rate:g} Hz |
| latency of a stream | {latency_ms:.0f} ms |
{arguments}
"""
_ABOUT = {
    "Apollo": "A model of [Apollo](https://arxiv.org/abs/2409.08514), band-sequence modelling for "
    "audio\nrestoration",
    "SRGAN": "A model of SR-GAN ([Lattner and Nistal](https://arxiv.org/abs/2207.01667)), "
    "implemented anew",
}
_FIGURES = """
## Figures

{figures}
SI-SNR, SNR and SDR in dB, higher is better; LSD, lower is better; ViSQOL, 1 to 4.7, and
Zimtohrli, 1 to 5, higher is better.
"""
_DATA = """
## Training data and its licences

{data}

| data | by | licence | commercial use |
| --- | --- | --- | --- |
{sources}

The weights are learnt from these recordings: use and pass them on under their terms.
"""
_LIMITS = """
## Limits

Frequencies above the codec's cut-off are a plausible guess, not the original. Codecs that were not
in the training data are not covered. Below the cut-off the untouched file may be closer to the
original; the tables have a row for it.
"""


def model_card(
    model: RestorationNetwork,
    name: str,
    license: str | None = None,
    figures: str = "",
    data: str = "",
    sources: Sequence[dict[str, Any]] = (),
) -> str:
    """Write a default model card, with description and usage.

    Args:
        model: model to describe.
        name: id on the Hub, or another name that ``from_pretrained`` takes.
        license: license identifier of the Hub (``"mit"``, ``"cc-by-sa-4.0"``).
        figures: results, as tables in Markdown.
        data: description of the training data.
        sources: its licences in Asteroid's form: ``title``, ``title_link``, ``author``,
            ``license``, ``non_commercial``.
    """
    from huggingface_hub import ModelCardData

    head = ModelCardData(
        license=license,
        license_name="non-commercial-training-data" if license == "other" else None,
        library_name="asteroid",
        pipeline_tag="audio-to-audio",
        tags=["apollo", "apollo-plugin", "asteroid", "audio-restoration", "music"],
    )
    parts = [
        _CARD.format(
            name=name.removeprefix("OWNER/"),
            cls=type(model).__name__,
            about=_ABOUT.get(type(model).__name__, _ABOUT["Apollo"]),
            id=name,
            rate=model.sample_rate,
            n_parameters=sum(weight.numel() for weight in model.parameters()),
            latency_ms=1000 * model.latency / model.sample_rate,
            arguments="\n".join(f"| `{k}` | {v} |" for k, v in model.get_model_args().items()),
        )
    ]
    if figures:
        parts.append(_FIGURES.format(figures=figures))
    if data:
        commercial = {True: "no", None: "unknown"}
        rows = "\n".join(
            f"| {_linked(entry)} | {entry['author']} | {entry['license']} | "
            f"{commercial.get(entry.get('non_commercial', False), 'yes')} |"
            for entry in sources
        )
        parts.append(_DATA.format(data=data, sources=rows))
    return f"---\n{head.to_yaml()}\n---\n\n{''.join(parts)}{_LIMITS if figures or data else ''}"


def _linked(entry: dict[str, Any]) -> str:
    return f"[{entry['title']}]({entry['title_link']})" if entry["title_link"] else entry["title"]
