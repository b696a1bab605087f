"""Shared fixtures: a fresh store, one Ray session for all integration tests, one trained shop, hubs switched off."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from shop_loop import Shop, set_up_shop

from benchmarks.postgres import running_postgres
from clm_ray.store.store import Store, open_store

# The gate draws the same examples each time; a developer's runs draw new ones.
settings.register_profile("clm_ray", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("clm_ray")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tiny tensors: a second thread would only wait, and where another process wants the core, for long. Before anything imports torch.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Epochs of seconds: the controller of a run looks after its workers more often than every two seconds.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray of two CPUs, shared by every test that asks for it. With its dashboard, which answers who is alive."""
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=True,
        dashboard_port=0,
        log_to_driver=False,
        configure_logging=True,
        logging_level="ERROR",
        _system_config={"metrics_report_interval_ms": 500},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a store with nothing in its tables. To be copied: making the tables costs more than most tests."""
    path = tmp_path_factory.mktemp("store") / "store.db"
    open_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Iterator[Store]:
    """A fresh store, `store.db` in the test's folder."""
    with open_store(f"sqlite:///{shutil.copy(empty_store, tmp_path / 'store.db')}") as opened:
        yield opened


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a database of a real PostgreSQL that lasts as long as the session."""
    with running_postgres(durable=False) as url:
        yield url


@pytest.fixture(scope="session")
def shop_recipe(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The tiny shop's tables, its tiny BERT and its recipe file; the workspace is empty."""
    return set_up_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def trained_shop(ray_session: None, shop_recipe: Shop) -> Shop:
    """The shop prepared, trained by two workers, evaluated and published. To be read only: `Shop.copy` gives one to work on."""
    from jobs import evaluate, prepare, publish, train

    return shop_recipe.change(root=shop_recipe.workspace.root / "trained").run(
        prepare.main, train.main, evaluate.main, publish.main
    )
