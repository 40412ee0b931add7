"""The files of docs/clusters.md, and folders in a bucket. `test_multihost` runs the Slurm file."""

import pathlib
import re
import subprocess

import fake_bucket
import jax
import jax.numpy as jnp
import pytest
import yaml
from etils import epath
from jax._src.clusters.k8s_cluster import K8sCluster
from jax._src.clusters.slurm_cluster import SlurmCluster

from kd_jax import commands
from kd_jax.core.errors import UsageError
from kd_jax.core.files import write_file
from kd_jax.training.checkpoints import Checkpoints
from kd_jax.training.state import ADAPTERS, TrainState

DOCS = pathlib.Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "clusters.md").read_text()
SLURM = DOCS / "examples" / "slurm.sh"


@pytest.fixture
def bucket(monkeypatch):
    """A server of buckets, which this process uses for `gs://`."""
    with fake_bucket.Bucket() as found:
        for name, value in found.environment().items():
            monkeypatch.setenv(name, value)
        yield found


def test_the_shell_commands_are_well_formed():
    """Commands for other hosts are parsed too; nothing is started."""
    subprocess.run(["bash", "-n", SLURM], check=True)
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    programs = """
        set -eu
        gcloud() { for word; do case $word in --command=*) bash -nc "${word#*=}"; esac; done; }
        pip() { :; }
        kubectl() { :; }
    """
    ended = subprocess.run(["bash", "-c", programs + "".join(blocks)], capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert sum("--command" in block for block in blocks) == 3


def test_slurm_reads_all_of_its_options():
    """`sbatch` ignores options after the first command: see its manual."""
    lines = SLURM.read_text().splitlines()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", SLURM.read_text(), re.M))
    assert "requeue" in options
    assert options["signal"] == "TERM@120"
    # JAX gives GPU i of a node to its process i, which must see all GPUs of the node.
    assert options["gpus-per-node"] == options["ntasks-per-node"]
    assert "gpus-per-task" not in options
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])


@pytest.mark.parametrize(("code", "again"), [(0, False), (2, False), (143, True)])
def test_a_slurm_job_starts_again_only_after_it_was_stopped(tmp_path, code, again):
    programs = f"""
        source() {{ :; }}
        srun() {{ return {code}; }}
        scontrol() {{ echo "$@"; }}
    """
    ended = subprocess.run(
        ["bash", "-c", programs + SLURM.read_text()],
        env={"HOME": str(tmp_path), "SLURM_JOB_ID": "7"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == code
    assert ended.stdout == ("requeue 7\n" if again else "")


def test_the_kubernetes_job_has_what_jax_and_the_page_need():
    """The names are those that `K8sCluster` of JAX reads."""
    parts = yaml.safe_load_all((DOCS / "examples" / "kubernetes.yaml").read_text())
    parts = {part["kind"]: part for part in parts}
    job = parts["Job"]["spec"]
    pod, name = job["template"]["spec"], parts["Job"]["metadata"]["name"]
    (container,) = pod["containers"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"]
    assert pod["terminationGracePeriodSeconds"] == 30
    assert pod["restartPolicy"] == "Never"  # `podFailurePolicy` needs it
    assert [rule["action"] for rule in job["podFailurePolicy"]["rules"]] == ["Ignore", "Ignore"]
    assert job["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [143]
    assert container["command"][:2] == ["kd-jax", "train"]  # signals reach it without a shell
    assert "--multihost" in container["command"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    service = parts["Service"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    account = parts["ServiceAccount"]["metadata"]["name"]
    assert pod["serviceAccountName"] == account
    assert parts["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert parts["RoleBinding"]["roleRef"]["name"] == parts["Role"]["metadata"]["name"]
    rights = {word: rule["verbs"] for rule in parts["Role"]["rules"] for word in rule["resources"]}
    assert rights == {"pods": ["get", "list"], "jobs": ["get", "list"]}


def test_the_page_names_the_ports_of_jax(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NODELIST", "node[007-009]")
    for job, port in ((0, 61440), (4095, 65535)):
        monkeypatch.setenv("SLURM_JOB_ID", str(job))
        assert SlurmCluster.get_coordinator_address(None, None) == f"node007:{port}"
        assert str(port) in PAGE
    assert K8sCluster._coordinator_port in PAGE


def test_a_process_alone_cannot_join_others(tmp_path, capsys):
    jax.devices()
    words = ["train", "--config=quickstart", f"--workdir={tmp_path / 'run'}", "--multihost"]
    assert commands.main(words) == commands.USAGE
    error = capsys.readouterr().err
    assert error.startswith("error: --multihost cannot join the other processes (")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_files_in_a_bucket(bucket):
    path = epath.Path("gs://bucket/run/stage.json")
    for text in ("first", "second"):
        write_file(path, text, make_folder=True)
        assert path.read_text() == text
    assert list(bucket.objects) == ["bucket/run/stage.json"]
    bucket.read_only = True
    with pytest.raises(UsageError, match=r"stage\.json cannot be written \(Forbidden: .*\)"):
        write_file(path, "third")
    assert path.read_text() == "second"


def state_of(value):
    """Returns a state of one array."""
    values = {"weights": jnp.full(3, value)}
    return TrainState(
        step=jnp.int32(value),
        params={"student": values, ADAPTERS: {}},
        model_state={"student": {}},
        method_state={},
        opt_state=(),
    )


def test_checkpoints_in_a_bucket(bucket):
    folder = "gs://bucket/run/student/checkpoints"
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with Checkpoints(folder) as checkpoints:
        for step in range(1, 5):
            checkpoints.save(state_of(step), {"step": step}, {}, score=float(step))
    failing = pytest.raises(UsageError, match="A checkpoint cannot be written to gs://")
    with failing, Checkpoints(folder) as checkpoints:
        bucket.read_only = True
        checkpoints.save(state_of(5), {"step": 5}, {})
        checkpoints.wait()
    bucket.read_only = False
    with Checkpoints(folder) as checkpoints:
        found, progress = checkpoints.restore(jax.eval_shape(lambda: state_of(0)), sharding)
    assert progress == {"step": 4}
    assert found.params["student"]["weights"].tolist() == [4, 4, 4]
    stored = {name.split("/")[4] for name in bucket.objects}
    assert {"3", "4"} <= stored
    assert not {"1", "2"} & stored
