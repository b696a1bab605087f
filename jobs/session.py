"""How a job gets its Ray: the cluster it was submitted to, the one `ray start` started here, or one of its own."""

from __future__ import annotations

import logging
import warnings


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names or that `ray start` started here, else start one. Does nothing when connected.

    Ray Data's own progress bars are turned off: the jobs print theirs.
    """
    import ray

    if not ray.is_initialized():
        warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
        ray.init(logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
