"""The flags of commands that open any images; `--help` lists them among those of the command that defines them."""

import dataclasses
from collections.abc import Callable

from absl import flags

from flsl_jax.config.source import SourceConfig

flags.disclaim_key_flags()


def define_columns(*, labels: bool = False) -> Callable[[], SourceConfig]:
    """Defines the flags that choose among what a source holds: `--image_column`, `--split`, `--frame_stride`.

    Args:
        labels: whether `--label_column` is defined too, for commands that read classes.

    Returns:
        A function that gives a source without a root, once the flags have been parsed.
    """
    found = {
        "image_column": flags.DEFINE_string(
            "image_column",
            "",
            "Which column of a list has the path, or of a Hugging Face data set the image; by default the one with a usual "
            "name, or the only one. Of tar files whose samples have several images, the ending of one, such as jpg.",
        ),
        "split": flags.DEFINE_string("split", "train", "Which part of a Hugging Face data set with several is read."),
        "frame_stride": flags.DEFINE_integer(
            "frame_stride", 1, "Of how many frames of a video one is taken.", lower_bound=1
        ),
    }
    if labels:
        found["label_column"] = flags.DEFINE_string(
            "label_column",
            "",
            "Which column of a list or Hugging Face data set, or key of a tar's .json files, has the class; by default label "
            "or class, or .cls files.",
        )
    return lambda: dataclasses.replace(SourceConfig(), **{name: flag.value for name, flag in found.items()})
