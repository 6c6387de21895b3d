"""A small configuration, and quiet."""

import warnings

import pytest
from helpers import LOCAL

from apollo_plugin.training import load_conf, run

SMALL = """
data: {n_items: 4, segment: 0.1}
model: {feature_dim: 16, n_layers: 1, n_heads: 2, tcn_blocks: 1, residual: true}
discriminator: {windows: [64, 256], channels: 2}
training:
  {epochs: 4, batch_size: 2, num_workers: 0, ema_decay: 0.9, save_top_k: 2, n_examples: 1,
   devices: 1}
"""


@pytest.fixture
def conf(tmp_path):
    (tmp_path / "small.yml").write_text(SMALL)
    conf = load_conf(tmp_path / "small.yml", LOCAL / "conf.yml")
    conf["main_args"] = dict(exp_dir=str(tmp_path / "exp"), data_dir="data", seed=3)
    return conf


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    # It would last for the tests of memory that come later.
    monkeypatch.setattr(run, "keep_freed_memory", lambda every_size: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
