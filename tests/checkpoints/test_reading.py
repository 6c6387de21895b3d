"""Checkpoints are read without torch's loader: what comes is what torch's loader gives."""

import collections
import io
import json
import math
import os
import pickle
import random
import struct
import warnings
import zipfile

import hostile
import pytest
import torch
from helpers import small_model

from apollo_plugin import Apollo
from apollo_plugin.checkpoints import CheckpointError, loading, read, reading
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


# ------------------------------------------------------------------ which refusal, to the bound


def archive(*entries, method=zipfile.ZIP_STORED) -> bytes:
    """A zip of ``(name, content)``, with the large directory's end."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, value in entries:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that come twice
                file.writestr(name, value)
    return hostile._with_zip64(out.getvalue())


def headed(text: str) -> bytes:
    """The header of safetensors."""
    return struct.pack("<Q", len(text)) + text.encode()


NOTHING = ("a/data.pkl", b"\x80\x02}.")
DAMAGED = "is truncated, damaged or no checkpoint"
ITSELF = b"\x80\x02" + b"]" * 900 + b"a" * 899 + b"."


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "is empty"),
        (b"\x80\x02}.", "is a pickle without tensors, or no checkpoint"),
        (b"\x80\x02}", DAMAGED),
        (b"nonsense", DAMAGED),
        (archive(("a/other", b"")), "is a zip archive without weights of torch"),
        (archive(("b/data.pkl", b""), NOTHING), DAMAGED),
        (archive(("b/other", b""), NOTHING), "is a zip archive without weights of torch"),
        (archive(NOTHING, NOTHING), "is refused: it holds two files of the same name"),
        (
            archive(NOTHING, ("a/constants.pkl", b"")),
            "is a TorchScript program; a state dict is needed",
        ),
        (
            archive(NOTHING, method=zipfile.ZIP_BZIP2),
            "is compressed by a method that torch lacks",
        ),
        (
            archive(NOTHING, ("a/byteorder", b"big")),
            "was saved on a machine of another byte order",
        ),
        (archive(NOTHING)[:-1], DAMAGED),
        (archive(NOTHING)[:-2] + b"\1\0", DAMAGED),
        (b"PK\3\4" + archive(NOTHING)[-97:][4:], DAMAGED),
        (archive(("a/data.pkl", ITSELF)), None),
        (archive(NOTHING), None),
        (archive(NOTHING, method=zipfile.ZIP_DEFLATED), None),
        # Safetensors: their header's length, and what it holds.
        (headed("{}"), None),
        (struct.pack("<Q", 3) + b"{}", DAMAGED),
        (headed("{"), "is damaged: Expecting property name enclosed in double quotes: "),
        (headed('{"a":NaN}'), "is damaged: NaN is no number"),
        (headed('{"a":1,"b":1,"b":2,"a":3,"b":4}'), "is damaged: it defines b twice"),
        (headed('{"a":{"\\n":1,"\\n":2}}'), r"is damaged: it defines \n twice"),
        (
            headed("{" + ",".join(2 * [f'"{"x" * 90}":1']) + "}"),
            f"is damaged: it defines {'x' * 80} twice",
        ),
    ],
)
def test_which_refusal(content, told, tmp_path):
    path = tmp_path / ("a.safetensors" if content[8:9] == b"{" else "a.pth")
    path.write_bytes(content)
    if told is None:
        read(path, "a")
    else:
        with pytest.raises(CheckpointError) as caught:
            read(path, "a")
        text = str(caught.value)
        # What the JSON's parser says goes on with the place.
        assert text.partition(": line")[0] == f"'a' {told}".rstrip(": ")


def test_what_unpacks_to_too_much(tmp_path, monkeypatch):
    """Twice the file and 32 MiB, which are fewer here; and as much of settings alone."""
    path = tmp_path / "a.pth"
    n, most = 5000, 300
    data = archive(NOTHING, ("a/data/0", bytes(n)), method=zipfile.ZIP_DEFLATED)
    path.write_bytes(data)
    unpacked = n + len(NOTHING[1])
    monkeypatch.setattr(reading, "_MOST_DESCRIPTION", unpacked - 2 * len(data))
    assert read(path, "a") == {} and unpacked - 2 * len(data) > most
    monkeypatch.setattr(reading, "_MOST_DESCRIPTION", unpacked - 2 * len(data) - 1)
    with pytest.raises(
        CheckpointError, match=rf"^'a' is refused: it unpacks to {unpacked:,} bytes$"
    ):
        read(path, "a")
    settings = b"\x80\x02}" + hostile.text("a") + hostile.text("b" * most) + b"s."
    path.write_bytes(archive(("a/data.pkl", settings)))
    monkeypatch.setattr(reading, "_MOST_DESCRIPTION", len(settings))
    assert read(path, "a") == {"a": "b" * most}
    monkeypatch.setattr(reading, "_MOST_DESCRIPTION", len(settings) - 1)
    with pytest.raises(CheckpointError, match=f"unpacks to {len(settings)} bytes"):
        read(path, "a")


def test_the_longest_header(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    header = b'{"__metadata__":{"model_args":"{}"}}'
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    monkeypatch.setattr(reading, "_MOST_HEADER", len(header))
    assert read(path, "a") == {"state_dict": {}, "model_args": {}}
    monkeypatch.setattr(reading, "_MOST_HEADER", len(header) - 1)
    with pytest.raises(CheckpointError, match=DAMAGED):
        read(path, "a")


@pytest.mark.parametrize("n_cut", [1, 4, 20])
def test_a_storage_that_ends_early(n_cut, tmp_path):
    """Of a legacy file: its end; of a zip, the directory tells."""
    data = hostile.saved({"a": torch.arange(5)}, _use_new_zipfile_serialization=False)
    (tmp_path / "a.pth").write_bytes(data[:-n_cut])
    with pytest.raises(CheckpointError, match="^'a' is truncated$"):
        read(tmp_path / "a.pth", "a")


@pytest.mark.parametrize("piece", [1, 7, 8, 100])
def test_a_storage_is_filled_in_pieces(piece, monkeypatch):
    monkeypatch.setattr(reading, "_PIECE", piece)
    storage = torch.zeros(16, dtype=torch.uint8)
    reading._fill(storage, io.BytesIO(bytes(range(20))))
    assert storage.tolist() == list(range(16))
    with pytest.raises(EOFError):
        reading._fill(storage, io.BytesIO(bytes(15)))


def legacy(keys: bytes) -> bytes:
    """A file of torch before 1.6 whose storage is named "0", with such a list of keys."""
    parts = [torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True}]
    head = b"".join(pickle.dumps(part, 2) for part in parts)
    value = hostile.holding(hostile.tensor(4, (4,), (1,)))
    return head + value + keys + struct.pack("<q4f", 4, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "keys, loads", [(["0"], True), (["1"], False), ([], False), (("0",), False)]
)
def test_keys_of_the_older_layout(keys, loads, tmp_path):
    (tmp_path / "a.pth").write_bytes(legacy(pickle.dumps(keys, 2)))
    if loads:
        assert read(tmp_path / "a.pth", "a")["BN.0.1.weight"].tolist() == [1, 2, 3, 4]
    else:
        with pytest.raises(CheckpointError, match=DAMAGED):
            read(tmp_path / "a.pth", "a")


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x93NUMPY\1\0", "a NumPy array"),
        (b"GGUF\3\0\0\0", "a GGUF file; weights of Apollo are needed"),
        (b"<?xml version='1.0'?>", "an XML page; download again"),
        (b"\xef\xbb\xbf\n<Error>", "an XML page; download again"),
        (b"7z\xbc\xaf\x27\x1c", "a compressed file; unpack it"),
        (b"%PDF-1.4", "a picture or a document"),
        (b"FORM\1\2\3\4AIFC", "a sound file"),
        (b"\x08\x07\x12\x07pytorch", "an ONNX file; it takes weights"),
        (b"\x08\x07\x12" + b"x" * 30 + b"onnx", "an ONNX file; it takes weights"),
        (b' {\n "a": 1}', "JSON; it takes weights"),
        (b"[]", "JSON; it takes weights"),
        (b"x" * 257 + b"ustar", "a tar archive; unpack it, or save it with torch 1.6 or later"),
    ],
)
def test_other_files_are_named(content, kind, tmp_path):
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            read(tmp_path / name, "a")
        assert str(caught.value) == f"'a' is {kind}"


# ------------------------------------------------------------------------------- kinds of tensors


def refusal(value: torch.Tensor) -> str:
    with pytest.raises(CheckpointError) as caught:
        loading._check({"good": torch.zeros(2), "bad": value}, "a")
    return str(caught.value)


class Odd(torch.Tensor):
    pass


@pytest.mark.parametrize(
    "value, kind",
    [
        (torch.zeros(2).as_subclass(Odd), "tensors of Odd"),
        (torch.nested.nested_tensor([torch.zeros(2)]), "nested tensors"),
        (torch.zeros(2, 2).to_sparse(), "tensors of torch.sparse_coo"),
        (torch.zeros(2, device="meta"), "meta tensors, which have no values"),
        (torch.zeros(2, dtype=torch.int8), "tensors of torch.int8"),
        (torch.zeros(1, 3).expand(2, 3), "expanded tensors"),
        (torch.zeros(9).as_strided((3, 3), (2, 1)), "expanded tensors"),
        (torch.zeros(9).as_strided((3, 3), (1, 2)), "expanded tensors"),
    ],
)
def test_kinds_of_tensors_that_are_no_weights(value, kind):
    plain = "weights are dense floats of 16, 32 or 64 bits"
    assert refusal(value) == f"'a' holds {kind} (bad); {plain}"


def test_tensors_that_are_weights():
    for value in (
        *(torch.zeros(3, 3).t(), torch.zeros(9).as_strided((3, 3), (3, 1)), torch.zeros(0)),
        *(torch.zeros(6)[::2], torch.zeros(1).expand(1, 1), torch.nn.Parameter(torch.zeros(2))),
        *(torch.zeros(16).as_strided((2, 2), (9, 3)), torch.tensor(1.0), torch.full((2,), 1e6)),
    ):
        loading._check({"good": value}, "a")


@pytest.mark.parametrize(
    "value, told",
    [
        (1.5e6, "numbers from 0 to 1.5e+06"),
        (-2e6, "numbers from -2e+06 to 0"),
        (float("nan"), "NaN"),
        (float("inf"), "numbers from 0 to inf"),
    ],
)
def test_sizes_of_weights(value, told):
    whole = f"'a' is damaged: bad holds {told}; weights are real numbers within 1,000,000"
    assert refusal(torch.tensor([0.0, value])) == whole


@pytest.mark.parametrize("n, shares", [(2**18, False), (2**18 + 1, True)])
def test_tensors_that_share_their_memory(n, shares):
    """A megabyte may be shared, as small tables are."""
    whole = torch.zeros(n)
    state = {"a": whole, "b": whole}
    if shares:
        with pytest.raises(
            CheckpointError, match="^'a' is refused: its tensors share their memory$"
        ):
            loading._check(state, "a")
    else:
        loading._check(state, "a")


def test_a_bundled_file_that_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "WEIGHTS", tmp_path)
    with pytest.raises(CheckpointError) as caught:
        loading.load(next(iter(loading.BUNDLED)))
    path = tmp_path / next(iter(loading.BUNDLED.values()))[0]
    assert str(caught.value) == f"bundled checkpoint '{path}' is missing; reinstall the package"


@pytest.mark.parametrize("free, fits", [(2_250_000_000, True), (2_249_999_999, False)])
def test_memory_that_a_checkpoint_needs(free, fits, monkeypatch):
    monkeypatch.setattr(loading, "available_bytes", lambda: free)
    if fits:
        loading._require_memory(2_250_000_000, "a")
    else:
        with pytest.raises(
            CheckpointError, match=r"^'a' needs 2\.2 GB of memory and 2\.2 GB are free$"
        ):
            loading._require_memory(2_250_000_000, "a")


@pytest.mark.parametrize(
    "mappings, expected",
    [
        ([{"sr": 1, "win": 2}], [(1, 2)]),
        ([{"fs": 1}, {"window_ms": 2}], [(1, None), (None, 2)]),
        ([{"x": {"sampling_rate": 1, "win_ms": 2}}], [(1, 2)]),
        ([{"samplerate": 1, "sample_rate": 3}], [(3, None)]),
        ([{"a": 1}], []),
        ([{"sample_rate": 5, "x": {"sr": 6}}], [(5, None), (6, None)]),
    ],
)
def test_settings_beside_the_weights(mappings, expected):
    assert list(loading._settings(mappings)) == expected
