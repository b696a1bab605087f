"""Stable hashes of strings and the partition ("bucket") of a user.

Both depend on the UTF-8 bytes alone: not on the process (Python's `hash` is salted), the platform, the number of
workers, or on which libraries happen to be installed (Ray's own hash differs with and without Polars). A bucket written
to disk therefore stays right for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Strings: TypeAlias = Sequence[str | None] | pa.Array | pa.ChunkedArray

_DIGEST_BYTES = 16
_NULL = b"\xff"
"""Never valid UTF-8, so that a null has a hash of its own."""


def stable_hash128(strings: Strings) -> NDArray[np.uint64]:
    """Two 64-bit lanes [N, 2] of BLAKE2b over each string's UTF-8 bytes; nulls share one value of their own.

    Each distinct string is hashed once, whatever N is.
    """
    column = strings if isinstance(strings, pa.Array | pa.ChunkedArray) else pa.array(strings, pa.string())
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not pa.types.is_dictionary(column.type):
        column = pc.dictionary_encode(column)
    distinct = column.dictionary.cast(pa.binary()).to_pylist()
    digests = b"".join([_digest(text) for text in distinct] + [_digest(_NULL)])
    lanes = np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(-1, 2)
    rows = pc.fill_null(column.indices.cast(pa.int64()), len(distinct)).to_numpy(zero_copy_only=False)
    return lanes[rows]


def stable_hash64(strings: Strings) -> NDArray[np.uint64]:
    """One 64-bit hash [N] per string: the first lane of `stable_hash128`."""
    return np.ascontiguousarray(stable_hash128(strings)[:, 0])


def hash_of(string: str) -> int:
    """`stable_hash64` of one string: for seeds, and for the bucket of one user."""
    return int.from_bytes(_digest(string.encode())[:8], "little")


def bucket_of(user_ids: Strings, buckets: int) -> NDArray[np.int32]:
    """The bucket [N] of each user, 0 ≤ bucket < `buckets`."""
    if buckets < 1:
        raise ValueError(f"buckets must be at least 1, got {buckets}")
    return (stable_hash64(user_ids) % np.uint64(buckets)).astype(np.int32)


def part(bucket: int) -> str:
    """Name of the file that holds a bucket, in each folder of a dataset."""
    return f"part-{bucket:05d}.parquet"


def _digest(text: bytes | None) -> bytes:
    return hashlib.blake2b(_NULL if text is None else text, digest_size=_DIGEST_BYTES).digest()
