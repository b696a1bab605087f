"""Event ids: derived from the content where the source has none; unique afterwards.

Without ids, rows of equal content are true repeats (two of the same product in one basket), so nothing is dropped:
each gets its own id, `log-DIGEST` for the first and `log-DIGEST.1`, `.2`, ... for the others. The digest covers user, item, type,
time, value, decision and context, so ids are the same in every build, whatever the order of files or rows.

With ids, the contract's promise "unique" is made true: of rows with one id the first by (time, content digest) stays; the
others are a `duplicate` when their content is the same, else an event id used twice.

Both steps need all rows of an id in one block: rows of one id have one key (`id_keys`), derived and given ids alike.

Shape letters: N rows, E context entries, 2 lanes of a 128-bit digest.
"""

from __future__ import annotations

import re

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clm_ray.data.buckets import stable_hash64, stable_hash128

DUPLICATE = "duplicate"
USED_TWICE = "used twice"
CONFLICT = f"event_id {USED_TWICE}"

DIGEST = (pa.field("digest_high", pa.uint64(), nullable=False), pa.field("digest_low", pa.uint64(), nullable=False))
"""Columns that carry the content digest from cleaning to here."""

DERIVED = "log-"
"""Beginning of an id that was derived."""
_DERIVED = re.compile(rf"^{DERIVED}" r"[0-9a-f]{16}([0-9a-f]{16})(?:\.[0-9]+)?$")
_STRINGS = ("user_id", "item_id", "event_type", "decision_id")
_ODD = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03))
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), "S2")


def content_digest(events: pa.Table) -> NDArray[np.uint64]:
    """128-bit digest [N, 2] of each event's content, its id left out. The order of context entries does not matter."""
    digest_N2 = np.zeros((events.num_rows, 2), np.uint64)
    for name in _STRINGS:
        digest_N2 = _mix(digest_N2, stable_hash128(events.column(name)))
    digest_N2 = _mix(digest_N2, _number_lanes(events.column("timestamp").cast(pa.int64())))
    value = pc.add(events.column("value"), 0.0)  # makes -0.0 a 0.0
    digest_N2 = _mix(digest_N2, _number_lanes(value))
    return _mix(digest_N2, _context_lanes(events.column("context")))


def id_keys(block: pa.Table) -> NDArray[np.uint64]:
    """uint64 [N]: equal for rows (CLEANED) that have, or will derive, the same event id; hardly ever for others."""
    event_id = block.column("event_id")
    key_N = block.column("digest_low").to_numpy().copy()
    given_N = event_id.is_valid().to_numpy()
    if given_N.any():
        key_N[given_N] = _given_key(event_id.drop_null())
    return key_N


def settle_ids(block: pa.Table) -> pa.Table:
    """Give every clean row of a block (CLEANED) its event id, and the reason to rows that repeat one."""
    clean_N = block.column("reason").is_null().to_numpy(zero_copy_only=False)
    given_N = clean_N & block.column("event_id").is_valid().to_numpy()
    block = _derive_ids(block, clean_N=clean_N)
    # Derived ids alone are unique: rows of equal content are told apart.
    return _reject_repeats(block, clean_N=clean_N) if given_N.any() else block


def _derive_ids(block: pa.Table, *, clean_N: NDArray[np.bool_]) -> pa.Table:
    index = np.flatnonzero(clean_N & block.column("event_id").is_null().to_numpy(zero_copy_only=False))
    if not len(index):
        return block
    digest_N2 = _digests(block)[index]
    occurrence_N = _occurrences(digest_N2)
    ids = _hexadecimal(digest_N2)
    if occurrence_N.any():
        again = pc.binary_join_element_wise(ids, pa.array(occurrence_N).cast(pa.string()), ".")
        ids = pc.if_else(pa.array(occurrence_N > 0), again, ids)
    if len(index) < block.num_rows:
        place_N = np.full(block.num_rows, -1, np.int64)
        place_N[index] = np.arange(len(index))
        derived = ids.take(pa.array(place_N, mask=place_N < 0))
        ids = pc.coalesce(block.column("event_id"), derived)
    return block.set_column(block.column_names.index("event_id"), block.schema.field("event_id"), ids)


def _reject_repeats(block: pa.Table, *, clean_N: NDArray[np.bool_]) -> pa.Table:
    index = np.flatnonzero(clean_N)
    codes = pc.dictionary_encode(block.column("event_id").combine_chunks()).indices
    # Rejected rows may have no id, which makes numbers with gaps floats.
    code_N = codes.to_numpy(zero_copy_only=False)[index].astype(np.int64)
    if np.bincount(code_N).max(initial=0) <= 1:
        return block
    digest_N2 = _digests(block)[index]
    time_N, file_N, row_N = (
        block.column(name).cast(pa.int64()).to_numpy()[index] for name in ("timestamp", "file", "row")
    )
    order = np.lexsort((row_N, file_N, digest_N2[:, 1], digest_N2[:, 0], time_N, code_N))
    code_N, digest_N2, index = code_N[order], digest_N2[order], index[order]
    first_N = np.flatnonzero(np.concatenate([[True], code_N[1:] != code_N[:-1]]))
    kept_N = np.repeat(first_N, np.diff(np.append(first_N, len(code_N))))
    repeat_N = kept_N != np.arange(len(code_N))
    same_N = (digest_N2 == digest_N2[kept_N]).all(axis=1)
    reason_N = np.full(block.num_rows, None, object)
    reason_N[index[repeat_N]] = np.where(same_N[repeat_N], DUPLICATE, CONFLICT)
    return _with_reasons(block, pa.array(reason_N, pa.string()))


def _with_reasons(block: pa.Table, reason: pa.Array) -> pa.Table:
    rejected_N = reason.is_valid().to_numpy(zero_copy_only=False)
    shown = block.select(["event_id", "user_id", "item_id", "event_type", "timestamp", "value"]).filter(
        pa.array(rejected_N)
    )
    detail_N = np.full(block.num_rows, None, object)
    detail_N[rejected_N] = [orjson.dumps(row).decode() for row in shown.to_pylist()]
    for name, fresh in (("reason", reason), ("detail", pa.array(detail_N, pa.string()))):
        merged = pc.coalesce(block.column(name), fresh)
        block = block.set_column(block.column_names.index(name), block.schema.field(name), merged)
    return block


def _occurrences(digest_N2: NDArray[np.uint64]) -> NDArray[np.int64]:
    """0 for the first row of each digest, 1 for the second, ..."""
    order = np.lexsort((digest_N2[:, 1], digest_N2[:, 0]))
    ordered = digest_N2[order]
    fresh_N = np.concatenate([[True], (ordered[1:] != ordered[:-1]).any(axis=1)])
    position_N = np.arange(len(ordered))
    start_N = np.maximum.accumulate(np.where(fresh_N, position_N, 0))
    occurrence_N = np.empty(len(ordered), np.int64)
    occurrence_N[order] = position_N - start_N
    return occurrence_N


def _hexadecimal(digest_N2: NDArray[np.uint64]) -> pa.Array:
    """`log-` and the 32 hexadecimal digits of each digest, built without a Python loop."""
    rows = len(digest_N2)
    digits = _HEX[np.ascontiguousarray(digest_N2, ">u8").view(np.uint8).reshape(rows, 16)]
    text_NB = np.empty((rows, 36), np.uint8)
    text_NB[:, :4] = np.frombuffer(DERIVED.encode(), np.uint8)
    text_NB[:, 4:] = np.ascontiguousarray(digits).view(np.uint8).reshape(rows, 32)
    offsets = np.arange(rows + 1, dtype=np.int32) * 36
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(text_NB)])


def _given_key(event_id: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Hash of each given id; for one of the derived form the key of its derived twin."""
    key_N = stable_hash64(event_id)
    derived = pc.starts_with(event_id, DERIVED).to_numpy()
    if derived.any():
        matches = [_DERIVED.match(text) for text in event_id.filter(pa.array(derived)).to_pylist()]
        twin_N = np.array([int(m.group(1), 16) if m else 0 for m in matches], np.uint64)
        is_twin_N = np.array([m is not None for m in matches], bool)
        key_N[np.flatnonzero(derived)[is_twin_N]] = twin_N[is_twin_N]
    return key_N


def _digests(block: pa.Table) -> NDArray[np.uint64]:
    return np.stack([block.column(field.name).to_numpy() for field in DIGEST], axis=1)


def _mix(state_N2: NDArray[np.uint64], word_N2: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Absorb one word per lane; the finaliser of SplitMix64 (Steele, Lea, Flood 2014), the lanes crossed."""
    mixed = np.empty_like(state_N2)
    for lane in (0, 1):
        x = state_N2[:, lane] * _ODD[lane] + word_N2[:, lane] + (state_N2[:, 1 - lane] >> np.uint64(32))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed[:, lane] = x ^ (x >> np.uint64(31))
    return mixed


def _number_lanes(numbers: pa.ChunkedArray) -> NDArray[np.uint64]:
    """The bits of each number in both lanes; a null is told apart by the second lane."""
    valid_N = numbers.is_valid().to_numpy(zero_copy_only=False)
    bits_N = np.asarray(pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False)).view(np.uint64)
    return np.stack([bits_N, np.where(valid_N, bits_N + np.uint64(1), np.uint64(0))], axis=1)


def _context_lanes(context: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Sum over each row's entries of the mixed hashes of key and value: the same in any order of entries."""
    maps = context.combine_chunks()
    lists = maps.cast(pa.list_(maps.type.field(0).type))
    lengths_N = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    ends_N = np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int64)
    entries = pc.list_flatten(lists)
    entry_E2 = _mix(stable_hash128(pc.struct_field(entries, [0])), stable_hash128(pc.struct_field(entries, [1])))
    total_E2 = np.concatenate([np.zeros((1, 2), np.uint64), np.cumsum(entry_E2, axis=0, dtype=np.uint64)])
    return total_E2[ends_N[1:]] - total_E2[ends_N[:-1]]
