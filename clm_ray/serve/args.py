"""The arguments of the application: what a Serve config file may say under `args`.

No file has to name the folders of a machine: where `root` is left out, $CLM_SERVE_ROOT is used, else the default
workspace of the default recipe. (Ray does not expand variables in its config files.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from clm_ray.config.workspace import Workspace
from clm_ray.errors import ConfigError
from clm_ray.release.read import recipe_of

ROOT_VARIABLE = "CLM_SERVE_ROOT"
DEFAULT_RECIPE = "complete_journey"


class Strict(BaseModel):
    """Base of the arguments: strict, frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class PartArgs(Strict):
    """How one part of the application is replicated, and how much may wait for it."""

    min_replicas: int = Field(default=1, ge=1)
    """Replicas kept when idle."""
    max_replicas: int = Field(default=2, ge=1)
    """Replicas at most."""
    num_cpus: float = Field(default=0.0, ge=0)
    """CPUs that Ray reserves per replica. 0: shares what is there, e.g. with training on the same machine."""
    max_ongoing_requests: int = Field(default=16, ge=1)
    """Calls handled by a replica at once. A call carries a batch, except for the gateway, where it is one HTTP request."""
    max_queued_requests: int = Field(default=64, ge=1)
    """Calls that may wait at each caller; further ones are refused (HTTP 429)."""
    target_ongoing_requests: float = Field(default=2.0, gt=0)
    """Autoscaling adds a replica when more calls than this are in flight per replica."""

    @model_validator(mode="after")
    def _order(self) -> PartArgs:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas must be at least min_replicas")
        return self


class CoalesceArgs(Strict):
    """How the gateway collects concurrent requests into batches."""

    max_batch: int = Field(default=32, ge=1)
    """Requests per batch at most."""
    wait_ms: float = Field(default=8.0, ge=0, le=100)
    """How long the first request of a batch waits for others while another batch is on its way, milliseconds: batches even out, and larger ones cost
    less per request. While nothing is on its way nobody waits."""
    in_flight: int = Field(default=2, ge=1)
    """Batches on their way at once, per gateway replica. More of them are smaller ones, and each hop costs the same whatever it carries: two keep
    profiler and ranker busy at the same time."""
    max_waiting: int = Field(default=1024, ge=1)
    """Requests that may wait per gateway replica; further ones get 429."""


class TimeoutArgs(Strict):
    """How long the gateway waits for each part before it degrades, seconds."""

    profiler_s: float = Field(default=5.0, gt=0)
    ranker_s: float = Field(default=3.0, gt=0)
    retention_s: float = Field(default=2.0, gt=0)
    explainer_s: float = Field(default=5.0, gt=0)
    """For the reasons of a slate, where they are asked for."""
    encoder_s: float = Field(default=20.0, gt=0)
    """For encoding items that were put; later they are durable all the same, and encoded by and by."""
    store_s: float = Field(default=2.0, gt=0)
    """For writing a slate to the log."""


class ScalingArgs(Strict):
    """How fast autoscaling reacts, seconds."""

    upscale_delay_s: float = Field(default=5.0, ge=0)
    downscale_delay_s: float = Field(default=60.0, ge=0)
    look_back_period_s: float = Field(default=15.0, gt=0)


class SplitArgs(Strict):
    """A second release that answers a share of the users; the store is the same for both."""

    release: str
    """Id of a release beside the one that is served. Profiler, ranker and retention hold both in memory."""
    share: float = Field(gt=0, lt=1)
    """Share of the users that it answers, by a hash of experiment and user: a user stays with one release while neither changes."""
    experiment: str = Field(default="split", min_length=1)
    """Another name draws the users anew."""


class ShadowArgs(Strict):
    """A second release that scores what was answered, is logged, and never shown."""

    release: str
    """Id of a release beside the one that is served. The replicas of the shadow alone hold it in memory."""
    max_waiting: int = Field(default=256, ge=1)
    """Answers that may wait for it per gateway replica; further ones are dropped, and counted."""
    part: PartArgs = PartArgs(max_replicas=1)
    """Its replicas; they run at the lowest priority of their machine."""


class OutcomeArgs(Strict):
    """How often, and over what, served slates are set beside the events that answered them."""

    every_s: float = Field(default=300.0, ge=0)
    """Seconds between two looks; 0: none."""
    days: float = Field(default=7.0, gt=0)
    """Slates of so many days count, up to the newest whose answers are all in."""
    window_hours: float | None = Field(default=None, gt=0)
    """An event answers a slate within so many hours. Null: `impressions.attribution_hours` of the recipe, else 24."""
    most_slates: int = Field(default=20_000, ge=1)
    """The newest so many slates at most."""


class AppArgs(Strict):
    """Everything that configures the application; behaviour that belongs to the data is in the recipe."""

    root: str | None = None
    """Workspace. Null: $CLM_SERVE_ROOT, else the default workspace of complete_journey."""
    release: str | None = None
    """Id of a release in the workspace, or the folder of one. Null: the workspace's current release when the app is built."""
    store_url: str | None = None
    """SQLAlchemy URL. Null: what the release's recipe says, else `store.db` in the workspace."""
    admin_token_env: str = "CLM_ADMIN_TOKEN"
    """Environment variable of the gateway's replicas that holds the admin token; unset: nobody is an administrator."""
    admin_token_file: str | None = None
    """File that holds the admin token; goes before the variable."""
    threads: int = Field(default=1, ge=1)
    """Torch threads per replica of profiler and ranker."""
    gateway: PartArgs = PartArgs(max_ongoing_requests=256, max_queued_requests=512, target_ongoing_requests=64.0)
    profiler: PartArgs = PartArgs()
    ranker: PartArgs = PartArgs()
    retention: PartArgs = PartArgs()
    encoder: PartArgs = PartArgs(max_replicas=1)
    coalesce: CoalesceArgs = CoalesceArgs()
    timeouts: TimeoutArgs = TimeoutArgs()
    scaling: ScalingArgs = ScalingArgs()
    idempotency_hours: float = Field(default=24.0, gt=0)
    """How long answers to requests with an Idempotency-Key are kept."""
    split: SplitArgs | None = None
    shadow: ShadowArgs | None = None
    outcomes: OutcomeArgs = OutcomeArgs()
    remembered: int = Field(default=4096, ge=0)
    """Users whose state each profiler keeps between requests, until they have a new event: up to 60 kB each."""

    def admin_token(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """The admin token, or None where there is none. Raises ConfigError when the named file cannot be read or is empty."""
        if self.admin_token_file is None:
            return environment.get(self.admin_token_env) or None
        try:
            token = Path(self.admin_token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"cannot be read: {error.strerror}",
                field="admin_token_file",
                value=self.admin_token_file,
                fix="write the token into this file, readable by the replicas",
            ) from error
        if not token:
            raise ConfigError(
                "is empty", field="admin_token_file", value=self.admin_token_file, fix="write the token into it"
            )
        return token


def resolve(args: AppArgs, environment: Mapping[str, str] = os.environ) -> AppArgs:
    """`args` with root, release folder and store spelled out, so that every replica, however late it starts, opens the same.

    Raises ConfigError when there is no workspace, no current release, or no such release; ReleaseError when that is damaged.
    """
    workspace = Workspace.open(args.root or environment.get(ROOT_VARIABLE), name=DEFAULT_RECIPE)
    if args.release is None:
        folder = workspace.current("releases")
    else:
        named = Path(args.release)
        folder = named if named.is_absolute() else workspace.releases / named
    if not folder.is_dir():
        raise ConfigError(
            "no such release",
            field="release",
            value=str(folder),
            fix="name a folder under releases/ of the workspace, or leave it out for the current one",
        )
    for field, beside in (("split", args.split), ("shadow", args.shadow)):
        if beside is not None:
            _check_beside(folder, beside.release, field=f"{field}.release")
    store_url = args.store_url or recipe_of(folder).store.url or workspace.store_url
    return args.model_copy(update={"root": str(workspace.root), "release": str(folder), "store_url": store_url})


def _check_beside(folder: Path, release: str, *, field: str) -> None:
    """Raises ConfigError unless `release` is another release in the same folder of releases."""
    other = folder.parent / release
    if Path(release).name != release or not other.is_dir():
        raise ConfigError(
            f"no such release beside {folder.name}",
            field=field,
            value=release,
            fix=f"name a folder under {folder.parent}",
        )
    if other == folder:
        raise ConfigError("is the release that is served", field=field, value=release, fix="name another release")
