"""Hostile checkpoints: files that claim, nest, collide, unpack and name what no weights do.

``python tests/checkpoints/hostile.py [KIND ...]`` writes every file of every kind, loads each in a
process of its own under 10 s of the processor and 2 GB (beyond importing), and prints counts:
refused, loaded, tracebacks, executed, time-outs, crashes. More than a second of the processor or
300 MB beyond the file's size is a fault. The suite loads a sample.
"""

import collections
import io
import itertools
import json
import os
import pickle
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes

from apollo_plugin import Apollo
from apollo_plugin.checkpoints import CheckpointError
from apollo_plugin.checkpoints.download import HUB_FILES
from apollo_plugin.memory import give_freed_memory_back

SECONDS, BYTES = 10, 2 << 30
# Of waiting; the machine may have other things to do.
PATIENCE = 60
# What a file may take of the processor, and of memory beyond its own size.
CPU_SECONDS, BEYOND = 1.0, 300 << 20
# An executed file makes this folder beside itself.
MARK = "executed"
# A file, or what makes a folder and gives the path to load.
Made = bytes | Callable[[Path], Path]
Variant = tuple[str, Callable[[], Made]]


def small() -> dict[str, Any]:
    torch.manual_seed(0)
    return Apollo(feature_dim=16, n_layers=1, n_heads=2).serialize()


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(
    pickled: bytes, records: dict[str, bytes] | None = None, compress: bool = False
) -> bytes:
    """A zip as torch reads it, around a pickle written by hand."""
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    ) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
        for key, value in (records or {}).items():
            file.writestr(f"archive/data/{key}", value)
    return _with_zip64(out.getvalue())


def _with_zip64(data: bytes) -> bytes:
    """torch's writer always adds the large directory's end."""
    end = data[-22:]
    n, size, offset = struct.unpack("<HII", end[10:20])
    at = len(data) - 22
    large = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, size, offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    return data[:-22] + large + locator + end


def name(full: str) -> bytes:
    module, _, attribute = full.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def tensor(n: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """Instructions for a tensor in the storage '0' of ``n`` floats."""
    return (
        name("torch._utils._rebuild_tensor_v2") + b"((" + text("storage")
        + name("torch.FloatStorage") + text("0") + text("cpu") + number(n) + b"tQ"
        + number(offset) + b"(" + b"".join(map(number, size)) + b"t("
        + b"".join(map(number, stride)) + b"t\x89" + name("collections.OrderedDict") + b")RtR"
    )  # fmt: skip


def holding(value: bytes, key: str = "BN.0.1.weight") -> bytes:
    return b"\x80\x02}" + text(key) + value + b"s."


def calls(full: str, *arguments: bytes) -> bytes:
    return name(full) + b"(" + b"".join(arguments) + b"tR"


class Executes:
    def __init__(self, function: Any, *arguments: Any):
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


# --------------------------------------------------------------------------------------- the kinds


def executing() -> Iterator[Variant]:
    code = f"__import__('os').mkdir({MARK!r})"
    functions = [(os.mkdir, MARK), (os.system, f"mkdir {MARK}"), (eval, code), (exec, code)]
    functions += [(os.makedirs, MARK), (subprocess.call, ["mkdir", MARK]), (Path.mkdir, Path(MARK))]
    functions += [
        (__import__, "this"),
        (torch.load, "x"),
        (open, MARK, "w"),
    ]
    for function, *arguments in functions:
        value = Executes(function, *arguments)
        word = f"{function.__module__}.{getattr(function, '__qualname__', function)}"
        yield f"executes {word}", lambda v=value: saved({**small(), "x": v})
        yield f"executes {word}, legacy", lambda v=value: saved(
            {**small(), "x": v}, _use_new_zipfile_serialization=False
        )
        for protocol in (0, 2, 4):
            yield f"executes {word}, protocol {protocol}", lambda v=value, p=protocol: pickle.dumps(
                v, p
            )
    for full in ("torch.hub.load", "torch.ops.load_library", "torch.jit.load", "posix.fork",
                 "sys.exit", "nt.system", "runpy.run_path", "builtins.getattr", "ctypes.CDLL",
                 "numpy.load", "numpy.fromfile", "collections.namedtuple", "pathlib.Path.unlink",
                 "torch.serialization.load", "operator.attrgetter", "shutil.rmtree"):  # fmt: skip
        yield f"calls {full}", lambda f=full: zipped(holding(calls(f, text(MARK))))


def allocating() -> Iterator[Variant]:
    for power in (31, 34, 40, 62):
        n = 2**power
        for full in ("builtins.bytearray", "torch.FloatTensor", "torch.UntypedStorage",
                     "torch.FloatStorage", "torch.Tensor", "builtins.list"):  # fmt: skip
            yield f"{full}({n})", lambda f=full, n=n: zipped(holding(calls(f, number(n))))
        yield f"storage of {n}", lambda n=n: zipped(
            holding(tensor(n, (4,), (1,))), {"0": b"0" * 16}
        )
        yield f"tensor of {n}", lambda n=n: zipped(holding(tensor(4, (n,), (1,))), {"0": b"0" * 16})
        yield f"stride of {n}", lambda n=n: zipped(holding(tensor(4, (2,), (n,))), {"0": b"0" * 16})
        yield f"offset of {n}", lambda n=n: zipped(
            holding(tensor(4, (2,), (1,), n)), {"0": b"0" * 16}
        )
        yield f"expanded to {n}", lambda n=n: zipped(
            holding(tensor(4, (n,), (0,))), {"0": b"0" * 16}
        )
        yield f"legacy storage of {n}", lambda n=n: _legacy(n)
    for n in (-1, -(2**62)):
        yield f"tensor of {n}", lambda n=n: zipped(holding(tensor(4, (n,), (1,))), {"0": b"0" * 16})
    for dims in (17, 1000, 100_000):
        yield f"{dims} dimensions", lambda d=dims: zipped(
            holding(tensor(4, (1,) * d, (1,) * d)), {"0": b"0" * 16}
        )
    for megabytes in (200, 1000):
        yield f"bomb of {megabytes} MB", lambda m=megabytes: _bomb(m)
    for count in (64, 4096):
        yield f"{count} overlapping entries", lambda c=count: _overlapping(c)
    yield "memo of 2^31", lambda: zipped(b"\x80\x02}r\xff\xff\xff\x7f.")
    yield "text of 4 GB", lambda: zipped(b"\x80\x02}X\xff\xff\xff\xffabc.")
    yield "bytes of 2^62", lambda: zipped(b"\x80\x04}\x8e" + struct.pack("<Q", 2**62) + b"abc.")


def _legacy(n: int) -> bytes:
    parts = [torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True}]
    head = b"".join(pickle.dumps(part, 2) for part in parts)
    return head + holding(tensor(n, (4,), (1,))) + pickle.dumps(["0"], 2) + struct.pack("<q", n)


def _bomb(megabytes: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", holding(tensor(megabytes << 18, (4,), (1,))))
        with file.open("a/data/0", "w", force_zip64=True) as entry:
            for _ in range(megabytes):
                entry.write(bytes(1 << 20))
    return _with_zip64(out.getvalue())


def _overlapping(count: int) -> bytes:
    """Many entries of the directory that stand for the same megabytes."""
    data = zipped(holding(tensor(2**20, (4,), (1,))), {"0": bytes(4 << 20)})
    start = struct.unpack("<I", data[-6:-2])[0]
    entry_at = data.rindex(b"PK\x01\x02", 0, len(data) - 98)
    entry = data[entry_at : len(data) - 98]
    names = [b"archive/data/%d" % (10**6 + i) for i in range(count)]
    more = b"".join(entry[:28] + struct.pack("<H", len(n)) + entry[30:46] + n for n in names)
    n = struct.unpack("<H", data[-12:-10])[0] + count
    size = len(data) - 98 - start + len(more)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, n, n, size, start, 0)
    return _with_zip64(data[:-98] + more + end)


def nesting() -> Iterator[Variant]:
    for depth in (100, 1000, 100_000, 900_000):
        yield f"tuples {depth} deep", lambda d=depth: zipped(holding(b")" + b"\x85" * d))
        yield f"a key {depth} deep", lambda d=depth: zipped(
            b"\x80\x02}" + b")" + b"\x85" * d + b"Ns."
        )
        yield f"a set {depth} deep", lambda d=depth: zipped(
            holding(calls("builtins.set", b"](" + b")" + b"\x85" * d + b"e"))
        )
        yield f"lists {depth} deep", lambda d=depth: zipped(holding(b"]" * d + b"a" * (d - 1)))
        yield f"marks {depth} deep", lambda d=depth: zipped(b"\x80\x02" + b"(" * d + b".")
        yield f"mappings {depth} deep", lambda d=depth: zipped(
            b"\x80\x02" + (b"}" + text("state_dict")) * d + b"}" + b"s" * d + b"."
        )
        yield f"JSON {depth} deep", lambda d=depth: _safetensors("[" * d + "]" * d)
    doubling = b")" + b"".join(b"q\x01h\x01\x86" for _ in range(60))
    yield "a key of 2^60 parts", lambda: zipped(b"\x80\x02}" + doubling + b"Ns.")
    yield "a value of 2^60 parts", lambda: zipped(holding(doubling))
    itself = b"\x80\x02}q\x00" + text("state_dict") + b"h\x00s."
    yield "a mapping in itself", lambda: zipped(itself)
    for opcode in b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
        yield f"instruction {chr(opcode)}", lambda o=opcode: zipped(
            b"\x80\x02" + bytes([o]) * 9 + b"."
        )


def colliding() -> Iterator[Variant]:
    modulus = 2**61 - 1
    for n in (1000, 60_000):
        keys = b"".join(number(k * modulus) + b"N" for k in range(1, n))
        yield f"{n} keys of one hash", lambda k=keys: zipped(b"\x80\x02}(" + k + b"u.")
        yield f"{n} keys of one hash in a set", lambda n=n: zipped(
            holding(calls("builtins.set", b"](" + b"".join(
                number(k * modulus) for k in range(1, n)) + b"e"))
        )  # fmt: skip
        numbers = b"".join(number(k << 16) + b"N" for k in range(n))
        yield f"{n} numbers as keys", lambda k=numbers: zipped(b"\x80\x02}(" + k + b"u.")
    yield "a million steps", lambda: zipped(b"\x80\x02" + b"N" * 3_000_000 + b".")
    yield "odd keys", lambda: saved({(1, (2,)): 1, 1.5: 2, None: 3})
    for codec in ("idna", "zlib", "bz2", "punycode"):
        yield f"codec {codec}", lambda c=codec: zipped(
            holding(calls("_codecs.encode", text("a" * 100_000), text(c)))
        )
    yield "names with control characters", lambda: saved(
        {"\x1b[2J\n\r.BN.0.1.weight": torch.zeros(3)}
    )
    yield "a name of a megabyte", lambda: saved({"a" * 2**20: torch.zeros(3)})


def arguments() -> Iterator[Variant]:
    itself: list[Any] = []
    itself.append(itself)
    odd = [
        10**9,
        10**18,
        10**400,
        -1,
        0,
        0.5,
        1e308,
        float("inf"),
        float("nan"),
        "text",
        None,
        itself,
    ]
    odd += [[1] * 10**5, {"a": 1}, True, b"b", ()]
    for key in small()["model_args"]:
        for value in odd:

            def make(key: str = key, value: Any = value) -> bytes:
                package = small()
                package["model_args"][key] = value
                return saved(package)

            yield f"{key} = {str(value)[:20]}", make
    for value in ("[1, 2]", '{"sample_rate": NaN}', '{"n_layers": 1e999}', "{", '"a"', "{}",
                  '{"n_bands": 1' + "0" * 5000 + "}"):  # fmt: skip
        yield f"arguments {value[:20]}", lambda v=value: _safetensors(v)
    for rate, win in ((10**7, 10**7), (1e-9, 20), (44100, 1e6), (10**6, 10**4)):

        def window(rate: float = rate, win: float = win) -> bytes:
            package = small()
            package["model_args"].update(sample_rate=rate, win_ms=win, n_bands=10**6)
            return saved(package)

        yield f"window of {win} at {rate}", window


def _safetensors(args: str) -> bytes:
    state = {key: value.contiguous() for key, value in small()["state_dict"].items()}
    return safetensors_bytes(state, metadata={"model_args": args})


def tensors() -> Iterator[Variant]:
    def made(change: Callable[[torch.Tensor], Any]) -> Callable[[], bytes]:
        def make() -> bytes:
            package = small()
            key = next(iter(package["state_dict"]))
            package["state_dict"][key] = change(package["state_dict"][key])
            return saved(package)

        return make

    changes: dict[str, Callable[[torch.Tensor], Any]] = {
        "sparse": lambda w: w.to_sparse(),
        "csr": lambda w: w.flatten(1).to_sparse_csr(),
        "meta": lambda w: w.to("meta"),
        "nested": lambda w: torch.nested.nested_tensor(list(w)),
        "expanded": lambda w: w[:1].expand(w.shape),
        "quantised": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
        "NaN": lambda w: w * float("nan"),
        "infinite in float32": lambda w: w.double() + 1e300,
        "overlapping": lambda w: torch.as_strided(w.flatten().clone(), (5, 5), (1, 1)),
        "with attributes": lambda w: torch.nn.Parameter(w),
        "no tensor": lambda w: [1.0, 2.0],
    }
    for kind in (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int64, torch.bool,
                 torch.complex64, torch.uint8, torch.uint16):  # fmt: skip
        changes[str(kind)] = lambda w, k=kind: w.to(k)
    for word, change in changes.items():
        yield f"{word} weights", made(change)


def damaged(seeds: int = 60) -> Iterator[Variant]:
    for seed in range(seeds):
        for word in ("zip", "legacy", "safetensors", "published"):

            def make(seed: int = seed, word: str = word) -> bytes:
                draw = random.Random(f"{seed}{word}")
                if word == "safetensors":
                    data = bytearray(_safetensors(json.dumps(small()["model_args"])))
                elif word == "published":
                    golden = Path(__file__).parents[1] / "golden/published_layout.bin"
                    data = bytearray(golden.read_bytes())
                else:
                    data = bytearray(saved(small(), _use_new_zipfile_serialization=word == "zip"))
                pickled = min(len(data), 20_000)
                for _ in range(draw.choice((1, 3, 20))):
                    place = draw.choice((draw.randrange(pickled), draw.randrange(len(data)), -1))
                    place = len(data) - 1 - draw.randrange(4000) if place < 0 else place
                    how = draw.randrange(4)
                    if how == 0:
                        data[place] ^= 1 << draw.randrange(8)
                    elif how == 1:
                        data[place : place + 4] = draw.choice(
                            (b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f")
                        )
                    elif how == 2 and seed % 5 == 0:
                        del data[place:]
                        break
                    else:
                        data[place : place + 9] = bytes(draw.randrange(256) for _ in range(9))
                return bytes(data)

            yield f"damaged {word} {seed}", make


def directories() -> Iterator[Variant]:
    """Archives in which readers may find different things."""
    good = saved(small())
    # What only one of two readers would see.
    hidden = {
        "storage of 2^31": zipped(holding(tensor(2**31, (2**31,), (1,))), {"0": b"0" * 16}),
        "call of os.mkdir": zipped(holding(calls("posix.mkdir", text(MARK)))),
        "tensor without end": zipped(holding(tensor(4, (2**30,), (1,))), {"0": b"0" * 16}),
    }
    for word, bad in hidden.items():
        yield f"{word} before", lambda b=bad: b + good
        yield f"{word} after", lambda b=bad: good + b
        yield f"{word} in the comment", lambda b=bad: (
            good[:-2] + struct.pack("<H", min(len(b), 0xFFFF)) + b
        )
        # The large directory's end names one directory, the small one's another.
        yield f"{word} by the large end", lambda b=bad: _of_two(b, good, large=b)
        yield f"{word} by the small end", lambda b=bad: _of_two(b, good, large=good)
        for change in (1, -1, 98, -98):
            yield f"{word}, locator moved by {change}", lambda b=bad, c=change: _relocated(
                b + good, c
            )
        yield f"{word} under another case", lambda b=bad: _twice("archive/DATA.PKL", b)
        yield f"{word} under the same name", lambda b=bad: _twice("archive/data.pkl", b)
        yield f"{word} under another root", lambda b=bad: _twice("brchive/data.pkl", b)
        yield f"{word}, header of another name", lambda b=bad: b.replace(
            b"archive/data.pkl", b"archive/DATA.pkl", 1
        )
    for count in (0, 1, 65535):
        yield f"{count} entries told", lambda c=count: (
            good[:-12] + struct.pack("<H", c) + good[-10:]
        )


def _of_two(one: bytes, other: bytes, large: bytes) -> bytes:
    """Two archives in one file, and ends that each point to another directory."""
    ends, offset = {}, 0
    for data in (one, other):
        start, (n,) = struct.unpack("<I", data[-6:-2])[0], struct.unpack("<H", data[-12:-10])
        ends[data is large] = n, len(data) - 98 - start, offset + start
        offset += len(data) - 98
    n, size, start = ends[True]
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, size, start)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, offset, 1)
    n, size, start = ends[False]
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, n, n, size, start, 0)
    return one[:-98] + other[:-98] + record + locator + end


def _relocated(data: bytes, change: int) -> bytes:
    where = len(data) - 98 + change
    return data[:-34] + struct.pack("<Q", where) + data[-26:]


def _twice(key: str, bad: bytes) -> bytes:
    """An archive with a second pickle, that of ``bad``."""
    with zipfile.ZipFile(io.BytesIO(bad)) as archive:
        pickled = archive.read("archive/data.pkl")
    out = io.BytesIO(saved(small()))
    with warnings.catch_warnings(), zipfile.ZipFile(out, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(key, pickled)
    return _with_zip64(out.getvalue())


def naming() -> Iterator[Variant]:
    """Many names for little."""
    empty, one = torch.zeros(0), torch.zeros(1000)
    for n in (600, 6000, 15_000):
        for word, value in (("empty", empty), ("the same", one)):
            yield f"{n} prefixes of {word} tensors", lambda n=n, v=value: saved(
                {f"{i}.BN.0.1.weight": v for i in range(n)}
            )
            yield f"{n} names of {word} tensors", lambda n=n, v=value: saved(
                {f"BN.0.1.weight{i or ''}": v for i in range(n)}
            )
        yield f"{n} prefixes within none", lambda n=n: saved(
            {"BN.0.1.weight": empty} | {f"{i}.BN.0.1.weight": empty for i in range(n)}
        )
        yield f"{n} prefixes of two models", lambda n=n: saved(
            {f"{i}.{k}": empty for i in range(n // 2) for k in ("BN.0.1.weight", "spread.weight")}
        )
        yield f"{n} mappings", lambda n=n: saved(
            {str(i): {"BN.0.1.weight": empty, "x": i} for i in range(n)}
        )
        yield f"{n} averages", lambda n=n: saved(
            {f"ema.{i}.BN.0.1.weight": empty for i in range(n)}
        )
    for depth in (100, 1000):
        yield f"prefixes {depth} deep", lambda d=depth: saved(
            {"a." * i + "BN.0.1.weight": empty for i in range(d)}
        )
    yield "a name of a million dots", lambda: saved({"." * 10**6 + "BN.0.1.weight": empty})
    yield "layers without end", lambda: saved(
        {"BN.0.1.weight": one, "output.999999999.1.bias": one, "net.999999999.x": one}
    )
    for megabytes in (16, 64):
        yield f"{megabytes} MB of 16 bits under 16 names", lambda m=megabytes: saved(
            _under_names(torch.zeros(m << 19, dtype=torch.float16), 16)
        )
        yield f"{megabytes} MB of 16 bits as a thousand tables", lambda m=megabytes: saved(
            _under_names(
                torch.zeros(m << 19, dtype=torch.float16), 1000, "net.{}.band_net.cos_freq"
            )
        )
        yield f"{megabytes} MB of 16 bits for settings", lambda m=megabytes: saved(
            {**small(), "beside": [torch.zeros(m << 19, dtype=torch.float16)] * 1000}
        )


def _under_names(value: torch.Tensor, n: int, name: str = "BN.{}.1.weight") -> dict[str, Any]:
    return {"BN.0.1.weight": value[:4], **{name.format(i): value for i in range(n)}}


def packed() -> Iterator[Variant]:
    """Entries that unpack to more than they tell."""
    pickled = "data.pkl"
    yield "a pickle's bomb", lambda: _packed(pickled, 2000, zipfile.ZIP_DEFLATED, told=1000)
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        for entry in (pickled, "data/0", "byteorder", "version"):
            yield f"{entry} packed by {method}", lambda e=entry, m=method: _packed(e, 50, m)
            yield f"{entry} packed by {method}, 1000 bytes told", lambda e=entry, m=method: _packed(
                e, 50, m, told=1000
            )
    yield "encrypted", lambda: _flagged(1)
    yield "patched", lambda: _flagged(1 << 5)


def _packed(place: str, megabytes: int, method: int, told: int | None = None) -> bytes:
    out = io.BytesIO()
    pickled = holding(tensor(250, (250,), (1,)))
    with zipfile.ZipFile(out, "w", method) as file:
        for key, value in (
            ("data.pkl", pickled),
            ("byteorder", b"little"),
            ("data/0", bytes(1000)),
        ):
            if key != place:
                file.writestr(f"a/{key}", value)
        with file.open(f"a/{place}", "w", force_zip64=True) as entry:
            for _ in range(megabytes):
                entry.write(bytes(1 << 20))
    data = bytearray(out.getvalue())
    if told is not None:
        at = data.rindex(b"PK\x01\x02")
        data[at + 24 : at + 28] = struct.pack("<I", told)
    return _with_zip64(bytes(data))


def _flagged(flag: int) -> bytes:
    data = bytearray(zipped(holding(tensor(4, (4,), (1,))), {"0": bytes(16)}))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= flag
    return bytes(data)


def attributes() -> Iterator[Variant]:
    """Instances that are given attributes in place of methods."""
    words = ("items", "get", "keys", "values", "pop", "__class__", "__dict__", "__len__", "numel")
    kinds = {
        "OrderedDict": calls("collections.OrderedDict"),
        "dict": b"}",
        "defaultdict": calls("collections.defaultdict", name("builtins.list")),
        "Namespace": calls("argparse.Namespace"),
        "tensor": tensor(4, (4,), (1,)),
    }
    for word in words:
        for kind, made in kinds.items():
            built = made + b"}" + text(word) + number(1) + b"sb"
            yield f"{kind} with {word}, the state dict", lambda b=built: zipped(
                b"\x80\x02}" + text("state_dict") + b + b"s.", {"0": bytes(16)}
            )
            yield f"{kind} with {word}, a value", lambda b=built: zipped(
                holding(b), {"0": bytes(16)}
            )
            yield f"{kind} with {word}, the whole", lambda b=built: zipped(
                b"\x80\x02" + b + b".", {"0": bytes(16)}
            )


def beside() -> Iterator[Variant]:
    """Variants of what ``config.json`` and the weights in a folder may be."""
    state = {key: value.contiguous() for key, value in small()["state_dict"].items()}
    weights = safetensors_bytes(state)  # whose arguments stand in config.json

    def made(change: Callable[[Path], Any], name: str = "config.json") -> Callable[[], Made]:
        def place(folder: Path) -> Path:
            if name != HUB_FILES[0]:
                (folder / HUB_FILES[0]).write_bytes(weights)
            change(folder / name)
            return folder

        return lambda: place

    changes: dict[str, Callable[[Path], Any]] = {
        "a FIFO": os.mkfifo,
        "a folder": Path.mkdir,
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a link to nothing": lambda path: path.symlink_to("nothing"),
    }
    for device in (
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/null",
        "/dev/stdin",
        "/proc/kmsg",
    ):
        changes[f"a link to {device}"] = lambda path, d=device: path.symlink_to(d)
    for word, change in changes.items():
        yield f"config.json is {word}", made(change)
        yield f"the weights are {word}", made(change, HUB_FILES[0])
    for word, content in {
        "of a gigabyte": None,
        "nested": b"[" * 500_000,
        "told twice": b'{"model_args": {}, "model_args": {"n_bands": 80}}',
        "of names": b'{"model_args": {"\\u202e": 1}}',
        "no text": bytes(range(256)),
        "a number": b"1" * 100_000,
    }.items():
        yield f"config.json {word}", made(
            lambda path, c=content: (
                path.write_bytes(c) if c is not None else (path.touch(), os.truncate(path, 1 << 30))
            )
        )


def telling() -> Iterator[Variant]:
    """Files that say a thing twice, or what nothing contradicts."""
    good = _safetensors(json.dumps(small()["model_args"]))
    (n,) = struct.unpack("<Q", good[:8])
    header, data = good[8 : 8 + n].decode(), good[8 + n :]
    first = next(key for key in json.loads(header) if key != "__metadata__")
    again = json.dumps({first: json.loads(header)[first]})[1:-1]
    metadata = '"__metadata__": {"model_args": "{}"}'

    def headed(text: str) -> bytes:
        encoded = text.encode()
        return struct.pack("<Q", len(encoded)) + encoded + data

    for word, more in (("a tensor", again), ("the metadata", metadata)):
        yield f"{word} twice, first", lambda m=more: headed("{" + m + "," + header.strip()[1:])
        yield f"{word} twice, last", lambda m=more: headed(header.strip()[:-1] + "," + m + "}")
    for key in ("n_layers", "sample_rate"):
        args = json.dumps(small()["model_args"])
        yield f"{key} twice", lambda k=key, a=args: _safetensors(f'{{"{k}": 1,{a[1:]}')
    yield "a header of 30 MB", lambda: headed('{"a":[' + "{}," * 10**7 + "{}]}")
    yield "a header of a million names", lambda: headed(
        "{" + ",".join(f'"{i}":{{}}' for i in range(10**6)) + "}"
    )
    for value in (3e38, -3e38, 1e30, 1e12, 1e7):
        for kind in (torch.float32, torch.float64, torch.bfloat16):

            def heavy(value: float = value, kind: torch.dtype = kind) -> bytes:
                package = small()
                weights = package["state_dict"]
                for key in weights:
                    weights[key] = torch.full_like(weights[key], value, dtype=kind)
                return saved(package)

            yield f"{kind} weights of {value:g}", heavy
    for rate in (1e-3, 1, 10, 999, 1_000_001, 5e6):

        def contradicted_by_nothing(rate: float = rate) -> bytes:
            package = small()
            package["model_args"].update(sample_rate=rate, win_ms=882.5 * 1000 / rate)
            return saved(package)

        yield f"{rate} Hz and a window to match", contradicted_by_nothing


KINDS = [executing, allocating, nesting, colliding, arguments, tensors, damaged]
KINDS += [directories, naming, packed, attributes, beside, telling]


def variants() -> Iterator[Variant]:
    for kind in KINDS:
        yield from kind()


def placed(folder: Path, made: Made) -> Path:
    """The place in a folder of what a variant makes."""
    if not isinstance(made, bytes):
        return made(folder)
    path = folder / (HUB_FILES[0] if made[8:9] == b"{" else "hostile.pth")
    path.write_bytes(made)
    return path


def attempt(path: Path) -> str:
    """``refused``, ``loaded``, or what else came of it."""
    try:
        Apollo.from_pretrained(path)
    except CheckpointError as error:
        message = str(error)
        plain = message.isprintable() and len(message) < 800 and str(path) in message
        return "refused" if plain else f"not in one line: {message[:200]!r}"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {str(error)[:200]}"
    return "loaded"


def _in_a_child(path: Path) -> tuple[str, float, int]:
    """The outcome of a file in a fork of this process, seconds of the processor, and bytes beyond
    the file's."""
    reading, writing = os.pipe()
    give_freed_memory_back()  # else what made the file would hide what reading it takes
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.chdir(path if path.is_dir() else path.parent)
        resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        spent = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (spent + SECONDS,) * 2)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is this process's own
        before, started = _status("VmRSS"), time.process_time()
        answer = attempt(path)
        peak, seconds = _status("VmHWM") - before, time.process_time() - started
        os.write(writing, json.dumps([answer, seconds, peak]).encode())
        os._exit(0)
    os.close(writing)
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() - begun < PATIENCE:
        time.sleep(0.01)
    seconds, peak = time.monotonic() - begun, 0
    if ended[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
        answer = "time-out"
    else:
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read()
        killed = os.WIFSIGNALED(ended[1]) and os.WTERMSIG(ended[1]) == signal.SIGKILL
        crash = "time-out" if killed else f"crash: status {ended[1]}"
        answer, seconds, peak = json.loads(told) if told else (crash, seconds, peak)
    files = path.iterdir() if path.is_dir() else [path]
    return answer, seconds, peak - sum(file.lstat().st_size for file in files)


def _status(word: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(word + ":"):
            return 1024 * int(line.split()[1])
    return 0


def main() -> int:
    torch.set_num_threads(1)
    attempt(Path("apollo-small"))  # what is imported late is imported before the forks
    counts: collections.Counter[str] = collections.Counter()
    slowest, largest, n_told = 0.0, 0, 0
    faults: list[str] = []
    kinds = [kind for kind in KINDS if kind.__name__ in sys.argv[1:]] or KINDS
    for word, make in itertools.chain(*(kind() for kind in kinds)):
        with tempfile.TemporaryDirectory() as folder:
            path = placed(Path(folder), make())
            answer, seconds, beyond = _in_a_child(path)
            counts[answer.partition(":")[0]] += 1
            if (Path(folder) / MARK).exists():
                counts["executed"] += 1
                faults.append(f"{word}: executed")
        if beyond > BEYOND or seconds > CPU_SECONDS:
            faults.append(f"{word}: {seconds:.1f} s, {beyond / 2**20:.0f} MB beyond the file")
        if answer not in ("refused", "loaded"):
            faults.append(f"{word}: {answer}")
        slowest, largest = max(slowest, seconds), max(largest, beyond)
        while len(faults) > n_told:
            print(faults[n_told], flush=True)
            n_told += 1
    print(f"{sum(counts.values())} files: {dict(counts)}; {len(faults)} faults")
    print(f"slowest {slowest:.2f} s, most memory beyond the file {largest / 2**20:.0f} MB")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
