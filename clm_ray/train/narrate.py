"""Progress lines of a run, from the worker that does the work to the terminal that started it.

Rank 0 appends lines to `progress.log` in the run's folder; the driver prints what is added. The folder is shared storage, so this works
across nodes, and the file is there to be read later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRESS = "progress.log"
_PAUSE_S = 0.5


def tell(run: Path, line: str) -> None:
    """Append one line to the run's progress."""
    with (run / PROGRESS).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


@contextmanager
def following(run: Path, *, say: Callable[[str], None]) -> Iterator[None]:
    """Pass every line added to the run's progress from now on to `say`, until the block ends."""
    run.mkdir(parents=True, exist_ok=True)
    path = run / PROGRESS
    done = threading.Event()
    reader = threading.Thread(
        target=_follow, args=(path, path.stat().st_size if path.is_file() else 0, done, say), daemon=True
    )
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join()


def _follow(path: Path, start: int, done: threading.Event, say: Callable[[str], None]) -> None:
    rest = ""
    while True:
        last = done.wait(_PAUSE_S)
        if path.is_file():
            with path.open("rb") as file:
                file.seek(start)
                new = file.read()
            start += len(new)
            *lines, rest = (rest + new.decode("utf-8", "replace")).split("\n")
            for line in lines:
                say(line)
        if last:
            return
