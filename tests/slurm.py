"""A Slurm cluster of real daemons on this machine: a controller and two nodes, each with its own processes and network.

Every node is a set of namespaces with a name, an address and process ids of its own, so that what a job does to a node
(Ray ends every Ray process that it sees) can't reach the machine; the end of the outermost process ends all of it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from conftest import PATIENCE_S
from parts import need

NODES = ("n1", "n2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare", "nsenter", "ip")

_CONF = """\
ClusterName=test
SlurmctldHost=control
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
KillWait=10
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n[1-2] CPUs=8 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

_NODE = """\
set -e
hostname $1
ip link set lo up
while [ ! -e /proc/net/dev ] || ! grep -q "e$1:" /proc/net/dev; do sleep 0.05; done
ip addr add $2/24 dev e$1
ip link set e$1 up
slurmd -D -N $1 &
wait  # as the first process, bash takes leave of those whose parents are gone
"""

_CONTROL = """\
set -e
cd {folder}
mount --make-rprivate /
mount --bind hosts /etc/hosts
hostname control
ip link set lo up
ip link add bridge0 type bridge
ip addr add 10.77.0.1/24 dev bridge0
ip link set bridge0 up
munged --foreground --force --key-file=munge.key --socket={folder}/munge.socket --pid-file={folder}/munge.pid \\
    --log-file={folder}/munge.log --seed-file={folder}/munge.seed &
while [ ! -S munge.socket ]; do sleep 0.05; done
for number in 1 2; do
    unshare --net --uts --pid --mount --fork --kill-child --mount-proc bash node.sh n$number 10.77.0.1$number &
    while [ "$(readlink /proc/$!/ns/net)" = "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
    ip link add en$number type veth peer name bn$number
    ip link set bn$number master bridge0 up
    ip link set en$number netns $!
done
exec slurmctld -D
"""


class SlurmCluster:
    """Starts the daemons; `call` runs a command where they are. To be ended by `stop`."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # short, since sockets lie in it
        self.folder.chmod(0o755)
        self._write_files()
        self._environment = {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf"), "TMPDIR": str(self.folder)}
        with (self.folder / "output.log").open("w") as log:
            self._process = subprocess.Popen(
                [*_unshare(), "bash", str(self.folder / "control.sh")],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=self._environment,
            )
        try:
            self._inside = self._first_child()
            self._wait_until_idle()
        except BaseException:
            self.stop()
            raise

    def _write_files(self) -> None:
        hosts = "127.0.0.1 localhost\n10.77.0.1 control\n10.77.0.11 n1\n10.77.0.12 n2\n"
        texts = {"slurm.conf": _CONF, "control.sh": _CONTROL, "node.sh": _NODE, "hosts": hosts}
        texts["gres.conf"] = "NodeName=n[1-2] Name=gpu File={folder}/gpu[0-1]\n"
        for name, text in texts.items():
            (self.folder / name).write_text(text.replace("{folder}", str(self.folder)))
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        for name in ("gpu0", "gpu1"):
            (self.folder / name).touch()

    def _first_child(self) -> int:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
            if text := path.read_text().split():
                return int(text[0])
            time.sleep(0.05)
        raise RuntimeError(f"no namespaces: {(self.folder / 'output.log').read_text()}")

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.call("sinfo", "-h", "-t", "idle", "-o", "%D").stdout.strip() == str(len(NODES)):
                return
            time.sleep(0.2)
        raise RuntimeError(f"the nodes did not come up: {(self.folder / 'output.log').read_text()}")

    def call(
        self, *command: str, folder: Path | None = None, environment: dict[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the controller's machine, as a user who has logged in there would."""
        where = [f"--wd={folder}"] if folder else []
        user = ["--user", "--preserve-credentials"] if os.getuid() else []
        enter = ["nsenter", "--target", str(self._inside), *user, "--net", "--uts", "--pid", "--mount", *where, "--"]
        return subprocess.run(
            [*enter, *command],
            env={**(environment or os.environ), **{k: self._environment[k] for k in ("SLURM_CONF", "TMPDIR")}},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def wait_for(self, job_id: str, *states: str, timeout: float = PATIENCE_S) -> str:
        """Return the state of a job, once it is one of these."""
        deadline = time.monotonic() + timeout
        state = ""
        while time.monotonic() < deadline:
            found = re.search(r"JobState=(\S+)", self.call("scontrol", "show", "job", job_id).stdout)
            state = found[1] if found else ""
            if state in states:
                return state
            time.sleep(0.5)
        raise AssertionError(f"job {job_id} is {state} and not {states}")

    def stop(self) -> None:
        """End the namespaces' first process, and with it every process in them."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _unshare() -> list[str]:
    root = ["--user", "--map-root-user"] if os.getuid() else []
    return ["unshare", *root, "--net", "--uts", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]


def make_cluster() -> SlurmCluster:
    """Return a running cluster; skip the test where Slurm or namespaces are absent."""
    for program in PROGRAMS:
        need(program, shutil.which(program) is not None)
    allowed = subprocess.run([*_unshare(), "true"], capture_output=True, check=False).returncode == 0
    need("permission to make namespaces", allowed)
    return SlurmCluster()
