"""`submit cluster=kuberay`: manifests against KubeRay's own definition and golden files, refusals, and kubectl."""

from __future__ import annotations

import copy
import json
import lzma
import os
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Cli
from jsonschema import Draft7Validator

GOLDEN = Path(__file__).parent / "golden/kuberay"
IMAGE = ["cluster.image=registry.example.org/svd-batch:1", "cluster.ray_version=2.60.0"]
JOB = ["+sweep=motion", "model=svd_xt", "manifest=s3://pictures/pets.parquet"]
TAINT = "[{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]"

SETUPS = {
    "one_gpu_group": [
        *("output=s3://clips/pets", "cluster.env_from=[HF_TOKEN]", "cluster.secret=svd-batch"),
        f"cluster.workers=[{{name: l4, cpus: 8, memory: 32Gi, min: 0, max: 4, tolerations: {TAINT}, "
        "node_selector: {cloud.google.com/gke-accelerator: nvidia-l4}}]",
        "cluster.service_account=pictures-reader",
    ],
    "spot_and_on_demand": [
        "output=/data/clips/pets",
        "cluster.volumes=[{name: data, path: /data, claim: datasets}, "
        "{name: models, path: /models, host_path: /var/cache/svd, cache: true}]",
        "cluster.head.node_selector={karpenter.sh/capacity-type: on-demand}",
        f"cluster.workers=[{{name: on-demand, min: 1, max: 2, tolerations: {TAINT}, "
        "node_selector: {karpenter.sh/capacity-type: on-demand}}, "
        f"{{name: spot, gpus: 4, cpus: 32, memory: 128Gi, max: 8, tolerations: {TAINT}, "
        "node_selector: {karpenter.sh/capacity-type: spot}}]",
        *("cluster.backoff_limit=6", "cluster.submission_mode=HTTPMode", "cluster.namespace=video"),
    ],
    "kueue_and_claim": [
        *("output=/data/clips/pets", "cluster.queue=team-video", "cluster.namespace=video"),
        "cluster.volumes=[{name: data, path: /data, claim: datasets}, "
        "{name: models, path: /models, claim: models, cache: true}]",
        "cluster.workers=[{name: h100, gpus: 8, cpus: 64, memory: 512Gi, max: 2}]",
        *("cluster.image_pull_secret=registry", "cluster.verb=refine", "refine.best=2"),
    ],
}


def manifest(cli_here: Cli, *arguments: str) -> str:
    result = cli_here("submit", "cluster=kuberay", *IMAGE, *arguments, "--dry-run")
    assert result.returncode == 0, result.stderr
    return str(result.stdout)


@cache
def validator() -> Draft7Validator:
    """Return a validator of KubeRay's schema that refuses unknown fields, as `kubectl --validate=strict` does."""
    text = lzma.decompress((GOLDEN / "ray.io_rayjobs.yaml.xz").read_bytes())
    definition = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (schema,) = [v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"] if v["name"] == "v1"]
    return Draft7Validator(_closed(schema, "metadata"))


def _closed(schema: Any, *open_fields: str) -> Any:
    """Return a schema in which an object has no other fields than those named; its own metadata is Kubernetes'."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        closed["properties"] = {k: v if k in open_fields else _closed(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            closed["additionalProperties"] = False
    return closed


def problems(document: Any) -> list[str]:
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in validator().iter_errors(document)]


@pytest.mark.parametrize("setup", SETUPS)
def test_a_manifest_is_what_kuberay_defines_and_what_the_golden_file_has(cli_here: Cli, setup: str) -> None:
    text = manifest(cli_here, *JOB, *SETUPS[setup])
    assert problems(yaml.safe_load(text)) == []
    golden = GOLDEN / f"{setup}.yaml"
    if os.environ.get("SVDB_WRITE_GOLDEN"):
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "shutdownAfterJobFinished"), True),
        (("spec", "backoffLimit"), "three"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "imagee"), "x"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplica"), 1),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "tolerations"), [{"keys": "a"}]),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "password"),
    ],
)
def test_the_check_finds_what_kuberay_would_refuse_or_drop(path: tuple[Any, ...], value: Any) -> None:
    document = yaml.safe_load((GOLDEN / "one_gpu_group.yaml").read_text())
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert len(problems(document)) == 1


def test_the_jobs_arguments_survive_both_shells_between_the_manifest_and_the_job(cli_here: Cli) -> None:
    """K8sJobMode runs the entrypoint through bash, and `ray job submit` quotes its words for the shell on the head."""
    given = ["sweep.cells=[{motion_bucket_id: 40},{fps: 12}]", "model.name='it\\'s $HOME;`x`'"]
    document = yaml.safe_load(manifest(cli_here, *given, "output=s3://b/o"))
    once = shlex.split(document["spec"]["entrypoint"])
    assert shlex.split(shlex.join(once))[:6] == ["python", "-m", "svd_batch", "run", *given]


def test_the_job_waits_for_its_pods_and_has_an_actor_a_gpu(cli_here: Cli) -> None:
    entrypoint = yaml.safe_load((GOLDEN / "spot_and_on_demand.yaml").read_text())["spec"]["entrypoint"]
    words = shlex.split(entrypoint)
    assert words[-3:] == ["backend.wait_s=3600", "backend.num_gpus=1", "backend.num_actors=[1,34]"]
    own = manifest(cli_here, "output=s3://b/o", "backend.num_actors=3", "backend.wait_s=60")
    words = shlex.split(yaml.safe_load(own)["spec"]["entrypoint"])
    assert [w for w in words if w.startswith("backend.")] == [
        *("backend.num_actors=3", "backend.wait_s=60", "backend.address=auto", "backend.num_gpus=1")
    ]


def test_no_secrets_value_is_in_the_manifest(cli_here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_averysecretvalue")
    text = manifest(cli_here, "output=s3://b/o", "cluster.env_from=[HF_TOKEN]", "cluster.secret=keys")
    assert "averysecret" not in text
    document = yaml.safe_load(text)["spec"]["rayClusterSpec"]
    for group in (document["headGroupSpec"], document["workerGroupSpecs"][0]):
        reference = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "HF_TOKEN"}}}
        assert reference in group["template"]["spec"]["containers"][0]["env"]


def test_a_long_output_makes_a_name_that_kuberay_takes(cli_here: Cli) -> None:
    document = yaml.safe_load(manifest(cli_here, f"output=s3://b/{'Long_name-' * 9}"))
    name = document["metadata"]["generateName"] + "x7x7x"
    assert len(name) <= 47
    assert name.replace("-", "").isalnum()


DATA = "cluster.volumes=[{name: data, path: /data, claim: c}]"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["output=s3://b/o", "cluster.image=null"], "cluster.image: none given"),
        (["output=/data/o"], "output: '/data/o' lies inside a pod, and is gone with it"),
        (["output=o", DATA], "output: 'o' lies inside a pod"),
        (["output=/database/o", DATA], "output: '/database/o' lies inside a pod"),
        (["output=/data/../o", DATA], "output: '/data/../o' lies inside a pod"),
        (["output=/d/o", "cluster.volumes=[{name: d, path: /d, host_path: /x}]"], "output: '/d/o' lies on cluster.v"),
        (["output=/d/o", "cluster.volumes=[{name: d, path: /d, claim: c, read_only: true}]"], "output: '/d/o' lies on"),
        (["output=s3://b/o", "manifest=pets.parquet"], "manifest: 'pets.parquet' is a path of this machine"),
        (["output=s3://b/o", "cluster.env_from=[HF_TOKEN]"], "cluster.secret: none given"),
        (["output=s3://b/o", "cluster.run_as_user=0"], "cluster.run_as_user: 0 is not accepted"),
        (["output=s3://b/o", "cluster.workers=[]"], "cluster.workers: the list is empty"),
        (["output=s3://b/o", "cluster.workers=[{name: A}]"], "cluster.workers: 'A' is not accepted"),
        (["output=s3://b/o", "cluster.workers=[{name: a},{name: a}]"], "cluster.workers: 'a' is there twice"),
        (["output=s3://b/o", "cluster.workers=[{min: 3, max: 2}]"], "cluster.workers.gpu.min: 3 is not accepted"),
        (["output=s3://b/o", "cluster.workers=[{gpus: 8, cpus: 8}]"], "cluster.workers.gpu.cpus: 8 is not accepted"),
        (["output=s3://b/o", "cluster.workers=[{memory: lots}]"], "cluster.workers.gpu.memory: 'lots' is not accepted"),
        (["output=s3://b/o", "cluster.workers=[{memroy: 1}]"], "unknown key"),
        (
            ["output=s3://b/o", "cluster.workers=[{tolerations: [{keys: a}]}]"],
            "cluster.workers.gpu.tolerations: unknown",
        ),
        (["output=s3://b/o", "cluster.volumes=[{name: d, path: d, claim: c}]"], "cluster.volumes.d.path: 'd' is not"),
        (["output=s3://b/o", "cluster.volumes=[{name: d, path: /d}]"], "cluster.volumes.d: give one of claim, nfs"),
        (["output=s3://b/o", "cluster.address=http://h:1"], "unknown key cluster.address"),
    ],
)
def test_bad_input_is_one_sentence(cli_here: Cli, given: list[str], sentence: str) -> None:
    result = cli_here("submit", "cluster=kuberay", *IMAGE, *given, "--dry-run")
    assert result.returncode == 2, result.stdout
    (line,) = result.stderr.splitlines()
    assert line.removeprefix("error: ").startswith(sentence)


def test_without_apply_the_manifest_becomes_a_file(cli_here: Cli, tmp_path: Path) -> None:
    given = ["cluster=kuberay", *IMAGE, "output=s3://b/o", "cluster.token_auth=false"]
    result = cli_here("submit", *given)
    assert result.returncode == 0
    assert "close them with a NetworkPolicy" in result.stderr
    (file,) = tmp_path.glob("*.yaml")
    assert file.name in result.stdout
    assert "authOptions" not in file.read_text()
    assert file.read_text() == cli_here("submit", *given, "--dry-run").stdout


# --- kubectl: no Kubernetes runs here, so a program of that name answers as the real one does ------------------

KUBECTL = """#!/bin/sh
echo "$*" >> {folder}/calls
cat > {folder}/input
cat {folder}/out 2>/dev/null
cat {folder}/err >&2 2>/dev/null
exit $(cat {folder}/code 2>/dev/null || echo 0)
"""


@pytest.fixture
def kubectl(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what a program called kubectl prints, and of how it was called."""
    folder = tmp_path_factory.mktemp("kubectl")
    program = folder / "bin/kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL.format(folder=folder))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return folder


APPLY = ["submit", "cluster=kuberay", *IMAGE, "output=s3://b/o", "cluster.namespace=video", "--apply"]


def rayjob(state: str, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "svdb-o-x", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"jobDeploymentStatus": state, **status},
    }


def test_apply_without_kubectl_is_one_sentence(cli_here: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = cli_here(*APPLY)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "kubectl is not on PATH" in result.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            'error: resource mapping not found: no matches for kind "RayJob" in version "ray.io/v1"',
            "install the KubeRay",
        ),
        ('error: the server doesn\'t have a resource type "rayjobs"', "knows no RayJob"),
        (
            "The connection to the server localhost:8080 was refused - did you specify the right host",
            "reaches no Kubern",
        ),
        ("error: You must be logged in to the server (Unauthorized)", "refuses your credentials"),
        ('Error from server (Forbidden): rayjobs.ray.io is forbidden: User "x"', "kubectl refuses: Error from server"),
    ],
)
def test_what_kubectl_refuses_is_one_sentence(cli_here: Cli, kubectl: Path, words: str, sentence: str) -> None:
    (kubectl / "err").write_text(words)
    (kubectl / "code").write_text("1")
    result = cli_here(*APPLY)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert sentence in result.stderr


def test_a_rayjob_that_is_running_is_not_begun_twice(cli_here: Cli, kubectl: Path) -> None:
    (kubectl / "out").write_text(json.dumps({"items": [rayjob("Running", jobStatus="RUNNING")]}))
    result = cli_here(*APPLY)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "is being made by svdb-o-x, which is Running, RUNNING" in result.stderr
    assert " create " not in f" {(kubectl / 'calls').read_text()}"


def test_status_and_stop_go_by_the_label_of_the_output(cli_here: Cli, kubectl: Path) -> None:
    (kubectl / "out").write_text(json.dumps({"items": [rayjob("Running", jobStatus="RUNNING", failed=1)]}))
    result = cli_here(*APPLY[:-1], "--status")
    assert result.stdout == "rayjob/svdb-o-x: Running, RUNNING, 1 failed tries\n"
    assert cli_here(*APPLY[:-1], "--stop").returncode == 0
    get, _, delete = (kubectl / "calls").read_text().splitlines()
    assert get.startswith("get rayjobs.ray.io -l svd-batch/output=")
    assert "--namespace=video" in get
    assert delete.startswith("delete rayjobs.ray.io/svdb-o-x --wait=false")


def test_what_kubectl_gets_is_the_manifest_checked_strictly(kubectl: Path, cli_here: Cli) -> None:
    from svd_batch.submit import kubectl as calls

    (kubectl / "out").write_text("rayjob.ray.io/svdb-o-abcde\n")
    text = manifest(cli_here, "output=s3://b/o")
    assert calls.create(text, None) == "svdb-o-abcde"
    assert (kubectl / "input").read_text() == text
    assert (kubectl / "calls").read_text().startswith("create --validate=strict -f - -o name")


@pytest.mark.parametrize(
    ("job", "code"),
    [
        (rayjob("Complete", jobStatus="SUCCEEDED"), 0),
        (rayjob("Complete", jobStatus="STOPPED"), 130),
        (rayjob("Failed", jobStatus="FAILED", message="exit code 3"), None),
    ],
)
def test_following_ends_with_the_rayjob(kubectl: Path, job: dict[str, Any], code: int | None) -> None:
    from svd_batch.errors import ProcessError
    from svd_batch.submit import kubectl as calls

    (kubectl / "out").write_text(json.dumps(copy.deepcopy(job)))
    said: list[str] = []
    if code is None:
        with pytest.raises(ProcessError, match="svdb-o-x failed: exit code 3"):
            calls.until_over("svdb-o-x", None, said.append)
    else:
        assert calls.until_over("svdb-o-x", None, said.append) == code
    assert len(said) == 1


# --- the image ------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = (ROOT / "docker/Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_built_in_two_stages_and_runs_as_a_user_that_the_manifest_names() -> None:
    stages = [rest for word, rest in instructions() if word == "FROM"]
    assert len(stages) == 2
    last = [rest for word, rest in instructions() if word == "USER"][-1]
    conf = yaml.safe_load((ROOT / "conf/cluster/kuberay.yaml").read_text())
    assert last == f"{conf['run_as_user']}:{conf['run_as_user']}"


def test_all_that_the_image_copies_is_in_the_sources() -> None:
    copied = [rest.split() for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    assert copied
    for *sources, _ in copied:
        for source in sources:
            assert (ROOT / source).exists(), source
