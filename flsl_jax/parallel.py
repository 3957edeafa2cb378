"""The device mesh and all shardings; no other file names mesh axes or devices."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from flsl_jax.config import ParallelConfig
from flsl_jax.errors import UserError

DATA, FSDP = "data", "fsdp"
# Smaller parameters are copied to every device: sharding one would save little memory and cost a collective.
_MIN_SHARDED_SIZE = 2**12


def make_mesh(config: ParallelConfig, *, devices: Sequence[Any] | None = None) -> Mesh:
    """The `data` × `fsdp` mesh; its axes are automatic, propagated by the compiler.

    Args:
        config: the lengths of the axes.
        devices: that it spans, which need not exist on this machine; None: all of all processes.

    Raises:
        UserError: the product of the axes is not the number of devices, or `fsdp` would join slices of TPUs.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    data = config.data if config.data > 0 else count // config.fsdp
    if data * config.fsdp != count:
        raise UserError(
            f"config.parallel.data = {config.data} × config.parallel.fsdp = {config.fsdp} does not use the {count} "
            "devices that exist; set data to -1 and fsdp to a divisor of that number"
        )
    names, types = (DATA, FSDP), (AxisType.Auto, AxisType.Auto)
    slices = _slices(devices)
    if slices == 1:
        return jax.make_mesh((data, config.fsdp), names, axis_types=types, devices=devices)
    if data % slices:
        raise UserError(
            f"config.parallel.fsdp = {config.fsdp} would spread parameters over slices of TPUs, of which there are {slices} "
            f"with {count // slices} devices each; set it to a divisor of that number"
        )
    # The slices are joined by a slow network, over which only sums of gradients go.
    arranged = mesh_utils.create_hybrid_device_mesh((data // slices, config.fsdp), (slices, 1), devices=devices)
    return Mesh(arranged, names, axis_types=types)


def slices_of(mesh: Mesh) -> int:
    """Slices of TPUs that a mesh joins; 1 elsewhere."""
    return _slices(mesh.devices.flat)


def _slices(devices: Iterable[Any]) -> int:
    return len({getattr(device, "slice_index", 0) for device in devices})


def backend_of(mesh: Mesh) -> str:
    """ "cpu", "gpu" or "tpu"."""
    return mesh.devices.flat[0].platform


def is_here(mesh: Mesh) -> bool:
    """Whether the devices of a mesh exist; those of a topology do not, and can be compiled for alone."""
    return set(mesh.devices.flat) <= set(jax.devices())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Spreads the leading (batch) axis over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def local_batch_sharding() -> NamedSharding:
    """Spreads the leading (batch) axis over the devices of this process only, for work that processes do not share."""
    devices = np.array(jax.local_devices())
    return NamedSharding(Mesh(devices, (DATA,), axis_types=(AxisType.Auto,)), PartitionSpec(DATA))


def state_shardings(tree: Any, *, mesh: Mesh) -> Any:
    """Shardings for a tree of parameters or optimizer state.

    Each leaf is split along its largest axis that `fsdp` divides. A leaf without such an axis, or a small one, is copied.

    Args:
        tree: pytree of arrays or `jax.ShapeDtypeStruct`.
        mesh: the devices.

    Returns:
        a pytree of `NamedSharding` with the same structure.
    """
    return jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec(*_spread(leaf.shape, mesh))), tree)


def _spread(shape: tuple[int, ...], mesh: Mesh) -> list[str | None]:
    """The mesh's axis along which each axis of a parameter is split, or None."""
    shards = mesh.shape[FSDP]
    spec: list[str | None] = [None] * len(shape)
    axes = [axis for axis, size in enumerate(shape) if size % shards == 0]
    if shards > 1 and axes and math.prod(shape) >= _MIN_SHARDED_SIZE:
        spec[max(axes, key=lambda axis: shape[axis])] = FSDP
    return spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Where the arrays of a network lie whose parameters are spread as `state_shardings` has them; a `models.Placement`.

    `depth`: of the stack from which the parameters are slices, without its leading axis; 0: they are no slices.
    """

    mesh: Mesh
    depth: int = 0

    def rows(self, x: jax.Array) -> jax.Array:
        """See `Placement`."""
        return jax.lax.with_sharding_constraint(x, batch_sharding(self.mesh))

    def whole(self, param: jax.Array) -> jax.Array:
        """See `Placement`."""
        return _whole(param, self)

    def part(self, gradient: jax.Array) -> jax.Array:
        """See `Placement`."""
        stack = (self.depth,) if self.depth else ()
        spec = _spread((*stack, *gradient.shape), self.mesh)[len(stack) :]
        return jax.lax.with_sharding_constraint(gradient, NamedSharding(self.mesh, PartitionSpec(*spec)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _whole(param: jax.Array, spread: Spread) -> jax.Array:
    return jax.lax.with_sharding_constraint(param, replicated(spread.mesh))


def _whole_forward(param: jax.Array, spread: Spread) -> tuple[jax.Array, None]:
    return _whole(param, spread), None


def _whole_backward(spread: Spread, kept: None, cotangent: jax.Array) -> tuple[jax.Array]:
    del kept
    return (spread.part(cotangent),)


_whole.defvjp(_whole_forward, _whole_backward)


def as_first(answer: int) -> int:
    """The first process's number, on every process. All processes must call it."""
    return int(multihost_utils.broadcast_one_to_all(np.asarray(answer))) if jax.process_count() > 1 else answer


def of_every_process(digest: str) -> list[str]:
    """The SHA-256 of every process, in hexadecimal. All processes must call it, and get the same answer."""
    if jax.process_count() == 1:
        return [digest]
    digests = multihost_utils.process_allgather(np.frombuffer(bytes.fromhex(digest), np.uint8))
    return [row.tobytes().hex() for row in digests]


def check_batch(sharding: NamedSharding, *, batch_size: int) -> None:
    """Checks that the devices, and the processes in their order, can share a batch evenly.

    Raises:
        UserError: the number of devices does not divide the batch, or process i does not hold the i-th equal part of it.
    """
    devices = math.prod(sharding.mesh.shape.values())
    if batch_size % devices:
        raise UserError(
            f"config.batch_size = {batch_size} is not divisible by the {devices} devices; take a multiple of {devices}"
        )
    places = sharding.addressable_devices_indices_map((batch_size,)).values()
    rows = sorted({row for index in places if index is not None for row in range(*index[0].indices(batch_size))})
    share = batch_size // jax.process_count()
    first = jax.process_index() * share
    if rows != list(range(first, first + share)):
        raise UserError(
            "the devices of each process are not neighbours in the mesh, so it cannot read one part of the batch; "
            "set config.parallel.fsdp to 1"
        )


def to_devices(rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A global array, to which every process contributes its rows. The copy is asynchronous."""
    return jax.make_array_from_process_local_data(sharding, rows)


def place(tree: Any, like: Any) -> Any:
    """Puts a tree of host arrays on the devices. All processes hold the same tree, and each places its part.

    Args:
        tree: pytree of NumPy arrays.
        like: pytree of `jax.ShapeDtypeStruct` with shardings, with the same structure; it also gives the dtypes.
    """

    def leaf(values: np.ndarray, target: jax.ShapeDtypeStruct) -> jax.Array:
        def part(index: Any) -> np.ndarray:
            return np.array(values[index], target.dtype)

        return jax.make_array_from_callback(target.shape, target.sharding, part)

    return jax.tree.map(leaf, tree, like)
