"""The batch script of a job on Slurm: pure text. What a signal means in it is told in docs/clusters.md."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from svd_batch.submit.settings import SlurmCluster

_HEAD = """\
#!/bin/bash
# Written by `svd-batch submit cluster=slurm`. It may be stopped and requeued at any moment, and goes on where it was.
"""

_NODE_ADDRESS = """
# The head's address as the second node sees it; its name may stand for 127.0.1.1 on the head itself.
PATH=$PATH:/usr/sbin:/sbin
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
other=$(getent ahostsv4 "${nodes[1]}" | awk '{print $1; exit}')
head=$(ip -4 route get "$other" 2>/dev/null | sed -n 's/.* src \\([0-9.]*\\).*/\\1/p')
export RAY_ADDRESS=${head:-$(hostname -I | cut -d' ' -f1)}:$((20000 + SLURM_JOB_ID % 10000))
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \\n')
export RAY_USAGE_STATS_ENABLED=0 RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600 RAY_gcs_rpc_server_reconnect_timeout_s=30
"""

_DRIVER = '(echo $BASHPID >"$0.pid"; exec "$@"); code=$?; echo $code >"$0.code"; exit $code'
"""Runs the job, and leaves its process id and its exit code in files: Ray's wrapper passes neither on for certain."""

_SIGNALS = """
# Slurm's warning before the time limit, preemption, or `svd-batch submit --stop`: what is being made is committed.
stopping=
stop() {
    stopping=1
    kill -TERM "$(cat "$state.pid")" 2>/dev/null || kill -TERM "$step"
}
trap stop TERM USR1
"""

_END = """\
step=$!
code=1
while kill -0 "$step" 2>/dev/null; do # a signal ends `wait` early
    wait "$step"
    code=$?
done
if [ -s "$state.code" ]; then code=$(cat "$state.code"); elif [ "$code" = 0 ]; then code=1; fi
rm -f "$state.pid" "$state.code"

# Go on in a new start: after a stop that was none of the user's, and where the process could not go on (exit code 4).
# `--stop` sets Requeue=0, and a cancelled job isn't RUNNING any more.
case "$stopping:$code" in
*:0 | *:2 | *:3) ;;
1:* | :4)
    if [ "${SLURM_RESTART_COUNT:-0}" -ge @MAX_REQUEUES@ ]; then
        echo "not requeued: started @MAX_REQUEUES@ times already (cluster.max_requeues)"
    elif [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ] && scontrol requeue "$SLURM_JOB_ID"; then
        echo "requeued: the next start goes on from here"
    fi
    ;;
esac
exit "$code"
"""


@dataclass(frozen=True)
class ScriptJob:
    """What the script runs, and where it keeps what it needs to know."""

    name: str
    words: tuple[str, ...]
    """Arguments of `python -m svd_batch`."""
    working_dir: PurePosixPath
    folder: PurePosixPath
    """On a file system that all nodes share."""
    python: str
    log: str
    """Where the output goes; Slurm replaces %j by the job's id."""


def script(cluster: SlurmCluster, job: ScriptJob) -> str:
    """Return the batch script."""
    directives = "".join(f"#SBATCH {directive}\n" for directive in _directives(cluster, job))
    several = cluster.nodes > 1
    ending = _END.replace("@MAX_REQUEUES@", str(cluster.max_requeues))
    parts = [_HEAD + directives, _setup(cluster, job), _NODE_ADDRESS if several else "", _SIGNALS]
    return "".join([*parts, f"\n{_step(cluster, job)} &\n", ending])


def _directives(cluster: SlurmCluster, job: ScriptJob) -> list[str]:
    given = {
        "job-name": job.name,
        "chdir": str(job.working_dir),
        "output": job.log,
        "open-mode": "append",
        "export": "ALL",
        "nodes": cluster.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cluster.cpus(),
        "gpus-per-node": cluster.gpus_per_node or None,
        "mem": cluster.mem,
        "time": cluster.time,
        "partition": cluster.partition,
        "account": cluster.account,
        "qos": cluster.qos,
        "constraint": cluster.constraint,
        "signal": f"B:USR1@{cluster.warn_s}",
    }
    options = [f"--{name}={_directive(str(value))}" for name, value in given.items() if value is not None]
    whole_nodes = ["--exclusive"] if cluster.nodes > 1 else []
    return [*options, "--requeue", *whole_nodes, *cluster.sbatch]


def _directive(text: str) -> str:
    """Return a value for a line of #SBATCH, which knows double quotes and backslashes, and no variables."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if set(text) & set(" \t'\"\\#") else text


def _setup(cluster: SlurmCluster, job: ScriptJob) -> str:
    lines = ["", *cluster.setup]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in cluster.env.items()]
    folder = PurePosixPath(job.python).parent
    if folder.is_absolute():  # Ray's wrapper starts `ray` by its name
        lines.append(f"export PATH={shlex.quote(str(folder))}:$PATH")
    lines += [f"state={shlex.quote(str(job.folder / 'job'))}-$SLURM_JOB_ID", 'rm -f "$state.pid" "$state.code"']
    return "\n".join(lines) + "\n"


def _step(cluster: SlurmCluster, job: ScriptJob) -> str:
    """Return the command line that runs the job on all nodes, without the ampersand."""
    tasks = [f"--nodes={cluster.nodes}", f"--ntasks={cluster.nodes}", "--ntasks-per-node=1"]
    words = ["srun", *tasks, f"--cpus-per-task={cluster.cpus()}", *cluster.srun, *cluster.prefix, "bash", "-c"]
    command = _quoted([job.python, "-m", "svd_batch", *job.words])
    if cluster.nodes == 1:
        return f'{_quoted(words)} {shlex.quote(_DRIVER)} \\\n    "$state" {command}'
    words[1:1] = ["--wait=60"]
    return f'{_quoted(words)} {shlex.quote(_on_each_node(cluster))} \\\n    {shlex.quote(_DRIVER)} "$state" {command}'


def _on_each_node(cluster: SlurmCluster) -> str:
    """Return what runs on every node: Ray, in a folder of this job's own, and on the head the job.

    Ray gives up on a slow start, so the head tries three times. A node that comes before the head, or loses its Ray,
    joins again as long as the job goes on.
    """
    ray = ["ray", "symmetric-run", "--address", "$RAY_ADDRESS", "--min-nodes", str(cluster.nodes)]
    sizes = [f"--num-cpus={cluster.cpus()}", f"--num-gpus={cluster.num_gpus()}"]
    run = " ".join([*ray, *sizes, '--temp-dir="$tmp"', '-- bash -c "$0" "$@"; code=$?'])
    is_over = 'if [ $SLURM_NODEID = 0 ]; then [ -e "$1.pid" ] || [ $n = 3 ]; else [ -e "$1.code" ]; fi'
    loop = f"n=0; until {run}; n=$((n + 1)); {is_over}; do sleep 5; done"
    return f'tmp=/tmp/ray-svdb-$SLURM_JOB_ID-$SLURM_NODEID; {loop}; rm -rf "$tmp"; exit $code'


def _quoted(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)
