"""How a job gets its Ray: the cluster it was submitted to, the one `ray start` started here, or one of its own."""

from __future__ import annotations

import logging
import os
import warnings


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names or that `ray start` started here, else start one. Does nothing when connected.

    Ray's own progress bars and worker logs are not shown: the jobs print theirs, and Ray keeps its logs in its session folder.
    """
    import ray

    for noisy in ("ray.data", "ray.train", "ray.serve", "ray.tune"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if not ray.is_initialized():
        # Ray Data's actor pools make Ray's C++ core print a red "E" line about their own constructor arguments at each use.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
