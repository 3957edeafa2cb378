"""Mesh, shardings and the processes' shares, on eight fake devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from flsl_jax import parallel
from flsl_jax.config import ParallelConfig
from flsl_jax.errors import UserError


def test_the_mesh_takes_all_devices_by_default():
    assert dict(parallel.make_mesh(ParallelConfig()).shape) == {"data": 8, "fsdp": 1}
    assert dict(parallel.make_mesh(ParallelConfig(fsdp=4)).shape) == {"data": 2, "fsdp": 4}


def test_a_mesh_that_does_not_use_all_devices_is_refused():
    with pytest.raises(UserError, match="does not use the 8 devices"):
        parallel.make_mesh(ParallelConfig(data=3))
    with pytest.raises(UserError, match="does not use the 8 devices"):
        parallel.make_mesh(ParallelConfig(fsdp=3))


class SlicedDevice:
    """Stands for one of eight chips, four to a slice; only where it is matters here."""

    platform, device_kind, process_index = "elsewhere", "a chip", 0

    def __init__(self, number):
        self.id, self.slice_index = number, number // 4


def test_parameters_are_spread_inside_of_a_slice_alone():
    # In an order in which slices are mixed, as a list of devices may have them.
    devices = [SlicedDevice(number) for number in (0, 4, 1, 5, 2, 6, 3, 7)]
    for fsdp in (1, 2, 4):
        mesh = parallel.make_mesh(ParallelConfig(fsdp=fsdp), devices=devices)
        assert dict(mesh.shape) == {"data": 8 // fsdp, "fsdp": fsdp}
        assert all(len({device.slice_index for device in row}) == 1 for row in mesh.devices)
        assert sorted(device.id for device in mesh.devices.flat) == list(range(8))
    with pytest.raises(
        UserError, match="fsdp = 8 would spread parameters over slices of TPUs, of which there are 2 with 4"
    ):
        parallel.make_mesh(ParallelConfig(fsdp=8), devices=devices)


def test_fsdp_shards_the_largest_divisible_axis_of_large_parameters_only():
    mesh = parallel.make_mesh(ParallelConfig(fsdp=4))
    tree = {"kernel": (3, 128, 512), "odd": (101, 103), "bias": (512,), "step": ()}
    tree = {name: jnp.zeros(shape) for name, shape in tree.items()}
    shardings = parallel.state_shardings(tree, mesh=mesh)
    assert shardings["kernel"].spec == PartitionSpec(None, None, "fsdp")
    assert shardings["odd"].is_fully_replicated
    assert shardings["bias"].is_fully_replicated
    assert shardings["step"].is_fully_replicated


def test_without_fsdp_everything_is_replicated():
    shardings = parallel.state_shardings({"kernel": jnp.zeros((128, 512))}, mesh=parallel.make_mesh(ParallelConfig()))
    assert shardings["kernel"].is_fully_replicated


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    sharding = parallel.batch_sharding(parallel.make_mesh(ParallelConfig()))
    parallel.check_batch(sharding, batch_size=24)
    with pytest.raises(UserError, match=r"config\.batch_size = 12 is not divisible by the 8 devices"):
        parallel.check_batch(sharding, batch_size=12)


def test_rows_reach_the_devices_in_order():
    sharding = parallel.batch_sharding(parallel.make_mesh(ParallelConfig(fsdp=2)))
    rows = np.arange(16 * 3, dtype=np.uint8).reshape(16, 3)
    array = parallel.to_devices(rows, sharding)
    assert len(array.addressable_shards) == 8
    np.testing.assert_array_equal(jax.device_get(array), rows)
