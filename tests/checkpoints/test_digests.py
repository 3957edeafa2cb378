"""Digests of arrays: the same on a device, on the host and in parts; different after any change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from flsl_jax import parallel
from flsl_jax.checkpoints import digests
from flsl_jax.config import ParallelConfig

SHAPES = ((), (1,), (7,), (40000,), (3, 5), (8, 16), (64, 24), (24, 64, 3), (2, 3, 8, 5), (16, 40000), (0, 4))
LARGE = ((300001,), (3, 2**18 + 5))
TYPES = (np.float32, jnp.bfloat16, np.int32, np.uint8, np.bool_, np.float16)


def values(shape, dtype=np.float32):
    return np.random.default_rng(sum(shape)).integers(-100, 100, shape).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES + LARGE, ids=str)
def test_host_and_device_agree(shape):
    for dtype in TYPES:
        array = values(shape, dtype)
        on_device = np.asarray(digests._device_sums([jnp.asarray(array)]))[0]
        assert digests.host_sums(array) == tuple(int(value) for value in on_device), dtype


def test_words_of_64_bits_agree_too():
    with jax.enable_x64(True):
        for dtype in (np.float64, np.int64):
            for shape in ((), (5, 7)):
                array = values(shape, dtype)
                on_device = np.asarray(digests._device_sums([jnp.asarray(array)]))[0]
                assert digests.host_sums(array) == tuple(int(value) for value in on_device)


@pytest.mark.parametrize(
    "spec",
    [
        ("data",),
        (None, "data"),
        ("data", "fsdp"),
        ("fsdp",),
        (None, "fsdp"),
        (),
        (("data", "fsdp"),),
        (None, None, "fsdp"),
    ],
)
def test_the_sharding_does_not_matter(spec):
    """As when a state of P × D devices is verified on P' × D'."""
    mesh = parallel.make_mesh(ParallelConfig(fsdp=2))
    array = values((16, 24, 6))
    placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    assert digests.begin_sums({"x": placed})() == {"x": digests.host_sums(array)}
    assert tuple(np.asarray(digests._device_sums([placed]))[0]) == digests.host_sums(array)


def test_every_single_change_changes_the_first_sum():
    array = values((300, 1000))
    before = digests.host_sums(array)
    words = array.view(np.uint32)
    for place in (0, 1, 1023, 1024, 2**18 - 1, 2**18, len(words.reshape(-1)) - 1):
        for bit in range(32):
            words.reshape(-1)[place] ^= np.uint32(1 << bit)
            assert digests.host_sums(array)[0] != before[0]
            words.reshape(-1)[place] ^= np.uint32(1 << bit)
    assert digests.host_sums(array) == before


@pytest.mark.parametrize("shape", [(2, 3 * 2**17), (2**22 + 2**18 + 7,)])
def test_the_compiled_loop_and_numpy_agree(shape, monkeypatch):
    array = values(shape)
    compiled = digests.host_sums(array)
    monkeypatch.setattr(digests, "_CALLS", ())
    assert digests.host_sums(array) == compiled


def test_swapped_negated_and_emptied_parts_are_noticed():
    array = values((64, 64)) + 0.5
    before = digests.host_sums(array)
    changes = (array[::-1], array.T.copy(), -array, np.where(np.arange(64) < 8, 0, array).astype(np.float32))
    for changed in changes:
        assert digests.host_sums(changed) != before


def test_the_arrays_may_be_donated_while_the_digests_are_computed():
    array = jnp.arange(100_000.0)
    expected = digests.host_sums(np.arange(100_000, dtype=np.float32))
    read = digests.begin_sums({"x": array})
    jax.block_until_ready(jax.jit(lambda x: 2 * x + 1, donate_argnums=0)(array))
    assert read() == {"x": expected}


def test_on_an_accelerator_the_devices_compute_them(monkeypatch):
    """The same sums as the host's, so that either verifies the other's."""
    mesh = parallel.make_mesh(ParallelConfig(fsdp=4))
    state = {"kernel": values((64, 128)), "bias": values((7,)), "step": np.int32(3)}
    placed = jax.device_put(state, parallel.state_shardings(state, mesh=mesh))
    on_host = digests.begin_sums(placed)()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert digests.begin_sums(placed)() == on_host
    assert digests.differing(placed, on_host) == []
    assert digests.differing(placed, on_host | {"bias": (0, 0)}) == ["bias"]
