"""Writes the recipe's conf.yml and conf_srgan.yml from apollo_plugin/training/keys.py."""

from pathlib import Path

from apollo_plugin.training import keys
from apollo_plugin.training.schema import render

LOCAL = Path(__file__).parents[1] / "recipes" / "musdb18hq_moises" / "local"
TEXTS = {
    "conf.yml": render(keys.APOLLO, keys.APOLLO_HEAD),
    "conf_srgan.yml": render(keys.SRGAN, keys.SRGAN_HEAD),
}

if __name__ == "__main__":
    for name, text in TEXTS.items():
        (LOCAL / name).write_text(text)
