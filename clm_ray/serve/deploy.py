"""Start, update and stop the endpoint on a running Ray.

    python -m clm_ray.serve.deploy --root workspaces/complete_journey --port 8000
    python -m clm_ray.serve.deploy --stop

Deploying again switches to the workspace's current release: new replicas start beside the old ones and take over when they
are ready. `serve deploy serve_configs/local.yaml` does the same from a file.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import ray
from pydantic import ValidationError
from ray import serve

from clm_ray.errors import ClmError, EndpointError
from clm_ray.messages import Readiness
from clm_ray.serve.app import build_app
from clm_ray.serve.args import AppArgs, resolve

APP_NAME = "clm_ray"
_REQUEST_TIMEOUT_S = 30.0
_PAUSE_S = 0.2
_IN_A_ROW = 3


def deploy(
    root: Path | str | None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    args: AppArgs | None = None,
    wait_s: float = 180.0,
) -> Readiness:
    """Serve the current release of the workspace `root` (or what `args` names) and wait until every part has it loaded.

    Needs `ray.init` before; starts Serve on `host`:`port` where it does not run yet. `args`: everything else; its root goes
    behind `root`. Raises ConfigError: no workspace or release. EndpointError: it could not be started, or does not answer in time.
    """
    wanted = args or AppArgs()
    settled = resolve(wanted if root is None else wanted.model_copy(update={"root": str(root)}))
    app = build_app(settled)
    serve.start(
        http_options={"host": host, "port": port, "request_timeout_s": _REQUEST_TIMEOUT_S}, proxy_location="HeadOnly"
    )
    try:
        serve.run(app, name=APP_NAME, route_prefix="/")
    except RuntimeError as error:
        reason = str(error).strip().splitlines() or ["no reason given"]
        raise EndpointError(
            f"could not be started: {reason[-1]}",
            field="serve",
            value=settled.release,
            fix="`serve status` has the details",
        ) from error
    reached = "127.0.0.1" if host in {"0.0.0.0", "::"} else host
    return wait_ready(f"http://{reached}:{port}", release=Path(str(settled.release)).name, wait_s=wait_s)


def wait_ready(
    url: str, *, release: str, wait_s: float, now: Callable[[], float] = time.monotonic, pause_s: float = _PAUSE_S
) -> Readiness:
    """Wait until /readyz says, a few times in a row, that every part has loaded `release`. Raises EndpointError when it does not."""
    until = now() + wait_s
    seen, said = 0, "no answer"
    with httpx.Client(base_url=url, timeout=10.0) as http:
        while now() < until:
            readiness, said = _ask(http)
            serves = readiness is not None and readiness.ready and set(readiness.parts.values()) == {release}
            seen = seen + 1 if serves else 0
            if readiness is not None and seen >= _IN_A_ROW:
                return readiness
            time.sleep(pause_s)
    raise EndpointError(
        f"did not serve release {release} within {wait_s:g} s; last: {said}",
        field="url",
        value=url,
        fix="`serve status` and the logs have the details; if Serve runs on another host or port, stop it first",
    )


def stop() -> None:
    """Shut Serve down with all its processes, its HAProxy included. `ray stop` alone would leave that running."""
    serve.shutdown()


def _ask(http: httpx.Client) -> tuple[Readiness | None, str]:
    try:
        response = http.get("/readyz")
        return Readiness.model_validate_json(response.content), response.text[:300]
    except httpx.TransportError as error:
        return None, str(error)
    except ValidationError:
        return None, "something else answers there"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(description="Start, update or stop the endpoint on the running local Ray.")
    parser.add_argument("--root", help="workspace (default: $CLM_SERVE_ROOT, else that of complete_journey)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    parser.add_argument("--stop", action="store_true", help="shut Serve down instead")
    args = parser.parse_args(argv)
    try:
        ray.init(address="auto", log_to_driver=False, logging_level="WARNING")
    except ConnectionError:
        if args.stop:
            return 0
        print("error: no Ray is running. Fix: ray start --head", file=sys.stderr)
        return 2
    try:
        if args.stop:
            stop()
            return 0
        ready = deploy(args.root, host=args.host, port=args.port)
    except ClmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        ray.shutdown()
    print(f"release {ready.release} is served at http://{args.host}:{args.port} (/docs describes it)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
