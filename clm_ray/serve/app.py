"""The application: plain classes become Ray Serve deployments here, and only here.

    Gateway ──▶ Profiler ──▶ ( Ranker ∥ Retention ) ──▶ answer
       └──▶ Encoder ──▶ item vectors in the store

Ray looks at the annotation of `build_app` to check its arguments, so this module must not postpone annotations
(`from __future__ import annotations`): Ray would hand over an unchecked dict.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from clm_ray.release.read import recipe_of, thresholds_of
from clm_ray.serve.args import AppArgs, PartArgs, ScalingArgs, resolve
from clm_ray.serve.beside import OutcomesReplica, ShadowReplica
from clm_ray.serve.catalogue import open_catalogue
from clm_ray.serve.drift import ScoreWatch
from clm_ray.serve.encoder import Encoder
from clm_ray.serve.gateway import Gateway
from clm_ray.serve.hops import ExplainBatch, Explained, Hops, ProfileBatch, Profiled, RankBatch, Ranked
from clm_ray.serve.http import build_http
from clm_ray.serve.live_items import LiveItems, amended_scorer, amended_shelf
from clm_ray.serve.opened import Opened
from clm_ray.serve.retention import Retention, open_retention
from clm_ray.serve.shadow import ShadowLine
from clm_ray.serve.split import CHALLENGER, INCUMBENT, Challenger
from clm_ray.serve.telemetry import ray_telemetry
from clm_ray.store.clock import open_clock
from clm_ray.store.items import ChangedItem
from clm_ray.store.store import Store, open_store

# Profiler and Ranker bring torch along; the replicas of the gateway and of retention load this module without it.


class GatewayReplica(Gateway):
    """Opens what the gateway needs from the arguments."""

    def __init__(
        self,
        args: AppArgs,
        profiler: DeploymentHandle,
        ranker: DeploymentHandle,
        retention: DeploymentHandle,
        encoder: DeploymentHandle,
        shadow: DeploymentHandle | None,
        outcomes: DeploymentHandle | None,
    ) -> None:
        served = open_catalogue(_release(args))
        store = _store(args)
        telemetry = ray_telemetry()
        challenger, line = None, None
        if args.split is not None:
            served = replace(served, arm=INCUMBENT)
            other = replace(open_catalogue(_release(args).parent / args.split.release), arm=CHALLENGER)
            challenger = Challenger(other, share=args.split.share, experiment=args.split.experiment)
        if args.shadow is not None and shadow is not None:
            line = ShadowLine(
                shadow.score.remote,
                release=args.shadow.release,
                telemetry=telemetry,
                max_waiting=args.shadow.max_waiting,
            )
        self._outcomes = outcomes  # nobody calls it; Serve deploys what is bound
        hops = Hops(
            profile=profiler.profile.remote,
            rank=ranker.rank.remote,
            retain=retention.retain.remote,
            explain=profiler.explain.remote,
            encode=encoder.encode.remote,
            loaded={
                "profiler": profiler.loaded.remote,
                "ranker": ranker.loaded.remote,
                "retention": retention.loaded.remote,
                "encoder": encoder.loaded.remote,
            },
        )
        super().__init__(
            served=served,
            store=store,
            clock=open_clock(store, kind=served.recipe.serve.clock),
            hops=hops,
            coalesce=args.coalesce,
            timeouts=args.timeouts,
            telemetry=telemetry,
            keep_answers_s=args.idempotency_hours * 3600,
            folder=_release(args),
            challenger=challenger,
            shadow=line,
        )
        self._admin_token = args.admin_token()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve once the replica is there."""
        return build_http(self, admin_token=self._admin_token, name_answers=False)  # Serve's proxies name them


class ProfilerReplica:
    """Loads the model when the replica starts, and hands over to `Profiler`."""

    def __init__(self, args: AppArgs) -> None:
        from clm_ray.model.inference import Scorer
        from clm_ray.serve.profiler import Profiler, ProfilerRelease

        def open_release(folder: Path) -> ProfilerRelease:
            return ProfilerRelease(Scorer.open(folder, threads=args.threads), thresholds_of(folder))

        store, now = _store(args), _now(args)

        def amend(release: ProfilerRelease, changes: Sequence[ChangedItem], at: int) -> ProfilerRelease:
            return replace(release, scorer=amended_scorer(release.scorer, changes, at))

        def live(release: ProfilerRelease, name: str) -> LiveItems[ProfilerRelease]:
            return LiveItems(release, release=name, store=store, amend=amend, now=now)

        releases = Opened(_release(args), open_release=open_release, live=live, also=_also(args))
        self._part = Profiler(releases=releases, store=store, telemetry=ray_telemetry(), remembered=args.remembered)

    async def loaded(self) -> str:
        """See `Profiler.loaded`."""
        return await self._part.loaded()

    async def profile(self, batch: ProfileBatch) -> Profiled:
        """See `Profiler.profile`."""
        return await self._part.profile(batch)

    async def explain(self, batch: ExplainBatch) -> list[Explained]:
        """See `Profiler.explain`."""
        return await self._part.explain(batch)


class RankerReplica:
    """Loads the model when the replica starts, and hands over to `Ranker`."""

    def __init__(self, args: AppArgs) -> None:
        from clm_ray.model.inference import Scorer
        from clm_ray.serve.ranker import Ranker, RankerRelease

        def open_release(folder: Path) -> RankerRelease:
            return RankerRelease.of(Scorer.open(folder, threads=args.threads), open_catalogue(folder).shelf)

        folder, store, now = _release(args), _store(args), _now(args)

        def amend(release: RankerRelease, changes: Sequence[ChangedItem], at: int) -> RankerRelease:
            scorer = amended_scorer(release.scorer, changes, at)
            return replace(release, scorer=scorer, shelf=amended_shelf(release.shelf, scorer.items, changes))

        def live(release: RankerRelease, name: str) -> LiveItems[RankerRelease]:
            return LiveItems(release, release=name, store=store, amend=amend, now=now)

        releases = Opened(folder, open_release=open_release, live=live, also=_also(args))
        self._part = Ranker(releases=releases, watch=ScoreWatch(folder.parent, telemetry=ray_telemetry()))

    async def loaded(self) -> str:
        """See `Ranker.loaded`."""
        return await self._part.loaded()

    async def rank(self, batch: RankBatch) -> list[Ranked]:
        """See `Ranker.rank`."""
        return await self._part.rank(batch)


class RetentionReplica(Retention):
    """Opens what retention needs from the arguments."""

    def __init__(self, args: AppArgs) -> None:
        releases = Opened(_release(args), open_release=open_retention, also=_also(args))
        super().__init__(releases=releases, store=_store(args), telemetry=ray_telemetry())


class EncoderReplica(Encoder):
    """Opens the text tower of a release when there is something to encode for it."""

    def __init__(self, args: AppArgs) -> None:
        folder = _release(args)

        def open_encoder(release: str) -> Any:
            from clm_ray.model.encode import ItemEncoder

            return ItemEncoder.open(folder.parent / release, threads=args.threads)

        super().__init__(releases=(folder.name, *_also(args)), store=_store(args), open_encoder=open_encoder)
        self.start()


def build_app(args: AppArgs) -> Application:
    """The application of one release, ready for `serve.run` or a Serve config file.

    Root, release and store are settled here, once, so that a replica that starts later serves the same release.
    Raises ConfigError when there is no such release, StoreError when the store cannot be used.
    """
    settled = resolve(args)
    _store(settled).close()  # makes file and tables before many replicas want them
    parts = {
        "Profiler": _deployment("Profiler", ProfilerReplica, settled.profiler, settled.scaling),
        "Ranker": _deployment("Ranker", RankerReplica, settled.ranker, settled.scaling),
        "Retention": _deployment("Retention", RetentionReplica, settled.retention, settled.scaling),
        "Encoder": _deployment("Encoder", EncoderReplica, settled.encoder, settled.scaling),
    }
    beside = _beside(settled)
    ingress = serve.ingress()(GatewayReplica)
    gateway = _deployment("Gateway", ingress, settled.gateway, settled.scaling)
    return gateway.bind(settled, *(part.bind(settled) for part in parts.values()), *beside)


def _beside(args: AppArgs) -> list[Application | None]:
    """The shadow and the watch over outcomes, None where there is none."""
    shadow = outcomes = None
    if args.shadow is not None:
        shadow = _deployment("Shadow", ShadowReplica, args.shadow.part, args.scaling).bind(args)
    if args.outcomes.every_s > 0:
        outcomes = _deployment("Outcomes", OutcomesReplica, PartArgs(max_replicas=1), args.scaling).bind(args)
    return [shadow, outcomes]


def _deployment(name: str, replica: type, part: PartArgs, scaling: ScalingArgs) -> Any:
    """A deployment: bounded everywhere, replaced without a gap, scaled between its two bounds."""
    size: dict[str, Any] = {"num_replicas": part.min_replicas}
    if part.max_replicas > part.min_replicas:
        size = {
            "autoscaling_config": {
                "min_replicas": part.min_replicas,
                "max_replicas": part.max_replicas,
                "target_ongoing_requests": part.target_ongoing_requests,
                "upscale_delay_s": scaling.upscale_delay_s,
                "downscale_delay_s": scaling.downscale_delay_s,
                "look_back_period_s": scaling.look_back_period_s,
            }
        }
    return serve.deployment(
        replica,
        name=name,
        ray_actor_options={"num_cpus": part.num_cpus},
        max_ongoing_requests=part.max_ongoing_requests,
        max_queued_requests=part.max_queued_requests,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        max_surge_percent=100,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=15.0,
        max_constructor_retry_count=2,
        **size,
    )


def _release(args: AppArgs) -> Path:
    assert args.release is not None, "build_app settles the release"
    return Path(args.release)


def _also(args: AppArgs) -> tuple[str, ...]:
    """The releases that answer beside the one that is served."""
    return () if args.split is None else (args.split.release,)


def _now(args: AppArgs) -> Callable[[], int]:
    """The endpoint's clock, µs."""
    with _store(args) as store:
        return open_clock(store, kind=recipe_of(_release(args)).serve.clock).now_us


def _store(args: AppArgs) -> Store:
    assert args.store_url is not None, "build_app settles the store"
    return open_store(args.store_url)
