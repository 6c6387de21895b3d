"""Checkpoints are read without torch's loader: what comes is what torch's loader gives."""

import collections
import io
import json
import math
import os
import random
import struct
import zipfile

import hostile
import pytest
import torch
from helpers import small_model

from apollo_plugin import Apollo
from apollo_plugin.checkpoints import CheckpointError, read
from apollo_plugin.checkpoints.unwrapping import _split

KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
KINDS += [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
KINDS += [torch.complex128]
# Of which the older layout knows nothing.
NEWER = [torch.uint16, torch.uint32, torch.float8_e4m3fn, torch.float8_e5m2]


def same(one, other):
    """True if two contents are equal, tensors bit for bit and with their strides."""
    if isinstance(other, torch.Tensor):
        plain = one.dtype == other.dtype and one.stride() == other.stride()
        bits = [value.contiguous().view(-1).view(torch.uint8) for value in (one, other.detach())]
        return plain and one.shape == other.shape and torch.equal(*bits)
    if isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in other)
    if isinstance(other, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def content(kinds):
    torch.manual_seed(0)
    whole = torch.randn(6, 4)
    tensors = {str(kind): (100 * torch.rand(3, 5)).to(kind) for kind in kinds}
    return {
        **tensors,
        "views": [whole, whole[1:, ::2], whole.t(), whole[3, 2], whole[:0], whole[:1].expand(5, 4)],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "empty": [torch.zeros(0), torch.zeros(2, 0, 3, dtype=torch.float16)],
        "ordered": collections.OrderedDict(a=1, b=collections.OrderedDict(c=2.5)),
        "module": torch.nn.Linear(3, 2).state_dict(),
        "optimizer": torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]).state_dict(),
        "plain": [1, -1, 2**40, 0.5, math.inf, None, True, False, "t\u00e4xt", (1, (2, 3), ())],
        ("a", 1): {3: 4},
    }


@pytest.mark.parametrize("crc", [True, False], ids=["crc", "no crc"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_it_reads_what_torch_reads(legacy, crc, tmp_path):
    path, counts = tmp_path / "a.pth", torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(crc)
    kinds = KINDS if legacy else KINDS + NEWER
    try:
        torch.save(content(kinds), path, _use_new_zipfile_serialization=not legacy)
    finally:
        torch.serialization.set_crc32_options(counts)
    assert same(read(path, "a"), torch.load(path, weights_only=True))


@pytest.mark.parametrize("more", [-1, 0, 1, 100])
def test_what_follows_the_older_layout_is_left_alone(more, tmp_path):
    data = hostile.saved({"a": torch.arange(5)}, _use_new_zipfile_serialization=False)
    (tmp_path / "a.pth").write_bytes(data[:more] if more < 0 else data + bytes(more))
    if more < 0:
        with pytest.raises(CheckpointError, match="'a' is truncated$"):
            read(tmp_path / "a.pth", "a")
    else:
        assert read(tmp_path / "a.pth", "a")["a"].tolist() == [0, 1, 2, 3, 4]


def test_tensors_of_one_storage_share_it_again(tmp_path):
    whole = torch.zeros(6)
    torch.save({"whole": whole, "part": whole[2:4]}, tmp_path / "a.pth")
    found = read(tmp_path / "a.pth", "a")
    found["part"] += 1
    assert found["whole"].tolist() == [0, 0, 1, 1, 0, 0]


def test_an_archive_that_was_packed_again_loads(tmp_path):
    good = hostile.saved(content(KINDS))
    with (
        zipfile.ZipFile(io.BytesIO(good)) as source,
        zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert same(read(tmp_path / "a.pth", "a"), torch.load(io.BytesIO(good), weights_only=True))


@pytest.mark.parametrize("place", ["data.pkl", "data/0"])
def test_a_bit_that_flipped_is_told(place, tmp_path):
    """By the check sums of the archive, which torch's own loader leaves aside."""
    data = bytearray(hostile.saved({"a": torch.zeros(1000), "b": "text" * 100}))
    at = data.index(b"text") if place == "data.pkl" else data.index(bytes(3000)) + 1500
    data[at] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        read(tmp_path / "a.pth", "a")


@pytest.mark.parametrize("change", [0, 1, -98])
def test_a_directory_that_is_not_where_it_should_be(change, tmp_path):
    good = hostile.saved({"a": torch.zeros(3)})
    (tmp_path / "a.pth").write_bytes(hostile._relocated(good, change))
    if change:
        with pytest.raises(CheckpointError, match="its directory is not where it should be"):
            read(tmp_path / "a.pth", "a")
    else:
        assert read(tmp_path / "a.pth", "a")["a"].tolist() == [0] * 3


def test_another_byte_order_is_told(tmp_path):
    good = hostile.zipped(hostile.holding(hostile.tensor(4, (4,), (1,))), {"0": bytes(16)})
    (tmp_path / "a.pth").write_bytes(good)
    assert read(tmp_path / "a.pth", "a")["BN.0.1.weight"].tolist() == [0] * 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.byteorder", "big")
        with pytest.raises(CheckpointError, match="byte order"):
            read(tmp_path / "a.pth", "a")


def test_what_only_another_reader_would_find_is_not_loaded(tmp_path):
    """Any archive of two directories that is loaded gives the weights of the one that was read."""
    n_loaded, good = 0, hostile.small()["state_dict"]
    for index, (word, make) in enumerate(hostile.directories()):
        path = tmp_path / f"{index}.pth"
        path.write_bytes(make())
        try:
            model = Apollo.from_pretrained(path)
        except CheckpointError:
            continue
        n_loaded += 1
        assert same(dict(model.state_dict()), dict(good)), word
    assert n_loaded


def test_the_longest_prefix_counts():
    """As comparing each name with each prefix says."""
    draw = random.Random(0)
    words = ["".join(draw.choices("ab.", k=draw.randrange(7))) for _ in range(400)]
    for n in (0, 1, 3, 30):
        prefixes, mapping = set(words[:n]), {word: object() for word in words}
        want = {prefix: {} for prefix in prefixes}
        for name, value in mapping.items():
            if fitting := [prefix for prefix in prefixes if name.startswith(prefix)]:
                longest = max(fitting, key=len)
                want[longest][name[len(longest) :]] = value
        assert _split(mapping, list(mapping), prefixes) == want


@pytest.mark.parametrize(
    "args, loads", [('{"bands": 80, "bands": 80}', False), ('{"bands": 80}', True)]
)
@pytest.mark.parametrize("place", ["config.json", "metadata"])
def test_what_is_told_twice_is_refused(args, loads, place, tmp_path):
    whole = json.dumps(small_model().get_model_args())
    text = whole if loads else '{"bands": 80,' + whole[1:]
    state = {key: value.contiguous() for key, value in small_model().state_dict().items()}
    path = tmp_path / "model.safetensors"
    metadata = {"model_args": text} if place == "metadata" else None
    path.write_bytes(hostile.safetensors_bytes(state, metadata))
    (tmp_path / "config.json").write_text(f'{{"model_args": {text}}}')
    if loads:
        assert Apollo.from_pretrained(path).get_model_args() == small_model().get_model_args()
    else:
        with pytest.raises(CheckpointError, match="damaged|does not hold"):
            Apollo.from_pretrained(path)


@pytest.mark.parametrize("what", ["FIFO", "/dev/zero", "folder"])
def test_a_configuration_that_is_no_file_is_none(what, tmp_path):
    config = tmp_path / "config.json"
    if what == "FIFO":
        os.mkfifo(config)
    elif what == "folder":
        config.mkdir()
    else:
        config.symlink_to(what)
    state = {key: value.contiguous() for key, value in small_model().state_dict().items()}
    (tmp_path / "model.safetensors").write_bytes(hostile.safetensors_bytes(state))
    with pytest.raises(CheckpointError, match="does not hold its model's arguments"):
        Apollo.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [3e38, -3e38, 1.1e6, -1.1e6, math.nan, math.inf, -math.inf])
def test_weights_that_no_model_has(value, tmp_path):
    package = small_model().serialize()
    key = list(package["state_dict"])[-1]
    package["state_dict"][key].view(-1)[-1] = value
    torch.save(package, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"is damaged: {key} holds"):
        Apollo.from_pretrained(tmp_path / "a.pth")


@torch.no_grad()
def test_the_largest_weights_make_numbers(tmp_path):
    """So that whatever loads gives sound: every weight as large as any may be."""
    package = small_model().serialize()
    for value in package["state_dict"].values():
        value.fill_(1e6)
    torch.save(package, tmp_path / "a.pth")
    out = Apollo.from_pretrained(tmp_path / "a.pth")(torch.randn(1, 5000))
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(
    "rate, win_ms, loads",
    [
        (1000, 500, True),
        (999, 500.6, False),
        (10**6, 0.5, False),
        (500000, 1, True),
        (1, 1e5, False),
    ],
)
def test_rates_that_sound_is_kept_in(rate, win_ms, loads, tmp_path):
    package = small_model(sample_rate=1000, win_ms=500, bands=20).serialize()
    package["model_args"].update(sample_rate=rate, win_ms=win_ms)
    torch.save(package, tmp_path / "a.pth")
    if loads:
        assert Apollo.from_pretrained(tmp_path / "a.pth").sample_rate == rate
    else:
        with pytest.raises(CheckpointError, match="its sample_rate is"):
            Apollo.from_pretrained(tmp_path / "a.pth")


@pytest.mark.parametrize("more, said", [(0, "truncated, damaged"), (1, "takes 33,554,433 bytes")])
def test_the_largest_directory(more, said, tmp_path):
    """32 MiB, of an archive that holds none: what is refused is not read."""
    path = tmp_path / "a.pth"
    path.write_bytes(bytes(200) + struct.pack("<4s8xII2x", b"PK\5\6", (32 << 20) + more, 0))
    with open(path, "r+b") as file:
        file.write(b"PK\3\4")
    with pytest.raises(CheckpointError, match=said):
        read(path, path.name)
