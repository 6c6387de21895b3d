"""A sample of the hostile checkpoints, in the process of the suite: refused or loaded, no more."""

import gc
import itertools

import hostile
import pytest

SAMPLE = [
    variant
    for kind in hostile.KINDS
    # Odd steps, so that all ways of a kind that comes in turns are met.
    for variant in itertools.islice(kind(), 0, None, 7)
    if not any(word in variant[0] for word in ("bomb", "900000", "64 MB", "header of"))
]


@pytest.mark.parametrize("word, make", SAMPLE, ids=[word for word, _ in SAMPLE])
def test_hostile_files_are_refused_in_one_line(word, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = hostile.placed(tmp_path, make())
    assert hostile.attempt(path) in ("refused", "loaded")
    assert not (tmp_path / hostile.MARK).exists()


def test_the_collector_goes_on_afterwards(tmp_path):
    """It rests while a pickle is looked into."""
    (tmp_path / "a.pth").write_bytes(hostile.saved(hostile.small()))
    (tmp_path / "b.pth").write_bytes(hostile.zipped(hostile.holding(b")" + b"\x85" * 1000)))
    for name, answer in (("a.pth", "loaded"), ("b.pth", "refused")):
        assert hostile.attempt(tmp_path / name) == answer and gc.isenabled()


def test_there_are_hundreds_and_all_have_names_of_their_own():
    words = [word for word, _ in hostile.variants()]
    assert len(words) > 500 and len(SAMPLE) >= 80


@pytest.mark.parametrize("kind", ["executing", "allocating", "nesting", "telling"])
def test_none_of_these_is_loaded(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    harmless = ("numbers as keys", "a value of", "value", "JSON")
    for word, make in itertools.islice(getattr(hostile, kind)(), 3, None, 11):
        if word.startswith(harmless) or "900000" in word or "bomb" in word:
            continue
        assert hostile.attempt(hostile.placed(tmp_path, make())) == "refused", word
