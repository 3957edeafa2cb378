"""The launch scripts, with stubs in place of Python, srun, scontrol and gcloud that write down how they were called."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def launch(tmp_path):
    """Runs a script; gives its result and the calls of the stubs, in order."""

    def run(script, *arguments, code=0, **variables):
        for name in ("srun", "scontrol", "gcloud", "python"):
            stub = tmp_path / name
            exit_code = code if name == "srun" else 0
            stub.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\nexit {exit_code}\n')
            stub.chmod(0o755)
        (tmp_path / "calls").write_text("")
        environment = (
            os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": f"{tmp_path}/python"} | variables
        )
        command = ["bash", f"launch/{script}", *arguments]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return result, (tmp_path / "calls").read_text().splitlines()

    return run


SLURM = {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_GPUS_ON_NODE": "8", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "17"}


@pytest.mark.parametrize("script", ["one_gpu.sh", "multi_gpu.sh"])
def test_one_machine_trains_with_what_it_was_given(launch, script):
    result, calls = launch(script, "configs/vits16.py", "runs/x", "--config.seed=3")
    assert result.returncode == 0, result.stderr
    assert "python -m flsl_jax.main --config=configs/vits16.py --workdir=runs/x" in calls[-1]
    assert calls[-1].endswith("--config.seed=3")
    wrong, _ = launch(script, "configs/none.py", "runs/x")
    assert (wrong.returncode, wrong.stderr) == (2, "error: there is no config configs/none.py; configs/ holds some\n")


@pytest.mark.parametrize(
    ("code", "restarts", "requeued", "ends"),
    [(0, 0, False, 0), (2, 0, False, 2), (75, 9, True, 0), (137, 2, True, 0), (137, 3, False, 137)],
)
def test_slurm_requeues_what_was_stopped_early(launch, code, restarts, requeued, ends):
    given = ("configs/vits16.py", "/shared/x", "--config.seed=3")
    result, calls = launch("slurm.sbatch", *given, code=code, SLURM_RESTART_COUNT=str(restarts), **SLURM)
    assert result.returncode == ends, result.stderr
    assert calls[0].startswith("srun --cpus-per-task=8 --gpu-bind=none")
    assert "--config.parallel.distributed=True" in calls[0]
    assert "--config.parallel.data=16" in calls[0]
    assert calls[0].endswith("--config.seed=3")
    assert calls[1:] == (["scontrol requeue 17"] if requeued else [])


def test_a_study_on_slurm_requeues_its_own_task(launch):
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "5"}
    result, calls = launch("study.sbatch", "centroids", "runs/c", code=75, **SLURM, **array)
    assert result.returncode == 0, result.stderr
    assert "-m flsl_jax.study --study=centroids --workdir=runs/c --only=3" in calls[-2]
    assert calls[-1] == "scontrol requeue 5_3"


def test_a_tpu_pod_is_set_up_and_trains_on_every_host(launch):
    pod = {"TPU": "pod", "ZONE": "us-east5-a"}
    result, calls = launch("tpu_pod.sh", "configs/vits16.py", "/mnt/x", "--config.seed=3", **pod)
    assert result.returncode == 0, result.stderr
    assert calls[0].startswith(
        "gcloud compute tpus tpu-vm ssh pod --zone=us-east5-a --worker=all --command=cd flsl_jax"
    )
    assert "'--config.parallel.distributed=True' '--config.seed=3'" in calls[0]
    relative, _ = launch("tpu_pod.sh", "configs/vits16.py", "runs/x", **pod)
    assert relative.returncode == 2
    assert "must be absolute" in relative.stderr
