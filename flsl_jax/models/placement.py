"""How a network whose parameters are spread over devices says where its arrays lie."""

from typing import Protocol, runtime_checkable

from flsl_jax.typing import Array, Float


@runtime_checkable
class Placement(Protocol):
    """Constraints on arrays of one block, for the compiler; hashable, because it is part of a network's static graph.

    Without them, the compiler may gather the tokens of the whole batch instead of the parameters of one block.
    """

    def rows(self, x: Float[Array, "R ..."]) -> Float[Array, "R ..."]:
        """The array, spread over all devices by its leading axis, as the batch is."""
        ...

    def whole(self, param: Float[Array, "..."]) -> Float[Array, "..."]:
        """A parameter on every device; its gradient is spread as `part` has it."""
        ...

    def part(self, gradient: Float[Array, "..."]) -> Float[Array, "..."]:
        """A parameter's gradient, spread over the devices as the parameter is."""
        ...
