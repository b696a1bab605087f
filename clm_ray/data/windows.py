"""Cut one user's context, targets and references into windows (rows of the `sequences` dataset).

A window holds up to `body` new context events and up to `max_context` earlier ones as its tail, so that every target finds the
`max_context` events before it in its own row.

Shape letters: M context events, T targets, R references.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.data.occasions import Targets
from clm_ray.features.history import History


@dataclass(frozen=True)
class References:
    """Retention references of one user; see schema.SEQUENCES for the meaning of bin and censored."""

    time_R: NDArray[np.int64]
    bin_R: NDArray[np.int32]
    censored_R: NDArray[np.int32]
    value_R: NDArray[np.float32]
    split_R: NDArray[np.int32]

    def select(self, keep_R: NDArray[np.bool_]) -> References:
        """The references where `keep_R` is true."""
        return References(
            self.time_R[keep_R], self.bin_R[keep_R], self.censored_R[keep_R], self.value_R[keep_R], self.split_R[keep_R]
        )


def cut_windows(
    user_id: str,
    context: History,
    context_dense: NDArray[np.float32],
    targets: Targets,
    target_split: NDArray[np.int32],
    target_dense: NDArray[np.float32],
    references: References,
    reference_dense: NDArray[np.float32],
    *,
    max_context: int,
    body: int,
    first: int = 0,
) -> Iterator[dict[str, Any]]:
    """Rows of schema.SEQUENCES; targets and references lie in time order. Windows without targets and references are left out.

    `first`: context events of the user that lie before all targets and references and are not given; those of the first window's tail are.
    """
    before_T = first + np.searchsorted(context.time_N, targets.time_T, side="left")
    before_R = first + np.searchsorted(context.time_N, references.time_R, side="left")
    window_T = np.maximum(before_T - 1, 0) // body
    window_R = np.maximum(before_R - 1, 0) // body
    for window in np.unique(np.concatenate([window_T, window_R])):
        start = max(0, int(window) * body - max_context)
        stop = min(first + len(context), (int(window) + 1) * body)
        t, r = (slice(*np.searchsorted(of, [window, window + 1])) for of in (window_T, window_R))
        # Nothing after the last target or reference of the window is needed.
        stop = min(stop, int(max(before_T[t].max(initial=0), before_R[r].max(initial=0))))
        part = context.slice(start - first, stop - first)
        yield {
            "user_id": user_id,
            "window": int(window),
            "ctx_item": part.item_N,
            "ctx_event": part.event_N.astype(np.int32),
            "ctx_value": part.value_N,
            "ctx_time": part.time_N,
            "ctx_dense": context_dense[start - first : stop - first],
            "tgt_item": targets.item_T[t],
            "tgt_label": targets.label_T[t],
            "tgt_weight": targets.weight_T[t],
            "tgt_offset": targets.offset_T[t],
            "tgt_rating": targets.rating_T[t],
            "tgt_time": targets.time_T[t],
            "tgt_pos": (before_T[t] - start).astype(np.int32),
            "tgt_split": target_split[t],
            "tgt_dense": target_dense[t],
            "ref_time": references.time_R[r],
            "ref_pos": (before_R[r] - start).astype(np.int32),
            "ref_bin": references.bin_R[r],
            "ref_censored": references.censored_R[r],
            "ref_dense": reference_dense[r],
            "ref_value": references.value_R[r],
            "ref_split": references.split_R[r],
        }
