"""What `submit cluster=slurm` writes and refuses, without any Slurm; with one see test_slurm.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli

from svd_batch.submit.slurm import SlurmState


def script(cli_here: Cli, *arguments: str) -> str:
    """Return what --dry-run prints, after bash has read it."""
    done = cli_here("submit", "cluster=slurm", "--dry-run", "output=out", *arguments)
    assert done.returncode == 0, done.stderr
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True, capture_output=True)
    return str(done.stdout)


def test_on_one_node_the_job_starts_a_ray_of_its_own(cli_here: Cli, tmp_path: Path) -> None:
    text = script(cli_here, "+sweep=motion", "manifest=a b.parquet", "cluster.gpus_per_node=a100:2")
    out = tmp_path / "out"
    assert f"{sys.executable} -m svd_batch run +sweep=motion 'manifest=a b.parquet' output={out} &" in text
    assert "symmetric-run" not in text
    directives = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {f"--chdir={tmp_path}", f"--output={out}/.svd_batch/slurm/slurm-%j.log"} <= set(directives)
    wanted = {"--nodes=1", "--cpus-per-task=8", "--gpus-per-node=a100:2", "--signal=B:USR1@120", "--requeue"}
    assert {*wanted, "--open-mode=append"} <= set(directives)
    assert not out.exists()


def test_on_several_nodes_ray_goes_over_the_allocation_behind_a_token(cli_here: Cli) -> None:
    text = script(cli_here, "cluster.nodes=4", "cluster.gpus_per_node=8", "cluster.cpus_per_task=64")
    assert "#SBATCH --exclusive" in text
    assert "ray symmetric-run --address $RAY_ADDRESS --min-nodes 4 --num-cpus=64 --num-gpus=8" in text
    assert " backend.address=auto &" in text
    assert "RAY_AUTH_MODE=token" in text


def test_hooks_come_where_they_belong(cli_here: Cli) -> None:
    text = script(
        cli_here,
        'cluster.setup=["module load cuda/12.4"]',
        'cluster.env={MODE: "it\'s on"}',
        'cluster.srun=["--container-image=a.sqsh"]',
        "cluster.prefix=[apptainer,exec,--nv,a.sif]",
        'cluster.sbatch=["--mail-type=END"]',
        "cluster.python=python",
        "cluster.time='8:00:00'",
        "cluster.partition=gpu",
    )
    assert "\n#SBATCH --time=8:00:00\n" in text
    assert "\n#SBATCH --partition=gpu\n" in text
    assert "\n#SBATCH --mail-type=END\n\nmodule load cuda/12.4\nexport MODE='it'\"'\"'s on'\n" in text
    assert "--container-image=a.sqsh apptainer exec --nv a.sif bash -c" in text
    assert '"$state" python -m svd_batch run' in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["cluster.gpus_per_node=many"], "cluster.gpus_per_node: 'many' is not accepted"),
        (["cluster.time=28800"], "cluster.time: '28800' is not accepted"),
        (["cluster.sbatch=[now]"], "cluster.sbatch: 'now' is not accepted"),
        (["cluster.nodes=0"], "cluster.nodes: 0 is not accepted"),
        (["cluster.gpus_per_node=4", "cluster.cpus_per_task=4"], "cluster.cpus_per_task: 4 leaves no CPU"),
    ],
)
def test_what_would_fail_after_hours_in_a_queue_is_refused_at_once(
    arguments: list[str], sentence: str, cli_here: Cli
) -> None:
    done = cli_here("submit", "cluster=slurm", "output=out", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_without_slurm_a_sentence_says_so(cli_here: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = cli_here("submit", "cluster=slurm", "output=out")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: cluster=slurm: no sbatch on PATH; run this where Slurm's commands are")


@pytest.mark.parametrize(
    ("state", "reason", "told"),
    [("PENDING", "Resources", "Resources"), ("PENDING", "None", ""), ("RUNNING", "None", "")],
)
def test_a_job_that_slurm_has_not_looked_at_waits_for_nothing_that_has_a_name(
    state: str, reason: str, told: str
) -> None:
    assert SlurmState("1", state, reason, "", "", 0, 0, "").waits_for == told
