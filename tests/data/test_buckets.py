"""Stable hashes and buckets."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clm_ray.data.buckets import bucket_of, hash_of, stable_hash64


def test_hashes_are_the_ones_that_old_datasets_were_written_with():
    assert stable_hash64(["", "5", "käse"]).tolist() == [
        4665148505410102986,
        15055930695006048865,
        13883088820621851618,
    ]
    assert bucket_of(["", "5", "käse"], 16).tolist() == [10, 1, 2]
    assert [hash_of(text) % 16 for text in ("", "5", "käse")] == [10, 1, 2]


def test_another_process_with_another_salt_agrees():
    code = "from clm_ray.data.buckets import bucket_of; print(bucket_of(['a', 'b', 'c'], 1000).tolist())"
    env = {"PYTHONHASHSEED": "123", "PATH": ""}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(bucket_of(["a", "b", "c"], 1000).tolist())


@given(st.lists(st.one_of(st.none(), st.text()), max_size=30))
def test_encoding_and_chunks_do_not_matter(texts):
    texts = [t for t in texts if t is None or t.encode(errors="replace").decode() == t]
    plain = stable_hash64(texts)
    column = pa.array(texts, pa.string())
    assert np.array_equal(plain, stable_hash64(column.dictionary_encode()))
    assert np.array_equal(plain, stable_hash64(pa.chunked_array([column[:3], column[3:]], pa.string())))
    assert np.array_equal(plain, np.concatenate([stable_hash64([t]) for t in texts] or [plain]))


def test_null_differs_from_every_text():
    hashes = stable_hash64([None, "", "None", "null"])
    assert len(set(hashes.tolist())) == 4


def test_buckets_are_even_and_within_range():
    buckets = bucket_of([str(i) for i in range(16_000)], 16)
    counts = np.bincount(buckets, minlength=16)
    assert counts.min() > 850
    assert counts.max() < 1150
    assert buckets.dtype == np.int32


def test_no_buckets_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        bucket_of(["a"], 0)
