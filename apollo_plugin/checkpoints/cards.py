"""Model cards in Markdown, with the Hub's head."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import yaml

from ..data.dataset import MOISESDB_LICENSE

if TYPE_CHECKING:
    from ..network.apollo import ApolloNetwork

RECIPE = "musdb18hq_moises/Apollo"
_CARD = """\
# {name}

A model of [Apollo](https://arxiv.org/abs/2409.08514), band-sequence modelling for audio
restoration: it gives music back what MP3 and other lossy coding took from it.

```python
from apollo_plugin import Apollo

model = Apollo.from_pretrained("{name}")
restored = model.restore(wav)  # (channels, time) at {rate:g} Hz
```

```bash
apollo-restore song.mp3 --checkpoint {name}
```

| | |
| --- | --- |
| parameters | {n_parameters:,} |
| sample rate | {rate:g} Hz |
| latency of a stream | {latency_ms:.0f} ms |
{arguments}
"""


def model_card(model: "ApolloNetwork", name: str, license: str | None = None) -> str:
    """The card that stands for a model of which nobody wrote one: what it is and how to use it.

    Args:
        model: an Apollo.
        name: id on the Hub, or what else ``from_pretrained`` takes.
        license: identifier of the Hub's (``"mit"``, ``"cc-by-sa-4.0"``).
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=license,
        library_name="asteroid",
        pipeline_tag="audio-to-audio",
        tags=["apollo", "apollo-plugin", "asteroid", "audio-restoration", "music"],
    )
    text = _CARD.format(
        name=name,
        rate=model.sample_rate,
        n_parameters=sum(weight.numel() for weight in model.parameters()),
        latency_ms=1000 * model.latency / model.sample_rate,
        arguments="\n".join(f"| `{k}` | {v} |" for k, v in model.get_model_args().items()),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def card(name: str, package: dict[str, Any], figures: str) -> str:
    """The model card in Markdown.

    Args:
        name: of the experiment.
        package: Asteroid's, with ``dataset`` and ``licenses``.
        figures: tables in Markdown.
    """
    licenses = package["licenses"]
    n_parameters = sum(value.numel() for value in package["state_dict"].values())
    head = {
        "license": _license_id(licenses),
        "library_name": "asteroid",
        "pipeline_tag": "audio-to-audio",
        "tags": ["apollo", "asteroid", "audio-restoration", "music", "mp3"],
    }
    if head["license"] == "other":
        head["license_name"] = "non-commercial-training-data"
    arguments = ", ".join(f"{key}={value!r}" for key, value in package["model_args"].items())
    sources = "\n".join(
        f"| [{entry['title']}]({entry['title_link']}) | {entry['author']} | {entry['license']} | "
        f"{'no' if entry.get('non_commercial') else 'yes'} |"
        for entry in licenses
    )
    return f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# {name}

Restores music that went through MP3: [Apollo: band-sequence modelling for high-quality audio
restoration](https://arxiv.org/abs/2409.08514), trained with the recipe `{RECIPE}` of apollo_plugin.

```python
import apollo_plugin
model = apollo_plugin.Apollo.from_pretrained("OWNER/{name}")
restored = model.restore(wav)   # (channels, time) at {package["model_args"]["sample_rate"]:g} Hz
```

```bash
apollo-restore song.mp3 --checkpoint OWNER/{name}
```

{n_parameters / 1e6:.2f} M parameters: `{arguments}`.

## Figures

{figures or "See final_metrics in model.pth."}
SI-SNR, SNR and SDR in dB, higher is better; LSD, lower is better; ViSQOL, 1 to 4.7, higher is
better, hears nothing above 15 kHz.

## Training data and its licences

{package["dataset"]}

| data | by | licence | commercial use |
| --- | --- | --- | --- |
{sources}

The weights are learnt from these recordings: use and pass them on under their terms.

## Limits

What lies above the MP3's cut-off is a plausible guess, not what was there. Trained on MP3 by LAME;
other codecs were not heard. Below the cut-off the untouched MP3 may be closer to the original: the
tables have its row.
"""


def _license_id(licenses: Sequence[dict[str, Any]]) -> str:
    """The Hub's name of the strictest licence among the training data's."""
    if any(entry.get("license") == MOISESDB_LICENSE["license"] for entry in licenses):
        return "cc-by-nc-sa-4.0"
    return "other" if any(entry.get("non_commercial") for entry in licenses) else "mit"
