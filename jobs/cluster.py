"""A local Ray of our own: start it, stop it, and leave nothing behind.

    python -m jobs.cluster start     a head node on this machine (dashboard on loopback; its other ports ask for the token)
    python -m jobs.cluster stop      the endpoint first, then the head node; other Rays on the machine are left alone

The head node runs in a process group of its own, noted in ./workspaces/.ray/head.json together with when its leader was started and in
which boot of the machine: a number alone may belong to somebody else by now.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from clm_ray.errors import ConfigError
from jobs.arguments import run_main

STATE = Path("workspaces") / ".ray"
PORT = 6379
_START_S = 60.0
_STOP_S = 8.0


@dataclass(frozen=True)
class Head:
    """A head node of ours. group: its process group, which is its leader's pid; started: the leader's start, clock ticks after boot."""

    group: int
    port: int
    started: int
    boot: str


def environment() -> dict[str, str]:
    """What the head node and everything it starts get: this virtual environment first, Ray's token, quiet logs."""
    bin_folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}",
        "RAY_AUTH_MODE": "token",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }


def address() -> str | None:
    """Address of our head node while it lives."""
    head = _head()
    return f"127.0.0.1:{head.port}" if head is not None else None


def start(*, port: int = PORT) -> str:
    """Start the head node unless ours runs; returns its address. Raises ConfigError where the port is taken or Ray does not start."""
    running = address()
    if running is not None:
        return running
    STATE.mkdir(parents=True, exist_ok=True)
    ray = str(Path(sys.executable).parent / "ray")
    subprocess.run([ray, "get-auth-token", "--generate"], env=environment(), check=True, stdout=subprocess.DEVNULL)
    command = [
        ray,
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1",
    ]
    with (STATE / "head.log").open("w", encoding="utf-8") as log:
        head = subprocess.Popen(command, env=environment(), stdout=log, stderr=log, start_new_session=True)
    try:
        _write_note(Head(head.pid, port, _started(head.pid) or 0, _boot_id()))
        until = time.monotonic() + _START_S
        while time.monotonic() < until and head.poll() is None:
            if "Ray runtime started" in (STATE / "head.log").read_text(encoding="utf-8"):
                return f"127.0.0.1:{port}"
            time.sleep(0.2)
    except BaseException:
        _end(head.pid, port)
        raise
    _end(head.pid, port)
    said = (STATE / "head.log").read_text(encoding="utf-8").strip().splitlines()
    raise ConfigError(
        f"Ray did not start: {said[-1] if said else 'no output'}",
        field="port",
        value=port,
        fix=f"see {STATE / 'head.log'}; if another Ray runs on this port, stop it or use --port",
    )


def stop() -> None:
    """Take the endpoint down (its proxies too), then the head node. Does nothing where ours does not run."""
    running = address()
    if running is None:
        return
    code = "import ray; ray.init(address='{}', logging_level='ERROR'); from ray import serve; serve.shutdown()"
    try:
        subprocess.run(
            [sys.executable, "-c", code.format(running)],
            env=environment(),
            timeout=60,
            check=False,
            capture_output=True,
        )
    except subprocess.TimeoutExpired:
        print("Serve did not shut down in time; its processes are ended with Ray", file=sys.stderr)
    stop_head()


def stop_head() -> None:
    """End the head node's process group: politely, then for good."""
    head = _head()
    if head is not None:
        _end(head.group, head.port)
    _note().unlink(missing_ok=True)


def _end(group: int, port: int) -> None:
    if not _alive(group):
        _note().unlink(missing_ok=True)
        return
    for sign, patience in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S)):
        try:
            os.killpg(group, sign)
        except ProcessLookupError:
            break
        until = time.monotonic() + patience
        while _alive(group) and time.monotonic() < until:
            time.sleep(0.1)
        if not _alive(group):
            break
    _forget_address(port)
    _note().unlink(missing_ok=True)


def _forget_address(port: int) -> None:
    """Ray notes the address of a started cluster where later `ray.init` calls look; only `ray stop` would remove it."""
    note = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    if note.is_file() and note.read_text(encoding="utf-8").strip().endswith(f":{port}"):
        note.unlink()


def _note() -> Path:
    return STATE / "head.json"


def _write_note(head: Head) -> None:
    """Whole or not at all."""
    STATE.mkdir(parents=True, exist_ok=True)
    fresh = _note().with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(asdict(head)), encoding="utf-8")
    fresh.replace(_note())


def _head() -> Head | None:
    """The head node of the note while it lives; None where the note is damaged, of another boot, or its number has another owner."""
    try:
        head = Head(**json.loads(_note().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if head.boot != _boot_id() or not isinstance(head.group, int) or head.group <= 1:
        return None
    # A leader that is gone says nothing: its group lives on while a member does, and keeps the number from being given away.
    leader = _started(head.group)
    return head if leader in (None, head.started) and _alive(head.group) else None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _started(pid: int) -> int | None:
    """When a process was started, clock ticks after boot; None where there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
    except OSError:
        return None


def _alive(group: int) -> bool:
    """Whether a process of the group runs (a dead one that nobody has waited for does not)."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("start", "stop"))
    parser.add_argument("--port", type=int, default=PORT, help="port of the head node (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.action == "start":
        print(f"Ray runs at {start(port=args.port)}; dashboard at http://127.0.0.1:8265")
    else:
        stop()
        print("stopped")


if __name__ == "__main__":
    sys.exit(run_main(main))
