"""Where a process stands in its run: as the config says, or the cluster."""

import pytest

from flsl_jax.config import ParallelConfig
from flsl_jax.errors import UserError
from flsl_jax.processes.place import Place, find_place

GIVEN = {"coordinator": "node0:123", "num_processes": 4, "process_id": 2}


def test_what_the_config_gives_is_taken(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "10.0.0.3:99")
    place = find_place(ParallelConfig(distributed=True, **GIVEN))
    assert place == Place(coordinator="node0:123", count=4, number=2)
    assert (place.host, place.port, place.bind) == ("node0", 123, ("10.0.0.3", 99))
    assert find_place(ParallelConfig(**GIVEN | {"coordinator": "[::1]:7"})).host == "::1"


def test_slurm_is_detected(monkeypatch):
    values = {
        "JOB_ID": "7",
        "NTASKS": "3",
        "PROCID": "2",
        "LOCALID": "0",
        "STEP_NUM_NODES": "3",
        "STEP_NODELIST": "n[4-6]",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    place = find_place(ParallelConfig(distributed=True))
    assert (place.host, place.count, place.number) == ("n4", 3, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"coordinator": "", "process_id": -1},
            "config.parallel.coordinator, config.parallel.process_id are not given",
        ),
        ({"coordinator": "node0"}, "config.parallel.coordinator is 'node0'; expected HOST:PORT"),
        ({"process_id": 4}, "config.parallel.process_id = 4, but with config.parallel.num_processes = 4"),
    ],
)
def test_what_is_missing_or_wrong_is_one_line(given, message):
    with pytest.raises(UserError, match=message):
        find_place(ParallelConfig(distributed=True, **GIVEN | given))
