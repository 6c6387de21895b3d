"""The bundled checkpoints on songs it never heard (seeds beyond those of its training)."""

import hashlib
import json
import re

import pytest
import torch
from helpers import tone

from apollo_plugin import Apollo
from apollo_plugin.checkpoints import BUNDLED
from apollo_plugin.checkpoints.loading import WEIGHTS
from apollo_plugin.data.codecs import mp3
from apollo_plugin.data.demo import mixture
from apollo_plugin.diagnose import MP3_EDGES
from apollo_plugin.evaluation.budget import error_budget
from apollo_plugin.export import difference, metadata
from apollo_plugin.metrics import lsd, si_sdr


@pytest.fixture(scope="module", params=sorted(BUNDLED))
def model(request):
    return Apollo.from_pretrained(request.param)


@pytest.mark.parametrize("kbps", [24, 32, 48, 64, 96])
def test_it_beats_the_mp3(model, kbps):
    original = torch.from_numpy(mixture(5.0, seed=1000 + kbps))
    coded = mp3(original, kbps=kbps)
    restored = model.restore(coded)
    assert lsd(restored, original) < 0.7 * lsd(coded, original)
    # Highs of the right level cost SI-SNR, whose phase is a guess; what was there stays.
    before, after = (
        error_budget(wav, original, 44100, MP3_EDGES[kbps]) for wav in (coded, restored)
    )
    assert after.si_sdr_below > before.si_sdr_below - 0.1
    assert after.bias > before.bias + 10
    assert si_sdr(restored, original) > si_sdr(coded, original) - 1


def test_its_exported_step_is_beside_it(model):
    """Of these very weights: ``python tools/steps.py`` makes it anew."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    name, digest = re.fullmatch(r"(\S+) \(sha256 (\w+)\)", model.origin).groups()
    path = WEIGHTS / f"{name}.onnx"
    weights = path.with_suffix(".safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest().startswith(digest)
    properties = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert json.loads(properties["apollo"]) == json.loads(json.dumps(metadata(model, "stream")))
    # Where a band is nearly empty the FFT's rounding alone moves the model by 1e-5.
    assert difference(model, path, "stream") < 1e-5


def test_level_does_not_matter_much(model):
    original = torch.from_numpy(mixture(4.0, seed=1001))
    coded = mp3(original, kbps=48)
    for gain in (0.1, 1.0):
        restored = model.restore(gain * coded) / gain
        assert lsd(restored, original) < 0.8 * lsd(coded, original)


def test_silence_and_short_input(model):
    with torch.no_grad():
        assert not model(torch.zeros(2, 10000)).any()
        assert torch.isfinite(model(tone(1))).all()


def test_music_that_was_never_coded_stays(model):
    original = torch.from_numpy(mixture(5.0, seed=1002))
    assert si_sdr(model.restore(original), original) > 25


def test_the_streaming_one_waits_20_ms():
    model = Apollo.from_pretrained("apollo-small-streaming")
    assert model.latency <= 0.020 * model.sample_rate
    wav = torch.from_numpy(mixture(1.0, seed=1003))
    streamer = model.streamer(n_channels=2)
    live = torch.cat([*map(streamer.feed, wav.split(441, -1)), streamer.flush()], -1)
    torch.testing.assert_close(live, model.restore(wav), rtol=0, atol=1e-5)
