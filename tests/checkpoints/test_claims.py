"""Each bound of what a pickle may claim is met by a claim beyond it, and told as what it is."""

import io
import struct

import pytest
import torch
from hostile import calls, holding, name, number, tensor, text

from apollo_plugin.checkpoints import CheckpointError
from apollo_plugin.checkpoints.unpickling import Unpickler

STORAGE = ("storage", "torch.FloatStorage", "0", "cpu", 4)


def load(pickled: bytes, n_bytes=None, most=10**9):
    return Unpickler(io.BytesIO(pickled), "a.pth", n_bytes or {"0": 16}, most)


def made(value: bytes) -> object:
    return load(holding(value)).value["BN.0.1.weight"]


def storage(*parts) -> bytes:
    """A reference to a storage, its parts given as instructions or as values."""
    return b"(" + b"".join(map(plain, parts)) + b"tQ"


def plain(value) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return name(value) if value.startswith("torch.") else text(value)
    return b"N" if value is None else number(value)


def rebuilt(*parts, function="_rebuild_tensor_v2") -> bytes:
    return calls(f"torch._utils.{function}", *map(plain, parts))


def sizes(*values) -> bytes:
    return b"(" + b"".join(map(plain, values)) + b"t"


NO_HOOKS = name("collections.OrderedDict") + b")R"
HOOKS = NO_HOOKS + text("hook") + text("run") + b"s"
FOUR = storage(*STORAGE)
KEYS = "keys that are neither text nor numbers"

REFUSED = [
    # What a persistent id has to be.
    (b"NQ", "an object that is no storage"),
    (text("storage") + b"Q", "an object that is no storage"),
    (storage("module", *STORAGE[1:]), "an object that is no storage"),
    (storage(*STORAGE[:4]), "an object that is no storage"),
    (storage(*STORAGE, 1), "an object that is no storage"),
    (storage(*STORAGE, None, None), "an object that is no storage"),
    (storage("storage", text("torch.FloatStorage"), *STORAGE[2:]), "an object that is no storage"),
    (storage(*STORAGE[:2], 0, "cpu", 4), "an object that is no storage"),
    (storage(*STORAGE[:3], 0, 4), "an object that is no storage"),
    (storage(*STORAGE[:4], -1), "an object that is no storage"),
    (storage(*STORAGE[:4], 2**48), "an object that is no storage"),
    (storage(*STORAGE[:4], "4"), "an object that is no storage"),
    (storage(*STORAGE[:4], 2**48 - 1), "lacks some of a tensor's 1,125,899,906,842,620 bytes"),
    (storage(*STORAGE[:4], 3), "lacks some of a tensor's 12 bytes"),
    (storage(*STORAGE[:4], 5), "lacks some of a tensor's 20 bytes"),
    (storage(*STORAGE[:2], "1", "cpu", 4), "lacks some of a tensor's 16 bytes"),
    (b"](" + FOUR + storage("storage", "torch.IntStorage", "0", "cpu", 4) + b"e", "two sizes"),
    (b"](" + FOUR + storage(*STORAGE[:4], 2) + b"e", "two sizes"),
    (storage("storage", "torch.QInt8Storage", "0", "cpu", 16), "truncated, damaged or no"),
    # Where in it a tensor lies.
    (rebuilt(1, 0, sizes(4), sizes(1)), "makes a tensor of an object that is no storage"),
    (rebuilt(FOUR, 0, sizes(5), sizes(1)), "a tensor reaches out of its storage"),
    (rebuilt(FOUR, 1, sizes(4), sizes(1)), "a tensor reaches out of its storage"),
    (rebuilt(FOUR, 5, sizes(0), sizes(1)), "a tensor reaches out of its storage"),
    (rebuilt(FOUR, 0, sizes(2), sizes(4)), "a tensor reaches out of its storage"),
    (rebuilt(FOUR, 0, sizes(2, 2), sizes(2, 2)), "a tensor reaches out of its storage"),
    (rebuilt(FOUR, 0, sizes(2**48 - 1), sizes(1)), "a tensor reaches out of its storage"),
    (rebuilt(FOUR, -1, sizes(2), sizes(1)), "truncated, damaged or no checkpoint"),
    (rebuilt(FOUR, 0, sizes(-1), sizes(1)), "truncated, damaged or no checkpoint"),
    (rebuilt(FOUR, 3, sizes(2), sizes(-1)), "truncated, damaged or no checkpoint"),
    (rebuilt(FOUR, 0, sizes(2**48), sizes(0)), "truncated, damaged or no checkpoint"),
    (rebuilt(FOUR, 0, sizes(2**31, 2**31), sizes(0, 0)), "truncated, damaged or no checkpoint"),
    (rebuilt(FOUR, 0, sizes(2), sizes(1, 1)), "truncated, damaged or no checkpoint"),
    (rebuilt(FOUR, 0, sizes(*[1] * 17), sizes(*[1] * 17)), "truncated, damaged or no checkpoint"),
    (rebuilt(FOUR, "a", sizes(2), sizes(1)), "truncated, damaged or no checkpoint"),
    # What stands behind that.
    (rebuilt(FOUR, 0, sizes(4), sizes(1), b"\x89", HOOKS), "makes a tensor with hooks"),
    (rebuilt(FOUR, 0, sizes(4), sizes(1), b"\x89", NO_HOOKS, HOOKS), "makes a tensor with hooks"),
    (rebuilt(FOUR, 0, sizes(4), sizes(1), 1, NO_HOOKS), "makes a tensor with hooks"),
    (rebuilt(FOUR, 0, sizes(4), sizes(1), b"\x89", 1), "makes a tensor with hooks"),
    (rebuilt(FOUR, 0, sizes(4), sizes(1), b"\x89", NO_HOOKS, 1), "makes a tensor with hooks"),
    (rebuilt(FOUR, 0, sizes(4), sizes(1), b"\x89", NO_HOOKS, None, None), "tensor with hooks"),
    (rebuilt(1, b"\x89", NO_HOOKS, function="_rebuild_parameter"), "a parameter without a tensor"),
    (rebuilt(rebuilt(FOUR, 0, sizes(4), sizes(1)), b"\x89", HOOKS, function="_rebuild_parameter"),
     "makes a tensor with hooks"),
    (rebuilt(FOUR, 0, sizes(4), sizes(1), b"\x89", NO_HOOKS, "uint16",
             function="_rebuild_tensor_v3"), "makes a tensor of no type"),
    (rebuilt(FOUR, 0, sizes(4), sizes(1), b"\x89", NO_HOOKS, "torch.int64",
             function="_rebuild_tensor_v3"), r"holds tensors of torch\.int64"),
    (rebuilt(FOUR, 0, sizes(9), sizes(1), b"\x89", NO_HOOKS, "torch.uint16",
             function="_rebuild_tensor_v3"), "a tensor reaches out of its storage"),
    (rebuilt(1, 0, sizes(4), sizes(1), b"\x89", NO_HOOKS, "torch.uint16",
             function="_rebuild_tensor_v3"), "makes a tensor of an object that is no storage"),
    # Keys.
    (b"}" + number(2**31) + b"Ns", KEYS),
    (b"}" + number(-(2**31)) + b"Ns", KEYS),
    (b"}G" + struct.pack(">d", 0.5) + b"Ns", KEYS),
    (b"}" + sizes("a", sizes(1)) + b"Ns", KEYS),
    (b"}" + sizes(*range(9)) + b"Ns", "too many keys that are no text"),
    (b"}(" + b"".join(number(i) + b"N" for i in range(50_001)) + b"u", "too many keys that"),
    (b"}(" + b"".join(sizes(i) + b"N" for i in range(1001)) + b"u", "too many keys that"),
    (b"}(NNNu", "truncated, damaged or no checkpoint"),
    # Plain functions.
    (calls("_codecs.encode", text("a"), text("zlib")), "encodes text"),
    (calls("_codecs.encode", number(1)), "encodes text"),
    (calls("builtins.bytearray", number(9)), "makes memory"),
    (calls("builtins.bytearray", text("a"), text("utf-16")), "encodes text"),
    (calls("builtins.set", text("abc")), "makes a set of something else"),
    (calls("builtins.set", b"]" + sizes(sizes(1)) + b"a"), KEYS),
    (calls("torch.Size", sizes(*[1] * 65)), "makes no plain value"),
    (calls("torch.Size", sizes(sizes(1))), "makes no plain value"),
    (calls("torch.device", b"N"), "makes no plain value"),
    # Instructions.
    (b"NNa", "appends to an object that is no list"),
    (b"NNNs", "sets keys of an object that is no mapping"),
    (b"]NNs", "sets keys of an object that is no mapping"),
    (text("posix.mkdir") + b")R", "calls an unnamed object"),
    (name("torch.FloatStorage") + b")R", r"calls torch\.FloatStorage"),
    (name("argparse.Namespace") + b"NR", "calls an unnamed object"),
    (text("argparse.Namespace") + b")\x81", "makes objects"),
    (name("torch.Size") + b")\x81", "makes objects"),
    (b"N}b", "changes an object"),
    (b"]}b", "changes an object"),
    (b"}Nb", "changes an object"),
    (b"}(K\x01tb", "changes an object"),
    (FOUR + b"}b", "changes an object"),
    (name("posix.mkdir"), r"names posix\.mkdir"),
    (name("torch.load"), r"names torch\.load"),
    (name("zipfile.dict"), r"names zipfile\.dict"),
    (name("abc.list"), r"names abc\.list"),
    (name("torch.ops.FloatStorage.x"), r"names torch\.ops\.FloatStorage\.x"),
    (name("builtins.eval"), r"names builtins\.eval"),
    (name("demucs.hdemucs.HDemucs"), "of another model than Apollo: its pickle names demucs"),
    (name("torch._utils._rebuild_sparse_tensor"), "holds sparse tensors"),
    (name("torch._tensor._rebuild_from_type_v2"), "holds tensors of a class of their own"),
    (b"I1\n", "has the instruction INT"),
    (b"\x95" + bytes(8), "has the instruction FRAME"),
]  # fmt: skip


@pytest.mark.parametrize("value, why", REFUSED, ids=range(len(REFUSED)))
def test_claims_that_are_refused(value, why):
    with pytest.raises(CheckpointError, match=why) as caught:
        made(value)
    assert "a.pth" in str(caught.value) and "\n" not in str(caught.value)


TAKEN = [
    (rebuilt(storage(*STORAGE, None), 0, sizes(4), sizes(1), b"\x89", NO_HOOKS, None), (4,)),
    (rebuilt(FOUR, 0, sizes(4), sizes(1), b"\x88", NO_HOOKS, NO_HOOKS), (4,)),
    (rebuilt(FOUR, 0, sizes(2, 2), sizes(2, 1), function="_rebuild_tensor"), (2, 2)),
    (rebuilt(FOUR, 3, sizes(1), sizes(1)), (1,)),
    (rebuilt(FOUR, 4, sizes(0), sizes(1)), (0,)),
    (rebuilt(FOUR, 0, sizes(2, 2), sizes(1, 2)), (2, 2)),
    (rebuilt(FOUR, 0, sizes(2**40), sizes(0)), (2**40,)),
    (rebuilt(FOUR, 0, sizes(1), sizes(2**48 - 1)), (1,)),
    (rebuilt(FOUR, 0, sizes(*[1] * 16), sizes(*[1] * 16)), (1,) * 16),
    (rebuilt(FOUR, 0, sizes(), sizes()), ()),
    (rebuilt(FOUR, 1, sizes(7), sizes(1), b"\x89", NO_HOOKS, "torch.uint16",
             function="_rebuild_tensor_v3"), (7,)),
]  # fmt: skip


@pytest.mark.parametrize("value, shape", TAKEN, ids=range(len(TAKEN)))
def test_claims_at_the_bounds_are_taken(value, shape):
    found = made(value)
    assert isinstance(found, torch.Tensor) and found.shape == shape


@pytest.mark.parametrize(
    "value, expected",
    [
        (b"}(" + b"".join(number(i) + b"N" for i in range(50_000)) + b"u",
         dict.fromkeys(range(50_000))),
        (b"}(" + b"".join(sizes(i) + b"N" for i in range(1000)) + b"u",
         {(i,): None for i in range(1000)}),
        (b"}" + number(2**31 - 1) + b"Ns", {2**31 - 1: None}),
        (b"}" + number(1 - 2**31) + b"Ns", {1 - 2**31: None}),
        (b"}" + sizes(*range(8)) + b"Ns", {tuple(range(8)): None}),
        (b"}" + sizes("a", None, b"\x88") + b"Ns", {("a", None, True): None}),
        (b"](K\x01K\x02e", [1, 2]),
        (b"]K\x01a", [1]),
        (b"](" + text("a") + b"q\x05h\x05e", ["a", "a"]),
        (b"}" + b"}" + text("_metadata") + b"}sb", {}),
        (name("argparse.Namespace") + b")\x81}" + text("lr") + b"K\x01sb", {}),
        (name("argparse.Namespace") + b")\x81" + text("lr") + b"b", {}),
        (name("collections.deque") + b")R(K\x01K\x02e", {}),
        (calls("collections.defaultdict", name("builtins.list")) + text("a") + b"K\x01s", {"a": 1}),
        (calls("_codecs.encode", text("\xff"), text("latin1")), b""),
        (calls("builtins.bytearray"), b""),
        (calls("builtins.bytearray", calls("_codecs.encode", text("a"))), b""),
    ],
    ids=range(17),
)  # fmt: skip
def test_plain_values(value, expected):
    assert made(value) == expected


@pytest.mark.parametrize("n, taken", [(399_998, True), (399_999, False)])
def test_instructions_are_counted(n, taken):
    pickled = b"\x80\x02" + b"N" * n + b"."
    if taken:
        assert load(pickled).value is None
    else:
        with pytest.raises(CheckpointError, match="takes more than 400,000 steps"):
            load(pickled)


def test_items_are_counted_too():
    """Those that a mark collects, and those of a set, which may be of one list each time."""
    assert load(b"\x80\x02](" + b"N" * 190_000 + b"e.").value == [None] * 190_000
    remembered = b"\x80\x02](" + text("a") + b"q\x01" + b"h\x01" * 49_999 + b"eq\x00"
    a_set = name("builtins.set") + b"h\x00\x85R"
    load(remembered + a_set * 4 + b".")
    for pickled in (b"\x80\x02](" + b"N" * 210_000 + b"e.", remembered + a_set * 7 + b"."):
        with pytest.raises(CheckpointError, match="takes more than 400,000 steps"):
            load(pickled)


def test_bytes_that_make_no_whole_item_are_left_over():
    odd = storage("storage", "torch.storage.UntypedStorage", "0", "cpu", 5)
    arguments = 0, sizes(2), sizes(1), b"\x89", NO_HOOKS, "torch.uint16"
    value = rebuilt(odd, *arguments, function="_rebuild_tensor_v3")
    found = load(holding(value), {"0": 5})
    found.storages["0"][:] = torch.tensor([1, 0, 2, 0, 3])
    assert found.value["BN.0.1.weight"].tolist() == [1, 2]


def test_all_storages_together_are_bounded():
    both = b"\x80\x02](" + FOUR + storage(*STORAGE[:2], "1", "cpu", 4) + b"e."
    assert sorted(load(both, {"0": 16, "1": 16}, most=32).storages) == ["0", "1"]
    with pytest.raises(CheckpointError, match="lacks some of a tensor's 16 bytes"):
        load(both, {"0": 16, "1": 16}, most=31)
    # One that is named twice counts once.
    assert len(load(b"\x80\x02](" + FOUR + FOUR + b"e.", most=16).storages) == 1


def test_a_pickle_without_an_end():
    for pickled in (b"", b"\x80\x02", holding(tensor(4, (4,), (1,)))[:-1], b"\x80\x02."):
        with pytest.raises(CheckpointError, match="truncated, damaged or no checkpoint"):
            load(pickled)
