"""Separators of every kind behind one interface, in windows and whole, and what is refused."""

import io
import pickle
import sys
from types import SimpleNamespace

import asteroid.utils.hub_utils
import pytest
import torch
from asteroid.models import ConvTasNet
from helpers import resample, snr, tone
from torch import nn

from apollo_plugin.separators import Separator, SeparatorError, load

RATE = 44100


def conv_tasnet(rate=8000, n_src=2):
    torch.manual_seed(0)
    return ConvTasNet(n_src=n_src, n_filters=32, n_blocks=2, n_repeats=1, sample_rate=rate).eval()


@pytest.fixture
def hdemucs(torchaudio):
    torch.manual_seed(0)
    return torchaudio.models.HDemucs(["drums", "vocals"], channels=8, depth=6).eval()


@pytest.fixture
def bundle(hdemucs):
    """A bundle as torchaudio.pipelines gives it, without the download."""
    return SimpleNamespace(sample_rate=RATE, get_model=lambda: hdemucs)


class Local(nn.Module):
    """Convolutions that see 200 samples to each side and nothing else."""

    sample_rate, in_channels, sources = RATE, 2, ("one", "two", "three")

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 401, padding=200)

    def forward(self, wav):
        return self.conv(wav).unflatten(1, (3, 2))


# -------------------------------------------------------------------------------------- the kinds


@torch.no_grad()
def test_mono_models_are_run_on_each_channel():
    model, wav = conv_tasnet(RATE), tone(20000)
    got = Separator(model)(wav, RATE)
    assert got.shape == (2, 2, 20000)
    for channel in range(2):
        assert snr(got[:, channel], model(wav[channel])) > 100


@torch.no_grad()
def test_the_models_rate_is_met_by_resampling_both_ways():
    model, wav = conv_tasnet(), tone(20011)
    got = Separator(model)(wav, RATE)
    low = model(resample(wav, RATE, 8000).unsqueeze(1)).transpose(0, 1)
    for stem, expected in zip(got, low):
        assert snr(stem, resample(expected, 8000, RATE, 20011)) > 100


@torch.no_grad()
def test_hdemucs_bare_and_in_a_bundle(hdemucs, bundle):
    wav = tone(40000)
    expected = hdemucs(wav[None])[0]
    for separator in (Separator(hdemucs, sample_rate=RATE), Separator(bundle)):
        assert separator.sources == ["drums", "vocals"] and separator.in_channels == 2
        assert snr(separator(wav, RATE), expected) > 100


@torch.no_grad()
def test_torchaudios_conv_tasnet(torchaudio):
    torch.manual_seed(0)
    model = torchaudio.models.ConvTasNet(2, 16, 32, msk_num_layers=2, msk_num_stacks=1).eval()
    wav = tone(8000)
    got = Separator(model, sample_rate=8000)(wav, 8000)
    assert snr(got[:, 1], model(wav[None, 1:])[0]) > 100


def test_a_function_at_its_own_rate_and_at_any():
    rates = []

    def halves(wav):
        rates.append(wav.shape[-1])
        return torch.stack((wav / 2, wav / 2), 1)

    wav = tone(48000)
    assert snr(Separator(halves)(wav, 48000).sum(0), wav) > 100
    Separator(halves, sample_rate=24000)(wav, 48000)
    assert rates == [48000, 24000]


# ------------------------------------------------------------------------------------- in windows


@torch.no_grad()
@pytest.mark.parametrize("n_samples", [30000, 65536, 66000, 100001, 170000])
def test_windows_of_a_local_separator_are_the_whole(n_samples):
    torch.manual_seed(0)
    model, wav = Local(), tone(n_samples)
    told = []
    # A quarter of the overlap is 220 samples, the model looks on 200.
    separator = Separator(model, window_seconds=0.7, overlap_seconds=0.02)
    assert snr(separator(wav, RATE, lambda *step: told.append(step)), model(wav[None])[0]) > 120
    assert told[-1] == ("separating", n_samples / RATE, n_samples / RATE)
    assert told == sorted(told) and (len(told) > 1) == (n_samples > 31000)


@torch.no_grad()
def test_windows_begin_where_an_encoders_stride_does():
    """A ConvTasNet without normalisation over time, whose encoder has a stride of 8."""
    torch.manual_seed(0)
    model = ConvTasNet(2, n_filters=16, n_blocks=2, n_repeats=1, norm_type="bN", sample_rate=RATE)
    wav = tone(100003, 1)
    got = Separator(model, window_seconds=0.5, overlap_seconds=0.02)(wav, RATE)
    assert snr(got[:, 0], model(wav[0])) > 100


def test_the_cross_fade_goes_steadily_from_one_window_to_the_next():
    """A separator that gives the number of its window."""
    count = iter(range(100))
    separator = Separator(
        lambda wav: torch.full_like(wav, next(count)).unsqueeze(1),
        window_seconds=1.0,
        overlap_seconds=0.1,
    )
    out = separator(torch.zeros(1, 3 * RATE), RATE)[0, 0]
    steps = out.diff()
    assert out[0] == 0 and out[-1] == next(count) - 1 and (steps >= 0).all()
    assert steps.max() < 1.1 / 2205 and (out == out.round()).float().mean() > 0.9


@pytest.mark.parametrize(
    "seconds, n_samples, windows",
    [
        # Of 8820 samples, 2205 of which overlap: each 6 * 1024, the last one up to the end.
        (
            (0.2, 0.05),
            30000,
            [(0, 8820), (6144, 8820), (12288, 8820), (18432, 8820), (20480, 9520)],
        ),
        ((0.2, 0.05), 8820, [(0, 8820)]),
        ((0.2, 0.05), 9845, [(0, 8820), (1024, 8821)]),
        # None is shorter than two steps of 1024.
        ((0.01, 0.005), 4096, [(0, 2048), (1024, 2048), (2048, 2048)]),
        ((0.2, 0.1), 20000, [(0, 8820), (4096, 8820), (8192, 8820), (10240, 9760)]),
    ],
)
def test_where_windows_begin_and_how_they_meet(seconds, n_samples, windows):
    found = []

    def number(wav):
        found.append((int(wav[0, 0, 0]), wav.shape[-1]))
        return torch.full_like(wav, len(found) - 1).unsqueeze(1)

    separator = Separator(number, window_seconds=seconds[0], overlap_seconds=seconds[1])
    out = separator(torch.arange(n_samples).float()[None], RATE)[0, 0]
    assert found == windows
    # Faded in the middle half of the overlap with the window before.
    overlap = round(seconds[1] * RATE)
    for index, ((before, length), (begin, _)) in enumerate(zip(windows, windows[1:])):
        left, right = (before + length + n for n in (-overlap + overlap // 4, -(overlap // 4)))
        rise = torch.arange(1, right - left + 1) / (right - left + 1)
        assert begin <= left and out[right] >= index + 1
        torch.testing.assert_close(out[left:right], index + rise, atol=1e-5, rtol=0)


def test_no_window_is_longer_than_asked():
    lengths = []

    def identity(wav):
        lengths.append(wav.shape[-1])
        return wav.unsqueeze(1)

    wav = tone(1_000_000, 1)
    got = Separator(identity, window_seconds=2.0, overlap_seconds=0.5)(wav, RATE)
    assert torch.equal(got[0], wav) and max(lengths) < 2 * RATE + 1024 and len(lengths) > 10


# ------------------------------------------------------------------------------------------ files


def test_an_asteroid_model_from_its_file(tmp_path):
    model, path = conv_tasnet(), tmp_path / "model.pth"
    # With torch's version as it is, no str: torch.load refuses such files of Asteroid's.
    torch.save(model.serialize(), path)
    separator = load(path)
    wav = tone(8000, 1)
    with torch.no_grad():
        assert snr(separator(wav, 8000)[:, 0], model(wav[0])) > 100
    assert separator.sample_rate == 8000 and not separator.model.training


def test_an_asteroid_model_from_the_hub(tmp_path, monkeypatch):
    path, asked = tmp_path / "pytorch_model.bin", []
    torch.save(conv_tasnet().serialize(), path)
    monkeypatch.setattr(
        asteroid.utils.hub_utils, "cached_download", lambda name: asked.append(name) or str(path)
    )
    assert load("someone/ConvTasNet").in_channels == 1 and asked == ["someone/ConvTasNet"]


def test_a_bundle_by_name(torchaudio, bundle, monkeypatch):
    monkeypatch.setattr(torchaudio.pipelines, "HDEMUCS_HIGH_MUSDB", bundle)
    assert load("hdemucs_high_musdb").sources == ["drums", "vocals"]


# -------------------------------------------------------------------------------------- bad input


class Payload:
    def __reduce__(self):
        return (open, ("/tmp/apollo_plugin_was_here", "w"))


def packages():
    good = conv_tasnet().serialize()
    yield "is no Asteroid model", {"state_dict": {}}
    yield "which Asteroid does not know", {**good, "model_name": "Nothing"}
    yield "which Asteroid does not know", {**good, "model_name": "register_model"}
    yield "does not fit ConvTasNet", {**good, "model_args": {}}
    yield "does not fit XUMX: XUMX is broken", {**good, "model_name": "XUMX"}
    yield "does not fit ConvTasNet", {**good, "state_dict": {}}
    yield "refused", {**good, "model_args": Payload()}


@pytest.mark.parametrize("message, package", packages())
def test_files_that_are_refused(message, package, tmp_path):
    torch.save(package, tmp_path / "model.pth")
    with pytest.raises(SeparatorError, match=message) as caught:
        load(tmp_path / "model.pth")
    assert "\n" not in str(caught.value) and "model.pth" in str(caught.value)


def test_damaged_files(tmp_path):
    for content in (b"", b"no model", pickle.dumps(Payload())):
        (tmp_path / "model.pth").write_bytes(content)
        with pytest.raises(SeparatorError, match="empty|refused|no checkpoint"):
            load(tmp_path / "model.pth")
    whole = io.BytesIO()
    torch.save(conv_tasnet().serialize(), whole)
    (tmp_path / "model.pth").write_bytes(whole.getvalue()[:5000])
    with pytest.raises(SeparatorError, match="truncated, damaged"):
        load(tmp_path / "model.pth")


@pytest.mark.parametrize(
    "name", ["nothing", "./no/such.pth", "https://a.b/c", "a/b/c", "", "no.pth"]
)
def test_names_that_are_nothing(name):
    with pytest.raises(SeparatorError, match="no separator .* HDEMUCS_HIGH_MUSDB"):
        load(name)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def fail(name):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(asteroid.utils.hub_utils, "cached_download", fail)
    with pytest.raises(SeparatorError, match="'a/b' cannot be downloaded from the Hub: no route$"):
        load("a/b")


def test_bundles_that_do_not_come(torchaudio, monkeypatch):
    def fail():
        raise OSError("no route\nto host")

    broken = SimpleNamespace(sample_rate=RATE, get_model=fail)
    monkeypatch.setattr(torchaudio.pipelines, "HDEMUCS_HIGH_MUSDB", broken)
    with pytest.raises(
        SeparatorError, match="'HDEMUCS_high_MUSDB' cannot be downloaded: no route$"
    ):
        load("HDEMUCS_high_MUSDB")
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    with pytest.raises(SeparatorError, match=r"needs torchaudio, which does not load \(.*\); rein"):
        load("HDEMUCS_HIGH_MUSDB")


def test_rates_of_models_of_before_they_had_one(tmp_path, monkeypatch):
    """Asteroid knows them by their names."""
    rates = asteroid.utils.hub_utils.SR_HASHTABLE
    name = next(name for name in rates if name.count("/") == 1)
    path, package = tmp_path / "pytorch_model.bin", conv_tasnet(rates[name]).serialize()
    del package["model_args"]["sample_rate"]
    torch.save(package, path)
    monkeypatch.setattr(asteroid.utils.hub_utils, "cached_download", lambda name: str(path))
    assert load(name).sample_rate == rates[name]
    assert load(name, sample_rate=44100).sample_rate == 44100


def failing(error):
    def fail(wav):
        raise error

    return fail


@pytest.mark.parametrize(
    "function, message",
    [
        (failing(ValueError("x\n" * 150)), r"of shape \(1, 2, 5000\): (x ){100}$"),
        (failing(IndexError()), "of shape .*: IndexError$"),
        (lambda wav: wav, r"gave \(1, 2, 5000\); expected \(1, sources, 2, 5000\)"),
        (lambda wav: wav[:, None, :, 1:], r"gave \(1, 1, 2, 4999\)"),
        (lambda wav: wav[:, None, :1], r"gave \(1, 1, 1, 5000\)"),
        (lambda wav: wav[:, :0, None].expand(-1, -1, 2, -1), r"gave \(1, 0, 2, 5000\)"),
        (lambda wav: [wav], "gave a list"),
        (lambda wav: None, "gave a NoneType"),
        (lambda wav: wav[:, None].int(), "int32; expected floating point"),
        (lambda wav: wav @ wav, r"failed on a signal of shape \(1, 2, 5000\)"),
        (Local(), "3 sources; 2 have names: a, b"),
    ],
)
def test_what_a_separator_may_not_give(function, message):
    named = ["a", "b"] if isinstance(function, Local) else None
    with pytest.raises(SeparatorError, match=message):
        Separator(function, sources=named)(tone(5000), RATE)


def test_a_number_of_sources_that_changes():
    count = iter((2, 3, 2, 3))
    separator = Separator(
        lambda wav: wav.unsqueeze(1).expand(-1, next(count), -1, -1), window_seconds=0.2,
        overlap_seconds=0.1,
    )  # fmt: skip
    with pytest.raises(SeparatorError, match="2 sources at first and 3 later"):
        separator(tone(20000), RATE)


def test_channels_that_do_not_fit():
    with pytest.raises(SeparatorError, match="takes 2 channels, the signal has 1"):
        Separator(Local())(tone(5000, 1), RATE)


@pytest.mark.parametrize(
    "model, options, message",
    [
        ("a name", {}, "not str; separators.load takes names"),
        (nn.Identity(), {}, "has no sample_rate; pass separator_rate"),
        (Local(), {"sample_rate": -1}, "rate of -1 Hz"),
        (Local(), {"sample_rate": float("inf")}, "rate of inf Hz"),
        (Local(), {"overlap_seconds": 6}, "overlap_seconds 6 has to lie"),
        (Local(), {"window_seconds": float("nan")}, "window_seconds nan"),
        (Local(), {"sources": ["a", "a", "b"]}, "two sources have the same name: a, a, b"),
    ],
)
def test_no_separator(model, options, message):
    with pytest.raises(SeparatorError, match=message):
        Separator(model, **options)
