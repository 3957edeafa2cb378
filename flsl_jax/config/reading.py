"""What a weight file of other code does not say about itself, told by a user."""

import dataclasses
from typing import Annotated, Any, Literal

from flsl_jax.config.ranges import Range
from flsl_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How a backbone is read from a file that does not say it all.

    Attributes:
        network: the teacher or the student, where a run or a file has both.
        prefix: what stands before the names of the backbone's tensors, such as `model.student.backbone.`, where a weight
            file holds several backbones; "": the only one, or that of `network`.
        source: whose weight file it is, such as `timm` or `dinov2`; "": as its names show.
        num_heads: attention heads of a weight file that does not give them.
        grid: rows and columns of patches in the position embedding of a weight file; empty: as it says, or a square.
    """

    network: Literal["teacher", "student"] = "teacher"
    prefix: str = ""
    source: str = ""
    num_heads: Annotated[int, Range(0, unit="heads; 0: as the file says, or of 64 channels each")] = 0
    grid: Annotated[tuple[int, ...], Range(1, unit="patches")] = ()

    def arguments(self) -> dict[str, Any]:
        """The same as keyword arguments of `flsl_jax.load`: None for what is not told."""
        values = {name: value or None for name, value in dataclasses.asdict(self).items()}
        return values | {"network": self.network}


AS_THE_FILE_SAYS = ReadingConfig()


def check_reading(*, network: Any, prefix: Any, source: Any, num_heads: Any) -> None:
    """Checks what somebody tells of a weight file in Python; a grid has `check_grid`.

    Raises:
        UserError: a value is none that the argument takes.
    """
    if network not in ("teacher", "student"):
        raise UserError(f"network is {network!r}; expected 'teacher' or 'student'")
    for name, value in (("prefix", prefix), ("source", source)):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{name} is {value!r}; expected a text")
    if num_heads is not None and (isinstance(num_heads, bool) or not isinstance(num_heads, int) or num_heads < 0):
        raise UserError(f"num_heads is {num_heads!r}; expected a whole number of heads; None: as the file says")


def check_grid(grid: Any, *, name: str = "grid") -> tuple[int, int] | None:
    """Rows and columns of a grid that somebody gives under a name; None where none is given.

    Raises:
        UserError: these are not two whole numbers of 1 or more.
    """
    if grid is None or grid == ():
        return None
    sides = tuple(grid) if isinstance(grid, list | tuple) else (grid,)
    if len(sides) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides):
        raise UserError(f"{name} is {grid!r}; expected rows and columns of patches, such as (14, 16)")
    return sides[0], sides[1]
