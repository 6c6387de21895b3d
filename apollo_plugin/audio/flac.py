"""FLAC's checksum of its samples: the MD5 of what was coded."""

import hashlib
from typing import BinaryIO

import numpy as np

# STREAMINFO comes first: 4 bytes of mark, 4 of header, then 34 that end in the digest.
_BEGIN, _BITS, _DIGEST = 8, 12, slice(18, 34)
# Bits of the integers that floats represent exactly.
_MOST_BITS = 24


class Digest:
    """MD5 of decoded samples, to compare with the one in the file.

    Args:
        file: at its beginning; anything before the mark is skipped.
        begin: position of its mark, in bytes.
    """

    def __init__(self, file: BinaryIO, begin: int):
        file.seek(begin)
        info = file.read(_BEGIN + 34)[_BEGIN:]
        self._told = info[_DIGEST]
        self._n_bits = 1 + (int.from_bytes(info[_BITS : _BITS + 2], "big") >> 4 & 31)
        known = len(info) == 34 and any(self._told) and self._n_bits <= _MOST_BITS
        self._md5 = hashlib.md5(usedforsecurity=False) if known else None

    def add(self, samples: np.ndarray) -> None:
        """Add the next ``(time, channels)`` samples, full scale 1.0."""
        if self._md5:
            n_bytes = -(-self._n_bits // 8)
            steps = np.rint(samples * np.float32(2 ** (self._n_bits - 1))).astype("<i4")
            self._md5.update(steps.reshape(-1, 1).view(np.uint8)[:, :n_bytes].tobytes())

    @property
    def is_wrong(self) -> bool:
        """True if the added samples differ from those that were coded."""
        return self._md5 is not None and self._md5.digest() != self._told
