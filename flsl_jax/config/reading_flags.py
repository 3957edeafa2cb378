"""The flags of every command that reads weight files; `--help` lists them among those of the command that defines them."""

from collections.abc import Callable

from absl import flags

from flsl_jax.config.flags import NumbersParser
from flsl_jax.config.reading import ReadingConfig, check_grid

flags.disclaim_key_flags()


def define_reading(*, both: bool = False) -> Callable[[], ReadingConfig]:
    """Defines the flags that say how a weight file is read: `--network`, `--prefix`, `--source`, `--num_heads`, `--grid`.

    Args:
        both: whether `--network=both` is a value too, which the caller handles; the result then has the teacher.

    Returns:
        A function that gives the settings, once the flags have been parsed. It raises a `UserError` for a wrong grid.
    """
    networks = ["teacher", "student", *(["both"] if both else [])]
    network = flags.DEFINE_enum(
        "network",
        "teacher",
        networks,
        "Which network of a run or a file that has two" + ("; both for flsl and dino only." if both else "."),
    )
    prefix = flags.DEFINE_string(
        "prefix",
        "",
        "What stands before the backbone's names in a weight file with several, such as model.student.backbone.",
    )
    source = flags.DEFINE_string(
        "source", "", "Whose weight file it is, such as timm or dinov2, where its names alone would mislead."
    )
    heads = flags.DEFINE_integer(
        "num_heads", 0, "Heads of a weight file that does not give them; 0: of 64 channels each.", 0
    )
    grid = flags.DEFINE(
        NumbersParser(int), "grid", (), "Rows,columns of patches of a weight file's positions, such as 14,16."
    )

    def read() -> ReadingConfig:
        sides = check_grid(grid.value, name="--grid")
        return ReadingConfig(
            network="student" if network.value == "student" else "teacher", prefix=prefix.value,
            source=source.value, num_heads=heads.value, grid=sides or (),
        )  # fmt: skip

    return read
