"""The interaction matrix X of a dataset, for the baselines that are fitted on it. It holds the training period alone.

Shape letters: U users, I items, K items that one user took.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from clm_ray.data.buckets import part
from clm_ray.evaluate.dataset import Dataset
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History


@dataclass(frozen=True)
class Interactions:
    """`user_U`: ids of the rows, rising. `count_UI`: float32, how often each user took each item before the end of training."""

    user_U: pa.Array
    count_UI: sparse.csr_matrix

    @staticmethod
    def read(dataset: Dataset) -> Interactions:
        """Of all buckets. The split decides by user what is training: under `split.protocol=per_user` the matrix holds what others did later
        than a moment that is asked about, as everything fitted under that protocol does."""
        columns = ["user_id", "item", "events"]
        paths = [dataset.folder / "interactions" / part(bucket) for bucket in dataset.buckets]
        table = pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])
        table = table.filter(pc.greater(table.column("item"), 0))
        user_U = pc.unique(table.column("user_id")).sort()
        row = pc.index_in(table.column("user_id"), value_set=user_U).to_numpy()
        count = table.column("events").to_numpy().astype(np.float32)
        shape = (len(user_U), dataset.items.num_rows)
        count_UI = sparse.csr_matrix((count, (row, table.column("item").to_numpy())), shape=shape)
        count_UI.sort_indices()
        return Interactions(user_U, count_UI)


def taken_before(
    history: History, time: int, *, vocabulary: EventVocabulary
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(items_K, counts_K) of the positive events strictly before `time`: what X would hold of the user, had training ended then."""
    liked = (vocabulary.labels(history) == 1.0) & (history.time_N < time) & (history.item_N > 0)
    return np.unique(history.item_N[liked], return_counts=True)
