"""The Kubernetes manifests: what Serve is to be told is what Serve and the application accept, and the pods fit together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from clm_ray.config.recipe import load_recipe
from clm_ray.serve.args import AppArgs
from jobs import train
from jobs.arguments import parser

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())


def read(name: str) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    return made


def pods(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


@pytest.fixture
def service() -> dict[str, Any]:
    return read("kuberay/rayservice.yaml")


@pytest.fixture
def job() -> dict[str, Any]:
    return read("kuberay/rayjob-train.yaml")


def test_serve_and_the_application_accept_the_config(service: dict[str, Any]) -> None:
    raw = yaml.safe_load(service["spec"]["serveConfigV2"])
    (app,) = ServeDeploySchema.model_validate(raw).applications
    assert app.import_path == "clm_ray.serve.app:build_app"
    args = AppArgs.model_validate(app.args)
    assert args.store_url is not None
    assert args.store_url.startswith("postgresql+psycopg://"), "pods on several machines share no SQLite file"
    for part in (args.gateway, args.profiler, args.ranker, args.retention):
        assert part.min_replicas >= 2, "an update and a lost machine leave one to answer"


def test_the_pods_have_room_for_the_replicas_kept_when_idle(service: dict[str, Any]) -> None:
    spec = service["spec"]
    args = AppArgs.model_validate(yaml.safe_load(spec["serveConfigV2"])["applications"][0]["args"])
    wanted = sum(p.min_replicas * p.num_cpus for p in (args.gateway, args.profiler, args.ranker, args.retention))
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert group["minReplicas"] * float(container["resources"]["requests"]["cpu"]) >= wanted


def test_what_the_examples_say_of_a_second_release_is_accepted(service: dict[str, Any]) -> None:
    text = (DEPLOY / "kuberay" / "rayservice.yaml").read_text(encoding="utf-8")
    examples = dict(re.findall(r"# (split|shadow): (\{.*\})", text))
    args = AppArgs.model_validate({name: yaml.safe_load(one) for name, one in examples.items()})
    assert args.split is not None
    assert args.shadow is not None


@pytest.mark.parametrize(("name", "place"), [("rayservice", "rayClusterConfig"), ("rayjob-train", "rayClusterSpec")])
def test_the_clusters_run_this_ray_ask_for_the_token_and_mount_what_they_use(name: str, place: str) -> None:
    cluster = read(f"kuberay/{name}.yaml")["spec"][place]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    images = set()
    for pod in pods(cluster):
        (container,) = pod["containers"]
        images.add(container["image"])
        assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        assert {"name": "metrics", "containerPort": 8080} in container["ports"], "podmonitor.yaml scrapes it"
        assert container["resources"]["requests"] == container["resources"]["limits"], "Ray counts what it may use"
    assert len(images) == 1, "one image for all of a cluster"


def test_the_job_is_a_command_that_the_job_understands(job: dict[str, Any]) -> None:
    command = job["spec"]["entrypoint"].split()
    assert command[:3] == ["python", "-m", "jobs.train"]
    args = parser(train.__doc__ or "").parse_args(command[3:])
    recipe = load_recipe("complete_journey", overrides=args.overrides)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert recipe.train.num_workers == group["replicas"] == group["minReplicas"]
    assert recipe.train.use_gpu == ("nvidia.com/gpu" in container["resources"]["requests"])
    root = AppArgs.model_validate(
        yaml.safe_load(read("kuberay/rayservice.yaml")["spec"]["serveConfigV2"])["applications"][0]["args"]
    ).root
    assert args.root == root, "the endpoint serves what the job makes"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_a_registry_or_holds_a_secret(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for image in re.findall(r"image: (\S+)", text):
        assert re.fullmatch(r"clm-ray:[\w.]+", image), image
    for base in re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE):
        assert base == "${BASE_IMAGE}"
    assert not re.search(r"\b(docker\.io|quay\.io|gcr\.io|ghcr\.io|ecr\.|azurecr)", text)
    assert not re.search(r"password: \S|://[^@\s]*:[^@\s]*@", text)


def test_the_image_gets_what_it_copies_and_the_version_is_that_of_the_package() -> None:
    import clm_ray

    root = DEPLOY.parent
    for line in re.findall(
        r"^COPY (?:--\S+ )*(.+)$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    ):
        *sources, _ = line.split()
        assert all((root / source).exists() for source in sources)
    assert f"image: clm-ray:{clm_ray.__version__} " in (DEPLOY / "kuberay" / "rayservice.yaml").read_text(
        encoding="utf-8"
    )
