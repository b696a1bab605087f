"""Rows set aside: how many of them a table may have, and what is said where it has more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clm_ray.data.clean import UNPARSABLE_TIME
from clm_ray.data.duplicates import USED_TWICE
from clm_ray.data.sources import TableRead
from clm_ray.errors import QuarantineError

REJECTED_FILE = "rejected.parquet"
"""Under ROOT/datasets: examples of rejected rows, written when there are too many to go on."""
SHARE = "clean.max_rejected_share"
_EXAMPLES = 20
"""Of each reason, of a table beside the log."""
_ALSO = {UNPARSABLE_TIME: ", or name the unit of numbers in time_unit (ticks of .NET have to be converted)"}


def too_many(
    counts: Mapping[str, int],
    *,
    rows: int,
    allowed: float,
    mostly: str,
    examples: pa.Table,
    target: Path,
    field: str = SHARE,
    knob: str = SHARE,
) -> QuarantineError:
    """The error for a table of which too much was rejected (`counts`, by reason); `examples` (QUARANTINE) go to `target`.

    field: the table or the bound that is meant. knob: the key that may be raised; another one than SHARE bounds the reason `mostly` alone.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(examples, target)
    rejected = sum(counts.values())
    first = examples.filter(pc.equal(examples.column("reason"), mostly)).slice(0, 1).to_pylist()
    listed = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))
    return QuarantineError(
        f"{rejected:,} of {rows:,} rows ({rejected / rows:.1%}) were rejected ({listed}); "
        f"allowed are {allowed:.1%}{' of this reason' if knob != SHARE else ''}. Mostly: {mostly}",
        field=field,
        value=f"{first[0]['source']} row {first[0]['row']}: {first[0]['detail']}" if first else None,
        fix=f"correct the rows or the mapping (examples: {target}){_ALSO.get(mostly, '')}, or raise {knob}",
    )


def check_table(read: TableRead, *, allowed: float, field: str, target: Path) -> None:
    """Raises QuarantineError for a table beside the log of which a larger share of the rows was rejected. Repeats of an id do not count."""
    repeats = pc.ends_with(read.rejected.column("reason"), USED_TWICE)
    rejected = read.rejected.filter(pc.invert(repeats))
    if rejected.num_rows <= allowed * read.rows:
        return
    counts = by_reason(rejected)
    parts = [rejected.filter(pc.equal(rejected.column("reason"), reason)).slice(0, _EXAMPLES) for reason in counts]
    mostly = max(counts, key=lambda reason: counts[reason])
    raise too_many(
        counts,
        rows=read.rows,
        allowed=allowed,
        mostly=mostly,
        examples=pa.concat_tables(parts),
        target=target,
        field=field,
    )


def by_reason(rejected: pa.Table) -> dict[str, int]:
    """Number of rows (QUARANTINE) of each reason."""
    counted = rejected.group_by("reason").aggregate([([], "count_all")]).sort_by("reason")
    return dict(zip(counted.column("reason").to_pylist(), counted.column("count_all").to_pylist(), strict=True))
