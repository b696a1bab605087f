"""What becomes of the people in a log when it is read: they get pseudonyms, and those who were erased stay so.

ROOT/erasures/ holds one certificate per erasure (see jobs/erase.py); it is the tombstone too. It names users by a hash of their id (of their
pseudonym, where there are pseudonyms) and the moment of the erasure: events before it are dropped, later ones are those of a user who came back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clm_ray.data.buckets import Strings, stable_hash128
from clm_ray.errors import DataError
from clm_ray.privacy import Pseudonyms


@dataclass(frozen=True)
class Tombstones:
    """Two lanes of each erased user's hash, sorted by the first, and the moment of the erasure, µs. Travels to every worker.

    Shape letters: T tombstones, N rows.
    """

    hash_T2: NDArray[np.uint64]
    until_T: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.until_T)

    def until(self, user_ids: Strings) -> NDArray[np.int64]:
        """int64_N: the moment before which nothing of each user is read; the smallest number for users who were never erased."""
        hash_N2 = stable_hash128(user_ids)
        until_N = np.full(len(hash_N2), np.iinfo(np.int64).min)
        if not len(self):
            return until_N
        at = np.searchsorted(self.hash_T2[:, 0], hash_N2[:, 0])
        at = np.minimum(at, len(self) - 1)
        erased_N = (self.hash_T2[at] == hash_N2).all(axis=1)
        until_N[erased_N] = self.until_T[at[erased_N]]
        return until_N

    def erased(self, user_ids: Strings, time_N: pa.Array) -> NDArray[np.bool_]:
        """bool_N: the row is of a user's time before their erasure, or has no time (`time_N`: int64 µs, null: none)."""
        until_N = self.until(user_ids)
        time = np.asarray(time_N.cast(pa.int64()).fill_null(np.iinfo(np.int64).min))
        return (until_N > np.iinfo(np.int64).min) & (time < until_N)


@dataclass(frozen=True)
class Subjects:
    """How the user ids of a source are read. `pseudonyms`: None where they stay as they are, or are pseudonyms already."""

    pseudonyms: Pseudonyms | None = None
    tombstones: Tombstones | None = None

    def ids(self, user_ids: pa.Array) -> pa.Array:
        """The ids under which users are known from here on; null stays null."""
        return user_ids if self.pseudonyms is None else self.pseudonyms.of_column(user_ids)

    def erased(self, user_ids: Strings, time_N: pa.Array) -> NDArray[np.bool_]:
        """bool_N: the row must not be read. `user_ids`: as `ids` gives them."""
        if self.tombstones is None:
            return np.zeros(len(user_ids), bool)
        return self.tombstones.erased(user_ids, time_N)


AS_THEY_ARE = Subjects()
"""No pseudonyms, nobody erased."""


def hash_name(user_id: str) -> str:
    """How a certificate names a user: 32 hexadecimal digits."""
    high, low = stable_hash128([user_id])[0]
    return f"{int(high):016x}{int(low):016x}"


def read_tombstones(folder: Path) -> Tombstones:
    """The tombstones of all certificates in `folder`; of several for one user the last. Raises DataError for a damaged one."""
    until: dict[tuple[int, int], int] = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            for name in found["users"]:
                lanes = int(name[:16], 16), int(name[16:], 16)
                until[lanes] = max(until.get(lanes, 0), int(found["until_us"]))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                "a certificate of erasure is damaged",
                field="erasures",
                value=str(path),
                fix="restore it: without it the users it names would come back",
            ) from error
    users = sorted(until)
    hashes = np.array(users, np.uint64).reshape(-1, 2)
    return Tombstones(hashes, np.array([until[user] for user in users], np.int64))
