"""Wrappers of weights that people make, what they put beside them, and files that hold none."""

import math
import random
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
import pytest
import torch
from helpers import GOLDEN, small_model, tone

from apollo_plugin import Apollo
from apollo_plugin.checkpoints import CheckpointError, arguments
from apollo_plugin.checkpoints.cards import model_card
from apollo_plugin.checkpoints.published_layout import _rate_and_window, convert
from apollo_plugin.checkpoints.unwrapping import _describe_other, mappings_of, unwrap


def published() -> dict[str, torch.Tensor]:
    return torch.load(GOLDEN / "published_layout.bin", weights_only=True)["state_dict"]


def same(path, half=False):
    """True if a file holds the golden weights."""
    one, other = Apollo.from_pretrained(path), Apollo.from_pretrained(
        GOLDEN / "published_layout.bin"
    )
    tolerance = 1e-3 if half else 0
    for key, value in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[key], value, rtol=tolerance, atol=tolerance)


WRAPPERS = ["model_state_dict", "model", "generator", "state", "net", "params", "params_ema"]
WRAPPERS += ["state_dict", "ema", "g_ema", "network", "weights"]
PREFIXES = [
    "ema_model.",
    "net_g.",
    "apollo.",
    "module.",
    "_orig_mod.",
    "generator._orig_mod.module.",
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(wrapper, tmp_path):
    torch.save({wrapper: published(), "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "a.pth")
    same(tmp_path / "a.pth")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("wrapper", ["", "model", "state.params"])
def test_prefixes_in_wrappers(prefix, wrapper, tmp_path):
    content = {prefix + key: value.half() for key, value in published().items()}
    for word in filter(None, reversed(wrapper.split("."))):
        content = {word: content, "step": 1}
    torch.save(content, tmp_path / "a.pth")
    same(tmp_path / "a.pth", half=True)


def test_the_average_is_taken_and_of_two_others_none(tmp_path):
    state = published()
    noisy = {key: value + 1 for key, value in state.items()}
    for content in (
        {"params": noisy, "params_ema": state},
        {"model": noisy, "ema": {"module": state}},
        {f"model.{k}": v for k, v in noisy.items()}
        | {f"average.module.{k}": v for k, v in state.items()},
    ):
        torch.save(content, tmp_path / "a.pth")
        same(tmp_path / "a.pth")
    for one, other in ((noisy, state), (state, noisy)):
        content = {f"a.{k}": v for k, v in one.items()} | {f"b.{k}": v for k, v in other.items()}
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match="several models, 'a\\.\\*' and 'b\\.\\*'"):
            Apollo.from_pretrained(tmp_path / "a.pth")


def test_two_models_are_one_where_they_are_the_same_memory():
    memory = torch.arange(12.0)
    low, high, wide = memory[:4], memory[4:8], memory[::2][:4]
    for one, other, alike in [(low, low, True), (low, high, False), (high, low, False),
                              (low, wide, False), (low, memory[:5], False),
                              (low, low.view(torch.int32), False)]:  # fmt: skip
        content = {"a.BN.0.1.weight": one, "b.BN.0.1.weight": other}
        if alike:
            assert unwrap(content, "it").state["BN.0.1.weight"] is one
        else:
            with pytest.raises(CheckpointError, match="several models"):
                unwrap(content, "it")


@pytest.mark.parametrize("legacy", [False, True])
def test_what_lies_beside_the_weights(legacy, tmp_path):
    import datetime
    from collections import defaultdict, deque
    from pathlib import PurePosixPath

    beside = {
        "scalar": np.float64(1.5),
        "integers": [np.int64(3), np.bool_(True)],
        "array": np.arange(6.0).reshape(2, 3),
        "words": np.array(["a", "b"]),
        "numpy": np.random.get_state(),
        "generator": np.random.default_rng(0),
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "when": datetime.datetime(2026, 1, 2),
        "path": PurePosixPath("a/b"),
        "history": deque([1, 2], 5),
        "by default": defaultdict(list, a=[1]),
        "kinds": {1, "a"},
        "raw": b"bytes",
    }
    torch.save(
        {"state_dict": published(), "beside": beside},
        tmp_path / "a.ckpt",
        _use_new_zipfile_serialization=not legacy,
    )
    same(tmp_path / "a.ckpt")


def resized(n_bins: int) -> dict[str, torch.Tensor]:
    """The golden weights with a last band that fills so many bins."""
    state = published()
    width = n_bins // 80
    for band in range(80):
        bins = width if band < 79 else n_bins - 79 * width
        state[f"BN.{band}.0.weight"] = torch.ones(2 * bins + 1)
        state[f"BN.{band}.1.weight"] = torch.zeros(32, 2 * bins + 1, 1)
        state[f"output.{band}.1.weight"] = torch.zeros(4 * bins, 32, 1)
        state[f"output.{band}.1.bias"] = torch.zeros(4 * bins)
    return state


@pytest.mark.parametrize(
    "n_bins, args, rate, win_ms",
    [
        (221, {"sr": 44100, "win": 10}, 44100, 10),
        (221, {"sample_rate": 44100, "win_ms": 10.0}, 44100, 10),
        (221, {"win": 10}, 44100, 10),
        (481, {"sr": 48000, "win": 20}, 48000, 20),
        (481, {"net": {"sr": 24000, "win": 40}}, 24000, 40),
        (442, {"n_sample_rate": 2}, 44100, 20),
        (442, {"sr": "44100", "win": None}, 44100, 20),
    ],
)
def test_rate_and_window_where_the_tensors_agree(n_bins, args, rate, win_ms, tmp_path):
    torch.save({"state_dict": resized(n_bins), "model_args": args}, tmp_path / "a.bin")
    found = Apollo.from_pretrained(tmp_path / "a.bin").get_model_args()
    assert (found["sample_rate"], found["win_ms"]) == (rate, win_ms)


@pytest.mark.parametrize(
    "n_bins, args, line",
    [
        (221, {}, "441|440 samples may be 20 ms at 22050 Hz or 10 ms at 44100 Hz"),
        (221, {"sr": 48000, "win": 20}, "pass sample_rate and win_ms"),  # the tensors say no
        (241, {}, "20 ms at 24000 Hz or 10 ms at 48000 Hz"),
        (883, {}, "20 ms at 88200 Hz or 40 ms at 44100 Hz"),
        (961, {}, "20 ms at 96000 Hz or 40 ms at 48000 Hz"),
    ],
)
def test_a_window_of_several_rates_is_asked_for(n_bins, args, line):
    with pytest.raises(ValueError, match=line):
        _rate_and_window(n_bins, [(args.get("sr"), args.get("win"))] if args else [])
    for rate, win_ms in ((44100, 10), (44100, 40), (22050, 20), (48000, 10), (96000, 20)):
        if int(rate * win_ms / 1000) // 2 + 1 == n_bins:
            found = _rate_and_window(n_bins, [(rate, win_ms)])
            assert found == dict(sample_rate=rate, win_ms=win_ms)


def test_the_published_windows_are_not_asked_for():
    for n_bins, rate in ((442, 44100), (481, 48000), (161, 16000)):
        assert _rate_and_window(n_bins, []) == dict(sample_rate=rate)


@pytest.mark.parametrize(
    "content, what",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n", "Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page"),
        (b"\n <html lang='en'>", "an HTML page"),
        (b"<?xml version='1.0'?><Error/>", "an XML page"),
        (b'{"error": "Repository not found"}', "JSON"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"RIFF\0\0\0\0WAVEfmt ", "a sound file"),
        (b"\x1f\x8b\x08\0", "a compressed file"),
    ],
)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_files_that_are_something_else(content, what, suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=what) as caught:
        Apollo.from_pretrained(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, what",
    [
        ({"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}, "an optimizer's state"),
        ({"tencoder.0.conv.weight": torch.zeros(2)}, "Demucs"),
        ({"discriminators.0.convs.0.bias": torch.zeros(2)}, "a discriminator"),
        ({"model_name": "SRGAN", "state_dict": {"encoder.0.weight": torch.zeros(2)}}, "a SRGAN"),
    ],
)
def test_other_models_are_named(content, what, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"another model than Apollo.*{what}"):
        Apollo.from_pretrained(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_types_that_are_no_weights_are_named(kind, tmp_path):
    torch.save({key: value.to(kind) for key, value in published().items()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"{kind}.*16, 32 or 64 bits"):
        Apollo.from_pretrained(tmp_path / "a.pth")


@torch.no_grad()
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_types_that_are(kind, tmp_path):
    package, wav = small_model().serialize(), tone(2000)
    package["state_dict"] = {key: value.to(kind) for key, value in package["state_dict"].items()}
    torch.save(package, tmp_path / "a.pth")
    assert torch.isfinite(Apollo.from_pretrained(tmp_path / "a.pth")(wav)).all()


@pytest.mark.parametrize(
    "argument, value",
    [("causal", "false"), ("n_layers", 6.0), ("sample_rate", float("inf")), ("bands", True)],
)
def test_arguments_are_what_the_signature_says(argument, value, tmp_path):
    package = small_model().serialize()
    package["model_args"][argument] = value
    torch.save(package, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=f"its {argument} is"):
        Apollo.from_pretrained(tmp_path / "a.pth")


def test_the_card_tells_every_argument():
    model = small_model(residual=True)
    text = model_card(model, "me/it")
    assert all(f"| `{key}` | {value} |" in text for key, value in model.get_model_args().items())


# ----------------------------------------------------------------------------- exact, without files


@pytest.mark.parametrize(
    "value, hint, fits",
    [
        (1, int, True),
        (1.0, int, False),
        (True, int, False),
        (1, float, True),
        (1.5, float, True),
        (True, float, False),
        ("1", float, False),
        (None, float, False),
        ("a", str, True),
        (None, None, True),
        (None, type(None), True),
        (0, None, False),
        (None, float | None, True),
        (2, float | None, True),
        ("a", float | None, False),
        ("a", Optional[str], True),  # noqa: UP045
        (1, Optional[str], False),  # noqa: UP045
        ([1, 2], list[int], True),
        ((1, 2), list[int], True),
        ([1, 2.5], list[int], False),
        ([1, 2.5], Sequence[float], True),
        ({1, 2}, list[int], False),
        ((1, 2, 3), tuple[int, ...], True),
        ([], list[int], True),
        *((value, Any, True) for value in (None, True, 1, 1.5, "a", [1], (1,))),
        *((value, Any, False) for value in ({}, {1}, b"a", 1j)),
    ],
)
def test_types_of_signatures(value, hint, fits):
    assert arguments._fits(value, hint) is fits


@pytest.mark.parametrize(
    "value, bounded",
    [
        *(
            (value, True)
            for value in (None, True, 10_000_000, -10_000_000, 1e7, [], [1, None, "a"])
        ),
        *((value, False) for value in (10_000_001, -10_000_001, 1e7 + 1, math.inf, math.nan)),
        *(("x" * 4096, True), ("x" * 4097, False), ([1] * 4096, True), ([1] * 4097, False)),
        *(((1,) * 4096, True), ([[1]], False), ([(1,)], False), ([1, 10_000_001], False)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_plausible_sizes(value, bounded):
    assert arguments._is_bounded(value) is bounded


class Linear(torch.nn.Module):
    """As many outputs as half a window has samples."""

    def __init__(self, n: int = 2, sample_rate: float = 1000, win_ms: float = 10, name: str = "a"):
        super().__init__()
        if n == 13:
            raise ValueError("an unlucky number")
        self.linear = torch.nn.Linear(n, 4, bias=False)


@pytest.mark.parametrize(
    "given, told",
    [
        ({}, ""),
        ({"n": 2, "name": "b"}, ""),
        # Half a window has no more samples than there are weights: 8.
        ({"win_ms": 16}, ""),
        ({"win_ms": 16.1}, "its sample_rate is 1000, its win_ms 16.1; expected"),
        ({"sample_rate": 1600}, ""),
        ({"sample_rate": 1601}, "its sample_rate is 1601, its win_ms 10; expected"),
        ({"sample_rate": 999}, "its sample_rate is 999, its win_ms 10; expected"),
        ({"win_ms": 1}, ""),
        ({"win_ms": 0.9}, "its sample_rate is 1000, its win_ms 0.9; expected"),
        ({"win_ms": 1, "sample_rate": 16000}, ""),
        (
            {"win_ms": 1, "sample_rate": 16001},
            "its sample_rate is 16001, its win_ms 1; expected",
        ),
        ({"n": 2.0}, "its n is 2.0; expected int of a plausible size"),
        ({"n": 10**8}, "its n is 100000000; expected int of a plausible size"),
        ({"n": 3}, "linear.weight has shape (4, 2) and not (4, 3), with n=3"),
        ({"n": 13}, "an unlucky number, with n=13"),
        ({"m": 3}, "got an unexpected keyword argument 'm'"),
    ],
)
def test_arguments_against_tensors(given, told):
    state = {"linear.weight": torch.zeros(4, 2)}
    if not told:
        return arguments.verify(Linear, (), given, state)
    with pytest.raises(CheckpointError) as caught:
        arguments.verify(Linear, (), given, state)
    ranges = " 1,000 to 1,000,000 Hz and 1 to 1,000 ms" if told.endswith("expected") else ""
    assert str(caught.value) == told + ranges


@pytest.mark.parametrize(
    "state, told",
    [
        ({}, "its sample_rate is 1000, its win_ms 10; expected"),
        ({"other": torch.zeros(9)}, "it lacks linear.weight, with name='b'"),
        (
            {"linear.weight": torch.zeros(4, 2), "l\n": torch.zeros(1)},
            r"it also holds l\n, with name='b'",
        ),
    ],
)
def test_tensors_against_arguments(state, told):
    with pytest.raises(CheckpointError) as caught:
        arguments.verify(Linear, (), {"name": "b"}, state)
    assert str(caught.value).startswith(told)


class Many(torch.nn.Module):
    """A tensor for each of two calls of torch."""

    def __init__(self, n: int):
        super().__init__()
        for index in range(n):
            self.register_buffer(f"b{index}", torch.zeros(1).add(1))


@pytest.mark.parametrize("n_tensors, most", [(0, 200), (1, 212), (10, 320)])
def test_a_model_with_too_many_calls_is_not_built(n_tensors, most):
    """Twelve for each tensor of the file, and two hundred."""
    shapes = arguments._state_shapes(Many, (), {"n": most // 2}, n_tensors)
    assert shapes == {f"b{index}": (1,) for index in range(most // 2)}
    told = f"they describe a larger model than the file holds: n={most // 2 + 1}"
    with pytest.raises(CheckpointError, match=f"^{told}$"):
        arguments._state_shapes(Many, (), {"n": most // 2 + 1}, n_tensors)


ONE = torch.zeros(1)


@pytest.mark.parametrize(
    "content, told",
    [
        ({}, ""),
        ({"model_name": "Apollo", "a": ONE}, ": its first tensor is a"),
        ({"model_name": "Other\n"}, r": it is a Other\n"),
        ({"model_name": 5, "b": {"c\n" * 90: ONE}}, r": its first tensor is " + (r"c\n" * 90)[:80]),
        ({"param_groups": [], "state": {}}, ": it is an optimizer's state"),
        ({"state": {"a": ONE}}, ": its first tensor is a"),
        ({"param_groups": [], "a": ONE}, ": its first tensor is a"),
        ({5: ONE, "a": 3}, ""),
    ]
    + [
        ({"x": {name: ONE}}, f": its names are those of {model}")
        for name, model in (
            ("tencoder.0.conv", "Demucs"),
            ("tdecoder.3.x", "Demucs"),
            ("encoder.12.rewrite.weight", "Demucs"),
            ("a.lstm.lstm.weight", "Demucs"),
            ("band_split.to_features.0", "a band-split Roformer"),
            ("masker.TCN.0", "a separator of Asteroid's"),
            ("masker.intra_RNN0", "a separator of Asteroid's"),
            ("separator.band_split.0", "a band-split RNN"),
            ("BN.3.0.gamma", "a band-split RNN"),
            ("fc1.weight", "Open-Unmix or another recurrent network"),
            ("x.lstm.weight_ih_l0", "Open-Unmix or another recurrent network"),
            ("a.disc.0", "a discriminator"),
            ("mpd.0.weight", "a discriminator"),
            ("conv.weight_orig", "a discriminator"),
            ("conv.parametrizations.weight", "a discriminator"),
        )
    ],
)
def test_how_other_models_are_described(content, told):
    assert _describe_other(content) == told


def test_mappings_are_listed_outermost_first():
    """To a depth of five, each once, and no more than two thousand."""
    deep: dict = {}
    for n in range(9, 0, -1):
        deep = {f"k{n}": deep, "x": n}
    places = [place for place, _ in mappings_of(deep)]
    assert places == ["", ".k1", ".k1.k2", ".k1.k2.k3", ".k1.k2.k3.k4", ".k1.k2.k3.k4.k5"]
    assert [mappings[0]["x"] for _, mappings in mappings_of(deep)] == [1, 2, 3, 4, 5, 6]
    assert [len(mappings) for _, mappings in mappings_of(deep)] == [1, 2, 3, 4, 5, 6]
    shared = {"a": 1}
    content = {"one": shared, "two": shared, "none": {}, "list": [shared], "k" * 200: {"b": 2}}
    assert [place for place, _ in mappings_of(content)] == ["", ".one", "." + "k" * 100]
    content["itself"] = content
    assert len(mappings_of(content)) == 3 and mappings_of([content]) == []
    assert len(mappings_of({n: {"a": n} for n in range(2500)})) == 2000


@pytest.mark.parametrize(
    "settings, expected",
    [
        # The first pair that gives as many bins counts; what is missing is 44.1 kHz and 20 ms.
        ([(48000, 20), (22050, 40)], dict(sample_rate=22050, win_ms=40)),
        ([(22050, 40), (44100, 20)], dict(sample_rate=22050, win_ms=40)),
        ([(None, None)], dict(sample_rate=44100, win_ms=20)),
        ([(None, 20.0)], dict(sample_rate=44100, win_ms=20.0)),
        ([(True, 20), ("44100", 20), (0, 0)], dict(sample_rate=44100, win_ms=20)),
        ([(-44100, -20)], dict(sample_rate=44100)),
        ([(1e6, 0.882)], dict(sample_rate=44100)),
        ([(882, 1000), (882.5, 1000)], dict(sample_rate=882, win_ms=1000)),
        ([(884, 1000)], dict(sample_rate=44100)),
    ],
)
def test_settings_that_agree_with_the_bins(settings, expected):
    assert _rate_and_window(442, settings) == expected


@pytest.mark.parametrize("n_bins, rate", [(442, 44100), (13, 1200), (321, 32000), (111, 11025)])
def test_rates_of_bins(n_bins, rate):
    """Usual ones; else that of 20 ms."""
    assert _rate_and_window(n_bins, []) == dict(sample_rate=rate)


def test_bands_of_different_widths():
    state = resized(442)
    state["output.3.1.bias"] = torch.zeros(4 * 7)
    with pytest.raises(
        ValueError, match=r"^its bands have \[5, 7, 47\] bins; only the last may differ$"
    ):
        convert(state)
    state = resized(442)
    state["net.0.extra"] = state["more"] = torch.zeros(1)
    with pytest.raises(ValueError, match="^it also holds more$"):
        convert(state)
